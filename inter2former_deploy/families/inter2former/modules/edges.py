"""The edge network (CannyNet): Canny maps of the image through a small residual network, once an image.

The Canny maps are ill-conditioned: where the gradient vanishes its direction is rounding noise, and on a straight edge
between flat areas two equal magnitudes compete for one bit. So `CannyNet` comes in two steps: implementations may
differ in some pixels of `canny_maps`, while `features` of the same maps are reproducible to rounding.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inter2former_deploy.core.contract import MEAN_BGR, STD_BGR
from inter2former_deploy.families.inter2former.config import EdgeNetworkConfig
from inter2former_deploy.operators import edge_formulas


class FixedFilter(nn.Module):
    """A convolution of one channel whose weights are in the checkpoint but never learned; zero padding.

    Args:
        weight: [channels, kernel height, kernel width].
    """

    weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight[:, None].clone())  # each its own, to be saved separately


class Canny(nn.Module):
    """Gradient, its direction, non-maximum suppression and thresholds of an image."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        gauss = torch.exp(-0.5 * (torch.arange(5, dtype=torch.float64) - 2) ** 2)
        gauss = (gauss / gauss.sum()).float()
        sobel = torch.tensor(edge_formulas.SOBEL)
        self.g_h = FixedFilter(gauss.view(1, 1, 5))
        self.g_v = FixedFilter(gauss.view(1, 5, 1))
        self.sobh = FixedFilter(sobel[None])
        self.sobv = FixedFilter(sobel.T[None])
        self.dirf = FixedFilter(edge_formulas.difference_filters()[:, 0])
        for name, values in (("mean", MEAN_BGR), ("std", STD_BGR)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """The five raw maps of a normalised BGR image; no gradient flows back to it.

        Args:
            image: [B, 3, S, S], (picture - `MEAN_BGR`) / `STD_BGR`.

        Returns:
            [B, 5, S, S]: gradient magnitude; direction in degrees, a multiple of 45 in 0..360; magnitude where it is
            a maximum across the edge, else 0; the same where it is also at least 2; magnitude where it is at least 2.
        """
        # Contiguous: the convolutions round by memory layout.
        picture = ((image.detach().contiguous() * self.std + self.mean) / 255).clamp(0, 1)
        filters = (self.g_h.weight, self.g_v.weight, self.sobh.weight, self.sobv.weight, self.dirf.weight)
        return edge_formulas.maps_of_picture(picture, *filters)

    def encode(self, image: Tensor) -> Tensor:
        """The same of one RGB picture [S, S, 3], 0-255, by its operator: [5, S, S]."""
        numbers = (self.mean, self.std, self.g_h.weight, self.g_v.weight)
        return edge_formulas.canny_maps(image, *(x.flatten() for x in numbers))


class ResidualBlock(nn.Module):
    """x + conv2(silu(norm2(conv1(silu(norm1(x))))))."""

    def __init__(self, *, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(1, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(1, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        hidden = self.conv1(F.silu(self.norm1(x)))
        out: Tensor = x + self.conv2(F.silu(self.norm2(hidden)))
        return out

    def encode(self, x: Tensor) -> Tensor:
        """The same of one map [H, W, C], by its operator."""
        first = self.norm1.weight, self.norm1.bias, self.conv1.weight, cast(Tensor, self.conv1.bias)
        second = self.norm2.weight, self.norm2.bias, self.conv2.weight, cast(Tensor, self.conv2.bias)
        return edge_formulas.edge_block(x, *first, *second, self.norm1.eps)


class CannyNet(nn.Module):
    """Edge features at four scales.

    Args:
        config: The network's numbers.
        channels: Of the features, fine to coarse, at S, S/2, S/4 and S/8.
    """

    def __init__(self, *, config: EdgeNetworkConfig, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.canny = Canny()
        self.conv1 = nn.Conv2d(5, channels[0], 3, padding=1)
        self.block_list = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(channels=c) for _ in range(config.blocks))) for c in channels
        )
        self.lateral_convs = nn.ModuleList(nn.Conv2d(c, c, 1) for c in channels)
        self.downsamplers = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(channels))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """The edge features of a normalised BGR image [B, 3, S, S]: `features(canny_maps(image))`."""
        return self.features(self.canny_maps(image))

    def canny_maps(self, image: Tensor) -> Tensor:
        """The five raw maps [B, 5, S, S] of a normalised BGR image [B, 3, S, S]; see `Canny`."""
        maps: Tensor = self.canny(image)
        return maps

    def features(self, maps: Tensor) -> tuple[Tensor, ...]:
        """Edge features of the five raw maps.

        Args:
            maps: [B, 5, S, S], from `canny_maps`, S a multiple of 8.

        Returns:
            Coarse to fine, [B, C, S/8, S/8] to [B, C, S, S].
        """
        x = self.conv1(edge_formulas.unit_norm(maps))
        features = []
        for i, (blocks, lateral) in enumerate(zip(self.block_list, self.lateral_convs, strict=True)):
            if i > 0:
                x = self.downsamplers[i - 1](x)
            x = blocks(x)
            features.append(lateral(x))
        return tuple(reversed(features))

    def encode(self, maps: Tensor) -> list[tuple[Tensor, nn.Conv2d]]:
        """The stages of one image, by operators.

        Args:
            maps: [5, S, S], from `canny_maps`, S a multiple of 8.

        Returns:
            Coarse to fine: a stage's result, [S/8, S/8, C] to [S, S, C], and the 1x1 convolution of it to the
            edge features.
        """
        x = edge_formulas.edge_stem(maps, self.conv1.weight, cast(Tensor, self.conv1.bias))
        stages = []
        for i, (blocks, lateral) in enumerate(zip(self.block_list, self.lateral_convs, strict=True)):
            if i > 0:
                between = cast(nn.Conv2d, self.downsamplers[i - 1])
                x = edge_formulas.edge_downsample(x, between.weight, cast(Tensor, between.bias))
            for block in cast(Iterable[ResidualBlock], blocks):
                x = block.encode(x)
            stages.append((x, cast(nn.Conv2d, lateral)))
        return stages[::-1]
