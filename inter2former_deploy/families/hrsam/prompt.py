"""The prompt encoder of HRSAM, which is SAM's: points, boxes and a previous mask become embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from math import pi

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inter2former_deploy.core.prompts import Click
from inter2former_deploy.families.hrsam.config import MASK_STRIDE, HRSAMDecoderConfig
from inter2former_deploy.families.hrsam.prompts import NEGATIVE, NOT_A_POINT, POSITIVE
from inter2former_deploy.families.inter2former.config import PATCH

CORNERS = 2  # of a box; their embeddings follow those of negative and positive points
MAP_EPSILON = 1e-6  # of norms over the channels of maps, in SAM's decoder as well


class PositionEncoding(nn.Module):
    """Random Fourier features of positions.

    Args:
        dim: Numbers of an encoding: sines, then cosines.
    """

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, *, dim: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, dim // 2))

    def forward(self, xy: Tensor) -> Tensor:
        """Positions as shares of the image's width and height, [..., 2] -> [..., dim]."""
        xy = 2 * xy - 1
        of_x, of_y = self.positional_encoding_gaussian_matrix
        angles = 2 * pi * (xy[..., :1] * of_x + xy[..., 1:] * of_y)  # autocast would round a matrix product to 8 bits
        return torch.cat((angles.sin(), angles.cos()), dim=-1)


