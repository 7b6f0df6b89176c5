"""The three graphs of Inter2Former as PyTorch modules; `interface.graph_tensors` says what they take and give."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from inter2former_deploy.core.contract import GraphName
from inter2former_deploy.families.encoder_graph import EncoderGraph
from inter2former_deploy.families.inter2former.config import PATCH
from inter2former_deploy.families.inter2former.interface import BLANK_INPUTS, LABELS, OUTSIDE_INPUTS
from inter2former_deploy.families.inter2former.masks import Box, BoxLogits
from inter2former_deploy.families.inter2former.modules.attention import KnownAttention
from inter2former_deploy.families.inter2former.modules.model import ImageFeatures, Inter2Former
from inter2former_deploy.families.inter2former.modules.neck import HybridLayer
from inter2former_deploy.families.inter2former.modules.outside import KnownOutside, OutsideTokens
from inter2former_deploy.families.inter2former.modules.upsampling import UpsampledImage, unpack_box
from inter2former_deploy.operators import formulas

MODEL = Inter2Former
ENCODER = "backbone."
DIFFERENCES = (
    "Canny direction bins come from comparisons, as ONNX has no Atan2; on a zero vertical gradient the release's bin "
    "depends on the sign of that zero, here it does not",
    "edge tokens are found in integers; the release compares float32 rounding errors, which gives the same tokens",
    "tokens outside the box of the labels are what the image makes of them and a part of low rank; equal but for "
    "rounding",
    "edge features enter each upsampling stage already convolved, once an image; equal but for rounding",
)


class PrepareGraph(nn.Module):
    """prepare.onnx.

    Args:
        model: The whole model.
    """

    def __init__(self, model: Inter2Former) -> None:
        super().__init__()
        self.edge_detector, self.neck, self.decode_head = model.edge_detector, model.neck, model.decode_head
        self.known_outside = KnownOutside(model.neck, model.decode_head)

    def edge_inputs(self, canny_maps: Tensor) -> tuple[Tensor, ...]:
        """Canny maps [5, S, S] -> the twelve tensors `interface.EDGE_INPUTS`."""
        return self.decode_head.project_stages(self.edge_detector.encode(canny_maps))

    def tokens(self, image_embedding: Tensor) -> tuple[Tensor, ...]:
        """Image embedding [h, w, C] -> the tensors `interface.BLANK_INPUTS` and `interface.OUTSIDE_INPUTS`."""
        return *self.neck.attend_blank(image_embedding), *self.known_outside(image_embedding)

    def forward(self, image: Tensor, image_embedding: Tensor) -> tuple[Tensor, ...]:
        """RGB [S, S, 3] in 0-255 and image embedding [h, w, C] -> the tensors `interface.PREPARED`, canny_maps."""
        canny_maps: Tensor = self.edge_detector.canny.encode(image)
        return *self.tokens(image_embedding), *self.edge_inputs(canny_maps), canny_maps


class ClickGraph(nn.Module):
    """click.onnx: tokens of the box of the labels by themselves, those outside by what is known of them.

    Args:
        model: The whole model.
    """

    def __init__(self, model: Inter2Former) -> None:
        super().__init__()
        self.neck, self.decode_head = model.neck, model.decode_head
        self.outside = OutsideTokens(model.neck, model.decode_head)

    def forward(self, labels: Tensor, image_embedding: Tensor, *prepared: Tensor) -> tuple[Tensor, ...]:
        """The tensors `interface.CLICK_INPUTS` -> the tensors `interface.CLICK_OUTPUTS`, and those of `INNER`."""
        blank, (queries, known), edge_inputs = _split(prepared, len(BLANK_INPUTS), len(OUTSIDE_INPUTS))
        h, w, _ = image_embedding.shape
        left, top, right, bottom = unpack_box(self.neck.ref_conv.box(labels), h, w)
        grid = torch.arange(h * w, device=labels.device).view(h, w)

        def tokens_of(left: int, top: int, right: int, bottom: int) -> Tensor:
            return grid.narrow(0, top, bottom - top).narrow(1, left, right - left).flatten()

        # In the box.
        inside = tokens_of(left, top, right, bottom)
        rows, columns = (PATCH * top, PATCH * (bottom - top)), (PATCH * left, PATCH * (right - left))
        crop = labels.narrow(0, *rows).narrow(1, *columns)
        embedding = image_embedding.narrow(0, top, bottom - top).narrow(1, left, right - left)
        x = self.neck.ref_conv.crop(crop, embedding, self.neck.ref_embeds.weight)
        edge = formulas.edge_tokens(crop, self.neck.edge_rule)  # within the box
        edge_tokens = inside.index_select(0, edge)

        # Layer by layer; the states of tokens outside grow by what is added to them.
        states: list[Tensor] = []
        hint: KnownAttention | None = KnownAttention(*blank)
        for i, block in enumerate(cast(Iterable[HybridLayer], self.neck.blocks)):
            if i > 0:
                queries = self.outside.layer(2 * i - 1, known, torch.cat(states, dim=1), inside, "none")
            qkv = queries.index_put((inside,), block.qkv(x))
            attended = block.attention(qkv, edge_tokens, w, hint)
            hint = None
            x = block.mix(x, attended.index_select(0, inside), edge)
            states.append(attended)
            states.append(self.outside.layer(2 * i, known, torch.cat(states, dim=1), inside, "gated"))
        state = torch.cat(states, dim=1)
        low_res = self.decode_head.low_res(self.outside.low_res(known, state, inside, self.decode_head.first(x)))

        def tokens(*box: int) -> Tensor:
            wanted = tokens_of(*box)
            some = self.outside.tokens(image_embedding.flatten(0, 1), state, inside, x, wanted)
            return some.view(box[3] - box[1], box[2] - box[0], -1)

        upsampled = self.decode_head.upsample(low_res.view(h, w), tokens, edge_inputs)
        return *_results(upsampled), edge_tokens


class DenseClick(nn.Module):
    """What click.onnx computes, but with each token by itself: what the gate judges by.

    Args:
        model: The whole model.
    """

    def __init__(self, model: Inter2Former) -> None:
        super().__init__()
        self.neck, self.decode_head = model.neck, model.decode_head

    def forward(self, labels: Tensor, image_embedding: Tensor, *edge_inputs: Tensor) -> tuple[Tensor, ...]:
        """The label map, the embedding [h, w, C] and the tensors `interface.EDGE_INPUTS` -> as `ClickGraph`."""
        tokens, edge_tokens = self.neck.decode(labels, image_embedding)
        return *_results(self.decode_head.decode(tokens, edge_inputs)), edge_tokens


def _results(upsampled: UpsampledImage) -> tuple[Tensor, ...]:
    """The tensors `interface.CLICK_OUTPUTS` and those of `INNER` but the last."""
    return upsampled.box_logits, upsampled.box, upsampled.tokens, upsampled.low_res


def _split(tensors: tuple[Tensor, ...], *sizes: int) -> Iterator[tuple[Tensor, ...]]:
    """The first of them, so many, the next ones, and the rest."""
    for size in sizes:
        yield tensors[:size]
        tensors = tensors[size:]
    yield tensors


def predict(model: Inter2Former, features: ImageFeatures, prompts: Mapping[str, NDArray[Any]]) -> BoxLogits:
    """What the modules make of an image's features and the label map, all of the square being in the box."""
    labels = torch.from_numpy(prompts[LABELS])[None]
    logits = model.decode(features, labels)[0, 0].numpy()
    return BoxLogits(Box(0, 0, logits.shape[1], logits.shape[0]), logits)


MODULES: dict[GraphName, type[nn.Module]] = {"encoder": EncoderGraph, "prepare": PrepareGraph, "click": ClickGraph}
# The last results of a module: inner values of its graph, which the gate compares, with names of sizes that differ.
INNER: dict[GraphName, dict[str, tuple[str, ...]]] = {
    "encoder": {},
    "prepare": {"canny_maps": ()},
    "click": {"tokens": ("tokens_height", "tokens_width"), "low_res": (), "edge_tokens": ("edge_tokens",)},
}
