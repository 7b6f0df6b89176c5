"""MaskUpscaling."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from operators import twins
from operators.harness import Array, Library, assert_accurate
from tolerances import TOLERANCES
from torch import nn

from inter2former_deploy.operators import formulas

# Channels before, between and after the doublings: around the vector widths, odd, and the release's.
CHANNELS = [(1, 1, 1), (3, 5, 2), (16, 8, 4), (17, 15, 9), (31, 33, 16), (33, 31, 17), (64, 49, 33), (256, 64, 32)]
GELUS = TOLERANCES["mask upscaling", "float32"]
GRIDS = [(1, 1), (2, 3), (5, 7), (1, 61), (13, 16)]


def make_inputs(height: int, width: int, channels: int, first: int, second: int) -> dict[str, Array]:
    rng = np.random.default_rng((height, width, channels, first, second))

    def normal(*shape: int, scale: float = 1.0) -> NDArray[np.float32]:
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    return {
        "x": normal(height, width, channels),
        "first_weight": normal(4 * first, channels, scale=channels**-0.5),
        "first_bias": normal(first),
        "norm_weight": 1 + normal(first, scale=0.1),
        "norm_bias": normal(first),
        "second_weight": normal(4 * second, first, scale=first**-0.5),
        "second_bias": normal(second),
        "mask": normal(second),
    }


def weights(case: dict[str, Array]) -> list[str]:
    return [name for name in case if name not in ("x", "mask")]


@pytest.mark.parametrize("channels", CHANNELS)
def test_against_the_twin(library: Library, channels: tuple[int, int, int]) -> None:
    for grid in GRIDS:
        case = make_inputs(*grid, *channels)
        out = library.run_all_ways("MaskUpscaling", case, constant=weights(case), epsilon=1e-3)
        assert_accurate(out, twins.mask_upscaling, *case.values(), extra=GELUS.rtol, epsilon=1e-3)


def test_it_is_what_pytorch_s_transposed_convolutions_give(library: Library) -> None:
    """Weights in the order in which a transposed convolution has them: no mixed-up rows, columns or channels."""
    case = make_inputs(3, 4, 8, 6, 5)
    layers: list[nn.Module] = []
    for name, count in (("first", 8), ("second", 6)):
        bias = case[f"{name}_bias"]
        up = nn.ConvTranspose2d(count, len(bias), 2, 2)
        matrix = case[f"{name}_weight"].reshape(2, 2, len(bias), count)
        up.weight.data = torch.from_numpy(np.ascontiguousarray(matrix.transpose(3, 2, 0, 1)))
        up.bias.data = torch.from_numpy(bias)  # type: ignore[union-attr]
        layers.append(up)
    norm = nn.LayerNorm(6, eps=1e-6)
    norm.weight.data, norm.bias.data = torch.from_numpy(case["norm_weight"]), torch.from_numpy(case["norm_bias"])
    with torch.no_grad():
        y = layers[0](torch.from_numpy(case["x"]).permute(2, 0, 1)[None])
        y = nn.functional.gelu(norm(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
        expected = torch.einsum("chw,c->hw", nn.functional.gelu(layers[1](y))[0], torch.from_numpy(case["mask"]))
    out = library.run("MaskUpscaling", case)[0]
    np.testing.assert_allclose(out, expected.numpy(), rtol=1e-5, atol=1e-5)


def test_formula(assert_close: Any) -> None:
    case = make_inputs(5, 7, 16, 8, 4)
    out = formulas.mask_upscaling(*(torch.from_numpy(x).double() for x in case.values()), 1e-3)
    assert_close(out, twins.mask_upscaling(*case.values(), epsilon=1e-3), "formula")


def test_tokens_do_not_see_each_other(library: Library) -> None:
    """And a channel that is no number stays with its token, in spite of the lanes behind the last channel."""
    case = make_inputs(6, 7, 17, 15, 9)
    out = library.run("MaskUpscaling", case)[0]
    part = library.run("MaskUpscaling", case | {"x": case["x"][2:5, 1:6]})[0]
    np.testing.assert_array_equal(part, out[8:20, 4:24])
    broken = case["x"].copy()
    broken[4, 3, 2] = np.nan
    again = library.run("MaskUpscaling", case | {"x": broken})[0]
    assert np.isnan(again[16:20, 12:16]).all()
    again[16:20, 12:16] = out[16:20, 12:16]
    np.testing.assert_array_equal(again, out)


def test_infinite_channels_give_what_the_formula_gives(library: Library) -> None:
    case = make_inputs(2, 2, 3, 5, 3)
    case["norm_bias"][1] = np.inf
    case["second_weight"] = np.abs(case["second_weight"]) + np.float32(0.1)
    case["mask"] = np.abs(case["mask"])
    assert np.isposinf(library.run("MaskUpscaling", case)[0]).all()


@pytest.mark.parametrize("grid", [(0, 3), (3, 0), (0, 0)])
def test_no_tokens(library: Library, grid: tuple[int, int]) -> None:
    out = library.run("MaskUpscaling", make_inputs(*grid, 4, 3, 2))[0]
    assert out.shape == (4 * grid[0], 4 * grid[1])


def zeros(*shape: int) -> NDArray[np.float32]:
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("x", zeros(6, 4), r"expected x float32 \[h, w, C=4\], got float32 \[6, 4\]"),
        ("x", zeros(2, 3, 5), r"expected x float32 \[h, w, C=4\], got float32 \[2, 3, 5\]"),
        ("first_weight", zeros(11, 4), r"expected first_weight float32 \[4 D=12, C\], got float32 \[11, 4\]"),
        ("first_weight", zeros(12, 0), r"expected C, D and E of at least 1, got 0, 3 and 2"),
        ("first_bias", zeros(12), r"expected first_bias float32 \[D=3\], got float32 \[12\]"),
        ("norm_weight", zeros(3, 1), r"expected norm_weight float32 \[D\], got float32 \[3, 1\]"),
        ("norm_bias", zeros(2), r"expected norm_bias float32 \[D=3\], got float32 \[2\]"),
        ("second_weight", zeros(8, 4), r"expected second_weight float32 \[4 E=8, D=3\], got float32 \[8, 4\]"),
        ("second_bias", np.zeros(2), r"expected second_bias float32 \[E\], got float64 \[2\]"),
        ("mask", zeros(3), r"expected mask float32 \[E=2\], got float32 \[3\]"),
    ],
)
def test_bad_inputs(library: Library, name: str, value: Array, message: str, constant: bool) -> None:
    case = make_inputs(2, 3, 4, 3, 2) | {name: value}
    library.fails(message, "MaskUpscaling", case, constant=weights(case) if constant else [])
