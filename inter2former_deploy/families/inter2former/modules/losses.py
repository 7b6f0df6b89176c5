"""Losses of training: normalised focal loss on both outputs of local upsampling, and the quantisation loss."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from inter2former_deploy.core.clicks import IGNORED
from inter2former_deploy.families.inter2former.config import PATCH

EPSILON = 2.0**-23  # of float32


class TrainingLoss(NamedTuple):
    """The terms of the training loss, scalars; they are added with weight 1."""

    full_res: Tensor
    low_res: Tensor
    quantization: Tensor

    @property
    def total(self) -> Tensor:
        """What is minimised."""
        return self.full_res + self.low_res + self.quantization


def training_loss(logits: Tensor, low_res: Tensor, target: Tensor, quantization: Tensor) -> TrainingLoss:
    """Loss of a batch, the mean over its samples.

    Args:
        logits: [B, 1, S, S].
        low_res: Logits of tokens, [B, 1, h, w].
        target: [B, 1, S, S], 0 background, `IGNORED` neither, foreground else.
        quantization: The neck's quantisation loss, a scalar.
    """
    # As in the release, a pixel to be ignored makes its token foreground.
    token_target = F.max_pool2d((target > 0).float(), PATCH)
    return TrainingLoss(
        normalized_focal_loss(logits, target).mean(),
        normalized_focal_loss(low_res, token_target).mean(),
        quantization,
    )


def normalized_focal_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Focal loss with the weights of each sample's pixels summing to one.

    Args:
        logits: [B, 1, H, W].
        target: [B, 1, H, W], 0 background, `IGNORED` neither, foreground else.

    Returns:
        Loss of every sample, [B]; 0 where no pixel counts.
    """
    valid = target != IGNORED
    likelihood = torch.sigmoid(torch.where(target > 0, logits, -logits))
    weight = torch.where(valid, (1 - likelihood).square(), 0)
    loss = -0.5 * weight * torch.log((likelihood + EPSILON).clamp(max=1))
    norm = weight.detach().flatten(1).sum(1) + EPSILON
    return loss.flatten(1).sum(1) / norm


def jaccard_loss(logits: Tensor, target: Tensor) -> Tensor:
    """One minus the IoU of probabilities and target, which other losses only approach (not of the paper).

    Args:
        logits: [B, 1, H, W].
        target: [B, 1, H, W], 0 background, `IGNORED` neither, foreground else.

    Returns:
        Loss of every sample, [B], 0 to 1.
    """
    valid = target != IGNORED
    p = torch.where(valid, torch.sigmoid(logits), 0).flatten(1)
    t = (valid & (target > 0)).to(p).flatten(1)
    both = (p * t).sum(1)
    return 1 - (both + 1) / (p.sum(1) + t.sum(1) - both + 1)  # one pixel more in both: without any, the loss is 0
