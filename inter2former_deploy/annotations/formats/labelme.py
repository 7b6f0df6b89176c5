"""LabelMe: a JSON file for each picture, with shapes of type mask, or polygons for tools that refuse these."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from inter2former_deploy.annotations.formats import HOLES, Export, Found, class_of
from inter2former_deploy.annotations.project import Object
from inter2former_deploy.core.masks import MaskError, read_mask
from inter2former_deploy.core.runs import Mask, Runs
from inter2former_deploy.data.sample import UNREADABLE_ANNOTATIONS, DataError, Tally

_FAR_OUTSIDE = 8  # sides of the picture, beyond which no coordinate is believed


def write(export: Export) -> None:
    """Write files beside which the pictures are expected: put them into the pictures' folder.

    Polygons have the border pixels' numbers as LabelMe fills them, their border included; parts of an object have one
    group_id. Holes are lost in them.
    """
    for annotated in export.pictures:
        picture = annotated.picture
        shapes: list[dict[str, Any]] = []
        for number, entry in enumerate(export.filled(annotated), 1):
            if export.polygons:
                made, has_holes = _polygons(entry, number)
                shapes += made
                if has_holes:
                    export.notes.add(HOLES, f"{picture.name}#{number}")
            else:
                shapes.append(_mask_shape(entry))
        content: dict[str, Any] = {
            "version": "5.5.0",
            "flags": {},
            "shapes": shapes,
            "imagePath": PurePosixPath(picture.name).name,
            "imageData": None,
            "imageHeight": picture.height,
            "imageWidth": picture.width,
        }
        path = export.path("", picture.name, ".json")
        path.write_text(json.dumps(content, indent=1), encoding="utf-8")


def _shape(entry: Object, kind: str, points: list[list[int]], group: int | None = None) -> dict[str, Any]:
    return {
        "label": class_of(entry),
        "points": points,
        "group_id": group,
        "description": "",
        "shape_type": kind,
        "flags": {},
        "mask": None,
    }


def _mask_shape(entry: Object) -> dict[str, Any]:
    from PIL import Image

    assert entry.mask.box is not None
    left, top, right, bottom = entry.mask.box
    file = io.BytesIO()
    Image.fromarray(entry.mask.mask(entry.mask.box).astype(np.uint8) * 255).save(file, "PNG")
    shape = _shape(entry, "mask", [[left, top], [right - 1, bottom - 1]])
    shape["mask"] = base64.b64encode(file.getvalue()).decode("ascii")
    return shape


def _polygons(entry: Object, group: int) -> tuple[list[dict[str, Any]], bool]:
    """A polygon for each part, and whether there were holes."""
    import cv2

    assert entry.mask.box is not None
    left, top, _, _ = entry.mask.box
    mask = entry.mask.mask(entry.mask.box).astype(np.uint8)
    contours, hierarchy = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    outer = [contour for contour, (_, _, _, parent) in zip(contours, hierarchy[0], strict=True) if parent < 0]
    shapes = []
    for contour in outer:
        points = [[int(x) + left, int(y) + top] for x, y in contour[:, 0]]
        points += points[-1:] * (3 - len(points))  # a polygon has three points at least
        shapes.append(_shape(entry, "polygon", points, group if len(outer) > 1 else None))
    return shapes, len(outer) < len(contours)


def read(source: Path, tally: Tally) -> Iterator[Found]:
    """Masks, polygons, rectangles and circles of a file or of all JSON files of a folder, as LabelMe fills them."""
    files = [source] if source.is_file() else sorted(source.rglob("*.json"))
    if not files:
        raise DataError(f"{source}: there is no JSON file")
    root = source.parent if source.is_file() else source
    for path in files:
        try:
            data = json.loads(path.read_bytes())
            shapes, image = data["shapes"], data["imagePath"]
            if not isinstance(shapes, list) or not isinstance(image, str):
                raise TypeError("shapes is no list, or imagePath no text")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(f"{path} is no file of LabelMe: {error}") from error
        folder = path.relative_to(root).parent
        name = (folder / PurePosixPath(image.replace("\\", "/")).name).as_posix()
        size = (data.get("imageHeight"), data.get("imageWidth"))
        groups: dict[tuple[str, int | str], list[Any]] = {}
        for index, shape in enumerate(shapes):
            label = f"{path.name}: shape number {index}"
            try:
                _check_shape(shape)
            except ValueError as error:
                tally.add(UNREADABLE_ANNOTATIONS, f"{label}: {error}")
                continue
            group = shape.get("group_id")
            key = (shape["label"], index if group is None else f"group {group}")
            groups.setdefault(key, []).append(shape)
        for (class_name, which), parts in groups.items():
            yield Found(name, f"{path.name}: shape {which}", class_name, partial(_runs, parts, size))


def _check_shape(shape: Any) -> None:
    if not isinstance(shape, dict) or not isinstance(shape.get("label"), str):
        raise ValueError("it has no label")
    points = shape.get("points")
    if not isinstance(points, list) or not points or not all(map(_is_point, points)):
        raise ValueError("its points are not pairs of finite numbers")
    kind = shape.get("shape_type") or "polygon"
    pairs = {"mask", "rectangle", "circle"}
    if kind not in {"polygon", *pairs}:
        raise ValueError(f"{kind!r:.80} has no area")
    if (kind == "polygon" and len(points) < 3) or (kind in pairs and len(points) not in (2, 4 * (kind == "rectangle"))):
        raise ValueError(f"{kind} of {len(points)} points")
    if kind == "mask" and not isinstance(shape.get("mask"), str):
        raise ValueError("it has no mask")


def _is_point(point: Any) -> bool:
    return isinstance(point, list) and len(point) == 2 and all(type(v) in (int, float) and abs(v) < 1e9 for v in point)


def _runs(shapes: list[Any], size: tuple[Any, Any], height: int, width: int) -> Runs:
    if size != (None, None) and size != (height, width):
        raise ValueError(
            f"the file is of a picture of {size[1]!r:.20} x {size[0]!r:.20}, this one has {width} x {height}"
        )
    whole = np.zeros((height, width), np.bool_)
    for shape in shapes:
        whole |= _filled(shape, height, width)
    return Runs.of(whole)


def _filled(shape: Any, height: int, width: int) -> Mask:
    from PIL import Image, ImageDraw

    points = [(float(x), float(y)) for x, y in shape["points"]]
    side = max(height, width)
    if any(not -_FAR_OUTSIDE * side <= value <= (1 + _FAR_OUTSIDE) * side for point in points for value in point):
        raise ValueError(f"a coordinate is far outside {width} x {height} pixels")
    kind = shape.get("shape_type") or "polygon"
    if kind == "mask":
        return _pasted(shape["mask"], points, height, width)
    canvas = Image.new("L", (width, height))
    draw = ImageDraw.Draw(canvas)
    if kind == "circle":
        (x, y), edge = points
        radius = math.dist((x, y), edge)
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], outline=1, fill=1)
    elif kind == "rectangle" and len(points) == 2:
        xs, ys = sorted(p[0] for p in points), sorted(p[1] for p in points)
        draw.rectangle([xs[0], ys[0], xs[1], ys[1]], outline=1, fill=1)
    else:
        draw.polygon(points, outline=1, fill=1)
    mask: Mask = np.asarray(canvas) == 1
    return mask


def _pasted(text: str, points: list[tuple[float, float]], height: int, width: int) -> Mask:
    (x0, y0), (x1, y1) = ((round(x), round(y)) for x, y in points)
    if not (0 <= x0 <= x1 < width and 0 <= y0 <= y1 < height):
        raise ValueError(
            f"its mask at {[x0, y0]} to {[x1, y1]} reaches beyond the picture of {width} x {height} pixels"
        )
    try:
        content = base64.b64decode(text, validate=True)
        mask = read_mask(content, max_pixels=height * width) == 1
    except (MaskError, ValueError) as error:
        raise ValueError(f"its mask: {error}") from error
    if mask.shape != (y1 - y0 + 1, x1 - x0 + 1):
        raise ValueError(
            f"its mask has {mask.shape[1]} x {mask.shape[0]} pixels, its points say {x1 - x0 + 1} x {y1 - y0 + 1}"
        )
    whole = np.zeros((height, width), np.bool_)
    whole[y0 : y1 + 1, x0 : x1 + 1] = mask
    return whole
