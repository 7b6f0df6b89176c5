"""How graphs of Inter2Former are compared with its modules, by the photograph and clicks of the parity gate."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from inter2former_deploy.core.manifest import Precision
from inter2former_deploy.core.prompts import Click
from inter2former_deploy.exporters import parity, tolerances
from inter2former_deploy.exporters.exact import Float64Convolutions, ReducedLayers
from inter2former_deploy.exporters.judgement import Check, Exact, equal, judged, limited, mask_difference
from inter2former_deploy.exporters.parity import (
    OPERATORS,
    PLAIN,
    Array,
    Arrays,
    Findings,
    Graph,
    Graphs,
    ParityReport,
    Progress,
    load_photograph,
    require_kernels,
)
from inter2former_deploy.families.encoder_graph import EncoderGraph
from inter2former_deploy.families.exact_embedding import ExactEmbedding
from inter2former_deploy.families.inter2former.config import OUTSIDE_LOGIT, PAD_MULTIPLE, PATCH
from inter2former_deploy.families.inter2former.decisions import Decisions, Scores, Watch, compare_decisions
from inter2former_deploy.families.inter2former.exact import ExactCannyMaps, ExactPreparation
from inter2former_deploy.families.inter2former.graphs import INNER, DenseClick
from inter2former_deploy.families.inter2former.interface import (
    CLICK_INPUTS,
    CLICK_OUTPUTS,
    EDGE_INPUTS,
    EMBEDDING,
    LABELS,
    PICTURE,
    PREPARED,
)
from inter2former_deploy.families.inter2former.labels import add_clicks, fold_prediction, unknown_labels
from inter2former_deploy.families.inter2former.modules.model import ImageFeatures, Inter2Former
from inter2former_deploy.families.pictures import PAD_RGB

NOISE_DECODES = (2, 6)  # at least, and at most, to reach the experts that no click reaches


@dataclass(frozen=True, kw_only=True)
class Decode:
    """One decode of the session and how the graphs did."""

    name: str
    edge_tokens: int
    decisions: Decisions
    tight: dict[str, bool]  # by backend: within the limits of every tensor; else forgiven for a tie, or failed


@dataclass(frozen=True, kw_only=True)
class SessionReport(ParityReport):
    """With the decodes of the session."""

    decodes: tuple[Decode, ...]
    unreached_experts: tuple[tuple[int, int], ...]  # (layer, expert) that no decode used

    def remarks(self) -> list[str]:
        """The decodes, and the experts that they used."""
        lines = []
        for decode in self.decodes:
            how = ", ".join(f"{backend}: {'tight' if ok else 'masks only'}" for backend, ok in decode.tight.items())
            lines.append(f"{decode.name}: {decode.edge_tokens} edge tokens, {decode.decisions.nearest}; {how}")
        used = np.array([decode.decisions.experts for decode in self.decodes]).sum(0) if self.decodes else []
        lines += [f"experts of layer {layer}: {' '.join(map(str, counts))} tokens" for layer, counts in enumerate(used)]
        if self.unreached_experts:
            lines.append(f"no decode reached (layer, expert): {', '.join(map(str, self.unreached_experts))}")
        return lines


def check_parity(
    model: Inter2Former,
    encoder: Path,
    prepare: Path,
    click: Path,
    *,
    size: int,
    reduced: Graphs | None = None,
    precision: Precision = "fp32",
    custom_ops: bool = True,
    num_threads: int | None = None,
    progress: Progress = lambda _: None,
) -> SessionReport:
    """Compare exported graphs with the model they come from.

    Args:
        model: The reference, in evaluation mode.
        encoder: encoder.onnx in float32.
        prepare: prepare.onnx in float32.
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
        features = {PLAIN: gate.check_encoder(encoder, prepare, PLAIN, num_threads)}
        if custom_ops:
            for graph in (prepare, click):
                require_kernels(graph)
            features[OPERATORS] = gate.check_encoder(encoder, prepare, OPERATORS, num_threads)
        if reduced is not None and reduced.encoder != encoder:
            gate.check_reduced(reduced.encoder, reduced.prepare, precision, features, num_threads)
        gate.check_click(click, features, num_threads, None if reduced is None else reduced.click)
        return gate.report()


