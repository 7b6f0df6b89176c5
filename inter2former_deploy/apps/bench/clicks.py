"""Whole clicks as a user waits for them: labels, decoder, mask; against PyTorch and the library-free graph.

The weights are synthetic, so that no checkpoint is needed; what is upsampled is pinned to the object's box, as a
trained model would find it. Object and boundary are those of a disc of a given share of the image.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from inter2former_deploy.apps.bench.scene import disc_labels, disc_token_box
from inter2former_deploy.apps.bench.workers import TUNED_MALLOC, Workload, threads_here
from inter2former_deploy.core.prompts import Mask
from inter2former_deploy.families import interface
from inter2former_deploy.families.config import Config
from inter2former_deploy.families.inter2former.config import OUTSIDE_LOGIT, PATCH, PROBE, EdgeRule
from inter2former_deploy.families.inter2former.interface import (
    BLANK_INPUTS,
    CLICK_OUTPUTS,
    EMBEDDING,
    LABELS,
    OUTSIDE_INPUTS,
    graph_tensors,
)
from inter2former_deploy.families.inter2former.masks import Box

Array = npt.NDArray[Any]
TOKEN_INPUTS = (*BLANK_INPUTS, *OUTSIDE_INPUTS)  # what of the decoder the image decides, but for its edges
MODEL = PROBE  # its decoder is that of vit_b; the encoder takes no part


def photograph_frame(family: str, size: int) -> Any:
    """Of a photograph of 3:2 that the model resolution shrinks by a third, as cameras and screens have it."""
    return interface(family).make_frame(size, 3 * size // 2, size)


def export_pinned(folder: Path, size: int, share: float, rule: EdgeRule) -> Path:
    """A click graph of the release's size whose upsampling box is that of the disc; written once a folder.

    Beside it lies `export_tokens`' graph.
    """
    import onnx
    import onnx.numpy_helper

    from inter2former_deploy.exporters.graphs import export_model

    path = folder / f"click-{size}-{rule}.onnx"
    if not path.exists():
        onnx.save(export_model(model_of(MODEL.with_decoder(edge_rule=rule)), "click", size=size), path)
    export_tokens(folder, size)
    pinned = folder / f"click-{size}-{rule}-{share}.onnx"
    if not pinned.exists():
        model = onnx.load(path)
        (node,) = (n for n in model.graph.node if n.op_type == "TokenBox")
        # The box is still looked for, and then moved: 0 * found + pinned.
        (found,), pinned_box = node.output, onnx.numpy_helper.from_array(disc_token_box(size // PATCH, share), "pinned")
        nothing = onnx.numpy_helper.from_array(np.zeros(1, np.int64), "nothing")
        model.graph.initializer.extend((pinned_box, nothing))
        node.output[0] = "found_box"
        moved = (
            onnx.helper.make_node("Mul", ["found_box", "nothing"], ["no_box"]),
            onnx.helper.make_node("Add", ["no_box", "pinned"], [found]),
        )
        position = list(model.graph.node).index(node)
        for step in reversed(moved):
            model.graph.node.insert(position + 1, step)
        onnx.save(model, pinned)
    return pinned


def export_tokens(folder: Path, size: int) -> Path:
    """Image embedding -> `TOKEN_INPUTS`, as prepare.onnx computes them; written once a folder."""
    import onnx
    import torch

    from inter2former_deploy.exporters.graphs import export_graph
    from inter2former_deploy.families.inter2former.graphs import PrepareGraph

    class Tokens(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.prepare = PrepareGraph(model_of(MODEL))

        def forward(self, image_embedding: torch.Tensor) -> Any:
            return self.prepare.tokens(image_embedding)

    path = folder / f"tokens-{size}.onnx"
    if not path.exists():
        embedding = torch.zeros(graph_tensors(MODEL, size)["prepare"]["inputs"][EMBEDDING]["sizes"])
        onnx.save(export_graph(Tokens(), (embedding,), inputs=(EMBEDDING,), outputs=TOKEN_INPUTS), path)
    return path


def workloads(folder: Path, size: int, share: float, rule: EdgeRule) -> dict[str, Workload]:
    """One click under each variant; share 1 is the first click, with everything unknown."""
    pinned = str(export_pinned(folder, size, share, rule))
    scene = {"size": size, "share": share}
    return {
        "library": Workload(builder=f"{__name__}:graph", arguments={**scene, "decoder": pinned, "custom_ops": True}),
        "plain": Workload(builder=f"{__name__}:graph", arguments={**scene, "decoder": pinned, "custom_ops": False}),
        "torch": Workload(builder=f"{__name__}:torch", arguments={**scene, "rule": rule}, environment=TUNED_MALLOC),
    }


def graph(size: int, share: float, decoder: str, custom_ops: bool) -> Callable[[], Mask]:
    """Workload: a click of a runtime session."""
    from inter2former_deploy.families.inter2former.masks import BoxLogits
    from inter2former_deploy.families.inter2former.prompts import LabelMapPrompts
    from inter2former_deploy.runtime.session import Session

    scene, graph = _Scene(size, share), _Graph(Path(decoder), custom_ops, threads_here())

    def decode(prompts: Mapping[str, Array]) -> BoxLogits:
        labels = prompts["labels"]
        labels[...] = scene.labels  # the session's own map, where the fold has just moved it on
        graph(labels)
        return BoxLogits(scene.box, scene.box_logits)

    state = LabelMapPrompts(size)
    session = Session(photograph_frame("inter2former", size), state, decode)
    middle = clicks_middle(size)

    def click() -> Mask:
        mask = session.click(*middle)
        for steps in (session._steps, state._steps):  # memory stays that of one click
            del steps[:-1]
        return mask

    return click


def torch(size: int, share: float, rule: EdgeRule) -> Callable[[], Mask]:
    """Workload: the same click in the reference modules, with the release's postprocessing."""
    import torch
    from torch.nn import functional

    from inter2former_deploy.core.prompts import Click
    from inter2former_deploy.families.inter2former.labels import add_clicks, fold_prediction

    torch.set_num_threads(threads_here())
    model = model_of(MODEL.with_decoder(edge_rule=rule))
    box = torch.from_numpy(disc_token_box(size // PATCH, share))
    model.decode_head._find_box = lambda low_res: box
    generator = torch.Generator().manual_seed(5)
    grid = size // PATCH
    embedding = torch.randn(1, MODEL.decoder.dim, grid, grid, generator=generator)
    edges = [
        torch.randn(1, c, grid << i + 1, grid << i + 1, generator=generator)
        for i, c in enumerate(MODEL.decoder.pyramid)
    ]
    scene, frame = _Scene(size, share), photograph_frame("inter2former", size)
    labels = scene.labels.copy()
    foreground = scene.logits > 0
    at = frame.to_model(Click(*clicks_middle(size), True))

    def click() -> Mask:
        fold_prediction(labels, foreground)
        add_clicks(labels, [at])
        labels[...] = scene.labels
        with torch.inference_mode():
            tokens, _ = model.neck(embedding, torch.from_numpy(labels)[None])
            model.decode_head(tokens, edges)
            logits = torch.from_numpy(scene.logits)[None, None]
            full = functional.interpolate(logits, (frame.side, frame.side), mode="bilinear")
            mask: Mask = (full[0, 0, : frame.height, : frame.width] > 0).numpy()
        return mask

    return click


def clicks_middle(size: int) -> tuple[int, int]:
    """The middle of the photograph, x and y."""
    frame = photograph_frame("inter2former", size)
    return frame.width // 2, frame.height // 2


def components(
    folder: Path, size: int, share: float, rule: EdgeRule, threads: int, calls: int = 10
) -> dict[str, float]:
    """Milliseconds of one decode by operator type, from onnxruntime's profile of some decodes with the library."""
    graph = _Graph(export_pinned(folder, size, share, rule), True, threads, profile=folder / "profile")
    scene = _Scene(size, share)
    for _ in range(1 + calls):
        graph(scene.labels)
    events = json.loads(Path(graph.session.end_profiling()).read_text())
    nodes: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            nodes[event["args"]["op_name"], event["name"]].append(event["dur"] / 1e3)
    totals: dict[str, float] = defaultdict(float)
    for (operator, _), times in nodes.items():
        totals[operator] += sum(times[-calls:]) / calls  # without the first decode, which warms up
    return dict(sorted(totals.items(), key=lambda item: -item[1]))


class _Graph:
    """A click graph as the runtime loads it, with random image features, and what is known of their attention."""

    def __init__(self, decoder: Path, custom_ops: bool, threads: int, profile: Path | None = None) -> None:
        import onnxruntime as ort

        from inter2former_deploy.core import library

        def load(model: Path, profile: Path | None = None) -> Any:
            options = ort.SessionOptions()
            options.intra_op_num_threads = threads
            options.log_severity_level = 3
            if profile:
                options.enable_profiling = True
                options.profile_file_prefix = str(profile)
            if custom_ops:
                library.register(options)
            return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

        self.session = load(decoder, profile)
        self._value = ort.OrtValue.ortvalue_from_numpy
        rng = np.random.default_rng(5)
        shapes = {value.name: value.shape for value in self.session.get_inputs()}
        self._features = {
            name: self._value(rng.standard_normal(shape, np.float32))
            for name, shape in shapes.items()
            if name != LABELS
        }
        tokens = load(export_tokens(decoder.parent, shapes[LABELS][0]))
        known = tokens.run_with_ort_values(TOKEN_INPUTS, {EMBEDDING: self._features[EMBEDDING]})
        self._features |= zip(TOKEN_INPUTS, known, strict=True)

    def __call__(self, labels: Array) -> None:
        self.session.run_with_ort_values(CLICK_OUTPUTS, {LABELS: self._value(labels), **self._features})


class _Scene:
    """Labels, box and plausible logits (a signed distance) of the disc."""

    def __init__(self, size: int, share: float) -> None:
        self.labels = disc_labels(size, share)
        self.box = Box(*(PATCH * disc_token_box(size // PATCH, share)).tolist())
        y, x = np.ogrid[:size, :size]
        distance = np.hypot(y - size / 2, x - size / 2)
        radius = size * np.sqrt(min(share, 0.7) / np.pi)
        inside = slice(self.box.top, self.box.bottom), slice(self.box.left, self.box.right)
        self.box_logits = np.clip((radius - distance)[inside] / 4, -8, 8).astype(np.float32)
        self.logits = np.full((size, size), OUTSIDE_LOGIT, np.float32)
        self.logits[inside] = self.box_logits


def model_of(config: Config) -> Any:
    """A reference model of any family with synthetic weights, for inference."""
    from inter2former_deploy.families.checkpoint import build_model, synthetic_state_dict

    return build_model(config, synthetic_state_dict(config))
