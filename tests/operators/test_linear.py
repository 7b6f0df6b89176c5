"""NormLinear and LinearAdd."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from operators import twins
from operators.harness import THREADS, Array, Library, assert_accurate

from inter2former_deploy.core.contract import DOMAIN, DOMAIN_VERSION

# Inputs, outputs: around the vector widths, odd, and the release's.
SIZES = [(1, 1), (3, 5), (16, 8), (17, 15), (31, 33), (33, 64), (64, 31), (65, 97), (256, 96), (32, 256)]
# One that takes several steps over its inputs, and one whose weights are packed at every call.
SIZES += [(1600, 70), (520, 520)]


def normal(*shape: int, scale: float = 1.0, mean: float = 0.0) -> NDArray[np.float32]:
    return (mean + scale * np.random.default_rng(shape).standard_normal(shape)).astype(np.float32)


def norm_linear(rows: int, channels: int, outputs: int) -> dict[str, Array]:
    return {
        "x": normal(rows, channels, mean=0.3),
        "norm_weight": normal(channels, scale=0.1, mean=1),
        "norm_bias": normal(channels, scale=0.1),
        "weight": normal(outputs, channels, scale=channels**-0.5),
        "bias": normal(outputs),
    }


def linear_add(rows: int, channels: int, outputs: int) -> dict[str, Array]:
    return {
        "x": normal(rows, channels),
        "residual": normal(rows, outputs),
        "weight": normal(outputs, channels, scale=channels**-0.5),
        "bias": normal(outputs),
    }


@pytest.mark.parametrize("sizes", SIZES)
def test_against_twins(library: Library, sizes: tuple[int, int]) -> None:
    for rows in (1, 13, 131):
        for operator, twin, case in (
            ("NormLinear", twins.norm_linear, norm_linear(rows, *sizes)),
            ("LinearAdd", twins.linear_add, linear_add(rows, *sizes)),
        ):
            weights = [name for name in case if name not in ("x", "residual")]
            out = library.run_all_ways(operator, case, constant=weights)
            assert_accurate(out, twin, *case.values())


@pytest.mark.parametrize("sizes", [(5, 3), (64, 97), (1600, 33)])
def test_gelu(library: Library, sizes: tuple[int, int]) -> None:
    case = norm_linear(37, *sizes)
    out = library.run_all_ways("NormLinear", case, constant=[name for name in case if name != "x"], activation="gelu")
    assert_accurate(out, twins.norm_linear, *case.values(), activation="gelu")


def test_many_rows(library: Library) -> None:
    """More than the tasks that scratch is kept for have tiles."""
    case = norm_linear(5000, 9, 4)
    out = library.run_all_ways("NormLinear", case)
    assert_accurate(out, twins.norm_linear, *case.values())


@pytest.mark.parametrize("epsilon", [1e-5, 0.7])
def test_epsilon(library: Library, epsilon: float) -> None:
    case = norm_linear(20, 17, 5)
    out = library.run("NormLinear", case, epsilon=epsilon)[0]
    assert_accurate(out, twins.norm_linear, *case.values(), epsilon=epsilon)


def test_a_large_mean_cancels(library: Library) -> None:
    """Variance is of what the mean leaves, not a difference of two large numbers."""
    case = norm_linear(20, 48, 5)
    case["x"] += 1000
    out = library.run("NormLinear", case)[0]
    assert_accurate(out, twins.norm_linear, *case.values())


@pytest.mark.parametrize("operator", ["NormLinear", "LinearAdd"])
def test_rows_do_not_see_each_other(library: Library, operator: str) -> None:
    case = {"NormLinear": norm_linear, "LinearAdd": linear_add}[operator](90, 33, 20)
    out = library.run(operator, case)[0]
    some = {name: x[3:40:2] if name in ("x", "residual") else x for name, x in case.items()}
    np.testing.assert_array_equal(library.run(operator, some)[0], out[3:40:2])
    broken = case["x"].copy()
    broken[[4, 7], 9] = np.nan, np.inf
    again = library.run(operator, case | {"x": broken})[0]
    assert not np.isfinite(again[[4, 7]]).any()
    np.testing.assert_array_equal(np.delete(again, [4, 7], 0), np.delete(out, [4, 7], 0))


@pytest.mark.parametrize("operator", ["NormLinear", "LinearAdd"])
def test_no_rows(library: Library, operator: str) -> None:
    case = {"NormLinear": norm_linear, "LinearAdd": linear_add}[operator](0, 3, 2)
    assert library.run(operator, case)[0].shape == (0, 2)


@pytest.mark.parametrize("needed_later", [False, True])
@pytest.mark.parametrize("sizes", [(32, 256), (33, 20), (1600, 70), (1600, 800), (70, 70)])
def test_in_place(library: Library, sizes: tuple[int, int], needed_later: bool) -> None:
    """In a graph, `out` takes the residual's memory if nobody needs the residual later: the result is the same."""
    check_in_place(library, "LinearAdd", linear_add(131, *sizes), needed_later=needed_later)


