from __future__ import annotations

from typing import Any, Literal

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray
from operators import twins
from operators.harness import ALL_TIERS, Array, Library, assert_accurate
from operators.test_linear import check_in_place

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


# ---- What stands around a layer.

NORMED: dict[str, Any] = {"Int8NormLinear": twins.int8_norm_linear, "Bf16NormLinear": twins.bf16_norm_linear}
ADDED: dict[str, Any] = {"Int8LinearAdd": twins.int8_linear_add, "Bf16LinearAdd": twins.bf16_linear_add}
# Besides the error of the plain formula, as a share of the largest value: another compiler's LayerNorm may round one
# number to the neighbouring code or bfloat16, where the plain formula does not. At three numbers a row, such a step of
# a number of size 1 makes about so much, and less at more.
STEP = {"Int8NormLinear": 1e-2, "Bf16NormLinear": 5e-3}
# As above, around blocks of rows, and one whose results are so many that they go past the caches.
AROUND_SIZES = [*SIZES[:-1], (289, 40, 70), (1100, 24, 960)]


def around_inputs(operator: str, rows: int, inputs: int, outputs: int) -> dict[str, Array]:
    """Of an operator of NORMED or ADDED."""
    x, *weights = OPERATORS[f"{operator[:4]}Linear"][0](rows, inputs, outputs).items()
    if operator in ADDED:
        return dict([x, ("residual", floats(rows, outputs, scale=2)), *weights])
    norm = {"norm_weight": 1 + floats(inputs, scale=0.1), "norm_bias": floats(inputs, scale=0.1)}
    return dict([x, *norm.items(), *weights])


def weights_of(case: dict[str, Array]) -> list[str]:
    return [name for name in case if name not in ("x", "residual")]


