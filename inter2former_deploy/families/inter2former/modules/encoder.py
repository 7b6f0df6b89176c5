"""The HRSAM++ image encoder without its state-space module: one pass an image, shared by all clicks.

Two maps of the image, the main map at full resolution and a small anchor map, go through the same transformer
blocks with attention in windows; every few blocks their tokens are fused. Padding slots of a window serve as keys
and values only (the paper's KV-only padding).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inter2former_deploy.families.inter2former.config import PATCH, EncoderConfig
from inter2former_deploy.operators import formulas
from inter2former_deploy.operators.rotary import rotary_frequencies
from inter2former_deploy.operators.windows import WindowLayout


class RotaryEmbedding(nn.Module):
    """Holds the frequencies of the rotary embedding, as checkpoints do; `formulas.window_attention` makes its own.

    Args:
        head_dim: Channels of an attention head, a multiple of 4.
    """

    freqs: Tensor

    def __init__(self, *, head_dim: int) -> None:
        super().__init__()
        self.register_buffer("freqs", rotary_frequencies(head_dim))


class WindowAttention(nn.Module):
    """Attention in windows with KV-only padding: padding slots are all the learned vector `padding`, none is masked.

    Args:
        dim: Channels of a token.
        heads: Number of attention heads.
    """

    def __init__(self, *, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.padding = nn.Parameter(torch.zeros(1, dim))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, norm: nn.LayerNorm, layouts: list[WindowLayout]) -> Tensor:
        """Tokens plus the attention of the normalised tokens.

        Args:
            x: The tokens of an image's maps one after the other, image after image, [B*N, dim].
            norm: The norm before the attention.
            layouts: The windows of each map.

        Returns:
            [B*N, dim].
        """
        qkv = formulas.norm_linear(x, norm.weight, norm.bias, self.qkv.weight, self.qkv.bias, norm.eps, "none")
        # Every padding slot has the same key and value before the rotary embedding, so they are projected once.
        padding = self.qkv(self.padding)
        heights, widths, offsets = ([getattr(w, name) for w in layouts] for name in ("height", "width", "offset"))
        attended = formulas.window_attention(qkv, padding, self.heads, layouts[0].side, heights, widths, offsets)
        return formulas.linear_add(attended, x, self.proj.weight, self.proj.bias)


class Mlp(nn.Module):
    """Two linear layers with a GELU (exact, erf) between."""

    def __init__(self, *, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        """Tokens [T, dim] plus what is made of the normalised tokens -> [T, dim]."""
        first, second = self.fc1, self.fc2
        hidden = formulas.norm_linear(x, norm.weight, norm.bias, first.weight, first.bias, norm.eps, "gelu")
        return formulas.linear_add(hidden, x, second.weight, second.bias)


class EncoderBlock(nn.Module):
    """A pre-norm transformer block with attention in windows."""

    def __init__(self, *, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim=dim, heads=heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim=dim, hidden=4 * dim)

    def forward(self, x: Tensor, layouts: list[WindowLayout]) -> Tensor:
        """Tokens [B*N, dim] and windows as `WindowAttention` takes them -> [B*N, dim]."""
        x = self.attn(x, self.norm1, layouts)
        out: Tensor = self.mlp(x, self.norm2)
        return out


class PatchEmbedding(nn.Module):
    """Projects each patch of the image to a token."""

    def __init__(self, *, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, PATCH, stride=PATCH)

    def forward(self, image: Tensor) -> Tensor:
        """[B, 3, S, S] -> [B, S/16, S/16, dim]."""
        tokens: Tensor = self.proj(image)
        return tokens.permute(0, 2, 3, 1)


class ChannelsLast(nn.Module):
    """[B, C, h, w] -> [B, h, w, C]."""

    def forward(self, x: Tensor) -> Tensor:
        """The permuted view."""
        return x.permute(0, 2, 3, 1)


def resize(x: Tensor, height: int, width: int) -> Tensor:
    """Bilinear resize of a channels-last map [B, h, w, C] -> [B, height, width, C], a matrix product a direction."""
    rows, columns = (_bilinear(n, size).to(x) for n, size in zip(x.shape[1:3], (height, width), strict=True))
    tall = torch.unflatten(rows @ x.flatten(2), 2, x.shape[2:])  # [B, height, w, C]
    return columns @ tall


def _bilinear(before: int, after: int) -> Tensor:
    """Linear interpolation of `before` numbers to `after` as a matrix [after, before] (align_corners=False)."""
    eye = torch.eye(before)[None]  # a batch of one map, whose channels are the unit vectors
    return F.interpolate(eye, size=after, mode="linear", align_corners=False)[0].T


def add_positions(tokens: Tensor, pos_embed: Tensor) -> Tensor:
    """Tokens of a map plus a learned grid of position embeddings, resized to the map.

    Args:
        tokens: [B, h, w, dim].
        pos_embed: The square grid behind a slot that nothing reads, [1, 1 + side*side, dim].

    Returns:
        [B, h, w, dim].
    """
    side = math.isqrt(pos_embed.shape[1] - 1)
    return tokens + resize(torch.unflatten(pos_embed[:, 1:], 1, (side, side)), tokens.shape[1], tokens.shape[2])


def fuse_maps(main: Tensor, anchor: Tensor, norm: nn.Module, lateral: nn.Module) -> Tensor:
    """Multi-scale fusion of the two maps of an image.

    Args:
        main: [B, h, w, dim].
        anchor: Of another size, [B, hA, wA, dim].
        norm: Of both maps.
        lateral: A linear layer from both maps' channels, without bias, and a LayerNorm.

    Returns:
        On the main grid, [B, h, w, out_channels].
    """
    maps = norm(main), norm(resize(anchor, main.shape[1], main.shape[2]))
    # The linear layer of both maps' channels side by side, as a sum of two: nothing is copied.
    weight, dim = lateral.get_parameter("0.weight"), main.shape[3]
    halves = weight[:, :dim], weight[:, dim:]
    first, second = (F.linear(m.flatten(0, 2), w) for m, w in zip(maps, halves, strict=True))  # [B*h*w, C]
    out: Tensor = lateral.get_submodule("1")(first + second)
    return torch.unflatten(out, 0, main.shape[:3])


class HRSAMEncoder(nn.Module):
    """Image -> image embedding.

    Args:
        config: The encoder's numbers.
        out_channels: Channels of the embedding.
    """

    def __init__(self, *, config: EncoderConfig, out_channels: int) -> None:
        super().__init__()
        self.config = config
        dim, stages = config.dim, len(config.fusion_after)
        # Slot 0 was a class token; it is in the checkpoint, but nothing reads it.
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + config.pos_grid**2, dim))
        self.patch_embed = PatchEmbedding(dim=dim)
        self.rope = RotaryEmbedding(head_dim=dim // config.heads)
        self.blocks = nn.ModuleList(EncoderBlock(dim=dim, heads=config.heads) for _ in range(config.depth))
        self.multi_scale_fusion = nn.ModuleList(nn.Sequential(nn.LayerNorm(dim)) for _ in range(stages))
        self.lateral_convs = nn.ModuleList(
            nn.Sequential(nn.Linear(2 * dim, out_channels, bias=False), nn.LayerNorm(out_channels))
            for _ in range(stages)
        )
        self.out_conv = nn.Sequential(
            nn.Conv2d(out_channels, out_channels, 3, padding=1, groups=out_channels, bias=False),
            ChannelsLast(),
            nn.LayerNorm(out_channels),
        )

    def forward(self, image: Tensor) -> Tensor:
        """The embedding of a normalised BGR image.

        Args:
            image: [B, 3, S, S], (picture - `MEAN_BGR`) / `STD_BGR`, S a multiple of 16.

        Returns:
            [B, out_channels, S/16, S/16].

        Raises:
            ValueError: the image has another shape.
        """
        if image.ndim != 4 or image.shape[1] != 3 or image.shape[2] != image.shape[3] or image.shape[2] % PATCH:
            raise ValueError(f"expected an image [B, 3, S, S], S a multiple of {PATCH}, got {list(image.shape)}")
        anchor_size = (self.config.anchor_size,) * 2
        anchor = F.interpolate(image, size=anchor_size, mode="bilinear", align_corners=False)
        main, anchor = self._embed(image), self._embed(anchor)  # [B, h, w, dim], each its own h and w
        grids = [(x.shape[1], x.shape[2]) for x in (main, anchor)]
        windows = [self._windows(grids, shifted=False), self._windows(grids, shifted=True)]

        x = torch.cat((main.flatten(1, 2), anchor.flatten(1, 2)), dim=1)  # [B, N main and anchor tokens, dim]
        x = x.flatten(0, 1)
        fused = []
        for i, block in enumerate(self.blocks):
            x = block(x, windows[i % 2])
            if i in self.config.fusion_after:
                fused.append(self._fuse(x, grids, self.config.fusion_after.index(i)))
        out: Tensor = self.out_conv(sum(fused[1:], fused[0]).permute(0, 3, 1, 2))
        return out.permute(0, 3, 1, 2)

    def _embed(self, image: Tensor) -> Tensor:
        """[B, 3, s, s] -> patches with position embedding [B, s/16, s/16, dim]."""
        return add_positions(self.patch_embed(image), self.pos_embed)

    def _windows(self, grids: list[tuple[int, int]], *, shifted: bool) -> list[WindowLayout]:
        """The windows of each map, which all even (or all odd, `shifted`) blocks share."""
        return [WindowLayout.of(*grid, self.config.window, shifted=shifted) for grid in grids]

    def _fuse(self, x: Tensor, grids: list[tuple[int, int]], stage: int) -> Tensor:
        """Main and anchor tokens [B*N, dim] -> one map on the main grid [B, h, w, out_channels]."""
        norm, lateral = self.multi_scale_fusion[stage], self.lateral_convs[stage]
        sizes = [height * width for height, width in grids]
        tokens = torch.split(torch.unflatten(x, 0, (-1, sum(sizes))), sizes, dim=1)
        main, anchor = (torch.unflatten(t, 1, grid) for t, grid in zip(tokens, grids, strict=True))
        return fuse_maps(main, anchor, norm, lateral)
