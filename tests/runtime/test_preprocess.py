from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inter2former_deploy.core.contract import MEAN_BGR, STD_BGR
from inter2former_deploy.core.prompts import Click
from inter2former_deploy.families.inter2former.pictures import Frame
from inter2former_deploy.families.pictures import PAD_RGB, bilinear_taps, model_input
from inter2former_deploy.runtime.checks import check_click, check_image

SIZES = [
    (300, 220, 256),
    (601, 353, 256),
    (1, 1, 128),
    (700, 1300, 1024),
    (2000, 1000, 176),
    (256, 256, 256),
    (256, 257, 144),
]


@pytest.mark.parametrize(("height", "width", "size"), SIZES)
def test_model_input_is_the_release_s_undone_normalisation(
    height: int, width: int, size: int, assert_close: Callable[..., None]
) -> None:
    """The release normalises BGR, pads with 0 and resizes; the graph normalises our input to the same."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    mean, std = torch.tensor(MEAN_BGR), torch.tensor(STD_BGR)
    x = (torch.from_numpy(image[..., ::-1].copy()).float() - mean) / std
    x = functional.pad(x.permute(2, 0, 1)[None], (0, -width % 256, 0, -height % 256))
    side = max(x.shape[2:])
    x = functional.pad(x, (0, side - x.shape[3], 0, side - x.shape[2]))
    expected = functional.interpolate(x, (size, size), mode="bilinear", align_corners=False)[0].permute(1, 2, 0)

    actual = model_input(image, Frame(height, width, size))
    assert actual.dtype == np.float32
    assert_close((actual[..., ::-1] - np.float32(MEAN_BGR)) / np.float32(STD_BGR), expected, "model input")


def test_padding_is_right_and_below() -> None:
    image = np.full((100, 200, 3), 7, np.uint8)
    result = model_input(image, Frame(100, 200, 256))  # scale 1: the picture as it is
    assert (result[:100, :200] == 7).all()
    assert (result[100:] == np.float32(PAD_RGB)).all()
    assert (result[:, 200:] == np.float32(PAD_RGB)).all()


def test_input_may_be_a_view() -> None:
    image = np.random.default_rng(0).integers(0, 256, (80, 90, 3), np.uint8)
    frame = Frame(80, 90, 64)
    np.testing.assert_array_equal(model_input(image[:, :, ::-1], frame), model_input(image[:, :, ::-1].copy(), frame))


@given(source=st.integers(1, 4000), target=st.integers(1, 4000))
@settings(deadline=None)
def test_taps_mix_neighbours_with_weights_of_one(source: int, target: int) -> None:
    lower, upper, weight = bilinear_taps(source, target)
    assert lower.min() >= 0
    assert upper.max() <= source - 1
    assert set(np.unique(upper - lower)) <= {0, 1}
    assert weight.min() >= 0
    assert weight.max() < 1
    assert (np.diff(lower) >= 0).all()


@pytest.mark.parametrize(
    ("height", "width", "size", "side"),
    [(1, 1, 256, 256), (256, 256, 256, 256), (257, 1, 1024, 512), (300, 220, 256, 512), (601, 353, 256, 768)],
)
def test_frame(height: int, width: int, size: int, side: int) -> None:
    frame = Frame(height, width, size)
    assert frame.side == side
    assert frame.scale == size / side


@pytest.mark.parametrize(
    ("x", "y", "expected"), [(101, 301, (33, 100)), (240, 77, (80, 25)), (0, 600, (0, 200)), (352.9, 600.9, (117, 200))]
)
def test_clicks_scale_and_truncate(x: float, y: float, expected: tuple[int, int]) -> None:
    assert Frame(601, 353, 256).to_model(Click(x, y, True)) == (*expected, True)


def test_narrow_numbers_do_not_round_when_scaled() -> None:
    frame = Frame(300, 3000, 256)  # scale 1/12
    for x in range(0, 3000, 12):
        assert frame.to_model(check_click(np.float32(x), np.int16(7), True)) == (int(frame.scale * x), 0, True)


def test_huge_numbers_are_outside() -> None:
    with pytest.raises(ValueError, match="outside the image"):
        Frame(10, 10, 256).to_model(check_click(10**400, 1, True))


@given(height=st.integers(1, 5000), width=st.integers(1, 5000), tokens=st.integers(1, 128))
def test_the_last_pixel_s_click_is_inside_the_model(height: int, width: int, tokens: int) -> None:
    frame = Frame(height, width, 16 * tokens)
    at = frame.to_model(Click(np.nextafter(width, 0), np.nextafter(height, 0), True))
    assert max(at.x, at.y) < frame.size


@pytest.mark.parametrize(("x", "y"), [(-0.1, 5), (353, 5), (5, 601), (5, -1)])
def test_clicks_outside_are_refused(x: float, y: float) -> None:
    with pytest.raises(ValueError, match=r"outside the image: x must be in \[0, 353\), y in \[0, 601\)"):
        Frame(601, 353, 256).to_model(Click(x, y, True))


@pytest.mark.parametrize(
    ("x", "y", "positive", "error", "message"),
    [
        (float("nan"), 1, True, ValueError, "x must be finite"),
        (1, float("inf"), True, ValueError, "y must be finite"),
        (1, np.float32("nan"), True, ValueError, "y must be finite"),
        (True, 1, True, TypeError, "x must be a number"),
        (1, np.True_, True, TypeError, "y must be a number"),
        ("3", 1, True, TypeError, "x must be a number, got '3'"),
        (None, 1, True, TypeError, "x must be a number"),
        (1j, 1, True, TypeError, "x must be a number"),
        (np.array([1, 2]), 1, True, TypeError, "x must be a number"),
        (1, 1, 1, TypeError, "positive must be True or False, got 1"),
        (1, 1, "bg", TypeError, "positive must be True or False"),
    ],
)
def test_bad_clicks(x: Any, y: Any, positive: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check_click(x, y, positive)


@pytest.mark.parametrize("number", [3, 3.0, np.int64(3), np.uint8(3), np.float32(3), np.float64(3)])
def test_numbers_of_any_kind_are_clicks(number: Any) -> None:
    click = check_click(number, number, np.True_)
    assert type(click.x) in (int, float)
    assert Frame(10, 10, 256).to_model(click) == Frame(10, 10, 256).to_model(Click(3, 3, True))
    assert click.positive is True


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (np.zeros((4, 5), np.uint8), ValueError, "COLOR_GRAY2RGB"),
        (np.zeros((4, 5, 1), np.uint8), ValueError, "COLOR_GRAY2RGB"),
        (np.zeros((4, 5, 4), np.uint8), ValueError, "drop the alpha channel"),
        (np.zeros((3, 4, 5), np.uint8), ValueError, "channels last"),
        (np.zeros((1, 4, 5, 3), np.uint8), ValueError, r"got \(1, 4, 5, 3\)"),
        (np.zeros((4, 5, 3), np.uint16), TypeError, "divide values of all 16 bits by 257"),
        (np.zeros((4, 5, 3), np.float32), TypeError, "must be of uint8, 0 to 255, got float32"),
        (np.zeros((4, 5, 3), bool), TypeError, "got bool"),
        (np.zeros((0, 5, 3), np.uint8), ValueError, "empty"),
        (np.zeros((5, 0, 3), np.uint8), ValueError, "empty"),
        ([[[0, 0, 0]]], TypeError, "numpy array.*got list"),
        ("photo.jpg", TypeError, "numpy array.*got str: .*read_image reads a file"),
    ],
)
def test_bad_images(image: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check_image(image)
