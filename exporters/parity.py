"""The parity gate: do the exported graphs compute what PyTorch computes?

A photograph and a session of clicks go through the reference modules and through onnxruntime, with the operator library
and without. Tensors are compared one by one with the same inputs on both sides: the reference runs in float64, and a
graph may be off from it a small multiple of what PyTorch's own float32 is. Masks are compared from the image on, at the
same label maps and in sessions that each side continues by itself.
`photograph.jpg` is "Coffee cup" by Rachel Michetti, CC0.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from inter2former_deploy.core import library
from inter2former_deploy.core.errors import OperatorLibraryError
from inter2former_deploy.core.manifest import Precision
from inter2former_deploy.core.masks import iou
from inter2former_deploy.core.prompts import Click
from inter2former_deploy.core.threads import available_cpus
from inter2former_deploy.exporters import tolerances
from inter2former_deploy.exporters.decisions import Decisions, Scores, Watch, compare_decisions
from inter2former_deploy.exporters.exact import (
    ExactCannyMaps,
    ExactEmbedding,
    ExactPreparation,
    Float64Convolutions,
    ReducedLayers,
)
from inter2former_deploy.exporters.graphs import expose
from inter2former_deploy.exporters.judgement import Check, Exact, equal, judged, limited
from inter2former_deploy.families.encoder_graph import EncoderGraph
from inter2former_deploy.families.inter2former.config import OUTSIDE_LOGIT, PAD_MULTIPLE, PATCH
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

Array = NDArray[Any]
Arrays = dict[str, Array]
Progress = Callable[[str], None]

PLAIN, OPERATORS = "onnxruntime", "with operators"  # the two ways to run a graph
CLICKS = (  # in pixels of the photograph: the cup, what lies around it, details
    *(Click(285, 190, True), Click(60, 60, False), Click(400, 120, True), Click(520, 330, False)),
    *(Click(150, 260, True), Click(330, 380, False), Click(480, 60, False), Click(250, 90, True)),
)
SESSION = 4  # clicks of the gate's session; of large maps, tensors are compared at the first and the last of them
NOISE_DECODES = (2, 6)  # at least, and at most, to reach the experts that no click reaches


@dataclass(frozen=True, kw_only=True)
class Decode:
    """One decode of the session and how the graphs did."""

    name: str
    edge_tokens: int
    decisions: Decisions
    tight: dict[str, bool]  # by backend: within the limits of every tensor; else forgiven for a tie, or failed


@dataclass(frozen=True, kw_only=True)
class ParityReport:
    """All that the gate found."""

    size: int
    backends: tuple[str, ...]
    checks: tuple[Check, ...]
    decodes: tuple[Decode, ...]
    unreached_experts: tuple[tuple[int, int], ...]  # (layer, expert) that no decode used
    tools: dict[str, str]
    seconds: dict[str, float] = field(default_factory=dict)  # by step

    @property
    def passed(self) -> bool:
        """Whether every comparison is within its limit."""
        return all(check.passed for check in self.checks)

    @property
    def failures(self) -> tuple[Check, ...]:
        """The comparisons that are not."""
        return tuple(check for check in self.checks if not check.passed)

    def to_dict(self) -> dict[str, Any]:
        """For JSON; a number that is not finite becomes a string."""
        checks = [asdict(check) | {"passed": check.passed} for check in self.checks]
        plain: dict[str, Any] = _finite({"passed": self.passed} | asdict(self) | {"checks": checks})
        return plain

    def table(self) -> str:
        """For people: a line a comparison, then the session."""
        rows = [("tensor", "backend", "measure", "value", "limit", "")]
        for check in self.checks:
            verdict = "ok" if check.passed else "FAILED"
            numbers = (f"{check.value:.3g}", f"{check.limit:.3g}")
            against = "" if check.passed or not check.against else f"against {check.against}"
            remarks = " ".join(filter(None, (verdict, check.note, against)))
            rows.append((check.tensor, check.backend, check.measure, *numbers, remarks))
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        lines = ["  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[5]]) for row in rows]
        lines.append("")
        for decode in self.decodes:
            how = ", ".join(f"{backend}: {'tight' if ok else 'masks only'}" for backend, ok in decode.tight.items())
            lines.append(f"{decode.name}: {decode.edge_tokens} edge tokens, {decode.decisions.nearest}; {how}")
        used = np.array([decode.decisions.experts for decode in self.decodes]).sum(0) if self.decodes else []
        lines += [f"experts of layer {layer}: {' '.join(map(str, counts))} tokens" for layer, counts in enumerate(used)]
        if self.unreached_experts:
            lines.append(f"no decode reached (layer, expert): {', '.join(map(str, self.unreached_experts))}")
        lines.append("all within limits" if self.passed else f"{len(self.failures)} of {len(self.checks)} FAILED")
        return "\n".join(line.rstrip() for line in lines)


def check_parity(
    model: Inter2Former,
    encoder: Path,
    prepare: Path,
    click: Path,
    *,
    size: int,
    reduced: tuple[Path, Precision] | None = None,
    custom_ops: bool = True,
    num_threads: int | None = None,
    progress: Progress = lambda _: None,
) -> ParityReport:
    """Compare exported graphs with the model they come from.

    Args:
        model: The reference, in evaluation mode.
        encoder: encoder.onnx in float32.
        prepare: prepare.onnx.
        click: click.onnx.
        size: S.
        reduced: encoder.onnx in reduced precision, too, and which.
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
        if reduced is not None:
            gate.check_reduced_encoder(*reduced, features, num_threads)
        gate.check_click(click, features, num_threads)
        return gate.report()


