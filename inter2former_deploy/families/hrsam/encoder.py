"""The image encoder of HRSAM and HRSAM++: transformer blocks with windows, and state-space modules around some of them.

HRSAM encodes the image alone; HRSAM++ takes a small anchor map of it through the same blocks. The blocks themselves
are those of Inter2Former's encoder, which was made from HRSAM++'s (docs/HRSAM.md tells the differences).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from inter2former_deploy.families.hrsam.config import HRSAMEncoderConfig
from inter2former_deploy.families.hrsam.ssm import StateSpaceModule
from inter2former_deploy.families.inter2former.modules.encoder import WindowEncoder
from inter2former_deploy.operators.windows import WindowLayout


class ImageEncoder(WindowEncoder):
    """Image -> image embedding.

    Args:
        config: The encoder's numbers.
        out_channels: Channels of the embedding.
        drop_path: Share of samples that skip a residual branch while training, in the last block; it grows linearly
            from 0 in the first.
    """

    config: HRSAMEncoderConfig

    def __init__(self, *, config: HRSAMEncoderConfig, out_channels: int, drop_path: float = 0.0) -> None:
        if not 0 <= drop_path < 1:
            raise ValueError(f"drop_path must be at least 0 and below 1, got {drop_path}")
        super().__init__(config=config, out_channels=out_channels)
        self.drop_path = drop_path

    def _add_modules(self) -> None:
        if self.config.state_space and self.config.plus_plus:
            self.ss_mamba_blocks = self._state_space_modules()  # on each map by itself ("single-scale")
            self.ms_mamba_blocks = self._state_space_modules()  # through both maps ("multi-scale")
        elif self.config.state_space:
            self.mamba_blocks = self._state_space_modules()

    def _state_space_modules(self) -> nn.ModuleList:
        """One before or after each fused block."""
        c = self.config
        return nn.ModuleList(StateSpaceModule(dim=c.dim, states=c.states, repeats=c.repeats) for _ in c.fusion_after)

    def _window(self, height: int, width: int, *, shifted: bool) -> WindowLayout:
        """The windows of a map; even one that is not larger than a window is shifted."""
        side = self.config.window
        return WindowLayout(height=height, width=width, side=side, offset=side - side // 2 if shifted else 0)

    def _before(self, x: Tensor, stage: int, lengths: list[int]) -> Tensor:
        if not self.config.state_space:
            return x
        modules = self.ss_mamba_blocks if self.config.plus_plus else self.mamba_blocks
        out: Tensor = modules[stage](x, lengths)
        return out

    def _after(self, x: Tensor, stage: int, lengths: list[int]) -> Tensor:
        if not (self.config.state_space and self.config.plus_plus):
            return x
        out: Tensor = self.ms_mamba_blocks[stage](x, [sum(lengths)])
        return out

    def _block(self, i: int, block: nn.Module, x: Tensor, windows: list[WindowLayout], batch: int) -> Tensor:
        """Transformer block number i; while training, samples may skip its branches."""
        rate = self.drop_path * i / max(1, self.config.depth - 1)
        if not (self.training and rate > 0):
            return super()._block(i, block, x, windows, batch)
        for branch, norm, *rest in (("attn", "norm1", windows), ("mlp", "norm2")):
            added = block.get_submodule(branch)(x, block.get_submodule(norm), *rest)
            x = drop_path(x, added, rate, batch)
        return x


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
