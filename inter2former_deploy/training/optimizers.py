"""What turns gradients into steps: AdamW, and for the matrices of linear layers Muon, if asked for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .config import TrainConfig

_BLOCK = re.compile(r"backbone\.blocks\.(\d+)\.")
_SMALLEST_SIDE = 32  # of a matrix that Muon moves: gates and code projections are vectors side by side


class Muon(torch.optim.Muon):
    """`torch.optim.Muon` with its Newton-Schulz iterations in the gradients' own type.

    Always with Nesterov's momentum, and with steps as large as AdamW's (`adjust_lr_fn="match_rms_adamw"`).

    PyTorch's run in bfloat16, which a CPU without instructions for it multiplies more than 30 times slower than
    float32.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Moves the parameters that have gradients.

        Args:
            closure: must be `None`.
        """
        for group in self.param_groups:
            a, b, c = group["ns_coefficients"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(p.grad)
                average = state["momentum_buffer"]
                average.lerp_(p.grad, 1 - group["momentum"])
                x = p.grad.lerp(average, group["momentum"])
                tall = x.shape[0] > x.shape[1]
                x = x.T if tall else x
                x = x / x.norm().clamp(min=group["eps"])
                for _ in range(group["ns_steps"]):
                    gram = x @ x.T
                    x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
                rate = group["lr"] * 0.2 * max(p.shape) ** 0.5  # steps as large as AdamW's
                p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(x.T if tall else x, alpha=rate)


class Optimizers:
    """The optimisers of a run, which share the learning rate.

    Muon (Jordan et al. 2024) moves all directions of a matrix alike, scaled to steps as large as
    AdamW's, so that one learning rate does for both.

    Args:
        model: what is trained.
        heads: modules trained beside it that are not part of the result; Muon is not for them.
        config: of the run.
    """

    def __init__(self, model: nn.Module, heads: Sequence[nn.Module], config: TrainConfig) -> None:
        self.parameters = [p for module in (model, *heads) for p in module.parameters() if p.requires_grad]
        matrices = _matrices(model) if config.optimizer == "muon" else []
        taken = {id(p) for p in matrices}
        shares = _shares(model, config.layer_decay)
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for p in self.parameters:
            if id(p) not in taken:
                groups.setdefault((shares.get(id(p), 1.0), config.weight_decay if p.ndim > 1 else 0.0), []).append(p)
        described = [{"params": ps, "weight_decay": decay, "share": share} for (share, decay), ps in groups.items()]
        self._all: list[torch.optim.Optimizer] = [torch.optim.AdamW(described, lr=config.learning_rate)]
        if matrices:
            self._all.append(Muon(matrices, lr=config.learning_rate, weight_decay=config.weight_decay))

    def zero_grad(self) -> None:
        """Forgets all gradients."""
        for optimizer in self._all:
            optimizer.zero_grad(set_to_none=True)

    def step(self, learning_rate: float) -> None:
        """Moves the parameters."""
        for optimizer in self._all:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * group.get("share", 1.0)
            optimizer.step()

    def state_dict(self) -> list[dict[str, Any]]:
        """The states of the optimisers."""
        return [optimizer.state_dict() for optimizer in self._all]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Goes on from `state_dict`.

        Raises:
            ValueError: it is of other optimisers.
        """
        if len(states) != len(self._all):
            raise ValueError("the saved state is of another optimizer; choose another output folder")
        for optimizer, state in zip(self._all, states, strict=True):
            optimizer.load_state_dict(state)


def _matrices(model: nn.Module) -> list[Tensor]:
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    return [m.weight for m in linear if min(m.weight.shape) >= _SMALLEST_SIDE]


def _shares(model: nn.Module, layer_decay: float) -> dict[int, float]:
    """What share of the learning rate each parameter of the encoder's blocks has, by its id; all others learn fully."""
    found = [(_BLOCK.match(name), p) for name, p in model.named_parameters()]
    blocks = [(int(match[1]), p) for match, p in found if match]
    count = 1 + max((block for block, _ in blocks), default=-1)
    return {id(p): layer_decay ** (count - block) for block, p in blocks}
