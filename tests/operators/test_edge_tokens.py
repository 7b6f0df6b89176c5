from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from operators import twins
from operators.harness import Library

Labels = NDArray[np.uint8]
RULES = ("released", "exact")


def label_maps(side: int) -> dict[str, Labels]:
    """Label maps of every kind: uniform, one pixel at a telling place, noise, blocks, discs."""
    rng = np.random.default_rng(side)
    maps = {f"all {label}": np.full((side, side), label, np.uint8) for label in range(5)}
    middle = side // 2
    spots = {(0, 0), (side - 1, side - 1), (0, side - 1), (middle, middle)}
    spots |= {(16 + d, middle - d) for d in (-4, -3, -1, 0, 1, 3, 4)}
    for label, ground in ((4, 1), (0, 1), (2, 1), (3, 0), (1, 0), (2, 4)):
        for y, x in sorted({tuple(np.clip(spot, 0, side - 1)) for spot in spots}):
            maps[f"{label} on {ground} at {y}, {x}"] = np.full((side, side), ground, np.uint8)
            maps[f"{label} on {ground} at {y}, {x}"][y, x] = label
    maps["noise"] = rng.integers(0, 5, (side, side), np.uint8)
    maps["rare noise"] = np.where(rng.random((side, side)) < 0.01, maps["noise"], np.uint8(1))
    maps["blocks"] = rng.integers(0, 5, (side, side), np.uint8)[np.ix_(*[np.arange(side) // 9 * 9] * 2)]
    y, x = np.ogrid[:side, :side]
    disc = np.hypot(y - side * 0.4, x - side * 0.6) < side * 0.2
    maps["disc"] = np.where(disc, np.uint8(4), np.uint8(1))
    maps["disc in the background"] = np.where(disc, np.uint8(3), np.uint8(0))
    return maps


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("side", [16, 32, 48, 112, 176])
def test_against_twin(library: Library, rule: Any, side: int) -> None:
    for what, labels in label_maps(side).items():
        edge = library.run("EdgeTokens", {"labels": labels}, rule=rule)[0]
        expected = twins.edge_tokens(labels, rule=rule)
        np.testing.assert_array_equal(edge, expected, err_msg=what)


@pytest.mark.parametrize("shape", [(16, 16), (48, 112), (112, 48), (176, 16)])
def test_rectangles_and_their_boxes(library: Library, shape: tuple[int, int]) -> None:
    for what, labels in label_maps(176).items():
        part = labels[: shape[0], 176 - shape[1] :]
        edge = library.run("EdgeTokens", {"labels": part}, rule="exact")[0]
        np.testing.assert_array_equal(edge, twins.edge_tokens(part, rule="exact"), err_msg=what)
        left, top, right, bottom = box = library.run("LabelBox", {"labels": part})[0]
        np.testing.assert_array_equal(box, twins.token_label_box(part), err_msg=what)
        # Cut to their box, labels have the same edge tokens.
        cut = part[16 * top : 16 * bottom, 16 * left : 16 * right]
        inside = np.arange(part.size // 256).reshape(-1, shape[1] // 16)[top:bottom, left:right].ravel()
        np.testing.assert_array_equal(
            inside[library.run("EdgeTokens", {"labels": np.ascontiguousarray(cut)}, rule="exact")[0]], edge
        )


@pytest.mark.parametrize("rule", RULES)
def test_strips(library: Library, rule: Any) -> None:
    """Wide maps are cut into strips of columns; an object that crosses a cut is whole."""
    labels = np.ones((2560, 2560), np.uint8)
    labels[5:2555, 2040:2060] = 3
    labels[1200:1300, 7:2550] = 0
    edge = library.run_all_ways("EdgeTokens", {"labels": labels}, rule=rule)
    np.testing.assert_array_equal(edge, twins.edge_tokens(labels, rule=rule))


def test_threads_and_default_attributes(library: Library) -> None:
    labels = label_maps(512)["blocks"]
    edge = library.run_all_ways("EdgeTokens", {"labels": labels})
    assert edge.dtype == np.int64
    np.testing.assert_array_equal(edge, twins.edge_tokens(labels, rule="released"))


def test_all_and_no_edges(library: Library) -> None:
    unknown, background = np.full((64, 64), 2, np.uint8), np.zeros((64, 64), np.uint8)
    assert library.run("EdgeTokens", {"labels": unknown}, rule="exact")[0].tolist() == list(range(16))
    assert library.run("EdgeTokens", {"labels": background}, rule="released")[0].shape == (0,)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("shape", [(0, 0), (128, 0), (0, 128)])
def test_no_pixels(library: Library, shape: tuple[int, int], rule: Any) -> None:
    """Rows without columns hold no tokens either; found by fuzzing, where what lay in memory was read as a label."""
    labels = np.zeros(shape, np.uint8)
    assert library.run("EdgeTokens", {"labels": labels}, rule=rule)[0].shape == (0,)
    np.testing.assert_array_equal(
        library.run("LabelBox", {"labels": labels})[0], [0, 0, shape[1] // 16, shape[0] // 16]
    )


@pytest.mark.parametrize("value", [5, 128, 255])
@pytest.mark.parametrize("at", [(0, 0), (31, 31), (20, 9)])
def test_labels_out_of_range(library: Library, value: int, at: tuple[int, int]) -> None:
    labels = np.ones((32, 32), np.uint8)
    labels[at] = value
    for rule in RULES:
        library.fails(f"expected labels 0 to 4, got {value}", "EdgeTokens", {"labels": labels}, rule=rule)


def test_bad_inputs(library: Library) -> None:
    def labels(*shape: int, dtype: type = np.uint8) -> dict[str, NDArray[Any]]:
        return {"labels": np.zeros(shape, dtype)}

    expected = r"expected labels uint8 \[H, W\], got "
    library.fails(expected + r"uint8 \[16\]", "EdgeTokens", labels(16))
    library.fails(expected + r"uint8 \[1, 16, 16\]", "EdgeTokens", labels(1, 16, 16))
    library.fails(expected + r"int64 \[16, 16\]", "EdgeTokens", labels(16, 16, dtype=np.int64))
    square = r"expected labels uint8 \[H, W\], both multiples of 16, got "
    library.fails(square + r"\[16, 40\]", "EdgeTokens", labels(16, 40))
    library.fails(square + r"\[40, 16\]", "LabelBox", labels(40, 16))
    library.fails(square + r"\[24, 24\]", "EdgeTokens", labels(24, 24))
    for patch in (16, 8):
        library.fails("expected no attribute patch, got one", "EdgeTokens", labels(16, 16), patch=patch)
