"""A bundle without a model: graphs of a few nodes with the contract's names, for what does not depend on the numbers.

Foreground is what is bright, or was labelled so. `logits`, which the runtime must not ask for, fails when it is computed.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import onnx.parser

from inter2former_deploy.config import PROBE
from inter2former_deploy.contract import DECODER_FILE, DECODER_OUTPUTS, EDGE_INPUTS, ENCODER_FILE, ENCODER_OUTPUTS
from inter2former_deploy.manifest import Manifest

SIZE = 64
BOX = (16, 0, 64, 48)

_FEATURES = {"image_embedding": "float[4,4,1]"} | {name: "float[1,1,1]" for name in EDGE_INPUTS}
_FEATURES["edge_3"] = f"float[{SIZE},{SIZE},1]"


def toy_graphs(folder: Path) -> None:
    """Write encoder.onnx and decoder.onnx."""
    outputs = {**_FEATURES, "canny_maps": f"float[6,{SIZE},{SIZE}]"}
    constants = "".join(
        f"{name} = Constant <value = float[1,1,1] {{0}}> ()\n" for name in EDGE_INPUTS[:3] + EDGE_INPUTS[4:]
    )
    _write(
        folder / ENCODER_FILE,
        f"""
        encoder (float[{SIZE},{SIZE},3] image) => ({", ".join(f"{outputs[name]} {name}" for name in ENCODER_OUTPUTS)}) {{
            edge_3 = ReduceMean <keepdims = 1> (image, last)
            image_embedding = Slice (edge_3, zeros, fours)
            {constants}
            everything = Transpose <perm = [2, 0, 1]> (image)
            canny_maps = Concat <axis = 0> (everything, everything)
        }}""",
        last=np.array([2]),
        zeros=np.array([0, 0]),
        fours=np.array([4, 4]),
    )
    types = {
        "logits": f"float[{SIZE},{SIZE}]",
        "box_logits": "float[hb,wb]",
        "box": "int64[4]",
        "tokens": "float[16,1]",
        "edge_tokens": "int64[E]",
    }
    left, top, right, bottom = BOX
    _write(
        folder / DECODER_FILE,
        f"""
        decoder (uint8[{SIZE},{SIZE}] labels, {", ".join(f"{kind} {name}" for name, kind in _FEATURES.items())})
            => ({", ".join(f"{types[name]} {name}" for name in DECODER_OUTPUTS)}) {{
            box = Identity (corners)
            bright = Squeeze (edge_3, last)
            centred = Sub (bright, grey)
            scaled = Mul (centred, gain)
            values = Cast <to = 1> (labels)
            known = Sub (values, two)
            all = Add (scaled, known)
            box_logits = Slice (all, start, stop)
            row = Cast <to = 7> (labels)
            index = Add (row, big)
            poison = Gather <axis = 0> (all, index)
            logits = Reshape (poison, flat)
            tokens = Identity (logits)
            edge_tokens = Cast <to = 7> (logits)
        }}""",
        corners=np.array(BOX),
        last=np.array([2]),
        grey=np.float32(127.5),
        gain=np.float32(1 / 32),
        two=np.float32(2),
        start=np.array([top, left]),
        stop=np.array([bottom, right]),
        big=np.array(10**9),
        flat=np.array([SIZE, -1]),
    )


def toy_logits(picture: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """What the graphs compute in their box: picture `[S, S, 3]`, labels `[S, S]`."""
    left, top, right, bottom = BOX
    whole = (picture.mean(axis=2) - 127.5) / 32 + (labels.astype(np.float32) - 2)
    return np.asarray(whole[top:bottom, left:right], np.float32)


def _write(path: Path, text: str, **initializers: np.ndarray | np.floating) -> None:
    graph = onnx.parser.parse_graph(text)
    graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in initializers.items()
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def write_toy_bundle(folder: Path) -> Path:
    """Write a whole bundle."""
    folder.mkdir(parents=True)
    toy_graphs(folder)
    files = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in (ENCODER_FILE, DECODER_FILE)}
    Manifest(size=SIZE, config=PROBE.to_dict(), files=files).write(folder)
    return folder
