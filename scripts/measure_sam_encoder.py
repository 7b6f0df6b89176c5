#!/usr/bin/env python
"""Opening a picture with the released configuration against SAM ViT-B's image encoder in OpenVINO and onnxruntime.

Both encoders have random weights: times do not depend on them. Ours is all that is computed once an image,
preprocessing and preparation included; SAM's is the encoder alone. Variants are processes of their own and take turns.

    pip install --no-deps segment-anything==1.0 && pip install openvino==2026.4.1
    scripts/measure_sam_encoder.py --threads 2 --seconds 20
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
import tempfile
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from inter2former_deploy.apps.bench import images
from inter2former_deploy.apps.bench.workers import Workload, alternate, threads_here

SIZE = 1024


def _sam_encoder() -> Any:
    """SAM ViT-B's image encoder, random weights."""
    # The package itself wants torchvision, for what is not used here.
    found = importlib.util.find_spec("segment_anything")
    if found is None or found.submodule_search_locations is None:
        sys.exit("segment-anything is missing: pip install --no-deps segment-anything==1.0")
    package = types.ModuleType("segment_anything")
    package.__path__ = list(found.submodule_search_locations)
    sys.modules["segment_anything"] = package
    module = importlib.import_module("segment_anything.modeling.image_encoder")
    import torch

    torch.manual_seed(0)
    return module.ImageEncoderViT(
        img_size=SIZE,
        embed_dim=768,
        depth=12,
        num_heads=12,
        use_rel_pos=True,
        window_size=14,
        global_attn_indexes=[2, 5, 8, 11],
        out_chans=256,
    ).eval()


def openvino(path: str, precision: str) -> Callable[[], object]:
    """Workload: SAM's encoder in OpenVINO."""
    import openvino as ov

    settings = {"INFERENCE_NUM_THREADS": threads_here(), "INFERENCE_PRECISION_HINT": precision, "NUM_STREAMS": 1}
    request = ov.Core().compile_model(path, "CPU", settings).create_infer_request()
    picture = np.random.default_rng(6).standard_normal((1, 3, SIZE, SIZE), np.float32)
    return lambda: request.infer([picture])


def onnxruntime(path: str) -> Callable[[], object]:
    """Workload: SAM's encoder in onnxruntime."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads_here()
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    picture = np.random.default_rng(6).standard_normal((1, 3, SIZE, SIZE), np.float32)
    return lambda: session.run(None, {session.get_inputs()[0].name: picture})


def main() -> None:
    """Measures, and prints medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=20, help="for each variant")
    parser.add_argument("--all", action="store_true", help="the slow ones, too: float32, and onnxruntime")
    parser.add_argument("--folder", type=Path, help="keep the graphs there for the next run")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        folder = arguments.folder or Path(work)
        sam = folder / "sam.onnx"
        if not sam.exists():
            import torch

            picture = torch.zeros(1, 3, SIZE, SIZE)
            torch.onnx.export(_sam_encoder(), (picture,), sam, dynamo=False, opset_version=17)
        ours = images.workloads(folder, SIZE)
        here = {"PYTHONPATH": str(Path(__file__).resolve().parent)}

        def theirs(builder: str, **settings: str) -> Workload:
            return Workload(
                builder=f"measure_sam_encoder:{builder}", arguments={"path": str(sam), **settings}, environment=here
            )

        variants = {"ours, bf16": ours["bf16"], "ours, int8": ours["int8"]}
        variants["SAM, OpenVINO bf16"] = theirs("openvino", precision="bf16")
        if arguments.all:
            variants |= {"ours, fp32": ours["library"], "SAM, OpenVINO f32": theirs("openvino", precision="f32")}
            variants["SAM, onnxruntime fp32"] = theirs("onnxruntime")
        times = alternate(variants, threads=arguments.threads, seconds=arguments.seconds)
    reference = times["SAM, OpenVINO bf16"].median
    for name, time in times.items():
        print(f"{name}: {time.median:.0f} ms (best {time.best:.0f}, {time.runs} runs), {time.median / reference:.2f} x")


if __name__ == "__main__":
    main()