def load_photograph() -> Array:
    """The photograph of the gate, uint8 RGB [400, 600, 3]."""
    data = resources.files("inter2former_deploy.exporters").joinpath("photograph.jpg").read_bytes()
    image = np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR))
    return np.ascontiguousarray(image[..., ::-1])


class Graph:
    """A graph in onnxruntime, by names.

    Args:
        path: The graph.
        outputs: Names of its outputs that are asked for.
        inner: Names of inner values that are asked for besides.
        custom_ops: Use the operator library.
        num_threads: As many as this process may keep busy when None.
    """

    def __init__(
        self,
        path: Path,
        outputs: Sequence[str],
        inner: Sequence[str] = (),
        *,
        custom_ops: bool,
        num_threads: int | None,
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads or available_cpus()
        options.log_severity_level = 4  # errors come as exceptions
        if custom_ops:
            library.register(options)
        model = expose(onnx.load(path), inner).SerializeToString() if inner else path
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._outputs = [*outputs, *inner]

    def __call__(self, feeds: Mapping[str, Array]) -> Arrays:
        """The outputs for these inputs."""
        return dict(zip(self._outputs, self._session.run(self._outputs, dict(feeds)), strict=True))


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


class Findings:
    """What the gate of a family finds, step by step.

    Args:
        size: S.
        progress: Told what comes next.
    """

    def __init__(self, size: int, progress: Progress) -> None:
        self.size, self.progress = size, progress
        self.checks: list[Check] = []
        self.decodes: list[Decode] = []
        self.worst: dict[tuple[str, str, str], Check] = {}  # of all decodes, by tensor, backend and measure
        self.seconds: dict[str, float] = {}  # by step

    def report(self) -> ParityReport:
        """All that was found."""
        return ParityReport(
            size=self.size,
            backends=tuple(dict.fromkeys(check.backend for check in self.checks)),
            checks=tuple(self.checks),
            decodes=tuple(self.decodes),
            unreached_experts=tuple(self.unreached()),
            tools={module.__name__: str(module.__version__) for module in (torch, onnx, onnxruntime)},
            seconds=self.seconds,
        )

    def unreached(self) -> list[tuple[int, int]]:
        """The (layer, expert) that no decode used; a family without experts has none."""
        return []

    def _keep_worst(self, check: Check) -> None:
        key = check.tensor, check.backend, check.measure
        if check.excess >= self.worst.setdefault(key, check).excess:
            self.worst[key] = check

    @contextmanager
    def _step(self, what: str) -> Iterator[None]:
        self.progress(what)
        start = time.perf_counter()
        yield
        self.seconds[what] = round(time.perf_counter() - start, 3)


class Gate(Findings):
    """The steps of the gate and what they find.

    Args:
        model: The reference, in evaluation mode.
        size: S.
        progress: Told what comes next.
    """

    def __init__(self, model: Inter2Former, size: int, progress: Progress = lambda _: None) -> None:
        super().__init__(size, progress)
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
            multiples = tolerances.LARGEST, tolerances.MEAN_OF_EMBEDDING
            embedding = actual["image_embedding"]
            self.checks += self._embedding.judge("image_embedding", backend, embedding, self.own_embedding, *multiples)
            self.checks += self._canny_maps.judge(backend, actual["canny_maps"])
            checks, edges = self._preparation.judge(backend, actual)
            self.checks += checks
            self.own_edges = self.own_edges or edges
        return actual

    def check_reduced_encoder(
        self, encoder: Path, precision: Precision, backends: Iterable[str], num_threads: int | None = None
    ) -> None:
        """Compare the embedding of an encoder.onnx in reduced precision; the rest of it is as in float32."""
        with self._step(f"encode in PyTorch, {precision}"), ReducedLayers(precision):
            own = self.model.backbone(self.normalized)
        for backend in backends:
            with self._step(f"encode in {precision}, {backend}"):
                graph = Graph(encoder, ["image_embedding"], custom_ops=backend == OPERATORS, num_threads=num_threads)
                actual = graph({PICTURE: self.image})["image_embedding"]
                del graph
            name, multiples = f"image_embedding in {precision}", (tolerances.REDUCED_LARGEST, tolerances.REDUCED_MEAN)
            self.checks += self._embedding.judge(name, backend, actual, own, *multiples, precision)

    def check_click(self, click: Path, features: Mapping[str, Arrays], num_threads: int | None = None) -> None:
        """Compare click.onnx in a session of clicks, by what each backend gave of the image."""
        graphs = {
            backend: Clicks(
                click,
                CLICK_OUTPUTS,
                tuple(INNER["click"]),
                custom_ops=backend == OPERATORS,
                num_threads=num_threads,
            )
            for backend in features
        }
        self._run_session(graphs, features)
        self._run_noise(graphs, features)
        self.checks += self.worst.values()
        for backend in features:
            loose = sum(not decode.tight[backend] for decode in self.decodes)
            note = f"{len(self.decodes) - loose} of {len(self.decodes)} decodes are tight"
            self.checks.append(limited("loose decodes", backend, loose / len(self.decodes), note))

    def _run_session(self, graphs: Mapping[str, Graph], features: Mapping[str, Arrays]) -> None:
        """The clicks: tensors and masks at the reference's label maps, and each side going its own way."""
        reference = unknown_labels(self.size)
        labels = {backend: reference.copy() for backend in graphs}
        apart: dict[str, list[float]] = {backend: [] for backend in graphs}  # 1 - IoU of each side's own masks
        if self.own_edges is None:
            raise RuntimeError("check_encoder comes before check_click")
        own = ImageFeatures(self.own_embedding, self.own_edges)
        for number, click in enumerate(CLICKS[:SESSION], 1):
            scale = self.size / self.side
            at = Click(int(scale * click.x), int(scale * click.y), click.positive)
            with self._step(f"click {number}"):
                add_clicks(reference, [at])
                expected = self.model.decode(own, torch.from_numpy(reference)[None])[0, 0].numpy()
                mask = self._mask(expected)
                known = {}
                if self.size <= tolerances.PARTS_ABOVE or number in (1, SESSION):
                    known = self._check_decode(f"click {number}", graphs, reference, features[PLAIN])
                for backend, graph in graphs.items():
                    if backend == PLAIN and known:
                        logits = known[PLAIN]
                    else:
                        logits = graph(_inputs(reference, features[backend]))["logits"]
                    distance = 1 - iou(self._mask(logits), mask)
                    self._keep_worst(limited("masks", backend, distance, f"click {number}"))
                    add_clicks(labels[backend], [at])
                    if not np.array_equal(labels[backend], reference):
                        logits = graph(_inputs(labels[backend], features[backend]))["logits"]
                    apart[backend].append(1 - iou(self._mask(logits), mask))
                    fold_prediction(labels[backend], logits > 0)
                fold_prediction(reference, expected > 0)
        for backend, distances in apart.items():
            note = f"mean of {len(distances)} clicks"
            self.checks.append(limited("session masks", backend, float(np.mean(distances)), note))

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
                distance = 1 - iou(actual["logits"] > 0, self._logits(exact) > 0)
                checks = [limited("masks after a tie", backend, distance, name)]
            for check in checks:
                self._keep_worst(check)
        edge_tokens = len(exact["edge_tokens"])
        self.decodes.append(Decode(name=name, edge_tokens=edge_tokens, decisions=decisions, tight=tight))
        return logits

    def _logits(self, decoded: Mapping[str, Tensor]) -> Array:
        return paste_logits(decoded["box_logits"].numpy(), decoded["box"].numpy(), self.size)

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


def _finite(data: Any) -> Any:
    """Lists and dictionaries as JSON knows them, and text for numbers that it does not know."""
    if isinstance(data, dict):
        return {name: _finite(value) for name, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return str(data) if isinstance(data, float) and not np.isfinite(data) else data


def _resize(x: Tensor, side: int) -> Tensor:
    return F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False)


def require_kernels(file: Path) -> None:
    """Whether the library has every operator: without the function bodies, a graph loads only then."""
    graph = onnx.load(file)
    del graph.functions[:]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    path = library.register(options)
    try:
        onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base of their own
        raise OperatorLibraryError(
            f"the operator library {path} does not run {file.name} ({error}): reinstall this version"
        ) from error
