"""Whole clicks of HRSAM: prompts, decoder and mask; against PyTorch, the library-free graph, and SAM's one graph.

The weights are synthetic, and so is the image embedding: the time of a click does not depend on either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from inter2former_deploy.apps.bench.clicks import model_of, photograph_frame
from inter2former_deploy.apps.bench.workers import TUNED_MALLOC, Workload, threads_here
from inter2former_deploy.core.prompts import Click, Mask
from inter2former_deploy.families.config import read_config
from inter2former_deploy.families.hrsam.config import HRSAM_PROBE, HRSAMConfig
from inter2former_deploy.families.hrsam.interface import EMBEDDING, PROMPTS, graph_tensors
from inter2former_deploy.families.hrsam.masks import MaskLogits
from inter2former_deploy.families.hrsam.prompts import SparsePrompts

if TYPE_CHECKING:
    import onnx

Arrays = dict[str, npt.NDArray[Any]]


def workloads(folder: Path, size: int, clicks: int, config: HRSAMConfig) -> dict[str, Workload]:
    """The last of some clicks under each variant; graphs are written once a folder."""
    import onnx

    from inter2former_deploy.exporters.graphs import export_model

    config = replace(config, encoder=HRSAM_PROBE.encoder)  # it takes no part
    ours, one = folder / f"click-{size}.onnx", folder / f"one-graph-{size}.onnx"
    if not (ours.exists() and one.exists()):
        model = model_of(config)
        onnx.save(export_model(model, "click", size=size), ours)
        onnx.save(export_one_graph(model, size), one)
    scene = {"size": size, "clicks": clicks, "config": config.to_dict()}

    def runs(path: Path, *, custom_ops: bool) -> Workload:
        arguments = {**scene, "path": str(path), "custom_ops": custom_ops}
        return Workload(builder=f"{__name__}:graph", arguments=arguments)

    return {
        "library": runs(ours, custom_ops=True),
        "plain": runs(ours, custom_ops=False),
        "torch": Workload(builder=f"{__name__}:torch", arguments=scene, environment=TUNED_MALLOC),
        "one graph": runs(one, custom_ops=False),
    }


def graph(size: int, clicks: int, config: dict[str, Any], path: str, custom_ops: bool) -> Callable[[], Mask]:
    """Workload: a click of a graph, ours or the one that SAM's users have, as far as it takes the scene's arrays."""
    import onnxruntime as ort

    from inter2former_deploy.core import library

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads_here()
    options.log_severity_level = 3
    if custom_ops:
        library.register(options)
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    arrays, frame = scene_arrays(config, size, clicks), photograph_frame("hrsam", size)
    feeds = {value.name: arrays[value.name] for value in session.get_inputs()}

    def click() -> Mask:
        logits = session.run([session.get_outputs()[0].name], feeds)[0]
        return MaskLogits(logits if logits.ndim == 2 else logits[0]).mask(frame)

    return click


def torch(size: int, clicks: int, config: dict[str, Any]) -> Callable[[], Mask]:
    """Workload: the same click in the reference modules."""
    import torch

    from inter2former_deploy.families.hrsam.session import decode

    torch.set_num_threads(threads_here())
    model, arrays, frame = (
        model_of(read_config(config)),
        scene_arrays(config, size, clicks),
        photograph_frame("hrsam", size),
    )
    embedding = torch.from_numpy(arrays[EMBEDDING]).permute(2, 0, 1)[None]
    prompts = {name: arrays[name] for name in PROMPTS}

    def click() -> Mask:
        with torch.inference_mode():
            return MaskLogits(decode(model, embedding, prompts).numpy()).mask(frame)

    return click


def scene_arrays(config: dict[str, Any], size: int, clicks: int) -> Arrays:
    """All that the click graph takes: a random image embedding, what `prepare` makes of it, and some clicks."""
    import torch

    from inter2former_deploy.families.hrsam.graphs import PrepareGraph

    model = model_of(read_config(config))
    tensors = graph_tensors(model.config, size)
    rng = np.random.default_rng(5)
    embedding = rng.standard_normal(tensors["click"]["inputs"][EMBEDDING]["sizes"], np.float32)
    with torch.inference_mode():
        prepared = PrepareGraph(model)(torch.from_numpy(embedding))
    state = SparsePrompts(size)
    for x, y, positive in zip(*rng.uniform(0, size, (2, clicks)), rng.integers(0, 2, clicks), strict=True):
        state.add(Click(float(x), float(y), bool(positive)))
    state.fold(MaskLogits(rng.standard_normal(tensors["click"]["inputs"]["mask_input"]["sizes"], np.float32)))
    arrays = {name: x.numpy() for name, x in zip(tensors["prepare"]["outputs"], prepared, strict=True)}
    return arrays | {EMBEDDING: embedding} | state.inputs()


def export_one_graph(model: Any, size: int) -> onnx.ModelProto:
    """The decoder as SAM exports it: all masks and their estimated IoUs, with nothing computed beforehand.

    It takes `interface.PROMPTS` and the image embedding [h, w, C], and gives masks [4, 4*h, 4*w] and IoUs [4].
    """
    import torch
    from torch import Tensor

    from inter2former_deploy.exporters.graphs import export_graph
    from inter2former_deploy.families.hrsam.graphs import ClickGraph

    class OneGraph(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.neck, self.decode_head = model.neck, model.decode_head
            self.prompts = ClickGraph(model)

        def forward(
            self, xy: Tensor, labels: Tensor, mask_input: Tensor, has_mask_input: Tensor, embedding: Tensor
        ) -> tuple[Tensor, Tensor]:
            height, width, _ = embedding.shape
            sparse = self.prompts.sparse(xy, labels, (16 * height, 16 * width))[None]
            given = self.neck.dense(mask_input[None, None], (height, width))
            dense = torch.where(has_mask_input > 0, given, self.neck.no_mask_embed.weight[..., None, None])
            image = embedding.permute(2, 0, 1)[None]
            masks, iou = self.decode_head(image, self.neck.position_map((height, width)), sparse, dense)
            return masks[0], iou[0]

    stated = graph_tensors(model.config, size)["click"]["inputs"]
    sizes = {name: stated[name]["sizes"] for name in (*PROMPTS, EMBEDDING)}
    examples = (
        torch.zeros([3 if isinstance(n, str) else n for n in shape], dtype=getattr(torch, stated[name]["type"]))
        for name, shape in sizes.items()
    )
    return export_graph(OneGraph(), tuple(examples), inputs=sizes, outputs=["masks", "iou"])
