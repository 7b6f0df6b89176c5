"""A bundle without a model: graphs of a few nodes with the contract's names, for what does not depend on the numbers.

Foreground is what is bright, or was labelled so. `logits`, which the runtime must not compute, fails if it does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx.parser

from inter2former_deploy.core.contract import (
    BLANK_INPUTS,
    DECODER_FILE,
    DECODER_OUTPUTS,
    EDGE_INPUTS,
    ENCODER_FILE,
    ENCODER_OUTPUTS,
)
from inter2former_deploy.core.manifest import Manifest
from inter2former_deploy.families.inter2former.config import PROBE

SIZE = 64
BOX = (16, 0, 64, 48)

FEATURES = {"image_embedding": "float[4,4,1]"} | dict.fromkeys((*BLANK_INPUTS, *EDGE_INPUTS), "float[1,1,1]")
FEATURES["edge_3"] = f"float[{SIZE},{SIZE},1]"  # brightness
TYPES = FEATURES | {
    "canny_maps": f"float[3,{SIZE},{SIZE}]",
    "logits": f"float[{SIZE},{SIZE}]",
    "box_logits": "float[hb,wb]",
    "box": "int64[4]",
    "tokens": "float[16,1]",
    "edge_tokens": "int64[E]",
}


def write_toy_bundle(folder: Path, *, gain: float = 1 / 32, decoder_names: Mapping[str, str] | None = None) -> Path:
    """Make a folder with a whole bundle.

    Args:
        folder: to be made.
        gain: of brightness; another one makes another decoder.
        decoder_names: new names of the decoder's inputs and outputs.
    """
    folder.mkdir(parents=True)
    _write_encoder(folder / ENCODER_FILE)
    _write_decoder(folder / DECODER_FILE, gain, decoder_names or {})
    files = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in (ENCODER_FILE, DECODER_FILE)}
    Manifest(size=SIZE, config=PROBE.to_dict(), files=files, opset=18).write(folder)
    return folder


def toy_logits(picture: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """What the graphs compute in their box: picture `[S, S, 3]`, labels `[S, S]`."""
    left, top, right, bottom = BOX
    whole = (picture.mean(axis=2) - 127.5) / 32 + (labels.astype(np.float32) - 2)
    return np.asarray(whole[top:bottom, left:right], np.float32)


def _declared(names: tuple[str, ...]) -> str:
    return ", ".join(f"{TYPES[name]} {name}" for name in names)


def _write_encoder(path: Path) -> None:
    unused = [
        f"{name} = Constant <value = float[1,1,1] {{0}}> ()"
        for name in (*BLANK_INPUTS, *EDGE_INPUTS)
        if name != "edge_3"
    ]
    _write(
        path,
        f"""
        encoder (float[{SIZE},{SIZE},3] image) => ({_declared(ENCODER_OUTPUTS)}) {{
            edge_3 = ReduceMean <keepdims = 1> (image, last)
            image_embedding = Slice (edge_3, zeros, fours)
            canny_maps = Transpose <perm = [2, 0, 1]> (image)
            {" ".join(unused)}
        }}""",
        last=np.array([2]),
        zeros=np.array([0, 0]),
        fours=np.array([4, 4]),
    )


def _write_decoder(path: Path, gain: float, names: Mapping[str, str]) -> None:
    left, top, right, bottom = BOX
    text = f"""
        decoder (uint8[{SIZE},{SIZE}] labels, {_declared(tuple(FEATURES))}) => ({_declared(DECODER_OUTPUTS)}) {{
            box = Identity (corners)
            bright = Squeeze (edge_3, last)
            centred = Sub (bright, grey)
            scaled = Mul (centred, gain)
            values = Cast <to = 1> (labels)
            known = Sub (values, two)
            all = Add (scaled, known)
            box_logits = Slice (all, start, stop)
            row = Cast <to = 7> (labels)
            outside = Add (row, huge)
            failing = Gather <axis = 0> (all, outside)
            logits = Reshape (failing, flat)
            tokens = Identity (logits)
            edge_tokens = Cast <to = 7> (logits)
        }}"""
    for old, new in names.items():
        text = text.replace(old, new)
    _write(
        path,
        text,
        corners=np.array(BOX),
        last=np.array([2]),
        grey=np.float32(127.5),
        gain=np.float32(gain),
        two=np.float32(2),
        start=np.array([top, left]),
        stop=np.array([bottom, right]),
        huge=np.array(10**9),
        flat=np.array([SIZE, -1]),
    )


def _write(path: Path, text: str, **initializers: np.ndarray | np.floating) -> None:
    graph = onnx.parser.parse_graph(text)
    graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in initializers.items()
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)
