"""The state-space module of HRSAM: a gated selective scan ("cycle scan") added to the tokens."""

from __future__ import annotations

from math import log

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inter2former_deploy.operators import formulas
from inter2former_deploy.operators.scan import cycle_scan

STEP_RANGE = (1e-3, 1e-1)  # step widths of a fresh module where its projection gives 0
SMALLEST_STEP = 1e-4


class StateSpaceModule(nn.Module):
    """Tokens plus what a scan over them, several passes end to end, makes of them; one direction, row-major.

    Args:
        dim: Channels of a token, C.
        states: States of a channel, N.
        repeats: Passes over the sequence, R.
    """

    def __init__(self, *, dim: int, states: int, repeats: int) -> None:
        super().__init__()
        self.ssm_proj_bias = nn.Parameter(torch.empty(dim))  # added to the projected step widths
        self.As_log = nn.Parameter(torch.empty(dim, states))  # logarithm of the states' rates of decay
        self.Ds = nn.Parameter(torch.empty(dim))
        self.gamma = nn.Parameter(torch.empty(dim, repeats, 1))  # weight of each pass
        self.in_norm = nn.LayerNorm(dim)
        self.in_proj = nn.Sequential(nn.Linear(dim, 2 * dim), nn.SiLU())
        self.ssm_proj = nn.Linear(dim, dim + 2 * states)
        self.out_norm = nn.LayerNorm(dim)
        self.out_proj = nn.Linear(dim, dim)
        self.reset_scan()

    @torch.no_grad()
    def reset_scan(self) -> None:
        """Gives the scan's own entries the values that training starts from; the linear layers keep PyTorch's."""
        dim, states = self.As_log.shape
        self.As_log.copy_(torch.arange(1, states + 1).log().expand(dim, -1))
        self.Ds.fill_(1)
        self.gamma.fill_(1)
        nn.init.uniform_(self.ssm_proj.weight[:dim], -(dim**-0.5), dim**-0.5)
        nn.init.zeros_(self.ssm_proj.bias)
        low, high = (log(step) for step in STEP_RANGE)
        step = torch.empty_like(self.ssm_proj_bias).uniform_(low, high).exp().clamp(min=SMALLEST_STEP)
        self.ssm_proj_bias.copy_(step + torch.log(-torch.expm1(-step)))  # the inverse of softplus

    def forward(self, x: Tensor, lengths: list[int]) -> Tensor:
        """Tokens plus the gated scan.

        Args:
            x: The tokens of an image's sequences one after the other, image after image, [T, C].
            lengths: Tokens of each sequence of an image: a scan starts anew at each.

        Returns:
            [T, C].
        """
        norm, linear = self.in_norm, self.in_proj.get_submodule("0")
        weight, bias = linear.get_parameter("weight"), linear.get_parameter("bias")
        hidden = F.silu(formulas.norm_linear(x, norm.weight, norm.bias, weight, bias, norm.eps, "none"))
        u, gate = torch.chunk(hidden, 2, dim=1)  # [T, C] each
        projected = self.ssm_proj(u)  # [T, C + 2*N]
        rate, gamma = -torch.exp(self.As_log), self.gamma[:, :, 0]
        y = cycle_scan(u, projected, rate, self.Ds, self.ssm_proj_bias, gamma, lengths)
        gated = gate * self.out_norm(y)
        return formulas.linear_add(gated, x, self.out_proj.weight, self.out_proj.bias)
