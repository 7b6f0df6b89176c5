"""Training signals that reach encoder and neck on short ways; their parameters are not part of the result.

The losses of the paper reach the encoder through neck and four upsampling stages, which themselves start from nothing:
a small model on few pictures then hardly leaves the ground. Two linear maps cure that.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inter2former_deploy.clicks import IGNORED
from inter2former_deploy.config import PATCH

_FEATURES = 64  # channels in which tokens are compared


class Auxiliary(nn.Module):
    """Masks straight from the tokens, and tokens of one object alike in the image embedding.

    Args:
        dim: channels of a token.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.pixels = nn.Linear(dim, PATCH**2)
        self.features = nn.Linear(dim, _FEATURES)
        self.scale = nn.Parameter(torch.tensor(5.0))
        self.shift = nn.Parameter(torch.tensor(-2.0))

    def forward(
        self, embedding: Tensor, tokens: Tensor, masks: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Both losses, scalars.

        Args:
            embedding: of every sample's picture, [B, C, h, w].
            tokens: of the neck, [B, C, h, w].
            masks: uint8 [B, S, S], 1 object, 0 background, 255 ignored.
            rng: chooses the token with which the others are compared.
        """
        logits = F.pixel_shuffle(self.pixels(tokens.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), PATCH)[:, 0]
        target, valid = (masks == 1).float(), (masks != IGNORED).float()
        straight = _overlap_loss(logits.flatten(1), target.flatten(1), valid.flatten(1))

        share = F.avg_pool2d(target[:, None], PATCH).flatten(1)  # of each token that is object, [B, L]
        counts = F.avg_pool2d(valid[:, None], PATCH).flatten(1)
        x = F.normalize(self.features(embedding.flatten(2).transpose(1, 2)), dim=-1)  # [B, L, _FEATURES]
        weights = share.cpu().numpy().astype(np.float64) + 1e-9
        chosen = [int(rng.choice(len(w), p=w / w.sum())) for w in weights]
        alike = torch.einsum("blc,bc->bl", x, x[torch.arange(len(x)), chosen])
        return straight, _overlap_loss(self.scale * alike + self.shift, share, counts)


def _overlap_loss(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Cross-entropy plus the Dice loss, [B, n] each, the mean over samples."""
    entropy = F.binary_cross_entropy_with_logits(logits, target, weight, reduction="none").mean(1)
    p, t = torch.sigmoid(logits) * weight, target * weight
    dice = 1 - (2 * (p * t).sum(1) + 1) / (p.sum(1) + t.sum(1) + 1)
    return (entropy + dice).mean()
