"""Plain graphs in other runtimes, and after the tools that people run over ONNX files: they load, and masks stay."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx.reference
import onnxruntime
import pytest
from graphs import encoded, exposed
from numpy.typing import NDArray

from inter2former_deploy.core.contract import DOMAIN
from inter2former_deploy.core.prompts import Click
from inter2former_deploy.exporters.bodies import HELPER_DOMAIN, add_bodies, function_protos, inline_bodies
from inter2former_deploy.exporters.precision import reduce_precision
from inter2former_deploy.families.inter2former.config import PROBE, ModelConfig
from inter2former_deploy.families.inter2former.gate import paste_logits
from inter2former_deploy.families.inter2former.interface import CLICK_INPUTS, PICTURE
from inter2former_deploy.families.inter2former.labels import add_clicks, fold_prediction, unknown_labels
from inter2former_deploy.families.inter2former.modules.model import Inter2Former
from inter2former_deploy.operators.registry import OPERATORS

Array = NDArray[Any]
Runner = Callable[[Mapping[str, Array]], dict[str, Array]]
SIZE = 96
CLICKS = (Click(40, 44, True), Click(90, 80, False), Click(60, 30, True), Click(12, 90, False))


class Session(NamedTuple):
    """Graphs, and what plain onnxruntime gives for a picture and a session of clicks."""

    graphs: dict[str, onnx.ModelProto]  # encoder, prepare, click, with inner values as outputs
    picture: Array
    features: dict[str, Array]
    decodes: list[tuple[dict[str, Array], dict[str, Array]]]  # inputs and outputs


def plain(model: onnx.ModelProto, **options: Any) -> Runner:
    """The graph in plain onnxruntime; it is fed those inputs that it has left."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 2
    settings.log_severity_level = 3
    for name, value in options.items():
        setattr(settings, name, value)
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    inputs, outputs = ([x.name for x in values] for values in (session.get_inputs(), session.get_outputs()))
    return lambda feeds: dict(zip(outputs, session.run(None, {name: feeds[name] for name in inputs}), strict=True))


def model_of(config: ModelConfig, weights: Mapping[str, Any]) -> Inter2Former:
    model = Inter2Former(config)
    model.load_state_dict(weights)
    return model.eval()


