"""Folders of images and masks: plain pairs, and data sets in the layouts in which they are published.

docs/datasets.md lists the layouts, and which of them were built from descriptions alone.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inter2former_deploy.core.masks import MaskError, read_mask, read_objects
from inter2former_deploy.core.pictures import SUFFIXES
from inter2former_deploy.core.threads import available_cpus

from .sample import EMPTY, DataError, FileDataset, LastRead, Sample, Tally

# Kinds of what is passed over and counted.
NO_MASK = "pictures without a mask"
NO_PICTURE = "masks without a picture"
TWO_FILES = "files whose name without suffix another has, too"
BROKEN_LINKS = "links to nothing"
# Kinds of what is ignored, which is no error even where all are.
HIDDEN = "hidden files and folders"
FOREIGN = "files that are no pictures"
OTHER_MASKS = "folders of other masks of the same pictures"

ALL_SPLITS = "all"


@dataclass(frozen=True)
class Layout:
    """Names of a folder of images and of the folder of their masks beside it."""

    images: str
    masks: str
    split: str = ""  # that the names say
    each: bool = False  # masks are label maps of instances, each of which is an object


LAYOUTS = (  # of several masks for the same images, the first
    Layout("images", "masks_max255"),  # HRSOD in HQSeg-44K; its masks/ has the same objects in small numbers
    Layout("images", "masks"),  # plain, Berkeley, COIFT, ThinObject-5K
    Layout("img", "gt"),  # DAVIS as interactive segmentation uses it
    Layout("im", "gt"),  # DIS5K
    Layout("images_train", "masks_train", "train"),  # ThinObject-5K in HQSeg-44K
    Layout("images_val", "masks_val", "val"),
    Layout("images_test", "masks_test", "test"),
    Layout("data_GT", "boundary_GT"),  # GrabCut
    Layout("img", "inst", each=True),  # SBD
    Layout("JPEGImages", "Annotations"),  # DAVIS as published: <resolution>/<sequence>/<frame> below
    Layout("JPEGImages", "SegmentationObject", each=True),  # Pascal VOC
    Layout("JPEGImages", "Annotations_unsupervised"),
    Layout("DUTS-TR-Image", "DUTS-TR-Mask", "train"),
    Layout("DUTS-TE-Image", "DUTS-TE-Mask", "test"),
    Layout("image", "mask"),
    Layout("imgs", "masks"),
    Layout("images", "gt"),
)
MASK_SUFFIXES = {*SUFFIXES, ".mat"}
RESOLUTIONS = {"480p", "1080p", "Full-Resolution"}  # of DAVIS, each with the same frames

_SPLIT = re.compile(
    r"(?:.*[-_])?(?:(train|training|tr)|(val|valid|validation|vd)|(test|testing|te\d?))(?:\d{4})?", re.I
)
_JUNK = {"__MACOSX", "Thumbs.db", "desktop.ini", "@eaDir", "__pycache__"}
_LISTS = ("ImageSets", "list", "lists", "splits")
_OTHER_TASKS = {"Main", "Action", "Layout"}  # lists of VOC that are not of segmentation
_SINGLE = ("train", "val", "test", "test-dev", "test-challenge")  # lists that share no sample with each other
_NUMBERED = re.compile(r"(.+)[#_-](\d+)")  # one mask file for each object of a picture


@dataclass(frozen=True)
class Pair:
    """An image, a mask file, and which object of it."""

    image: Path
    mask: Path
    name: str  # of the sample
    group: str = ""
    split: str = ""
    labels: frozenset[str] = frozenset()  # all that `splits` may name
    resolution: str = ""
    each: bool = False
    id: int | None = None  # in a label map; None for all that is not background


class FolderDataset(FileDataset):
    """Every folder of images below a root that has a folder of masks beside it; files pair by path without suffix.

    Folders in which pictures and masks lie side by side (a.jpg, a.png), as in HQSeg-44K's cascade_psp, count too.

    Args:
        root: searched for the names in `LAYOUTS`. Links are followed.
        splits: take samples of these splits only: by names of folders (train, val, test), by the lists of a data set
            (`ImageSets/2017/val.txt` is val and 2017/val), or by a resolution of DAVIS. Of several, samples must
            belong to all. `all` takes everything.
        groups: take samples of these groups only: names of folders, or patterns with `*`.
        each: every id of a label map is an object; False: all ids together; None: as the layout says.
        strict: what would be passed over is an error; hidden files and other masks never are.
        convert_colours: convert the pictures' colours to sRGB by their profiles.

    Raises:
        DataError: the root has no such folders, nothing in them pairs, or no such split or group is there.
    """

    def __init__(
        self,
        root: Path,
        *,
        splits: Sequence[str] = (),
        groups: Sequence[str] = (),
        each: bool | None = None,
        strict: bool = False,
        convert_colours: bool = False,
    ) -> None:
        super().__init__(convert_colours=convert_colours, strict=strict)
        self.root = root
        self._last_masks: LastRead[dict[int, NDArray[np.uint8]]] = LastRead()
        self._ignored = Tally()
        tree = _Tree(root)
        for path in tree.hidden:
            self._ignored.add(HIDDEN, self._relative(path))
        for path in tree.broken_links:
            self.passed_over.add(BROKEN_LINKS, self._relative(path))
        pairs: list[Pair] = []
        known = self._in_layouts(tree, pairs)
        pairs += self._side_by_side(tree, known)
        self.pairs = self._choose(pairs, [s for s in splits if s != ALL_SPLITS], groups)
        if any(pair.each if each is None else each for pair in self.pairs):
            self.pairs = self._objects(each)
        self._refuse_if_strict(root)
        counts = Counter(pair.split for pair in self.pairs)
        if len(counts) > 1:
            listed = ", ".join(f"{split or 'none'} ({n})" for split, n in sorted(counts.items()))
            self.notes.append(f"splits, of which no score mixes two (--split takes one): {listed}")

    def remarks(self) -> list[str]:
        """What a command tells its user about the files, a line each."""
        return [*super().remarks(), *(f"ignored: {line}" for line in self._ignored.lines())]

    @property
    def splits(self) -> list[str]:
        """The splits of the samples, "" for none."""
        return sorted({pair.split for pair in self.pairs})

    def _in_layouts(self, tree: _Tree, pairs: list[Pair]) -> set[Path]:
        """Adds the pairs in folders of known names, and returns these folders."""
        known: set[Path] = set()
        for parent in tree.files:
            for layout in LAYOUTS:
                images, masks = parent / layout.images, parent / layout.masks
                if images not in tree.files or masks not in tree.files:
                    continue
                if images in known:
                    self._ignored.add(OTHER_MASKS, self._relative(masks))
                else:
                    pairs += self._pairs(tree, parent, layout)
                known |= {images, masks}
        self._found_layouts = bool(known)
        return known

    def _pairs(self, tree: _Tree, parent: Path, layout: Layout) -> Iterator[Pair]:
        images = self._by_key(tree.below(parent / layout.images), parent / layout.images, set(SUFFIXES))
        masks = self._by_key(tree.below(parent / layout.masks), parent / layout.masks, MASK_SUFFIXES)
        lists = _read_lists(tree, parent)
        numbered: dict[str, list[tuple[int, Path]]] = {}
        for key, path in masks.items():
            match = _NUMBERED.fullmatch(key)
            if key not in images and match and match[1] in images and match[1] not in masks:
                numbered.setdefault(match[1], []).append((int(match[2]), path))
            elif key not in images:
                self.passed_over.add(NO_PICTURE, self._relative(path))
        for key, image in images.items():
            pair = self._labelled(
                Pair(image, image, self._relative(image), each=layout.each), parent, layout, key, lists
            )
            if key in masks:
                yield replace(pair, mask=masks[key])
            elif key in numbered:
                for number, path in sorted(numbered[key]):
                    yield replace(pair, mask=path, name=f"{pair.name}#{number}")
            else:
                self.passed_over.add(NO_MASK, self._relative(image))

    def _side_by_side(self, tree: _Tree, known: set[Path]) -> Iterator[Pair]:
        """Pairs a.jpg, a.png of one folder, in folders most of whose pictures pair so."""
        for folder, files in tree.files.items():
            if any(path in known for path in (folder, *folder.parents)):
                continue
            pictures = {p.stem: p for p in files if p.suffix.lower() in (".jpg", ".jpeg")}
            masks = {p.stem: p for p in files if p.suffix.lower() == ".png"}
            both = pictures.keys() & masks.keys()
            if 2 * len(both) < len(pictures.keys() | masks.keys()) or not both:
                continue
            lists = _read_lists(tree, folder)
            for stem in sorted(pictures.keys() | masks.keys()):
                if stem in both:
                    pair = Pair(pictures[stem], masks[stem], self._relative(pictures[stem]))
                    yield self._labelled(pair, folder, Layout("", ""), stem, lists)
                elif stem in pictures:
                    self.passed_over.add(NO_MASK, self._relative(pictures[stem]))
                else:
                    self.passed_over.add(NO_PICTURE, self._relative(masks[stem]))

    def _labelled(self, pair: Pair, parent: Path, layout: Layout, key: str, lists: dict[str, set[str]]) -> Pair:
        """The pair with its group, split, resolution and labels."""
        folders = key.split("/")[:-1]
        resolution = folders[0] if folders and folders[0] in RESOLUTIONS else ""
        place = parent.relative_to(self.root).parts
        group = "/".join((*place, resolution) if resolution else place) or "."
        inside = key.split("/", 1)[1] if resolution else key
        keys = {key, inside, *(inside.rsplit("/", n)[0] for n in range(1, inside.count("/") + 1))}
        listed = [name for name, entries in lists.items() if entries & keys]
        names = {name.rsplit("/", 1)[-1] for name in listed}
        split = next((name for name in _SINGLE if name in names), "") or layout.split or _split_of((*place, *folders))
        around = (self.root.absolute().name, *place)
        if "cascade_psp" in around:  # HQSeg-44K trains with all of it
            split = "train"
        labels = {split, resolution, *listed, *names}
        if "thin_object_detection" in around and split in ("", "test"):  # and validates with these
            split = "val"
        labels = {label for label in (*labels, split) if label}
        return replace(pair, group=group, split=split, resolution=resolution, labels=frozenset(labels))

    def _by_key(self, files: Iterable[Path], folder: Path, suffixes: set[str]) -> dict[str, Path]:
        """Files of some suffixes by their path in a folder without suffix."""
        found: dict[str, Path] = {}
        for path in files:
            key = path.relative_to(folder).with_suffix("").as_posix()
            if path.suffix.lower() not in suffixes:
                self._ignored.add(FOREIGN, self._relative(path))
            elif key in found:
                self.passed_over.add(TWO_FILES, self._relative(path))
            else:
                found[key] = path
        return found

    def _choose(self, pairs: list[Pair], splits: Sequence[str], groups: Sequence[str]) -> list[Pair]:
        if not pairs:
            raise DataError(f"{self.root}: {self._nothing()}")
        chosen = [pair for pair in pairs if pair.labels.issuperset(splits)]
        if not chosen:
            counts = Counter(label for pair in pairs for label in pair.labels)
            there = ", ".join(f"{label} ({n})" for label, n in sorted(counts.items())) or "no splits"
            raise DataError(f"{self.root}: no samples of the split {' and '.join(splits)}; there are: {there}")
        if groups:
            among = chosen
            chosen = [pair for pair in among if any(_matches(pair.group, group) for group in groups)]
            if not chosen:
                there = ", ".join(f"{group} ({n})" for group, n in sorted(Counter(p.group for p in among).items()))
                raise DataError(f"{self.root}: no samples of the group {' or '.join(groups)}; there are: {there}")
        if len(chosen) < len(pairs):
            self.notes.append(f"taken: {len(chosen)} of {len(pairs)} samples, by --split and --group")
        several = len({pair.resolution for pair in chosen if pair.resolution}) > 1
        named = " ".join(split for split in splits if split not in RESOLUTIONS)
        parts = ((pair.resolution if several else "", named or pair.split) for pair in chosen)
        return [replace(p, split=" ".join(filter(None, part))) for p, part in zip(chosen, parts, strict=True)]

    def _nothing(self) -> str:
        if not self._found_layouts:
            names = ", ".join(f"{layout.images}/ and {layout.masks}/" for layout in LAYOUTS)
            return f"no folders of images and masks side by side; known names: {names}"
        lines = "".join(f"\n  {line}" for line in (*self.passed_over.lines(), *self._ignored.lines()))
        return "no picture has a mask of its name" + (
            f"; there are only{lines}" if lines else ": the folders are empty"
        )

    def _objects(self, each: bool | None) -> list[Pair]:
        """One pair for every id of the label maps."""

        def ids(pair: Pair) -> list[int | None]:
            if not (pair.each if each is None else each):
                return [None]
            try:
                return list(read_objects(pair.mask))
            except MaskError:
                return [None]  # named when the sample is read

        objects: list[Pair] = []
        with ThreadPoolExecutor(available_cpus()) as pool:
            for pair, found in zip(self.pairs, pool.map(ids, self.pairs), strict=True):
                objects += [pair if i is None else replace(pair, name=f"{pair.name}#{i}", id=i) for i in found]
                if not found:
                    self.passed_over.add(EMPTY, pair.name)
        if not objects:
            raise DataError(f"{self.root}: none of its {len(self.pairs)} label maps holds an object")
        self.notes.append(f"every id of a label map is an object: {len(objects)} in {len(self.pairs)} masks")
        return objects

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        pair = self.pairs[index]
        image = self._read_image(pair.image)
        try:
            if pair.id is None:
                mask = read_mask(pair.mask)
            else:
                mask = self._last_masks(pair.mask, lambda: read_objects(pair.mask))[pair.id]
        except MaskError as error:
            raise DataError(str(error)) from error
        return Sample(pair.name, image, mask, pair.group, pair.split, picture=str(pair.image))

    def picture_of(self, index: int) -> object:
        """The file of a sample's picture."""
        return self.pairs[index].image

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


