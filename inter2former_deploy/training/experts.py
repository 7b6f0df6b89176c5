"""How evenly the routed experts are used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from inter2former_deploy.modules import operators
from inter2former_deploy.modules.experts import HybridExperts


class ExpertLoad:
    """Counts the edge tokens that each routed expert gets."""

    def __init__(self, model: nn.Module) -> None:
        self.experts = [m for m in model.modules() if isinstance(m, HybridExperts)]

    @contextmanager
    def counting(self) -> Iterator[list[float]]:
        """Within, counts; afterwards the yielded list holds every expert's share, over all layers."""
        counts = [torch.zeros(len(e.exp_bias), dtype=torch.int64) for e in self.experts]
        shares: list[float] = []

        def count(at: int) -> Callable[..., None]:
            def hook(module: nn.Module, inputs: tuple[Tensor, Tensor], _: Tensor) -> None:
                x, edge = inputs
                with torch.no_grad():
                    gates = cast(HybridExperts, module).expert_gate(x[edge])
                    chosen = operators.route(gates, cast(HybridExperts, module).exp_bias)
                    counts[at] += torch.bincount(chosen.cpu(), minlength=len(counts[at]))

            return hook

        hooks = [e.register_forward_hook(count(i)) for i, e in enumerate(self.experts)]
        try:
            yield shares
        finally:
            for hook in hooks:
                hook.remove()
            total = torch.stack(counts).sum(0)
            shares += (total / max(1, int(total.sum()))).tolist()
