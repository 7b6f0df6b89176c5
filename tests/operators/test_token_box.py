from __future__ import annotations

import numpy as np
import pytest
from operators import twins
from operators.harness import Library


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 17), (5, 3), (16, 16), (33, 65), (128, 128)])
@pytest.mark.parametrize("share", [0.0, 0.002, 0.3, 1.0])
def test_tight_box(library: Library, height: int, width: int, share: float) -> None:
    rng = np.random.default_rng([height, width, int(share * 1000)])
    low_res = np.where(rng.random((height, width)) < share, 1.0, -3.0).astype(np.float32)
    box = library.run_all_ways("TokenBox", {"low_res": low_res})
    np.testing.assert_array_equal(box, twins.token_box(low_res))


@pytest.mark.parametrize("at", [(0, 0), (0, 8), (6, 0), (6, 8), (3, 4)])
def test_one_token(library: Library, at: tuple[int, int]) -> None:
    low_res = np.full((7, 9), -2.0, np.float32)  # the threshold itself is outside
    low_res[at] = np.nextafter(np.float32(-2), np.float32(0))
    y, x = at
    assert library.run("TokenBox", {"low_res": low_res})[0].tolist() == [x, y, x + 1, y + 1]


def test_threshold_attribute(library: Library) -> None:
    low_res = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert library.run("TokenBox", {"low_res": low_res}, threshold=9.5)[0].tolist() == [2, 2, 4, 3]


def test_nan_is_outside_and_infinity_inside(library: Library) -> None:
    low_res = np.full((4, 6), np.nan, np.float32)
    assert library.run("TokenBox", {"low_res": low_res})[0].tolist() == [0, 0, 6, 4]
    low_res[1, 2], low_res[2, 5], low_res[3, 3] = np.inf, 0, -np.inf
    assert library.run("TokenBox", {"low_res": low_res})[0].tolist() == [2, 1, 6, 3]


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0)])
def test_empty_map(library: Library, shape: tuple[int, int]) -> None:
    box = library.run("TokenBox", {"low_res": np.zeros(shape, np.float32)})[0]
    assert box.tolist() == [0, 0, shape[1], shape[0]]


def test_bad_inputs(library: Library) -> None:
    expected = r"expected low_res float32 \[h, w\], got "
    library.fails(expected + r"float32 \[3\]", "TokenBox", {"low_res": np.zeros(3, np.float32)})
    library.fails(expected + r"float32 \[1, 3, 3\]", "TokenBox", {"low_res": np.zeros((1, 3, 3), np.float32)})
    library.fails(expected + r"float64 \[3, 3\]", "TokenBox", {"low_res": np.zeros((3, 3))})
    wrong = "expected attribute threshold to be a number, got another type"
    library.fails(wrong, "TokenBox", {"low_res": np.zeros((3, 3), np.float32)}, threshold="-2")
