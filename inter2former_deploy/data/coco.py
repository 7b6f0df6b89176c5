"""COCO and LVIS annotation files: one sample for every annotated object."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .sample import DataError, Sample, read_image


class CocoDataset:
    """Objects of a COCO- or LVIS-style JSON file; crowd regions are left out.

    Args:
        annotations: the JSON file.
        images: folder of the image files; `None` looks for them in the file's folder and in `images/` beside it.

    Raises:
        DataError: the file is no such JSON, or images or segmentations that it names are missing; the message names
            all of them.
    """

    def __init__(self, annotations: Path, images: Path | None = None) -> None:
        try:
            data = json.loads(annotations.read_text())
            self.images: dict[Any, dict[str, Any]] = {entry["id"]: entry for entry in data["images"]}
            self.objects = [a for a in data["annotations"] if not a.get("iscrowd")]
            names = {key: _file_name(entry) for key, entry in self.images.items()}
        except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{annotations}: not a COCO annotation file: {error!r}") from error
        folders = [images] if images else [annotations.parent, annotations.parent / "images"]
        self.paths = {k: next((f / n for f in folders if (f / n).is_file()), folders[-1] / n) for k, n in names.items()}
        problems = [
            f"  annotation {a.get('id')}: {text}"
            for a in self.objects
            for bad, text in (
                (a.get("image_id") not in self.images, f"no image {a.get('image_id')}"),
                (not a.get("segmentation"), "no segmentation"),
            )
            if bad
        ] + [f"  {path}: no such file" for path in sorted({*self.paths.values()}) if not path.is_file()]
        if problems:
            raise DataError(f"{annotations}: {len(problems)} problems:\n" + "\n".join(problems))
        if not self.objects:
            raise DataError(f"{annotations}: no annotated objects")

    def __len__(self) -> int:
        return len(self.objects)

    def __getitem__(self, index: int) -> Sample:
        entry = self.objects[index]
        path = self.paths[entry["image_id"]]
        image = read_image(path)
        name = f"{path.name}#{entry.get('id', index)}"
        said = self.images[entry["image_id"]]
        height, width = int(said.get("height") or image.shape[0]), int(said.get("width") or image.shape[1])
        try:
            mask = decode_segmentation(entry["segmentation"], height, width)
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{name}: segmentation not readable: {error}") from error
        return Sample(name, image, mask)


def _file_name(image: dict[str, Any]) -> str:
    # LVIS names a file by the end of its address: .../train2017/000000391895.jpg
    return str(image["file_name"]) if "file_name" in image else "/".join(str(image["coco_url"]).split("/")[-2:])


def decode_segmentation(segmentation: Any, height: int, width: int) -> NDArray[np.uint8]:
    """A segmentation in any of COCO's three forms as a mask of 0 and 1, uint8 `[height, width]`.

    Args:
        segmentation: a list of polygons `[x0, y0, x1, y1, ...]` in pixels (pixel i spans i to i + 1), or an object
            with `size` and run lengths `counts`, as a list or compressed to a string.
        height: of the image, pixels.
        width: of the image, pixels.

    Raises:
        ValueError: the run lengths or the polygons do not fit the image, or are no numbers.
    """
    if isinstance(segmentation, dict):
        if list(segmentation["size"]) != [height, width]:
            raise ValueError(f"it is for an image of {segmentation['size']} (height, width), not {[height, width]}")
        counts = segmentation["counts"]
        return decode_runs(decompress_runs(counts) if isinstance(counts, str | bytes) else counts, height, width)
    mask = np.zeros((height, width), np.uint8)
    for polygon in segmentation:
        points = np.asarray(polygon, np.float64)
        if points.ndim != 1 or len(points) < 6 or len(points) % 2 or not np.isfinite(points).all():
            raise ValueError("a polygon needs an even number of coordinates, at least six")
        fixed = np.round((np.clip(points.reshape(-1, 2), -(2**15), 2**15) - 0.5) * 256).astype(np.int32)
        cv2.fillPoly(mask, [fixed], 1, shift=8)
    return mask


def decode_runs(counts: list[int], height: int, width: int) -> NDArray[np.uint8]:
    """Run lengths of background and object in turn, down the columns, as a mask uint8 `[height, width]`.

    Raises:
        ValueError: the run lengths are negative or do not add up to the image.
    """
    lengths = np.asarray(counts, np.int64)
    if lengths.ndim != 1 or (lengths < 0).any() or lengths.sum() != height * width:
        raise ValueError(f"run lengths add up to {lengths.sum()} pixels, the image has {height * width}")
    flat = np.repeat(np.arange(len(lengths)) % 2, lengths).astype(np.uint8)
    return np.ascontiguousarray(flat.reshape(width, height).T)


def decompress_runs(text: str | bytes) -> list[int]:
    """COCO's compressed run lengths: numbers in groups of five bits, from the third on relative to the one two before.

    Each character holds its value plus 48: bit 5 says that another group follows, bit 4 of the last group is the sign.

    Raises:
        ValueError: a character is outside the alphabet, or the text ends within a number.
    """
    codes = text.encode("latin-1") if isinstance(text, str) else text
    counts: list[int] = []
    value = shift = 0
    for code in codes:
        group = code - 48
        if not 0 <= group < 64:
            raise ValueError(f"character {chr(code)!r} in compressed run lengths")
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("compressed run lengths end within a number")
    return counts
