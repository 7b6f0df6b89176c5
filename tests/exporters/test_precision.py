"""Reduced precision of the encoder: which layers are rewritten, what they compute, and the gate before a bundle."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import pytest
from graphs import exported
from operators import twins

from inter2former_deploy.core.contract import ENCODER_FILE, MANIFEST_FILE
from inter2former_deploy.core.errors import BundleError, ExportMismatchError
from inter2former_deploy.core.manifest import Manifest
from inter2former_deploy.exporters import agreement, bundle, parity
from inter2former_deploy.exporters import precision as precision_module
from inter2former_deploy.exporters.agreement import make_scenes, pictures_for
from inter2former_deploy.exporters.bundle import add_decoder, export_bundle, verify_bundle
from inter2former_deploy.exporters.precision import EDGES, count_layers, quantize_weight, reduce_precision
from inter2former_deploy.families import interface
from inter2former_deploy.families.inter2former import gate
from inter2former_deploy.families.inter2former.config import DEMO, PROBE
from inter2former_deploy.families.inter2former.modules.model import Inter2Former

SIZE = 128
TWINS: dict[str, Any] = {"bf16": twins.bf16_linear, "int8": twins.int8_linear}


@pytest.fixture(scope="module")
def graphs(probe_model: Inter2Former) -> dict[str, onnx.ModelProto]:
    return {name: exported(probe_model, name, size=SIZE) for name in ("encoder", "prepare", "click")}  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_every_layer_of_the_encoder_is_reduced(graphs: dict[str, onnx.ModelProto], precision: Any) -> None:
    """Four a block, two of them its MLP, and two a fusion, one for each map."""
    encoder = graphs["encoder"]
    reduced = reduce_precision(encoder, precision)
    assert count_layers(reduced) == 4 * PROBE.encoder.depth + 2 * len(PROBE.encoder.fusion_after)
    assert count_layers(encoder) == 0
    kinds = Counter(node.op_type for node in reduced.graph.node)
    assert kinds["Gelu"] == 0
    assert kinds[f"{precision.capitalize()}Mlp"] == PROBE.encoder.depth
    norms, maps = kinds["Int8NormLinear"] + kinds["Bf16NormLinear"], len(PROBE.encoder.fusion_after)
    assert norms == PROBE.encoder.depth + 2 * maps
    assert kinds[f"{precision.capitalize()}LinearAdd"] == PROBE.encoder.depth
    assert kinds["LayerNormalization"] == maps + 1  # behind the layers
    assert [x.name for x in reduced.graph.output] == [x.name for x in encoder.graph.output]
    first = next(node for node in reduced.graph.node if node.op_type.endswith("Linear"))
    assert first.op_type == "Bf16NormLinear"  # whatever the precision
    assert not kinds.keys() & {"NormLinear", "NormLinearGelu", "LinearAdd", "WindowAttention"}
    assert kinds["Bf16WindowAttention"] == PROBE.encoder.depth
    used = {name for node in reduced.graph.node for name in node.input}
    assert {x.name for x in reduced.graph.initializer} <= used


def test_files_become_smaller() -> None:
    """Nearly all weights of a large encoder are in its linear layers."""
    encoder = exported(Inter2Former(DEMO), "encoder", size=SIZE)
    sizes = {precision: reduce_precision(encoder, precision).ByteSize() for precision in TWINS}
    weights = sum(x.ByteSize() for x in encoder.graph.initializer if "val" in x.name or "backbone" in x.name)
    assert encoder.ByteSize() - sizes["bf16"] > 0.4 * weights
    assert encoder.ByteSize() - sizes["int8"] > 0.6 * weights


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_the_embedding_stays_close(
    graphs: dict[str, onnx.ModelProto], run_graph: Any, run_plain: Any, precision: Any, assert_close: Any
) -> None:
    (scene,) = make_scenes(interface("inter2former"), SIZE, 1)
    feeds = {"image": scene.picture}
    expected = run_plain(graphs["encoder"], feeds)
    actual = run_graph(reduce_precision(graphs["encoder"], precision), feeds)
    assert_close(actual["image_embedding"], expected["image_embedding"], f"{precision} embedding")
    assert (actual["image_embedding"] != expected["image_embedding"]).mean() > 0.9


NORM = "LayerNormalization <epsilon = 0.25>"
LAYERS = {  # as exporters and optimisers write a linear layer of x [2, 5, 80] or [10, 80], and what is left of it
    "bias, gelu": ("[2,5,80]", "s = MatMul (x, w) t = Add (s, b) y = Gelu (t)", "Reshape Reshape", True),
    "bias first": ("[2,5,80]", "s = MatMul (x, w) y = Add (b, s)", "Reshape Reshape", False),
    "no bias": ("[10,80]", "y = MatMul (x, w)", "", False),
    "gemm": ("[10,80]", "y = Gemm (x, w, b)", "", False),
    "gemm without bias": ("[10,80]", "y = Gemm <transB = 1> (x, v)", "", False),
    "gemm, transposed": ("[10,80]", "y = Gemm <transB = 1> (x, v, b)", "", False),
    "result used twice": ("[10,80]", "s = MatMul (x, w) t = Add (s, b) u = Gelu (t) y = Add (t, u)", "Gelu Add", False),
    "tanh": ("[10,80]", 's = MatMul (x, w) t = Add (s, b) y = Gelu <approximate = "tanh"> (t)', "Gelu", False),
    "added map": ("[10,80]", "s = MatMul (x, w) y = Add (s, m)", "Add", False),
    "norm": ("[10,80]", "y = inter2former.NormLinear <epsilon = 0.25> (x, p, q, v, b)", "", False),
    "norm, gelu": ("[10,80]", "y = inter2former.NormLinearGelu <epsilon = 0.25> (x, p, q, v, b)", "", True),
    "residual": ("[10,80]", "y = inter2former.LinearAdd (x, m, v, b)", "", False),
    "standard norm": ("[10,80]", f"n = {NORM} (x, p, q) y = Gemm <transB = 1> (n, v, b)", "", False),
    "norm of a map": (
        "[2,5,80]",
        f"n = {NORM.replace('<', '<axis = 2, ')} (x, p, q) r = Reshape (n, R) s = MatMul (r, w) t = Add (s, b) "
        "u = Gelu (t) y = Reshape (u, Y)",
        "Reshape Reshape",
        True,
    ),
    "norm used twice": (
        "[10,80]",
        f"n = {NORM} (x, p, q) s = MatMul (n, w) t = ReduceSum <keepdims = 1> (n, A) y = Add (s, t)",
        "LayerNormalization ReduceSum Add",
        False,
    ),
    "norm without shift": ("[10,80]", f"n = {NORM} (x, p) y = MatMul (n, w)", "LayerNormalization", False),
    "norm of longer rows": (
        "[10,80]",
        f"l = Reshape (x, W) n = {NORM} (l, P, Q) r = Reshape (n, R) y = MatMul (r, w)",
        "Reshape LayerNormalization Reshape",
        False,
    ),
    "norm of all rows": (
        "[10,80]",
        f"n = {NORM.replace('<', '<axis = 0, ')} (x, M, M) y = MatMul (n, w)",
        "LayerNormalization",
        False,
    ),
}


@pytest.mark.parametrize("precision", ["bf16", "int8"])
@pytest.mark.parametrize("layer", LAYERS)
def test_layers(layer: str, precision: Any, run_graph: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision_module, "BF16_LAYERS", 0)
    shape, text, left, gelu = LAYERS[layer]
    rng = np.random.default_rng(7)
    weight = rng.standard_normal((60, 80), np.float32)
    arrays = {
        "w": np.ascontiguousarray(weight.T),
        "v": weight,
        "b": rng.standard_normal(60, np.float32),
        "m": rng.standard_normal((10, 60), np.float32),
        "p": rng.standard_normal(80, np.float32),
        "q": rng.standard_normal(80, np.float32),
        "P": rng.standard_normal(160, np.float32),
        "Q": rng.standard_normal(160, np.float32),
        "M": rng.standard_normal((10, 80), np.float32),
        "A": np.array([1]),
        "W": np.array([5, 160]),
        "R": np.array([10, 80]),
        "Y": np.array([2, 5, 60]),
    }
    graph = onnx.parser.parse_graph(f"g (float{shape} x) => (float{shape.replace('80', '60')} y) {{ {text} }}")
    used = {name for node in graph.node for name in node.input}
    graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in arrays.items() if n in used)
    opsets = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid("inter2former", 1)]
    model = onnx.shape_inference.infer_shapes(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10))
    reduced = reduce_precision(model, precision)
    kinds = [node.op_type for node in reduced.graph.node if node.domain == ""]
    assert " ".join(kinds) == left
    assert count_layers(reduced) == 1

    x = rng.standard_normal([int(n) for n in shape[1:-1].split(",")], np.float32)
    rows = x.reshape(10, 80)
    norm = "norm" in layer
    if norm:
        shape_of = {"norm of longer rows": (5, 160, "P", "Q"), "norm of all rows": (1, 800, "M", "M")}
        n, width, scale, shift = shape_of.get(layer, (10, 80, "p", "q"))
        shifts = arrays[shift].reshape(-1) * (layer != "norm without shift")
        rows = twins.layer_norm(rows.reshape(n, width), arrays[scale].reshape(-1), shifts, 0.25, np.float32).reshape(
            10, 80
        )
    bias = arrays["b"] if "b" in used else np.zeros(60, np.float32)
    parameters = quantize_weight(weight) if precision == "int8" else (weight.astype(ml_dtypes.bfloat16),)
    y = TWINS[precision](rows, *parameters, bias, activation="gelu" if gelu else "none")
    y = y + arrays["m"] if "m" in used else y
    if layer == "result used twice":
        y = y + twins.activated(y, "gelu")
    if layer == "norm used twice":
        y = y + rows.sum(1, keepdims=True)
    if layer == "tanh":
        y = y / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
    actual = run_graph(reduced, {"x": x})["y"].reshape(10, 60)
    # A norm rounds differently here and there, which may move a value to the neighbouring code.
    np.testing.assert_allclose(actual, y, rtol=0, atol=(3e-2 if norm else 2e-5) * np.abs(y).max())


MLPS = {  # two layers of x [10, 80], and what becomes of them
    "mlp": ("h = NORM (x, p, q, v, b) y = ADD (h, x, w, c)", "Mlp"),
    "added to something else": ("h = NORM (x, p, q, v, b) y = ADD (h, m, w, c)", "NormLinearGelu LinearAdd"),
    "no activation": ("h = inter2former.NormLinear (x, p, q, v, b) y = ADD (h, x, w, c)", "NormLinear LinearAdd"),
    "hidden numbers used twice": (
        "h = NORM (x, p, q, v, b) z = ADD (h, x, w, c) r = ReduceSum <keepdims = 1> (h) y = Add (z, r)",
        "NormLinearGelu LinearAdd",
    ),
    "hidden numbers are the residual": (
        "h = NORM (x, p, q, e, d) k = NORM (h, p, q, e, d) y = ADD (h, k, e, d)",
        "NormLinearGelu NormLinearGelu LinearAdd",
    ),
    "a chain": (
        "h = NORM (x, p, q, v, b) k = ADD (h, x, w, c) l = NORM (k, p, q, v, b) y = ADD (l, k, w, c)",
        "Mlp Mlp",
    ),
}


@pytest.mark.parametrize("precision", ["bf16", "int8"])
@pytest.mark.parametrize("layers", MLPS)
def test_mlps(layers: str, precision: Any, run_graph: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two layers become one operator where they are an MLP around the same x, and compute the same as apart."""
    monkeypatch.setattr(precision_module, "BF16_LAYERS", 0)
    text, expected = MLPS[layers]
    text = text.replace("NORM", "inter2former.NormLinearGelu <epsilon = 0.25>").replace("ADD", "inter2former.LinearAdd")
    rng = np.random.default_rng(8)
    shapes = {"v": (60, 80), "b": (60,), "w": (80, 60), "c": (80,), "m": (10, 80), "p": (80,), "q": (80,)}
    shapes |= {"e": (80, 80), "d": (80,)}
    graph = onnx.parser.parse_graph(f"g (float[10,80] x) => (float[10,80] y) {{ {text} }}")
    used = {name for node in graph.node for name in node.input}
    arrays = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items() if name in used}
    graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in arrays.items())
    opsets = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid("inter2former", 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    reduced = reduce_precision(model, precision)
    prefix = precision.capitalize()
    kinds = [node.op_type.removeprefix(prefix) for node in reduced.graph.node if node.op_type.startswith(prefix)]
    assert " ".join(kinds) == expected
    assert count_layers(reduced) == sum(kind.count("Mlp") + 1 for kind in kinds)
    x = rng.standard_normal((10, 80), np.float32)
    y = run_graph(reduced, {"x": x})["y"]
    monkeypatch.setattr(precision_module, "_is_mlp", lambda *_: False)
    apart = reduce_precision(model, precision)
    assert not any(node.op_type.endswith("Mlp") for node in apart.graph.node)
    parts = run_graph(apart, {"x": x})["y"]
    # A norm rounds differently here and there, which may move a value to the neighbouring code.
    np.testing.assert_allclose(y, parts, rtol=0, atol=3e-2 * np.abs(parts).max())


def test_the_first_layers_stay_apart(run_graph: Any) -> None:
    """An MLP whose first layer is one of those that are in bfloat16 whatever the precision stays two layers."""
    text = "h = inter2former.NormLinearGelu (x, p, q, v, b) y = inter2former.LinearAdd (h, x, w, c)"
    graph = onnx.parser.parse_graph(f"g (float[10,80] x) => (float[10,80] y) <float[10,60] h> {{ {text} }}")
    rng = np.random.default_rng(9)
    shapes = {"v": (60, 80), "b": (60,), "w": (80, 60), "c": (80,), "p": (80,), "q": (80,)}
    for name, shape in shapes.items():
        graph.initializer.append(onnx.numpy_helper.from_array(rng.standard_normal(shape, np.float32), name))
    opsets = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid("inter2former", 1)]
    reduced = reduce_precision(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), "int8")
    kinds = [node.op_type for node in reduced.graph.node]
    assert kinds == ["Bf16NormLinearGelu", "Int8LinearAdd"]
    assert np.isfinite(run_graph(reduced, {"x": rng.standard_normal((10, 80), np.float32)})["y"]).all()


