"""The reference modules as ONNX graphs: what is computed once an image, and what is computed at every click.

The graphs are exported from the modules themselves. Operators of our domain are `torch.library` custom operators there
and become bare nodes here; their function bodies are appended afterwards, as the exporter inlines functions it knows.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import onnx
import onnx_ir
import onnx_ir.passes.common as onnx_passes
import onnxscript.optimizer
import torch
from onnxscript.rewriter import RewritePass
from onnxscript.rewriter.rules import common as rules
from torch import Tensor, nn

from inter2former_deploy.core.contract import (
    BLANK_INPUTS,
    DECODER_INPUTS,
    DECODER_OUTPUTS,
    ENCODER_INPUT,
    ENCODER_OUTPUTS,
    MEAN_BGR,
    STAGES,
    STD_BGR,
)
from inter2former_deploy.exporters.bodies import add_bodies, check_opset
from inter2former_deploy.exporters.translations import translation_table
from inter2former_deploy.families.inter2former.config import PATCH, ModelConfig
from inter2former_deploy.families.inter2former.modules.attention import KnownAttention
from inter2former_deploy.families.inter2former.modules.model import Inter2Former

DEFAULT_OPSET = 20  # the first with GELU as one operator; onnxruntime 1.17 and later run it

_DIMENSIONS = {"box_logits": ("box_height", "box_width"), "edge_tokens": ("edge_tokens",)}
_REWRITES = (
    rules.no_op_transpose_rule,
    rules.reshape_reshape_rule,
    rules.slice_split_rule,
    rules.transpose_transpose_rule,
    rules.unsqueeze_unsqueeze_rule,
)
_ENLARGING = ("ConstantOfShape", "Expand", "Tile")  # left to onnxruntime: their results would bloat the file
_LARGE = 1 << 16  # elements; so would a larger result that has more of them than what it is computed from


class EncoderGraph(nn.Module):
    """encoder.onnx as a module (inter2former_deploy/core/contract.py).

    Args:
        model: The whole model.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: Inter2Former) -> None:
        super().__init__()
        self.backbone, self.edge_detector = model.backbone, model.edge_detector
        self.neck, self.decode_head = model.neck, model.decode_head
        for name, numbers in (("mean", MEAN_BGR), ("std", STD_BGR)):
            self.register_buffer(name, torch.tensor(numbers), persistent=False)

    def normalize(self, image: Tensor) -> Tensor:
        """RGB [S, S, 3] in 0-255 -> what the modules take, normalised BGR [1, 3, S, S]."""
        return ((image.flip(2) - self.mean) / self.std).permute(2, 0, 1)[None]

    def edge_inputs(self, canny_maps: Tensor) -> tuple[Tensor, ...]:
        """Canny maps [5, S, S] -> the twelve tensors `contract.EDGE_INPUTS`."""
        return self.decode_head.project_stages(self.edge_detector.encode(canny_maps))

    def blank_inputs(self, image_embedding: Tensor) -> tuple[Tensor, ...]:
        """Image embedding [h, w, C] -> the tensors `contract.BLANK_INPUTS`."""
        return self.neck.attend_blank(image_embedding)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """RGB [S, S, 3] in 0-255 -> the tensors `contract.ENCODER_OUTPUTS`."""
        picture = self.normalize(image)
        embedding: Tensor = self.backbone(picture)[0].permute(1, 2, 0)
        canny_maps: Tensor = self.edge_detector.canny.encode(image)
        return embedding, *self.blank_inputs(embedding), *self.edge_inputs(canny_maps), canny_maps


class DecoderGraph(nn.Module):
    """decoder.onnx as a module (inter2former_deploy/core/contract.py).

    Args:
        model: The whole model.
    """

    def __init__(self, model: Inter2Former) -> None:
        super().__init__()
        self.neck, self.decode_head = model.neck, model.decode_head

    def forward(self, labels: Tensor, image_embedding: Tensor, *features: Tensor) -> tuple[Tensor, ...]:
        """The tensors `contract.DECODER_INPUTS` -> the tensors `contract.DECODER_OUTPUTS`."""
        blank, edge_inputs = features[: len(BLANK_INPUTS)], features[len(BLANK_INPUTS) :]
        tokens, edge_tokens = self.neck.decode(labels, image_embedding, KnownAttention(*blank))
        upsampled = self.decode_head.decode(tokens, edge_inputs)
        return upsampled.logits, upsampled.box_logits, upsampled.box, tokens, edge_tokens


