"""A PNG for each object: `masks/NAME-1.png` and so on beside `objects.json`, which says what each is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from inter2former_deploy.annotations.formats import Export, Found, class_of
from inter2former_deploy.core.masks import MaskError, read_objects
from inter2former_deploy.core.pictures import SUFFIXES
from inter2former_deploy.core.runs import Mask, Runs
from inter2former_deploy.data.sample import UNREADABLE_ANNOTATIONS, DataError, Tally

LIST = "objects.json"

_NUMBERED = re.compile(r"(.+)[#_-]\d+")


def write(export: Export) -> None:
    """Write masks of the pictures' sizes."""
    listed: list[dict[str, Any]] = []
    for annotated in export.pictures:
        for number, entry in enumerate(annotated.objects, 1):
            path = export.path("masks", f"{annotated.picture.name.rpartition('.')[0]}-{number}.png", ".png")
            write_png(path, entry.mask.mask().astype(np.uint8) * 255)
            mask = path.relative_to(export.folder).as_posix()
            listed.append({"mask": mask, "picture": annotated.picture.name, "class": class_of(entry), "id": entry.id})
    (export.folder / LIST).write_text(json.dumps(listed, indent=1), encoding="utf-8")


def write_png(path: Path, values: np.ndarray, palette: list[int] | None = None) -> None:
    """Write uint8 values `[H, W]`, grey or with a palette."""
    from PIL import Image

    image = Image.fromarray(values)
    if palette is not None:
        image.putpalette(palette)
    image.save(path, optimize=False)


def read(source: Path, tally: Tally) -> Iterator[Found]:
    """All mask files of a folder, by the rules of `core.masks`; each id of a label map is an object.

    The picture is that of the file's name, with or without a number behind it (`a.png`, `a-1.png`, `a_1.png` belong to
    `a.jpg`); of files that `write` listed the one that is said there.
    """
    root = source if source.is_dir() else source.parent
    listed = _listed(root)
    files = [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError(f"{source}: there are no mask files")
    for path in files:
        name = path.relative_to(root).as_posix()
        entry = listed.get(name)
        if listed and entry is None:
            tally.add(UNREADABLE_ANNOTATIONS, f"{name} is not in {LIST}")
            continue
        picture = entry["picture"] if entry else _picture(path.relative_to(root))
        try:
            masks = read_objects(path)
        except MaskError as error:
            tally.add(UNREADABLE_ANNOTATIONS, str(error))
            continue
        if not masks and entry:
            masks = {0: np.zeros(_size(path), np.uint8)}
        for number, mask in masks.items():
            yield Found(picture, f"{name}, id {number}", entry["class"] if entry else "", partial(_runs, mask == 1))


def _picture(path: Path) -> str:
    stem = path.with_suffix("").as_posix()
    numbered = _NUMBERED.fullmatch(stem)
    return numbered[1] if numbered else stem


def _size(path: Path) -> tuple[int, int]:
    from inter2former_deploy.core.pictures import picture_size

    return picture_size(path)


def _listed(root: Path) -> dict[str, dict[str, str]]:
    path = root / LIST
    if not path.is_file():
        return {}
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return {str(entry["mask"]): {key: str(entry[key]) for key in ("picture", "class")} for entry in entries}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path} is not as it was written ({error}): remove it, or export again") from None


def _runs(mask: Mask, height: int, width: int) -> Runs:
    if mask.shape != (height, width):
        raise ValueError(f"the mask has {mask.shape[1]} x {mask.shape[0]} pixels, the picture {width} x {height}")
    return Runs.of(mask)