def test_nothing_to_reduce() -> None:
    graph = onnx.parser.parse_graph("g (float[2,3] x) => (float[2,3] y) { y = Relu (x) }")
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    with pytest.raises(ValueError, match="no linear layer that could be reduced"):
        reduce_precision(model, "int8")
    with pytest.raises(ValueError, match="precision must be bf16 or int8, got 'fp32'"):
        reduce_precision(model, "fp32")


def test_weights_at_the_ends_of_their_range() -> None:
    weight = np.float32([[1.27, -0.635, 0.005], [0, 0, 0], [-3e-5, 1e-5, 0]])
    codes, scale = quantize_weight(weight)
    np.testing.assert_array_equal(codes, [[127, -64, 0], [0, 0, 0], [-127, 42, 0]])
    np.testing.assert_allclose(scale, [0.01, 1, 3e-5 / 127], rtol=1e-6)


# ---- The gate.


def test_scenes() -> None:
    """Always the same, within range, with objects of both kinds; at every size the same scene."""
    scenes, again = (list(make_scenes(interface("inter2former"), 96, 6)) for _ in range(2))
    assert [scene.name for scene in scenes] == ["photograph", "real 1", "drawn 2", "real 3", "drawn 4", "real 5"]
    for scene, other in zip(scenes, again, strict=True):
        np.testing.assert_array_equal(scene.picture, other.picture)
        assert scene.picture.shape == (96, 96, 3)
        assert scene.picture.dtype == np.float32
        assert scene.picture.min() >= 0
        assert scene.picture.max() <= 255
        assert scene.picture.std() > 5
    for scene in scenes[1:]:
        assert 0.01 < scene.target.mean() < 0.5
        colours = [scene.picture[scene.target == value].mean(0) for value in (0, 1)]
        assert np.abs(colours[0] - colours[1]).max() > 3
    assert [pictures_for(size) for size in (256, 512, 1024, 2048)] == [20, 20, 10, 5]