def check_in_place(library: Library, operator: str, case: dict[str, Array], *, needed_later: bool) -> None:
    """Of an operator that adds to its input "residual"."""
    expected = library.run(operator, case)[0]
    later = [onnx.helper.make_node("Sub", ["sum", "residual"], ["difference"])] if needed_later else []
    nodes = [
        onnx.helper.make_node("Identity", ["x"], ["own_x"]),
        onnx.helper.make_node("Neg", ["minus_residual"], ["residual"]),
        onnx.helper.make_node(operator, ["own_x", *list(case)[1:]], ["sum"], domain=DOMAIN),
        onnx.helper.make_node("Neg", ["sum"], ["out"]),  # what is an output of the graph has memory of its own
        *later,
    ]
    weights = {name: value for name, value in case.items() if name not in ("x", "residual")}
    fed = {"x": case["x"], "minus_residual": -case["residual"]}

    def value(name: str, shape: tuple[int, ...]) -> onnx.ValueInfoProto:
        return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)

    results = ["out", "difference"] if needed_later else ["out"]
    graph = onnx.helper.make_graph(
        nodes,
        "in_place",
        [value(name, array.shape) for name, array in fed.items()],
        [value(name, expected.shape) for name in results],
        initializer=[onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
        value_info=[value("sum", expected.shape)],  # without it, memory is not shared
    )
    opsets = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid(DOMAIN, DOMAIN_VERSION)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    for threads in THREADS:
        outputs = library.session(model, threads).run(None, fed)
        np.testing.assert_array_equal(outputs[0], -expected)
        if needed_later:
            np.testing.assert_array_equal(outputs[1], expected - case["residual"])


def zeros(*shape: int) -> NDArray[np.float32]:
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize(
    ("operator", "name", "value", "message"),
    [
        ("NormLinear", "x", zeros(6, 5), r"expected x float32 \[L, C=4\], got float32 \[6, 5\]"),
        ("NormLinear", "x", zeros(4), r"expected x float32 \[L, C=4\], got float32 \[4\]"),
        ("NormLinear", "norm_weight", zeros(3), r"expected norm_weight float32 \[C=4\], got float32 \[3\]"),
        ("NormLinear", "norm_bias", zeros(4, 1), r"expected norm_bias float32 \[C=4\], got float32 \[4, 1\]"),
        ("NormLinear", "weight", zeros(4), r"expected weight float32 \[N, C\], got float32 \[4\]"),
        ("NormLinear", "weight", zeros(2, 0), r"expected weight \[N, C\] with N >= 1 and C >= 1, got \[2, 0\]"),
        ("NormLinear", "bias", zeros(2), r"expected bias float32 \[N=3\], got float32 \[2\]"),
        ("LinearAdd", "x", np.zeros((6, 4)), r"expected x float32 \[L, C=4\], got float64 \[6, 4\]"),
        ("LinearAdd", "residual", zeros(5, 3), r"expected residual float32 \[L=6, N=3\], got float32 \[5, 3\]"),
        ("LinearAdd", "residual", zeros(6, 4), r"expected residual float32 \[L=6, N=3\], got float32 \[6, 4\]"),
        ("LinearAdd", "weight", zeros(0, 4), r"expected weight \[N, C\] with N >= 1 and C >= 1, got \[0, 4\]"),
        ("LinearAdd", "bias", zeros(3, 1), r"expected bias float32 \[N=3\], got float32 \[3, 1\]"),
    ],
)
def test_bad_inputs(library: Library, operator: str, name: str, value: Array, message: str, constant: bool) -> None:
    case = {"NormLinear": norm_linear, "LinearAdd": linear_add}[operator](6, 4, 3) | {name: value}
    weights = [name for name in case if name not in ("x", "residual")]
    library.fails(message, operator, case, constant=weights if constant else [])
