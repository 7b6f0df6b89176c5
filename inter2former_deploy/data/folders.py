"""Folders of images and masks: plain pairs, DAVIS (both layouts), and the four sets of HQSeg-44K's validation part."""

from __future__ import annotations

from pathlib import Path

from .sample import DataError, Sample, read_image, read_mask

PAIRS = (  # names of the folders of images and of masks, side by side
    ("images", "masks"),
    ("img", "gt"),  # DAVIS as interactive segmentation uses it
    ("JPEGImages", "Annotations"),  # DAVIS as published: <resolution>/<sequence>/<frame> below
    ("im", "gt"),  # HQSeg-44K: DIS5K
    ("images", "masks_max255"),  # HRSOD
    ("images_test", "masks_test"),  # ThinObject-5K
    ("images_train", "masks_train"),
)
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


class FolderDataset:
    """Every folder of images below a root that has a folder of masks beside it; files pair by path without suffix.

    Args:
        root: searched for the names in `PAIRS`.

    Raises:
        DataError: the root has no such folders, or files in them lack a partner; the message names all of these.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.pairs: list[tuple[Path, Path]] = []
        self.groups: list[str] = []  # the folder of every pair's images and masks
        alone: list[Path] = []
        found = False
        for parent in [root, *sorted(p for p in root.rglob("*") if p.is_dir())]:
            for images, masks in PAIRS:
                if (parent / images).is_dir() and (parent / masks).is_dir():
                    found = True
                    of_images, of_masks = _files(parent / images), _files(parent / masks)
                    alone += [of_images[k] for k in of_images.keys() - of_masks.keys()]
                    alone += [of_masks[k] for k in of_masks.keys() - of_images.keys()]
                    both = sorted(of_images.keys() & of_masks.keys())
                    self.pairs += [(of_images[k], of_masks[k]) for k in both]
                    self.groups += [str(parent.relative_to(root))] * len(both)
        if not found:
            names = ", ".join(f"{images}/ and {masks}/" for images, masks in PAIRS)
            raise DataError(f"{root}: no folders of images and masks side by side; known names: {names}")
        if alone:
            lines = "\n".join(f"  {p.relative_to(root)}" for p in sorted(alone))
            raise DataError(f"{root}: {len(alone)} files have no partner of the same name:\n{lines}")
        if not self.pairs:
            raise DataError(f"{root}: its folders of images and masks are empty")

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        image, mask = self.pairs[index]
        return Sample(str(image.relative_to(self.root)), read_image(image), read_mask(mask), self.groups[index])


def _files(folder: Path) -> dict[Path, Path]:
    """Image files below a folder, by their path in it without suffix."""
    paths = (p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    return {p.relative_to(folder).with_suffix(""): p for p in paths}
