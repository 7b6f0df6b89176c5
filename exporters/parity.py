"""The parity gate: do the exported graphs compute what PyTorch computes?

A photograph and a session of clicks go through the reference modules and through onnxruntime, with the operator library
and without. Tensors are compared one by one with the same inputs on both sides, as tightly as the model is conditioned;
masks are compared from the image on, at the same label maps and in sessions that each side continues by itself.
`photograph.jpg` is "Coffee cup" by Rachel Michetti, CC0.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
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
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from inter2former_deploy import library
from inter2former_deploy.config import PATCH
from inter2former_deploy.contract import (
    BLANK_INPUTS,
    DECODER_INPUTS,
    DECODER_OUTPUTS,
    DOMAIN,
    EDGE_INPUTS,
    ENCODER_INPUT,
    ENCODER_OUTPUTS,
    IMAGE_FEATURES,
    MEAN_BGR,
    PAD_MULTIPLE,
    PAD_RGB,
    STD_BGR,
)
from inter2former_deploy.errors import OperatorLibraryError
from inter2former_deploy.exporters.graphs import DecoderGraph, EncoderGraph
from inter2former_deploy.exporters.tolerances import CONDITIONED, PIXEL_ERROR, TIE, limit_of
from inter2former_deploy.labels import Click, add_clicks, fold_prediction, unknown_labels
from inter2former_deploy.modules.attention import HybridAttention
from inter2former_deploy.modules.experts import HybridExperts
from inter2former_deploy.modules.model import ImageFeatures, Inter2Former
from inter2former_deploy.modules.upsampling import BOX_THRESHOLD
from inter2former_deploy.threads import available_cpus

Array = NDArray[Any]
Arrays = dict[str, Array]
Progress = Callable[[str], None]

PLAIN, OPERATORS = "onnxruntime", "with operators"  # the two ways to run a graph
CANNY_MAPS = ("grad_mag", "grad_ori", "thin", "thresh", "early")
DECODED = ("edge_tokens", "tokens", "box", "box_logits", "logits")
CLICKS = (  # in pixels of the photograph: the cup, what lies around it, details
    *(Click(285, 190, True), Click(60, 60, False), Click(400, 120, True), Click(520, 330, False)),
    *(Click(150, 260, True), Click(330, 380, False), Click(480, 60, False), Click(250, 90, True)),
)
MIN_CLICKS = 4
NOISE_DECODES = 4  # at most, to reach the experts that no click reaches


@dataclass(frozen=True, kw_only=True)
class Check:
    """One comparison."""

    tensor: str
    backend: str
    measure: str  # see `tolerances.Limit`
    value: float
    limit: float
    error: float = 0.0  # the largest absolute difference, where there is one
    note: str = ""

    @property
    def passed(self) -> bool:
        """Within the limit; a NaN is not."""
        return self.value <= self.limit


@dataclass(frozen=True, kw_only=True)
class Margins:
    """How near the discrete decisions of a decode came to a tie, over the largest value of their kind; and experts."""

    code: float  # of bits of key codes (or of the best over the second-best code)
    expert: float  # of the best over the second-best expert
    box: float  # of tokens to the box threshold
    experts: tuple[tuple[int, ...], ...]  # edge tokens sent to each expert, layer by layer

    @property
    def smallest(self) -> float:
        """Of all decisions."""
        return min(self.code, self.expert, self.box)


@dataclass(frozen=True, kw_only=True)
class Decode:
    """One decode of the session and how the graphs did."""

    name: str
    edge_tokens: int
    margins: Margins
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
        """For JSON; a value that is not finite becomes a string."""
        data = {"passed": self.passed} | asdict(self)
        for entry, check in zip(data["checks"], self.checks, strict=True):
            entry["passed"] = check.passed
            for name in ("value", "error"):
                if not np.isfinite(entry[name]):
                    entry[name] = str(entry[name])
        plain: dict[str, Any] = json.loads(json.dumps(data, allow_nan=False))
        return plain

    def table(self) -> str:
        """For people: a line a comparison, then the session."""
        rows = [("tensor", "backend", "measure", "value", "limit", "")]
        for check in self.checks:
            verdict = "ok" if check.passed else "FAILED"
            numbers = (f"{check.value:.3g}", f"{check.limit:.3g}")
            rows.append((check.tensor, check.backend, check.measure, *numbers, " ".join((verdict, check.note)).strip()))
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        lines = ["  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[5]]) for row in rows]
        lines.append("")
        for decode in self.decodes:
            how = ", ".join(f"{backend}: {'tight' if ok else 'masks only'}" for backend, ok in decode.tight.items())
            smallest = decode.margins.smallest
            lines.append(f"{decode.name}: {decode.edge_tokens} edge tokens, smallest margin {smallest:.1e}, {how}")
        used = np.array([decode.margins.experts for decode in self.decodes]).sum(0)
        lines += [f"experts of layer {layer}: {' '.join(map(str, counts))} tokens" for layer, counts in enumerate(used)]
        if self.unreached_experts:
            lines.append(f"no decode reached (layer, expert): {', '.join(map(str, self.unreached_experts))}")
        lines.append("all within limits" if self.passed else f"{len(self.failures)} of {len(self.checks)} FAILED")
        return "\n".join(line.rstrip() for line in lines)


def check_parity(
    model: Inter2Former,
    encoder: Path,
    decoder: Path,
    *,
    size: int,
    custom_ops: bool = True,
    num_threads: int | None = None,
    progress: Progress = lambda _: None,
) -> ParityReport:
    """Compare exported graphs with the model they come from.

    Args:
        model: The reference, in evaluation mode.
        encoder: encoder.onnx.
        decoder: decoder.onnx.
        size: S.
        custom_ops: Compare with the operator library, too.
        num_threads: Of onnxruntime; as many as this process may keep busy when None.
        progress: Told what comes next.

    Raises:
        OperatorLibraryError: The operator library is missing or does not load.
    """
    gate = _Gate(model, size, progress)
    with torch.inference_mode():
        return gate.run(encoder, decoder, custom_ops, num_threads)


def load_photograph() -> Array:
    """The photograph of the gate, uint8 RGB [400, 600, 3]."""
    data = resources.files("inter2former_deploy.exporters").joinpath("photograph.jpg").read_bytes()
    image = np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR))
    return np.ascontiguousarray(image[..., ::-1])


class Graph:
    """A graph in onnxruntime, by names."""

    def __init__(self, path: Path, outputs: Sequence[str], *, custom_ops: bool, num_threads: int | None) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads or available_cpus()
        options.log_severity_level = 3
        if custom_ops:
            library.register(options)
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._outputs = list(outputs)

    def __call__(self, feeds: Mapping[str, Array]) -> Arrays:
        """The outputs for these inputs."""
        return dict(zip(self._outputs, self._session.run(self._outputs, dict(feeds)), strict=True))


class _Watch:
    """Looks on while the reference decodes: margins of its decisions, use of its experts."""

    def __init__(self, reference: DecoderGraph) -> None:
        self._reference = reference
        self._code: list[float] = []
        self._expert: list[float] = []
        self._experts: list[tuple[int, ...]] = []
        self._hooks: list[RemovableHandle] = []

    def __enter__(self) -> _Watch:
        for module in self._reference.neck.modules():
            if isinstance(module, HybridAttention):
                self._hooks.append(module.register_forward_hook(self._see_attention))
            elif isinstance(module, HybridExperts):
                self._hooks.append(module.register_forward_hook(self._see_experts))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def margins(self, tokens: Tensor) -> Margins:
        """Of the decode that was watched, whose result is `tokens` [h*w, C]."""
        head = self._reference.decode_head
        side = math.isqrt(len(tokens))
        low_res = head.mlp(tokens.T.reshape(1, -1, side, side))
        found = head.upsampling == "local"  # else the box is the whole map
        box = float((low_res - BOX_THRESHOLD).abs().min() / low_res.abs().max()) if found else 1.0
        code, expert = min(self._code, default=1.0), min(self._expert, default=1.0)
        return Margins(code=code, expert=expert, box=box, experts=tuple(self._experts))

    def _see_attention(self, module: HybridAttention, args: tuple[Any, ...], _: Tensor) -> None:
        weight, bias, _codewords = module.pack()
        scores = F.linear(args[0].chunk(3, dim=1)[1], weight, bias)  # [L, B]
        distance = scores.abs() if module.quantizer == "bsq" else _lead(scores)
        self._code.append(float(distance.min() / scores.abs().max()))

    def _see_experts(self, module: HybridExperts, args: tuple[Tensor, Tensor, nn.LayerNorm], _: Tensor) -> None:
        scores = module.scores(*args) + module.exp_bias  # [E, R]
        self._experts.append(tuple(torch.bincount(scores.argmax(1), minlength=scores.shape[1]).tolist()))
        if len(scores) and scores.shape[1] > 1:
            self._expert.append(float(_lead(scores).min()))


def _lead(scores: Tensor) -> Tensor:
    """The best over the second-best of each row."""
    best = scores.topk(2, dim=1).values
    return best[:, 0] - best[:, 1]


class _Gate:
    """The steps of the gate and what they find."""

    def __init__(self, model: Inter2Former, size: int, progress: Progress) -> None:
        self.model, self.size, self.progress = model, size, progress
        self.graph = DecoderGraph(model).eval()  # the decoder as it is exported, in PyTorch
        self.photograph = load_photograph()
        longest = max(self.photograph.shape[:2])
        self.side = -(-longest // PAD_MULTIPLE) * PAD_MULTIPLE  # of the padded square
        self.exact: Array | None = None  # the embedding in float64, once it is needed
        self.checks: list[Check] = []
        self.decodes: list[Decode] = []
        self.worst: dict[tuple[str, str], Check] = {}  # of all decodes, by tensor and backend
        self.seconds: dict[str, float] = {}

    def run(self, encoder: Path, decoder: Path, custom_ops: bool, num_threads: int | None) -> ParityReport:
        backends = {PLAIN: False} | ({OPERATORS: True} if custom_ops else {})
        with self._step("encode in PyTorch"):
            picture = self._normalized_picture()
            embedding, maps = self.model.backbone(picture), self.model.edge_detector.canny_maps(picture)
            own = ImageFeatures(embedding, self.model.edge_detector.features(maps))
        features: dict[str, Arrays] = {}
        for backend, with_library in backends.items():
            if with_library and not _uses_operators(encoder):
                features[backend] = features[PLAIN]  # the same computation either way
                continue
            with self._step(f"encode, {backend}"):
                graph = Graph(encoder, ENCODER_OUTPUTS, custom_ops=with_library, num_threads=num_threads)
                features[backend] = graph({ENCODER_INPUT: self._graph_picture()})
                del graph
            with self._step(f"compare features, {backend}"):
                self._check_features(backend, features[backend], picture, embedding, maps)
        if custom_ops:
            _require_kernels(decoder)
        graphs = {
            backend: Graph(decoder, DECODER_OUTPUTS, custom_ops=with_library, num_threads=num_threads)
            for backend, with_library in backends.items()
        }
        self._run_session(graphs, own, features)
        self._run_noise(graphs, features)
        self.checks += self.worst.values()
        for backend in backends:
            loose = sum(not decode.tight[backend] for decode in self.decodes)
            note = f"{len(self.decodes) - loose} of {len(self.decodes)} decodes are tight"
            self.checks.append(_limited("loose decodes", backend, loose / len(self.decodes), note=note))
        return ParityReport(
            size=self.size,
            backends=tuple(backends),
            checks=tuple(self.checks),
            decodes=tuple(self.decodes),
            unreached_experts=tuple(self._unreached()),
            tools={module.__name__: str(module.__version__) for module in (torch, onnx, onnxruntime)},
            seconds=self.seconds,
        )

    def _check_features(self, backend: str, actual: Arrays, picture: Tensor, embedding: Tensor, maps: Tensor) -> None:
        check = _compared("image_embedding", backend, actual["image_embedding"], _channels_last(embedding))
        if not check.passed:
            check = self._judged_in_float64(check, actual["image_embedding"], picture, embedding)
        self.checks.append(check)
        for name, one, other in zip(CANNY_MAPS, actual["canny_maps"], maps[0].numpy(), strict=True):
            self.checks.append(_compared(f"canny_maps/{name}", backend, one, other))
        # Of the same embedding and maps: the first may be judged apart, the maps are ill-conditioned.
        graph = EncoderGraph(self.model)
        blank_inputs = graph.blank_inputs(torch.from_numpy(actual["image_embedding"]))
        edge_inputs = graph.edge_inputs(torch.from_numpy(actual["canny_maps"]))
        for name, tensor in zip((*BLANK_INPUTS, *EDGE_INPUTS), (*blank_inputs, *edge_inputs), strict=True):
            self.checks.append(_compared(name, backend, actual[name], tensor.numpy()))

    def _judged_in_float64(self, check: Check, actual: Array, picture: Tensor, embedding: Tensor) -> Check:
        """A failed check again, by the exact embedding and what PyTorch's own float32 is off from it.

        Weights can be so conditioned that any two orders of float32 sums differ by more than the limit.
        """
        if self.exact is None:
            self.progress("encode in PyTorch, float64")
            self.exact = _channels_last(copy.deepcopy(self.model.backbone).double()(picture.double()))
        exact = self.exact
        own = _compared(check.tensor, check.backend, _channels_last(embedding), exact).value
        limit = max(check.limit, CONDITIONED * own)
        note = f"from float64; PyTorch's own float32 is {own:.1e} off"
        return replace(_compared(check.tensor, check.backend, actual, exact, note=note), limit=limit)

    def _run_session(self, graphs: Mapping[str, Graph], own: ImageFeatures, features: Mapping[str, Arrays]) -> None:
        """The clicks: tensors and masks at the reference's label maps, and each side going its own way."""
        reference = unknown_labels(self.size)
        labels = {backend: reference.copy() for backend in graphs}
        apart: dict[str, list[float]] = {backend: [] for backend in graphs}  # 1 - IoU of each side's own masks
        for number, click in enumerate(CLICKS, 1):
            if number > MIN_CLICKS and not self._unreached():
                break
            scale = self.size / self.side
            at = Click(int(scale * click.x), int(scale * click.y), click.positive)
            with self._step(f"click {number}"):
                add_clicks(reference, [at])
                expected = self.model.decode(own, torch.from_numpy(reference)[None])[0, 0].numpy()
                mask = self._mask(expected)
                same_labels = self._check_decode(f"click {number}", graphs, reference, features)
                for backend, graph in graphs.items():
                    logits = same_labels[backend]
                    distance = 1 - iou(self._mask(logits), mask)
                    self._keep_worst(_limited("masks", backend, distance, note=f"click {number}"))
                    add_clicks(labels[backend], [at])
                    if not np.array_equal(labels[backend], reference):
                        logits = graph(_inputs(labels[backend], features[backend]))["logits"]
                    apart[backend].append(1 - iou(self._mask(logits), mask))
                    fold_prediction(labels[backend], logits > 0)
                fold_prediction(reference, expected > 0)
        for backend, distances in apart.items():
            note = f"mean of {len(distances)} clicks"
            self.checks.append(_limited("session masks", backend, float(np.mean(distances)), note=note))

    def _run_noise(self, graphs: Mapping[str, Graph], features: Mapping[str, Arrays]) -> None:
        """Tokens of noise, for experts that no token of the photograph goes to."""
        rng = np.random.default_rng(0)
        for number in range(1, NOISE_DECODES + 1):
            if not self._unreached():
                return
            with self._step(f"noise {number}"):
                labels = (
                    rng.integers(0, 5, (self.size // PATCH,) * 2).astype(np.uint8).repeat(PATCH, 0).repeat(PATCH, 1)
                )
                embedding = features[PLAIN]["image_embedding"]
                noise = (embedding.std() * rng.standard_normal(embedding.shape)).astype(np.float32)
                noisy = {backend: {**its, "image_embedding": noise} for backend, its in features.items()}
                self._check_decode(f"noise {number}", graphs, labels, noisy)

    def _check_decode(
        self, name: str, graphs: Mapping[str, Graph], labels: Array, features: Mapping[str, Arrays]
    ) -> Arrays:
        """One decode with the same labels and features on both sides; returns the logits of each backend."""
        tight: dict[str, bool] = {}
        logits: Arrays = {}
        for backend, graph in graphs.items():
            if backend == PLAIN or features[backend] is not features[PLAIN]:
                inputs = _inputs(labels, features[backend])
                with _Watch(self.graph) as watch:
                    outputs = self.graph(*(torch.from_numpy(inputs[x]) for x in DECODER_INPUTS))
                expected = {x: tensor.numpy() for x, tensor in zip(DECODER_OUTPUTS, outputs, strict=True)}
                margins = watch.margins(torch.from_numpy(expected["tokens"]))
            actual = graph(inputs)
            checks = [_compared(x, backend, actual[x], expected[x], note=name) for x in DECODED]
            tight[backend] = all(check.passed for check in checks)
            if not tight[backend] and margins.smallest < TIE:
                distance = 1 - iou(actual["logits"] > 0, expected["logits"] > 0)
                checks = [_limited("masks after a tie", backend, distance, note=name)]
            for check in checks:
                self._keep_worst(check)
            logits[backend] = actual["logits"]
        self.decodes.append(Decode(name=name, edge_tokens=len(expected["edge_tokens"]), margins=margins, tight=tight))
        return logits

    def _keep_worst(self, check: Check) -> None:
        known = self.worst.setdefault((check.tensor, check.backend), check)
        if not check.value <= known.value:  # a NaN is the worst
            self.worst[check.tensor, check.backend] = check

    def _unreached(self) -> list[tuple[int, int]]:
        layers = self.model.config.decoder.layers
        used = np.zeros((layers, self.model.config.decoder.experts), np.int64)
        for decode in self.decodes:
            used += np.array(decode.margins.experts)
        return [(int(layer), int(expert)) for layer, expert in np.argwhere(used == 0)]

    def _normalized_picture(self) -> Tensor:
        """The photograph as the release prepares it: BGR, normalised, padded with zeros, resized; [1, 3, S, S]."""
        bgr = torch.from_numpy(self.photograph[..., ::-1].astype(np.float32))
        normalized = ((bgr - torch.tensor(MEAN_BGR)) / torch.tensor(STD_BGR)).permute(2, 0, 1)[None]
        padding = (0, self.side - normalized.shape[3], 0, self.side - normalized.shape[2])
        return _resize(F.pad(normalized, padding), self.size)

    def _graph_picture(self) -> Array:
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

    @contextmanager
    def _step(self, what: str) -> Iterator[None]:
        self.progress(what)
        start = time.perf_counter()
        yield
        self.seconds[what] = round(time.perf_counter() - start, 3)


def _channels_last(embedding: Tensor) -> Array:
    """[1, C, h, w] -> [h, w, C]."""
    return embedding[0].permute(1, 2, 0).numpy()


def _inputs(labels: Array, features: Arrays) -> Arrays:
    return {"labels": labels, **{name: features[name] for name in IMAGE_FEATURES}}


def _compared(tensor: str, backend: str, actual: Array, expected: Array, note: str = "") -> Check:
    """A check by the limit of this tensor."""
    if actual.shape != expected.shape:
        return _limited(
            tensor, backend, float("inf"), note=f"{note} shape {actual.shape}, not {expected.shape}".strip()
        )
    difference = np.abs(actual.astype(np.float64) - expected)
    largest = float(np.abs(expected).max(initial=0))
    error = float(difference.max(initial=0))
    measure = limit_of(tensor).measure
    if measure == "count":
        value = float(np.count_nonzero(difference))
    elif measure == "share":
        value = float(np.mean(~(difference <= PIXEL_ERROR * largest)))
    else:
        value = error / largest if error else 0.0
    return _limited(tensor, backend, value, error=error, note=note)


def _limited(tensor: str, backend: str, value: float, *, error: float = 0.0, note: str = "") -> Check:
    limit = limit_of(tensor)
    return Check(
        tensor=tensor, backend=backend, measure=limit.measure, value=value, limit=limit.value, error=error, note=note
    )


def _resize(x: Tensor, side: int) -> Tensor:
    return F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False)


def iou(one: Array, other: Array) -> float:
    """Intersection over union of two masks; 1 where both are empty."""
    union = int(np.count_nonzero(one | other))
    return float(np.count_nonzero(one & other)) / union if union else 1.0


def _require_kernels(decoder: Path) -> None:
    """Whether the library has every operator: without the function bodies, a graph loads only then."""
    graph = onnx.load(decoder)
    del graph.functions[:]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    path = library.register(options)
    try:
        onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base of their own
        raise OperatorLibraryError(
            f"the operator library {path} does not run decoder.onnx ({error}): reinstall this version"
        ) from error


def _uses_operators(graph: Path) -> bool:
    return any(entry.domain == DOMAIN for entry in onnx.load(graph).opset_import)
