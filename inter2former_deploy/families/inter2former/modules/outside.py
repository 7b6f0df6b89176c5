"""Tokens outside the box of the labels: what a click changes of them is of low rank.

Such a token starts from `x0`, the image's embedding plus one vector, whatever the labels. What a layer then adds are
linear maps of few numbers, its attention's result and the hidden values of its shared expert, so that at any place
`x = x0 + k + B s`, with `k` and `B` of the weights alone and `s` these few numbers side by side: the token's state. The
LayerNorms and linear layers of the decoder need of `x0` some products alone, which are made once an image
(`KnownOutside`); a click computes states (`OutsideTokens`). It is the same sum in another order.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inter2former_deploy.families.inter2former.config import PATCH
from inter2former_deploy.families.inter2former.labels import POSSIBLE_BACKGROUND
from inter2former_deploy.families.inter2former.modules.neck import DecoderNeck, HybridLayer
from inter2former_deploy.families.inter2former.modules.upsampling import LocalUpsampling
from inter2former_deploy.operators import low_rank


class Place(NamedTuple):
    """A linear layer of the decoder that all tokens pass, and what tokens outside are there; in float64."""

    norm: nn.LayerNorm | None  # before the layer
    weight: Tensor  # [N, C]
    bias: Tensor  # [N]
    basis: Tensor  # B, [C, r]
    offset: Tensor  # what is to be added to the embedding for x0 + k, [C]

    @property
    def centred(self) -> Tensor:
        """The weight of the layer for a token that the LayerNorm has not centred yet, and not scaled, [N, C]."""
        if self.norm is None:
            return self.weight
        scaled = self.weight * self.norm.weight
        return scaled - scaled.mean(1, keepdim=True)

    @property
    def shift(self) -> Tensor:
        """The bias of the layer, with the LayerNorm's, [N]."""
        return self.bias if self.norm is None else self.bias + self.weight @ self.norm.bias

    @property
    def centred_basis(self) -> Tensor:
        """What of the basis the LayerNorm sees, [C, r]."""
        return self.basis - self.basis.mean(0, keepdim=True)

    @property
    def columns(self) -> int:
        """Numbers of a token that `KnownOutside` gives of this place."""
        return len(self.weight) + (0 if self.norm is None else self.basis.shape[1] + 1)


def places(neck: DecoderNeck, head: LocalUpsampling) -> Iterator[Place]:
    """Queries and experts of each layer in turn, the first layer of low-resolution logits, and the tokens themselves.

    Args:
        neck: Of the decoder.
        head: Its upsampling.
    """
    with torch.no_grad():
        neck, head = copy.deepcopy(neck).double(), copy.deepcopy(head).double()
        offset = background(neck)
        basis = offset.new_zeros(len(offset), 0)
        for block in cast(Iterator[HybridLayer], iter(neck.blocks)):
            experts, shared = block.ffn, block.ffn.shared_ffn
            yield Place(block.norm1, block.qkv_proj.weight, block.qkv_proj.bias, basis, offset)
            basis, offset = torch.cat((basis, block.o_proj.weight), 1), offset + block.o_proj.bias
            up = torch.cat((shared.w1.weight, shared.w2.weight)), torch.cat((shared.w1.bias, shared.w2.bias))
            yield Place(block.norm2, *up, basis, offset)
            norm, down = experts.shared_ln, shared.w3  # the norm's scale and shift are those of `down` here
            basis = torch.cat((basis, down.weight * norm.weight), 1)
            offset = offset + down.weight @ norm.bias + down.bias
        first = cast(nn.Conv2d, head.mlp[0])
        yield Place(None, first.weight.flatten(1), cast(Tensor, first.bias), basis, offset)
        yield Place(None, torch.eye(len(offset)).to(offset), offset, basis, torch.zeros_like(offset))


def background(neck: DecoderNeck) -> Tensor:
    """What labels add to the embedding of a token outside, [C]."""
    table = neck.ref_embeds.weight
    labels = torch.full((3 * PATCH, 3 * PATCH), POSSIBLE_BACKGROUND, dtype=torch.uint8, device=table.device)
    nothing = table.new_zeros(3, 3, cast(nn.Conv2d, neck.ref_conv.stem[-2]).out_channels)
    tokens: Tensor = neck.ref_conv(labels, nothing, table)
    return tokens[4]  # in the middle


