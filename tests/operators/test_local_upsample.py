from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from make_weights import state_dict
from numpy.typing import NDArray
from operators import released, twins
from operators.harness import Array, Library, assert_accurate

WEIGHTS = ("norm_weight", "norm_bias", "conv_weight", "conv_bias")
GRID = 5  # tokens a side of most maps here
BOXES = {  # left, top, right, bottom
    "whole": (0, 0, 5, 5),
    "inside": (1, 2, 4, 4),
    "left": (0, 1, 2, 4),
    "top": (1, 0, 4, 3),
    "right": (3, 1, 5, 4),
    "bottom": (1, 3, 3, 5),
    "one token": (2, 3, 3, 4),
    "one token in a corner": (4, 0, 5, 1),
    "one row": (0, 2, 5, 3),
    "one column": (3, 0, 4, 5),
}


def as_inputs(terms: tuple[Array, ...]) -> dict[str, Array]:
    """Edge terms of the twin under their names."""
    names = ("edge_map", "edge_border", "edge_corner")
    return {name: term.astype(np.float32) for name, term in zip(names, terms, strict=True)}


def make_inputs(
    channels: tuple[int, int], u: int, box: tuple[int, ...], grid: int = GRID, edges: bool = True
) -> dict[str, Array]:
    """A stage of random numbers; without `edges` its edge features are 0."""
    rng = np.random.default_rng([*channels, u, *box])

    def normal(*shape: int, scale: float = 1.0) -> NDArray[np.float32]:
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    (ci, co), side = channels, 2 * u * grid
    left, top, right, bottom = box
    weight = normal(co, ci, 3, 3, scale=(9 * ci) ** -0.5)
    e = rng.standard_normal((side, side, ci)) if edges else np.zeros((side, side, 1))
    terms = twins.edge_terms(e, weight[:, : e.shape[2]].astype(np.float64), grid)
    return {
        "x": 0.3 + normal(u * (bottom - top), u * (right - left), ci),
        "box": np.array(box, np.int64),
        "norm_weight": 1 + normal(ci, scale=0.1),
        "norm_bias": normal(ci, scale=0.1),
        "conv_weight": weight,
        "conv_bias": normal(co, scale=0.1),
        **as_inputs(terms),
    }


def run(library: Library, inputs: dict[str, Array], **changes: Array) -> Array:
    y: Array = library.run("LocalUpsample", inputs | changes)[0]
    return y


@pytest.mark.parametrize("u", [1, 2, 8])
@pytest.mark.parametrize("box", BOXES)
def test_boxes(library: Library, box: str, u: int) -> None:
    for channels in ((16, 4), (4, 1), (3, 16)):
        inputs = make_inputs(channels, u, BOXES[box])
        y = library.run_all_ways("LocalUpsample", inputs, constant=WEIGHTS)
        assert_accurate(y, twins.local_upsample, *inputs.values())


@pytest.mark.parametrize("ci", [1, 2, 3, 4, 7, 8, 16, 33, 64])
@pytest.mark.parametrize("co", [1, 2, 3, 4, 5, 8, 12, 15, 16, 17, 32, 48])
def test_channels(library: Library, ci: int, co: int) -> None:
    inputs = make_inputs((ci, co), 3, BOXES["inside"])
    y = library.run("LocalUpsample", inputs, constant=WEIGHTS)[0]
    assert_accurate(y, twins.local_upsample, *inputs.values())


@pytest.mark.parametrize("columns", [1, 3, 4, 7, 8, 15, 16, 17, 31, 33, 47, 48, 49, 97])
@pytest.mark.parametrize("channels", [(4, 1), (6, 2), (5, 6)])
def test_widths(library: Library, columns: int, channels: tuple[int, int]) -> None:
    inputs = make_inputs(channels, 1, (1, 3, 1 + columns, 5), grid=max(5, columns + 1))
    assert_accurate(run(library, inputs), twins.local_upsample, *inputs.values())


def test_released_channels(library: Library) -> None:
    inputs = make_inputs((256, 64), 1, (1, 0, 9, 6), grid=9)
    y = library.run_all_ways("LocalUpsample", inputs, constant=WEIGHTS)
    assert_accurate(y, twins.local_upsample, *inputs.values())


@pytest.mark.parametrize(
    ("channels", "u", "grid"),
    [
        *(((2, 16), 8, 17), ((2, 1030), 1, 20)),
        *(((1, 1), 16, 32), ((1, 2), 16, 24), ((16, 4), 8, 25), ((3, 4), 8, 12), ((16, 8), 8, 17)),
    ],
)
def test_large_maps(library: Library, channels: tuple[int, int], u: int, grid: int) -> None:
    """Maps that are cut into bands and strips: no seam shows."""
    inputs = make_inputs(channels, u, (0, 0, grid, grid), grid=grid, edges=False)
    y = library.run_all_ways("LocalUpsample", inputs, constant=WEIGHTS)
    assert_accurate(y, twins.local_upsample, *inputs.values())


