"""Training signals that reach encoder and neck on short ways; their parameters are not part of the result.

The losses of the paper reach the encoder through neck and four upsampling stages, which themselves start from nothing:
a small model on few pictures then hardly leaves the ground. Three linear maps cure that.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inter2former_deploy.core.clicks import IGNORED
from inter2former_deploy.families.inter2former.config import PATCH

_FEATURES = 64  # channels in which tokens are compared


class Auxiliary(nn.Module):
    """Masks straight from the neck's tokens; borders and likeness straight from the image embedding.

    Args:
        dim: channels of a token.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.masks = nn.Linear(dim, PATCH**2)
        self.borders = nn.Linear(dim, PATCH**2)
        self.features = nn.Linear(dim, _FEATURES)
        self.scale = nn.Parameter(torch.tensor(5.0))
        self.shift = nn.Parameter(torch.tensor(-2.0))

    def mask_loss(self, tokens: Tensor, masks: Tensor) -> Tensor:
        """Every token tells the object's pixels in it.

        Args:
            tokens: of the neck, [B, C, h, w].
            masks: uint8 [B, S, S], 1 object, 0 background, 255 ignored.

        Returns:
            A scalar.
        """
        return _overlap_loss(_pixels(self.masks, tokens), masks == 1, masks != IGNORED)

    def border_loss(self, embedding: Tensor, segments: Tensor) -> Tensor:
        """Every token tells the pixels in it behind which, to the right or below, another thing begins.

        Args:
            embedding: of the images, [B, C, h, w].
            segments: uint8 [B, S, S], the thing that a pixel belongs to, 255 ignored.

        Returns:
            A scalar.
        """
        right, below = F.pad(segments[:, :, 1:], (0, 1)), F.pad(segments[:, 1:], (0, 0, 0, 1))
        valid = (segments != IGNORED) & (right != IGNORED) & (below != IGNORED)
        valid[:, -1] = valid[:, :, -1] = False
        return _overlap_loss(_pixels(self.borders, embedding), (segments != right) | (segments != below), valid)

    def likeness_loss(self, embedding: Tensor, segments: Tensor) -> Tensor:
        """Tokens are alike if they show the same thing; each thing counts the same, however large.

        Args:
            embedding: of the images, [B, C, h, w].
            segments: uint8 [B, S, S], the thing that a pixel belongs to, 255 ignored.

        Returns:
            A scalar.
        """
        things = int(segments[segments != IGNORED].max()) + 1
        one_hot = torch.stack([segments == thing for thing in range(things)], 1).float()
        shares = F.avg_pool2d(one_hot, PATCH).flatten(2).transpose(1, 2)  # of each thing in each token, [B, L, things]
        x = F.normalize(self.features(embedding.flatten(2).transpose(1, 2)), dim=-1)  # [B, L, _FEATURES]
        logits = self.scale * (x @ x.transpose(1, 2)) + self.shift
        same = shares @ shares.transpose(1, 2)  # [B, L, L]
        present = shares.sum(2)
        other = present[:, :, None] * present[:, None] - same
        together = (same * F.softplus(-logits)).sum(2) / (same.sum(2) + 1e-3)
        apart = (other * F.softplus(logits)).sum(2) / (other.sum(2) + 1e-3)
        weight = (shares / (shares.sum(1, keepdim=True) + 1e-3)).sum(2)  # of a token
        per_picture = ((together + apart) * weight).sum(1) / (weight.sum(1) + 1e-3)
        return per_picture.mean()


def _pixels(linear: nn.Linear, tokens: Tensor) -> Tensor:
    """A number for every pixel of every token, [B, C, h, w] -> [B, S, S]."""
    y = linear(tokens.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return F.pixel_shuffle(y, PATCH)[:, 0]


def _overlap_loss(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Cross-entropy plus the Dice loss, [B, S, S] each, the mean over samples."""
    logits, t, weight = logits.flatten(1), (target & valid).flatten(1).float(), valid.flatten(1).float()
    entropy = F.binary_cross_entropy_with_logits(logits, t, weight, reduction="none").mean(1)
    p = torch.sigmoid(logits) * weight
    dice = 1 - (2 * (p * t).sum(1) + 1) / (p.sum(1) + t.sum(1) + 1)
    return (entropy + dice).mean()
