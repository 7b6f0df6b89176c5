"""A bundle without a model: graphs of a few nodes with the contract's names, for what does not depend on the numbers.

Foreground is what is bright, or was labelled so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser

from inter2former_deploy import families
from inter2former_deploy.core.manifest import DecoderEntry, EncoderEntry, GraphEntry, Manifest, sha256
from inter2former_deploy.families.inter2former.config import PROBE
from inter2former_deploy.families.inter2former.interface import PREPARED

SIZE = 64
BOX = (16, 0, 64, 48)
NAME = "toy"

EMBEDDING = {"image_embedding": "float[4,4,1]"}
PREPARED_TYPES = dict.fromkeys(PREPARED, "float[1,1,1]") | {"edge_3": f"float[{SIZE},{SIZE},1]"}  # brightness
CLICK_TYPES = {"box_logits": "float[box_height,box_width]", "box": "int64[4]"}


def write_toy_bundle(
    folder: Path, *, gain: float = 1 / 32, click_names: Mapping[str, str] | None = None, encoder: float = 1
) -> Path:
    """Make a folder with a whole bundle.

    Args:
        folder: to be made.
        gain: of brightness; another one makes another decoder.
        click_names: new names of the click graph's inputs and outputs, of which the manifest does not know.
        encoder: a number that it multiplies with; another one makes another encoder.
    """
    folder.mkdir(parents=True)
    _write_encoder(folder / "encoder.onnx", encoder)
    of_family = families.interface("inter2former")
    graph = _entry(folder, "encoder.onnx")
    manifest = Manifest(
        family="inter2former",
        size=SIZE,
        encoder=EncoderEntry(graph=graph, weights_sha256="0" * 64, kept=list(of_family.KEPT)),
        decoders={NAME: write_toy_decoder(folder, NAME, gain, click_names)},
        preprocessing=of_family.preprocessing(),
        prompts=of_family.prompts(),
        postprocessing=of_family.postprocessing(),
    )
    manifest.write(folder)
    return folder


def add_toy_decoder(folder: Path, name: str, gain: float) -> None:
    """Add a decoder to a bundle, or replace one."""
    manifest = Manifest.read(folder)
    entry = write_toy_decoder(folder, name, gain)
    replace(manifest, decoders=manifest.decoders | {name: entry}).write(folder)


def write_toy_decoder(folder: Path, name: str, gain: float, names: Mapping[str, str] | None = None) -> DecoderEntry:
    (folder / name).mkdir(exist_ok=True)
    _write_prepare(folder / name / "prepare.onnx")
    _write_click(folder / name / "click.onnx", gain, {})
    click = _entry(folder, f"{name}/click.onnx")
    if names:
        _write_click(folder / name / "click.onnx", gain, names)
        click = replace(click, sha256=sha256(folder / click.file))
    return DecoderEntry(config=PROBE.to_dict(), prepare=_entry(folder, f"{name}/prepare.onnx"), click=click)


def _entry(folder: Path, file: str) -> GraphEntry:
    """What the manifest states of a graph, as it is."""

    def told(value: onnx.ValueInfoProto) -> dict[str, Any]:
        kind = value.type.tensor_type
        sizes = [d.dim_param or d.dim_value for d in kind.shape.dim]
        return {"type": str(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)), "shape": sizes, "sizes": sizes}

    graph = onnx.load(folder / file).graph
    inputs, outputs = ({value.name: told(value) for value in values} for values in (graph.input, graph.output))
    return GraphEntry(file=file, sha256=sha256(folder / file), inputs=inputs, outputs=outputs)


def toy_logits(picture: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """What the graphs compute in their box: picture `[S, S, 3]`, labels `[S, S]`."""
    left, top, right, bottom = BOX
    whole = (picture.mean(axis=2) - 127.5) / 32 + (labels.astype(np.float32) - 2)
    return np.asarray(whole[top:bottom, left:right], np.float32)


def _declared(types: Mapping[str, str]) -> str:
    return ", ".join(f"{kind} {name}" for name, kind in types.items())


def _write_encoder(path: Path, factor: float) -> None:
    _write(
        path,
        f"""
        encoder (float[{SIZE},{SIZE},3] image) => ({_declared(EMBEDDING)}) {{
            brightness = ReduceMean <keepdims = 1> (image, last)
            corner = Slice (brightness, zeros, fours)
            image_embedding = Mul (corner, factor)
        }}""",
        last=np.array([2]),
        zeros=np.array([0, 0]),
        fours=np.array([4, 4]),
        factor=np.float32(factor),
    )


def _write_prepare(path: Path) -> None:
    unused = [f"{name} = Constant <value = float[1,1,1] {{0}}> ()" for name in PREPARED if name != "edge_3"]
    _write(
        path,
        f"""
        prepare (float[{SIZE},{SIZE},3] image, {_declared(EMBEDDING)}) => ({_declared(PREPARED_TYPES)}) {{
            edge_3 = ReduceMean <keepdims = 1> (image, last)
            {" ".join(unused)}
        }}""",
        last=np.array([2]),
    )


def _write_click(path: Path, gain: float, names: Mapping[str, str]) -> None:
    left, top, right, bottom = BOX
    inputs = _declared(EMBEDDING | PREPARED_TYPES)
    text = f"""
        click (uint8[{SIZE},{SIZE}] labels, {inputs}) => ({_declared(CLICK_TYPES)}) {{
            box = Identity (corners)
            bright = Squeeze (edge_3, last)
            centred = Sub (bright, grey)
            scaled = Mul (centred, gain)
            values = Cast <to = 1> (labels)
            known = Sub (values, two)
            all = Add (scaled, known)
            box_logits = Slice (all, start, stop)
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
    )


def _write(path: Path, text: str, **initializers: np.ndarray | np.floating) -> None:
    graph = onnx.parser.parse_graph(text)
    graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in initializers.items()
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)
