"""Exports the tiny model with which `i2f doctor` tries both ways to run graphs, into runtime/tiny/ of the checkout.

    .venv/bin/python scripts/doctor_bundle.py

To be run again whenever graphs, function bodies or the manifest change (tests/runtime/test_doctor.py says so). The
weights are synthetic; the masks that PyTorch makes with them for two clicks are kept beside the graphs.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch

from inter2former_deploy.core.contract import MEAN_BGR, STD_BGR
from inter2former_deploy.core.prompts import Floats
from inter2former_deploy.exporters.bundle import export_bundle
from inter2former_deploy.exporters.graphs import expose
from inter2former_deploy.families.checkpoint import synthetic_state_dict
from inter2former_deploy.families.inter2former.config import (
    PATCH,
    DecoderConfig,
    EdgeNetworkConfig,
    EncoderConfig,
    ModelConfig,
)
from inter2former_deploy.families.inter2former.interface import EMBEDDING, PICTURE
from inter2former_deploy.families.inter2former.masks import Box, BoxLogits
from inter2former_deploy.families.inter2former.modules.model import ImageFeatures, Inter2Former
from inter2former_deploy.families.inter2former.pictures import Frame
from inter2former_deploy.families.inter2former.prompts import LabelMapPrompts
from inter2former_deploy.families.pictures import model_input
from inter2former_deploy.runtime.doctor import CLICKS, EXPECTED_FILE, picture
from inter2former_deploy.runtime.session import Decode, Session

SIZE = 64
SEED = 3
MODEL = ModelConfig(
    name="tiny",
    encoder=EncoderConfig(depth=1, dim=8, heads=1, window=2, pos_grid=2, anchor_size=32, fusion_after=(0,)),
    edges=EdgeNetworkConfig(blocks=1),
    decoder=DecoderConfig(
        attention_dim=8,
        code_bits=4,
        experts=2,
        expert_hidden=8,
        prompt_channels=(4, 4, 8, 16),
        pyramid=(16, 8, 4, 4),
        edge_rule="exact",
    ),
)


def write_bundle(folder: Path) -> None:
    """Make the bundle, verified, and what PyTorch computes with its model."""
    manifest = export_bundle(None, folder, config=MODEL, size=SIZE, seed=SEED, progress=print).manifest
    bare = {name: replace(decoder, parity=None) for name, decoder in manifest.decoders.items()}
    replace(manifest, decoders=bare).write(folder)  # without long lists of comparisons that passed
    model = Inter2Former(MODEL)
    model.load_state_dict(dict(synthetic_state_dict(MODEL, seed=SEED)))
    frame = Frame(*picture().shape[:2], SIZE)
    pixels = model_input(picture(), frame)
    decode = reference_decoder(model.eval(), folder / manifest.decoder().prepare.file, pixels)
    session = Session(frame, LabelMapPrompts(SIZE), decode)
    masks = [session.click(*click) for click in CLICKS]
    print("object, share of the picture:", [f"{mask.mean():.2f}" for mask in masks])
    np.savez_compressed(folder / EXPECTED_FILE, masks=np.array(masks), logits=session.logits)


def reference_decoder(model: Inter2Former, prepare: Path, pixels: Floats) -> Decode:
    """Decodes with PyTorch, from PyTorch's own embedding but the graph's Canny maps.

    Where a gradient is nothing but rounding, its direction differs between any two implementations, and with it logits.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    graph = expose(onnx.load(prepare), ["canny_maps"]).SerializeToString()
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    embedding = np.zeros((SIZE // PATCH, SIZE // PATCH, MODEL.decoder.dim), np.float32)  # the maps do not depend on it
    (maps,) = session.run(["canny_maps"], {PICTURE: pixels, EMBEDDING: embedding})
    bgr = torch.from_numpy(pixels[..., ::-1].copy())
    with torch.inference_mode():
        x = ((bgr - torch.tensor(MEAN_BGR)) / torch.tensor(STD_BGR)).permute(2, 0, 1)[None]
        edges = model.edge_detector.features(torch.from_numpy(maps)[None])
        features = ImageFeatures(model.backbone(x.contiguous()), edges)

    def decode(prompts: Mapping[str, npt.NDArray[Any]]) -> BoxLogits:
        with torch.inference_mode():
            logits = model.decode(features, torch.from_numpy(prompts["labels"])[None])[0, 0]
        return BoxLogits(Box(0, 0, SIZE, SIZE), logits.numpy())

    return decode


if __name__ == "__main__":
    target = Path(__file__).parent.parent / "runtime" / "tiny"
    with tempfile.TemporaryDirectory() as scratch:
        write_bundle(Path(scratch) / "tiny")
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(Path(scratch) / "tiny", target)
    print(f"{target}: {sum(file.stat().st_size for file in target.rglob('*.*')) / 1e3:.0f} kB")
