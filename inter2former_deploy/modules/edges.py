"""The edge network (CannyNet): Canny maps of the image through a small residual network, once an image.

The Canny maps are ill-conditioned: where the gradient vanishes its direction is rounding noise, and on a straight edge
between flat areas two equal magnitudes compete for one bit. So `CannyNet` comes in two steps: implementations may
differ in some pixels of `canny_maps`, while `features` of the same maps are reproducible to rounding.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inter2former_deploy.config import EdgeNetworkConfig
from inter2former_deploy.contract import MEAN_BGR, STD_BGR

THRESHOLD = 2.0  # of the gradient magnitude, which is a sum over three channels in [0, 1]
NEIGHBOURS = ((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1))  # (row, column), k at k*45 degrees
TAN_22_5 = 2**0.5 - 1  # a direction is horizontal up to this slope
TAN_67_5 = 2**0.5 + 1  # and vertical from this slope on


class FixedFilter(nn.Module):
    """A convolution of one channel whose weights are in the checkpoint but never learned; zero padding.

    Args:
        weight: [channels, kernel height, kernel width].
    """

    weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight[:, None].clone())  # each its own, to be saved separately

    def forward(self, x: Tensor) -> Tensor:
        """[B, 1, H, W] -> [B, channels, H, W]."""
        return F.conv2d(x, self.weight, padding=(self.weight.shape[2] // 2, self.weight.shape[3] // 2))


class Canny(nn.Module):
    """Gradient, its direction, non-maximum suppression and thresholds of an image."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        gauss = torch.exp(-0.5 * (torch.arange(5, dtype=torch.float64) - 2) ** 2)
        gauss = (gauss / gauss.sum()).float()
        sobel = torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]])
        differences = torch.zeros(len(NEIGHBOURS), 3, 3)
        for k, (row, column) in enumerate(NEIGHBOURS):
            differences[k, 1, 1], differences[k, 1 + row, 1 + column] = 1, -1
        self.g_h = FixedFilter(gauss.view(1, 1, 5))
        self.g_v = FixedFilter(gauss.view(1, 5, 1))
        self.sobh = FixedFilter(sobel[None])
        self.sobv = FixedFilter(sobel.T[None])
        self.dirf = FixedFilter(differences)  # self minus neighbour k
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
        # Contiguous, and channel by channel: with the same memory layout and shapes the convolutions round as in the
        # release. All three at once, `thin` differs at 14 of the 9216 pixels of the golden image.
        picture = ((image.detach().contiguous() * self.std + self.mean) / 255).clamp(0, 1)
        blurred = [self.g_v(self.g_h(channel)) for channel in torch.split(picture, 1, dim=1)]
        gx = torch.cat([self.sobh(channel) for channel in blurred], dim=1)  # [B, 3, S, S]
        gy = torch.cat([self.sobv(channel) for channel in blurred], dim=1)

        magnitude = (gx.square() + gy.square()).sqrt().sum(1, keepdim=True)
        direction = gradient_direction(gx.sum(1, keepdim=True), gy.sum(1, keepdim=True))
        # Neighbours k and k + 4 lie on one axis, and 0 and 360 degrees on the same one.
        differences = self.dirf(magnitude)  # [B, 8, S, S]
        is_maximum = torch.minimum(differences[:, :4], differences[:, 4:]) > 0
        on_axis = direction.remainder(180) == 45 * torch.arange(4, device=image.device).view(4, 1, 1)
        thin = torch.where((is_maximum & on_axis).any(1, keepdim=True), magnitude, 0)
        thresh = torch.where(thin >= THRESHOLD, thin, 0)
        early = torch.where(magnitude >= THRESHOLD, magnitude, 0)
        return torch.cat((magnitude, direction, thin, thresh, early), dim=1)


def gradient_direction(gx: Tensor, gy: Tensor) -> Tensor:
    """round((atan2(gy, gx) in degrees + 180) / 45) * 45, by comparisons alone, as ONNX has no Atan2.

    A zero gradient has direction 180. Along the negative x axis the direction is 360 for gy = 0, whatever the sign of
    that zero, and 0 only for gy < 0: so it does not depend on which zero a convolution returns.

    Args:
        gx: Gradient along the columns, to the right, any shape.
        gy: Gradient along the rows, downwards, of the same shape.

    Returns:
        A multiple of 45 in 0..360, of the same shape and type.
    """
    width, height = gx.abs(), gy.abs()
    # Octants from the x axis: 0 horizontal, 1 diagonal, 2 vertical, then counted on to 4 where gx < 0.
    octant: Tensor = (height > TAN_22_5 * width).to(gx) + (height > TAN_67_5 * width).to(gx)
    octant = torch.where(gx < 0, 4 - octant, octant)
    return torch.where(gy < 0, 4 - octant, 4 + octant).mul(45)


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
        # Row by row: over 2048 x 2048 pixels at once, as torch.linalg.vector_norm sums, grad_ori's norm loses 5e-4.
        norms = maps.square().sum(3, keepdim=True).sum(2, keepdim=True).sqrt()
        x = self.conv1(maps / norms.clamp(min=1e-12))
        features = []
        for i, (blocks, lateral) in enumerate(zip(self.block_list, self.lateral_convs, strict=True)):
            if i > 0:
                x = self.downsamplers[i - 1](x)
            x = blocks(x)
            features.append(lateral(x))
        return tuple(reversed(features))
