"""Bf16EdgeBlock: EdgeBlock, in bfloat16 on the tiers that have a matrix unit."""

from __future__ import annotations

import numpy as np
import pytest
from operators import twins
from operators.harness import ALL_TIERS, Library
from operators.test_edge_network import BLOCK_WEIGHTS, SIZES, block_inputs

pytestmark = pytest.mark.parametrize("library", ALL_TIERS, indirect=True)

TILED = {"amx"}  # tiers that round


@pytest.mark.parametrize("channels", [1, 2, 4, 6, 8, 16, 32, 96])
def test_block_in_bfloat16(library: Library, channels: int) -> None:
    """As if what is convolved were rounded, but for values that another rounding of the norm moves to the next one."""
    for size in (*SIZES, (70, 130)) if channels <= 16 else SIZES[:-1]:  # emulated tiles take long
        inputs = block_inputs(size, channels)
        y = library.run_all_ways("Bf16EdgeBlock", inputs, constant=BLOCK_WEIGHTS)
        if library.tier not in TILED or channels in (1, 6):
            np.testing.assert_array_equal(y, library.run("EdgeBlock", inputs)[0])
            continue
        exact = twins.edge_block(*inputs.values())
        rounded = twins.edge_block(*inputs.values(), bfloat16=True)
        error, rounding = (np.sqrt(np.mean((values - rounded) ** 2)) for values in (y, exact))
        message = f"{size}: {error:.2g} from the rounded formula, which is {rounding:.2g} from the exact one"
        assert 0 < error < 0.25 * rounding, message
        assert np.abs(y - exact).max() < 2.0**-6 * np.abs(exact).max()


@pytest.mark.parametrize("channels", [2, 16, 64])
def test_block_in_bfloat16_far_from_zero(library: Library, channels: int) -> None:
    """What the second norm takes away is in the sums of the first convolution, and in their moments."""
    inputs = block_inputs((33, 40), channels, -3000.0)
    inputs["conv1_bias"] -= np.float32(3000)
    y = library.run("Bf16EdgeBlock", inputs, epsilon=2.0)[0]
    exact = twins.edge_block(*inputs.values(), epsilon=2.0) - inputs["x"]
    assert np.abs(y - inputs["x"] - exact).max() < 2.0**-6 * np.abs(exact).max()


@pytest.mark.parametrize("channels", [4, 16, 32])
def test_block_in_bfloat16_not_finite(library: Library, channels: int) -> None:
    inputs = block_inputs((9, 20), channels)
    inputs["x"][3, 5, 0] = np.inf
    assert np.isnan(library.run("Bf16EdgeBlock", inputs)[0]).all()  # through the norm
