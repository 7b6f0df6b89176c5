from __future__ import annotations

from typing import Any, Literal

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray
from operators import twins
from operators.harness import ALL_TIERS, Array, Library, assert_accurate

pytestmark = pytest.mark.parametrize("library", ALL_TIERS, indirect=True)

Activation = Literal["none", "gelu"]
# Rows, inputs, outputs: around vectors, tiles and blocks, odd, and the release's inputs.
SIZES = [
    (1, 1, 1),
    (2, 3, 5),
    (15, 16, 17),
    (14, 17, 31),
    (29, 33, 32),
    (300, 63, 65),
    (9, 130, 8),
    (43, 768, 96),
    (30, 3072, 48),
    (4000, 5, 3),
]


def floats(*shape: int, scale: float = 1.0) -> NDArray[np.float32]:
    return (scale * np.random.default_rng(shape).standard_normal(shape)).astype(np.float32)


def int8_inputs(rows: int, inputs: int, outputs: int) -> dict[str, Array]:
    weight = floats(outputs, inputs, scale=inputs**-0.5)
    scale = np.abs(weight).max(1) / np.float32(127)
    codes = np.rint(weight / scale[:, None]).astype(np.int8)
    return {"x": floats(rows, inputs), "weight": codes, "scale": scale, "bias": floats(outputs)}


def bf16_inputs(rows: int, inputs: int, outputs: int) -> dict[str, Array]:
    weight = floats(outputs, inputs, scale=inputs**-0.5).astype(ml_dtypes.bfloat16)
    return {"x": floats(rows, inputs), "weight": weight, "bias": floats(outputs)}


OPERATORS: dict[str, tuple[Any, Any]] = {
    "Int8Linear": (int8_inputs, twins.int8_linear),
    "Bf16Linear": (bf16_inputs, twins.bf16_linear),
}


def run(library: Library, operator: str, inputs: dict[str, Array], **attributes: Any) -> Array:
    out: Array = library.run(operator, inputs, **attributes)[0]
    return out


@pytest.mark.parametrize("activation", ["none", "gelu"])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("operator", OPERATORS)
def test_against_twin(library: Library, operator: str, sizes: tuple[int, int, int], activation: Activation) -> None:
    make, twin = OPERATORS[operator]
    case = make(*sizes)
    out = library.run_all_ways(operator, case, constant=[x for x in case if x != "x"], activation=activation)
    assert_accurate(out, twin, *case.values(), activation=activation)


@pytest.mark.parametrize("sizes", SIZES)
def test_int8_is_the_same_on_every_machine(library: Library, sizes: tuple[int, int, int]) -> None:
    """Every rounding is in the contract: bit for bit the formula in float32."""
    case = int8_inputs(*sizes)
    expected = twins.int8_linear(*case.values(), dtype=np.float32)
    np.testing.assert_array_equal(run(library, "Int8Linear", case), expected)


def test_int8_sums_are_exact(library: Library) -> None:
    """Extremes of every sign, and more of them than 16 bits would hold."""
    rng = np.random.default_rng(3)
    for inputs in (1, 2, 5, 600):
        codes = rng.choice([-127, -126, -1, 0, 1, 126, 127], (40, inputs))
        codes[:, 0] = 127  # so that the scale of every row is 1
        codes[:3] = [[127], [-127], [127]]
        weight = rng.choice([-128, -127, -1, 0, 1, 127], (33, inputs)).astype(np.int8)
        weight[:3] = [[127], [-128], [-127]]
        ones, zeros = np.ones(33, np.float32), np.zeros(33, np.float32)
        case = {"x": codes.astype(np.float32), "weight": weight, "scale": ones, "bias": zeros}
        np.testing.assert_array_equal(run(library, "Int8Linear", case), codes @ weight.T.astype(np.int64))


def test_int8_rounds_to_nearest_even(library: Library) -> None:
    halves = np.arange(-126.5, 127, 0.5, np.float32)
    x = np.stack([np.full_like(halves, 127), halves], axis=1)
    case = {"x": x, "weight": np.int8([[0, 1]]), "scale": np.float32([1]), "bias": np.float32([0])}
    np.testing.assert_array_equal(run(library, "Int8Linear", case)[:, 0], np.rint(halves))


def test_every_row_has_its_scale(library: Library) -> None:
    """Rows of all magnitudes, down to those that count as 0, do not disturb each other."""
    case = int8_inputs(60, 40, 20)
    magnitudes = np.float32(2.0) ** np.linspace(-120, 120, 60).astype(np.float32)
    case["x"] *= magnitudes[:, None]
    case["x"][10] = 0
    case["bias"][:] = 0
    out = run(library, "Int8Linear", case)
    np.testing.assert_array_equal(out, twins.int8_linear(*case.values(), dtype=np.float32))
    assert (out[:4] == 0).all()
    assert (out[10] == 0).all()
    exact = case["x"].astype(np.float64) @ (case["weight"] * case["scale"][:, None].astype(np.float64)).T
    used = np.abs(case["x"]).max(1) > 2.0**-99
    error = np.abs(out - exact)[used] / np.abs(exact[used]).max(1, keepdims=True)
    assert error.max() < 0.02


