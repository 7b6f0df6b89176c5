"""EdgeStem, EdgeBlock, EdgeDownsample and EdgeProjection."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from make_weights import state_dict
from numpy.typing import NDArray
from operators import twins
from operators.harness import Array, Library, assert_accurate
from tolerances import TOLERANCES

CHANNELS = (1, 2, 3, 4, 5, 8, 12, 15, 16, 17, 32, 33, 64)
SIZES = [(1, 1), (1, 5), (4, 4), (5, 3), (7, 33), (34, 9), (67, 66)]
BLOCK_WEIGHTS = tuple(f"{layer}{i}_{kind}" for i in (1, 2) for layer in ("norm", "conv") for kind in ("weight", "bias"))


def normal(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> NDArray[np.float32]:
    return (scale * rng.standard_normal(shape)).astype(np.float32)


def zeros(*shape: int) -> NDArray[np.float32]:
    return np.zeros(shape, np.float32)


# ---- EdgeStem


def stem_inputs(size: tuple[int, int], planes: int, channels: int) -> dict[str, Array]:
    rng = np.random.default_rng([*size, planes, channels])
    return {
        "maps": 1 + normal(rng, planes, *size) * (10.0 ** np.arange(planes, dtype=np.float32))[:, None, None],
        "weight": normal(rng, channels, planes, 3, 3),
        "bias": normal(rng, channels, scale=0.01),
    }


@pytest.mark.parametrize("size", SIZES)
def test_stem(library: Library, size: tuple[int, int]) -> None:
    for planes, channels in ((5, 4), (1, 1), (2, 3), (5, 8), (3, 6)):
        inputs = stem_inputs(size, planes, channels)
        y = library.run_all_ways("EdgeStem", inputs, constant=("weight", "bias"))
        assert_accurate(y, twins.edge_stem, *inputs.values())


def test_stem_of_an_empty_map_and_a_tiny_one(library: Library) -> None:
    inputs = stem_inputs((6, 6), 3, 4)
    inputs["maps"][0] = 0
    inputs["maps"][1] *= 1e-15
    assert_accurate(library.run("EdgeStem", inputs)[0], twins.edge_stem, *inputs.values())


def test_stem_of_a_large_map(library: Library) -> None:
    """A running sum of squares in float32 fails here."""
    rng = np.random.default_rng(0)
    inputs = {"maps": 360 - rng.uniform(0, 1, (1, 1100, 1000)).astype(np.float32)}
    inputs |= {"weight": normal(rng, 1, 1, 3, 3), "bias": zeros(1)}
    assert_accurate(library.run("EdgeStem", inputs)[0], twins.edge_stem, *inputs.values())


# ---- EdgeBlock


def block_inputs(size: tuple[int, int], channels: int, offset: float = 0.3) -> dict[str, Array]:
    rng = np.random.default_rng([*size, channels])
    scale = (9 * channels) ** -0.5
    inputs = {"x": offset + normal(rng, *size, channels)}
    for i in (1, 2):
        inputs |= {
            f"norm{i}_weight": 1 + normal(rng, channels, scale=0.1),
            f"norm{i}_bias": normal(rng, channels, scale=0.1),
            f"conv{i}_weight": normal(rng, channels, channels, 3, 3, scale=scale),
            f"conv{i}_bias": normal(rng, channels, scale=0.1),
        }
    return inputs


def assert_block(y: Array, inputs: dict[str, Array], **attributes: float) -> None:
    """Against the float64 twin; with so few channels that no tier has the fast algorithm, as close as the formula."""
    if inputs["x"].shape[2] <= 2:
        return assert_accurate(y, twins.edge_block, *inputs.values(), **attributes)
    truth = twins.edge_block(*inputs.values(), **attributes)
    plain = twins.edge_block(*inputs.values(), **attributes, dtype=np.float32)
    tolerance = TOLERANCES["fast convolution", "float32"]
    largest, rounding, error = (np.abs(values).max() for values in (truth, plain - truth, y - truth))
    print(f"{y.shape} loses {(error - 2 * rounding) / largest:.1e} of the largest value beyond twice the plain error")
    allowed = tolerance.rtol * largest + 2 * rounding
    assert error <= allowed, f"error {error:.3g}, at most {allowed:.3g} allowed"
    return None


@pytest.mark.parametrize("channels", CHANNELS)
def test_block(library: Library, channels: int) -> None:
    for size in SIZES:
        inputs = block_inputs(size, channels)
        y = library.run("EdgeBlock", inputs, constant=BLOCK_WEIGHTS)[0]
        assert_block(y, inputs)


@pytest.mark.parametrize("channels", [1, 2, 4, 8, 16, 24])
def test_block_with_any_threads(library: Library, channels: int) -> None:
    inputs = block_inputs((150, 47), channels)
    assert_block(library.run_all_ways("EdgeBlock", inputs, constant=BLOCK_WEIGHTS), inputs)


def test_block_with_many_channels(library: Library) -> None:
    inputs = block_inputs((30, 41), 256)
    assert_block(library.run_all_ways("EdgeBlock", inputs, constant=BLOCK_WEIGHTS), inputs)


@pytest.mark.parametrize("channels", [2, 16])
@pytest.mark.parametrize("offset", [10.0, -3000.0])
def test_block_far_from_zero(library: Library, channels: int, offset: float) -> None:
    inputs = block_inputs((33, 40), channels, offset)
    inputs["conv1_bias"] += np.float32(offset)  # what the second norm takes away
    assert_block(library.run("EdgeBlock", inputs)[0], inputs)


@pytest.mark.parametrize("epsilon", [1e-3, 2.0])
def test_block_epsilon(library: Library, epsilon: float) -> None:
    inputs = block_inputs((9, 9), 4)
    inputs["x"] *= np.float32(0.01)
    y = library.run("EdgeBlock", inputs, epsilon=epsilon)[0]
    assert_block(y, inputs, epsilon=epsilon)


@pytest.mark.parametrize("channels", [1, 4, 16, 40])
def test_block_not_finite(library: Library, channels: int) -> None:
    inputs = block_inputs((9, 20), channels)
    inputs["x"][3, 5, 0] = np.inf
    assert np.isnan(library.run("EdgeBlock", inputs)[0]).all()  # through the norm


# ---- EdgeDownsample


@pytest.mark.parametrize("out", CHANNELS)
def test_downsample(library: Library, out: int) -> None:
    for size in SIZES:
        for channels in (1, 4, 7, 16, 40):
            rng = np.random.default_rng([*size, channels, out])
            inputs = {
                "x": normal(rng, *size, channels),
                "weight": normal(rng, out, channels, 3, 3),
                "bias": normal(rng, out),
            }
            y = library.run("EdgeDownsample", inputs, constant=("weight", "bias"))[0]
            assert_accurate(y, twins.edge_downsample, *inputs.values())


def test_downsample_with_any_threads(library: Library) -> None:
    rng = np.random.default_rng(3)
    inputs = {"x": normal(rng, 61, 55, 16), "weight": normal(rng, 64, 16, 3, 3), "bias": normal(rng, 64)}
    y = library.run_all_ways("EdgeDownsample", inputs, constant=("weight", "bias"))
    assert_accurate(y, twins.edge_downsample, *inputs.values())


# ---- EdgeProjection

PROJECTION_WEIGHTS = ("lateral_weight", "lateral_bias", "conv_weight")


def projection_inputs(grid: int, pixels: int, channels: int, middle: int, out: int) -> dict[str, Array]:
    rng = np.random.default_rng([grid, pixels, channels, middle, out])
    return {
        "x": normal(rng, grid * pixels, grid * pixels, channels),
        "lateral_weight": normal(rng, middle, channels),
        "lateral_bias": 1 + normal(rng, middle),
        "conv_weight": normal(rng, out, middle, 3, 3),
    }


def assert_projection(library: Library, inputs: dict[str, Array], pixels: int) -> None:
    """All three results, each of its own twin."""
    results = library.run("EdgeProjection", inputs, constant=PROJECTION_WEIGHTS, pixels=pixels)
    for i, result in enumerate(results):

        def twin(*arrays: Array, which: int = i, **options: Any) -> Array:
            return twins.edge_projection(*arrays, **options)[which]

        twin.__name__ = f"edge_projection_{i}"
        assert_accurate(result, twin, *inputs.values(), pixels=pixels)


@pytest.mark.parametrize("pixels", [1, 2, 3, 8])
def test_projection(library: Library, pixels: int) -> None:
    for grid in (1, 2, 5):
        for channels, out in ((4, 1), (16, 4), (5, 3), (3, 2), (9, 8), (7, 16), (33, 32)):
            assert_projection(library, projection_inputs(grid, pixels, channels, channels, out), pixels)


def test_projection_of_another_width(library: Library) -> None:
    assert_projection(library, projection_inputs(3, 2, 9, 6, 4), 2)


@pytest.mark.parametrize("out", [1, 5, 16])
def test_projection_with_any_threads(library: Library, out: int) -> None:
    inputs = projection_inputs(20, 4, 6, 6, out)
    library.run_all_ways("EdgeProjection", inputs, constant=PROJECTION_WEIGHTS, pixels=4)
    assert_projection(library, inputs, 4)


def test_projection_keeps_not_finite_pixels_apart(library: Library) -> None:
    inputs = projection_inputs(4, 4, 5, 5, 4)
    clean = library.run("EdgeProjection", inputs, pixels=4)[0]
    inputs["x"][7, 9, 2] = np.nan
    edge = library.run("EdgeProjection", inputs, pixels=4)[0]
    around = np.zeros(edge.shape[:2], bool)
    around[6:9, 8:11] = True
    assert np.isnan(edge[around]).all()
    np.testing.assert_array_equal(edge[~around], clean[~around])


# ---- The release's network


def test_golden(library: Library, golden: Any, assert_close: Any) -> None:
    """From the release's Canny maps through all stages; its features by a projection that picks the centre."""
    arrays, weights = golden("cannynet"), state_dict("probe", 7)

    def parameters(name: str) -> list[Array]:
        return [weights[f"edge_detector.{name}.{kind}"] for kind in ("weight", "bias")]

    def run(operator: str, x: Array, names: tuple[str, ...], layers: tuple[str, ...]) -> Array:
        values = [value for layer in layers for value in parameters(layer)]
        inputs = {names[0]: x} | dict(zip(names[1:], values, strict=True))
        return library.run_all_ways(operator, inputs, constant=names[1:])

    maps = np.concatenate([arrays[name][0] for name in ("grad_mag", "grad_ori", "thin", "thresh", "early")])
    x = run("EdgeStem", maps, ("maps", "weight", "bias"), ("conv1",))
    for stage in range(4):
        if stage > 0:
            x = run("EdgeDownsample", x, ("x", "weight", "bias"), (f"downsamplers.{stage - 1}",))
        block = f"block_list.{stage}.0"
        layers = tuple(f"{block}.{layer}{i}" for i in (1, 2) for layer in ("norm", "conv"))
        x = run("EdgeBlock", x, ("x", *BLOCK_WEIGHTS), layers)
        lateral, bias = parameters(f"lateral_convs.{stage}")
        centre = zeros(len(lateral), len(lateral), 3, 3)
        centre[:, :, 1, 1] = np.eye(len(lateral))
        inputs = {"x": x, "lateral_weight": lateral[:, :, 0, 0], "lateral_bias": bias, "conv_weight": centre}
        features = library.run("EdgeProjection", inputs, constant=PROJECTION_WEIGHTS, pixels=1)[0]
        assert_close(features, arrays[f"out_{3 - stage}"][0].transpose(1, 2, 0), "edge features")


