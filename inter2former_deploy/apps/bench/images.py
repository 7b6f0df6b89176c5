"""Opening an image as a user waits for it: preprocessing, encoder, what the decoder prepares; against PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from inter2former_deploy.apps.bench.clicks import model_of, photograph_frame
from inter2former_deploy.apps.bench.workers import TUNED_MALLOC, Workload, threads_here
from inter2former_deploy.core.manifest import Precision
from inter2former_deploy.families import interface
from inter2former_deploy.families.config import PATCH, Config, EncoderConfig, read_config
from inter2former_deploy.families.hrsam.config import HRSAMConfig
from inter2former_deploy.families.inter2former.config import VIT_B, ModelConfig

SCAN_FLOP = 12.0 + 6.0  # of a state and token: decay and its exponential, what is kept and added, the output


def workloads(folder: Path, size: int, config: Config = VIT_B) -> dict[str, Workload]:
    """Encoding one photograph under each variant."""
    import onnx

    from inter2former_deploy.exporters.graphs import export_model
    from inter2former_deploy.exporters.precision import reduce_precision, reduce_preparation

    paths = {precision: folder / f"encoder-{size}-{precision}.onnx" for precision in get_args(Precision)}
    preparations = {precision: folder / f"prepare-{size}-{precision}.onnx" for precision in paths}
    if not all(path.exists() for path in (*paths.values(), *preparations.values())):
        model = model_of(config)
        prepared = export_model(model, "prepare", size=size)
        for precision, path in preparations.items():
            onnx.save(prepared if precision == "fp32" else reduce_preparation(prepared), path)
        exported = export_model(model, "encoder", size=size)
        for precision, path in paths.items():
            onnx.save(exported if precision == "fp32" else reduce_precision(exported, precision), path)

    def runs(precision: Precision, *, custom_ops: bool) -> Workload:
        graphs = [str(paths[precision]), str(preparations[precision])]
        arguments = {"size": size, "family": config.family, "graphs": graphs, "custom_ops": custom_ops}
        return Workload(builder=f"{__name__}:graphs", arguments=arguments)

    return {
        "library": runs("fp32", custom_ops=True),
        "bf16": runs("bf16", custom_ops=True),
        "int8": runs("int8", custom_ops=True),
        "plain": runs("fp32", custom_ops=False),
        "torch": Workload(
            builder=f"{__name__}:torch",
            arguments={"size": size, "config": config.to_dict()},
            environment=TUNED_MALLOC,
        ),
    }


def graphs(size: int, family: str, graphs: list[str], custom_ops: bool) -> Callable[[], object]:
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
    of_family, frame = interface(family), photograph_frame(family, size)
    photograph = _photograph(frame)
    (takes,), (gives,), wanted = encoder.get_inputs(), encoder.get_outputs(), [x.name for x in prepare.get_inputs()]

    def call() -> object:
        known = {takes.name: of_family.make_input(photograph, frame)}
        (known[gives.name],) = encoder.run(None, known)
        return known, prepare.run(None, {name: known[name] for name in wanted})

    return call


def torch(size: int, config: dict[str, Any]) -> Callable[[], object]:
    """Workload: the reference modules on the same photograph; the picture is made in the same way."""
    import torch

    from inter2former_deploy.apps.evaluation import ReferenceSegmenter

    torch.set_num_threads(threads_here())
    model = model_of(read_config(config))
    segmenter, photograph = ReferenceSegmenter(model, size), _photograph(photograph_frame(model.config.family, size))
    return lambda: segmenter.encode(photograph)


def opening_flop(size: int, config: Any) -> float:
    """Operations of all that is computed once an image, of a model of any family."""
    return hrsam_flop(size, config) if isinstance(config, HRSAMConfig) else encoder_flop(size, config)


def hrsam_flop(size: int, config: HRSAMConfig) -> float:
    """Operations of HRSAM's encoder, one pass of each scan, and the projections that the decoder prepares."""
    e, d = config.encoder, config.decoder
    main = (size // PATCH) ** 2
    tokens = main + (e.anchor_size // PATCH) ** 2
    total = _blocks_flop(size, e) + len(e.fusion_after) * 2.0 * main * (1 + e.plus_plus) * e.dim * d.dim
    if e.state_space:
        linear = 2.0 * e.dim * (2 * e.dim + e.dim + 2 * e.states + e.dim)
        total += (1 + e.plus_plus) * len(e.fusion_after) * tokens * (linear + SCAN_FLOP * e.dim * e.states)
    return total + (3 + 2 * (d.layers - 1) + 1) * 2.0 * main * d.dim * d.cross_dim


def _blocks_flop(size: int, e: EncoderConfig) -> float:
    """Operations of patches and transformer blocks, of the image and of the anchor map, if there is one."""
    total = 0.0
    for tokens_side in (size // PATCH, e.anchor_size // PATCH):
        tokens = tokens_side**2
        # qkv, projection, MLP of ratio 4; scores and values in windows
        block = 2.0 * tokens * e.dim * e.dim * (3 + 1 + 8) + 4.0 * tokens * e.window**2 * e.dim
        total += e.depth * block + 2.0 * tokens * 3 * PATCH**2 * e.dim
    return total


def encoder_flop(size: int, config: ModelConfig = VIT_B) -> float:
    """Operations of encoder, edge network, edge projections and the decoder's attention before any click.

    2 a multiply-add; padding slots are no queries.
    """
    e, d = config.encoder, config.decoder
    total = _blocks_flop(size, e)
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


def _photograph(frame: Any) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(6).integers(0, 256, (frame.height, frame.width, 3), np.uint8)
