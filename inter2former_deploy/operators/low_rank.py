"""Layers of tokens that are known but for a part of low rank: the formulas of LowRankLinear and LowRankAdd."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from inter2former_deploy.operators.formulas import all_but, operator


def _layer(known: Tensor, *others: Any) -> Tensor:
    weight, activation = others[2], others[-1]
    return known.new_empty(known.shape[0], weight.shape[0] // (2 if activation == "gated" else 1))


@operator(_layer)
def low_rank_linear(
    known: Tensor,
    state: Tensor,
    inside: Tensor,
    weight: Tensor,
    root: Tensor,
    bias: Tensor,
    column: int,
    channels: int,
    epsilon: float,
    activation: str,
) -> Tensor:
    """A linear layer of normalised tokens `x0 + B s`, of which all but `s` is known.

    With C the matrix that takes the mean away and A the layer's weight times the norm's scale and C: what is known of a
    token is `A x0`, `(C B)^T (C x0)` and `|C x0|^2`.

    Args:
        known: From `column` on A x0, N numbers, then r, then 1, [L, W].
        state: s, [L, r].
        inside: Tokens that are left out, int64 [B], ascending.
        weight: A B, [N, r].
        root: Upper triangular, with `root^T root = (C B)^T (C B)`, [m, r].
        bias: Of the layer, with the norm's, [N].
        column: First of `known` that counts.
        channels: Of a token.
        epsilon: Of the LayerNorm.
        activation: "none", or "gated": the SiLU of the first half of the results times the second, and a LayerNorm.

    Returns:
        [L, N], gated [L, N/2]; 0 for tokens inside.
    """
    outside = all_but(inside, len(known))
    outputs, rank = weight.shape
    s = state[outside]
    product, cross, square, _ = known[outside, column:].tensor_split((outputs, outputs + rank, outputs + rank + 1), 1)
    squares = square + 2 * (cross * s).sum(1, keepdim=True) + F.linear(s, root).square().sum(1, keepdim=True)
    deviation = torch.sqrt(squares.clamp(min=0) / channels + epsilon)
    y = (product + F.linear(s, weight)) / deviation + bias
    if activation == "gated":
        gate, hidden = y.chunk(2, dim=1)
        y = F.layer_norm(F.silu(gate) * hidden, hidden.shape[1:], eps=epsilon)
    elif activation != "none":
        raise ValueError(f"activation must be 'none' or 'gated', got {activation!r}")
    return y.new_zeros(len(known), y.shape[1]).index_copy(0, outside, y)


def _wanted(known: Tensor, state: Tensor, inside: Tensor, rows: Tensor, wanted: Tensor, *_: Any) -> Tensor:
    return known.new_empty(wanted.shape[0], rows.shape[1])


@operator(_wanted)
def low_rank_add(
    known: Tensor,
    state: Tensor,
    inside: Tensor,
    rows: Tensor,
    wanted: Tensor,
    weight: Tensor,
    bias: Tensor,
    column: int,
) -> Tensor:
    """A linear layer of states added to what is known, for some tokens; those inside are given.

    Args:
        known: From `column` on N numbers, [L, W].
        state: [L, r].
        inside: Tokens whose results are given, int64 [B], ascending.
        rows: Those results, [B, N].
        wanted: Tokens whose results are asked for, int64 [n], ascending.
        weight: [N, r].
        bias: [N].
        column: First of `known` that counts.

    Returns:
        [n, N].
    """
    place = torch.full((len(known),), -1, device=inside.device)
    place = place.index_copy(0, inside, torch.arange(len(inside), device=inside.device))[wanted]
    added = known[wanted, column : column + len(weight)] + F.linear(state[wanted], weight, bias)
    behind = len(rows) + torch.arange(len(wanted), device=wanted.device)
    return torch.cat((rows, added))[torch.where(place < 0, behind, place)]
