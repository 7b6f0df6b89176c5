"""COCO and LVIS annotation files: one sample for every annotated object, masks as pycocotools makes them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .sample import UNREADABLE_ANNOTATIONS, DataError, FileDataset, PassedOverError, Sample, first_names, unique

# Kinds of what is passed over and counted.
BOXES = "annotations with a box but no mask"
NO_MASK = "annotations without a mask"
CROWDS = "crowds (iscrowd 1, which Datumaro and CVAT write for every run-length mask; --crowds takes them as objects)"
STRAY_RINGS = "objects with rings of fewer than three points, which were ignored"

_FAR_OUTSIDE = 8  # sides of the picture, beyond which no coordinate is believed
_SUBFOLDERS = 200  # looked into for pictures
_PROBED = 50  # pictures that decide which folder is theirs


@dataclass(frozen=True)
class _Picture:
    name: str  # as samples are named by it
    path: Path
    size: tuple[int, int] | None  # height, width


class CocoDataset(FileDataset):
    """Objects of a COCO- or LVIS-style JSON file, picture by picture.

    Boxes, crowds and what cannot be used is counted in `passed_over`, pictures that annotations need and that are not
    there in `problems`.

    Args:
        annotations: the JSON file.
        images: folder of the image files; `None` looks for them beside the file and in the folders around it.
        crowds: take crowds (`iscrowd` 1) as objects.
        strict: what would be passed over or is missing is an error.
        convert_colours: convert the pictures' colours to sRGB by their profiles.

    Raises:
        DataError: the file is no such JSON, two images have one id, no annotated picture is found, or no object is
            left; pycocotools is not installed.
    """

    def __init__(
        self,
        annotations: Path,
        images: Path | None = None,
        *,
        crowds: bool = False,
        strict: bool = False,
        convert_colours: bool = False,
    ) -> None:
        super().__init__(convert_colours=convert_colours, strict=strict)
        pycocotools()
        data = load_annotations(annotations)
        entries = images_by_id(annotations, data["images"])
        objects: list[tuple[str, dict[str, Any]]] = []  # id of the picture, annotation
        without_picture: list[str] = []
        for index, entry in enumerate(data["annotations"]):
            if not isinstance(entry, dict):
                self.passed_over.add(UNREADABLE_ANNOTATIONS, f"annotation number {index} is no JSON object")
                continue
            label = f"annotation {entry.get('id', f'number {index}')}"
            key = entry_id(entry.get("image_id"))
            if key not in entries:
                without_picture.append(f"{label}: image_id {entry.get('image_id')!r:.80}")
                continue
            try:
                kind = _kind(entry, entries[key], crowds)
            except ValueError as error:
                self.passed_over.add(UNREADABLE_ANNOTATIONS, f"{label}: {error}")
                continue
            if kind:
                self.passed_over.add(kind, f"{label}")
            if not kind or kind == STRAY_RINGS:
                objects.append((key, entry | {"id": entry.get("id", index)}))
        if without_picture:
            self.passed_over.names["annotations of images that the file does not list"] = without_picture
        self._find_pictures(annotations, images, entries, objects)
        self._refuse_if_strict(annotations)
        if not self.objects:
            lines = "".join(f"\n  {line}" for line in (*self.problems, *self.passed_over.lines()))
            raise DataError(f"{annotations}: no annotated objects" + (f"; there are only{lines}" if lines else ""))

    def _find_pictures(
        self,
        annotations: Path,
        images: Path | None,
        entries: dict[str, dict[str, Any]],
        objects: Sequence[tuple[str, dict[str, Any]]],
    ) -> None:
        used = list(dict.fromkeys(key for key, _ in objects))
        names = {key: file_name(entries[key]) for key in used}
        folders = [images] if images else self._folders(annotations, list(names.values()))
        plain = [name.rsplit("/", 1)[-1] for name in names.values()]
        short = len(set(plain)) == len(plain)  # else, names with their folders tell pictures apart
        pictures: dict[str, _Picture] = {}
        missing: list[str] = []
        for key, name in names.items():
            path = next((p for folder in folders for p in _candidates(folder, name, short) if p.is_file()), None)
            if path is None:
                missing.append(name)
            else:
                pictures[key] = _Picture(path.name if short else name, path, _declared_size(entries[key]))
        if missing and not pictures:
            raise DataError(
                f"{annotations}: none of its {len(missing)} annotated pictures is in {_listed(folders)}; say with "
                f"--images FOLDER where they are: {first_names(missing)}"
            )
        if missing:
            self.problems.append(
                f"{len(missing)} of {len(names)} annotated pictures are missing (--images FOLDER says where they "
                f"are): {first_names(missing)}"
            )
        by_picture: dict[str, list[dict[str, Any]]] = {key: [] for key in used}
        for key, entry in objects:
            by_picture[key].append(entry)
        self.objects = [(pictures[key], entry) for key in used if key in pictures for entry in by_picture[key]]
        self.names = list(unique(f"{picture.name}#{entry['id']}" for picture, entry in self.objects))

    def _folders(self, annotations: Path, names: Sequence[str]) -> list[Path]:
        """Where pictures are looked for: the folder around the file that holds them, else the usual two."""
        beside = annotations.absolute().parent
        usual = [beside, beside / "images"]
        probed = names[:: max(1, len(names) // _PROBED)][:_PROBED]

        def found(folder: Path) -> int:
            return sum(any(p.is_file() for p in _candidates(folder, name, True)) for name in probed)

        if not probed or any(map(found, usual)):
            return usual
        around = [beside.parent, beside.parent / "images"]
        around += [p for folder in (*usual, *around) if folder.is_dir() for p in _subfolders(folder)]
        counts = {folder: found(folder) for folder in dict.fromkeys(around)}
        best = [folder for folder, count in counts.items() if count and count == max(counts.values())]
        named = [folder for folder in best if folder.name in annotations.stem]
        chosen = named if len(named) == 1 else best
        if len(chosen) > 1:
            raise DataError(
                f"{annotations}: pictures of these names are in {_listed(chosen)}: choose with --images FOLDER"
            )
        if chosen:
            self.notes.append(f"pictures found in {chosen[0]}")
        return [*chosen, *usual] if chosen else [*usual, *around[:2]]

    def __len__(self) -> int:
        return len(self.objects)

    def __getitem__(self, index: int) -> Sample:
        picture, entry = self.objects[index]
        name = self.names[index]
        image = self._read_image(picture.path)
        height, width = picture.size or image.shape[:2]
        try:
            mask = decode_segmentation(entry["segmentation"], height, width)
        except ValueError as error:
            raise PassedOverError(UNREADABLE_ANNOTATIONS, f"{name}: segmentation: {error}") from error
        if image.shape[:2] == (width, height) != (height, width):
            raise DataError(
                f"{name}: the file says {width} x {height}, but the picture, upright by its orientation tag, is "
                f"{height} x {width}: it was annotated lying on its side; remove the tag from the picture"
            )
        return Sample(name, image, mask, picture=str(picture.path))

    def picture_of(self, index: int) -> object:
        """The file of a sample's picture."""
        return self.objects[index][0].path


