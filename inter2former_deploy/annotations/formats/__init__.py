"""Formats of other tools: `FORMATS` lists them, `export` writes them, `import_objects` reads some of them.

A format is a module of this folder with `write(export)` and perhaps `read(source)`; what it cannot hold stands in
`FORMATS` and, counted, in the notes of each export. docs/annotations.md has what the tools themselves made of it.
"""

from __future__ import annotations

import stat
import tempfile
import uuid
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any

from inter2former_deploy.annotations.project import Class, Draft, Object, Picture, Project
from inter2former_deploy.core.runs import Runs
from inter2former_deploy.data.sample import DataError, Tally

MOST_FILES = 200_000  # of an archive
MOST_BYTES = 8 << 30  # of an archive's files together
UNNAMED = "object"  # class of objects that have none
UNLISTED = "#808080"  # colour of classes that only objects have

# Kinds of what an export leaves out or loses, an import passes over.
EMPTY = "objects without a pixel, which the format cannot hold, are left out"
HOLES = "objects whose holes the format cannot hold are filled"
OVERLAPS = "objects partly hidden by others that lie above them"
UNKNOWN_PICTURE = "objects on pictures that the project does not have, or has several of that name"
UNUSABLE = "annotations that cannot be used"
TWICE = "objects that were there already"

_NAMESPACE = uuid.UUID("d0a48c1c-3f0c-4f29-9d2a-0c5b7f9d7b1a")  # of imported objects


@dataclass(frozen=True)
class Format:
    """A format by its name on the command line and in the interface."""

    name: str
    title: str
    loss: str = ""  # what it cannot hold; "" where masks come back pixel by pixel, empty ones too
    polygons: bool = False  # can hold polygons on request
    reads: bool = False  # can be imported


FORMATS = {
    entry.name: entry
    for entry in (
        Format("png", "a PNG for each object, 255 inside and 0 outside", reads=True),
        Format("index", "two PNG with a palette for each picture, of classes and of objects", OVERLAPS),
        Format("coco", "COCO JSON with run lengths, or with polygons", polygons=True, reads=True),
        Format("labelme", "LabelMe JSON with masks, or with polygons", EMPTY, polygons=True, reads=True),
        Format("cvat", "CVAT for images 1.1, XML with masks", EMPTY),
        Format("label-studio", "tasks of Label Studio with brushes"),
        Format("yolo", "YOLO segmentation, a text file of polygons for each picture", EMPTY),
    )
}


@dataclass(frozen=True)
class Annotated:
    """A picture and what is on it."""

    picture: Picture
    objects: Sequence[Object]