class MapNorm(nn.LayerNorm):
    """LayerNorm over the channels of a map [B, C, H, W]."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=MAP_EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class PromptEncoder(nn.Module):
    """Clicks and boxes -> sparse embeddings; the previous mask's logits -> dense embedding.

    Args:
        config: The decoder's numbers.
    """

    def __init__(self, *, config: HRSAMDecoderConfig) -> None:
        super().__init__()
        self.config = config
        dim, (first, second) = config.dim, config.mask_prompt
        self.pos_embed_layer = PositionEncoding(dim=dim)
        self.point_embeds = nn.ModuleList(nn.Embedding(1, dim) for _ in range(POSITIVE + 1 + CORNERS))
        self.not_a_point_embed = nn.Embedding(1, dim)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, first, 2, stride=2),
            MapNorm(first),
            nn.GELU(),
            nn.Conv2d(first, second, 2, stride=2),
            MapNorm(second),
            nn.GELU(),
            nn.Conv2d(second, dim, 1),
        )
        self.no_mask_embed = nn.Embedding(1, dim)

    def sparse(self, xy: Tensor, labels: Tensor, size: tuple[int, int], box: Tensor | None = None) -> Tensor:
        """Embeddings of clicks, and of a box.

        Args:
            xy: Clicks in the order in which they were made, x to the right and y down, pixels of the model input,
                [B, n, 2]. Half a pixel is added here. n may be 0.
            labels: 1 positive, 0 negative, -1 not a point, integers [B, n].
            size: Height and width of the model input, pixels.
            box: Left, top, right, bottom in the same pixels, [B, 4], or None.

        Returns:
            [B, n + 1, C]: the clicks and one "not a point"; with a box, [B, n + 2, C]: the clicks and its two corners.

        Raises:
            ValueError: A shape does not fit, or a label is none of the three.
        """
        self._check_points(xy, labels, box)
        positive, negative = (self.point_embeds[i].get_parameter("weight") for i in (POSITIVE, NEGATIVE))
        nothing = self.not_a_point_embed.weight
        label = labels[..., None]
        embedded = self._encode(xy, size)
        embedded = embedded + torch.where(label == POSITIVE, positive, torch.where(label == NEGATIVE, negative, 0))
        embedded = torch.where(label == NOT_A_POINT, nothing, embedded)
        if box is None:
            return torch.cat((embedded, nothing.expand(len(xy), 1, -1)), dim=1)
        corners = torch.cat([self.point_embeds[POSITIVE + 1 + i].get_parameter("weight") for i in range(CORNERS)])
        return torch.cat((embedded, self._encode(box.view(-1, CORNERS, 2), size) + corners), dim=1)

    def dense(self, logits: Tensor | None, grid: tuple[int, int]) -> Tensor:
        """Embedding of the previous mask.

        Args:
            logits: Of the previous mask, [B, 1, 4*h, 4*w], or None at the first click.
            grid: h and w of the image embedding, tokens.

        Returns:
            [B, C, h, w]; without a mask [1, C, 1, 1], the same at every place.

        Raises:
            ValueError: The logits have another shape.
        """
        if logits is None:
            return self.no_mask_embed.weight[..., None, None]
        out: Tensor = self.mask_downscaling[-1](self.mask_channels(logits, grid))
        return out

    def mask_channels(self, logits: Tensor, grid: tuple[int, int]) -> Tensor:
        """The previous mask before it is projected to the width of a token, [B, few channels, h, w]; see `dense`."""
        height, width = (PATCH // MASK_STRIDE * n for n in grid)
        if logits.ndim != 4 or logits.shape[1:] != (1, height, width):
            raise ValueError(
                f"expected logits of the previous mask [B, 1, {height}, {width}], got {list(logits.shape)}"
            )
        out: Tensor = self.mask_downscaling[:-1](logits)
        return out

    def position_map(self, grid: tuple[int, int]) -> Tensor:
        """Encodings of the places of image tokens, made on one grid for all sizes and resized from there.

        Args:
            grid: h and w of the image embedding, tokens.

        Returns:
            [1, C, h, w].
        """
        side, matrix = self.config.position_grid, self.pos_embed_layer.positional_encoding_gaussian_matrix
        shares = (torch.arange(side, device=matrix.device, dtype=matrix.dtype) + 0.5) / side
        xy = torch.stack(torch.meshgrid(shares, shares, indexing="xy"), dim=-1)  # [row, column, (x, y)]
        positions: Tensor = self.pos_embed_layer(xy).permute(2, 0, 1)[None]
        if grid != (side, side):
            positions = F.interpolate(positions, size=grid, mode="bilinear", align_corners=False)
        return positions

    def _encode(self, xy: Tensor, size: tuple[int, int]) -> Tensor:
        """Pixel positions [..., 2] -> [..., C]."""
        height, width = size
        out: Tensor = self.pos_embed_layer((xy + 0.5) / xy.new_tensor((width, height)))
        return out

    def _check_points(self, xy: Tensor, labels: Tensor, box: Tensor | None) -> None:
        if xy.ndim != 3 or xy.shape[2] != 2 or not xy.is_floating_point():
            raise ValueError(f"expected clicks of floating-point numbers [B, n, 2], got {xy.dtype} {list(xy.shape)}")
        if labels.shape != xy.shape[:2] or labels.is_floating_point():
            raise ValueError(
                f"expected an integer label for each click, {list(xy.shape[:2])}, got {labels.dtype} "
                f"{list(labels.shape)}"
            )
        if box is not None and box.shape != (len(xy), 4):
            raise ValueError(f"expected boxes [{len(xy)}, 4], got {list(box.shape)}")
        # The values of an exported graph's inputs are not known yet.
        if not torch.compiler.is_exporting() and bool(((labels < NOT_A_POINT) | (labels > POSITIVE)).any()):
            raise ValueError("labels of clicks must be 1 (positive), 0 (negative) or -1 (not a point)")


def check_batch(batch: int, xy: Tensor, previous: Tensor | None) -> None:
    """Raises ValueError unless there are clicks, and logits if any, for each of the `batch` image embeddings."""
    for name, given in (("clicks", xy), ("logits of the previous mask", previous)):
        if given is not None and len(given) != batch:
            raise ValueError(f"expected {name} of {batch} samples, as many as embeddings, got {len(given)}")


def points_of(clicks: Sequence[Sequence[Click]]) -> tuple[Tensor, Tensor]:
    """Clicks of the samples of a batch as arrays; samples with fewer clicks are filled up with "not a point".

    Args:
        clicks: Of each sample, in pixels of the model input.

    Returns:
        Positions (x, y), float32 [B, n, 2], and labels, int64 [B, n].
    """
    most = max((len(of_sample) for of_sample in clicks), default=0)
    xy = torch.zeros(len(clicks), most, 2)
    labels = torch.full((len(clicks), most), NOT_A_POINT)
    for i, of_sample in enumerate(clicks):
        for j, click in enumerate(of_sample):
            xy[i, j] = torch.tensor((click.x, click.y))
            labels[i, j] = POSITIVE if click.positive else NEGATIVE
    return xy, labels
