"""How HRSAM's graphs are compared with its modules, by the photograph and clicks of the parity gate."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from inter2former_deploy.core.manifest import Precision
from inter2former_deploy.core.prompts import Box, Click
from inter2former_deploy.exporters import parity, tolerances
from inter2former_deploy.exporters.exact import ReducedLayers
from inter2former_deploy.exporters.judgement import Exact, judged, limited, mask_difference
from inter2former_deploy.exporters.parity import OPERATORS, PLAIN, Findings, Graph, Graphs, ParityReport
from inter2former_deploy.families.encoder_graph import EncoderGraph
from inter2former_deploy.families.exact_embedding import ExactEmbedding
from inter2former_deploy.families.hrsam.graphs import PrepareGraph
from inter2former_deploy.families.hrsam.interface import EMBEDDING, LOGITS, PICTURE, graph_tensors
from inter2former_deploy.families.hrsam.masks import MaskLogits
from inter2former_deploy.families.hrsam.model import HRSAM
from inter2former_deploy.families.hrsam.pictures import Frame
from inter2former_deploy.families.hrsam.prompts import SparsePrompts
from inter2former_deploy.families.hrsam.session import decode
from inter2former_deploy.families.pictures import model_input

Arrays = dict[str, NDArray[Any]]

PROMPTS: tuple[Click | Box, ...] = (*parity.CLICKS[: parity.SESSION], Box(140, 60, 420, 360))  # around the cup


def check_parity(
    model: HRSAM,
    encoder: Path,
    prepare: Path,
    click: Path,
    *,
    size: int,
    reduced: Graphs | None = None,
    precision: Precision = "fp32",
    custom_ops: bool = True,
    num_threads: int | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> ParityReport:
    """Compare exported graphs with the model they come from.

    Args:
        model: The reference, in evaluation mode.
        encoder: encoder.onnx in float32.
        prepare: prepare.onnx.
        click: click.onnx in float32.
        size: S.
        reduced: The same, some of them in reduced precision.
        precision: Of the encoder in `reduced`.
        custom_ops: Compare with the operator library, too.
        num_threads: Of onnxruntime; as many as this process may keep busy when None.
        progress: Told what comes next.

    Raises:
        OperatorLibraryError: The operator library is missing or does not load.
    """
    with torch.inference_mode():
        gate = Gate(model, size, progress)
        backends = (PLAIN, OPERATORS) if custom_ops else (PLAIN,)
        if custom_ops:
            for file in (encoder, prepare, click):
                parity.require_kernels(file)
        features = {backend: gate.check_encoder(encoder, prepare, backend, num_threads) for backend in backends}
        if reduced is not None and reduced.encoder != encoder:
            gate.check_reduced(reduced.encoder, reduced.prepare, precision, features, num_threads)
        gate.check_click(click, features, num_threads)
        return gate.report()


class Gate(Findings):
    """The steps of the gate and what they find.

    Args:
        model: The reference, in evaluation mode.
        size: S.
        progress: Told what comes next.
    """

    def __init__(self, model: HRSAM, size: int, progress: Callable[[str], None] = lambda _: None) -> None:
        super().__init__(size, progress)
        self.model = model
        self.photograph = parity.load_photograph()
        self.frame = Frame(self.photograph.shape[0], self.photograph.shape[1], size)
        self.image = model_input(self.photograph, self.frame)
        self.tensors = graph_tensors(model.config, size)
        self._normalized = EncoderGraph(model).normalize(torch.from_numpy(self.image))
        self._exact_embedding = ExactEmbedding(model.backbone, size, np.random.default_rng())
        with self._step("encode in PyTorch"):
            self.embedding = self._exact_embedding.encode(self._normalized)
        with self._step("encode in PyTorch, float64"):
            self._exact_embedding.encode_exactly(self._normalized)
        self._exact = _in_float64(model)

    def check_encoder(self, encoder: Path, prepare: Path, backend: str, num_threads: int | None = None) -> Arrays:
        """Compare what is computed once an image; returns what the graphs give."""
        settings: dict[str, Any] = {"custom_ops": backend == OPERATORS, "num_threads": num_threads}
        prepared = [*self.tensors["prepare"]["outputs"]]
        with self._step(f"encode, {backend}"):
            actual = Graph(encoder, [EMBEDDING], **settings)({PICTURE: self.image})
        with self._step(f"prepare, {backend}"):
            actual |= Graph(prepare, prepared, **settings)(actual)
        with self._step(f"compare features, {backend}"):
            self.checks += self._exact_embedding.judge(
                *(EMBEDDING, backend, actual[EMBEDDING], self.embedding), tolerances.LARGEST, tolerances.MEAN
            )
            self._judge_prepared(backend, actual)
        return actual

    def _judge_prepared(self, backend: str, actual: Arrays, precision: Precision = "fp32") -> None:
        given = torch.from_numpy(actual[EMBEDDING])
        exact, own = PrepareGraph(self._exact)(given.double()), PrepareGraph(self.model)(given)
        for name, *values in zip(self.tensors["prepare"]["outputs"], exact, own, strict=True):
            tensor = name if precision == "fp32" else f"{name} in {precision}"
            self.checks += judged(tensor, backend, actual[name], Exact.of(*values))

    def check_reduced(
        self,
        encoder: Path,
        prepare: Path,
        precision: Precision,
        features: Mapping[str, Arrays],
        num_threads: int | None,
    ) -> None:
        """Compare an encoder in reduced precision, and prepare.onnx beside it, in which nothing is reduced."""
        with self._step(f"encode in PyTorch, {precision}"), ReducedLayers(precision):
            own = self.model.encode(self._normalized)
        limits = tolerances.REDUCED_LARGEST, tolerances.REDUCED_MEAN
        prepared = [*self.tensors["prepare"]["outputs"]]
        for backend, known in features.items():
            settings: dict[str, Any] = {"custom_ops": backend == OPERATORS, "num_threads": num_threads}
            with self._step(f"encode in {precision}, {backend}"):
                actual = Graph(encoder, [EMBEDDING], **settings)({PICTURE: self.image})[EMBEDDING]
            self.checks += self._exact_embedding.judge(
                *(f"{EMBEDDING} in {precision}", backend, actual, own), *limits, precision
            )
            given = {EMBEDDING: known[EMBEDDING]}
            with self._step(f"prepare beside {precision}, {backend}"):
                self._judge_prepared(backend, given | Graph(prepare, prepared, **settings)(given), precision)

    def check_click(self, click: Path, features: Mapping[str, Arrays], num_threads: int | None = None) -> None:
        """Compare logits at the reference's prompts and logits, and masks of sessions that each side has by itself.

        Each is fed its own logits again, so PyTorch makes its mask of what each side is given.
        """
        graphs = {
            backend: Graph(click, [LOGITS], custom_ops=backend == OPERATORS, num_threads=num_threads)
            for backend in features
        }
        shared = features[PLAIN]
        embedding = torch.from_numpy(shared[EMBEDDING]).permute(2, 0, 1)[None]
        reference = SparsePrompts(self.frame.size)  # what PyTorch makes of its own image embedding
        own = {backend: SparsePrompts(self.frame.size) for backend in graphs}
        for number, prompt in enumerate(PROMPTS, 1):
            with self._step(f"prompt {number}"):
                at = self._to_model(prompt)
                reference.add(at)
                inputs = reference.inputs()
                exact = Exact.of(decode(self._exact, embedding.double(), inputs), decode(self.model, embedding, inputs))
                for backend, graph in graphs.items():
                    for check in judged(LOGITS, backend, graph(shared | inputs)[LOGITS], exact, f"prompt {number}"):
                        self._keep_worst(check)
                    own[backend].add(at)
                    its = own[backend].inputs()
                    found = MaskLogits(graph(features[backend] | its)[LOGITS])
                    theirs = MaskLogits(decode(self.model, self.embedding, its).numpy())
                    difference = mask_difference(found.mask(self.frame), theirs.mask(self.frame))
                    self._keep_worst(limited("masks", backend, difference, f"prompt {number}"))
                    own[backend].fold(found)
                reference.fold(MaskLogits(decode(self.model, self.embedding, inputs).numpy()))
        self.checks += self.worst.values()

    def _to_model(self, prompt: Click | Box) -> Click | Box:
        return self.frame.box_to_model(prompt) if isinstance(prompt, Box) else self.frame.to_model(prompt)


def _in_float64(model: HRSAM) -> HRSAM:
    """A model without an encoder, whose prompt encoder and decoder compute in float64."""
    with torch.device("meta"):
        exact = HRSAM(model.config).eval()
    exact.neck = copy.deepcopy(model.neck).double()
    exact.decode_head = copy.deepcopy(model.decode_head).double()
    return exact
