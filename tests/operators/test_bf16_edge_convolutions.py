"""Bf16EdgeDownsample and Bf16EdgeProjection: in bfloat16 on the tiers that have a matrix unit."""

from __future__ import annotations

import numpy as np
import pytest
from operators import twins
from operators.harness import ALL_TIERS, Array, Library
from operators.test_edge_network import PROJECTION_WEIGHTS, SIZES, normal, projection_inputs

pytestmark = pytest.mark.parametrize("library", ALL_TIERS, indirect=True)

TILED = {"amx"}  # tiers that round
RESULTS = ("edge", "border", "corner")


def assert_rounded(library: Library, y: Array, rounded: Array, exact: Array, what: str) -> None:
    """As the rounded formula, whose float32 sums are the only other error; and rounded at all."""
    assert library.tier in TILED
    largest = max(np.abs(exact).max(), 1e-9)
    error = np.abs(y - rounded).max() / largest
    assert error < 2.0**-18, f"{what}: {error:.2g} of the largest value"
    if np.count_nonzero(exact) > 500:
        assert np.abs(y - exact).max() > 2.0**-14 * largest, f"{what}: not rounded"


def downsample_inputs(size: tuple[int, int], channels: int, out: int) -> dict[str, Array]:
    rng = np.random.default_rng([*size, channels, out])
    return {
        "x": normal(rng, *size, channels),
        "weight": normal(rng, out, channels, 3, 3, scale=(9 * channels) ** -0.5),
        "bias": normal(rng, out),
    }


@pytest.mark.parametrize("out", [1, 2, 3, 4, 8, 16, 24, 32, 48, 96])
def test_downsample_in_bfloat16(library: Library, out: int) -> None:
    for size in (*SIZES[:-1], (3, 134)):
        for channels in (2, 5, 16, 36):
            inputs = downsample_inputs(size, channels, out)
            y = library.run("Bf16EdgeDownsample", inputs, constant=("weight", "bias"))[0]
            if library.tier not in TILED or channels == 5 or out in (3, 24):
                np.testing.assert_array_equal(y, library.run("EdgeDownsample", inputs)[0])
                continue
            exact = twins.edge_downsample(*inputs.values())
            rounded = twins.edge_downsample(*inputs.values(), bfloat16=True)
            assert_rounded(library, y, rounded, exact, f"{size}, {channels} channels")


@pytest.mark.parametrize(("channels", "out"), [(4, 16), (16, 4), (64, 32)])
def test_downsample_in_bfloat16_with_any_threads(library: Library, channels: int, out: int) -> None:
    inputs = downsample_inputs((77, 55), channels, out)
    y = library.run_all_ways("Bf16EdgeDownsample", inputs, constant=("weight", "bias"))
    twin = twins.edge_downsample(*inputs.values(), bfloat16=library.tier in TILED)
    np.testing.assert_allclose(y, twin, rtol=0, atol=2.0**-18 * np.abs(twin).max())


def test_a_large_downsampled_map(library: Library) -> None:
    """Of which vectors go past the caches."""
    inputs = downsample_inputs((514, 512), 4, 16)
    y = library.run("Bf16EdgeDownsample", inputs, constant=("weight", "bias"))[0]
    twin = twins.edge_downsample(*inputs.values(), bfloat16=library.tier in TILED)
    np.testing.assert_allclose(y, twin, rtol=0, atol=2.0**-18 * np.abs(twin).max())


@pytest.mark.parametrize(
    ("channels", "out"), [(4, 1), (2, 2), (16, 4), (8, 8), (36, 16), (64, 32), (10, 48), (7, 4), (6, 5)]
)
@pytest.mark.parametrize("pixels", [1, 2, 3, 8])
def test_projection_in_bfloat16(library: Library, pixels: int, channels: int, out: int) -> None:
    for grid in (1, 2, 5, 19) if pixels * channels < 100 else (1, 5):  # emulated tiles take long
        inputs = projection_inputs(grid, pixels, channels, channels + 1, out)
        results = library.run("Bf16EdgeProjection", inputs, constant=PROJECTION_WEIGHTS, pixels=pixels)
        if library.tier not in TILED or (channels, out) in ((7, 4), (6, 5)):
            for y, same in zip(results, library.run("EdgeProjection", inputs, pixels=pixels), strict=True):
                np.testing.assert_array_equal(y, same)
            continue
        exact = twins.edge_projection(*inputs.values(), pixels=pixels)
        rounded = twins.edge_projection(*inputs.values(), pixels=pixels, bfloat16=True)
        for name, *values in zip(RESULTS, results, rounded, exact, strict=True):
            assert_rounded(library, *values, f"{name} of {grid} tokens")


@pytest.mark.parametrize(("channels", "out"), [(4, 1), (16, 4), (32, 16), (64, 64)])
def test_projection_in_bfloat16_with_any_threads(library: Library, channels: int, out: int) -> None:
    inputs = projection_inputs(21, 2, channels, channels, out)
    library.run_all_ways("Bf16EdgeProjection", inputs, constant=PROJECTION_WEIGHTS, pixels=2)
    results = library.run("Bf16EdgeProjection", inputs, pixels=2)
    truth = twins.edge_projection(*inputs.values(), pixels=2, bfloat16=library.tier in TILED)
    for y, twin in zip(results, truth, strict=True):
        np.testing.assert_allclose(y, twin, rtol=0, atol=2.0**-18 * np.abs(twin).max())


def test_projection_of_a_large_map(library: Library) -> None:
    """Of which vectors go past the caches, and rows of tiles make four pixels each."""
    inputs = projection_inputs(64, 8, 4, 4, 4)
    results = library.run("Bf16EdgeProjection", inputs, constant=PROJECTION_WEIGHTS, pixels=8)
    truth = twins.edge_projection(*inputs.values(), pixels=8, bfloat16=library.tier in TILED)
    for y, twin in zip(results, truth, strict=True):
        np.testing.assert_allclose(y, twin, rtol=0, atol=2.0**-18 * np.abs(twin).max())


@pytest.mark.parametrize(("channels", "out"), [(4, 1), (16, 4), (32, 16)])
def test_what_sees_a_number_that_is_not_finite(library: Library, channels: int, out: int) -> None:
    inputs = projection_inputs(6, 4, channels, channels, out)
    clean = library.run("Bf16EdgeProjection", inputs, pixels=4)[0]
    inputs["x"][7, 9, 1] = np.nan
    edge = library.run("Bf16EdgeProjection", inputs, pixels=4)[0]
    assert np.isnan(edge[6:9, 8:11]).all()
    rows = np.r_[:6, 9 : len(edge)]  # other rows do not
    np.testing.assert_array_equal(edge[rows], clean[rows])
