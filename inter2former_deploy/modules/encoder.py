"""The HRSAM++ image encoder without its state-space module: one pass an image, shared by all clicks.

Two maps of the image, the main map at full resolution and a small anchor map, go through the same transformer
blocks with attention in windows; every few blocks their tokens are fused. Padding slots of a window serve as keys
and values only (the paper's KV-only padding).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inter2former_deploy.config import PATCH, EncoderConfig
from inter2former_deploy.modules.rotary import rotary_angles, rotary_frequencies, rotate


@dataclass(frozen=True, kw_only=True)
class WindowLayout:
    """How a map of tokens is padded and cut into square windows; all numbers in tokens."""

    height: int  # of the map
    width: int
    side: int  # of a window
    offset: int  # padding at top and left

    @classmethod
    def of(cls, height: int, width: int, side: int, *, shifted: bool) -> WindowLayout:
        """The layout of a map; `shifted` moves the windows by half a side if the map is larger than one window."""
        offset = side // 2 if shifted and max(height, width) > side else 0
        return cls(height=height, width=width, side=side, offset=offset)

    @property
    def rows(self) -> int:
        """Rows of windows."""
        return -(-(self.offset + self.height) // self.side)

    @property
    def columns(self) -> int:
        """Columns of windows."""
        return -(-(self.offset + self.width) // self.side)

    def pad(self, x: Tensor, fill: Tensor) -> Tensor:
        """[B, height, width, C] and the vector of a padding slot [1, C] -> [B, rows*side, columns*side, C]."""
        right = self.columns * self.side - self.offset - self.width
        bottom = self.rows * self.side - self.offset - self.height
        return _extend(_extend(x, fill, 2, self.offset, right), fill, 1, self.offset, bottom)

    def cut(self, x: Tensor) -> Tensor:
        """A padded map [B, rows*side, columns*side, ...] -> its windows [B, rows, columns, side, side, ...], a view."""
        side = self.side
        x = x.reshape(x.shape[0], self.rows, side, self.columns, side, *x.shape[3:])
        return x.transpose(2, 3)

    def merge(self, windows: Tensor) -> Tensor:
        """Windows [B, rows, columns, side, side, C] -> the map without its padding [B, height*width, C]."""
        x = windows.transpose(2, 3).flatten(3, 4).flatten(1, 2)
        x = x[:, self.offset : self.offset + self.height, self.offset : self.offset + self.width]
        return x.flatten(1, 2)


def _extend(x: Tensor, fill: Tensor, dim: int, before: int, after: int) -> Tensor:
    """Puts `before` and `after` slices full of the vector `fill` [1, C] around x [..., C] along `dim`."""
    if before == after == 0:
        return x
    first, last = (fill.expand(*x.shape[:dim], n, *x.shape[dim + 1 :]) for n in (before, after))
    return torch.cat([part for part in (first, x, last) if part.shape[dim]], dim=dim)


class RotaryEmbedding(nn.Module):
    """Angles of the rotary embedding, in window-padded coordinates of a map.

    Args:
        head_dim: Channels of an attention head, a multiple of 4.
    """

    freqs: Tensor

    def __init__(self, *, head_dim: int) -> None:
        super().__init__()
        self.register_buffer("freqs", rotary_frequencies(head_dim))

    def forward(self, layout: WindowLayout) -> Tensor:
        """The angles of each window's tokens, [rows*columns, 1, side*side, head_dim/2]."""
        grid = torch.meshgrid(
            *(torch.arange(n * layout.side, device=self.freqs.device) for n in (layout.rows, layout.columns)),
            indexing="ij",
        )
        rows, columns = (layout.cut(t[None]).flatten(3).flatten(0, 2)[:, None] for t in grid)
        return rotary_angles(rows, columns, self.freqs)


MapWindows = tuple[WindowLayout, Tensor]  # of one map: layout, and rotary angles from `RotaryEmbedding`


