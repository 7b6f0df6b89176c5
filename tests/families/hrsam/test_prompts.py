"""The prompt state of HRSAM by itself, and its boxes and start masks through the reference modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from inter2former_deploy.core.prompts import Box, Click, StartMask, Stroke
from inter2former_deploy.families.hrsam.masks import MaskLogits
from inter2former_deploy.families.hrsam.model import HRSAM
from inter2former_deploy.families.hrsam.pictures import Frame
from inter2former_deploy.families.hrsam.prompts import START_LOGIT, SparsePrompts, start_logits
from inter2former_deploy.families.hrsam.session import ReferenceSession, image_logits


def test_what_the_decoder_takes() -> None:
    state = SparsePrompts(16)
    nothing = state.inputs()
    assert nothing["point_labels"].tolist() == [-1]
    assert nothing["has_mask_input"].tolist() == [0]
    assert nothing["mask_input"].shape == (4, 4)
    logits = np.ones((4, 4), np.float32)
    state.add(Click(1.5, 2.25, True))
    state.add(Box(1, 2, 3.5, 4))
    state.fold(MaskLogits(logits))
    state.add(Stroke(((7.0, 0.5), (7.0, 20.5)), False))
    assert state.inputs()["point_labels"].tolist() == [1, 0, 0, 0, 2, 3]
    state.add(Box(0, 0, 16, 16))
    found = state.inputs()
    assert found["point_coords"].tolist() == [[1.5, 2.25], [7, 0.5], [7, 10.5], [7, 20.5], [0, 0], [16, 16]]
    assert found["mask_input"] is logits
    assert found["has_mask_input"].tolist() == [1]
    state.fold(MaskLogits(2 * logits))
    state.undo(3)
    assert state.inputs()["point_coords"][-2:].tolist() == [[1, 2], [3.5, 4]]
    assert state.inputs()["mask_input"] is logits  # as the stroke was decoded
    state.undo(2)
    assert state.inputs()["has_mask_input"].tolist() == [0]
    state.undo(0)
    assert all(np.array_equal(state.inputs()[name], nothing[name]) for name in nothing)


def test_a_start_mask_as_logits_comes_back(hrsam_models: Callable[[str], HRSAM]) -> None:
    """Resized as logits are, what stands for a mask gives that mask again but for pixels at its border."""
    frame = Frame(90, 120, size=64)
    y, x = np.mgrid[:90, :120]
    mask = np.hypot(y - 40, x - 60) < 30
    state = SparsePrompts(64)
    state.add(StartMask(frame.mask_to_model(mask)))
    logits = state.inputs()["mask_input"]
    assert logits.shape == (16, 16)
    assert (logits.min(), logits.max()) == (-START_LOGIT, START_LOGIT)
    back = (image_logits(torch.from_numpy(logits)[None, None], frame)[0, 0] > 0).numpy()
    assert (back & mask).sum() / (back | mask).sum() > 0.95  # a pixel of the logits is 8 of the image
    assert start_logits(np.eye(16, dtype=bool))[0].tolist() == [-5.0, -10.0, -10.0, -10.0]

    session = ReferenceSession(hrsam_models("hrsam_probe"), np.zeros((90, 120, 3), np.uint8), 64)
    session.start(mask)
    np.testing.assert_array_equal(session.mask, back)
    session.click(60, 40)
    expected = session.model.decode(
        session.embedding,
        torch.tensor([[[30.0, 20.0]]]),
        torch.ones(1, 1, dtype=torch.long),
        torch.tensor(logits)[None, None],
    )
    np.testing.assert_array_equal(session.logits, expected[0, 0].detach().numpy())
    np.testing.assert_array_equal(session.undo(), back)


def test_a_box_reaches_the_decoder_with_the_clicks(hrsam_models: Callable[[str], HRSAM]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
    session = ReferenceSession(hrsam_models("hrsam_probe"), image, 64)
    session.box(20, 30, 100, 90)
    first = session.logits
    session.click(61, 60, False)
    expected = session.model.decode(
        session.embedding,
        torch.tensor([[[30.5, 30.0]]]),
        torch.zeros(1, 1, dtype=torch.long),
        torch.from_numpy(first)[None, None],
        torch.tensor([[10.0, 15.0, 50.0, 45.0]]),
    )
    np.testing.assert_array_equal(session.logits, expected[0, 0].detach().numpy())
    assert np.abs(session.logits - first).max() > 1e-3
    for box in [(-1, 0, 5, 5), (0, 0, 129, 5), (7, 0, 7, 5), (0, float("nan"), 5, 5)]:
        with pytest.raises(ValueError, match="is empty or reaches outside the image"):
            session.box(*box)


@pytest.mark.parametrize(("height", "width", "size"), [(90, 120, 64), (33, 64, 128), (600, 1000, 240)])
def test_masks_lie_where_the_picture_lies(height: int, width: int, size: int) -> None:
    """A mask of a pixel's own place: the pixel under the centre of each model pixel is the one that is taken."""
    frame = Frame(height, width, size)
    rows = frame.mask_to_model(np.broadcast_to((np.arange(height) % 2 == 0)[:, None], (height, width)).copy())
    scale = frame.padded[0] / frame.resized[0]
    for row in range(frame.resized[0]):
        under = int((row + 0.5) * scale)
        assert rows[row, 0] == (under < height and under % 2 == 0)
    assert not rows[frame.resized[0] :].any()
    other: Any = np.zeros((width, height), bool)
    with pytest.raises(ValueError, match="expected a mask"):
        frame.mask_to_model(other)
