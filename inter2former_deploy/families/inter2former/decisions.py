"""The decisions of a decode, and which of them float32 cannot tell: code bits, experts, the box.

A reference decodes in float64 and in float32. Where a decision's margin in float64 is within what float32 is off in the
scores that decide, either way is right, and the tensors that follow may differ by more than rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from inter2former_deploy.exporters import tolerances
from inter2former_deploy.families.inter2former.graphs import DenseClick
from inter2former_deploy.families.inter2former.modules.attention import HybridAttention
from inter2former_deploy.families.inter2former.modules.experts import HybridExperts
from inter2former_deploy.families.inter2former.modules.upsampling import BOX_THRESHOLD
from inter2former_deploy.operators import formulas


@dataclass(frozen=True, kw_only=True)
class Margin:
    """How near the decisions of one kind came to a tie; both numbers over the largest score of their kind."""

    smallest: float
    tie: float  # a margin up to this may go either way

    @property
    def on_tie(self) -> bool:
        """Whether a decision may go either way; a NaN may."""
        return not self.smallest > self.tie


@dataclass(frozen=True, kw_only=True)
class Decisions:
    """What a decode decided in float64, and how surely."""

    margins: dict[str, Margin]  # by kind and layer: "code 0", "expert 0", ..., and "box"
    experts: tuple[tuple[int, ...], ...]  # edge tokens sent to each expert, layer by layer
    same: bool  # whether float32 decided alike

    @property
    def on_tie(self) -> bool:
        """Whether a decision may go either way."""
        return not self.same or any(margin.on_tie for margin in self.margins.values())

    @property
    def nearest(self) -> str:
        """The decision nearest to a tie, for people."""
        if not self.margins:
            return "no decision"
        name, margin = min(self.margins.items(), key=lambda item: item[1].smallest / item[1].tie)
        return f"{name}: margin {margin.smallest:.1e}, a tie up to {margin.tie:.1e}"


@dataclass
class Scores:
    """What decides in one decode, collected while it runs."""

    code: list[tuple[str, Tensor] | None] = field(default_factory=list)  # quantizer and scores [L, B], where they count
    expert: list[Tensor] = field(default_factory=list)  # gates with bias, [E, R], layer by layer


class Watch:
    """Looks on while a decoder decodes.

    Args:
        decoder: What the click graph computes, in PyTorch, in any precision.
    """

    def __init__(self, decoder: DenseClick) -> None:
        self.scores = Scores()
        self._decoder = decoder
        self._hooks: list[RemovableHandle] = []

    def __enter__(self) -> Watch:
        for module in self._decoder.neck.modules():
            if isinstance(module, HybridAttention):
                self._hooks.append(module.register_forward_hook(self._see_attention))
            elif isinstance(module, HybridExperts):
                self._hooks.append(module.register_forward_hook(self._see_experts))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _see_attention(self, module: HybridAttention, args: tuple[Any, ...], _: Tensor) -> None:
        qkv, edge = args[0], args[1]
        if len(module.full_tokens(qkv, edge)) == len(qkv):  # nobody attends to codes
            self.scores.code.append(None)
            return
        weight, bias, _codewords = module.pack()
        self.scores.code.append((module.quantizer, F.linear(qkv.chunk(3, dim=1)[1], weight, bias)))

    def _see_experts(self, module: HybridExperts, args: tuple[Tensor, Tensor, nn.LayerNorm], _: Tensor) -> None:
        self.scores.expert.append(module.scores(*args) + module.exp_bias)


def compare_decisions(
    decoder: DenseClick, exact: Scores, own: Scores, exact_low_res: Tensor, own_low_res: Tensor
) -> Decisions:
    """What float64 decided, and whether float32 could have decided otherwise.

    Args:
        decoder: What the click graph computes, in float64.
        exact: Scores of its decode.
        own: Scores of the same decode in float32.
        exact_low_res: The low-resolution logits that it gave, [h, w].
        own_low_res: The same in float32.
    """
    margins: dict[str, Margin] = {}
    same = True
    for kind, name, pair in _scores(exact, own):
        theirs, ours = pair
        decided = [_decide(kind, scores) for scores in pair]
        same &= bool(torch.equal(*decided))
        nearest = theirs.abs().min() if kind == "bsq" else _lead(theirs).min()
        margins[name] = _margin(float(nearest), theirs, ours)
    if decoder.decode_head.upsampling == "local":  # else the box is the whole map
        theirs, ours = exact_low_res, own_low_res.double()
        same &= torch.equal(*(formulas.token_box(low_res, BOX_THRESHOLD) for low_res in (theirs, ours)))
        margins["box"] = _margin(_margin_of_box(theirs), theirs, ours)
    experts = tuple(_uses(scores) for scores in exact.expert)
    return Decisions(margins=margins, experts=experts, same=same)


def _margin_of_box(low_res: Tensor) -> float:
    """By how much values must move before their box does: a token near the threshold may lie well inside it."""
    found = formulas.token_box(low_res, BOX_THRESHOLD)
    # A box depends on the largest value of each row and column alone.
    largest = torch.cat((low_res.amax(0), low_res.amax(1)))
    distances: list[float] = (largest - BOX_THRESHOLD).abs().sort().values.tolist()
    for distance in distances:
        beyond = math.nextafter(distance, math.inf)
        boxes = (formulas.token_box(low_res, BOX_THRESHOLD + step * beyond) for step in (-1, 1))
        if not all(torch.equal(box, found) for box in boxes):
            return distance
    return distances[-1]


def _uses(scores: Tensor) -> tuple[int, ...]:
    """Edge tokens sent to each expert by scores [E, R]."""
    return tuple(torch.bincount(scores.argmax(1), minlength=scores.shape[1]).tolist())


def _scores(exact: Scores, own: Scores) -> Iterator[tuple[str, str, tuple[Tensor, Tensor]]]:
    for layer, (theirs, ours) in enumerate(zip(exact.code, own.code, strict=True)):
        if theirs is not None and ours is not None:
            yield theirs[0], f"code {layer}", (theirs[1], ours[1].double())
    for layer, pair in enumerate(zip(exact.expert, own.expert, strict=True)):
        if pair[0].shape[0] and pair[0].shape[1] > 1:
            yield "expert", f"expert {layer}", (pair[0], pair[1].double())


def _decide(kind: str, scores: Tensor) -> Tensor:
    return scores >= 0 if kind == "bsq" else scores.argmax(1)


def _lead(scores: Tensor) -> Tensor:
    """The best over the second-best of each row."""
    best = scores.topk(2, dim=1).values
    return best[:, 0] - best[:, 1]


def _margin(distance: float, exact: Tensor, own: Tensor) -> Margin:
    return Margin(smallest=distance / float(exact.abs().max()), tie=_tie(exact, own))


def _tie(exact: Tensor, own: Tensor) -> float:
    off = float((own - exact).abs().max() / exact.abs().max())
    return tolerances.DECISION * max(off, tolerances.FLOOR)
