"""What the encoder knows of the decoder's first layer before any click, and that a first click finds it again."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from operators import twins
from operators.harness import assert_accurate
from torch import Tensor, nn

from inter2former_deploy.core import library
from inter2former_deploy.core.prompts import Click
from inter2former_deploy.exporters.graphs import export_graph
from inter2former_deploy.families.checkpoint import bundled_weights, load_model, synthetic_state_dict
from inter2former_deploy.families.inter2former.config import PATCH, PROBE, ModelConfig
from inter2former_deploy.families.inter2former.interface import BLANK_INPUTS
from inter2former_deploy.families.inter2former.labels import add_clicks, unknown_labels
from inter2former_deploy.families.inter2former.modules.model import Inter2Former
from inter2former_deploy.families.inter2former.modules.neck import DecoderNeck

REACH = (
    4  # tokens a side that a click's disc of 11 pixels may change: a prompt convolution sees 15 pixels beyond a token
)


class Blank(nn.Module):
    """The encoder's part."""

    def __init__(self, neck: DecoderNeck) -> None:
        super().__init__()
        self.neck = neck

    def forward(self, image_embedding: Tensor) -> tuple[Tensor, ...]:
        return self.neck.attend_blank(image_embedding)


class FirstQkv(nn.Module):
    """The decoder's, up to where it compares."""

    def __init__(self, neck: DecoderNeck) -> None:
        super().__init__()
        self.neck = neck

    def forward(self, labels: Tensor, image_embedding: Tensor) -> Tensor:
        tokens, _ = self.neck.embed(labels, image_embedding)
        qkv: Tensor = self.neck.blocks[0].qkv(tokens)
        return qkv


def synthetic(config: ModelConfig) -> Inter2Former:
    model = Inter2Former(config)
    model.load_state_dict(synthetic_state_dict(config))
    return model.eval()


def run_with_library(model: onnx.ModelProto, inputs: dict[str, Any], threads: int) -> list[Any]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    library.register(options)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, inputs))


@pytest.mark.parametrize("changes", [{}, {"prompt": "dense"}, {"heads": 2}, {"attention": "vq"}], ids=str)
def test_numbers(changes: dict[str, Any], run_graph: Any, assert_close: Any) -> None:
    neck = synthetic(PROBE.with_decoder(**changes)).neck
    embedding = torch.randn(7, 7, PROBE.decoder.dim, generator=torch.Generator().manual_seed(0))
    graph = export_graph(Blank(neck), (embedding,), inputs=("image_embedding",), outputs=BLANK_INPUTS)
    outputs = run_graph(graph, {"image_embedding": embedding.numpy()})
    with torch.inference_mode():
        expected = neck.attend_blank(embedding)
        labels = torch.full((7 * PATCH, 7 * PATCH), 2, dtype=torch.uint8)
        assert torch.equal(FirstQkv(neck)(labels, embedding), expected.qkv)
    for name, tensor in zip(BLANK_INPUTS, expected, strict=True):
        assert_close(outputs[name], tensor, "neck")
    attributes = {"heads": changes.get("heads", 1), "grid_width": 7}
    assert_accurate(outputs["blank_attention"], twins.full_attention, outputs["blank_qkv"], **attributes)
    assert_accurate(outputs["blank_logsum"], twins.attention_logsum, outputs["blank_qkv"], **attributes)


@pytest.mark.parametrize(
    ("size", "changes"), [(512, {}), (512, {"prompt": "dense"}), (1024, {}), (2048, {}), (512, None)], ids=str
)
def test_a_first_click_changes_few_tokens_and_no_bit_of_the_others(size: int, changes: dict[str, Any] | None) -> None:
    """Wherever it is, with any number of threads; with the bundled weights, too (None)."""
    model = load_model(bundled_weights()) if changes is None else synthetic(PROBE.with_decoder(**changes))
    neck, side = model.eval().neck, size // PATCH
    embedding = torch.randn(side, side, model.config.decoder.dim, generator=torch.Generator().manual_seed(0))
    labels = torch.from_numpy(unknown_labels(size))
    blank = export_graph(Blank(neck), (embedding,), inputs=("image_embedding",), outputs=BLANK_INPUTS)
    first = export_graph(FirstQkv(neck), (labels, embedding), inputs=("labels", "image_embedding"), outputs=("qkv",))
    for threads in (1, 2):
        inputs = {"image_embedding": embedding.numpy()}
        known = run_with_library(blank, inputs, threads)[0]
        for x, y in ((size // 2, size // 2), (0, 0), (size - 1, size // 3 + 5), (size // 5, size - 9)):
            clicked = unknown_labels(size)
            add_clicks(clicked, [Click(x, y, True)])
            (qkv,) = run_with_library(first, inputs | {"labels": clicked}, threads)
            differs = (qkv != known).any(1).reshape(side, side)
            rows, columns = np.nonzero(differs)
            assert differs[y // PATCH, x // PATCH]
            assert np.ptp(rows) < REACH
            assert np.ptp(columns) < REACH


def test_graphs_hold_no_label_maps() -> None:
    """Before any click the map is one label: as a constant it would be as large as a picture."""
    neck = synthetic(PROBE).neck
    embedding = torch.zeros(64, 64, PROBE.decoder.dim)
    graph = export_graph(Blank(neck), (embedding,), inputs=("image_embedding",), outputs=BLANK_INPUTS)
    assert max(np.prod(x.dims) for x in graph.graph.initializer) < (64 * PATCH) ** 2