@pytest.fixture
def one_picture(graphs: dict[str, onnx.ModelProto], monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports take the graphs that are there; gates of one picture and one click."""
    monkeypatch.setattr(parity, "SESSION", 1)
    monkeypatch.setattr(gate, "NOISE_DECODES", (0, 0))
    monkeypatch.setattr(agreement, "CLICKS", parity.CLICKS[:2])
    monkeypatch.setattr(agreement, "pictures_for", lambda _: 2)
    copies = {}
    for name, graph in graphs.items():
        copies[name] = onnx.ModelProto()
        copies[name].CopyFrom(graph)
    monkeypatch.setattr(bundle, "export_model", lambda _, name, **__: copies[name])


@pytest.mark.usefixtures("one_picture")
@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_a_bundle_says_how_well_masks_agree(probe_model: Inter2Former, tmp_path: Path, precision: Any) -> None:
    folder = tmp_path / "bundle"
    report = export_bundle(probe_model, folder, size=SIZE, precision=precision, min_iou=0.25, custom_ops=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle"]
    assert sorted(path.name for path in folder.iterdir()) == ["encoder.onnx", "manifest.json", "probe"]
    manifest = Manifest.read(folder)
    assert manifest.encoder.precision == precision
    agreement = manifest.decoder().agreement
    assert agreement is not None
    assert report.agreement is not None
    assert agreement == report.agreement.to_dict()
    assert agreement["min_iou"] == 0.25
    assert agreement["images"] == 2
    assert 0.25 <= agreement["mean_iou"] < 1
    assert 0 <= agreement["session_iou"] < 1
    assert count_layers(onnx.load(folder / ENCODER_FILE)) == agreement["layers"] == 24
    assert "mean IoU" in report.agreement.table()
    verified = verify_bundle(folder, probe_model, custom_ops=False)
    assert verified.passed
    (check,) = (check for check in verified.checks if check.tensor == f"masks in {precision}")
    assert (check.value, check.limit) == (1 - agreement["mean_iou"], 0.75)
    encoder = (folder / ENCODER_FILE).read_bytes()
    added = add_decoder(probe_model, folder, name="other", min_iou=0.25, custom_ops=False)
    assert added.agreement is not None
    assert added.agreement.mean_iou == agreement["mean_iou"]
    assert (folder / ENCODER_FILE).read_bytes() == encoder


@pytest.mark.usefixtures("one_picture")
def test_edges_go_back_to_float32_where_masks_disagree(
    probe_model: Inter2Former, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if they disagreed with all in bf16: the second comparison is of what is in the bundle."""
    measured: list[agreement.AgreementReport] = []

    def check(*arguments: Any, **settings: Any) -> agreement.AgreementReport:
        measured.append(agreement.check_agreement(*arguments, **settings))
        return replace(measured[-1], mean_iou=0.0) if len(measured) == 1 else measured[-1]

    monkeypatch.setattr(bundle, "check_agreement", check)
    report = export_bundle(probe_model, tmp_path / "b", size=SIZE, precision="bf16", min_iou=0.25, custom_ops=False)
    assert [found.edges for found in measured] == ["bf16", "fp32"]
    assert report.agreement == measured[1]
    prepare = onnx.load(tmp_path / "b" / report.manifest.decoder().prepare.file)
    kinds = {node.op_type for node in prepare.graph.node}
    assert kinds >= set(EDGES)
    assert not [kind for kind in kinds if kind.startswith("Bf16")]
    assert verify_bundle(tmp_path / "b", probe_model, custom_ops=False).passed


@pytest.mark.usefixtures("one_picture")
def test_a_decoder_in_bf16_over_an_encoder_in_float32(probe_model: Inter2Former, tmp_path: Path) -> None:
    report = export_bundle(
        probe_model, tmp_path / "b", size=SIZE, decoder_precision="bf16", min_iou=0.25, custom_ops=False
    )
    assert report.agreement is not None
    assert report.agreement.embedding_error == 0
    manifest = Manifest.read(tmp_path / "b")
    assert (manifest.encoder.precision, manifest.decoder().precision) == ("fp32", "bf16")
    kinds = {node.op_type for node in onnx.load(tmp_path / "b" / manifest.decoder().click.file).graph.node}
    assert {"Bf16HybridAttention", "Bf16HybridExperts", "Bf16LocalUpsample"} <= kinds
    assert not kinds & {"HybridAttention", "HybridExperts", "LocalUpsample"}
    assert verify_bundle(tmp_path / "b", probe_model, custom_ops=False).passed


@pytest.mark.usefixtures("one_picture")
def test_masks_that_differ_leave_no_bundle(probe_model: Inter2Former, tmp_path: Path) -> None:
    message = (
        r"in int8, masks agree with fp32 to a mean IoU of 0\.\d+ over \d+ clicks on 2 pictures, 1 is asked for: .*--min"
    )
    with pytest.raises(ExportMismatchError, match=message) as caught:
        export_bundle(probe_model, tmp_path / "b", size=SIZE, precision="int8", min_iou=1.0, custom_ops=False)
    assert not caught.value.report.passed  # type: ignore[attr-defined]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("one_picture")
def test_an_encoder_that_was_exchanged_does_not_verify(probe_model: Inter2Former, tmp_path: Path) -> None:
    """Noise in the weights, the checksums made to fit: masks tell."""
    folder = tmp_path / "bundle"
    export_bundle(probe_model, folder, size=SIZE, precision="bf16", min_iou=0.25, custom_ops=False)
    graph = onnx.load(folder / ENCODER_FILE)
    for entry in graph.graph.initializer:
        if entry.name.endswith(".bf16"):
            entry.raw_data = entry.raw_data[::-1]
    onnx.save(graph, folder / ENCODER_FILE)
    data = (folder / MANIFEST_FILE).read_text()
    old, new = Manifest.read(folder).encoder.graph.sha256, bundle.sha256(folder / ENCODER_FILE)
    (folder / MANIFEST_FILE).write_text(data.replace(old, new).replace('"min_iou": 0.25', '"min_iou": 0.9'))
    assert not verify_bundle(folder, probe_model, custom_ops=False).passed


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": "fp16"}, "precision must be one of fp32, bf16, int8, got 'fp16'"),
        ({"min_iou": 0.9}, "min_iou is a limit of reduced precision"),
        ({"precision": "int8", "min_iou": 1.5}, r"min_iou must be 0 to 1, got 1\.5"),
    ],
)
def test_bad_settings(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        export_bundle(None, tmp_path / "bundle", config=PROBE, size=SIZE, **settings)


@pytest.mark.usefixtures("one_picture")
def test_an_unknown_precision_in_a_manifest(probe_model: Inter2Former, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    export_bundle(probe_model, folder, size=SIZE, custom_ops=False)
    text = (folder / MANIFEST_FILE).read_text()
    assert '"precision": "fp32"' in text
    (folder / MANIFEST_FILE).write_text(text.replace('"precision": "fp32"', '"precision": "int4"'))
    with pytest.raises(BundleError, match="precision must be one of fp32, bf16, int8, got 'int4'"):
        Manifest.read(folder)
