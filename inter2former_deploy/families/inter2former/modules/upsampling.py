"""Dynamic local upsampling (DLU): logits at full resolution, only where the object is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inter2former_deploy.families.inter2former.config import OUTSIDE_LOGIT, PATCH, STAGES, Upsampling
from inter2former_deploy.operators import edge_formulas, formulas

BOX_THRESHOLD = -2.0  # a token above this low-resolution logit belongs to the box


class UpsampleStage(nn.Module):
    """Twice the size, fewer channels: normalise, resize, add edge features, convolve."""

    def __init__(self, *, in_channels: int, out_channels: int, activation: str) -> None:
        """Build one stage.

        Args:
            in_channels: Channels of its input and of its edge features.
            out_channels: Channels of its output.
            activation: "silu" or "none".
        """
        super().__init__()
        self.activation = activation
        self.norm = nn.GroupNorm(1, in_channels)
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor, edge: Tensor) -> Tensor:
        """The stage as the release computes it.

        Args:
            x: [B, Ci, H, W].
            edge: Edge features, [B, Ci, 2*H, 2*W].

        Returns:
            [B, Co, 2*H, 2*W].
        """
        y: Tensor = self.conv(formulas.upsample(x, self.norm.weight, self.norm.bias, self.norm.eps) + edge)
        return F.silu(y) if self.activation == "silu" else y

    def project_edge(self, edge: Tensor, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
        """What the LocalUpsample operator takes of the edge features: their convolution, and what it sees around crops.

        Args:
            edge: Edge features of one image, [1, Ci, H, W].
            tokens: Tokens a row, W / s with s pixels a token here; the map is square.

        Returns:
            `edge_map` [H, W, Co], `edge_border` [4, tokens, W, Co], `edge_corner` [4, tokens, tokens, Co].
        """
        return edge_formulas.project_edge(edge, self.conv.weight, edge.shape[-1] // tokens)

    def project_stage(self, x: Tensor, lateral: nn.Conv2d, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
        """The same of a stage of the edge network, by its operator.

        Args:
            x: The stage's result, [H, W, C].
            lateral: The 1x1 convolution of it to the edge features.
            tokens: Tokens a row; the map is square.

        Returns:
            As `project_edge`.
        """
        weight, bias = lateral.weight.flatten(1), cast(Tensor, lateral.bias)
        return edge_formulas.edge_projection(x, weight, bias, self.conv.weight, x.shape[1] // tokens)

    def decode(self, x: Tensor, box: Tensor, edge: Tensor, edge_border: Tensor, edge_corner: Tensor) -> Tensor:
        """The stage by its operator.

        Args:
            x: The crop of `box`, [Hc, Wc, Ci].
            box: int64 [4], tokens: left, top, right, bottom, right and bottom exclusive.
            edge: From `project_edge`.
            edge_border: From `project_edge`.
            edge_corner: From `project_edge`.

        Returns:
            [2*Hc, 2*Wc, Co].
        """
        norm, conv, bias = self.norm, self.conv, cast(Tensor, self.conv.bias)
        weights = norm.weight, norm.bias, conv.weight, bias
        return formulas.local_upsample(x, box, *weights, edge, edge_border, edge_corner, self.activation, norm.eps)


class UpsampledBatch(NamedTuple):
    """Logits of a batch."""

    logits: Tensor  # [B, 1, S, S], `OUTSIDE_LOGIT` outside the boxes
    low_res: Tensor  # [B, 1, h, w]
    boxes: Tensor  # int64 [B, 4], tokens: left, top, right, bottom, right and bottom exclusive


class UpsampledImage(NamedTuple):
    """Logits of one image, as click.onnx gives them."""

    logits: Tensor  # [S, S], `OUTSIDE_LOGIT` outside the box
    box_logits: Tensor  # [hb*16, wb*16], the same inside the box
    box: Tensor  # int64 [4], pixels: left, top, right, bottom, right and bottom exclusive
    tokens: Tensor  # [hb, wb, C], of the box
    low_res: Tensor  # [h, w]


class LocalUpsampling(nn.Module):
    """Low-resolution logits find the object; four stages upsample the tokens there."""

    def __init__(self, *, pyramid: tuple[int, ...], upsampling: Upsampling = "local") -> None:
        """Build the stages and the low-resolution head.

        Args:
            pyramid: Channels of tokens and stages, coarse to fine; the last stage gives one.
            upsampling: "local", or "full" for the whole map whatever the object.
        """
        super().__init__()
        self.upsampling = upsampling
        widths = list(zip(pyramid, (*pyramid[1:], 1), strict=True))
        self.upsamplers = nn.ModuleList(
            UpsampleStage(in_channels=c_in, out_channels=c_out, activation="none" if i == STAGES - 1 else "silu")
            for i, (c_in, c_out) in enumerate(widths)
        )
        layers: list[nn.Module] = []
        for c_in, c_out in widths:
            layers += [nn.Conv2d(c_in, c_out, 1), nn.SiLU()]
        self.mlp = nn.Sequential(*layers[:-1])

    @property
    def stages(self) -> Iterable[UpsampleStage]:
        """The upsampling stages, coarse to fine."""
        return cast(Iterable[UpsampleStage], self.upsamplers)

    def forward(self, tokens: Tensor, edges: Sequence[Tensor]) -> UpsampledBatch:
        """Logits of a batch, as the release computes them.

        Args:
            tokens: [B, C, h, w].
            edges: Edge features, coarse to fine: [B, C_i, 2**(i+1) * h, 2**(i+1) * w].

        Returns:
            Logits, low-resolution logits and boxes.
        """
        low_res: Tensor = self.mlp(tokens)
        boxes = torch.stack([self._find_box(sample) for sample in low_res[:, 0]])
        logits = []
        for i, box in enumerate(boxes):
            left, top, right, bottom = box.tolist()
            x = tokens[i : i + 1, :, top:bottom, left:right]
            for stage, edge in zip(self.stages, edges, strict=True):
                s = edge.shape[-1] // tokens.shape[-1]
                x = stage(x, edge[i : i + 1, :, s * top : s * bottom, s * left : s * right])
            h, w = tokens.shape[2:]
            around = [PATCH * n for n in (left, w - right, top, h - bottom)]
            logits.append(F.pad(x, around, value=OUTSIDE_LOGIT))
        return UpsampledBatch(torch.cat(logits), low_res, boxes)

    def training_forward(self, tokens: Tensor, edges: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits of a batch over the whole map, with gradients.

        Args:
            tokens: [B, C, h, w].
            edges: As in `forward`.

        Returns:
            Logits [B, 1, S, S], and low-resolution logits [B, 1, h, w] that give the tokens no gradient.
        """
        x = tokens
        for stage, edge in zip(self.stages, edges, strict=True):
            x = stage(x, edge)
        return x, self.mlp(tokens.detach())

    def project_edges(self, edges: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """What `decode` needs of the edge features; linear in them, once per image.

        Args:
            edges: Edge features of one image, coarse to fine: [1, C_i, 2**(i+1) * h, 2**(i+1) * w], square.

        Returns:
            The twelve tensors `interface.EDGE_INPUTS`.
        """
        tokens = edges[0].shape[-1] // 2
        return _by_kind(stage.project_edge(edge, tokens) for stage, edge in zip(self.stages, edges, strict=True))

    def project_stages(self, stages: Sequence[tuple[Tensor, nn.Conv2d]]) -> tuple[Tensor, ...]:
        """What `decode` needs of the edge network, by operators.

        Args:
            stages: Of one image, coarse to fine: a stage's result, [2**(i+1) * h, 2**(i+1) * w, C_i], square, and the
                1x1 convolution of it to edge features.

        Returns:
            The twelve tensors `interface.EDGE_INPUTS`.
        """
        tokens = stages[0][0].shape[1] // 2
        both = zip(self.stages, stages, strict=True)
        return _by_kind(stage.project_stage(x, lateral, tokens) for stage, (x, lateral) in both)

    def decode(self, tokens: Tensor, edge_inputs: Sequence[Tensor]) -> UpsampledImage:
        """Logits of one image, by operators.

        Args:
            tokens: [h*w, C].
            edge_inputs: The twelve tensors of `project_edges`.

        Returns:
            Logits and the box that was upsampled.
        """
        h, w = edge_inputs[-1].shape[1:3]
        low_res = self.low_res(self.first(tokens)).view(h, w)

        def crop(left: int, top: int, right: int, bottom: int) -> Tensor:
            return tokens.view(h, w, -1).narrow(0, top, bottom - top).narrow(1, left, right - left)

        return self.upsample(low_res, crop, edge_inputs)

    def first(self, tokens: Tensor) -> Tensor:
        """Results of the first layer of low-resolution logits: [n, C] -> [n, C_1]."""
        return _linear(cast(nn.Conv2d, self.mlp[0]), tokens)

    def low_res(self, first: Tensor) -> Tensor:
        """Low-resolution logits [n, 1] from results of their first layer [n, C_1]."""
        for layer in list(self.mlp)[1:]:
            first = _linear(layer, first) if isinstance(layer, nn.Conv2d) else layer(first)
        return first

    def upsample(
        self, low_res: Tensor, crop: Callable[[int, int, int, int], Tensor], edge_inputs: Sequence[Tensor]
    ) -> UpsampledImage:
        """Logits of one image, by operators, from what its tokens are where the object is.

        Args:
            low_res: Low-resolution logits, [h, w].
            crop: Gives the tokens of a box: left, top, right, bottom -> [hb, wb, C].
            edge_inputs: The twelve tensors of `project_edges`.

        Returns:
            Logits and the box that was upsampled.
        """
        edge, border, corner = edge_inputs[:STAGES], edge_inputs[STAGES : 2 * STAGES], edge_inputs[2 * STAGES :]
        h, w = low_res.shape
        box = self._find_box(low_res)
        left, top, right, bottom = unpack_box(box, h, w)
        x = tokens = crop(left, top, right, bottom)
        for stage, stage_edges in zip(self.stages, zip(edge, border, corner, strict=True), strict=True):
            x = stage.decode(x, box, *stage_edges)
        box_logits = x.squeeze(-1)
        around = [PATCH * n for n in (left, w - right, top, h - bottom)]
        logits = F.pad(box_logits, around, value=OUTSIDE_LOGIT)
        return UpsampledImage(logits, box_logits, box * PATCH, tokens, low_res)

    def _find_box(self, low_res: Tensor) -> Tensor:
        if self.upsampling == "full":
            h, w = low_res.shape
            return torch.tensor((0, 0, w, h), device=low_res.device)
        return formulas.token_box(low_res, BOX_THRESHOLD)


def _by_kind(projected: Iterable[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, ...]:
    """Edges of all stages, then borders, then corners."""
    return tuple(tensor for kind in zip(*projected, strict=True) for tensor in kind)


def _linear(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """A 1x1 convolution of tokens [n, C], which is a matrix product."""
    return F.linear(x, layer.weight.flatten(1), layer.bias)


def unpack_box(box: Tensor, h: int, w: int) -> list[int]:
    """The numbers of a box, with the promises that torch.export needs to crop by them."""
    left, top, right, bottom = box.tolist()
    for low, high, size in ((left, right, w), (top, bottom, h)):
        for promise in (low >= 0, low < high, high <= size):
            torch._check(promise)  # type: ignore[no-untyped-call]
    return [left, top, right, bottom]
