"""The gate of reduced precision: do masks stay what they are in float32?

Click sessions on pictures that both encoders get: the bundled photograph, objects cut from it and pasted back onto it,
and drawn scenes. Clicks are those that the float32 side asks for. After every click the masks of both are compared, at
the float32 side's prompt state: that decides. Reported besides is how sessions agree in which each side folds its own
predictions into its prompt state: there a pixel that differs changes what follows, in float32 as well. What a family
does with pictures, clicks and predictions is asked of its interface.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import onnx
from numpy.typing import NDArray

from inter2former_deploy.core.clicks import next_click
from inter2former_deploy.core.contract import GraphName
from inter2former_deploy.core.manifest import Precision
from inter2former_deploy.core.masks import iou
from inter2former_deploy.core.prompts import Click, PromptState
from inter2former_deploy.exporters.judgement import Check
from inter2former_deploy.exporters.parity import CLICKS, OPERATORS, PLAIN, Arrays, Graph, Graphs, load_photograph
from inter2former_deploy.exporters.precision import count_layers, has_edges_in_bf16
from inter2former_deploy.families import Interface, interface
from inter2former_deploy.families.config import Config

Array = NDArray[Any]

MIN_IOU: dict[Precision, float] = {"bf16": 0.998, "int8": 0.99}  # mean over all masks, unless another is asked for
BUDGET = 10  # clicks of a session


@dataclass(frozen=True, kw_only=True)
class AgreementReport:
    """What the gate measured."""

    precision: Precision
    backend: str  # with the operator library or without it, see parity
    layers: int  # that are in reduced precision
    edges: Literal["fp32", "bf16"]  # the edge network's precision
    images: int
    clicks: int  # of all sessions
    mean_iou: float  # of masks with float32's at the same prompt states, over all clicks
    session_iou: float  # the same where each side has its own prompt state
    min_iou: float  # that was asked for
    worst: dict[str, float]  # mean over a picture's clicks, the three lowest
    embedding_error: float  # root mean square over the standard deviation of the embedding
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether masks agree as much as was asked for; a NaN does not."""
        return self.mean_iou >= self.min_iou

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"passed": self.passed} | asdict(self)

    def check(self) -> Check:
        """As one of the comparisons of a parity report."""
        return Check(
            tensor=f"masks in {self.precision}",
            backend=self.backend,
            measure="1 - IoU",
            value=1 - self.mean_iou,
            limit=1 - self.min_iou,
            note=f"mean of {self.clicks} clicks on {self.images} pictures, against fp32",
        )

    def table(self) -> str:
        """For people."""
        worst = ", ".join(f"{name} {value:.4f}" for name, value in self.worst.items())
        return (
            f"{self.precision} masks against fp32 ({self.backend}): mean IoU {self.mean_iou:.4f} over {self.clicks} "
            f"clicks on {self.images} pictures, at least {self.min_iou:g} asked for: "
            f"{'ok' if self.passed else 'FAILED'}\n"
            f"sessions of their own: {self.session_iou:.4f}; lowest pictures: {worst}; "
            f"{self.layers} layers in reduced precision, edge network in {self.edges}, "
            f"embedding error {self.embedding_error:.2g}"
        )

    def failure(self) -> str:
        """What was found and what to do about it."""
        other = "with --precision bf16 or without it" if self.precision == "int8" else "without --precision"
        return (
            f"in {self.precision}, masks agree with fp32 to a mean IoU of {self.mean_iou:.4f} over "
            f"{self.clicks} clicks on {self.images} pictures, {self.min_iou:g} is asked for: export {other}, or choose "
            f"the limit with --min-iou, which the manifest will state"
        )


def pictures_for(size: int) -> int:
    """How many pictures the gate takes: fewer where each takes longer."""
    return 20 if size <= 512 else 10 if size <= 1024 else 5


