"""The three graphs of Inter2Former as PyTorch modules; `interface.graph_tensors` says what they take and give."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from inter2former_deploy.core.contract import GraphName
from inter2former_deploy.families.encoder_graph import EncoderGraph
from inter2former_deploy.families.inter2former.interface import BLANK_INPUTS, LABELS
from inter2former_deploy.families.inter2former.masks import Box, BoxLogits
from inter2former_deploy.families.inter2former.modules.attention import KnownAttention
from inter2former_deploy.families.inter2former.modules.model import ImageFeatures, Inter2Former

MODEL = Inter2Former
ENCODER = "backbone."
DIFFERENCES = (
    "Canny direction bins come from comparisons, as ONNX has no Atan2; on a zero vertical gradient the release's bin "
    "depends on the sign of that zero, here it does not",
    "edge tokens are found in integers; the release compares float32 rounding errors, which gives the same tokens",
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

    def edge_inputs(self, canny_maps: Tensor) -> tuple[Tensor, ...]:
        """Canny maps [5, S, S] -> the twelve tensors `interface.EDGE_INPUTS`."""
        return self.decode_head.project_stages(self.edge_detector.encode(canny_maps))

    def blank_inputs(self, image_embedding: Tensor) -> tuple[Tensor, ...]:
        """Image embedding [h, w, C] -> the tensors `interface.BLANK_INPUTS`."""
        return self.neck.attend_blank(image_embedding)

    def forward(self, image: Tensor, image_embedding: Tensor) -> tuple[Tensor, ...]:
        """RGB [S, S, 3] in 0-255 and image embedding [h, w, C] -> the tensors `interface.PREPARED`, canny_maps."""
        canny_maps: Tensor = self.edge_detector.canny.encode(image)
        return *self.blank_inputs(image_embedding), *self.edge_inputs(canny_maps), canny_maps


class ClickGraph(nn.Module):
    """click.onnx.

    Args:
        model: The whole model.
    """

    def __init__(self, model: Inter2Former) -> None:
        super().__init__()
        self.neck, self.decode_head = model.neck, model.decode_head

    def forward(self, labels: Tensor, image_embedding: Tensor, *prepared: Tensor) -> tuple[Tensor, ...]:
        """The tensors `interface.CLICK_INPUTS` -> the tensors `interface.CLICK_OUTPUTS`, tokens, edge_tokens."""
        blank, edge_inputs = prepared[: len(BLANK_INPUTS)], prepared[len(BLANK_INPUTS) :]
        tokens, edge_tokens = self.neck.decode(labels, image_embedding, KnownAttention(*blank))
        upsampled = self.decode_head.decode(tokens, edge_inputs)
        return upsampled.box_logits, upsampled.box, tokens, edge_tokens


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
    "click": {"tokens": (), "edge_tokens": ("edge_tokens",)},
}
