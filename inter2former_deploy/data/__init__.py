"""Datasets: synthetic scenes, composites and outlined photographs, folders and COCO/LVIS JSON. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from inter2former_deploy.core.masks import IGNORED

from .coco import CocoDataset
from .composites import CompositeDataset
from .folders import FolderDataset
from .photographs import PhotographDataset
from .sample import HELD_OUT_SEED, Checked, DataError, Dataset, FileDataset, Part, PassedOverError, Sample, Tally, check
from .synthetic import SyntheticDataset

COMPOSITES = "composites:"  # stands before a folder of cut-outs and backgrounds in a source's name
PHOTOGRAPHS = "photographs"  # names the `PhotographDataset`

__all__ = [
    "COMPOSITES",
    "HELD_OUT_SEED",
    "IGNORED",
    "PHOTOGRAPHS",
    "Checked",
    "CocoDataset",
    "CompositeDataset",
    "DataError",
    "Dataset",
    "FileDataset",
    "FolderDataset",
    "Part",
    "PassedOverError",
    "PhotographDataset",
    "Sample",
    "SyntheticDataset",
    "Tally",
    "check",
    "open_dataset",
]


def open_dataset(
    source: str | Path,
    *,
    images: Path | None = None,
    splits: Sequence[str] = (),
    groups: Sequence[str] = (),
    each: bool | None = None,
    crowds: bool = False,
    strict: bool = False,
    convert_colours: bool = False,
    seed: int = HELD_OUT_SEED,
    length: int = 200,
    size: int = 1024,
) -> Dataset:
    """The dataset behind a name.

    Args:
        source: `synthetic`, `composites:FOLDER` with a folder of cut-outs and backgrounds, `photographs`, a COCO/LVIS
            JSON file, or a folder with images and masks (`folders.LAYOUTS`).
        images: folder of a JSON file's images.
        splits: of a folder: samples that belong to all of these; see `FolderDataset`.
        groups: of a folder: samples of these parts of it.
        each: of a folder: every id of a label map is an object; None: as the layout says.
        crowds: of a JSON file: crowds are objects, too.
        strict: what would be passed over (boxes, empty masks, files without a partner) is an error.
        convert_colours: convert pictures to sRGB by their profiles, instead of taking the numbers as they are stored.
        seed: of synthetic scenes and composites.
        length: number of synthetic scenes or composites.
        size: side of synthetic pictures, pixels.

    Raises:
        DataError: the source does not exist, its files do not fit together, or an option is not for it; the message
            names them.
    """
    path = Path(source)
    folder = str(source) not in ("synthetic", PHOTOGRAPHS) and path.is_dir()
    for given, option in ((splits, "--split"), (groups, "--group"), (each is not None, "--each-id")):
        if given and not folder:
            raise DataError(f"{option} is for folders of images and masks, and {source} is none")
    if str(source) == "synthetic":
        return SyntheticDataset(seed=seed, length=length, size=size)
    if str(source).startswith(COMPOSITES):
        return CompositeDataset(Path(str(source)[len(COMPOSITES) :]), seed=seed, length=length, size=size)
    if str(source) == PHOTOGRAPHS:
        return PhotographDataset()
    if folder:
        return FolderDataset(
            path, splits=splits, groups=groups, each=each, strict=strict, convert_colours=convert_colours
        )
    if path.is_file():
        return CocoDataset(path, images, crowds=crowds, strict=strict, convert_colours=convert_colours)
    raise DataError(
        f"{source}: not 'synthetic', 'composites:FOLDER' or 'photographs', and neither a folder nor a JSON file"
    )
