"""Bf16LocalUpsample: LocalUpsample, in bfloat16 on the tiers that have a matrix unit."""

from __future__ import annotations

import numpy as np
import pytest
from operators import twins
from operators.harness import ALL_TIERS, Library
from operators.test_local_upsample import BOXES, WEIGHTS, make_inputs

pytestmark = pytest.mark.parametrize("library", ALL_TIERS, indirect=True)

TILED = {"amx"}  # tiers that round


@pytest.mark.parametrize("channels", [(32, 16), (256, 64), (64, 48), (32, 8), (33, 16)])
@pytest.mark.parametrize("box", ["whole", "inside", "one token in a corner", "one row"])
def test_as_if_rounded(library: Library, box: str, channels: tuple[int, int]) -> None:
    """As if what is multiplied were rounded, but for values that another rounding of the norm moves to the next one."""
    activation = "none" if channels == (64, 48) else "silu"
    for u in (1, 8) if channels[0] < 256 else (3,):
        inputs = make_inputs(channels, u, BOXES[box])
        y = library.run_all_ways("Bf16LocalUpsample", inputs, constant=WEIGHTS, activation=activation)
        if library.tier not in TILED or channels[0] % 32 or channels[1] % 16:
            np.testing.assert_array_equal(y, library.run("LocalUpsample", inputs, activation=activation)[0])
            continue
        exact, rounded = (
            twins.local_upsample(*inputs.values(), activation=activation, bfloat16=bfloat16)  # type: ignore[arg-type]
            for bfloat16 in (False, True)
        )
        error, rounding = (np.sqrt(np.mean((values - rounded) ** 2)) for values in (y, exact))
        message = f"u {u}: {error:.2g} from the rounded formula, which is {rounding:.2g} from the exact one"
        assert 0 < error < 0.25 * rounding, message
        assert np.abs(y - exact).max() < 2.0**-6 * np.abs(exact).max()


@pytest.mark.parametrize("columns", [1, 15, 16, 17, 33, 49])
def test_widths(library: Library, columns: int) -> None:
    """Rows of pixels that do not fill tiles."""
    inputs = make_inputs((32, 16), 1, (1, 3, 1 + columns, 5), grid=max(5, columns + 1))
    y = library.run("Bf16LocalUpsample", inputs, constant=WEIGHTS)[0]
    exact = twins.local_upsample(*inputs.values())
    assert np.abs(y - exact).max() < 2.0**-6 * np.abs(exact).max()


def test_not_finite(library: Library) -> None:
    inputs = make_inputs((32, 16), 2, BOXES["inside"])
    inputs["x"][1, 2, 3] = np.nan
    assert np.isnan(library.run("Bf16LocalUpsample", inputs)[0]).all()  # through the norm
