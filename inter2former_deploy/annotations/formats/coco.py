"""COCO: one `annotations.json`. Run lengths are exact; so are polygons, whose holes are cut open along a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from inter2former_deploy.annotations.formats import Export, Found
from inter2former_deploy.annotations.masks import compressed, outlines
from inter2former_deploy.core.files import replacing
from inter2former_deploy.core.runs import Runs
from inter2former_deploy.data.coco import (
    decode_segmentation,
    entry_id,
    file_name,
    images_by_id,
    load_annotations,
    pycocotools,
)
from inter2former_deploy.data.sample import UNREADABLE_ANNOTATIONS, DataError, Tally


def write(export: Export) -> None:
    """Write images, categories (numbered from 1) and annotations; `iscrowd` is 0."""
    pycocotools()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, annotated in enumerate(export.pictures, 1):
        picture = annotated.picture
        images.append({"id": number, "file_name": picture.name, "width": picture.width, "height": picture.height})
        for entry in annotated.objects:
            left, top, right, bottom = entry.mask.box or (0, 0, 0, 0)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": export.class_index(entry) + 1,
                    "segmentation": _segmentation(entry.mask, export.polygons),
                    "area": entry.mask.area,
                    "bbox": [left, top, right - left, bottom - top],
                    "iscrowd": 0,
                }
            )
    categories = [{"id": i, "name": entry.name, "supercategory": ""} for i, entry in enumerate(export.classes, 1)]
    content = {"info": {}, "licenses": [], "images": images, "categories": categories, "annotations": annotations}
    with replacing(export.folder / "annotations.json") as unfinished:
        unfinished.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")


def _segmentation(runs: Runs, polygons: bool) -> Any:
    if polygons and runs.area:
        return [outline.keyhole.ravel().tolist() for outline in outlines(runs)]
    return {"size": [runs.height, runs.width], "counts": compressed(runs)}


def read(source: Path, tally: Tally) -> Iterator[Found]:
    """The annotations with a mask, crowds among them, of a file or of all JSON files of a folder."""
    files = [source] if source.is_file() else sorted(source.rglob("*.json"))
    if not files:
        raise DataError(f"{source}: there is no JSON file")
    for path in files:
        data = load_annotations(path)
        images = images_by_id(path, data["images"])
        categories = data.get("categories")
        names = {
            entry_id(entry.get("id")): str(entry.get("name", ""))
            for entry in (categories if isinstance(categories, list) else [])
            if isinstance(entry, dict)
        }
        for index, entry in enumerate(data["annotations"]):
            label = f"{path.name}: annotation number {index}"
            image = images.get(entry_id(entry.get("image_id"))) if isinstance(entry, dict) else None
            if image is None:
                tally.add(UNREADABLE_ANNOTATIONS, f"{label} has no image that the file lists")
            elif not entry.get("segmentation"):
                tally.add("annotations without a mask", label)
            else:
                name = names.get(entry_id(entry.get("category_id")), "")
                yield Found(file_name(image), label, name, partial(_runs, entry["segmentation"]))


def _runs(segmentation: Any, height: int, width: int) -> Runs:
    return Runs.of(decode_segmentation(segmentation, height, width).astype(np.bool_))
