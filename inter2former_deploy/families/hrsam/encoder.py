"""The image encoder of HRSAM and HRSAM++: transformer blocks with windows, and state-space modules around some of them.

HRSAM encodes the image alone; HRSAM++ takes a small anchor map of it through the same blocks. The blocks themselves
are those of Inter2Former's encoder, which was made from HRSAM++'s (docs/HRSAM.md tells the differences).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inter2former_deploy.families.hrsam.config import HRSAMEncoderConfig
from inter2former_deploy.families.hrsam.ssm import StateSpaceModule
from inter2former_deploy.families.inter2former.config import PATCH
from inter2former_deploy.families.inter2former.modules.encoder import (
    ChannelsLast,
    EncoderBlock,
    PatchEmbedding,
    RotaryEmbedding,
    add_positions,
    fuse_maps,
)
from inter2former_deploy.operators.windows import WindowLayout

Grid = tuple[int, int]  # height and width of a map, tokens


class ImageEncoder(nn.Module):
    """Image -> image embedding.

    Args:
        config: The encoder's numbers.
        out_channels: Channels of the embedding.
        drop_path: Share of samples that skip a residual branch while training, in the last block; it grows linearly
            from 0 in the first.
    """

    def __init__(self, *, config: HRSAMEncoderConfig, out_channels: int, drop_path: float = 0.0) -> None:
        super().__init__()
        if not 0 <= drop_path < 1:
            raise ValueError(f"drop_path must be at least 0 and below 1, got {drop_path}")
        self.config = config
        self.drop_path = drop_path
        dim, stages = config.dim, len(config.fusion_after)
        # Slot 0 was a class token; it is in the checkpoint, but nothing reads it.
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + config.pos_grid**2, dim))
        self.patch_embed = PatchEmbedding(dim=dim)
        self.rope = RotaryEmbedding(head_dim=dim // config.heads)
        self.blocks = nn.ModuleList(EncoderBlock(dim=dim, heads=config.heads) for _ in range(config.depth))
        if config.state_space and config.plus_plus:
            self.ss_mamba_blocks = self._state_space_modules()  # on each map by itself ("single-scale")
            self.ms_mamba_blocks = self._state_space_modules()  # through both maps ("multi-scale")
        elif config.state_space:
            self.mamba_blocks = self._state_space_modules()
        if config.plus_plus:
            self.multi_scale_fusion = nn.ModuleList(nn.Sequential(nn.LayerNorm(dim)) for _ in range(stages))
        fused_dim = 2 * dim if config.plus_plus else dim
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
        windows = [self._windows(grids, shifted=shifted) for shifted in (False, True)]

        x = torch.cat([m.flatten(1, 2) for m in maps], dim=1).flatten(0, 1)  # [B*N, dim], N tokens of all maps
        fused = []
        for i, block in enumerate(self.blocks):
            stage = self.config.fusion_after.index(i) if i in self.config.fusion_after else None
            if stage is not None:
                x = self._scan_before(x, stage, lengths)
            x = self._block(i, block, x, windows[i % 2], len(image))
            if stage is not None:
                x = self._scan_after(x, stage, lengths)
                fused.append(self._fuse(x, stage, grids))
        out: Tensor = self.out_conv(sum(fused[1:], fused[0]).permute(0, 3, 1, 2))
        return out.permute(0, 3, 1, 2)

    def _state_space_modules(self) -> nn.ModuleList:
        """One before or after each fused block."""
        c = self.config
        return nn.ModuleList(
            StateSpaceModule(dim=c.dim, states=c.states, repeats=c.repeats) for _ in range(len(c.fusion_after))
        )

    def _maps(self, image: Tensor) -> list[Tensor]:
        """The image, and for HRSAM++ its anchor map, of one size whatever the image's is."""
        if not self.config.plus_plus:
            return [image]
        size = (self.config.anchor_size,) * 2
        return [image, F.interpolate(image, size=size, mode="bilinear", align_corners=False)]

    def _windows(self, grids: list[Grid], *, shifted: bool) -> list[WindowLayout]:
        """The windows of each map, which all even (or all odd, `shifted`) blocks share; even a small map is shifted."""
        side = self.config.window
        offset = side - side // 2 if shifted else 0
        return [WindowLayout(height=h, width=w, side=side, offset=offset) for h, w in grids]

    def _scan_before(self, x: Tensor, stage: int, lengths: list[int]) -> Tensor:
        if not self.config.state_space:
            return x
        modules = self.ss_mamba_blocks if self.config.plus_plus else self.mamba_blocks
        out: Tensor = modules[stage](x, lengths)
        return out

    def _scan_after(self, x: Tensor, stage: int, lengths: list[int]) -> Tensor:
        if not (self.config.state_space and self.config.plus_plus):
            return x
        out: Tensor = self.ms_mamba_blocks[stage](x, [sum(lengths)])
        return out

    def _block(self, i: int, block: nn.Module, x: Tensor, windows: list[WindowLayout], batch: int) -> Tensor:
        """A transformer block; while training, samples may skip its branches."""
        rate = self.drop_path * i / max(1, self.config.depth - 1)
        if not (self.training and rate > 0):
            out: Tensor = block(x, windows)
            return out
        for branch, norm, *rest in (("attn", "norm1", windows), ("mlp", "norm2")):
            added = block.get_submodule(branch)(x, block.get_submodule(norm), *rest)
            x = drop_path(x, added, rate, batch)
        return x

    def _fuse(self, x: Tensor, stage: int, grids: list[Grid]) -> Tensor:
        """Tokens [B*N, dim] of all maps -> one map on the main grid [B, h, w, out_channels]."""
        sizes = [height * width for height, width in grids]
        tokens = torch.split(torch.unflatten(x, 0, (-1, sum(sizes))), sizes, dim=1)
        maps = [torch.unflatten(t, 1, grid) for t, grid in zip(tokens, grids, strict=True)]
        lateral = self.lateral_convs[stage]
        if self.config.plus_plus:
            main, anchor = maps
            return fuse_maps(main, anchor, self.multi_scale_fusion[stage], lateral)
        out: Tensor = lateral(maps[0])
        return out


def drop_path(before: Tensor, after: Tensor, rate: float, batch: int) -> Tensor:
    """Stochastic depth: samples skip a residual branch at random, the others get more of it, so that the mean stays.

    Args:
        before: Tokens of all samples before the branch, [B*N, C].
        after: The same with the branch added, [B*N, C].
        rate: Share of samples that skip it.
        batch: Samples, B.

    Returns:
        [B*N, C].
    """
    kept = torch.rand(batch, device=before.device) >= rate
    weight = kept.to(before.dtype).div(1 - rate).repeat_interleave(len(before) // batch)
    return torch.addcmul(before, after - before, weight[:, None])
