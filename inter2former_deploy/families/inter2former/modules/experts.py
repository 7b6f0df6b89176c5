"""Hybrid mixture of experts (HMoE): a shared expert for all tokens, a routed one besides for edge tokens."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor, distributed, nn

from inter2former_deploy.operators import formulas

BIAS_RATE = 0.001  # step of the expert bias after a training batch
BIAS_STEPS = 100_000  # training batches after which the expert bias stays

Packed = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


class SharedExpert(nn.Module):
    """The three linear layers of the shared expert."""

    def __init__(self, *, dim: int, hidden: int) -> None:
        """Build the layers.

        Args:
            dim: Width of a token.
            hidden: Width between the layers.
        """
        super().__init__()
        self.w1 = nn.Linear(dim, hidden)
        self.w2 = nn.Linear(dim, hidden)
        self.w3 = nn.Linear(hidden, dim)


class HybridExperts(nn.Module):
    """Shared and routed experts; each is `w3(LN(silu(w1 x) * (w2 x)))`."""

    exp_bias: Tensor
    steps: Tensor

    def __init__(self, *, dim: int, hidden: int, experts: int) -> None:
        """Build all experts and gates.

        Args:
            dim: Width of a token.
            hidden: Hidden width of every expert.
            experts: Routed experts.
        """
        super().__init__()

        def uniform(fan_in: int, *shape: int) -> nn.Parameter:
            return nn.Parameter((2 * torch.rand(experts, *shape) - 1) / sqrt(fan_in))  # as nn.Linear starts

        self.select_ffn_w1 = uniform(dim, hidden, dim)
        self.select_ffn_b1 = uniform(dim, hidden)
        self.select_ffn_w2 = uniform(dim, hidden, dim)
        self.select_ffn_b2 = uniform(dim, hidden)
        self.select_ffn_w3 = uniform(hidden, dim, hidden)
        self.select_ffn_b3 = uniform(hidden, dim)
        self.register_buffer("exp_bias", torch.zeros(experts))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.shared_ffn = SharedExpert(dim=dim, hidden=hidden)
        self.shared_ln = nn.LayerNorm(hidden)
        self.shared_gate = nn.Sequential(nn.Linear(dim, 1), nn.Sigmoid())
        self.select_ln = nn.LayerNorm(hidden)
        self.expert_gate = nn.Sequential(nn.Linear(dim, experts), nn.Sigmoid())

    def pack(self) -> Packed:
        """The weights of the HybridExperts operator, gate_weight to b3; index 0 is the shared expert."""
        shared = self.shared_ffn
        gate_weight, gate_bias = zip(self.shared_gate.parameters(), self.expert_gate.parameters(), strict=True)

        def stack(first: Tensor, others: Tensor) -> Tensor:
            return torch.cat((first[None], others))

        return (
            torch.cat(gate_weight),
            torch.cat(gate_bias),
            self.exp_bias,
            stack(shared.w1.weight, self.select_ffn_w1),
            stack(shared.w1.bias, self.select_ffn_b1),
            stack(shared.w2.weight, self.select_ffn_w2),
            stack(shared.w2.bias, self.select_ffn_b2),
            torch.stack((self.shared_ln.weight, self.select_ln.weight)),
            torch.stack((self.shared_ln.bias, self.select_ln.bias)),
            stack(shared.w3.weight, self.select_ffn_w3),
            stack(shared.w3.bias, self.select_ffn_b3),
        )

    def forward(self, x: Tensor, edge: Tensor, norm: nn.LayerNorm) -> Tensor:
        """Tokens plus the output of the experts for normalised tokens.

        Args:
            x: Tokens, [T, C].
            edge: Tokens that get a routed expert besides, int64 [E], ascending.
            norm: Of the tokens; its epsilon is the experts'.

        Returns:
            [T, C].
        """
        return formulas.hybrid_experts(x, edge, norm.weight, norm.bias, *self.pack(), self.shared_ln.eps)

    def training_forward(self, x: Tensor, edge: Tensor, norm: nn.LayerNorm) -> Tensor:
        """The same, and then move the expert bias towards equal use of the experts.

        Args:
            x: Tokens of the whole batch, [T, C].
            edge: int64 [E], ascending.
            norm: Of the tokens.

        Returns:
            [T, C].
        """
        out: Tensor = self(x, edge, norm)  # with the old bias
        with torch.no_grad():
            chosen = self.choose(x, edge, norm)
            self.balance(torch.bincount(chosen, minlength=len(self.exp_bias)))
        return out

    def scores(self, x: Tensor, edge: Tensor, norm: nn.LayerNorm) -> Tensor:
        """Gates of the routed experts, without the bias, [E, R]; arguments as in `forward`."""
        gates: Tensor = self.expert_gate(norm(x[edge]))
        return gates

    def choose(self, x: Tensor, edge: Tensor, norm: nn.LayerNorm) -> Tensor:
        """Routed expert of every edge token, int64 [E], 0..R-1; arguments as in `forward`."""
        return formulas.route(self.scores(x, edge, norm), self.exp_bias)

    @torch.no_grad()
    def balance(self, count: Tensor) -> None:
        """Lower the bias of experts used above average, raise that of the others.

        Args:
            count: Edge tokens of this device's batch sent to each expert, [R].
        """
        if self.steps >= BIAS_STEPS:
            return
        count = count.to(self.exp_bias)
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(count)
        self.exp_bias -= BIAS_RATE * torch.sign(count - count.mean())
        self.steps += 1
