"""How evenly the routed experts are used."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from inter2former_deploy.families.inter2former.modules.experts import HybridExperts


class ExpertLoad:
    """Counts the edge tokens that each routed expert of a model gets, over all layers.

    Args:
        model: watched from now on.
        training: count while the model is in training mode, or only while it is not.
    """

    def __init__(self, model: nn.Module, *, training: bool) -> None:
        self.training = training
        self.counts = torch.zeros(0, dtype=torch.int64)
        for module in model.modules():
            if isinstance(module, HybridExperts):
                self.counts = torch.zeros(len(module.exp_bias), dtype=torch.int64)
                module.register_forward_hook(self._count)

    @torch.no_grad()
    def _count(self, module: nn.Module, inputs: tuple[Tensor, Tensor, nn.LayerNorm], _: Tensor) -> None:
        if module.training != self.training:
            return
        chosen = cast(HybridExperts, module).choose(*inputs)
        self.counts += torch.bincount(chosen, minlength=len(self.counts)).cpu()

    def take(self) -> list[float]:
        """Every expert's share since the last call, adding up to 1."""
        shares: list[float] = (self.counts / max(1, int(self.counts.sum()))).tolist()
        self.counts.zero_()
        return shares