@pytest.fixture(scope="module")
def session(probe_model: Inter2Former) -> Session:
    """The edge rule "exact": some tokens are edge tokens, so that experts get parts of unequal length, some none."""
    model = model_of(PROBE.with_decoder(edge_rule="exact"), probe_model.state_dict())
    graphs = {name: exposed(model, name, size=SIZE) for name in ("encoder", "prepare", "click")}  # type: ignore[arg-type]
    y, x = np.mgrid[:SIZE, :SIZE]
    waves = np.stack([128 + 60 * np.sin(x / 9 + k) * np.cos(y / 13 - k) for k in range(3)], axis=-1)
    noise = np.random.default_rng(3).normal(0, 6, waves.shape)
    picture = (waves + noise + 50 * ((x - 50) ** 2 + (y - 40) ** 2 < 900)[..., None]).clip(0, 255).astype(np.float32)
    features = encoded(lambda graph, feeds: plain(graph)(feeds), graphs["encoder"], graphs["prepare"], picture)
    features[PICTURE] = picture
    run = plain(graphs["click"])
    labels = unknown_labels(SIZE)
    decodes = []
    for click in CLICKS:
        add_clicks(labels, [click])
        inputs = {"labels": labels.copy(), **{name: features[name] for name in CLICK_INPUTS[1:]}}
        decodes.append((inputs, run(inputs)))
        fold_prediction(labels, whole(decodes[-1][1]) > 0)
    for value in (1, 2, 4):  # nothing, everything, and the object alone
        labels = np.full_like(labels, min(value, 2))
        if value == 4:
            labels[:], labels[30:70, 40:80], labels[50, 50] = 1, 3, 4
        inputs = {"labels": labels, **{name: features[name] for name in CLICK_INPUTS[1:]}}
        decodes.append((inputs, run(inputs)))
    edges = [len(outputs["edge_tokens"]) for _, outputs in decodes]
    assert edges[4] == 0
    assert 0 < edges[-1] < edges[5] == (SIZE // 16) ** 2
    return Session(graphs, picture, features, decodes)


def whole(outputs: Mapping[str, Array]) -> Array:
    return paste_logits(outputs["box_logits"], outputs["box"], SIZE)


def assert_same(session: Session, run: Callable[[onnx.ModelProto], Runner], assert_close: Any, **graphs: Any) -> None:
    """The tensors of the session, but for rounding; its masks pixel by pixel, its integers exactly."""
    graphs = session.graphs | graphs
    features = run(graphs["encoder"])({PICTURE: session.picture}) | {PICTURE: session.picture}
    features |= run(graphs["prepare"])(features)
    decode = run(graphs["click"])
    assert features.keys() == session.features.keys()
    for name, expected in session.features.items():
        if name == PICTURE:
            continue
        if name == "canny_maps":
            differs = np.abs(features[name] - expected) > 1e-5 * np.abs(expected).max(axis=(1, 2), keepdims=True)
            assert (differs.mean(axis=(1, 2)) <= (0, 0.02, 5e-4, 5e-4, 5e-4)).all()
        else:
            assert_close(features[name], expected, "encoder" if name == "image_embedding" else "edge features")
    for inputs, expected in session.decodes:
        outputs = decode(inputs)
        assert outputs.keys() == expected.keys()
        for name, tensor in expected.items():
            if tensor.dtype == np.int64:
                np.testing.assert_array_equal(outputs[name], tensor, err_msg=name)
            else:
                assert_close(outputs[name], tensor, "neck" if name == "tokens" else "upsampling")
        actual, logits = whole(outputs), whole(expected)
        unsure = np.abs(logits) < 1e-5 * np.abs(logits).max()
        assert unsure.mean() < 1e-3
        assert (((actual > 0) == (logits > 0)) | unsure).all()


# ---- What graphs are made of.


def all_functions() -> Iterator[onnx.FunctionProto]:
    """Of every operator, each once."""
    names = [name for operator in OPERATORS.values() for name in operator.operators]
    for opset in (18, 24):
        yield from function_protos(opset, names, {"qkv": 5000, "expert_bias": 3})


def assert_plain_tensors(nodes: Any, where: str) -> None:
    """No subgraphs, sequences, optionals, strings but the standard's own settings, and constants as tensors only."""
    for node in nodes:
        what = f"{node.op_type} in {where}"
        assert not any(kind in node.op_type for kind in ("Sequence", "Optional")), what
        assert node.op_type not in ("If", "Loop", "Scan", "CastLike"), what
        for attribute in node.attribute:
            assert attribute.type not in (
                onnx.AttributeProto.GRAPH,
                onnx.AttributeProto.GRAPHS,
                onnx.AttributeProto.STRINGS,
            ), what
            if attribute.type == onnx.AttributeProto.STRING:
                assert node.domain == "", what  # such as how Resize rounds
            if attribute.type == onnx.AttributeProto.TENSOR:
                assert attribute.t.data_type != onnx.TensorProto.STRING, what
            if node.op_type == "Constant":
                assert attribute.name == "value" or attribute.ref_attr_name, what


def test_bodies_are_plain_and_use_all_that_they_declare() -> None:
    for function in all_functions():
        assert_plain_tensors(function.node, function.name)
        used = {name for node in function.node for name in node.input}
        assert set(function.input) <= used | set(function.output), f"{function.name} ignores an input"
        read = {attribute.ref_attr_name for node in function.node for attribute in node.attribute}
        declared = {*function.attribute, *(attribute.name for attribute in function.attribute_proto)}
        assert declared <= read, f"{function.name} ignores an attribute"
        made = [name for node in function.node for name in node.output]
        assert len(made) == len(set(made))
        assert set(function.output) <= set(made)


def test_functions_come_after_those_that_they_call() -> None:
    known: set[tuple[str, str]] = set()
    names = [name for operator in OPERATORS.values() for name in operator.operators]
    for function in function_protos(20, names, {"qkv": 64, "expert_bias": 2}):
        called = {(x.domain, x.op_type) for x in function.node if x.domain in (DOMAIN, HELPER_DOMAIN)}
        assert called <= known, function.name
        assert called == set() or {x.domain for x in function.opset_import} >= {domain for domain, _ in called}
        known.add((function.domain, function.name))


def test_graphs_carry_the_bodies_that_they_need(session: Session) -> None:
    for model in (*session.graphs.values(), reduce_precision(session.graphs["encoder"], "int8")):
        assert_plain_tensors(model.graph.node, model.graph.name)
        called = {(x.domain, x.op_type) for x in model.graph.node if x.domain}
        for function in model.functions:
            assert_plain_tensors(function.node, function.name)
            called |= {(x.domain, x.op_type) for x in function.node if x.domain}
        assert called == {(function.domain, function.name) for function in model.functions}
        for node in model.graph.node:
            assert node.domain != DOMAIN or "" not in node.input, f"{node.op_type} leaves an input out"


def test_bodies_for_other_sizes_are_refused(session: Session) -> None:
    """More tokens or experts than a body was made for: it fails when it runs."""
    inputs, _ = session.decodes[5]
    for sizes in ({"qkv": 1, "expert_bias": 8}, {"qkv": 64, "expert_bias": 7}):
        model = onnx.ModelProto()
        model.CopyFrom(session.graphs["click"])
        del model.functions[:]
        used = {node.op_type for node in model.graph.node if node.domain == DOMAIN}
        bodies_of = function_protos(20, used, sizes)
        if sizes["qkv"] == 1:  # a block of one query
            (blocks,) = (f for f in bodies_of if f.name == "AttendInBlocks")
            end = next(node for node in blocks.node if node.output[0].startswith("at_") and node.output[0] != "at_0")
            end.attribute[0].CopyFrom(onnx.helper.make_attribute("value", onnx.numpy_helper.from_array(np.array([1]))))
        model.functions.extend(bodies_of)
        with pytest.raises(Exception, match=r"Reshape|ScatterND"):
            plain(model)(inputs)


def test_sizes_must_be_known(session: Session) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(session.graphs["click"])
    del model.graph.value_info[:]
    with pytest.raises(ValueError, match="has no known shape"):
        add_bodies(model)


# ---- Tools.


def optimized(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    path = folder / "optimized.onnx"
    level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    plain(model, optimized_model_filepath=str(path), graph_optimization_level=level)
    return onnx.load(path)


def checked(model: onnx.ModelProto, _: Path) -> onnx.ModelProto:
    onnx.checker.check_model(model, full_check=True)
    return model


def inferred(model: onnx.ModelProto, _: Path) -> onnx.ModelProto:
    return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)


def without_functions(model: onnx.ModelProto, _: Path) -> onnx.ModelProto:
    bare = inline_bodies(model)
    assert not bare.functions
    assert [entry.domain for entry in bare.opset_import] == [""]
    assert_plain_tensors(bare.graph.node, bare.graph.name)
    return bare


def slimmed(model: onnx.ModelProto, _: Path) -> onnx.ModelProto:
    onnxslim = pytest.importorskip("onnxslim", reason="onnxslim is not installed: pip install onnxslim")
    slim: onnx.ModelProto = onnxslim.slim(model)
    return slim


def simplified(model: onnx.ModelProto, _: Path) -> onnx.ModelProto:
    onnxsim = pytest.importorskip("onnxsim", reason="onnxsim is not installed: pip install onnxsim")
    simple, same = onnxsim.simplify(model)
    assert same
    result: onnx.ModelProto = simple
    return result


def through_onnxoptimizer(model: onnx.ModelProto, _: Path) -> onnx.ModelProto:
    optimizer = pytest.importorskip("onnxoptimizer", reason="onnxoptimizer is not installed: pip install onnxoptimizer")
    result: onnx.ModelProto = optimizer.optimize(model)
    return result


TOOLS = {
    "optimized by onnxruntime": optimized,
    "checker": checked,
    "shape inference": inferred,
    "inline": without_functions,
    "onnxslim": slimmed,
    "onnxsim": simplified,
    "onnxoptimizer": through_onnxoptimizer,
}


@pytest.mark.parametrize(
    "tools",
    [
        *((tool,) for tool in TOOLS),
        *(("inline", tool) for tool in ("shape inference", "onnxslim", "onnxsim", "onnxoptimizer")),
    ],
    ids=" then ".join,
)
@pytest.mark.filterwarnings("ignore")  # what tools say about themselves
def test_tools_change_no_mask(session: Session, tools: tuple[str, ...], tmp_path: Path, assert_close: Any) -> None:
    graphs = session.graphs
    for tool in tools:
        copies = {name: onnx.ModelProto() for name in graphs}
        for name, copy in copies.items():
            copy.CopyFrom(graphs[name])
        graphs = {name: TOOLS[tool](copy, tmp_path) for name, copy in copies.items()}
    assert_same(session, plain, assert_close, **graphs)


# ---- Other runtimes.


def reference(model: onnx.ModelProto) -> Runner:
    evaluator = onnx.reference.ReferenceEvaluator(model)

    def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
        with np.errstate(divide="ignore"):  # the logarithm of no key
            results = evaluator.run(None, {name: feeds[name] for name in evaluator.input_names})
        return dict(zip(evaluator.output_names, results, strict=True))

    return run


def test_reference_evaluator(session: Session, assert_close: Any) -> None:
    some = session._replace(decodes=[session.decodes[i] for i in (0, 4, 6)])
    assert_same(some, reference, assert_close)


def test_openvino(session: Session, assert_close: Any) -> None:
    """The inlined graphs in OpenVINO, float32, over the session of clicks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        openvino = pytest.importorskip(
            "openvino",
            reason="OpenVINO was NOT tested, it is not installed: pip install 'inter2former-deploy[openvino]'",
        )
    core = openvino.Core()

    def compiled(model: onnx.ModelProto) -> Runner:
        read = core.read_model(inline_bodies(model).SerializeToString())
        request = core.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

        def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
            results = request({name.get_any_name(): feeds[name.get_any_name()] for name in request.inputs})
            return {output.get_any_name(): results[output].copy() for output in request.outputs}

        return run

    assert_same(session, compiled, assert_close)
