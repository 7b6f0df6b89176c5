"""Every function body as a one-node model in plain onnxruntime, against the float64 twins."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from operators import test_cycle_scan as cycle_scan
from operators import test_few_tokens as few_tokens
from operators import test_low_rank as low_rank
from operators import test_mask_upscaling as mask_upscaling
from operators import test_reduced_precision_linear as reduced_precision_linear
from operators import test_reduced_precision_mlp as reduced_precision_mlp
from operators import twins
from operators.harness import assert_accurate, fed, one_node_model
from tolerances import TOLERANCES

from inter2former_deploy.exporters.bodies import HELPER_DOMAIN, HELPER_VERSION, MAX_OPSET, MIN_OPSET, function_protos

Array = NDArray[Any]
OPSETS = (MIN_OPSET, 20, 23, MAX_OPSET)
C, D, B, R, H = 24, 16, 5, 3, 8  # token width, attention width, code bits, routed experts, hidden width


def run(
    operator: str,
    inputs: Mapping[str, Array],
    *,
    constant: Collection[str] = (),
    opset: int = 23,
    which: int = 0,
    **attributes: object,
) -> Array:
    """One node, its body, no library; output `which`."""
    model = onnx.load_from_string(one_node_model(operator, inputs, constant, attributes))
    model.opset_import[0].version = opset
    model.opset_import.append(onnx.helper.make_opsetid(HELPER_DOMAIN, HELPER_VERSION))
    lengths = {name: len(x) for name, x in inputs.items() if x.ndim}
    model.functions.extend(function_protos(opset, [node.op_type for node in model.graph.node], lengths))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    result: Array = session.run(None, {name: fed(x) for name, x in inputs.items() if name not in constant})[which]
    return result


def normal(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> Array:
    return (scale * rng.standard_normal(shape)).astype(np.float32)


def label_maps(side: int) -> dict[str, Array]:
    """Maps of all kinds: uniform ones, blobs away from and at the border, single pixels, noise."""
    rng = np.random.default_rng(side)
    maps = {f"all {value}": np.full((side, side), value, np.uint8) for value in range(5)}
    for name, (rows, columns) in {
        "inside": (slice(side // 3, side // 2), slice(side // 2, side // 2 + 5)),
        "corner": (slice(0, 3), slice(side - 1, side)),
        "pixel": (slice(side - 17, side - 16), slice(16, 17)),
        "stripe": (slice(0, side), slice(side // 2, side // 2 + 1)),
    }.items():
        for value in (0, 2, 4):
            maps[f"{name} {value}"] = np.ones((side, side), np.uint8)
            maps[f"{name} {value}"][rows, columns] = value
    maps["two objects"] = maps["inside 4"].copy()
    maps["two objects"][-2:, :2] = 0
    maps["foreground with a hole"] = np.full((side, side), 3, np.uint8)
    maps["foreground with a hole"][side // 2, side // 2] = 0
    maps["noise"] = rng.integers(0, 5, (side, side), np.uint8)
    maps["block"] = np.ones((side, side), np.uint8)
    maps["block"][: side // 2, : side // 2] = rng.integers(0, 5, (side // 2, side // 2), np.uint8)
    return maps


@pytest.mark.parametrize("rule", ["released", "exact"])
@pytest.mark.parametrize("side", [16, 48, 112])
def test_edge_tokens(rule: Any, side: int) -> None:
    for name, labels in label_maps(side).items():
        edge = run("EdgeTokens", {"labels": labels}, rule=rule)
        np.testing.assert_array_equal(edge, twins.edge_tokens(labels, rule=rule), err_msg=name)
        assert edge.dtype == np.int64


@pytest.mark.parametrize("opset", OPSETS)
def test_opsets(opset: int) -> None:
    """All operators at every opset that the exporter offers."""
    rng = np.random.default_rng(opset)
    labels = label_maps(48)["block"]
    edge = run("EdgeTokens", {"labels": labels}, opset=opset, rule="exact")
    np.testing.assert_array_equal(edge, twins.edge_tokens(labels, rule="exact"))
    assert run("TokenBox", {"low_res": np.float32([[-3, 0], [-2, 1]])}, opset=opset).tolist() == [1, 0, 2, 2]
    prompt = prompt_inputs(rng, labels)
    assert_accurate(run("PromptEmbedding", prompt, opset=opset), twins.prompt_embedding, *prompt.values())
    attention = attention_inputs(rng, 3, 3, np.arange(0, 9, 2), quantizer="bsq")
    given = {"heads": 2, "grid_width": 3, "quantizer": "bsq"}
    out = run("HybridAttention", attention, opset=opset, **given)
    assert_accurate(out, twins.hybrid_attention, *attention.values(), **given)
    check_full_attention(attention["qkv"], opset, heads=2, grid_width=3)
    experts = expert_inputs(rng, 9, np.arange(0, 9, 2))
    out = run("HybridExperts", experts, opset=opset)
    assert_accurate(out, twins.hybrid_experts, *experts.values())
    np.testing.assert_array_equal(run("Bf16HybridExperts", experts, opset=opset), out)
    for operator, linear in (("NormLinear", norm_linear_inputs(rng, 9)), ("LinearAdd", linear_add_inputs(rng, 9))):
        assert_accurate(run(operator, linear, opset=opset), LINEAR[operator], *linear.values())
    upsample = upsample_inputs(rng, grid=3, box=(1, 0, 3, 2), pixels=2, channels=(4, 3))
    assert_accurate(run("LocalUpsample", upsample, opset=opset), twins.local_upsample, *upsample.values())
    for operator, (make, twin) in reduced_precision_linear.OPERATORS.items():
        linear = make(9, 8, 7)
        out = run(operator, linear, opset=opset, activation="gelu")
        assert_accurate(out, twin, *linear.values(), activation="gelu")
    for operator in reduced_precision_mlp.OPERATORS:
        check_mlp(operator, (9, 8, 7), opset=opset)
    windows = {"qkv": normal(rng, 12, 24), "padding": normal(rng, 1, 24)}
    maps = {"heads": 2, "window": 2, "heights": [3], "widths": [4], "offsets": [1]}
    out = run("WindowAttention", windows, opset=opset, **maps)
    assert_accurate(out, twins.window_attention, *windows.values(), **maps)
    np.testing.assert_array_equal(run("Bf16WindowAttention", windows, opset=opset, **maps), out)
    upscaling = mask_upscaling.make_inputs(2, 3, 6, 5, 3)
    assert_accurate(run("MaskUpscaling", upscaling, opset=opset), twins.mask_upscaling, *upscaling.values())
    to_tokens, to_image = few_tokens.image_to_token(5, 3, 4, 2, 3, 6), few_tokens.token_to_image(3, 5, 4, 2, 6)
    out = run("ImageToTokenAttention", to_tokens, opset=opset, heads=2)
    assert_accurate(out, twins.image_to_token_attention, *to_tokens.values(), heads=2)
    out = run("TokenToImageAttention", to_image, opset=opset, heads=2)
    assert_accurate(out, twins.token_to_image_attention, *to_image.values(), heads=2)
    box = run("LabelBox", {"labels": labels}, opset=opset)
    np.testing.assert_array_equal(box, twins.token_label_box(labels))
    for activation in ("none", "gated"):
        layer, given = low_rank.layer(9, 7, 4, 12, 0.4), {"channels": 12, "column": 2, "activation": activation}
        out = run("LowRankLinear", layer, opset=opset, **given)
        assert_accurate(out, twins.low_rank_linear, *layer.values(), **given)
    added = low_rank.sum_of(9, 7, 4, 0.4)
    assert_accurate(run("LowRankAdd", added, opset=opset, column=2), twins.low_rank_add, *added.values(), column=2)
    scan = cycle_scan.make_inputs([40, 3], 5, 2)
    out = run("CycleScan", scan, opset=opset, lengths=[40, 3])
    assert_accurate(out, twins.cycle_scan, *scan.values(), lengths=[40, 3])


@pytest.mark.parametrize("opset", [MIN_OPSET - 1, MAX_OPSET + 1])
def test_opset_out_of_range(opset: int) -> None:
    with pytest.raises(ValueError, match=f"opset must be {MIN_OPSET} to {MAX_OPSET}, got {opset}"):
        function_protos(opset, [])


def prompt_inputs(rng: np.random.Generator, labels: Array) -> dict[str, Array]:
    tokens = labels.shape[0] // 16
    widths = (5, 6, 8, 12, C)
    inputs = {"labels": labels, "embedding": normal(rng, tokens, tokens, C), "label_table": normal(rng, 5, 5)}
    for i, (before, after) in enumerate(pairwise(widths)):
        inputs |= {f"w{i}": normal(rng, after, before, 3, 3, scale=0.3), f"b{i}": normal(rng, after, scale=0.1)}
    return inputs


@pytest.mark.parametrize("dense", [0, 1])
def test_prompt_embedding(dense: int) -> None:
    rng = np.random.default_rng(3)
    for labels in label_maps(80).values():
        inputs = prompt_inputs(rng, labels)
        weights = [name for name in inputs if name not in ("labels", "embedding")]
        tokens = run("PromptEmbedding", inputs, constant=weights, dense=dense)
        assert_accurate(tokens, twins.prompt_embedding, *inputs.values(), dense=bool(dense))


def attention_inputs(
    rng: np.random.Generator, rows: int, columns: int, edge: Array, *, quantizer: str, scale: float = 1.0
) -> dict[str, Array]:
    return {
        "qkv": normal(rng, rows * columns, 3 * D, scale=scale),
        "edge_tokens": edge.astype(np.int64),
        "code_weight": normal(rng, B, D),
        "code_bias": normal(rng, B),
        "codewords": normal(rng, 2**B if quantizer == "bsq" else B, D),
    }


@pytest.mark.parametrize("quantizer", ["bsq", "vq"])
@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("share", [0.0, 0.03, 0.5, 1.0])
def test_hybrid_attention(quantizer: str, heads: int, share: float) -> None:
    rng = np.random.default_rng([heads, int(100 * share)])
    for rows, columns in ((1, 1), (7, 3), (25, 23)):
        edge = np.flatnonzero(rng.random(rows * columns) < share)
        inputs = attention_inputs(rng, rows, columns, edge, quantizer=quantizer, scale=2.0)
        given = {"heads": heads, "grid_width": columns, "quantizer": quantizer}
        out = run("HybridAttention", inputs, constant=("code_weight", "code_bias", "codewords"), **given)
        assert_accurate(out, twins.hybrid_attention, *inputs.values(), **given)


def check_full_attention(qkv: Array, opset: int = 23, **attributes: int) -> None:
    for which, twin in enumerate((twins.full_attention, twins.attention_logsum)):
        out = run("FullAttention", {"qkv": qkv}, opset=opset, which=which, **attributes)
        assert_accurate(out, twin, qkv, **attributes)


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_full_attention(heads: int) -> None:
    rng = np.random.default_rng(heads)
    for rows, columns in ((1, 1), (7, 3), (16, 8), (25, 23)):
        check_full_attention(normal(rng, rows * columns, 3 * D, scale=2.0), heads=heads, grid_width=columns)


def test_logits_of_full_attention_may_be_large() -> None:
    qkv = normal(np.random.default_rng(1), 200, 3 * D)
    qkv[:, 0], qkv[:, D] = 240, 240  # on a grid of one row nothing turns them
    logsum = run("FullAttention", {"qkv": qkv}, which=1, heads=1, grid_width=200)
    np.testing.assert_allclose(logsum, twins.attention_logsum(qkv, heads=1, grid_width=200), rtol=1e-6)


def test_what_is_known_changes_nothing() -> None:
    rng = np.random.default_rng(9)
    inputs = attention_inputs(rng, 5, 4, np.array([3, 7]), quantizer="bsq")
    known = {"known_qkv": inputs["qkv"], "known_out": normal(rng, 20, D), "known_logsum": normal(rng, 20, 1)}
    expected = run("HybridAttention", inputs, heads=1, grid_width=4)
    np.testing.assert_array_equal(run("HybridAttention", inputs | known, heads=1, grid_width=4), expected)


@pytest.mark.parametrize("quantizer", ["bsq", "vq"])
def test_bf16_hybrid_attention_is_in_float32_here(quantizer: str) -> None:
    rng = np.random.default_rng(9)
    inputs = attention_inputs(rng, 5, 4, np.array([3, 7]), quantizer=quantizer)
    known = {"known_qkv": inputs["qkv"], "known_out": normal(rng, 20, D), "known_logsum": normal(rng, 20, 2)}
    given = {"heads": 2, "grid_width": 4, "quantizer": quantizer}
    expected = run("HybridAttention", inputs, **given)
    for form in (inputs, inputs | known):
        np.testing.assert_array_equal(run("Bf16HybridAttention", form, **given), expected)


@pytest.mark.parametrize("quantizer", ["bsq", "vq"])
def test_hybrid_attention_keeps_nan_where_the_formula_has_it(quantizer: str) -> None:
    """A NaN query spoils its own row; a key that is NaN still has a code, so only full attention sees it."""
    rng = np.random.default_rng(5)
    inputs = attention_inputs(rng, 5, 4, np.array([3, 7]), quantizer=quantizer)
    inputs["qkv"][11, :D] = np.nan  # a query of a token that is no edge token
    given = {"heads": 2, "grid_width": 4, "quantizer": quantizer}
    out = run("HybridAttention", inputs, **given)
    assert np.flatnonzero(np.isnan(out).any(1)).tolist() == [11]
    inputs = attention_inputs(rng, 5, 4, np.array([3, 7]), quantizer=quantizer)
    inputs["qkv"][12, D : 2 * D] = np.nan
    out = run("HybridAttention", inputs, **given)
    assert np.flatnonzero(np.isnan(out).any(1)).tolist() == [3, 7]
    assert_accurate(out, twins.hybrid_attention, *inputs.values(), **given)


def test_unused_codeword_takes_no_part() -> None:
    rng = np.random.default_rng(6)
    inputs = attention_inputs(rng, 4, 4, np.arange(0), quantizer="bsq")
    used = twins.key_codes(inputs["qkv"][:, D : 2 * D], inputs["code_weight"], inputs["code_bias"], "bsq")
    inputs["codewords"][np.setdiff1d(np.arange(2**B), used)] = np.nan
    out = run("HybridAttention", inputs, heads=1, grid_width=4)
    assert_accurate(out, twins.hybrid_attention, *inputs.values(), heads=1, grid_width=4)


def expert_inputs(rng: np.random.Generator, length: int, edge: Array) -> dict[str, Array]:
    return {
        "x": normal(rng, length, C),
        "edge_tokens": edge.astype(np.int64),
        "input_norm_weight": normal(rng, C),
        "input_norm_bias": normal(rng, C),
        "gate_weight": normal(rng, 1 + R, C),
        "gate_bias": normal(rng, 1 + R),
        "expert_bias": normal(rng, R, scale=0.2),
        "w1": normal(rng, 1 + R, H, C, scale=0.3),
        "b1": normal(rng, 1 + R, H),
        "w2": normal(rng, 1 + R, H, C, scale=0.3),
        "b2": normal(rng, 1 + R, H),
        "norm_weight": normal(rng, 2, H),
        "norm_bias": normal(rng, 2, H),
        "w3": normal(rng, 1 + R, C, H, scale=0.3),
        "b3": normal(rng, 1 + R, C),
    }


@pytest.mark.parametrize("length", [1, 2, 100])
@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("only", [None, 1, R])  # one expert takes all tokens, so the others get none
def test_hybrid_experts(length: int, share: float, only: int | None) -> None:
    rng = np.random.default_rng([length, int(10 * share)])
    inputs = expert_inputs(rng, length, np.flatnonzero(rng.random(length) < share))
    if only:
        inputs["expert_bias"][only - 1] = 9
    given = {"constant": [name for name in inputs if name not in ("x", "edge_tokens")], "epsilon": 1e-3}
    out = run("HybridExperts", inputs, **given)
    assert_accurate(out, twins.hybrid_experts, *inputs.values(), epsilon=1e-3)
    np.testing.assert_array_equal(run("Bf16HybridExperts", inputs, **given), out)


def test_nan_never_wins_an_expert() -> None:
    rng = np.random.default_rng(8)
    inputs = expert_inputs(rng, 6, np.arange(6))
    inputs["gate_bias"][2] = np.nan
    inputs["gate_weight"][1], inputs["gate_weight"][3] = 0, 0  # experts 1 and 3 tie: the first wins
    inputs["gate_bias"][1], inputs["gate_bias"][3] = 0, 0
    inputs["expert_bias"][:] = 0
    assert_accurate(run("HybridExperts", inputs), twins.hybrid_experts, *inputs.values())
    inputs["gate_bias"][1:] = np.nan  # all NaN: expert 1, whose weight is NaN too
    assert np.isnan(run("HybridExperts", inputs)).all()


LINEAR = {"NormLinear": twins.norm_linear, "LinearAdd": twins.linear_add}


def norm_linear_inputs(rng: np.random.Generator, length: int) -> dict[str, Array]:
    return {
        "x": normal(rng, length, C),
        "norm_weight": normal(rng, C),
        "norm_bias": normal(rng, C),
        "weight": normal(rng, D, C, scale=0.3),
        "bias": normal(rng, D),
    }


def linear_add_inputs(rng: np.random.Generator, length: int) -> dict[str, Array]:
    return {
        "x": normal(rng, length, D),
        "residual": normal(rng, length, C),
        "weight": normal(rng, C, D, scale=0.3),
        "bias": normal(rng, C),
    }


@pytest.mark.parametrize("length", [0, 1, 100])
def test_linear_layers(length: int) -> None:
    rng = np.random.default_rng(length)
    inputs = norm_linear_inputs(rng, length)
    out = run("NormLinear", inputs, epsilon=0.3)
    assert_accurate(out, twins.norm_linear, *inputs.values(), epsilon=0.3)
    inputs = linear_add_inputs(rng, length)
    assert_accurate(run("LinearAdd", inputs), twins.linear_add, *inputs.values())


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("activation", ["none", "gated"])
def test_low_rank_layers(share: float, activation: Any) -> None:
    inputs = low_rank.layer(40, 9, 6, 12, share)
    given = {"column": 2, "channels": 12, "epsilon": 0.3, "activation": activation}
    assert_accurate(run("LowRankLinear", inputs, **given), twins.low_rank_linear, *inputs.values(), **given)
    inputs = low_rank.sum_of(40, 9, 6, share)
    assert_accurate(run("LowRankAdd", inputs, column=2), twins.low_rank_add, *inputs.values(), column=2)


@pytest.mark.parametrize("shape", [(16, 16), (48, 112), (112, 48)])
def test_labels_of_a_rectangle(shape: tuple[int, int]) -> None:
    for name, labels in label_maps(112).items():
        part = labels[: shape[0], : shape[1]]
        np.testing.assert_array_equal(run("LabelBox", {"labels": part}), twins.token_label_box(part), err_msg=name)
        edge = run("EdgeTokens", {"labels": part}, rule="exact")
        np.testing.assert_array_equal(edge, twins.edge_tokens(part, rule="exact"), err_msg=name)


@pytest.mark.parametrize("grid", [(0, 3), (1, 1), (5, 7)])
def test_mask_upscaling(grid: tuple[int, int]) -> None:
    inputs = mask_upscaling.make_inputs(*grid, 6, 5, 3)
    assert_accurate(run("MaskUpscaling", inputs, epsilon=0.3), twins.mask_upscaling, *inputs.values(), epsilon=0.3)


@pytest.mark.parametrize("sizes", [(0, 1, 1, 1, 1, 1), (7, 3, 6, 2, 5, 9), (61, 9, 64, 8, 16, 32)])
def test_image_to_token_attention(sizes: tuple[int, ...]) -> None:
    inputs, heads = few_tokens.image_to_token(*sizes), sizes[3]
    out = run("ImageToTokenAttention", inputs, heads=heads, epsilon=0.3)
    assert_accurate(out, twins.image_to_token_attention, *inputs.values(), heads=heads, epsilon=0.3)


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 1), (3, 7, 6, 2, 9), (9, 161, 64, 8, 32)])
def test_token_to_image_attention(sizes: tuple[int, ...]) -> None:
    heads = sizes[3]
    for values in (1, sizes[1]):
        inputs = few_tokens.token_to_image(*sizes, values=values)
        out = run("TokenToImageAttention", inputs, heads=heads)
        assert_accurate(out, twins.token_to_image_attention, *inputs.values(), heads=heads)


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (64, 64)])
def test_token_box(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(shape)
    for share in (0.0, 0.01, 0.5, 1.0):
        low_res = np.where(rng.random(shape) < share, 1.0, -2.0).astype(np.float32)
        low_res[0, 0] = np.nan
        np.testing.assert_array_equal(run("TokenBox", {"low_res": low_res}), twins.token_box(low_res))
    np.testing.assert_array_equal(
        run("TokenBox", {"low_res": low_res}, threshold=2.0), twins.token_box(low_res, threshold=2.0)
    )


def upsample_inputs(
    rng: np.random.Generator, *, grid: int, box: tuple[int, int, int, int], pixels: int, channels: tuple[int, int]
) -> dict[str, Array]:
    before, after = channels
    left, top, right, bottom = box
    weight = normal(rng, after, before, 3, 3, scale=0.2)
    features = normal(rng, 2 * pixels * grid, 2 * pixels * grid, before)
    edge, border, corner = (x.astype(np.float32) for x in twins.edge_terms(features, weight, grid))
    return {
        "x": normal(rng, pixels * (bottom - top), pixels * (right - left), before) + 3,
        "box": np.int64(box),
        "norm_weight": normal(rng, before),
        "norm_bias": normal(rng, before),
        "conv_weight": weight,
        "conv_bias": normal(rng, after),
        "edge_map": edge,
        "edge_border": border,
        "edge_corner": corner,
    }


@pytest.mark.parametrize("activation", ["silu", "none"])
@pytest.mark.parametrize("channels", [(6, 4), (4, 1)])
@pytest.mark.parametrize("pixels", [1, 2, 4, 8])
@pytest.mark.parametrize("box", [(0, 0, 5, 5), (0, 0, 1, 1), (4, 4, 5, 5), (2, 1, 3, 2), (1, 0, 5, 3), (0, 2, 3, 5)])
@pytest.mark.parametrize("operator", ["LocalUpsample", "Bf16LocalUpsample"])
def test_local_upsample(
    operator: str, activation: Any, channels: tuple[int, int], pixels: int, box: tuple[int, int, int, int]
) -> None:
    rng = np.random.default_rng([pixels, *box])
    inputs = upsample_inputs(rng, grid=5, box=box, pixels=pixels, channels=channels)
    weights = ("norm_weight", "norm_bias", "conv_weight", "conv_bias")
    out = run(operator, inputs, constant=weights, activation=activation, epsilon=1e-4)
    assert_accurate(out, twins.local_upsample, *inputs.values(), activation=activation, epsilon=1e-4)


@pytest.mark.parametrize(
    ("maps", "window"),
    [
        ([(1, 1, 0)], 4),
        ([(8, 8, 2), (2, 2, 0)], 4),
        ([(3, 5, 2), (6, 9, 0), (1, 7, 3)], 4),
        ([(20, 20, 8), (16, 16, 0)], 16),
    ],
)
@pytest.mark.parametrize(("heads", "head_width"), [(1, 8), (2, 32), (3, 4)])
@pytest.mark.parametrize("images", [1, 2])
def test_window_attention(maps: Any, window: int, heads: int, head_width: int, images: int) -> None:
    rng = np.random.default_rng(images)
    heights, widths, offsets = (list(numbers) for numbers in zip(*maps, strict=True))
    width = heads * head_width
    tokens = images * sum(height * columns for height, columns, _ in maps)
    inputs = {"qkv": normal(rng, tokens, 3 * width), "padding": normal(rng, 1, 3 * width)}
    given = {"heads": heads, "window": window, "heights": heights, "widths": widths, "offsets": offsets}
    out = run("WindowAttention", inputs, constant=("padding",), **given)
    extra = TOLERANCES["window attention body", "float32"].rtol
    assert_accurate(out, twins.window_attention, *inputs.values(), extra=extra, **given)
    np.testing.assert_array_equal(run("Bf16WindowAttention", inputs, constant=("padding",), **given), out)


def test_statistics_of_a_large_crop() -> None:
    """A ReduceMean over all axes at once fails here."""
    inputs = upsample_inputs(np.random.default_rng(9), grid=16, box=(0, 0, 16, 16), pixels=8, channels=(64, 2))
    assert_accurate(run("LocalUpsample", inputs), twins.local_upsample, *inputs.values())


@pytest.mark.parametrize("seed", [1, 2, 4])
def test_the_mean_of_a_crop_of_equal_pixels(seed: int) -> None:
    """Where pixels are equal, the rounding errors of a long sum go one way: a ReduceMean over whole rows fails here."""
    rng = np.random.default_rng(seed)
    x = np.broadcast_to(normal(rng, 16), (512, 512, 16))
    node = onnx.helper.make_node("MeanOfCrop", ["x"], ["mean"], domain=HELPER_DOMAIN)
    inputs, outputs = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("x", x.shape), ("mean", ()))
    )
    opsets = [onnx.helper.make_opsetid("", MIN_OPSET), onnx.helper.make_opsetid(HELPER_DOMAIN, HELPER_VERSION)]
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "mean", [inputs], [outputs]),
        functions=[f for f in function_protos(MIN_OPSET, ["LocalUpsample"], {}) if f.name == node.op_type],
        opset_imports=opsets,
        ir_version=10,
    )
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (mean,) = session.run(None, {"x": x})
    assert abs(mean - x.mean(dtype=np.float64)) <= 5e-7 * x.std()


@pytest.mark.parametrize("lengths", [[1], [32], [33], [150], [64, 1, 40], [300, 20]])
@pytest.mark.parametrize(("images", "passes"), [(1, 3), (2, 1), (3, 2)])
def test_cycle_scan(lengths: list[int], images: int, passes: int) -> None:
    inputs = cycle_scan.make_inputs(lengths, 6, 5, passes, images=images)
    out = run("CycleScan", inputs, constant=cycle_scan.CONSTANT, lengths=lengths)
    assert_accurate(out, twins.cycle_scan, *inputs.values(), lengths=lengths)


def test_cycle_scan_of_unusual_numbers() -> None:
    """Steps from 0 to large ones, states from lasting ones to none; what is not finite stays in its sequence."""
    inputs = cycle_scan.make_inputs([90, 40], 12, 12)
    inputs["projected"][:90, :12] = np.linspace(-120, 40, 90, dtype=np.float32)[:, None]
    inputs["bias"][:] = 0
    inputs["rate"][:] = -np.logspace(-6, 6, 12, dtype=np.float32)
    inputs["u"][100, 3] = np.nan
    out = run("CycleScan", inputs, lengths=[90, 40])
    assert_accurate(out, twins.cycle_scan, *inputs.values(), lengths=[90, 40])
    assert np.argwhere(np.isnan(out).any(0)).tolist() == [[3]]
    assert np.flatnonzero(np.isnan(out).any(1)).tolist() == list(range(90, 130))
    inputs["gamma"] = inputs["gamma"][:, :1]
    out = run("CycleScan", inputs, lengths=[90, 40])
    assert np.flatnonzero(np.isnan(out).any(1)).tolist() == list(range(100, 130))


@pytest.mark.parametrize("activation", ["none", "gelu"])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (29, 33, 32), (43, 768, 96)])
@pytest.mark.parametrize("operator", reduced_precision_linear.OPERATORS)
def test_reduced_precision_linear(operator: str, sizes: tuple[int, int, int], activation: Any) -> None:
    make, twin = reduced_precision_linear.OPERATORS[operator]
    inputs = make(*sizes)
    out = run(operator, inputs, constant=[name for name in inputs if name != "x"], activation=activation)
    assert_accurate(out, twin, *inputs.values(), activation=activation)


@pytest.mark.parametrize("activation", ["none", "gelu"])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (29, 33, 32), (43, 768, 96)])
@pytest.mark.parametrize("operator", reduced_precision_linear.NORMED)
def test_reduced_precision_norm_linear(operator: str, sizes: tuple[int, int, int], activation: Any) -> None:
    inputs = reduced_precision_linear.around_inputs(operator, *sizes)
    options = {"epsilon": 0.01, "activation": activation}
    out = run(operator, inputs, constant=reduced_precision_linear.weights_of(inputs), **options)
    twin, extra = reduced_precision_linear.NORMED[operator], reduced_precision_linear.STEP[operator]
    assert_accurate(out, twin, *inputs.values(), extra=extra, **options)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (29, 33, 32), (43, 768, 96)])
@pytest.mark.parametrize("operator", reduced_precision_linear.ADDED)
def test_reduced_precision_linear_add(operator: str, sizes: tuple[int, int, int]) -> None:
    inputs = reduced_precision_linear.around_inputs(operator, *sizes)
    out = run(operator, inputs, constant=reduced_precision_linear.weights_of(inputs))
    assert_accurate(out, reduced_precision_linear.ADDED[operator], *inputs.values())


@pytest.mark.parametrize("sizes", [(1, 1, 1), (29, 33, 32), (43, 96, 768)])
@pytest.mark.parametrize("operator", reduced_precision_mlp.OPERATORS)
def test_reduced_precision_mlp(operator: str, sizes: tuple[int, int, int]) -> None:
    check_mlp(operator, sizes)


def check_mlp(operator: str, sizes: tuple[int, int, int], **options: Any) -> None:
    inputs = reduced_precision_mlp.inputs(operator, *sizes)
    constant = reduced_precision_mlp.weights(inputs)
    out = run(operator, inputs, constant=constant, epsilon=0.01, **options)
    _, twin = reduced_precision_mlp.OPERATORS[operator]
    assert_accurate(out, twin, *inputs.values(), extra=reduced_precision_mlp.STEP[operator], epsilon=0.01)


def test_int8_linear_of_unusual_rows() -> None:
    """Zeros, tiny numbers, and what is not finite, at any place of a row."""
    inputs = reduced_precision_linear.int8_inputs(12, 20, 9)
    x = inputs["x"]
    x[1], x[2] = 0, x[2] * np.float32(2.0**-110)
    x[4, 0], x[5, 13], x[6, 19], x[7, 3], x[7, 4] = np.nan, np.nan, np.inf, -np.inf, np.nan
    out = run("Int8Linear", inputs)
    assert_accurate(out, twins.int8_linear, *inputs.values())
    assert np.isnan(out[4:8]).all()


def test_canny_maps() -> None:
    """Black and white pixels and a blur of sixteenths: gradients are exact, so every decision is."""
    rng = np.random.default_rng(10)
    weights = np.float32([1, 4, 6, 4, 1]) / 16
    image = (255 * rng.integers(0, 2, (33, 40, 3))).astype(np.float32)
    inputs = {"image": image, "mean": np.zeros(3, np.float32), "std": np.ones(3, np.float32)}
    inputs |= {"blur_row": weights, "blur_column": weights}
    maps, expected = run("CannyMaps", inputs), twins.canny_maps(*inputs.values())
    np.testing.assert_array_equal(maps[1], expected[1])
    np.testing.assert_array_equal(maps > 0, expected > 0)
    np.testing.assert_allclose(maps, expected, rtol=1e-6)

    inputs["blur_row"], inputs["blur_column"] = rng.uniform(0, 0.3, (2, 5)).astype(np.float32)
    inputs["image"] = rng.uniform(-40, 300, (40, 33, 3)).astype(np.float32)
    inputs["mean"], inputs["std"] = np.float32([100, 120, 140]), np.float32([50, 60, 70])
    maps, expected = run("CannyMaps", inputs), twins.canny_maps(*inputs.values())
    np.testing.assert_allclose(maps[0], expected[0], atol=1e-6 * expected[0].max())


def test_edge_stem() -> None:
    rng = np.random.default_rng(11)
    inputs = {"maps": 1 + normal(rng, 3, 17, 20), "weight": normal(rng, 4, 3, 3, 3), "bias": normal(rng, 4)}
    inputs["maps"][1] = 0
    assert_accurate(run("EdgeStem", inputs, constant=("weight", "bias")), twins.edge_stem, *inputs.values())


def block_weights(rng: np.random.Generator, channels: int) -> dict[str, Array]:
    weights: dict[str, Array] = {}
    for i in (1, 2):
        weights |= {f"norm{i}_weight": normal(rng, channels), f"norm{i}_bias": normal(rng, channels)}
        weights |= {f"conv{i}_weight": normal(rng, channels, channels, 3, 3), f"conv{i}_bias": normal(rng, channels)}
    return weights


@pytest.mark.parametrize("channels", [4, 20])
@pytest.mark.parametrize("operator", ["EdgeBlock", "Bf16EdgeBlock"])
def test_edge_block(operator: str, channels: int) -> None:
    rng = np.random.default_rng(12)
    x, weights = 2 + normal(rng, 19, 14, channels), block_weights(rng, channels)
    out = run(operator, {"x": x} | weights, constant=list(weights), epsilon=1e-3)
    assert_accurate(out, twins.edge_block, x, *weights.values(), epsilon=1e-3)


def test_statistics_of_a_padded_map() -> None:
    """Where all values are equal, the rounding errors of a long sum go one way, and move every value of the result."""
    rng = np.random.default_rng(0)
    x = normal(rng, 512, 512, 4)
    x[170:] = normal(rng, 4)  # the padding
    weights = block_weights(rng, 4)
    assert_accurate(
        run("EdgeBlock", {"x": x} | weights, constant=list(weights)), twins.edge_block, x, *weights.values()
    )


@pytest.mark.parametrize("size", [(1, 1), (8, 6), (9, 7)])
@pytest.mark.parametrize("operator", ["EdgeDownsample", "Bf16EdgeDownsample"])
def test_edge_downsample(operator: str, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(13)
    inputs = {"x": normal(rng, *size, 4), "weight": normal(rng, 6, 4, 3, 3), "bias": normal(rng, 6)}
    assert_accurate(run(operator, inputs), twins.edge_downsample, *inputs.values())


@pytest.mark.parametrize("pixels", [1, 2, 4])
@pytest.mark.parametrize("grid", [1, 3])
@pytest.mark.parametrize("operator", ["EdgeProjection", "Bf16EdgeProjection"])
def test_edge_projection(operator: str, pixels: int, grid: int) -> None:
    rng = np.random.default_rng(14)
    side = grid * pixels
    inputs = {"x": normal(rng, side, side, 6), "lateral_weight": normal(rng, 5, 6), "lateral_bias": normal(rng, 5)}
    inputs["conv_weight"] = normal(rng, 3, 5, 3, 3)
    for which in range(3):

        def twin(*arrays: Array, which: int = which, **options: Any) -> Array:
            return twins.edge_projection(*arrays, **options)[which]

        twin.__name__ = f"edge_projection_{which}"
        out = run(operator, inputs, which=which, pixels=pixels)
        assert_accurate(out, twin, *inputs.values(), pixels=pixels)