def pycocotools() -> ModuleType:
    """The module of masks of pycocotools.

    Raises:
        DataError: it is not installed.
    """
    try:
        from pycocotools import mask
    except ImportError as error:
        raise DataError(
            f"COCO and LVIS files need pycocotools, which is not installed ({error}): "
            "pip install 'inter2former-deploy[eval]'"
        ) from error
    return mask  # type: ignore[no-any-return, unused-ignore]


def decode_segmentation(segmentation: Any, height: int, width: int) -> NDArray[np.uint8]:
    """A segmentation in any of COCO's three forms as a mask of 0 and 1, uint8 `[height, width]`, by pycocotools.

    Args:
        segmentation: a list of polygons `[x0, y0, x1, y1, ...]` in pixels (pixel i spans i to i + 1), which are
            united; those of fewer than three points are ignored. Or an object with `size` and run lengths `counts`, as
            a list or compressed to a string.
        height: of the image, pixels.
        width: of the image, pixels.

    Raises:
        ValueError: the run lengths or the polygons do not fit the image, or are no numbers.
    """
    coder = pycocotools()
    if isinstance(segmentation, dict):
        _check_size(segmentation, (height, width))
        counts = segmentation["counts"]
        compressed = isinstance(counts, str | bytes)
        runs = _checked_runs(decompress_runs(counts) if compressed else counts, height, width)
        encoded = coder.frPyObjects({"size": [height, width], "counts": runs}, height, width)
        return np.ascontiguousarray(coder.decode(encoded))
    rings, _ = _rings(segmentation, height, width)
    if not rings:
        return np.zeros((height, width), np.uint8)
    encoded = coder.merge(coder.frPyObjects(rings, height, width))
    return np.ascontiguousarray(coder.decode(encoded))


def decompress_runs(text: str | bytes) -> list[int]:
    """COCO's compressed run lengths: numbers in groups of five bits, from the third on relative to the one two before.

    Each character holds its value plus 48: bit 5 says that another group follows, bit 4 of the last group is the sign.
    pycocotools reads beyond the end of a text that is cut off, so nothing is handed to it that was not read here.

    Raises:
        ValueError: a character is outside the alphabet, or the text ends within a number.
    """
    codes = text.encode("latin-1", "replace") if isinstance(text, str) else text
    counts: list[int] = []
    value = shift = 0
    for code in codes:
        group = code - 48
        if not 0 <= group < 64:
            raise ValueError(f"character {chr(code)!r} in compressed run lengths")
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            if shift > 35:
                raise ValueError("a number of more than 35 bits in compressed run lengths")
            continue
        if group & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("compressed run lengths end within a number")
    return counts


