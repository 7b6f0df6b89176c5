"""The image embedding in float64, by the encoder that the families share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from inter2former_deploy.exporters import tolerances
from inter2former_deploy.exporters.exact import double, judge_whole
from inter2former_deploy.exporters.judgement import Check, Exact
from inter2former_deploy.families.inter2former.config import PATCH
from inter2former_deploy.families.inter2former.modules.encoder import (
    EncoderBlock,
    WindowEncoder,
    add_positions,
    fuse_maps,
    resize,
)
from inter2former_deploy.operators.windows import WindowLayout

Array = NDArray[Any]

WINDOWS = 2  # windows along the border in the part of a large map whose embedding is computed in float64


@dataclass(frozen=True)
class Area:
    """A rectangle of tokens of a map."""

    top: int
    bottom: int
    left: int
    right: int

    def of(self, x: Any, top: int = 0, left: int = 0, pixels: int = 1) -> Any:
        """The area of a map [h, w, C], array or tensor, whose first token is (top, left), at some pixels a token."""
        rows, columns = (self.top - top, self.bottom - top), (self.left - left, self.right - left)
        return x[pixels * rows[0] : pixels * rows[1], pixels * columns[0] : pixels * columns[1]]

    def __str__(self) -> str:
        return f"tokens {self.top} to {self.bottom - 1} by {self.left} to {self.right - 1}"


class ExactEmbedding:
    """The image embedding in float64, of large maps in a part at their border that is drawn anew each time.

    The part lies in `WINDOWS` windows side by side, whose tokens go through all blocks in float64. Attention in shifted
    windows sees tokens around them, too, and these are what float32 made of them: half a window away from there, where
    the part begins, this hardly shows (docs/gate.md).

    Args:
        encoder: The reference.
        size: S.
        rng: Draws the part.
    """

    def __init__(self, encoder: WindowEncoder, size: int, rng: np.random.Generator) -> None:
        self._encoder, self._grid = encoder, size // PATCH
        side = encoder.config.window
        count = -(-self._grid // side)  # windows a side of the map
        in_parts = size > tolerances.PARTS_ABOVE and type(encoder) is WindowEncoder  # whose blocks see windows alone
        spans = [(0, self._grid)] * 2
        if in_parts and count > WINDOWS:
            along = int(rng.integers(0, count - WINDOWS + 1)) * side
            last = (self._grid // side - 1) * side  # with what lies beyond the last whole window
            across = ((0, side), (last, self._grid))[rng.integers(2)]  # at a border
            spans = [(along, min(along + WINDOWS * side, self._grid)), across]
            rng.shuffle(spans)
        (top, bottom), (left, right) = spans
        self._inner = Area(top, bottom, left, right)
        # With the shifted windows that reach into it; windows of a crop start where those of the whole map do.
        beyond = side - side // 2
        self._outer = Area(
            max(top - side, 0), min(bottom + beyond, self._grid), max(left - side, 0), min(right + beyond, self._grid)
        )
        margin = side // 2
        self.part = Area(
            *(top + margin * (top > 0), bottom - margin * (bottom < self._grid)),
            *(left + margin * (left > 0), right - margin * (right < self._grid)),
        )
        self._around: dict[int, Tensor] = {}  # what float32 made of the outer area, by shifted block

    def encode(self, picture: Tensor) -> Tensor:
        """The embedding [1, C, h, w] of a normalised BGR picture [1, 3, S, S] in float32, by the reference."""
        hooks = []
        for i, block in enumerate(self._encoder.blocks):

            def see(_: nn.Module, args: tuple[Any, ...], i: int = i) -> None:
                tokens = torch.unflatten(args[0][: self._grid**2], 0, (self._grid, self._grid))
                self._around[i] = self._outer.of(tokens).clone()

            if i % 2 and self._outer != self._inner:
                hooks.append(block.register_forward_pre_hook(see))
        try:
            own: Tensor = self._encoder(picture)
        finally:
            for hook in hooks:
                hook.remove()
        return own

    def encode_exactly(self, picture: Tensor) -> None:
        """The part of the embedding of the picture that went through `encode` before."""
        if self._inner == Area(0, self._grid, 0, self._grid):
            self.exact = double(self._encoder)(picture.double())[0].permute(1, 2, 0)
            return
        encoder, inner, outer = self._encoder, self._inner, self._outer
        small = F.interpolate(picture.double(), size=(encoder.config.anchor_size,) * 2, mode="bilinear")
        positions, embed = encoder.pos_embed.double(), double(encoder.patch_embed)
        main, anchor = (add_positions(embed(x), positions)[0] for x in (picture.double(), small))
        main, fused = inner.of(main), []
        for i, block in enumerate(map(double, cast(Iterable[EncoderBlock], encoder.blocks))):
            around = self._around[i].double() if i in self._around else main
            if around is not main:
                inner.of(around, outer.top, outer.left)[:] = main
            layouts = [
                WindowLayout.of(x.shape[0], x.shape[1], encoder.config.window, shifted=i % 2 == 1)
                for x in (around, anchor)
            ]
            attended = block.attn(torch.cat((around.flatten(0, 1), anchor.flatten(0, 1))), block.norm1, layouts)
            around, anchor = _unflatten(attended, around, anchor)
            main = around if i not in self._around else inner.of(around, outer.top, outer.left)
            tokens = torch.cat((main.flatten(0, 1), anchor.flatten(0, 1)))
            main, anchor = _unflatten(block.mlp(tokens, block.norm2), main, anchor)
            if i in encoder.config.fusion_after:
                stage = encoder.config.fusion_after.index(i)
                norm, lateral = double(encoder.multi_scale_fusion[stage]), double(encoder.lateral_convs[stage])
                there = inner.of(resize(anchor[None], self._grid, self._grid)[0])
                fused.append(fuse_maps(main[None], there[None], norm, lateral))
        out = double(encoder.out_conv)(sum(fused[1:], fused[0]).permute(0, 3, 1, 2))[0]
        self.exact = self.part.of(out, inner.top, inner.left)

    def judge(
        self, tensor: str, backend: str, actual: Array, own: Tensor, largest: float, mean: float, name: str = "float32"
    ) -> Iterator[Check]:
        """Compare an embedding with float64 in the part, and elsewhere with PyTorch's own.

        Args:
            tensor: Its name.
            backend: What computed it.
            actual: [h, w, C].
            own: The same by PyTorch in the graph's precision, [1, C, h, w].
            largest: How many times PyTorch's largest error the largest error may be.
            mean: The same for the mean error.
            name: Of the precision.
        """
        own = own[0].permute(1, 2, 0)
        whole = Exact.of(own.double(), own, name)
        part = Exact.of(self.exact, self.part.of(own), name, size_of=whole)
        if self.exact.shape == own.shape:
            yield from part.judge(tensor, backend, actual, largest=largest, mean=mean)
            return
        yield from part.judge(tensor, backend, self.part.of(actual), largest=largest, mean=mean, note=str(self.part))
        yield from judge_whole(tensor, backend, actual, whole, [part], largest, mean)


def _unflatten(tokens: Tensor, *maps: Tensor) -> list[Tensor]:
    """Tokens [T, C] of several maps one after the other as maps of the same sizes as the given ones."""
    parts = torch.split(tokens, [len(x) * x.shape[1] for x in maps])
    return [torch.unflatten(part, 0, x.shape[:2]) for part, x in zip(parts, maps, strict=True)]
