from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from operators import twins
from operators.harness import Array, Library, assert_accurate

CONSTANT = ("padding",)
OPERATOR = "WindowAttention"
Maps = list[tuple[int, int, int]]  # height, width, offset


def layout(maps: Maps, window: int, heads: int) -> dict[str, Any]:
    """The attributes."""
    heights, widths, offsets = (list(numbers) for numbers in zip(*maps, strict=True))
    return {"heads": heads, "window": window, "heights": heights, "widths": widths, "offsets": offsets}


def make_inputs(maps: Maps, width: int, *, images: int = 1, seed: int = 0) -> dict[str, Array]:
    tokens = images * sum(height * columns for height, columns, _ in maps)
    rng = np.random.default_rng([seed, tokens, width])
    qkv = rng.standard_normal((tokens, 3 * width))
    qkv[:, 2 * width :] += 1  # a mean of values, so that lost accuracy of sums shows
    return {"qkv": qkv.astype(np.float32), "padding": rng.standard_normal((1, 3 * width)).astype(np.float32)}


def check(library: Library, inputs: dict[str, Array], **attributes: Any) -> Array:
    """Runs all ways and compares with the twin."""
    out = library.run_all_ways(OPERATOR, inputs, constant=CONSTANT, **attributes)
    assert_accurate(out, twins.window_attention, *inputs.values(), **attributes)
    return out


@pytest.mark.parametrize(
    ("maps", "window"),
    [
        ([(1, 1, 0)], 1),
        ([(1, 1, 2)], 4),
        ([(8, 8, 0)], 4),
        ([(8, 8, 2), (2, 2, 0)], 4),
        ([(3, 5, 2), (6, 9, 0), (1, 7, 3)], 4),
        ([(17, 1, 0), (1, 33, 6)], 7),
        ([(20, 20, 8), (16, 16, 0)], 16),
        ([(7, 40, 11)], 33),
    ],
)
@pytest.mark.parametrize("images", [1, 3])
def test_layouts(library: Library, maps: Maps, window: int, images: int) -> None:
    check(library, make_inputs(maps, 32, images=images), **layout(maps, window, 1))


@pytest.mark.parametrize(
    ("heads", "head_width"), [(1, 4), (1, 36), (2, 16), (2, 32), (6, 32), (4, 20), (12, 64), (3, 128), (1, 256)]
)
def test_heads(library: Library, heads: int, head_width: int) -> None:
    maps = [(9, 10, 3), (5, 4, 0)]
    check(library, make_inputs(maps, heads * head_width), **layout(maps, 6, heads))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_random_shapes(library: Library, data: st.DataObject) -> None:
    window = data.draw(st.integers(1, 20))
    side = st.integers(1, 30)
    maps = data.draw(st.lists(st.tuples(side, side, st.integers(0, window - 1)), min_size=1, max_size=3))
    heads, head_width = data.draw(st.integers(1, 3)), 4 * data.draw(st.integers(1, 20))
    inputs = make_inputs(maps, heads * head_width, images=data.draw(st.integers(1, 2)))
    check(library, inputs, **layout(maps, window, heads))


def test_padding_is_keys_and_values_only(library: Library) -> None:
    maps = [(5, 6, 2)]
    inputs = make_inputs(maps, 8)
    out = library.run(OPERATOR, inputs, **layout(maps, 4, 2))[0]
    inputs["padding"][:, :8] = np.nan  # its query
    np.testing.assert_array_equal(library.run(OPERATOR, inputs, **layout(maps, 4, 2))[0], out)
    inputs["padding"][:, 23] = np.nan  # its value, in head 1
    broken = library.run(OPERATOR, inputs, **layout(maps, 4, 2))[0].reshape(5, 6, 8)
    padded = np.ones((5, 6), bool)
    padded[2:, 2:] = False  # the one window that is full, rows and columns 2 to 5
    padded[2:5, 2:6] = True  # its last row lies behind the map
    assert np.isnan(broken[padded][:, 7]).all()
    np.testing.assert_array_equal(broken[..., :7], out.reshape(5, 6, 8)[..., :7])


def test_windows_do_not_see_each_other(library: Library) -> None:
    maps = [(8, 8, 0), (4, 4, 0)]
    inputs = make_inputs(maps, 8)
    attributes = layout(maps, 4, 2)
    clean = library.run(OPERATOR, inputs, **attributes)[0]
    for token, window in ((0, (slice(0, 4), slice(0, 4))), (63, (slice(4, 8), slice(4, 8))), (70, None)):
        changed = {name: x.copy() for name, x in inputs.items()}
        changed["qkv"][token, 8:] = np.nan
        out = check(library, changed, **attributes)
        broken = np.zeros(80, bool)
        if window is None:
            broken[64:] = True
        else:
            broken[:64].reshape(8, 8)[window] = True
        assert np.isnan(out[broken]).all()
        np.testing.assert_array_equal(out[~broken], clean[~broken])


