"""LowRankLinear, LowRankLinearGated and LowRankAdd."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from operators import twins
from operators.harness import Array, Library, assert_accurate
from tolerances import TOLERANCES

# Rank, outputs: around the vector widths, odd, and the release's.
SIZES = [(1, 2), (3, 4), (8, 16), (17, 14), (31, 34), (33, 64), (65, 98), (96, 96), (128, 128), (192, 64)]
COLUMN = 2  # what is known begins there


def normal(*shape: int, scale: float = 1.0) -> NDArray[np.float32]:
    return (scale * np.random.default_rng(shape).standard_normal(shape)).astype(np.float32)


def tokens(rows: int, share: float) -> NDArray[np.int64]:
    """About a share of the tokens, ascending."""
    return np.flatnonzero(np.random.default_rng(rows).random(rows) < share)


def folded(rows: int, rank: int, outputs: int, channels: int, epsilon: float = 1e-5) -> tuple[dict[str, Array], Array]:
    """What the operator takes of x0, B, s and a layer after a LayerNorm, in float64, and the layer of `x0 + B s`."""
    rng = np.random.default_rng([rows, rank, outputs])
    x0, basis, state = (rng.standard_normal(shape) for shape in ((rows, channels), (channels, rank), (rows, rank)))
    basis /= rank**0.5
    scale, shift = 1 + rng.standard_normal(channels) / 10, rng.standard_normal(channels)
    weight, bias = rng.standard_normal((outputs, channels)) / channels**0.5, rng.standard_normal(outputs)
    expected = twins.norm_linear(x0 + state @ basis.T, scale, shift, weight, bias, epsilon=epsilon)
    scaled = weight * scale
    centred, basis = scaled - scaled.mean(1, keepdims=True), basis - basis.mean(0)
    x0 -= x0.mean(1, keepdims=True)
    known = [np.full((rows, COLUMN), np.nan), x0 @ centred.T, x0 @ basis, (x0**2).sum(1, keepdims=True)]
    inputs = {
        "known": np.concatenate([*known, np.full((rows, 1), np.nan)], axis=1),
        "state": state,
        "inside": np.zeros(0, np.int64),
        "weight": centred @ basis,
        "root": np.linalg.qr(basis, mode="r"),
        "bias": bias + weight @ shift,
    }
    return inputs, expected


def layer(rows: int, rank: int, outputs: int, channels: int, share: float) -> dict[str, Array]:
    inputs, _ = folded(rows, rank, outputs, channels)
    single = {name: x.astype(np.float32) for name, x in inputs.items()} | {"inside": tokens(rows, share)}
    for name in ("known", "state"):
        single[name][single["inside"]] = np.nan  # nothing is read of them
    return single


def sum_of(rows: int, rank: int, outputs: int, share: float) -> dict[str, Array]:
    inside = tokens(rows, share)
    return {
        "known": normal(rows, COLUMN + outputs + 1),
        "state": normal(rows, rank),
        "inside": inside,
        "rows": normal(len(inside), outputs),
        "wanted": tokens(rows, 0.7),
        "weight": normal(outputs, rank, scale=rank**-0.5),
        "bias": normal(outputs),
    }


@pytest.mark.parametrize("channels", [12, 70])
def test_it_is_the_layer_of_the_whole_token(channels: int) -> None:
    """In float64: the same, whether the rank is smaller than a token or not."""
    inputs, expected = folded(50, 20, 8, channels)
    actual = twins.low_rank_linear(*inputs.values(), column=COLUMN, channels=channels)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("activation", ["none", "gated"])
def test_linear_against_twin(library: Library, sizes: tuple[int, int], activation: Any) -> None:
    for rows, share in ((1, 0), (13, 0.3), (131, 0.5)):
        case = layer(rows, *sizes, 40, share)
        given = {"column": COLUMN, "channels": 40, "activation": activation}
        out = library.run_all_ways("LowRankLinear", case, constant=("weight", "root", "bias"), **given)
        assert_accurate(out, twins.low_rank_linear, *case.values(), **given)
        assert not out[case["inside"]].any()


@pytest.mark.parametrize("sizes", SIZES)
def test_add_against_twin(library: Library, sizes: tuple[int, int]) -> None:
    for rows, share in ((1, 0), (13, 0.3), (131, 0.5), (200, 1)):
        case = sum_of(rows, *sizes, share)
        out = library.run_all_ways("LowRankAdd", case, constant=("weight", "bias"), column=COLUMN)
        assert_accurate(out, twins.low_rank_add, *case.values(), column=COLUMN)
        given = np.isin(case["wanted"], case["inside"])
        np.testing.assert_array_equal(
            out[given], case["rows"][np.isin(case["inside"], case["wanted"])], err_msg="rows as they are given"
        )


def test_nobody_wanted_and_nobody_outside(library: Library) -> None:
    case = sum_of(9, 3, 4, 1)
    for wanted in (np.zeros(0, np.int64), np.arange(9), np.array([8])):
        out = library.run("LowRankAdd", case | {"wanted": wanted}, column=COLUMN)[0]
        np.testing.assert_array_equal(out, case["rows"][wanted])
    out = library.run("LowRankLinear", layer(9, 3, 4, 5, 1), column=COLUMN, channels=5)[0]
    np.testing.assert_array_equal(out, np.zeros((9, 4)))
    case = layer(0, 3, 4, 5, 0)
    assert library.run("LowRankLinear", case, column=COLUMN, channels=5)[0].shape == (0, 4)


@pytest.mark.parametrize("activation", ["none", "gated"])
def test_epsilon_and_a_norm_that_rounding_made_negative(library: Library, activation: Any) -> None:
    case = layer(20, 17, 6, 30, 0.2)
    case["known"][3, COLUMN + 6 + 17] = -1e6
    for epsilon in (1e-5, 0.7):
        given = {"column": COLUMN, "channels": 30, "epsilon": epsilon, "activation": activation}
        out = library.run("LowRankLinear", case, **given)[0]
        assert np.isfinite(out).all()
        assert_accurate(out, twins.low_rank_linear, *case.values(), **given)


@pytest.mark.parametrize("operator", ["LowRankLinear", "LowRankAdd"])
def test_rows_do_not_see_each_other(library: Library, operator: str) -> None:
    case = layer(90, 33, 20, 40, 0.1) if operator == "LowRankLinear" else sum_of(90, 33, 20, 0.1)
    if operator == "LowRankAdd":
        case["wanted"] = np.arange(90)
    given = {"column": COLUMN} | ({"channels": 40} if operator == "LowRankLinear" else {})
    out = library.run(operator, case, **given)[0]
    outside = np.setdiff1d(np.arange(90), case["inside"])
    broken = {name: case[name].copy() for name in ("known", "state")}
    broken["state"][outside[4], 9], broken["known"][outside[7], COLUMN] = np.nan, np.inf
    again = library.run(operator, case | broken, **given)[0]
    assert np.isnan(again[outside[4]]).all()
    assert np.isinf(again[outside[7], 0])
    others = np.delete(np.arange(90), outside[[4, 7]])
    np.testing.assert_array_equal(again[others], out[others])


def test_as_a_whole_it_is_as_exact_as_the_layer(library: Library) -> None:
    """Of what is rounded to float32 once: near the layer of the token itself in float64."""
    inputs, expected = folded(300, 96, 96, 256)
    single = {name: x if x.dtype == np.int64 else x.astype(np.float32) for name, x in inputs.items()}
    out = library.run("LowRankLinear", single, column=COLUMN, channels=256)[0]
    error = np.abs(out - expected).max() / np.abs(expected).max()
    assert error <= TOLERANCES["low rank", "float32"].rtol


def zeros(*shape: int) -> NDArray[np.float32]:
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize(
    ("operator", "name", "value", "message"),
    [
        ("LowRankLinear", "known", zeros(6, 9), r"expected known float32 \[L, W\] with W >= 8 from column 2 on, got W"),
        ("LowRankLinear", "state", zeros(6, 4), r"expected state float32 \[L=6, r=3\], got float32 \[6, 4\]"),
        ("LowRankLinear", "state", zeros(5, 3), r"expected state float32 \[L=6, r=3\], got float32 \[5, 3\]"),
        ("LowRankLinear", "inside", np.array([3, 3]), r"expected inside strictly ascending in \[0, 6\), got 3 after 3"),
        ("LowRankLinear", "weight", zeros(0, 3), r"expected weight \[N, r\] with r >= 1 and N >= 1, got \[0, 3\]"),
        ("LowRankLinear", "root", zeros(4, 3), r"expected root \[m, r\] with m <= r, got m = 4"),
        ("LowRankLinear", "root", zeros(2, 2), r"expected root float32 \[m, r=3\], got float32 \[2, 2\]"),
        ("LowRankLinear", "bias", zeros(3), r"expected bias float32 \[N=4\], got float32 \[3\]"),
        ("LowRankAdd", "rows", zeros(9, 4), r"expected rows float32 \[B=\d, N=4\], got float32 \[9, 4\]"),
        ("LowRankAdd", "wanted", np.array([6]), r"expected wanted strictly ascending in \[0, 6\), got 6"),
        ("LowRankAdd", "known", zeros(6, 5), r"expected known float32 \[L, W\] with W >= 4 from column 2 on, got W"),
        ("LowRankAdd", "bias", zeros(3), r"expected bias float32 \[N=4\], got float32 \[3\]"),
    ],
)
def test_bad_inputs(library: Library, operator: str, name: str, value: Array, message: str, constant: bool) -> None:
    case = layer(6, 3, 4, 5, 0.3) if operator == "LowRankLinear" else sum_of(6, 3, 4, 0.3)
    given = {"column": COLUMN} | ({"channels": 5} if operator == "LowRankLinear" else {})
    weights = [name for name in case if name in ("weight", "root", "bias")]
    library.fails(message, operator, case | {name: value}, constant=weights if constant else [], **given)


def test_bad_attributes(library: Library) -> None:
    case = layer(6, 3, 4, 5, 0.3)
    library.fails("expected attribute channels to be at least 1, got 0", "LowRankLinear", case, column=0)
    library.fails("expected attribute column to be at least 0, got -1", "LowRankLinear", case, column=-1, channels=5)
    odd = case | {"weight": zeros(3, 3), "bias": zeros(3)}
    message = r"expected weight \[N, r\] with r >= 1 and N >= 1, N even, got \[3, 3\]"
    library.fails(message, "LowRankLinear", odd, channels=5, activation="gated")