def decoder_shapes(config: ModelConfig, size: int) -> dict[str, tuple[int, ...]]:
    """Shapes of `contract.DECODER_INPUTS` by name, for square pictures of `size` pixels.

    Raises:
        ValueError: `size` is no positive multiple of 16.
    """
    if size <= 0 or size % PATCH:
        raise ValueError(f"size must be a positive multiple of {PATCH}, got {size}")
    grid = size // PATCH
    shapes: dict[str, tuple[int, ...]] = {
        "labels": (size, size),
        "image_embedding": (grid, grid, config.decoder.dim),
        "blank_qkv": (grid * grid, 3 * config.decoder.attention_dim),
        "blank_attention": (grid * grid, config.decoder.attention_dim),
        "blank_logsum": (grid * grid, config.decoder.heads),
    }
    for i, channels in enumerate((*config.decoder.pyramid[1:], 1)):
        side = grid * 2 ** (i + 1)
        shapes[f"edge_{i}"] = (side, side, channels)
        shapes[f"edge_border_{i}"] = (STAGES, grid, side, channels)
        shapes[f"edge_corner_{i}"] = (STAGES, grid, grid, channels)
    return {name: shapes[name] for name in DECODER_INPUTS}


def export_encoder(model: Inter2Former, *, size: int, opset: int = DEFAULT_OPSET) -> onnx.ModelProto:
    """encoder.onnx for pictures of size x size pixels.

    Args:
        model: The model; it is left as it is, but for being in evaluation mode.
        size: Side of the picture, pixels, a multiple of 16.
        opset: Version of the standard operators.

    Raises:
        ValueError: `size` or `opset` is out of range.
    """
    decoder_shapes(model.config, size)  # checks the size
    picture = torch.zeros(size, size, 3)
    return export_graph(EncoderGraph(model), (picture,), inputs=(ENCODER_INPUT,), outputs=ENCODER_OUTPUTS, opset=opset)


def export_decoder(model: Inter2Former, *, size: int, opset: int = DEFAULT_OPSET) -> onnx.ModelProto:
    """decoder.onnx for pictures of size x size pixels, with the function bodies of its operators.

    Args:
        model: The model; it is left as it is, but for being in evaluation mode.
        size: Side of the picture, pixels, a multiple of 16.
        opset: Version of the standard operators.

    Raises:
        ValueError: `size` or `opset` is out of range.
    """
    shapes = decoder_shapes(model.config, size)
    examples = tuple(
        torch.zeros(shape, dtype=torch.uint8 if name == "labels" else torch.float32) for name, shape in shapes.items()
    )
    graph = export_graph(DecoderGraph(model), examples, inputs=DECODER_INPUTS, outputs=DECODER_OUTPUTS, opset=opset)
    for output in graph.graph.output:  # dimensions that depend on the labels
        for dimension, name in zip(output.type.tensor_type.shape.dim, _DIMENSIONS.get(output.name, ()), strict=False):
            dimension.dim_param = name
    return graph


def export_graph(
    module: nn.Module,
    examples: tuple[Tensor, ...],
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    opset: int = DEFAULT_OPSET,
) -> onnx.ModelProto:
    """Any module made of ours as an ONNX graph, with the function bodies of its operators.

    Args:
        module: The module; it is put into evaluation mode.
        examples: Its arguments; their shapes become the graph's.
        inputs: Names of the arguments.
        outputs: Names of the results.
        opset: Version of the standard operators.

    Raises:
        ValueError: `opset` is out of range.
    """
    check_opset(opset)
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            module.eval(),
            examples,
            dynamo=True,
            input_names=inputs,
            output_names=outputs,
            opset_version=opset,
            custom_translation_table=translation_table(),
            optimize=False,  # most of its rules do not apply here, yet trying them takes two thirds of the time
            verbose=False,
        )
        if program is None:
            raise RuntimeError("torch.onnx.export returned no program")
        graph = program.model
        _tidy(graph)
    for value in (*graph.graph.inputs, *graph.graph.outputs, *graph.graph.initializers.values()):
        value.metadata_props.clear()
    proto = onnx_ir.to_proto(graph)
    add_bodies(proto)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def _tidy(graph: onnx_ir.Model) -> None:
    """Computes what follows from weights alone, whatever its size: stacked experts, codewords, rotations."""
    onnx_passes.InlinePass()(graph)
    onnxscript.optimizer.fold_constants(graph)
    onnxscript.optimizer.fold_constants(
        graph,
        output_size_limit=1 << 40,
        should_fold=lambda node: node.op_type not in ("Constant", *_ENLARGING) and not _bloats(node),
    )
    for tidy in (
        RewritePass(_REWRITES),
        onnx_passes.IdentityEliminationPass(),
        onnx_passes.RemoveUnusedNodesPass(),
        onnx_passes.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
        onnx_passes.RemoveUnusedOpsetsPass(),
        onnx_passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        onnx_passes.DeduplicateInitializersPass(),
        onnx_passes.CommonSubexpressionEliminationPass(),
        onnx_passes.ClearMetadataAndDocStringPass(),  # they hold paths of this machine
    ):
        tidy(graph)


def _bloats(node: onnx_ir.Node) -> bool:
    """Whether a node's result is large, and larger than its inputs: a position grid, say, resized to many tokens."""
    result, *inputs = (
        math.prod(value.shape.numpy()) if value is not None and value.shape is not None else 0
        for value in (node.outputs[0], *node.inputs)
    )
    return result > max(_LARGE, sum(inputs))


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences what the exporter says about itself; its errors still come."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
