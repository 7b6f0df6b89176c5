from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from operators import twins
from operators.harness import ALL_TIERS, Array, Library, assert_accurate
from operators.test_reduced_precision_linear import bf16_inputs, floats, int8_inputs, signs, zeros

pytestmark = pytest.mark.parametrize("library", ALL_TIERS, indirect=True)

OPERATORS: dict[str, tuple[Any, Any]] = {
    "Int8Mlp": (int8_inputs, twins.int8_mlp),
    "Bf16Mlp": (bf16_inputs, twins.bf16_mlp),
}
# Rows, width, hidden numbers: around vectors, tiles and blocks, odd, and the release's.
SIZES = [
    (1, 1, 1),
    (2, 3, 5),
    (15, 16, 17),
    (33, 31, 33),
    (29, 33, 130),
    (300, 64, 65),
    (43, 96, 768),
    (170, 768, 3072),
]
# Besides the error of the plain formula, as a share of the largest value: another compiler's LayerNorm may round one
# number to the neighbouring code or bfloat16, where the plain formula does not. One such step of a number of size 1
# makes about so much at three numbers a row, and less at more. Here 8e-7 was needed, on avx2 and amx, in bfloat16.
STEP = {"Int8Mlp": 1e-3, "Bf16Mlp": 5e-4}


def inputs(operator: str, rows: int, width: int, hidden: int) -> dict[str, Array]:
    make = OPERATORS[operator][0]
    case = {
        "x": floats(rows, width),
        "norm_weight": 1 + floats(width, scale=0.1),
        "norm_bias": floats(width, scale=0.1),
    }
    for number, (depth, outputs) in enumerate(((width, hidden), (hidden, width)), 1):
        case |= {f"{name}{number}": x for name, x in make(1, depth, outputs).items() if name != "x"}
    return case


def weights(case: dict[str, Array]) -> list[str]:
    return [name for name in case if name != "x"]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("operator", OPERATORS)
def test_against_twin(library: Library, operator: str, sizes: tuple[int, int, int]) -> None:
    case = inputs(operator, *sizes)
    out = library.run_all_ways(operator, case, constant=weights(case), epsilon=0.01)
    assert_accurate(out, OPERATORS[operator][1], *case.values(), extra=STEP[operator], epsilon=0.01)


@pytest.mark.parametrize("sizes", [(1, 2, 1), (5, 16, 33), (33, 30, 31), (64, 34, 130), (300, 64, 65), (330, 768, 768)])
@pytest.mark.parametrize("operator", OPERATORS)
def test_the_same_as_its_parts(library: Library, operator: str, sizes: tuple[int, int, int]) -> None:
    """Bit for bit a LayerNorm, two layers and an addition, where the LayerNorm rounds nowhere."""
    case = inputs(operator, *sizes)
    case["x"] = signs(*sizes[:2])
    for name in ("norm_weight", "norm_bias"):  # so that their sums are exact, too
        case[name] = np.rint(case[name] * 256) / np.float32(256)
    normed = np.sign(case["x"]) * case["norm_weight"] + case["norm_bias"]
    linear = operator.replace("Mlp", "Linear")
    layers = [{name[:-1]: x for name, x in case.items() if name.endswith(number)} for number in "12"]
    hidden = library.run(linear, {"x": normed, **layers[0]}, activation="gelu")[0]
    expected = case["x"] + library.run(linear, {"x": hidden, **layers[1]}, activation="none")[0]
    np.testing.assert_array_equal(library.run(operator, case, epsilon=0.0)[0], expected)


@pytest.mark.parametrize("operator", OPERATORS)
def test_not_finite(library: Library, operator: str) -> None:
    """A row with a number that is not finite is NaN, and no other one changes."""
    case = inputs(operator, 80, 21, 40)
    clean = library.run(operator, case)[0]
    bad = {3: np.nan, 17: np.inf, 31: np.nan, 32: -np.inf, 79: np.nan}
    for row, value in bad.items():
        case["x"][row, row % 21] = value
    out = library.run(operator, case)[0]
    good = np.setdiff1d(np.arange(80), list(bad))
    np.testing.assert_array_equal(out[good], clean[good])
    assert np.isnan(out[list(bad)]).all()


@pytest.mark.parametrize("operator", OPERATORS)
def test_no_rows(library: Library, operator: str) -> None:
    assert library.run(operator, inputs(operator, 0, 8, 9))[0].shape == (0, 8)


@pytest.mark.parametrize("operator", OPERATORS)
def test_rows_do_not_see_each_other(library: Library, operator: str) -> None:
    case = inputs(operator, 400, 35, 50)
    out = library.run(operator, case)[0]
    part = library.run(operator, case | {"x": case["x"][5:400:7]})[0]
    np.testing.assert_array_equal(part, out[5:400:7])


@pytest.mark.parametrize("operator", OPERATORS)
def test_epsilon(library: Library, operator: str) -> None:
    """It is the LayerNorm's, and 1e-5 unless it is given."""
    case = inputs(operator, 7, 24, 48)
    case["x"] *= np.float32(1e-3)
    default, other = (library.run(operator, case, **given)[0] for given in ({}, {"epsilon": 1.0}))
    np.testing.assert_array_equal(default, library.run(operator, case, epsilon=1e-5)[0])
    assert np.abs(default - other).max() > 0.1


BAD_INPUTS = [
    ("x", zeros(6, 5), r"expected x float32 \[T, D=4\], got float32 \[6, 5\]"),
    ("norm_weight", zeros(3), r"expected norm_weight float32 \[D=4\], got float32 \[3\]"),
    ("norm_bias", zeros(5), r"expected norm_bias float32 \[D=4\], got float32 \[5\]"),
    ("weight1", zeros(3, 4), r"expected weight1 TYPE \[H, D\], got float32 \[3, 4\]"),
    ("weight1", np.zeros((0, 4)), r"expected weight1 \[H, D\] with H and D from 1 to \d+, got \[0, 4\]"),
    ("bias1", zeros(4), r"expected bias1 float32 \[H=3\], got float32 \[4\]"),
    ("weight2", np.zeros((3, 4)), r"expected weight2 TYPE \[D=4, H=3\], got TYPE \[3, 4\]"),
    ("bias2", zeros(3), r"expected bias2 float32 \[D=4\], got float32 \[3\]"),
]
OF_INT8 = [
    ("scale1", zeros(4), r"expected scale1 float32 \[H=3\], got float32 \[4\]"),
    ("scale2", zeros(3), r"expected scale2 float32 \[D=4\], got float32 \[3\]"),
    ("weight1", np.zeros((2**17 + 1, 1)), r"expected weight1 .* to 131072, got \[131073, 1\]"),
    ("weight1", np.zeros((1, 2**17 + 1)), r"expected weight1 .* to 131072, got \[1, 131073\]"),
]


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize(
    ("operator", "name", "value", "message"),
    [("Int8Mlp", *bad) for bad in BAD_INPUTS + OF_INT8] + [("Bf16Mlp", *bad) for bad in BAD_INPUTS],
)
def test_bad_inputs(library: Library, operator: str, name: str, value: Array, message: str, constant: bool) -> None:
    kind = np.dtype(np.int8 if operator == "Int8Mlp" else ml_dtypes.bfloat16)
    value = value.astype(kind) if value.dtype == np.float64 else value
    case = inputs(operator, 6, 4, 3) | {name: value}
    library.fails(message.replace("TYPE", kind.name), operator, case, constant=weights(case) if constant else [])