def check_agreement(
    config: Config,
    reference: Graphs,
    reduced: Graphs,
    *,
    precision: Precision,
    size: int,
    min_iou: float | None = None,
    custom_ops: bool = True,
    num_threads: int | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> AgreementReport:
    """Compare the masks of two sets of graphs, click by click.

    Args:
        config: Of the model, of any family.
        reference: The graphs in float32.
        reduced: The same, some of them in reduced precision.
        precision: Of `reduced`: the encoder's, or the decoder's where the encoder is in float32.
        size: S.
        min_iou: Least mean IoU; `MIN_IOU` of the precision when None.
        custom_ops: Run the graphs with the operator library.
        num_threads: Of onnxruntime; as many as this process may keep busy when None.
        progress: Told what comes next.
    """
    start = time.perf_counter()
    of_family = interface(config.family)
    tensors = of_family.graph_tensors(config, size)
    scenes = list(make_scenes(of_family, size, pictures_for(size)))

    def load(path: Path, graph: GraphName) -> Callable[[Arrays], Arrays]:
        """A graph that takes what it needs of the arrays that are there."""
        run = Graph(path, list(tensors[graph]["outputs"]), custom_ops=custom_ops, num_threads=num_threads)
        return lambda arrays: run({name: arrays[name] for name in tensors[graph]["inputs"]})

    (picture,), (embedding,) = tensors["encoder"]["inputs"], tensors["encoder"]["outputs"]
    encoded: list[list[Arrays]] = []
    both = {"fp32": reference, precision: reduced} if reduced.encoder != reference.encoder else {"fp32": reference}
    for name, graphs in both.items():  # one after the other: each needs much memory
        encode = load(graphs.encoder, "encoder")
        encoded.append([])
        for number, scene in enumerate(scenes, 1):
            progress(f"encode picture {number} of {len(scenes)} in {name}")
            encoded[-1].append(encode({picture: scene.picture}))
        del encode
    encoded = [encoded[0], encoded[-1]]
    errors = [_embedding_error(one[embedding], other[embedding]) for one, other in zip(*encoded, strict=True)]
    preparations = [load(graphs.prepare, "prepare") for graphs in (reference, reduced)]
    decoders = [load(graphs.click, "click") for graphs in (reference, reduced)]
    agreement: dict[str, list[tuple[float, float]]] = {}
    for scene, *of_scene in zip(scenes, *encoded, strict=True):
        progress(f"click on {scene.name}")
        features = [
            its | preparation({picture: scene.picture} | its)
            for its, preparation in zip(of_scene, preparations, strict=True)
        ]
        agreement[scene.name] = list(_session(scene, size, of_family, decoders, features))
    means = {name: float(np.mean([same for same, _ in values])) for name, values in agreement.items()}
    every = [value for values in agreement.values() for value in values]
    mean_iou, session_iou = np.mean(every, axis=0)
    return AgreementReport(
        precision=precision,
        backend=OPERATORS if custom_ops else PLAIN,
        layers=count_layers(onnx.load(reduced.encoder)),
        edges="bf16" if has_edges_in_bf16(reduced.prepare) else "fp32",
        images=len(scenes),
        clicks=len(every),
        mean_iou=float(mean_iou),
        session_iou=float(session_iou),
        min_iou=MIN_IOU[precision] if min_iou is None else min_iou,
        worst=dict(sorted(means.items(), key=lambda item: item[1])[:3]),
        embedding_error=max(errors),
        seconds=round(time.perf_counter() - start, 3),
    )


def _session(
    scene: Scene,
    size: int,
    of_family: Interface,
    decoders: Sequence[Callable[[Arrays], Arrays]],
    features: Sequence[Arrays],
) -> Iterator[tuple[float, float]]:
    """IoU of both sides' masks after each click: at the first's prompt state, and each at its own."""
    frame = of_family.make_frame(size, size, size)  # of masks in the model's square
    clicks: list[Click] = []
    states: list[PromptState[Any]] = [of_family.make_prompts(size) for _ in features]
    mask = np.zeros((size, size), bool)

    def predict(side: int, inputs: Arrays) -> tuple[Any, Array]:
        """What a side's decoder makes of a state, and its mask."""
        prediction = of_family.read_prediction(decoders[side](features[side] | inputs))
        logits = cv2.resize(prediction.logits(frame), (size, size), interpolation=cv2.INTER_LINEAR)
        return prediction, logits > 0

    while len(clicks) < (len(scene.clicks) or BUDGET):
        asked = scene.clicks[len(clicks)] if scene.clicks else next_click(mask, scene.target, clicks)
        if asked is None:
            return  # the object is found exactly
        clicks.append(asked)
        for state in states:
            state.add(asked)
        inputs, own = (dict(state.inputs()) for state in states)
        prediction, mask = predict(0, inputs)
        other, theirs = predict(1, inputs)
        same = iou(mask, theirs)
        if not all(np.array_equal(inputs[name], own[name]) for name in inputs):
            other, theirs = predict(1, own)
        yield same, iou(mask, theirs)
        for state, predicted in zip(states, (prediction, other), strict=True):
            state.fold(predicted)


def _embedding_error(one: Array, other: Array) -> float:
    return float(np.sqrt(np.mean((one - other) ** 2)) / one.std())


# ---- Pictures.


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A picture as the encoder takes it, and where to click: at given places, or wherever the target asks for it."""

    name: str
    picture: NDArray[np.float32]  # [S, S, 3], RGB, 0-255
    target: NDArray[np.uint8]  # [S, S]
    clicks: tuple[Click, ...] = ()


def make_scenes(of_family: Interface, size: int, count: int) -> Iterator[Scene]:
    """The photograph as it is, then by turns pictures of real and of drawn textures, always the same ones.

    Args:
        of_family: How a picture and clicks come into the model's square.
        size: S.
        count: How many.
    """
    photograph = load_photograph()
    height, width = photograph.shape[:2]
    frame = of_family.make_frame(height, width, size)
    clicks = tuple(frame.to_model(click) for click in CLICKS)
    nothing = np.zeros((size, size), np.uint8)
    picture = of_family.make_input(photograph, frame)
    yield Scene(name="photograph", picture=picture, target=nothing, clicks=clicks)
    for index in range(1, count):
        rng = np.random.default_rng(index)
        real = index % 2 == 1
        ground, surface = (_cut(photograph, rng) if real else _drawn(rng) for _ in range(2))
        object_ = _blob(rng, size)
        soft = cv2.GaussianBlur(object_.astype(np.float32), (0, 0), max(size / 1024, 0.5))[..., None]
        shade = rng.uniform(0.6, 1.1, 3).astype(np.float32)
        picture = _scaled(ground, size) * (1 - soft) + np.clip(_scaled(surface, size) * shade, 0, 255) * soft
        yield Scene(name=f"{'real' if real else 'drawn'} {index}", picture=picture, target=object_)


def _scaled(image: NDArray[np.uint8], size: int) -> NDArray[np.float32]:
    return np.asarray(cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR), np.float32)


def _cut(photograph: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """A square of the photograph, perhaps mirrored."""
    side = int(rng.integers(150, min(photograph.shape[:2])))
    top, left = (int(rng.integers(0, length - side)) for length in photograph.shape[:2])
    cut = photograph[top : top + side, left : left + side]
    return np.ascontiguousarray(cut[:, :: int(rng.choice((-1, 1)))])


def _drawn(rng: np.random.Generator) -> NDArray[np.uint8]:
    """Smooth noise between two colours."""
    colours = rng.uniform(0, 255, (2, 3))
    cells = int(np.exp(rng.uniform(np.log(2), np.log(60))))
    noise = cv2.resize(rng.uniform(0, 1, (cells, cells)).astype(np.float32), (512, 512), interpolation=cv2.INTER_CUBIC)
    share = np.clip(noise, 0, 1)[..., None]
    grain = rng.normal(0, rng.uniform(0, 8), (512, 512, 1))
    return np.asarray(np.clip(colours[0] * share + colours[1] * (1 - share) + grain, 0, 255), np.uint8)


def _blob(rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    """An object with a wavy outline, [size, size], 1 inside."""
    angle = np.linspace(0, 2 * np.pi, 256, endpoint=False)
    radius = np.full_like(angle, np.exp(rng.uniform(np.log(0.08), np.log(0.3))))
    for wave in range(2, 7):
        radius *= 1 + rng.normal(0, 0.5 / wave) * np.cos(wave * angle + rng.uniform(0, 2 * np.pi)) / 2
    centre = rng.uniform(0.3, 0.7, (2, 1))
    outline = (centre + radius * np.stack((np.cos(angle), np.sin(angle)))).T * size
    mask = np.zeros((size, size), np.uint8)
    cv2.fillPoly(mask, [np.rint(outline).astype(np.int32)], (1,))
    return mask