def test_a_query_of_its_own(library: Library) -> None:
    """What is wrong with one query concerns its head of its row alone."""
    maps = [(10, 9, 3)]
    inputs, attributes = make_inputs(maps, 16), layout(maps, 6, 2)
    clean = library.run(OPERATOR, inputs, **attributes)[0]
    for value in (np.nan, np.inf, -np.inf):
        for token in (0, 47, 89):
            changed = {name: x.copy() for name, x in inputs.items()}
            changed["qkv"][token, 9] = value
            out = library.run(OPERATOR, changed, **attributes)[0]
            assert np.isnan(out[token, 8:]).all()
            np.testing.assert_array_equal(np.delete(out, token, axis=0), np.delete(clean, token, axis=0))
            np.testing.assert_array_equal(out[token, :8], clean[token, :8])


@pytest.mark.parametrize("scale", [1e-20, 30.0])
def test_scattered_logits(library: Library, scale: float) -> None:
    maps = [(16, 16, 0)]
    inputs = make_inputs(maps, 32)
    inputs["qkv"][:, :32] *= scale
    out = library.run_all_ways(OPERATOR, inputs, constant=CONSTANT, **layout(maps, 16, 1))
    truth, plain = (
        twins.window_attention(*inputs.values(), **layout(maps, 16, 1), dtype=dtype)
        for dtype in (np.float64, np.float32)
    )
    # on average: the largest error is that of the one query whose two best keys are nearest to a tie
    assert np.abs(out - truth).mean() <= 2 * np.abs(plain - truth).mean() + 2.0**-21 * np.abs(truth).mean()


def test_no_tokens(library: Library) -> None:
    maps = [(5, 4, 1)]
    inputs = make_inputs(maps, 8, images=0)
    assert library.run_all_ways(OPERATOR, inputs, constant=CONSTANT, **layout(maps, 2, 1)).shape == (0, 8)


def test_bad_inputs(library: Library) -> None:
    maps = [(3, 4, 1)]
    good = make_inputs(maps, 32)

    def fails(message: str, **changes: Any) -> None:
        attributes = layout(maps, 2, 1) | {name: changes.pop(name) for name in list(changes) if name not in good}
        library.fails(message, OPERATOR, good | changes, **attributes)

    fails(r"expected qkv float32 \[T, 3\*D\], got float32 \[96\]", qkv=good["qkv"][0])
    fails(
        r"expected qkv float32 \[T, 3\*D\] with D / heads a multiple of 4 from 4 to 256, got 3\*D = 95 for 1",
        qkv=good["qkv"][:, 1:],
    )
    fails(r"expected qkv .* got 3\*D = 96 for 3 heads", heads=3)
    fails(r"expected qkv .* got 3\*D = 0 for 1 heads", qkv=good["qkv"][:, :0])
    fails(r"expected qkv .* got 3\*D = 780 for 1 heads", qkv=np.zeros((12, 780), np.float32))
    fails(r"expected T to be a multiple of the maps' 12 tokens, got 11", qkv=good["qkv"][1:])
    fails(r"expected padding float32 \[1, 3\*D=96\], got float32 \[96\]", padding=good["padding"][0])
    fails(r"expected padding float32 \[1, 3\*D=96\], got float32 \[1, 95\]", padding=good["padding"][:, 1:])
    fails(r"expected attribute heads to be at least 1, got 0", heads=0)
    fails(r"expected attribute window to be from 1 to 1024, got 0", window=0)
    fails(r"expected attribute window to be from 1 to 1024, got 1025", window=1025)
    fails(r"expected attribute heights to be a list of integers, got another type", heights=3)
    fails(r"expected attributes heights, widths and offsets of the same maps, .* got 2, 1 and 1", heights=[3, 3])
    for bad in ({"heights": [0]}, {"widths": [-1]}, {"offsets": [2]}, {"offsets": [-1]}, {"heights": [2**31]}):
        fails(r"expected maps of at least 1 x 1 tokens at an offset from 0 to window - 1, got ", **bad)
    large = {"heights": [2**20, 2**20], "widths": [2**10, 2**11], "offsets": [0, 0]}
    fails(r"expected at most 2147483647 tokens of an image, got 1048576 x 2048 at 0", **large)
