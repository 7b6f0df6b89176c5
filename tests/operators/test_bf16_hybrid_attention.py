"""Bf16HybridAttention: HybridAttention, its full attention in bfloat16 on the tiers that have a matrix unit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from operators import twins
from operators.harness import ALL_TIERS, FEATURES, Array, Library, random_shapes
from operators.test_hybrid_attention import CONSTANT, make_inputs, spread

pytestmark = pytest.mark.parametrize("library", ALL_TIERS, indirect=True)

OPERATOR = "Bf16HybridAttention"
FLOAT32 = "HybridAttention"


def rounds(library: Library, head_width: int) -> bool:
    return "amx-tile" in FEATURES[library.tier] and head_width % 32 == 0 and head_width <= 128


def run(library: Library, inputs: dict[str, Array], operator: str = OPERATOR, **attributes: Any) -> Array:
    return library.run(operator, inputs, **attributes)[0]


def check(library: Library, inputs: dict[str, Array], **attributes: Any) -> Array:
    """Runs all ways; edge rows are those of a twin that rounds as much, all others have HybridAttention's bits."""
    out = library.run_all_ways(OPERATOR, inputs, constant=CONSTANT, **attributes)
    float32 = run(library, inputs, FLOAT32, **attributes)
    if not rounds(library, out.shape[1] // attributes["heads"]):
        np.testing.assert_array_equal(out, float32)
        return out
    edge = inputs["edge_tokens"]
    others = np.setdiff1d(np.arange(len(out)), edge)
    np.testing.assert_array_equal(out[others], float32[others])
    if len(edge) > 0:
        exact, rounded = (twins.hybrid_attention(*inputs.values(), **attributes, bf16=x)[edge] for x in (False, True))
        assert_rounds_as_the_twin(out[edge], exact, rounded)
    return out


def assert_rounds_as_the_twin(out: Array, exact: Array, rounded: Array) -> None:
    """As far from the truth as a twin that rounds as many numbers, though other weights.

    Of this file's cases with at least 500 numbers the error was at most 1.11 times the twin's, root mean square, and
    1.29 times, the largest; of fewer numbers it is a matter of chance.
    """
    floor = 2.0**-22 * np.abs(exact).max(initial=0)
    error, allowed = np.abs(out - exact), np.abs(rounded - exact)
    chance = 1.15 if error.size >= 500 else 2
    assert np.sqrt((error**2).mean()) <= chance * np.sqrt((allowed**2).mean()) + floor
    assert error.max() <= 3 * allowed.max() + floor


@pytest.mark.parametrize("quantizer", ["bsq", "vq"])
@pytest.mark.parametrize("edges", ["none", "few", "half", "all"])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (3, 3), (5, 13), (16, 17), (24, 23), (40, 41)])
def test_grids(library: Library, height: int, width: int, edges: str, quantizer: str) -> None:
    """Up to several chunks of keys, the last of them incomplete."""
    length = height * width
    count = {"none": 0, "few": min(length, 3), "half": length // 2, "all": length}[edges]
    inputs = make_inputs(length, spread(length, count), quantizer=quantizer)
    check(library, inputs, heads=1, grid_width=width, quantizer=quantizer)


@pytest.mark.parametrize(
    ("heads", "head_width"),
    [(1, 4), (1, 36), (2, 16), (1, 160), (2, 32), (3, 64), (1, 96), (3, 128), (16, 32), (1, 256)],
)
@pytest.mark.parametrize("length", [120, 1632])
def test_heads(library: Library, length: int, heads: int, head_width: int) -> None:
    inputs = make_inputs(length, spread(length, 70), width=heads * head_width, codes=5)
    check(library, inputs, heads=heads, grid_width=12)


@random_shapes
@given(data=st.data())
def test_random_shapes(library: Library, data: st.DataObject) -> None:
    grid_width, rows = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    heads, head_width = data.draw(st.integers(1, 3)), 32 * data.draw(st.integers(1, 4))
    length = grid_width * rows
    edge = spread(length, data.draw(st.integers(0, length)))
    check(library, make_inputs(length, edge, width=heads * head_width), heads=heads, grid_width=grid_width)


@pytest.mark.parametrize("scale", [1e-20, 5.0, 30.0, 1e4])
@pytest.mark.parametrize(("heads", "head_width"), [(1, 32), (2, 64)])
def test_scattered_logits(library: Library, scale: float, heads: int, head_width: int) -> None:
    """Also where the largest logit is far above those of the keys that come first."""
    width = heads * head_width
    inputs = make_inputs(1200, spread(1200, 500), width=width)
    inputs["qkv"][:, :width] *= scale
    check(library, inputs, heads=heads, grid_width=30)


@pytest.mark.parametrize("key", [0, 31, 32, 511, 512, 1039])
@pytest.mark.parametrize("by", [14.0, 40.0, 47.0, 52.0, 1000.0])
def test_one_logit_above_the_others(library: Library, key: int, by: float) -> None:
    """The key gets most of the weight wherever it stands, and takes back what others had before it."""
    inputs = make_inputs(1040, np.arange(1040))
    qkv = inputs["qkv"]
    qkv[:, :64] = 0
    qkv[:, 14] = 2.0  # which the grid of one row does not turn
    qkv[key, 32 + 14] = by
    out = check(library, inputs, heads=1, grid_width=1040)
    if by >= 47:
        np.testing.assert_allclose(out, np.broadcast_to(qkv[key, 64:], out.shape), rtol=2.0**-7)


@pytest.mark.parametrize("side", [1, -1])
def test_distant_logits(library: Library, side: int) -> None:
    """All logits near 1e4 or -1e4, where float32 has a thousandth left of them."""
    inputs = make_inputs(600, np.arange(600))
    inputs["qkv"][:, 14], inputs["qkv"][:, 32 + 14] = side * 240, 240  # a grid of one row leaves this channel unturned
    out = run(library, inputs, heads=1, grid_width=600)
    exact, rounded = (twins.hybrid_attention(*inputs.values(), heads=1, grid_width=600, bf16=x) for x in (False, True))
    limit = np.abs(rounded - exact).max() if rounds(library, 32) else 0
    assert np.abs(out - exact).max() <= 2 * limit + 4e-3 * np.abs(exact).max()


@pytest.mark.parametrize("heads", [1, 2])
def test_what_is_not_finite(library: Library, heads: int) -> None:
    """A query concerns its own row, which has HybridAttention's bits; a key or a value, all edge rows."""
    length, head_width = 600, 32
    width = heads * head_width
    given: dict[str, Any] = {"heads": heads, "grid_width": 30}
    inputs = make_inputs(length, np.delete(np.arange(length), [3, 70]), width=width)
    clean = run(library, inputs, **given)
    for value in (np.nan, np.inf, -np.inf, 1e30, 3e38):
        for column in (5, width + 5, 2 * width + 5):
            changed = inputs | {"qkv": inputs["qkv"].copy()}
            changed["qkv"][40, column] = value
            out, float32 = (run(library, changed, operator, **given) for operator in (OPERATOR, FLOAT32))
            if column == 5:
                np.testing.assert_array_equal(np.delete(out, 40, axis=0), np.delete(clean, 40, axis=0))
                np.testing.assert_array_equal(out[40], float32[40])
            else:
                np.testing.assert_array_equal(out, float32)


def test_an_infinite_query_and_keys_of_zeros(library: Library) -> None:
    """Their logits are NaN."""
    inputs = make_inputs(64, np.arange(64))
    inputs["qkv"][:, 32:64] = 0
    inputs["qkv"][9, 3] = np.inf
    out = run(library, inputs, heads=1, grid_width=8)
    assert np.flatnonzero(np.isnan(out).any(1)).tolist() == [9]


@pytest.mark.parametrize("scale", [0.0, 2.0**-100, 2.0**-41, 2.0**50, 2.0**57, 2.0**100])
def test_values_of_any_size(library: Library, scale: float) -> None:
    """Results scale with the values."""
    inputs = make_inputs(900, np.arange(900))
    inputs["qkv"][:, :32] *= 3
    inputs["qkv"][:, 64:] *= scale
    out = check(library, inputs, heads=1, grid_width=30)
    assert np.isfinite(out).all()


# ---- What is known of another call.

SIDE = 24
LENGTH = SIDE * SIDE


def known_of(library: Library, qkv: Array) -> dict[str, Array]:
    out, logsum = library.run("FullAttention", {"qkv": qkv}, heads=1, grid_width=SIDE)
    return {"known_qkv": qkv.copy(), "known_out": out, "known_logsum": logsum}


@pytest.mark.parametrize("quantizer", ["bsq", "vq"])
def test_few_tokens_changed(library: Library, quantizer: str) -> None:
    """Rows that follow from known ones have HybridAttention's bits; those of changed tokens are computed anew."""
    inputs = make_inputs(LENGTH, spread(LENGTH, 400), quantizer=quantizer)
    edge = inputs["edge_tokens"]
    given: dict[str, Any] = {"heads": 1, "grid_width": SIDE, "quantizer": quantizer}
    known = known_of(library, inputs["qkv"])
    changed = edge[::20]
    inputs["qkv"][changed] += np.float32(0.25)
    out = library.run_all_ways(OPERATOR, inputs | known, constant=CONSTANT, **given)
    float32 = run(library, inputs | known, FLOAT32, **given)
    if not rounds(library, 32):
        np.testing.assert_array_equal(out, float32)
        return
    anew = np.flatnonzero((out != float32).any(1))
    assert set(changed) <= set(anew)
    assert len(anew) < 2 * len(changed)
    np.testing.assert_array_equal(out[anew], run(library, inputs | {"edge_tokens": anew}, **given)[anew])


def test_many_tokens_changed(library: Library) -> None:
    """What is known is not looked at."""
    inputs = make_inputs(LENGTH, np.arange(LENGTH))
    known = known_of(library, inputs["qkv"] + np.float32(0.25))
    out, anew = (run(library, x, heads=1, grid_width=SIDE) for x in (inputs | known, inputs))
    np.testing.assert_array_equal(out, anew)


def test_no_tokens(library: Library) -> None:
    assert run(library, make_inputs(0, []), heads=1, grid_width=4).shape == (0, 32)


def test_bad_inputs(library: Library) -> None:
    inputs = make_inputs(12, [1, 5])
    library.fails(r"expected qkv .* got 3\*D = 96 for 3 heads", OPERATOR, inputs, heads=3, grid_width=4)
    inputs["edge_tokens"][:] = 5, 1
    library.fails("expected edge", OPERATOR, inputs, grid_width=4)
