"""Losses of HRSAM's two ways of training: distillation of the encoder, and fine-tuning on masks."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from inter2former_deploy.families.inter2former.modules.losses import normalized_focal_loss


def distillation_loss(embedding: Tensor, teacher: Tensor) -> Tensor:
    """How far an image embedding is from the teacher's (SAM ViT-H's): the mean squared difference.

    Args:
        embedding: [B, C, h, w].
        teacher: Of the same images, of the same shape.

    Returns:
        Loss of every sample, [B].

    Raises:
        ValueError: The shapes differ.
    """
    if embedding.shape != teacher.shape:
        raise ValueError(
            f"embeddings must be of one shape, got {list(embedding.shape)} and of the teacher {list(teacher.shape)}"
        )
    return (embedding - teacher).square().flatten(1).mean(1)


def mask_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Normalised focal loss of the first mask, resized to the target.

    Args:
        logits: Of `HRSAM.decode`, [B, 1, 4*h, 4*w].
        target: [B, 1, H, W], 0 background, `IGNORED` neither, foreground else.

    Returns:
        Loss of every sample, [B]; 0 where no pixel counts.
    """
    resized = F.interpolate(logits, size=target.shape[2:], mode="bilinear", align_corners=False)
    return normalized_focal_loss(resized, target)