# ---- What a contract does not allow


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize(
    ("operator", "name", "value", "message"),
    [
        ("EdgeStem", "maps", zeros(6, 6), r"maps float32 \[Ci, H, W\], got float32 \[6, 6\]"),
        ("EdgeStem", "weight", zeros(4, 2, 3, 3), r"weight float32 \[Co, Ci=3, 3, 3\], got float32 \[4, 2, 3, 3\]"),
        ("EdgeStem", "weight", zeros(0, 3, 3, 3), r"weight \[Co, Ci, 3, 3\] with Co >= 1 and Ci >= 1, got \[0, 3, 3"),
        ("EdgeStem", "bias", zeros(3), r"bias float32 \[Co=4\], got float32 \[3\]"),
        ("EdgeBlock", "x", zeros(5, 5, 3), r"x float32 \[H, W, C=4\], got float32 \[5, 5, 3\]"),
        ("EdgeBlock", "norm2_bias", zeros(3), r"norm2_bias float32 \[C=4\], got float32 \[3\]"),
        ("EdgeBlock", "conv2_weight", zeros(4, 3, 3, 3), r"conv2_weight float32 \[C=4, C=4, 3, 3\], got .*4, 3, 3, 3"),
        ("EdgeBlock", "conv1_weight", zeros(4, 3, 3, 3), r"conv1_weight float32 \[C=4, C=4, 3, 3\], got .*4, 3, 3, 3"),
        ("EdgeDownsample", "x", zeros(5, 5, 3), r"x float32 \[H, W, Ci=4\], got float32 \[5, 5, 3\]"),
        ("EdgeDownsample", "weight", zeros(4, 4, 3), r"weight float32 \[Co, Ci, 3, 3\], got float32 \[4, 4, 3\]"),
        ("EdgeDownsample", "bias", zeros(5), r"bias float32 \[Co=6\], got float32 \[5\]"),
        ("EdgeProjection", "x", zeros(6, 4, 4), r"x \[H, W, C\] with H = W a multiple of pixels=2, got H=6, W=4"),
        ("EdgeProjection", "x", zeros(5, 5, 4), r"x \[H, W, C\] with H = W a multiple of pixels=2, got H=5, W=5"),
        ("EdgeProjection", "lateral_weight", zeros(4, 4), r"lateral_weight float32 \[Ci=3, C\], got float32 \[4, 4\]"),
        ("EdgeProjection", "lateral_bias", zeros(4), r"lateral_bias float32 \[Ci=3\], got float32 \[4\]"),
    ],
)
def test_bad_inputs(library: Library, operator: str, name: str, value: Array, message: str, constant: bool) -> None:
    inputs = {
        "EdgeStem": stem_inputs((6, 6), 3, 4),
        "EdgeBlock": block_inputs((5, 5), 4),
        "EdgeDownsample": {"x": zeros(5, 5, 4), "weight": zeros(6, 4, 3, 3), "bias": zeros(6)},
        "EdgeProjection": projection_inputs(3, 2, 4, 3, 5),
    }[operator] | {name: value}
    known = list(inputs)[1:] if constant else ()
    library.fails(f"expected {message}", operator, inputs, constant=known)


@pytest.mark.parametrize("pixels", [0, -1])
def test_bad_pixels(library: Library, pixels: int) -> None:
    inputs = projection_inputs(3, 2, 4, 3, 5)
    library.fails(f"expected attribute pixels >= 1, got {pixels}", "EdgeProjection", inputs, pixels=pixels)


@pytest.mark.parametrize("size", [(0, 4), (4, 0), (0, 0)])
def test_empty_maps(library: Library, size: tuple[int, int]) -> None:
    assert library.run("EdgeStem", stem_inputs(size, 3, 4))[0].shape == (*size, 4)
    assert library.run("EdgeBlock", block_inputs(size, 4))[0].shape == (*size, 4)
    inputs = {"x": zeros(*size, 4), "weight": zeros(6, 4, 3, 3), "bias": zeros(6)}
    half = tuple((n + 1) // 2 for n in size)
    assert library.run("EdgeDownsample", inputs)[0].shape == (*half, 6)
    if size[0] == size[1]:
        shapes = [x.shape for x in library.run("EdgeProjection", projection_inputs(0, 2, 4, 3, 5))]
        assert shapes == [(0, 0, 5), (4, 0, 0, 5), (4, 0, 0, 5)]
