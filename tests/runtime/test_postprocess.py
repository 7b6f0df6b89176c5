from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inter2former_deploy.core.prompts import Floats
from inter2former_deploy.families.inter2former.masks import Box, foreground_mask, paste_logits
from inter2former_deploy.families.inter2former.pictures import Frame
from inter2former_deploy.families.pictures import bilinear_taps


def whole_map(box_logits: Floats, box: Box, frame: Frame) -> np.ndarray:
    """The plain formula: the whole map of logits, resized bilinearly to the padded square and cropped."""
    logits = paste_logits(box_logits, box, frame.size)
    lower, upper, weight = bilinear_taps(frame.size, frame.side)
    wide = logits[:, lower] * (1 - weight) + logits[:, upper] * weight
    full = wide[lower] * (1 - weight)[:, None] + wide[upper] * weight[:, None]
    return full[: frame.height, : frame.width]


@given(
    tokens=st.integers(1, 24),
    height=st.integers(1, 900),
    width=st.integers(1, 900),
    sides=st.tuples(*[st.floats(0, 1)] * 4),
    bias=st.floats(-8, 8),
    smooth=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
@settings(deadline=None, max_examples=300)
def test_mask_is_the_whole_map_s(
    tokens: int, height: int, width: int, sides: tuple[float, ...], bias: float, smooth: bool, seed: int
) -> None:
    size = 16 * tokens
    (left, right), (top, bottom) = (sorted(int(side * size) for side in pair) for pair in (sides[:2], sides[2:]))
    box, frame = Box(left, top, right, bottom), Frame(height, width, size)
    logits = np.random.default_rng(seed).standard_normal((bottom - top, right - left)).astype(np.float32) * 5
    if smooth and logits.size:
        logits = np.cumsum(logits, axis=0, dtype=np.float32)
    logits += np.float32(bias)
    np.testing.assert_array_equal(foreground_mask(logits, box, frame), whole_map(logits, box, frame) > 0)


@pytest.mark.parametrize(
    ("height", "width", "size"), [(300, 220, 256), (601, 353, 256), (700, 1200, 1024), (512, 384, 176)]
)
def test_the_formula_is_pytorch_s(height: int, width: int, size: int) -> None:
    torch = pytest.importorskip("torch")
    frame = Frame(height, width, size)
    logits = np.random.default_rng(1).standard_normal((size, size)).astype(np.float32) * 5
    resized = torch.nn.functional.interpolate(
        torch.from_numpy(logits)[None, None], (frame.side, frame.side), mode="bilinear", align_corners=False
    )[0, 0, :height, :width].numpy()
    mask = foreground_mask(logits, Box(0, 0, size, size), frame)
    clear = np.abs(resized) > 1e-3  # rounding decides the others
    assert clear.mean() > 0.999
    np.testing.assert_array_equal(mask[clear], (resized > 0)[clear])


def test_empty_box_is_an_empty_mask() -> None:
    mask = foreground_mask(np.zeros((0, 0), np.float32), Box(16, 16, 16, 16), Frame(20, 30, 64))
    assert mask.shape == (20, 30)
    assert not mask.any()


def test_paste() -> None:
    logits = paste_logits(np.ones((2, 3), np.float32), Box(1, 4, 4, 6), 8)
    assert logits.dtype == np.float32
    assert (logits[4:6, 1:4] == 1).all()
    assert (logits == -100).sum() == 64 - 6