def _checked_runs(counts: Any, height: int, width: int) -> list[int]:
    if not isinstance(counts, list) or any(type(c) is not int for c in counts):
        raise ValueError("counts are neither text nor a list of whole numbers")
    if any(c < 0 for c in counts) or sum(counts) != height * width:
        raise ValueError(f"run lengths add up to {sum(counts)} pixels, the image has {height * width}")
    return counts


def _check_size(segmentation: dict[str, Any], expected: tuple[int, int] | None) -> None:
    if "counts" not in segmentation:
        raise ValueError(f"an object with {', '.join(map(str, segmentation)) or 'nothing'} but no counts")
    if "size" not in segmentation:
        raise ValueError("run lengths without their size [height, width]")
    size = segmentation["size"]
    if not (isinstance(size, list | tuple) and len(size) == 2 and all(type(s) is int and s > 0 for s in size)):
        raise ValueError(f"the size of run lengths is [height, width] in pixels, not {size!r:.80}")
    if expected is not None and tuple(size) != expected:
        raise ValueError(f"it is for an image of {size} (height, width), not {list(expected)}")


def _rings(segmentation: Any, height: int | None, width: int | None) -> tuple[list[list[float]], int]:
    """The polygons of three points or more, and how many others there were.

    Raises:
        ValueError: it is no list of lists of finite numbers, two for a point, in pixels of the image.
    """
    if not isinstance(segmentation, list):
        raise ValueError(f"neither polygons nor run lengths but {type(segmentation).__name__}")
    rings: list[list[float]] = []
    stray = 0
    largest, fractions = 0.0, False
    for number, ring in enumerate(segmentation):
        if not isinstance(ring, list):
            raise ValueError("expected a list of polygons [[x, y, x, y, ...], ...], not a flat list")
        if len(ring) < 6 and all(isinstance(v, int | float) for v in ring):
            stray += 1
            continue
        values = np.asarray(ring) if all(isinstance(v, int | float) for v in ring) else np.array("")
        if values.dtype.kind not in "iuf" or values.ndim != 1 or len(values) % 2:
            raise ValueError(f"polygon number {number} is no list of numbers, two for a point")
        if not np.isfinite(values).all():
            raise ValueError(f"polygon number {number} has a coordinate that is not finite")
        if height is not None and width is not None:
            side = max(height, width)
            if values.min() < -_FAR_OUTSIDE * side or values.max() > (1 + _FAR_OUTSIDE) * side:
                at = values[np.abs(values).argmax()]
                raise ValueError(
                    f"coordinate {at:g} of polygon number {number} is far outside {width} x {height} pixels"
                )
        largest = max(largest, float(np.abs(values).max()))
        fractions = fractions or bool((values % 1 != 0).any())
        rings.append(ring)
    if rings and largest <= 1 and fractions:
        raise ValueError("coordinates from 0 to 1; COCO's are in pixels")
    return rings, stray


def _kind(entry: dict[str, Any], image: dict[str, Any], crowds: bool) -> str:
    """The kind of what is passed over that an annotation is; "" if it is an object.

    Raises:
        ValueError: it cannot be used; the message says which field.
    """
    try:
        size = _declared_size(image)
    except ValueError as error:
        raise ValueError(f"its image {image['id']!r:.80}: {error}") from error
    crowd = entry.get("iscrowd", 0)
    if str(crowd) not in ("0", "1", "0.0", "1.0", "False", "True", "None"):
        raise ValueError(f"iscrowd is 0 or 1, not {crowd!r:.80}")
    segmentation = entry.get("segmentation")
    if not segmentation:
        return BOXES if entry.get("bbox") else NO_MASK
    try:
        if isinstance(segmentation, dict):
            _check_size(segmentation, size)
            stray = 0
        else:
            rings, stray = _rings(segmentation, *(size or (None, None)))
            if not rings:
                return NO_MASK
    except ValueError as error:
        raise ValueError(f"segmentation: {error}") from error
    if str(crowd) in ("1", "1.0", "True") and not crowds:
        return CROWDS
    return STRAY_RINGS if stray else ""