def window_attention(qkv: Tensor, padding: Tensor, windows: MapWindows, *, heads: int) -> Tensor:
    """Multi-head attention within the windows of one map: partition, rotary embedding, attention, merge.

    Args:
        qkv: [B, height*width, 3*D], queries, keys and values side by side, each [heads, head_dim].
        padding: [1, 3*D], the same of a padding slot. Its query is not used: no padding slot is an output.
        windows: Of the map.
        heads: Number of attention heads.

    Returns:
        [B, height*width, D].
    """
    layout, angles = windows
    batch, _, channels = qkv.shape
    split_heads = (3, heads, channels // (3 * heads))
    padded = layout.pad(torch.unflatten(qkv, 1, (layout.height, layout.width)), padding)
    x = layout.cut(torch.unflatten(padded, -1, split_heads))  # [B, rows, columns, side, side, 3, heads, head_dim]
    x = x.permute(5, 0, 1, 2, 6, 3, 4, 7).reshape(3, batch, -1, heads, layout.side**2, split_heads[-1])
    turned, value = torch.split(x, [2, 1])
    query, key = rotate(turned, angles).flatten(1, 2).unbind()  # [B*rows*columns, heads, side*side, head_dim]
    out = F.scaled_dot_product_attention(query, key, value.flatten(0, 2))
    out = out.transpose(1, 2).reshape(batch, layout.rows, layout.columns, layout.side, layout.side, channels // 3)
    return layout.merge(out)


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

    def forward(self, x: Tensor, windows: list[MapWindows]) -> Tensor:
        """[B, N, dim], the tokens of several maps one after the other, and each map's windows -> the same shape."""
        # Every padding slot has the same key and value before the rotary embedding, so they are projected once.
        qkv, padding = self.qkv(x), self.qkv(self.padding)
        maps = torch.split(qkv, [layout.height * layout.width for layout, _ in windows], dim=1)
        attended = [
            window_attention(tokens, padding, w, heads=self.heads) for tokens, w in zip(maps, windows, strict=True)
        ]
        out: Tensor = self.proj(torch.cat(attended, dim=1))
        return out


class Mlp(nn.Module):
    """Two linear layers with a GELU (exact, erf) between."""

    def __init__(self, *, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[..., dim] -> [..., dim]."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class EncoderBlock(nn.Module):
    """A pre-norm transformer block with attention in windows."""

    def __init__(self, *, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim=dim, heads=heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim=dim, hidden=4 * dim)

    def forward(self, x: Tensor, windows: list[MapWindows]) -> Tensor:
        """The arguments of `WindowAttention` -> [B, N, dim]."""
        x = x + self.attn(self.norm1(x), windows)
        out: Tensor = x + self.mlp(self.norm2(x))
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
    """Bilinear resize of a channels-last map [B, h, w, C] -> [B, height, width, C]."""
    resized = F.interpolate(x.permute(0, 3, 1, 2), size=(height, width), mode="bilinear", align_corners=False)
    return resized.permute(0, 2, 3, 1)


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

        x = torch.cat((main.flatten(1, 2), anchor.flatten(1, 2)), dim=1)  # [B, main and anchor tokens, dim]
        fused = []
        for i, block in enumerate(self.blocks):
            x = block(x, windows[i % 2])
            if i in self.config.fusion_after:
                fused.append(self._fuse(x, grids, self.config.fusion_after.index(i)))
        out: Tensor = self.out_conv(sum(fused[1:], fused[0]).permute(0, 3, 1, 2))
        return out.permute(0, 3, 1, 2)

    def _embed(self, image: Tensor) -> Tensor:
        """[B, 3, s, s] -> patches with position embedding [B, s/16, s/16, dim]."""
        tokens: Tensor = self.patch_embed(image)
        grid = (self.config.pos_grid,) * 2
        return tokens + resize(torch.unflatten(self.pos_embed[:, 1:], 1, grid), tokens.shape[1], tokens.shape[2])

    def _windows(self, grids: list[tuple[int, int]], *, shifted: bool) -> list[MapWindows]:
        """The windows of each map, which all even (or all odd, `shifted`) blocks share."""
        layouts = [WindowLayout.of(*grid, self.config.window, shifted=shifted) for grid in grids]
        return [(layout, self.rope(layout)) for layout in layouts]

    def _fuse(self, x: Tensor, grids: list[tuple[int, int]], stage: int) -> Tensor:
        """Main and anchor tokens [B, N, dim] -> one map on the main grid [B, h, w, out_channels]."""
        norm, lateral = self.multi_scale_fusion[stage], self.lateral_convs[stage]
        tokens = torch.split(x, [height * width for height, width in grids], dim=1)
        main, anchor = (torch.unflatten(t, 1, grid) for t, grid in zip(tokens, grids, strict=True))
        out: Tensor = lateral(torch.cat((norm(main), norm(resize(anchor, *grids[0]))), dim=-1))
        return out