@pytest.mark.parametrize("activation", ["silu", "none"])
@pytest.mark.parametrize("epsilon", [1e-5, 0.5])
def test_attributes(library: Library, activation: Any, epsilon: float) -> None:
    inputs = make_inputs((5, 3), 2, BOXES["top"])
    y = library.run("LocalUpsample", inputs, activation=activation, epsilon=epsilon)[0]
    assert_accurate(y, twins.local_upsample, *inputs.values(), activation=activation, epsilon=epsilon)


@pytest.mark.parametrize("offset", [0.0, 10.0, -3000.0])
def test_statistics_far_from_zero(library: Library, offset: float) -> None:
    inputs = make_inputs((4, 4), 8, (0, 0, 8, 8), grid=8)
    inputs["x"] += np.float32(offset)
    assert_accurate(run(library, inputs), twins.local_upsample, *inputs.values())


def test_constant_map(library: Library) -> None:
    inputs = make_inputs((6, 4), 2, BOXES["inside"])
    inputs["x"][:] = 7.5
    assert_accurate(run(library, inputs), twins.local_upsample, *inputs.values())


@pytest.fixture(scope="module")
def stages(golden: Any) -> list[dict[str, Array]]:
    """The release's four stages: parameters and edge terms, in the operator's order."""
    edges, weights = golden("upsampler_edges"), state_dict("probe", 7)
    stages = []
    for stage in range(4):
        parameters = released.upsample_parameters(weights, stage)
        e = edges[f"edge_{stage}"][0].transpose(1, 2, 0).astype(np.float64)
        terms = twins.edge_terms(e, parameters["conv_weight"].astype(np.float64), 16)
        stages.append(parameters | as_inputs(terms))
    return stages


@pytest.mark.parametrize("case", ["whole", "crop", "small", "none"])
def test_golden(library: Library, golden: Any, assert_close: Any, stages: list[dict[str, Array]], case: str) -> None:
    arrays = golden("upsampler")
    left, top, right, bottom = box = arrays[f"{case}_box_ltrb"]
    x = arrays["tokens"][0].transpose(1, 2, 0)[top:bottom, left:right]
    for i, stage in enumerate(stages):
        inputs = {"x": x, "box": box, **stage}
        activation = "silu" if i < 3 else "none"
        x = library.run_all_ways("LocalUpsample", inputs, constant=WEIGHTS, activation=activation)
    logits = np.full((256, 256), -100, np.float32)
    logits[16 * top : 16 * bottom, 16 * left : 16 * right] = x[..., 0]
    assert_close(logits, arrays[f"{case}_logits"][0, 0], "upsampling")


@pytest.mark.parametrize("channels", [(3, 1), (3, 3), (3, 4), (3, 16)])
def test_not_finite_edges_stay_where_they_are(library: Library, channels: tuple[int, int]) -> None:
    inputs = make_inputs(channels, 2, BOXES["inside"])
    clean = run(library, inputs)
    for name, value in (("edge_map", np.nan), ("edge_border", np.inf), ("edge_corner", -np.inf)):
        inputs[name] = np.full_like(inputs[name], value)
    s, (left, top, right, bottom) = 4, BOXES["inside"]
    rows, columns = slice(s * top, s * bottom), slice(s * left, s * right)
    original = make_inputs(channels, 2, BOXES["inside"])
    inputs["edge_map"][rows, columns] = original["edge_map"][rows, columns]
    inputs["edge_border"][0, top, columns] = original["edge_border"][0, top, columns]
    inputs["edge_border"][1, bottom - 1, columns] = original["edge_border"][1, bottom - 1, columns]
    inputs["edge_border"][2, left, rows] = original["edge_border"][2, left, rows]
    inputs["edge_border"][3, right - 1, rows] = original["edge_border"][3, right - 1, rows]
    for i, (row, column) in enumerate(((top, left), (top, right - 1), (bottom - 1, left), (bottom - 1, right - 1))):
        inputs["edge_corner"][i, row, column] = original["edge_corner"][i, row, column]
    np.testing.assert_array_equal(run(library, inputs), clean)  # what lies outside is not read

    inputs["edge_map"][s * top + 3, s * left + 5, -1] = np.inf
    inputs["edge_border"][2, left, s * top + 1, 0] = np.nan
    clean[3, 5, -1] = np.inf
    clean[1, 0, 0] = np.nan
    np.testing.assert_array_equal(run(library, inputs), clean)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite_tokens_reach_everything_through_the_norm(library: Library, value: float) -> None:
    for channels in ((3, 1), (3, 4), (3, 16)):
        inputs = make_inputs(channels, 2, BOXES["inside"])
        inputs["x"][1, 2, 0] = value
        assert np.isnan(run(library, inputs)).all()