class Clicks(Graph):
    """click.onnx of Inter2Former, which gives the whole map of logits besides."""

    def __call__(self, feeds: Mapping[str, Array]) -> Arrays:
        """The outputs, and logits [S, S]."""
        outputs = super().__call__(feeds)
        return outputs | {"logits": paste_logits(outputs["box_logits"], outputs["box"], len(feeds[LABELS]))}


def paste_logits(box_logits: Array, box: Array, size: int) -> Array:
    """The whole map of logits [S, S]; nothing is pasted where the box has another size than its logits."""
    whole = np.full((size, size), OUTSIDE_LOGIT, box_logits.dtype)
    left, top, right, bottom = box
    if whole[top:bottom, left:right].shape == box_logits.shape:
        whole[top:bottom, left:right] = box_logits
    return whole


class Gate(Findings):
    """The steps of the gate and what they find.

    Args:
        model: The reference, in evaluation mode.
        size: S.
        progress: Told what comes next.
    """

    def __init__(self, model: Inter2Former, size: int, progress: Progress = lambda _: None) -> None:
        super().__init__(size, progress)
        self.decodes: list[Decode] = []
        self.model = model
        self.decoder = DenseClick(model).eval()
        self.exact_decoder = copy.deepcopy(self.decoder).double()
        self.photograph = load_photograph()
        longest = max(self.photograph.shape[:2])
        self.side = -(-longest // PAD_MULTIPLE) * PAD_MULTIPLE  # of the padded square
        self.image = self._picture()
        self.normalized = EncoderGraph(model).normalize(torch.from_numpy(self.image))
        rng = np.random.default_rng()
        self._embedding = ExactEmbedding(model.backbone, size, rng)
        with self._step("encode in PyTorch"):
            self.own_embedding = self._embedding.encode(self.normalized)
        with self._step("encode in PyTorch, float64"):
            self._embedding.encode_exactly(self.normalized)
        self._canny_maps = ExactCannyMaps(model.edge_detector.canny, torch.from_numpy(self.image))
        self._preparation = ExactPreparation(model, size, rng)
        self.own_edges: tuple[Tensor, ...] | None = None  # of the first encoder's Canny maps

    def check_encoder(self, encoder: Path, prepare: Path, backend: str, num_threads: int | None = None) -> Arrays:
        """Compare encoder.onnx and prepare.onnx on the photograph; returns what both give."""
        settings: dict[str, Any] = {"custom_ops": backend == OPERATORS, "num_threads": num_threads}
        with self._step(f"encode, {backend}"):
            actual = {PICTURE: self.image}
            actual |= Graph(encoder, [EMBEDDING], **settings)(actual)
        with self._step(f"prepare, {backend}"):
            actual |= Graph(prepare, PREPARED, tuple(INNER["prepare"]), **settings)(actual)
        with self._step(f"compare features, {backend}"):
            multiples = tolerances.LARGEST, tolerances.MEAN
            embedding = actual["image_embedding"]
            self.checks += self._embedding.judge("image_embedding", backend, embedding, self.own_embedding, *multiples)
            self.checks += self._canny_maps.judge(backend, actual["canny_maps"])
            checks, edges = self._preparation.judge(backend, actual)
            self.checks += checks
            self.own_edges = self.own_edges or edges
        return actual

    def check_reduced(
        self,
        encoder: Path,
        prepare: Path,
        precision: Precision,
        features: Mapping[str, Arrays],
        num_threads: int | None = None,
    ) -> None:
        """Compare encoder.onnx and prepare.onnx in reduced precision, the latter by what each backend gave in fp32."""
        with self._step(f"encode in PyTorch, {precision}"), ReducedLayers(precision):
            own = self.model.backbone(self.normalized)
        for backend, known in features.items():
            settings: dict[str, Any] = {"custom_ops": backend == OPERATORS, "num_threads": num_threads}
            with self._step(f"encode in {precision}, {backend}"):
                actual = Graph(encoder, [EMBEDDING], **settings)({PICTURE: self.image})[EMBEDDING]
            name, multiples = f"image_embedding in {precision}", (tolerances.REDUCED_LARGEST, tolerances.REDUCED_MEAN)
            self.checks += self._embedding.judge(name, backend, actual, own, *multiples, precision)
            with self._step(f"prepare in {precision}, {backend}"):
                given = {PICTURE: self.image, EMBEDDING: known[EMBEDDING]}
                given |= Graph(prepare, PREPARED, tuple(INNER["prepare"]), **settings)(given)
            with self._step(f"compare features in {precision}, {backend}"):
                self.checks += self._preparation.judge_reduced(backend, given)

    def check_click(
        self,
        click: Path,
        features: Mapping[str, Arrays],
        num_threads: int | None = None,
        reduced: Path | None = None,
    ) -> None:
        """Compare click.onnx in a session of clicks, by what each backend gave of the image.

        A graph in reduced precision computes in float32 where there is no library, and is as exact there.
        """
        files = dict.fromkeys(features, click)
        if reduced is not None and reduced != click:
            files[f"{PLAIN}, bf16"] = reduced
            features = {**features, f"{PLAIN}, bf16": features[PLAIN]}
        graphs = {
            backend: Clicks(
                file,
                CLICK_OUTPUTS,
                tuple(INNER["click"]),
                custom_ops=backend == OPERATORS,
                num_threads=num_threads,
            )
            for backend, file in files.items()
        }
        self._run_session(graphs, features)
        self._run_noise(graphs, features)
        self.checks += self.worst.values()
        for backend in features:
            loose = sum(not decode.tight[backend] for decode in self.decodes)
            note = f"{len(self.decodes) - loose} of {len(self.decodes)} decodes are tight"
            self.checks.append(limited("loose decodes", backend, loose / len(self.decodes), note))

    def _run_session(self, graphs: Mapping[str, Graph], features: Mapping[str, Arrays]) -> None:
        """The clicks: tensors at the reference's label maps, and masks of sessions that each side has by itself.

        A pixel on the threshold, which Canny maps move, changes the label map and so all that follows. So PyTorch makes
        its mask of each side's own label map.
        """
        reference = unknown_labels(self.size)
        labels = {backend: reference.copy() for backend in graphs}
        if self.own_edges is None:
            raise RuntimeError("check_encoder comes before check_click")
        own = ImageFeatures(self.own_embedding, self.own_edges)

        def decode(its: Array) -> Array:
            return self.model.decode(own, torch.from_numpy(its)[None])[0, 0].numpy()

        for number, click in enumerate(parity.CLICKS[: parity.SESSION], 1):
            scale = self.size / self.side
            at = Click(int(scale * click.x), int(scale * click.y), click.positive)
            with self._step(f"click {number}"):
                add_clicks(reference, [at])
                expected = decode(reference)
                known = {}
                if self.size <= tolerances.PARTS_ABOVE or number in (1, parity.SESSION):
                    known = self._check_decode(f"click {number}", graphs, reference, features[PLAIN])
                for backend, graph in graphs.items():
                    its = labels[backend]
                    add_clicks(its, [at])
                    same = np.array_equal(its, reference)
                    if backend == PLAIN and known and same:
                        logits = known[PLAIN]
                    else:
                        logits = graph(_inputs(its, features[backend]))["logits"]
                    theirs = expected if same else decode(its)
                    distance = mask_difference(self._mask(logits), self._mask(theirs))
                    self._keep_worst(limited("masks", backend, distance, f"click {number}"))
                    fold_prediction(its, logits > 0)
                fold_prediction(reference, expected > 0)

    def _run_noise(self, graphs: Mapping[str, Graph], features: Mapping[str, Arrays]) -> None:
        """Tokens of noise under labels of noise, for what the clicks on the photograph may not reach.

        Labels fill the whole map and a part of it in turn, so that there are tokens of every kind, whatever the edge
        rule: where a token lies among possible or definite background alone, it attends to codes.
        """
        rng = np.random.default_rng(0)
        grid = self.size // PATCH
        at_least, at_most = NOISE_DECODES
        for number in range(1, at_most + 1):
            if number > at_least and not self.unreached():
                return
            with self._step(f"noise {number}"):
                labels = rng.integers(0, 5, (grid, grid)).astype(np.uint8)
                if number % 2 == 0:
                    labels[:, : grid // 2] = 0
                    labels[: grid // 2] = 1
                labels = labels.repeat(PATCH, 0).repeat(PATCH, 1)
                embedding = features[PLAIN]["image_embedding"]
                noise = (embedding.std() * rng.standard_normal(embedding.shape)).astype(np.float32)
                self._check_decode(
                    f"noise {number}", graphs, labels, features[PLAIN] | self._preparation.of_tokens(noise)
                )

    def _check_decode(self, name: str, graphs: Mapping[str, Graph], labels: Array, features: Arrays) -> Arrays:
        """One decode with the same labels and features on all sides; returns the logits of each backend."""
        inputs = _inputs(labels, features)
        exact, exact_scores = _decode(self.exact_decoder, inputs, torch.float64)
        own, own_scores = _decode(self.decoder, inputs, torch.float32)
        low_res = exact["low_res"], own["low_res"]
        decisions = compare_decisions(self.exact_decoder, exact_scores, own_scores, *low_res)
        tight: dict[str, bool] = {}
        logits: Arrays = {}
        for backend, graph in graphs.items():
            actual = graph(inputs)
            logits[backend] = actual["logits"]
            checks = list(_decode_checks(name, backend, actual, exact, own))
            tight[backend] = decisions.same and all(check.passed for check in checks)
            if not tight[backend] and decisions.on_tie:
                distance = mask_difference(actual["logits"] > 0, self._logits(exact) > 0)
                checks = [limited("masks after a tie", backend, distance, name)]
            for check in checks:
                self._keep_worst(check)
        edge_tokens = len(exact["edge_tokens"])
        self.decodes.append(Decode(name=name, edge_tokens=edge_tokens, decisions=decisions, tight=tight))
        return logits

    def _logits(self, decoded: Mapping[str, Tensor]) -> Array:
        return paste_logits(decoded["box_logits"].numpy(), decoded["box"].numpy(), self.size)

    def report(self) -> SessionReport:
        """All that was found."""
        return SessionReport(**self.found(), decodes=tuple(self.decodes), unreached_experts=tuple(self.unreached()))

    def unreached(self) -> list[tuple[int, int]]:
        """The (layer, expert) that no decode used."""
        layers = self.model.config.decoder.layers
        used = np.zeros((layers, self.model.config.decoder.experts), np.int64)
        for decode in self.decodes:
            used += np.array(decode.decisions.experts)
        return [(int(layer), int(expert)) for layer, expert in np.argwhere(used == 0)]

    def _picture(self) -> Array:
        """The photograph as encoder.onnx takes it: RGB 0-255, padded, resized; [S, S, 3]."""
        # Resized as the distance from the padding, which so stays what it is, as the zeros do in the picture above: one
        # thread of PyTorch would round it to a pattern, and the edge network sees the direction of any gradient.
        padding = np.array(PAD_RGB, np.float32)
        padded = np.zeros((self.side, self.side, 3), np.float32)
        padded[: self.photograph.shape[0], : self.photograph.shape[1]] = self.photograph - padding
        resized = _resize(torch.from_numpy(padded).permute(2, 0, 1)[None], self.size)
        return resized[0].permute(1, 2, 0).contiguous().numpy() + padding

    def _mask(self, logits: Array) -> Array:
        """Logits [S, S] -> foreground of the photograph."""
        whole = _resize(torch.from_numpy(logits)[None, None], self.side)[0, 0].numpy()
        return whole[: self.photograph.shape[0], : self.photograph.shape[1]] > 0


def _inputs(labels: Array, features: Arrays) -> Arrays:
    return {LABELS: labels} | {name: features[name] for name in CLICK_INPUTS if name != LABELS}


def _decode(decoder: DenseClick, inputs: Arrays, dtype: torch.dtype) -> tuple[dict[str, Tensor], Scores]:
    """The outputs of a decoder in PyTorch by name, and what it decided by."""
    given = (torch.from_numpy(inputs[name]) for name in (LABELS, EMBEDDING, *EDGE_INPUTS))
    with Watch(decoder) as watch, Float64Convolutions():
        outputs = decoder(*(x.to(dtype) if x.is_floating_point() else x for x in given))
    return dict(zip((*CLICK_OUTPUTS, *INNER["click"]), outputs, strict=True)), watch.scores


def _decode_checks(
    name: str, backend: str, actual: Arrays, exact: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> Iterator[Check]:
    for tensor in ("edge_tokens", "box"):
        yield equal(tensor, backend, actual[tensor], exact[tensor].numpy(), name)
    for tensor in ("low_res", "tokens", "box_logits"):
        if exact[tensor].shape != own[tensor].shape:  # two boxes, which is a tie
            own = {**own, tensor: exact[tensor].float()}
        yield from judged(tensor, backend, actual[tensor], Exact.of(exact[tensor], own[tensor]), name)


def _resize(x: Tensor, side: int) -> Tensor:
    return F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False)