def signs(rows: int, width: int) -> NDArray[np.float32]:
    """Rows of as many 1 as -1, times a power of 2: what a LayerNorm without epsilon makes of them is exact."""
    rng = np.random.default_rng((rows, width))
    row = np.repeat(np.float32([1, -1]), width // 2)
    return np.stack([np.ldexp(rng.permutation(row), rng.integers(-3, 4)) for _ in range(rows)])


@pytest.mark.parametrize("activation", ["none", "gelu"])
@pytest.mark.parametrize("sizes", AROUND_SIZES)
@pytest.mark.parametrize("operator", NORMED)
def test_norm_against_twin(
    library: Library, operator: str, sizes: tuple[int, int, int], activation: Activation
) -> None:
    case = around_inputs(operator, *sizes)
    case["x"] += np.float32(3)
    options: dict[str, Any] = {"epsilon": 0.01, "activation": activation}
    out = library.run_all_ways(operator, case, constant=weights_of(case), **options)
    assert_accurate(out, NORMED[operator], *case.values(), extra=STEP[operator], **options)


@pytest.mark.parametrize("activation", ["none", "gelu"])
@pytest.mark.parametrize("sizes", [(1, 2, 1), (33, 30, 31), (300, 64, 65), (330, 768, 96), (20, 800, 800)])
@pytest.mark.parametrize("operator", NORMED)
def test_norm_is_one_before_the_layer(
    library: Library, operator: str, sizes: tuple[int, int, int], activation: Activation
) -> None:
    """Bit for bit, where the LayerNorm rounds nowhere."""
    case = around_inputs(operator, *sizes)
    case["x"] = signs(*sizes[:2])
    for name in ("norm_weight", "norm_bias"):  # so that their sums are exact, too
        case[name] = np.rint(case[name] * 256) / np.float32(256)
    alone = {name: case[name] for name in case if not name.startswith("norm")}
    alone["x"] = np.sign(case["x"]) * case["norm_weight"] + case["norm_bias"]
    expected = run(library, operator.replace("Norm", ""), alone, activation=activation)
    out = run(library, operator, case, epsilon=0.0, activation=activation)
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("sizes", AROUND_SIZES)
@pytest.mark.parametrize("operator", ADDED)
def test_add_is_one_behind_the_layer(library: Library, operator: str, sizes: tuple[int, int, int]) -> None:
    """Near the twin, and bit for bit the layer alone and a sum."""
    case = around_inputs(operator, *sizes)
    out = library.run_all_ways(operator, case, constant=weights_of(case))
    assert_accurate(out, ADDED[operator], *case.values())
    alone = {name: value for name, value in case.items() if name != "residual"}
    expected = case["residual"] + run(library, operator.replace("Add", ""), alone)
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("needed_later", [False, True])
@pytest.mark.parametrize("sizes", [(131, 33, 20), (300, 70, 96), (1100, 24, 960), (40, 800, 800)])
@pytest.mark.parametrize("operator", ADDED)
def test_add_in_place(library: Library, operator: str, sizes: tuple[int, int, int], needed_later: bool) -> None:
    check_in_place(library, operator, around_inputs(operator, *sizes), needed_later=needed_later)


@pytest.mark.parametrize("operator", [*NORMED, *ADDED])
def test_rows_around_a_layer_do_not_see_each_other(library: Library, operator: str) -> None:
    """What is not finite stays in its row, too."""
    case = around_inputs(operator, 400, 35, 18)
    out = run(library, operator, case)
    some = {name: x[5:400:7] if name in ("x", "residual") else x for name, x in case.items()}
    np.testing.assert_array_equal(run(library, operator, some), out[5:400:7])
    broken = [3, 31, 32, 399]
    case["x"][broken, 9] = np.nan, np.inf, -np.inf, np.nan
    again = run(library, operator, case)
    np.testing.assert_array_equal(np.delete(again, broken, 0), np.delete(out, broken, 0))
    assert not np.isfinite(again[broken]).any()
    if operator in ADDED:
        case = around_inputs(operator, 400, 35, 18)
        case["residual"][31, 7] = np.inf
        again = run(library, operator, case)
        assert again[31, 7] == np.inf
        again[31, 7] = out[31, 7]
        np.testing.assert_array_equal(again, out)


@pytest.mark.parametrize("operator", [*NORMED, *ADDED])
def test_no_rows_around_a_layer(library: Library, operator: str) -> None:
    assert run(library, operator, around_inputs(operator, 0, 8, 9)).shape == (0, 9)


@pytest.mark.parametrize("operator", NORMED)
def test_epsilon(library: Library, operator: str) -> None:
    """It is the LayerNorm's, and 1e-5 unless it is given."""
    case = around_inputs(operator, 7, 24, 48)
    case["x"] *= np.float32(1e-3)
    default, other = (run(library, operator, case, **given) for given in ({}, {"epsilon": 1.0}))
    np.testing.assert_array_equal(default, run(library, operator, case, epsilon=1e-5))
    assert np.abs(default - other).max() > 0.1


def zeros(*shape: int) -> NDArray[np.float32]:
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize(
    ("operator", "name", "value", "message"),
    [
        ("Int8NormLinear", "x", zeros(6, 5), r"expected x float32 \[T, K=4\], got float32 \[6, 5\]"),
        ("Int8NormLinear", "norm_weight", zeros(3), r"expected norm_weight float32 \[K=4\], got float32 \[3\]"),
        ("Int8NormLinear", "norm_bias", zeros(5), r"expected norm_bias float32 \[K=4\], got float32 \[5\]"),
        ("Int8NormLinear", "weight", zeros(3, 4), r"expected weight int8 \[N, K\], got float32 \[3, 4\]"),
        ("Int8NormLinear", "scale", zeros(4), r"expected scale float32 \[N=3\], got float32 \[4\]"),
        ("Bf16NormLinear", "norm_bias", zeros(4, 1), r"expected norm_bias float32 \[K=4\], got float32 \[4, 1\]"),
        ("Bf16NormLinear", "bias", zeros(2), r"expected bias float32 \[N=3\], got float32 \[2\]"),
        ("Int8LinearAdd", "residual", zeros(5, 3), r"expected residual float32 \[T=6, N=3\], got float32 \[5, 3\]"),
        ("Int8LinearAdd", "scale", zeros(4), r"expected scale float32 \[N=3\], got float32 \[4\]"),
        ("Bf16LinearAdd", "residual", zeros(6, 4), r"expected residual float32 \[T=6, N=3\], got float32 \[6, 4\]"),
        ("Bf16LinearAdd", "weight", zeros(3, 4), r"expected weight bfloat16 \[N, K\], got float32 \[3, 4\]"),
    ],
)
def test_bad_inputs_around_a_layer(
    library: Library, operator: str, name: str, value: Array, message: str, constant: bool
) -> None:
    case = around_inputs(operator, 6, 4, 3) | {name: value}
    library.fails(message, operator, case, constant=weights_of(case) if constant else [])


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
