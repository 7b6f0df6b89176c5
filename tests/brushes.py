"""Label Studio's brushes, read by the description of their code."""

from __future__ import annotations

import numpy as np


def decode_brush(code: list[int]) -> np.ndarray:
    """The values of a brush, four channels a pixel, `[pixels, 4]`; `scripts/check_formats` runs the tool's own."""
    bits = "".join(f"{byte:08b}" for byte in code)
    at = 0

    def take(count: int) -> int:
        nonlocal at
        at += count
        return int(bits[at - count : at], 2)

    total, word = take(32), take(5) + 1
    sizes = [take(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < total:
        repeated = take(1)
        length = take(sizes[take(2)]) + 1
        values += [take(word)] * length if repeated else [take(word) for _ in range(length)]
    return np.array(values).reshape(-1, 4)
