"""Opening an image as a user waits for it: preprocessing, encoder, edge network; against PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt

from inter2former_deploy.apps.bench.clicks import frame_of, model_of
from inter2former_deploy.apps.bench.workers import TUNED_MALLOC, Workload, threads_here
from inter2former_deploy.core.manifest import Precision
from inter2former_deploy.families.inter2former.config import PATCH, VIT_B, ModelConfig
from inter2former_deploy.families.inter2former.interface import EMBEDDING, PICTURE, PREPARED
from inter2former_deploy.families.pictures import model_input


def workloads(folder: Path, size: int) -> dict[str, Workload]:
    """Encoding one photograph under each variant."""
    import onnx

    from inter2former_deploy.exporters.graphs import export_model
    from inter2former_deploy.exporters.precision import reduce_precision

    paths = {precision: folder / f"encoder-{size}-{precision}.onnx" for precision in get_args(Precision)}
    prepare = folder / f"prepare-{size}.onnx"
    if not all(path.exists() for path in (*paths.values(), prepare)):
        model = model_of(VIT_B)
        onnx.save(export_model(model, "prepare", size=size), prepare)
        exported = export_model(model, "encoder", size=size)
        for precision, path in paths.items():
            onnx.save(exported if precision == "fp32" else reduce_precision(exported, precision), path)

    def runs(precision: Precision, *, custom_ops: bool) -> Workload:
        graphs = [str(paths[precision]), str(prepare)]
        return Workload(
            builder=f"{__name__}:graphs", arguments={"size": size, "graphs": graphs, "custom_ops": custom_ops}
        )

    return {
        "library": runs("fp32", custom_ops=True),
        "bf16": runs("bf16", custom_ops=True),
        "int8": runs("int8", custom_ops=True),
        "plain": runs("fp32", custom_ops=False),
        "torch": Workload(builder=f"{__name__}:torch", arguments={"size": size}, environment=TUNED_MALLOC),
    }


def graphs(size: int, graphs: list[str], custom_ops: bool) -> Callable[[], object]:
    """Workload: what `Segmenter.open` does."""
    import onnxruntime as ort

    from inter2former_deploy.core import library

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads_here()
    options.log_severity_level = 3
    options.enable_mem_reuse = False
    if custom_ops:
        library.register(options)
    encoder, prepare = (ort.InferenceSession(path, options, providers=["CPUExecutionProvider"]) for path in graphs)
    photograph, frame = _photograph(size), frame_of(size)

    def call() -> object:
        picture = model_input(photograph, frame)
        (embedding,) = encoder.run([EMBEDDING], {PICTURE: picture})
        return embedding, prepare.run(PREPARED, {PICTURE: picture, EMBEDDING: embedding})

    return call


def torch(size: int) -> Callable[[], object]:
    """Workload: the reference modules on the same photograph; the picture is made in the same way."""
    import torch

    from inter2former_deploy.core.contract import MEAN_BGR, STD_BGR

    torch.set_num_threads(threads_here())
    model = model_of(VIT_B)
    photograph, frame = _photograph(size), frame_of(size)
    mean, std = torch.tensor(MEAN_BGR), torch.tensor(STD_BGR)

    def call() -> object:
        with torch.inference_mode():
            picture = torch.from_numpy(model_input(photograph, frame)).flip(2)
            return model.encode(((picture - mean) / std).permute(2, 0, 1)[None])

    return call


def encoder_flop(size: int, config: ModelConfig = VIT_B) -> float:
    """Operations of encoder, edge network, edge projections and the decoder's attention before any click.

    2 a multiply-add; padding slots are no queries.
    """
    e, d = config.encoder, config.decoder
    total = 0.0
    for tokens_side in (size // PATCH, e.anchor_size // PATCH):
        tokens = tokens_side**2
        # qkv, projection, MLP of ratio 4; scores and values in windows
        block = 2.0 * tokens * e.dim * e.dim * (3 + 1 + 8) + 4.0 * tokens * e.window**2 * e.dim
        total += e.depth * block + 2.0 * tokens * 3 * PATCH**2 * e.dim
    total += len(e.fusion_after) * 2.0 * (size // PATCH) ** 2 * 2 * e.dim * d.dim
    fine_to_coarse = d.pyramid[::-1]
    for i, channels in enumerate(fine_to_coarse):
        pixels = (size >> i) ** 2
        total += pixels * (config.edges.blocks * 2 * 18.0 * channels**2 + 2.0 * channels**2)  # residual blocks, lateral
        if i:
            total += pixels * 18.0 * fine_to_coarse[i - 1] * channels  # downsampling
    for i, (before, after) in enumerate(zip(d.pyramid, (*d.pyramid[1:], 1), strict=True)):
        total += ((size // PATCH) << (i + 1)) ** 2 * 18.0 * before * after  # edge projection
    tokens = (size // PATCH) ** 2
    return total + (2.0 * 3 * d.dim + 4.0 * tokens) * tokens * d.attention_dim  # qkv, scores and values of all tokens


def _photograph(size: int) -> npt.NDArray[np.uint8]:
    frame = frame_of(size)
    return np.random.default_rng(6).integers(0, 256, (frame.height, frame.width, 3), np.uint8)
