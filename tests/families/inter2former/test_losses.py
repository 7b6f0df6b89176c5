"""Normalised focal loss against the golden arrays, and the terms of the training loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from inter2former_deploy.families.inter2former.modules.losses import (
    IGNORED,
    jaccard_loss,
    normalized_focal_loss,
    training_loss,
)


def test_golden(golden: Any, assert_close: Any) -> None:
    arrays = golden("loss_clicks_metrics")
    logits = torch.from_numpy(arrays["logits"]).requires_grad_()
    loss = normalized_focal_loss(logits, torch.from_numpy(arrays["target"]))
    loss.sum().backward()
    assert_close(loss, arrays["loss"], "loss")
    assert_close(logits.grad, arrays["grad"], "loss")


def test_a_sample_without_valid_pixels_has_no_loss() -> None:
    logits = torch.randn(2, 1, 4, 4, requires_grad=True)
    target = torch.stack((torch.full((1, 4, 4), IGNORED), torch.ones(1, 4, 4, dtype=torch.int64)))
    loss = normalized_focal_loss(logits, target)
    loss.sum().backward()
    assert loss[0] == 0
    assert loss[1] > 0
    assert logits.grad is not None
    assert (logits.grad[0] == 0).all()
    assert (logits.grad[1] != 0).all()


def test_jaccard_loss_is_what_the_iou_lacks() -> None:
    target = torch.zeros(3, 1, 20, 20, dtype=torch.uint8)
    target[:, :, 5:15, 5:15] = 1
    target[1, :, :, 10:] = IGNORED
    logits = torch.full((3, 1, 20, 20), -100.0)
    logits[:, :, 5:15, :10] = 100.0  # 50 pixels of the object, and 50 beside it
    logits[2] = 0.0  # half of every pixel
    expected = [1 - 51 / 151, 1 - 51 / 101, 1 - 51 / 251]
    torch.testing.assert_close(jaccard_loss(logits, target), torch.tensor(expected))


@pytest.mark.parametrize("logit", [-200.0, -20.0, 20.0, 200.0])
def test_extreme_logits_are_finite(logit: float) -> None:
    logits = torch.full((1, 1, 2, 2), logit, requires_grad=True)
    loss = normalized_focal_loss(logits, torch.tensor([[[[0, 1], [1, 0]]]]))
    loss.sum().backward()
    assert loss.isfinite().all()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_ignored_pixels_do_not_count() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(1, 1, 4, 6), torch.randint(0, 2, (1, 1, 4, 6))
    ignored = target.clone()
    ignored[..., 3:] = IGNORED
    whole, half = (normalized_focal_loss(logits[..., :n], ignored[..., :n]) for n in (6, 3))
    torch.testing.assert_close(whole, half)


def test_training_loss() -> None:
    """Of tokens, one with any foreground or ignored pixel is foreground, and all count."""
    torch.manual_seed(0)
    logits, low_res = torch.randn(2, 1, 32, 32), torch.randn(2, 1, 2, 2)
    target = torch.zeros(2, 1, 32, 32, dtype=torch.uint8)
    target[0, 0, 3, 20], target[1, 0, 31, 31] = 1, IGNORED
    tokens = torch.tensor([[[[0, 1], [0, 0]]], [[[0, 0], [0, 1]]]])
    loss = training_loss(logits, low_res, target, torch.tensor(0.25))
    torch.testing.assert_close(loss.full_res, normalized_focal_loss(logits, target).mean())
    torch.testing.assert_close(loss.low_res, normalized_focal_loss(low_res, tokens).mean())
    torch.testing.assert_close(loss.total, loss.full_res + loss.low_res + 0.25)
