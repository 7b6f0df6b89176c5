"""Prompts as samexporter writes them in JSON: a list of points and rectangles."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

MOST_BYTES = 1 << 24  # of a file
MOST_PROMPTS = 10_000


def read_prompts(path: Path) -> list[tuple[str, tuple[float, ...]]]:
    """The prompts of a file, in order: "fg" or "bg" with x, y, or "box" with x0, y0, x1, y1, in pixels.

        [{"type": "point", "data": [320, 240], "label": 1}, {"type": "rectangle", "data": [100, 80, 420, 300]}]

    The corners of a rectangle may come in any order.

    Raises:
        ValueError: it is no such file; the message names it and the entry.
        OSError: it cannot be read.
    """
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path} has more than {MOST_BYTES:,} bytes: it is no list of prompts")
    try:
        entries = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(entries, list) or not 0 < len(entries) <= MOST_PROMPTS:
        raise ValueError(f"{path} must hold a list of 1 to {MOST_PROMPTS} prompts")
    prompts = []
    for index, entry in enumerate(entries):
        try:
            prompts.append(_prompt(entry))
        except ValueError as error:
            raise ValueError(f"{path}: entry {index}: {error}") from None
    return prompts


def _prompt(entry: Any) -> tuple[str, tuple[float, ...]]:
    if not isinstance(entry, dict) or entry.get("type") not in ("point", "rectangle"):
        raise ValueError('a prompt has "type": "point" or "rectangle"')
    expected = 2 if entry["type"] == "point" else 4
    data = entry.get("data")
    if (
        not isinstance(data, list)
        or len(data) != expected
        or not all(type(value) in (int, float) and abs(value) < 1e9 and math.isfinite(value) for value in data)
    ):
        raise ValueError(f'"data" of a {entry["type"]} must be {expected} numbers, got {data!r:.80}')
    if expected == 4:
        (x0, x1), (y0, y1) = sorted(data[::2]), sorted(data[1::2])
        return "box", (x0, y0, x1, y1)
    if entry.get("label") not in (0, 1):
        raise ValueError(f'"label" of a point must be 1 or 0, got {entry.get("label")!r:.80}')
    return "fg" if entry["label"] else "bg", tuple(data)