class _Tree:
    """Folders below a root with their files, in the order of their names; each is entered once, links included."""

    def __init__(self, root: Path) -> None:
        self.files: dict[Path, list[Path]] = {}
        self.hidden: list[Path] = []
        self.broken_links: list[Path] = []
        seen: set[tuple[int, int]] = set()
        for at, folders, names in os.walk(root, followlinks=True):
            folder = Path(at)
            status = folder.stat()
            if (status.st_dev, status.st_ino) in seen:
                folders.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            hidden = [name for name in (*folders, *names) if name.startswith(".") or name in _JUNK]
            self.hidden += [folder / name for name in hidden]
            folders[:] = sorted(set(folders).difference(hidden))
            files = [folder / name for name in sorted(set(names).difference(hidden))]
            self.broken_links += [path for path in files if not path.exists()]
            self.files[folder] = [path for path in files if path.is_file()]

    def below(self, folder: Path) -> Iterator[Path]:
        """All files in a folder and in those in it."""
        for path, files in self.files.items():
            if path == folder or folder in path.parents:
                yield from files


def _read_lists(tree: _Tree, parent: Path) -> dict[str, set[str]]:
    """The lists of samples beside a data set's folders, by their names: paths without suffix, or sequences."""
    files = {
        p.stem: p for p in tree.files.get(parent, ()) if p.name in {f"{name}.txt" for name in (*_SINGLE, "trainval")}
    }
    for name in _LISTS:
        for path in tree.below(parent / name):
            at = path.relative_to(parent / name)
            if path.suffix == ".txt" and not _OTHER_TASKS.intersection(at.parts):
                files["/".join(part for part in at.with_suffix("").parts if part != "Segmentation")] = path
    lists = {}
    for name, path in files.items():
        entries = (line.split()[0] for line in path.read_text(errors="replace").splitlines() if line.strip())
        lists[name] = {_without_suffix(entry.lstrip("/").removeprefix("JPEGImages/")) for entry in entries}
    return lists


def _without_suffix(name: str) -> str:
    stem, _, suffix = name.rpartition(".")
    return stem if f".{suffix.lower()}" in MASK_SUFFIXES else name


def _split_of(folders: Sequence[str]) -> str:
    """The split that a folder's name says, of the innermost that does."""
    for name in reversed(folders):
        match = _SPLIT.fullmatch(name)
        if match:
            return "train" if match[1] else "val" if match[2] else "test"
    return ""


def _matches(group: str, wanted: str) -> bool:
    return any(fnmatch(name, wanted.rstrip("/")) for name in (group, group.rsplit("/", 1)[-1]))