@pytest.mark.parametrize(
    "box",
    [(0, 0, 0, 5), (3, 0, 3, 5), (0, 4, 5, 3), (-1, 0, 4, 5), (0, 0, 6, 5), (0, 0, 5, 6), (0, -(2**62), 5, 2**62)],
)
def test_bad_boxes(library: Library, box: tuple[int, ...]) -> None:
    inputs = make_inputs((2, 3), 2, BOXES["whole"]) | {"box": np.array(box, np.int64)}
    message = r"expected box left, top, right, bottom with 0 <= left < right <= w=5 and 0 <= top < bottom <= h=5, got "
    library.fails(message + rf"\[{box[0]}, {box[1]}, {box[2]}, {box[3]}\]", "LocalUpsample", inputs)


def zeros(*shape: int) -> NDArray[np.float32]:
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("x", zeros(4, 6), r"x float32 \[Hc, Wc, Ci=2\], got float32 \[4, 6\]"),
        ("x", zeros(4, 6, 3), r"x float32 \[Hc, Wc, Ci=2\], got float32 \[4, 6, 3\]"),
        ("x", zeros(6, 4, 2), r"x \[4, 6, 2\] for the box \[1, 2, 4, 4\] at 2 pixels a token, got \[6, 4, 2\]"),
        ("x", zeros(2, 3, 2), r"x \[4, 6, 2\] for the box \[1, 2, 4, 4\] at 2 pixels a token, got \[2, 3, 2\]"),
        ("box", np.zeros(3, np.int64), r"box int64 \[4\], got int64 \[3\]"),
        ("box", np.zeros(4, np.int32), r"box int64 \[4\], got int32 \[4\]"),
        ("norm_weight", zeros(3), r"norm_weight float32 \[Ci=2\], got float32 \[3\]"),
        ("norm_bias", zeros(1), r"norm_bias float32 \[Ci=2\], got float32 \[1\]"),
        ("conv_weight", zeros(3, 2, 9), r"conv_weight float32 \[Co, Ci, 3, 3\], got float32 \[3, 2, 9\]"),
        (
            "conv_weight",
            zeros(0, 2, 3, 3),
            r"conv_weight \[Co, Ci, 3, 3\] with Co >= 1 and Ci >= 1, got \[0, 2, 3, 3\]",
        ),
        ("conv_weight", zeros(3, 2, 5, 5), r"conv_weight float32 \[Co, Ci, 3, 3\], got float32 \[3, 2, 5, 5\]"),
        ("conv_bias", zeros(2), r"conv_bias float32 \[Co=3\], got float32 \[2\]"),
        ("edge_map", zeros(20, 20, 2), r"edge_map float32 \[H, W, Co=3\], got float32 \[20, 20, 2\]"),
        ("edge_map", zeros(20, 10, 3), r"edge_map \[H, W, Co\] with H = W, got \[20, 10, 3\]"),
        ("edge_border", zeros(3, 5, 20, 3), r"edge_border float32 \[4, h, W=20, Co=3\], got float32 \[3, 5, 20, 3\]"),
        ("edge_border", zeros(4, 5, 10, 3), r"edge_border float32 \[4, h, W=20, Co=3\], got float32 \[4, 5, 10, 3\]"),
        ("edge_corner", zeros(4, 5, 4, 3), r"edge_corner float32 \[4, h=5, w=5, Co=3\], got float32 \[4, 5, 4, 3\]"),
    ],
)
def test_bad_inputs(library: Library, name: str, value: Array, message: str, constant: bool) -> None:
    inputs = make_inputs((2, 3), 2, BOXES["inside"]) | {name: value}
    library.fails(f"expected {message}", "LocalUpsample", inputs, constant=WEIGHTS if constant else ())


@pytest.mark.parametrize(("side", "grid"), [(22, 5), (5, 5), (0, 5), (0, 0), (20, 0)])
def test_map_is_no_multiple_of_the_grid(library: Library, side: int, grid: int) -> None:
    inputs = make_inputs((2, 3), 2, BOXES["inside"])
    inputs |= {"edge_map": zeros(side, side, 3), "edge_border": zeros(4, grid, side, 3)}
    inputs["edge_corner"] = zeros(4, grid, grid, 3)
    message = r"expected edge_map \[H, W, Co\] and edge_border \[4, h, W, Co\] with H a multiple of 2\*h, got "
    library.fails(message + f"H={side}, h={grid}", "LocalUpsample", inputs)