class KnownOutside(nn.Module):
    """What of tokens outside the image alone decides."""

    def __init__(self, neck: DecoderNeck, head: LocalUpsampling) -> None:
        """Put the weights together.

        Args:
            neck: Of the decoder.
            head: Its upsampling.
        """
        super().__init__()
        *self._places, _ = places(neck, head)
        like = neck.ref_embeds.weight
        self.register_buffer("bias", self._places[0].shift.to(like))
        for i, place in enumerate(self._places):
            self.register_buffer(f"weight_{i}", place.centred.to(like))
            self.register_buffer(f"offset_{i}", place.offset.to(like))
            self.register_buffer(f"basis_{i}", place.centred_basis.to(like))

    def forward(self, image_embedding: Tensor) -> tuple[Tensor, Tensor]:
        """The tensors `interface.OUTSIDE_INPUTS`.

        Args:
            image_embedding: [h, w, C].

        Returns:
            Queries, keys and values of the first layer, [L, 3*D], and what `low_rank_linear` and `low_rank_add` take of
            the places after it, side by side, [L, W].
        """
        tokens = image_embedding.flatten(0, 1)
        known = []
        for i, place in enumerate(self._places):
            x = tokens + getattr(self, f"offset_{i}")
            known.append(F.linear(x, getattr(self, f"weight_{i}")))
            if i == 0:  # the first: there is no state yet
                norm = cast(nn.LayerNorm, place.norm)
                centred = x - x.mean(1, keepdim=True)
                deviation = torch.sqrt(centred.square().mean(1, keepdim=True) + norm.eps)
                queries = known.pop() / deviation + cast(Tensor, self.bias)
            elif place.norm is not None:
                centred = x - x.mean(1, keepdim=True)
                known += [centred @ getattr(self, f"basis_{i}"), centred.square().sum(1, keepdim=True)]
        return queries, torch.cat(known, dim=1)


class OutsideTokens(nn.Module):
    """The layers of tokens outside, from their states."""

    def __init__(self, neck: DecoderNeck, head: LocalUpsampling) -> None:
        """Put the weights together.

        Args:
            neck: Of the decoder.
            head: Its upsampling.
        """
        super().__init__()
        _, *self._places = places(neck, head)
        like = neck.ref_embeds.weight
        for i, place in enumerate(self._places):
            self.register_buffer(f"weight_{i}", (place.centred @ place.basis).to(like))
            if place.norm is not None:
                root = torch.linalg.qr(place.centred_basis, mode="r").R
                self.register_buffer(f"root_{i}", root.to(like))
            self.register_buffer(f"bias_{i}", place.shift.to(like))

    def layer(self, index: int, known: Tensor, state: Tensor, inside: Tensor, activation: str) -> Tensor:
        """What a layer makes of the tokens outside.

        Args:
            index: Of the place, behind the first queries.
            known: From `KnownOutside`, [L, W].
            state: [L, r].
            inside: Tokens that are left out, int64 [B], ascending.
            activation: As `low_rank_linear` has it.

        Returns:
            [L, N], 0 for tokens inside.
        """
        place = self._places[index]
        norm = cast(nn.LayerNorm, place.norm)
        weight, root, bias = (getattr(self, f"{kind}_{index}") for kind in ("weight", "root", "bias"))
        column, channels = self._column(index), len(place.offset)
        return low_rank.low_rank_linear(
            known, state, inside, weight, root, bias, column, channels, norm.eps, activation
        )

    def low_res(self, known: Tensor, state: Tensor, inside: Tensor, rows: Tensor) -> Tensor:
        """Results of the first layer of low-resolution logits, [L, N]; `rows` [B, N] are those of the tokens inside."""
        tokens = torch.arange(len(known), device=inside.device)
        return self._add(len(self._places) - 2, known, state, inside, rows, tokens)

    def tokens(self, embedding: Tensor, state: Tensor, inside: Tensor, rows: Tensor, wanted: Tensor) -> Tensor:
        """Tokens that are asked for.

        Args:
            embedding: Of the image, [L, C].
            state: After all layers, [L, r].
            inside: int64 [B], ascending.
            rows: The tokens inside, [B, C].
            wanted: int64 [n], ascending.

        Returns:
            [n, C].
        """
        return self._add(len(self._places) - 1, embedding, state, inside, rows, wanted)

    def _add(self, index: int, known: Tensor, state: Tensor, inside: Tensor, rows: Tensor, wanted: Tensor) -> Tensor:
        column = self._column(index) if index < len(self._places) - 1 else 0
        weight, bias = getattr(self, f"weight_{index}"), getattr(self, f"bias_{index}")
        return low_rank.low_rank_add(known, state, inside, rows, wanted, weight, bias, column)

    def _column(self, index: int) -> int:
        """Where a place begins in what is known."""
        return sum(place.columns for place in self._places[:index])