def load_annotations(path: Path) -> dict[str, Any]:
    """A COCO file's content: `images` and `annotations` are lists.

    Raises:
        DataError: it is something else; the message says what, as far as it can be told, and what to do.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: not readable: {error.strerror}") from error
    try:
        data = json.loads(content)  # of UTF-8, UTF-16 or UTF-32
    except (ValueError, RecursionError):
        raise DataError(f"{path}: {_not_json(content)}; expected 'synthetic', a folder, or a COCO JSON file") from None
    other = _other_format(data)
    if other:
        raise DataError(f"{path}: {other}")
    for name in ("images", "annotations"):
        if not isinstance(data.get(name), list):
            raise DataError(f"{path}: not a COCO annotation file: it has no list {name!r}")
    return dict(data)


def _not_json(content: bytes) -> str:
    start = content[:64].lstrip(b"\xef\xbb\xbf \r\n\t")
    pictures = (b"\x89PNG", b"\xff\xd8\xff", b"BM", b"GIF8", b"II*\0", b"MM\0*")
    if start.startswith(pictures) or start[:4] == b"RIFF" or start[4:8] == b"ftyp":
        return "a picture, not a dataset"
    if start.startswith(b"<"):
        return "XML, not JSON (export from CVAT and the like as COCO)"
    return "not JSON"


def _other_format(data: Any) -> str:
    """What a JSON file is, if it is known and not COCO's annotations of objects, and what to do; "" otherwise."""
    if isinstance(data, list):
        first = data[0] if data else {}
        keys = first.keys() if isinstance(first, dict) else {}
        if "image_id" in keys and ("segmentation" in keys or "bbox" in keys):
            return "results in COCO's form, which list no images: give the annotation file that they belong to"
        if "data" in keys and ("annotations" in keys or "predictions" in keys):
            return "tasks of Label Studio: export them as COCO, or brushes as PNG into masks/ beside images/"
        return "not a COCO annotation file: a list, not an object with images and annotations"
    if not isinstance(data, dict):
        return f"not a COCO annotation file: {type(data).__name__}, not an object with images and annotations"
    annotations = data.get("annotations")
    first = annotations[0] if isinstance(annotations, list) and annotations else {}
    first = first if isinstance(first, dict) else {}
    if "shapes" in data and "imagePath" in data:
        return "a file of LabelMe, of one picture: convert the folder to COCO, or to masks/ beside images/"
    if "segments_info" in first:
        return "panoptic annotations, whose masks are in PNG files: give the instances file of the same pictures"
    if isinstance(data.get("image"), dict) and isinstance(annotations, list):
        return (
            "a file of SA-1B, of one picture: join the files into one with images and annotations, each with image_id"
        )
    if any(key.startswith("_via_") for key in data):
        return "a project of VIA: export it as COCO"
    if "caption" in first:
        return "captions, which have no masks: give the instances file of the same pictures"
    return ""


def images_by_id(path: Path, images: list[Any]) -> dict[str, dict[str, Any]]:
    """The images by their ids as text: in files of some tools ids are text here and numbers there."""
    entries: dict[str, dict[str, Any]] = {}
    twice: list[str] = []
    for index, entry in enumerate(images):
        key = entry_id(entry.get("id")) if isinstance(entry, dict) else ""
        if not key:
            raise DataError(f"{path}: images number {index} has no id")
        name = file_name(entry)
        if not name:
            raise DataError(f"{path}: image {key} has neither file_name nor coco_url")
        if key in entries and file_name(entries[key]) != name:
            twice.append(f"id {key}: {file_name(entries[key])} and {name}")
        entries[key] = entry
    if twice:
        raise DataError(f"{path}: {len(twice)} ids belong to two images each: {first_names(twice)}")
    return entries


def entry_id(value: Any) -> str:
    """An id as text, since files of some tools have it as text here and as a number there; "" if it is none."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() if isinstance(value, int | str) and not isinstance(value, bool) else ""


def file_name(image: dict[str, Any]) -> str:
    """The name of an image's file with slashes, "" if the entry has none."""
    name, url = image.get("file_name"), image.get("coco_url")
    if isinstance(name, str) and name:
        return name.replace("\\", "/")
    # LVIS names a file by the end of its address: .../train2017/000000391895.jpg
    return "/".join(url.split("/")[-2:]) if isinstance(url, str) else ""


def _declared_size(image: dict[str, Any]) -> tuple[int, int] | None:
    """Height and width that the file says, None where it says neither.

    Raises:
        ValueError: one of them is no number of pixels.
    """
    values = []
    for field in ("height", "width"):
        value = image.get(field)
        if value is None:
            continue
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{field} is a number of pixels, not {value!r:.80}")
        values.append(value)
    return (values[0], values[1]) if len(values) == 2 else None


def _candidates(folder: Path, name: str, short: bool) -> list[Path]:
    """Where a picture may be in a folder: as named, or without the folders of its name."""
    plain = folder / name.rsplit("/", 1)[-1]
    return [folder / name, plain] if short else [folder / name]


def _subfolders(folder: Path) -> list[Path]:
    try:
        found = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith((".", "__MACOSX")))
    except OSError:
        return []
    return found[:_SUBFOLDERS]


def _listed(folders: Sequence[Path]) -> str:
    return first_names(Counter(map(str, folders)))
