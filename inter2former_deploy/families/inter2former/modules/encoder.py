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


class WindowEncoder(nn.Module):
    """Image -> image embedding. HRSAM's encoder is this one with state-space modules, see its own folder.

    Args:
        config: The encoder's numbers; without an anchor size, the image itself is the only map.
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
        self._add_modules()
        if config.anchor_size:
            self.multi_scale_fusion = nn.ModuleList(nn.Sequential(nn.LayerNorm(dim)) for _ in range(stages))
        fused_dim = 2 * dim if config.anchor_size else dim
        self.lateral_convs = nn.ModuleList(
            nn.Sequential(nn.Linear(fused_dim, out_channels, bias=False), nn.LayerNorm(out_channels))
            for _ in range(stages)
        )
        self.out_conv = nn.Sequential(
            nn.Conv2d(out_channels, out_channels, 3, padding=1, groups=out_channels, bias=False),
            ChannelsLast(),
            nn.LayerNorm(out_channels),
        )

    def forward(self, image: Tensor) -> Tensor:
        """The embedding of a normalised BGR image. Every image of a batch gets what it gets alone.

        Args:
            image: [B, 3, H, W], (picture - `MEAN_BGR`) / `STD_BGR`, H and W multiples of 16.

        Returns:
            [B, out_channels, H/16, W/16].

        Raises:
            ValueError: The image has another shape.
        """
        shape = list(image.shape)
        if image.ndim != 4 or shape[1] != 3 or 0 in shape or shape[2] % PATCH or shape[3] % PATCH:
            raise ValueError(f"expected an image [B, 3, H, W], H and W multiples of {PATCH}, got {shape}")
        maps = [add_positions(self.patch_embed(m), self.pos_embed) for m in self._maps(image)]  # [B, h, w, dim]
        grids = [(m.shape[1], m.shape[2]) for m in maps]
        lengths = [height * width for height, width in grids]
        windows = [[self._window(*grid, shifted=shifted) for grid in grids] for shifted in (False, True)]

        x = torch.cat([m.flatten(1, 2) for m in maps], dim=1).flatten(0, 1)  # [B*N, dim], N tokens of all maps
        fused = []
        for i, block in enumerate(self.blocks):
            stage = self.config.fusion_after.index(i) if i in self.config.fusion_after else None
            if stage is not None:
                x = self._before(x, stage, lengths)
            x = self._block(i, block, x, windows[i % 2], len(image))
            if stage is not None:
                x = self._after(x, stage, lengths)
                fused.append(self._fuse(x, stage, grids))
        out: Tensor = self.out_conv(sum(fused[1:], fused[0]).permute(0, 3, 1, 2))
        return out.permute(0, 3, 1, 2)

    def _add_modules(self) -> None:
        """Adds what an encoder has besides, where it stands in the state dict."""

    def _maps(self, image: Tensor) -> list[Tensor]:
        """The image and its anchor map, of one size whatever the image's is."""
        if not self.config.anchor_size:
            return [image]
        size = (self.config.anchor_size,) * 2
        return [image, F.interpolate(image, size=size, mode="bilinear", align_corners=False)]

    def _window(self, height: int, width: int, *, shifted: bool) -> WindowLayout:
        """The windows of a map of so many tokens, which all even (or all odd, `shifted`) blocks share."""
        return WindowLayout.of(height, width, self.config.window, shifted=shifted)

    def _before(self, x: Tensor, stage: int, lengths: list[int]) -> Tensor:
        """What an encoder does to the tokens of all maps before a fused block."""
        return x

    def _after(self, x: Tensor, stage: int, lengths: list[int]) -> Tensor:
        """What an encoder does to the tokens of all maps after a fused block."""
        return x

    def _block(self, i: int, block: nn.Module, x: Tensor, windows: list[WindowLayout], batch: int) -> Tensor:
        """Transformer block number i."""
        out: Tensor = block(x, windows)
        return out

    def _fuse(self, x: Tensor, stage: int, grids: list[tuple[int, int]]) -> Tensor:
        """Tokens [B*N, dim] of all maps -> one map on the main grid [B, h, w, out_channels]."""
        sizes = [height * width for height, width in grids]
        tokens = torch.split(torch.unflatten(x, 0, (-1, sum(sizes))), sizes, dim=1)
        main, *anchor = (torch.unflatten(t, 1, grid) for t, grid in zip(tokens, grids, strict=True))
        lateral = self.lateral_convs[stage]
        if anchor:
            return fuse_maps(main, anchor[0], self.multi_scale_fusion[stage], lateral)
        out: Tensor = lateral(main)
        return out