@pytest.mark.parametrize("operator", OPERATORS)
def test_not_finite(library: Library, operator: str) -> None:
    """What is not finite stays in its row, or in its column."""
    case = OPERATORS[operator][0](50, 21, 40)
    clean = run(library, operator, case)
    for row, value in ((3, np.nan), (17, np.inf), (49, -np.inf)):
        case["x"][row, row % 21] = value
    case["bias"][7] = np.inf
    clean[:, 7] = np.inf
    out = run(library, operator, case)
    good = np.setdiff1d(np.arange(50), (3, 17, 49))
    np.testing.assert_array_equal(out[good], clean[good])
    assert not np.isfinite(out[[3, 17, 49]]).any()
    if operator == "Int8Linear":
        assert np.isnan(out[[3, 17, 49]]).all()


def test_bf16_rounds_to_nearest_even(library: Library) -> None:
    bits = np.random.default_rng(5).integers(0x3000_0000, 0x5000_0000, 2000, np.uint32)
    bits[::3] = bits[::3] & 0xFFFF_0000 | 0x8000  # ties
    x = bits.view(np.float32)[:, None]
    case = {"x": x, "weight": np.ones((1, 1), ml_dtypes.bfloat16), "bias": np.zeros(1, np.float32)}
    np.testing.assert_array_equal(run(library, "Bf16Linear", case), x.astype(ml_dtypes.bfloat16).astype(np.float32))


def test_gelu(library: Library) -> None:
    """Of biases, since a product with 0 adds nothing; far out on both sides it is 0 or the number itself."""
    y = np.concatenate([np.linspace(-12, 12, 5001), [-1e30, -100, 100, 1e30, 0, -0.0]]).astype(np.float32)
    nothing = np.zeros((1, 1), np.float32), np.zeros((len(y), 1), np.int8), np.ones(len(y), np.float32)
    case = dict(zip(("x", "weight", "scale", "bias"), (*nothing, y), strict=True))
    out = run(library, "Int8Linear", case, activation="gelu")[0]
    expected = twins.int8_linear(*case.values(), activation="gelu")[0]
    assert (np.abs(out - expected) <= 2e-7 * np.abs(y)).all()


@pytest.mark.parametrize("operator", OPERATORS)
def test_no_rows(library: Library, operator: str) -> None:
    assert run(library, operator, OPERATORS[operator][0](0, 8, 9)).shape == (0, 9)


@pytest.mark.parametrize("operator", OPERATORS)
def test_rows_do_not_see_each_other(library: Library, operator: str) -> None:
    case = OPERATORS[operator][0](400, 35, 18)
    out = run(library, operator, case, activation="gelu")
    part = run(library, operator, case | {"x": case["x"][5:400:7]}, activation="gelu")
    np.testing.assert_array_equal(part, out[5:400:7])


def zeros(*shape: int) -> NDArray[np.float32]:
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize(
    ("operator", "name", "value", "message"),
    [
        ("Int8Linear", "x", zeros(6), r"expected x float32 \[T, K=4\], got float32 \[6\]"),
        ("Int8Linear", "x", zeros(6, 5), r"expected x float32 \[T, K=4\], got float32 \[6, 5\]"),
        ("Int8Linear", "weight", zeros(3, 4), r"expected weight int8 \[N, K\], got float32 \[3, 4\]"),
        (
            "Int8Linear",
            "weight",
            np.zeros((0, 4), np.int8),
            r"expected weight \[N, K\] with N >= 1 and 1 <= K <= 131072",
        ),
        (
            "Int8Linear",
            "weight",
            np.zeros((1, 2**17 + 1), np.int8),
            r"expected weight \[N, K\] with .*, got \[1, 131073\]",
        ),
        ("Int8Linear", "scale", zeros(4), r"expected scale float32 \[N=3\], got float32 \[4\]"),
        ("Int8Linear", "bias", zeros(2), r"expected bias float32 \[N=3\], got float32 \[2\]"),
        ("Bf16Linear", "x", np.zeros((6, 4)), r"expected x float32 \[T, K=4\], got float64 \[6, 4\]"),
        ("Bf16Linear", "weight", zeros(3, 4), r"expected weight bfloat16 \[N, K\], got float32 \[3, 4\]"),
        (
            "Bf16Linear",
            "weight",
            np.zeros(3, ml_dtypes.bfloat16),
            r"expected weight bfloat16 \[N, K\], got bfloat16 \[3\]",
        ),
        (
            "Bf16Linear",
            "weight",
            np.zeros((3, 0), ml_dtypes.bfloat16),
            r"expected weight \[N, K\] with N >= 1 and 1 <= K",
        ),
        ("Bf16Linear", "bias", zeros(2), r"expected bias float32 \[N=3\], got float32 \[2\]"),
    ],
)
def test_bad_inputs(library: Library, operator: str, name: str, value: Array, message: str, constant: bool) -> None:
    case = OPERATORS[operator][0](6, 4, 3) | {name: value}
    library.fails(message, operator, case, constant=[x for x in case if x != "x"] if constant else [])