@dataclass
class Export:
    """What a format writes, and where."""

    pictures: Iterable[Annotated]  # can be gone through once
    classes: Sequence[Class]  # with those that only objects have, and `UNNAMED` where it is needed
    folder: Path
    polygons: bool = False  # instead of masks
    image_root: str = ""  # put before the names of pictures where a tool needs their address
    notes: Tally = field(default_factory=Tally)
    _taken: set[Path] = field(default_factory=set)

    def class_index(self, entry: Object) -> int:
        """Which of the classes an object has, from 0."""
        return self._indices[class_of(entry)]

    @cached_property
    def _indices(self) -> dict[str, int]:
        return {entry.name: index for index, entry in enumerate(self.classes)}

    def filled(self, annotated: Annotated) -> Iterator[Object]:
        """The objects that have a pixel; the others are noted."""
        for entry in annotated.objects:
            if entry.mask.area:
                yield entry
            else:
                self.notes.add(EMPTY, annotated.picture.name)

    def path(self, place: str, name: str, suffix: str) -> Path:
        """A new file for a picture, in folders like the picture's; two pictures that differ by suffix have two.

        Args:
            place: folder in the export, "" for the export itself.
            name: of the picture.
            suffix: of the file.
        """
        stem = name.rpartition(".")[0] or name
        candidates = (self.folder / place / (one + suffix) for one in (stem, name, f"{name}_{uuid.uuid4().hex}"))
        path = next(candidate for candidate in candidates if candidate not in self._taken)
        self._taken.add(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


@dataclass(frozen=True)
class Found:
    """An object in a file that is imported."""

    picture: str  # its name, as the file has it; folders may be missing or others
    label: str  # for messages: which entry
    class_name: str
    runs: Callable[[int, int], Runs]  # its mask by the picture's height and width; ValueError where it does not fit


@dataclass(frozen=True)
class Imported:
    """What an import did."""

    objects: int  # how many were made
    notes: list[str]  # a line each


def export(
    project: Project,
    name: str,
    folder: Path,
    *,
    pictures: Sequence[str] | None = None,
    polygons: bool = False,
    image_root: str = "",
) -> list[str]:
    """Write a project's objects in a format.

    Args:
        project: whose pictures, classes and objects are written; pictures without objects, too.
        name: of the format.
        folder: to write into; new or empty.
        pictures: ids; all if not given.
        polygons: write polygons where the format has both.
        image_root: put before the names of pictures in tasks of Label Studio, which reads them by address.

    Returns:
        What was lost, a line each.

    Raises:
        ValueError: there is no such format, it has no polygons, the folder is not empty, or a picture cannot be
            written in it; the message says why.
        LookupError: there is no such picture.
        DatabaseError: the project cannot be read.
    """
    chosen = _format(name)
    if polygons and not chosen.polygons:
        raise ValueError(f"the format {name} has no choice of polygons: only {_listed('polygons')}")
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty: name a new folder")
    wanted = project.pictures() if pictures is None else [project.picture(key) for key in pictures]
    for picture in wanted:
        _check_name(picture.name)

    known = project.classes().classes
    labels = dict.fromkeys(name or UNNAMED for name in project.class_names())
    others = [Class(label, UNLISTED) for label in labels if label not in {entry.name for entry in known}]
    annotated = (Annotated(picture, project.objects(picture.id)) for picture in wanted)
    made = Export(annotated, [*known, *others], folder, polygons, image_root)
    _module(chosen).write(made)
    return made.notes.lines()


def import_objects(project: Project, name: str, source: Path, *, author: str = "import") -> Imported:
    """Read objects from a file or folder of another tool: each becomes an object with a start mask.

    Pictures are found by their names, with their folders or, where that is unique, without. What is there already, of
    the same class and mask on the same picture, is not made again.

    Args:
        project: to add to.
        name: of the format.
        source: a file, a folder, or a zip archive of one.
        author: of the new objects.

    Raises:
        ValueError: there is no such format, or it cannot be read; the message names the file.
        DatabaseError: the project cannot be written; pictures before the one that failed are there.
    """
    chosen = _format(name)
    if not chosen.reads:
        raise ValueError(f"the format {name} is written but not read: {_listed('reads')} are read")
    tally = Tally()
    by_picture: dict[str, list[Draft]] = {}
    pictures = {picture.id: picture for picture in project.pictures()}
    find = _by_name(pictures.values())
    with _unpacked(source) as place:
        for entry in _module(chosen).read(place, tally):
            picture = find(entry.picture)
            if picture is None:
                tally.add(UNKNOWN_PICTURE, entry.picture)
                continue
            try:
                runs = entry.runs(picture.height, picture.width)
                value = {"class": entry.class_name, "author": author, "mask": runs.to_json()}
                value["prompts"] = [{"mask": value["mask"]}] if runs.area else []
                draft = Draft.from_json(value, picture.height, picture.width)
            except ValueError as error:
                tally.add(UNUSABLE, f"{entry.label}: {error}")
                continue
            by_picture.setdefault(picture.id, []).append(draft)
    made = 0
    for key, drafts in by_picture.items():
        new = {str(uuid.uuid5(_NAMESPACE, f"{key} {draft.class_name} {draft.mask.counts}")): draft for draft in drafts}
        added = project.add_objects(key, new)
        made += len(added)
        for _ in range(len(drafts) - len(added)):
            tally.add(TWICE, pictures[key].name)
    _add_classes(project, {draft.class_name for drafts in by_picture.values() for draft in drafts}, author)
    return Imported(made, tally.lines())


def class_of(entry: Object) -> str:
    """The class that is written: objects without one have `UNNAMED`."""
    return entry.class_name or UNNAMED


def _add_classes(project: Project, names: set[str], author: str) -> None:
    classes = project.classes()
    new = sorted(names - {entry.name for entry in classes.classes} - {""})
    if new:
        colours = [Class(name, colour_of(len(classes.classes) + i)) for i, name in enumerate(new, 1)]
        project.put_classes([*classes.classes, *colours], classes.version, author)


def colour_of(number: int) -> str:
    """VOC's colour of a number, `#rrggbb`: 0 is black, the others differ from each other up to 255."""
    channels = [0, 0, 0]
    for bit in range(8):
        for channel in range(3):
            channels[channel] |= (number >> (3 * bit + channel) & 1) << (7 - bit)
    return "#{:02x}{:02x}{:02x}".format(*channels)


def _format(name: str) -> Format:
    if name not in FORMATS:
        raise ValueError(f"there is no format {name!r:.80}: there are {', '.join(FORMATS)}")
    return FORMATS[name]


def _module(entry: Format) -> Any:
    return import_module(f"{__name__}.{entry.name.replace('-', '_')}")


def _listed(ability: str) -> str:
    return ", ".join(entry.name for entry in FORMATS.values() if getattr(entry, ability))


def _check_name(name: str) -> None:
    """Refuse a picture's name, which comes from a database, that would lead out of a folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or not path.parts or ".." in path.parts or "\\" in name or "\0" in name:
        raise ValueError(f"the picture {name!r:.80} has a name that leads out of a folder: rename it")


def _by_name(pictures: Iterable[Picture]) -> Callable[[str], Picture | None]:
    """Finds a picture by its path, or its name alone, each also without suffix; None where that is not unique."""
    found: dict[str, Picture | None] = {}
    ranked: list[dict[str, list[Picture]]] = [{}, {}, {}, {}]
    for picture in pictures:
        path = PurePosixPath(picture.name)
        for ways, key in zip(ranked, (str(path), path.name, str(path.with_suffix("")), path.stem), strict=True):
            ways.setdefault(key, []).append(picture)

    def find(name: str) -> Picture | None:
        if name not in found:
            path = PurePosixPath(name.replace("\\", "/"))
            matches = [ways.get(key, []) for ways in ranked for key in dict.fromkeys((str(path), path.name))]
            found[name] = next((match[0] for match in matches if len(match) == 1), None)
        return found[name]

    return find


@contextmanager
def _unpacked(source: Path) -> Iterator[Path]:
    """A source; of an archive its content, in a folder that goes when the block ends."""
    if not source.exists():
        raise DataError(f"there is no file {source}")
    if source.is_dir() or not zipfile.is_zipfile(source):
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="i2f-import-") as place:
        try:
            with zipfile.ZipFile(source) as archive:
                _unpack(archive, Path(place), source)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
            raise DataError(f"{source}: the archive cannot be unpacked: {error}") from error
        yield Path(place)


def _unpack(archive: zipfile.ZipFile, place: Path, source: Path) -> None:
    entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    if len(entries) > MOST_FILES:
        raise DataError(f"{source}: {len(entries)} files are more than {MOST_FILES}")
    left = MOST_BYTES
    for entry in entries:
        path = PurePosixPath(entry.filename.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or stat.S_ISLNK(entry.external_attr >> 16):
            raise DataError(f"{source}: the entry {entry.filename!r:.80} leads out of the archive")
        target = place / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(entry) as packed, target.open("wb") as file:
            while block := packed.read(1 << 20):
                left -= len(block)
                if left < 0:
                    raise DataError(f"{source}: its files are more than {MOST_BYTES:,} bytes")
                file.write(block)
