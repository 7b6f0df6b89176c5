"""What Winograd's F(4x4, 3x3) loses in float32 with other points of interpolation.

Usage: python scripts/winograd_points.py

Convolutions of 256 to 64 channels: activated normal numbers, weights of unit gain. Errors of the largest value.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

TILE, KERNEL = 4, 3
SIDE = TILE + KERNEL - 1
TILES, CHANNELS, OUT = 60, 256, 64
PAIRS = ((1, 2), (1 / 2, 1), (1 / 2, 3 / 2), (5 / 8, 5 / 4), (5 / 8, 3 / 2), (2 / 3, 3 / 2), (3 / 4, 3 / 2))


def transforms(a: float, b: float) -> tuple[Array, Array, Array]:
    """Of output [4, 6], weights [6, 3] and input [6, 6], for the points 0, +-a, +-b and infinity (Toom and Cook)."""
    points = np.array([0, a, -a, b, -b])
    output, weights, inputs = np.zeros((TILE, SIDE)), np.zeros((SIDE, KERNEL)), np.zeros((SIDE, SIDE))
    output[:, :-1] = points ** np.arange(TILE)[:, None]
    output[-1, -1] = weights[-1, -1] = 1
    for i, point in enumerate(points):
        others = np.delete(points, i)
        weights[i] = point ** np.arange(KERNEL) / np.prod(point - others)
        inputs[i, :-1] = np.poly(others)[::-1]  # the coefficients of their polynomial, constant first
    inputs[-1] = np.poly(points)[::-1]
    return output, weights, inputs


def main() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((TILES, SIDE, SIDE, CHANNELS))
    x = (x / (1 + np.exp(-x))).astype(np.float32)
    kernel = (rng.standard_normal((KERNEL, KERNEL, CHANNELS, OUT)) / np.sqrt(9 * CHANNELS)).astype(np.float32)

    def convolve(x: NDArray[np.floating], kernel: NDArray[np.floating]) -> NDArray[np.floating]:
        y = np.zeros((TILES, TILE, TILE, OUT), x.dtype)
        for i, j in np.ndindex(KERNEL, KERNEL):
            y += x[:, i : i + TILE, j : j + TILE] @ kernel[i, j]
        return y

    truth = convolve(x.astype(np.float64), kernel.astype(np.float64))

    def report(name: str, y: NDArray[np.floating]) -> None:
        error = (y - truth) / np.abs(truth).max()
        print(f"{name:24} root mean square {np.sqrt((error**2).mean()):.1e}, largest {np.abs(error).max():.1e}")

    report("plain", convolve(x, kernel))
    for a, b in PAIRS:
        output, weights, inputs = transforms(a, b)
        small_output, small_inputs = output.astype(np.float32), inputs.astype(np.float32)
        packed = np.einsum("ia,abco,jb->ijco", weights, kernel.astype(np.float64), weights).astype(np.float32)
        rows = np.einsum("ia,tabc->itbc", small_inputs, x)
        tiles = np.einsum("jb,itbc->ijtc", small_inputs, rows)
        products = tiles @ packed  # [6, 6, tiles, OUT]
        columns = np.einsum("ai,ijto->ajto", small_output, products)
        report(f"0, +-{a:.3g}, +-{b:.3g}, infinity", np.einsum("bj,ajto->tabo", small_output, columns))


if __name__ == "__main__":
    main()
