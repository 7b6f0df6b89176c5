from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from operators import twins
from operators.harness import Array, Library
from tolerances import TOLERANCES

from inter2former_deploy.core.contract import MEAN_BGR, STD_BGR

MAPS = ("grad_mag", "grad_ori", "thin", "thresh", "early")
SIZES = [(1, 1), (1, 7), (2, 3), (5, 16), (9, 17), (63, 31), (64, 33), (65, 40), (131, 100)]
EXACT = np.float32([1, 4, 6, 4, 1]) / 16  # sums of such weights are exact in float32


def blur() -> NDArray[np.float32]:
    weights = np.exp(-0.5 * (np.arange(5) - 2.0) ** 2)
    return (weights / weights.sum()).astype(np.float32)


def inputs_of(image: Array, *, mean: Any = (0, 0, 0), std: Any = (1, 1, 1), weights: Array = EXACT) -> dict[str, Array]:
    return {
        "image": image.astype(np.float32),
        "mean": np.float32(mean),
        "std": np.float32(std),
        "blur_row": weights,
        "blur_column": weights,
    }


@pytest.mark.parametrize("size", SIZES)
def test_every_decision_where_nothing_rounds(library: Library, size: tuple[int, int]) -> None:
    """Black and white pixels: gradients are exact, so are directions and the order of magnitudes."""
    image = 255 * np.random.default_rng(size).integers(0, 2, (*size, 3))
    image[: size[0] // 3] = 255  # flat, with ties along a straight edge
    inputs = inputs_of(image)
    maps = library.run_all_ways("CannyMaps", inputs)
    expected = twins.canny_maps(*inputs.values())
    np.testing.assert_array_equal(maps[1], expected[1])
    for i in (0, 2, 3, 4):
        np.testing.assert_array_equal(maps[i] > 0, expected[i] > 0, err_msg=MAPS[i])
        np.testing.assert_allclose(maps[i], expected[i], rtol=1e-6, err_msg=MAPS[i])


def test_asymmetric_blur_and_channels(library: Library) -> None:
    """Rows and columns, channel order and normalisation are told apart."""
    rng = np.random.default_rng(1)
    inputs = inputs_of(rng.uniform(0, 255, (40, 50, 3)), mean=(100, 120, 140), std=(50, 60, 70))
    inputs["blur_row"], inputs["blur_column"] = rng.uniform(0, 0.3, (2, 5)).astype(np.float32)
    inputs["image"] += np.float32([-40, 0, 40])  # some are outside 0..255
    maps = library.run_all_ways("CannyMaps", inputs)
    expected = twins.canny_maps(*inputs.values())
    tolerance = TOLERANCES["canny maps", "float32"]
    assert np.abs(maps[0] - expected[0]).max() <= tolerance.rtol * expected[0].max()
    assert (maps[1] != expected[1]).mean() < 0.01  # noise has no direction that rounding could not reach
    assert (np.abs(maps[2] - expected[2]) > 1e-4).mean() < 0.01


NO_BLUR = np.float32([0, 0, 1, 0, 0])


def picture_of(values: Array) -> Array:
    """A picture whose second channel has these values, multiples of 2**-14 in [0, 1], exactly."""
    image = np.zeros((*values.shape, 3), np.float32)
    image[..., 1] = 255 * values
    return image


def assert_as_twin(library: Library, image: Array) -> Array:
    """The maps, which have no rounding but that of square roots."""
    inputs = inputs_of(image, weights=NO_BLUR)
    maps = library.run("CannyMaps", inputs)[0]
    expected = twins.canny_maps(*inputs.values())
    np.testing.assert_array_equal(maps[1], expected[1])
    np.testing.assert_array_equal(maps > 0, expected > 0)
    np.testing.assert_allclose(maps, expected, rtol=1e-6)
    return maps


@pytest.mark.parametrize(("value", "stays"), [(0.5, True), (0.5 - 2.0**-14, False)])
def test_a_magnitude_of_two_passes_the_threshold(library: Library, value: float, stays: bool) -> None:
    values = np.zeros((12, 21))
    values[:, 10] = value  # a line: 4 * value at either side, nothing on it
    maps = assert_as_twin(library, picture_of(values))
    assert maps[2, 6, 9] == maps[2, 6, 11] == 4 * np.float32(value)
    for i in (3, 4):
        assert (maps[i, 6, 9] == 4 * np.float32(value)) == stays


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("diagonal", [False, True])
def test_of_two_equal_neighbours_none_is_the_largest(library: Library, diagonal: bool, turns: int) -> None:
    """A step has two equal magnitudes across it; a diagonal one, half of it on a line, equal ones beside that line."""
    y, x = np.mgrid[:19, :19]
    across = x + y - 18 if diagonal else np.where(x < 9, -1, 1)
    image = picture_of(np.rot90(np.clip((across + 1) / 2, 0, 1), turns))
    maps = assert_as_twin(library, image)
    inside = maps[2, 5:-5, 5:-5]
    on_line = np.rot90(across == 0, turns)[5:-5, 5:-5]
    np.testing.assert_array_equal(inside > 0, on_line)


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("slope", [(985, 408), (2378, 985), (408, 985), (985, 2378)])
def test_directions_beside_the_ends_of_an_octant(library: Library, slope: tuple[int, int], turns: int) -> None:
    """Slopes 1e-6 or less from the tangents of 22.5 and 67.5 degrees, on either side."""
    y, x = np.mgrid[:3, :3]
    patch = (slope[0] * y + slope[1] * x) * 2.0**-14
    values = np.zeros((11, 20))
    values[4:7, 9:12] = np.rot90(patch, turns)
    assert_as_twin(library, picture_of(values))


def test_golden(library: Library, golden: Any) -> None:
    arrays = golden("cannynet")
    inputs = inputs_of(arrays["image"][..., ::-1], mean=MEAN_BGR, std=STD_BGR, weights=blur())
    maps = library.run_all_ways("CannyMaps", inputs)
    for i, name in enumerate(MAPS):
        expected = arrays[name][0, 0]
        differs = np.abs(maps[i] - expected) > 1e-5 * expected.max()
        tolerance = TOLERANCES["canny pixels of a bundle", name]
        assert differs.mean() <= tolerance.atol, f"{name}: {differs.sum()} pixels differ ({tolerance.reason})"


def test_nan_stays_where_it_is(library: Library) -> None:
    inputs = inputs_of(np.random.default_rng(2).uniform(0, 255, (30, 30, 3)))
    clean = library.run("CannyMaps", inputs)[0]
    inputs["image"][15, 14, 1] = np.nan
    maps = library.run("CannyMaps", inputs)[0]
    assert np.isnan(maps[0]).any()
    near = np.zeros((30, 30), bool)
    near[11:20, 10:19] = True
    np.testing.assert_array_equal(maps[:, ~near], clean[:, ~near])


@pytest.mark.parametrize("size", [(0, 5), (5, 0)])
def test_empty(library: Library, size: tuple[int, int]) -> None:
    assert library.run("CannyMaps", inputs_of(np.zeros((*size, 3))))[0].shape == (5, *size)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("image", np.zeros((4, 4), np.float32), r"image float32 \[H, W, 3\], got float32 \[4, 4\]"),
        ("image", np.zeros((4, 4, 4), np.float32), r"image float32 \[H, W, 3\], got float32 \[4, 4, 4\]"),
        ("mean", np.zeros(1, np.float32), r"mean float32 \[3\], got float32 \[1\]"),
        ("std", np.zeros(3, np.int64), r"std float32 \[3\], got int64 \[3\]"),
        ("blur_row", np.zeros(3, np.float32), r"blur_row float32 \[5\], got float32 \[3\]"),
        ("blur_column", np.zeros((5, 1), np.float32), r"blur_column float32 \[5\], got float32 \[5, 1\]"),
    ],
)
def test_bad_inputs(library: Library, name: str, value: Array, message: str) -> None:
    library.fails(f"expected {message}", "CannyMaps", inputs_of(np.zeros((4, 4, 3))) | {name: value})
