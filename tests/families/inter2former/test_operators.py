"""The PyTorch formulas of the operators against their float64 twins, at shapes and values that could trip them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from operators import twins

from inter2former_deploy.core.contract import DOMAIN
from inter2former_deploy.operators import edge_formulas, formulas
from inter2former_deploy.operators.rotary import rotary_angles, rotary_frequencies, rotate

PATCH = 16


def draw(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    return torch.from_numpy(rng.standard_normal(shape))


def arrays(*tensors: torch.Tensor) -> list[Any]:
    return [tensor.numpy() for tensor in tensors]


def some_edges(rng: np.random.Generator, length: int, count: int) -> torch.Tensor:
    return torch.from_numpy(np.sort(rng.choice(length, count, replace=False)))


@st.composite
def label_maps(draw: st.DrawFn) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Maps of 3 to 5 tokens a side, one label with up to five rectangles of others."""
    side = PATCH * draw(st.integers(3, 5))
    labels = np.full((side, side), draw(st.integers(0, 4)), np.uint8)
    for _ in range(draw(st.integers(0, 5))):
        y, x = draw(st.integers(0, side - 1)), draw(st.integers(0, side - 1))
        height, width = draw(st.integers(1, side)), draw(st.integers(1, side))
        labels[y : y + height, x : x + width] = draw(st.integers(0, 4))
    return labels


@pytest.mark.parametrize("rule", ["released", "exact"])
@settings(deadline=None, derandomize=True, max_examples=150)
@given(labels=label_maps())
def test_edge_tokens(rule: Any, labels: Any) -> None:
    edge = formulas.edge_tokens(torch.from_numpy(labels), rule)
    np.testing.assert_array_equal(edge, twins.edge_tokens(labels, rule=rule))


@pytest.mark.parametrize("label", range(5))
@pytest.mark.parametrize("rule", ["released", "exact"])
def test_edge_tokens_of_one_token(rule: str, label: int) -> None:
    labels = torch.full((PATCH, PATCH), label, dtype=torch.uint8)
    is_edge = label != 0 if rule == "released" else label == 2
    assert formulas.edge_tokens(labels, rule).tolist() == ([0] if is_edge else [])


@pytest.mark.parametrize("dense", [False, True])
@settings(deadline=None, derandomize=True, max_examples=25)
@given(labels=label_maps())
def test_prompt_embedding(assert_close: Any, dense: bool, labels: Any) -> None:
    rng = np.random.default_rng(0)
    grid = len(labels) // PATCH
    widths = (5, 4, 6, 8, 12)
    weights = [x for a, b in pairwise(widths) for x in (draw(rng, b, a, 3, 3) / 3, draw(rng, b))]
    embedding, table = draw(rng, grid, grid, widths[-1]), draw(rng, 5, 5)
    before = embedding.clone()
    tokens = formulas.prompt_embedding(torch.from_numpy(labels), embedding, table, *weights, dense)
    expected = twins.prompt_embedding(labels, *arrays(embedding, table, *weights), dense=dense)
    assert_close(tokens, expected, "formula")
    assert torch.equal(embedding, before)


@pytest.mark.parametrize(("length", "grid_width"), [(1, 1), (12, 4), (35, 7)])
@pytest.mark.parametrize(("heads", "width"), [(1, 8), (2, 8), (3, 24)])
@pytest.mark.parametrize("quantizer", ["bsq", "vq"])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_hybrid_attention(
    assert_close: Any, length: int, grid_width: int, heads: int, width: int, quantizer: Any, share: float
) -> None:
    rng = np.random.default_rng(length * heads)
    bits = 3
    qkv, edge = draw(rng, length, 3 * width), some_edges(rng, length, round(share * length))
    rows = bits if quantizer == "bsq" else 2**bits
    code = draw(rng, rows, width), draw(rng, rows), draw(rng, 2**bits, width)
    out = formulas.hybrid_attention(qkv, edge, *code, heads, grid_width, quantizer)
    expected = twins.hybrid_attention(
        *arrays(qkv, edge, *code), heads=heads, grid_width=grid_width, quantizer=quantizer
    )
    assert_close(out, expected, "formula")


@pytest.mark.parametrize(("length", "grid_width"), [(1, 1), (35, 7), (1200, 40)])  # more than a block of queries
@pytest.mark.parametrize(("heads", "width"), [(1, 8), (3, 24)])
def test_full_attention(assert_close: Any, length: int, grid_width: int, heads: int, width: int) -> None:
    qkv = draw(np.random.default_rng(length * heads), length, 3 * width)
    given = {"heads": heads, "grid_width": grid_width}
    out, logsum = formulas.full_attention(qkv, heads, grid_width)
    assert_close(out, twins.full_attention(qkv.numpy(), **given), "formula")
    assert_close(logsum, twins.attention_logsum(qkv.numpy(), **given), "formula")
    code = draw(np.random.default_rng(1), 3, width), torch.zeros(3), torch.zeros(8, width)
    everyone, known = torch.arange(length), (qkv, torch.full_like(out, torch.nan), logsum)
    hybrid = formulas.hybrid_attention(qkv, everyone, *code, heads, grid_width, "bsq", *known)
    assert torch.equal(hybrid, out)  # whatever is known


def test_codebook_attention_counts_the_keys_of_a_code(assert_close: Any) -> None:
    """Equal to softmax attention over all keys, each replaced by its codeword."""
    rng = np.random.default_rng(1)
    query, value, codewords = draw(rng, 5, 8), draw(rng, 30, 8), draw(rng, 4, 8)
    code = torch.tensor([0] * 25 + [2] * 5)
    out = formulas.codebook_attention(query, code, value, codewords, 1)
    weights = (query @ codewords[code].T * 8**-0.5).softmax(1)
    assert_close(out, weights @ value, "formula")


def test_rotary_embedding_makes_logits_depend_on_the_offset_of_tokens(assert_close: Any) -> None:
    rng = np.random.default_rng(2)
    pair = draw(rng, 2, 16)  # a query and a key two rows below and one column to the right of it
    frequencies = rotary_frequencies(16, torch.float64)

    def logit(row: int, column: int, rows: int = 2, columns: int = 1) -> torch.Tensor:
        places = torch.tensor([row, row + rows]), torch.tensor([column, column + columns])
        query, key = rotate(pair, rotary_angles(*places, frequencies))
        return query @ key

    assert_close(logit(31, 7), logit(0, 0), "formula")
    assert (logit(0, 0, 1, 2) - logit(0, 0)).abs() > 0.1


@pytest.mark.parametrize("quantizer", ["bsq", "vq"])
def test_codes_of_nan(quantizer: str) -> None:
    """A NaN is bit 0 and never the largest score."""
    weight = torch.eye(3)
    key = torch.tensor([[1.0, torch.nan, 2.0], [torch.nan] * 3, [-1.0, -2.0, torch.nan]])
    # Each NaN reaches all scores of its key through the matrix product.
    assert formulas.assign_codes(key, weight, torch.zeros(3), quantizer).tolist() == [0, 0, 0]
    bias = torch.tensor([0.0, torch.nan, 0.0])
    code = formulas.assign_codes(torch.tensor([[1.0, 9.0, 2.0]]), weight, bias, quantizer)
    assert code.item() == (0b101 if quantizer == "bsq" else 2)


def test_ties_go_to_the_first() -> None:
    assert formulas.assign_codes(torch.ones(1, 4), torch.ones(6, 4), torch.zeros(6), "vq").item() == 0
    assert formulas.route(torch.tensor([[0.1, 0.7, 0.7]]), torch.zeros(3)).item() == 1
    assert formulas.assign_codes(torch.zeros(1, 4), torch.ones(2, 4), torch.zeros(2), "bsq").item() == 0b11


def expert_weights(rng: np.random.Generator, dim: int, hidden: int, routed: int) -> list[torch.Tensor]:
    e = 1 + routed
    return [
        *(draw(rng, dim), draw(rng, dim)),
        *(draw(rng, e, dim), draw(rng, e), draw(rng, routed) / 4),
        *(draw(rng, e, hidden, dim), draw(rng, e, hidden), draw(rng, e, hidden, dim), draw(rng, e, hidden)),
        *(draw(rng, 2, hidden), draw(rng, 2, hidden), draw(rng, e, dim, hidden), draw(rng, e, dim)),
    ]


@pytest.mark.parametrize("count", [0, 1, 20, 40])
@pytest.mark.parametrize("routed", [1, 5])
def test_hybrid_experts(assert_close: Any, count: int, routed: int) -> None:
    rng = np.random.default_rng(count + routed)
    x, edge, weights = draw(rng, 40, 12), some_edges(rng, 40, count), expert_weights(rng, 12, 7, routed)
    out = formulas.hybrid_experts(x, edge, *weights, 1e-5)
    assert_close(out, twins.hybrid_experts(*arrays(x, edge, *weights)), "formula")


def test_linear_layers(assert_close: Any) -> None:
    rng = np.random.default_rng(9)
    x, residual, weight, bias = draw(rng, 5, 7), draw(rng, 5, 3), draw(rng, 3, 7), draw(rng, 3)
    norm = draw(rng, 7), draw(rng, 7)
    out = formulas.norm_linear(x, *norm, weight, bias, 0.3, "none")
    assert_close(out, twins.norm_linear(*arrays(x, *norm, weight, bias), epsilon=0.3), "formula")
    out = formulas.norm_linear(x, *norm, weight, bias, 0.3, "gelu")
    expected = twins.norm_linear(*arrays(x, *norm, weight, bias), epsilon=0.3, activation="gelu")
    assert_close(out, expected, "formula")
    out = formulas.linear_add(x, residual, weight, bias)
    assert_close(out, twins.linear_add(*arrays(x, residual, weight, bias)), "formula")


def test_experts_treat_tokens_independently(assert_close: Any) -> None:
    rng = np.random.default_rng(3)
    x, edge, weights = draw(rng, 40, 12), some_edges(rng, 40, 20), expert_weights(rng, 12, 7, 5)
    order = torch.from_numpy(rng.permutation(40))
    place = order.argsort()
    out = formulas.hybrid_experts(x, edge, *weights, 1e-5)
    permuted = formulas.hybrid_experts(x[order], place[edge].sort().values, *weights, 1e-5)
    assert_close(permuted, out[order], "formula")


def test_only_full_attention_knows_positions() -> None:
    """Non-edge tokens have no rotary embedding: shuffling the grid shuffles their outputs."""
    rng = np.random.default_rng(4)
    qkv, code = draw(rng, 12, 24), (draw(rng, 3, 8), draw(rng, 3), draw(rng, 8, 8))
    order = torch.from_numpy(rng.permutation(12))

    def attend(qkv: torch.Tensor, edge: torch.Tensor) -> torch.Tensor:
        return formulas.hybrid_attention(qkv, edge, *code, 1, 4, "bsq")

    none, everyone = torch.zeros(0, dtype=torch.int64), torch.arange(12)
    torch.testing.assert_close(attend(qkv[order], none), attend(qkv, none)[order])
    assert (attend(qkv[order], everyone) - attend(qkv, everyone)[order]).abs().max() > 0.01


@pytest.mark.parametrize(
    ("values", "box"),
    [
        ([[-3.0, -3, -3], [-3, -1, -3]], [1, 1, 2, 2]),
        ([[-3.0, -3, 0], [0, -3, -3]], [0, 0, 3, 2]),
        ([[-2.0, -2, -2], [-2, -2, -2]], [0, 0, 3, 2]),  # none above: the whole map
        ([[torch.nan, -3, 5], [-3, torch.nan, -3]], [2, 0, 3, 1]),
        ([[torch.inf, -3, -3], [-3, -3, -3]], [0, 0, 1, 1]),
    ],
)
def test_token_box(values: Any, box: list[int]) -> None:
    low_res = torch.tensor(values)
    assert formulas.token_box(low_res, -2.0).tolist() == box
    np.testing.assert_array_equal(twins.token_box(low_res.numpy()), box)


@pytest.mark.parametrize("box", [(0, 0, 5, 5), (1, 2, 4, 3), (0, 3, 2, 5), (4, 0, 5, 1), (2, 2, 3, 3)])
@pytest.mark.parametrize(("u", "activation"), [(1, "silu"), (2, "none")])
def test_local_upsample(assert_close: Any, box: Any, u: int, activation: Any) -> None:
    rng = np.random.default_rng(u)
    grid, c_in, c_out = 5, 6, 3
    left, top, right, bottom = box
    x = draw(rng, u * (bottom - top), u * (right - left), c_in)
    weights = draw(rng, c_in), draw(rng, c_in), draw(rng, c_out, c_in, 3, 3), draw(rng, c_out)
    side = 2 * u * grid
    edges = draw(rng, side, side, c_out), draw(rng, 4, grid, side, c_out), draw(rng, 4, grid, grid, c_out)
    kept = [tensor.clone() for tensor in edges]
    y = formulas.local_upsample(x, torch.tensor(box), *weights, *edges, activation, 1e-5)
    expected = twins.local_upsample(*arrays(x, torch.tensor(box), *weights, *edges), activation=activation)
    assert_close(y, expected, "formula")
    assert all(torch.equal(a, b) for a, b in zip(edges, kept, strict=True))


@pytest.mark.parametrize("size", [(1, 1), (9, 7), (40, 33)])
def test_canny_maps(assert_close: Any, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(12)
    image = torch.from_numpy(rng.uniform(0, 255, (*size, 3)))
    numbers = 100 + draw(rng, 3), 50 + draw(rng, 3), draw(rng, 5).softmax(0), draw(rng, 5).softmax(0)
    assert_close(edge_formulas.canny_maps(image, *numbers), twins.canny_maps(*arrays(image, *numbers)), "formula")


def test_edge_stem(assert_close: Any) -> None:
    rng = np.random.default_rng(13)
    maps, weight, bias = 1 + draw(rng, 5, 9, 6), draw(rng, 4, 5, 3, 3), draw(rng, 4)
    maps[1], maps[2] = 0, 1e-15 * maps[2]  # norms below the least that counts
    out = edge_formulas.edge_stem(maps, weight, bias)
    assert_close(out, twins.edge_stem(*arrays(maps, weight, bias)), "formula")


@pytest.mark.parametrize("size", [(1, 1), (8, 5)])
def test_edge_block(assert_close: Any, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(14)
    x, norm, conv = 2 + draw(rng, *size, 6), (6,), (6, 6, 3, 3)
    weights = [draw(rng, *shape) for _ in range(2) for shape in (norm, norm, conv, norm)]
    out = edge_formulas.edge_block(x, *weights, 0.3)
    assert_close(out, twins.edge_block(*arrays(x, *weights), epsilon=0.3), "formula")


@pytest.mark.parametrize("size", [(1, 1), (8, 6), (9, 7)])
def test_edge_downsample(assert_close: Any, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(15)
    given = draw(rng, *size, 4), draw(rng, 6, 4, 3, 3), draw(rng, 6)
    assert_close(edge_formulas.edge_downsample(*given), twins.edge_downsample(*arrays(*given)), "formula")


@pytest.mark.parametrize(("grid", "pixels"), [(1, 1), (3, 1), (3, 2), (2, 4)])
def test_edge_projection(assert_close: Any, grid: int, pixels: int) -> None:
    rng = np.random.default_rng(16)
    side = grid * pixels
    given = draw(rng, side, side, 6), draw(rng, 5, 6), draw(rng, 5), draw(rng, 3, 5, 3, 3)
    expected = twins.edge_projection(*arrays(*given), pixels=pixels)
    for out, truth in zip(edge_formulas.edge_projection(*given, pixels), expected, strict=True):
        assert_close(out, truth, "formula")


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="rule must be 'released' or 'exact', got 'paper'"):
        formulas.edge_tokens(torch.zeros(16, 16, dtype=torch.uint8), "paper")
    with pytest.raises(ValueError, match="quantizer must be 'bsq' or 'vq', got 'paper'"):
        formulas.assign_codes(torch.ones(1, 4), torch.ones(2, 4), torch.zeros(2), "paper")
    edge = torch.zeros(2, 2, 1), torch.zeros(4, 1, 2, 1), torch.zeros(4, 1, 1, 1)
    weights = torch.ones(1), torch.ones(1), torch.ones(1, 1, 3, 3), torch.ones(1)
    with pytest.raises(ValueError, match="activation must be 'silu' or 'none', got 'paper'"):
        formulas.local_upsample(torch.ones(1, 1, 1), torch.tensor((0, 0, 1, 1)), *weights, *edge, "paper", 1e-5)


def test_operators_become_single_nodes() -> None:
    class Edges(torch.nn.Module):
        def forward(self, labels: torch.Tensor) -> torch.Tensor:
            return formulas.edge_tokens(labels, "exact")

    labels = torch.ones(64, 64, dtype=torch.uint8)
    exported = torch.export.export(Edges(), (labels,), strict=False)
    nodes = [str(node.target) for node in exported.graph.nodes if node.op == "call_function"]
    assert f"{DOMAIN}.edge_tokens.default" in nodes
    assert not any(name.startswith(("aten.max_pool2d", "aten.nonzero")) for name in nodes)
    labels[20:28, 20:28] = 4
    assert exported.module()(labels).tolist() == [5]


def test_int8_linear_has_the_bits_of_the_contract() -> None:
    """Every operation rounds once, the quotient too; most numbers lie between two codes, where a last bit decides."""
    rng = np.random.default_rng(21)
    peak = rng.uniform(1, 2, (500, 1))
    x = np.hstack((peak, peak / 127 * (rng.integers(-126, 126, (500, 23)) + 0.5))).astype(np.float32)
    scale, bias = (rng.standard_normal(7).astype(np.float32) for _ in range(2))
    weight = rng.integers(-127, 128, (7, 24), np.int8)
    actual = formulas.int8_linear(*(torch.from_numpy(array) for array in (x, weight, scale, bias)), "none")
    np.testing.assert_array_equal(actual, twins.int8_linear(x, weight, scale, bias, dtype=np.float32))


@pytest.mark.parametrize("activation", ["none", "gelu"])
@pytest.mark.parametrize("precision", ["int8", "bf16"])
def test_reduced_precision_linear(assert_close: Any, precision: str, activation: Any) -> None:
    rng = np.random.default_rng(11)
    x, weight, bias = draw(rng, 30, 40).float(), draw(rng, 20, 40).float(), draw(rng, 20).float()
    x[3], x[4, 2], x[5, 7] = 0, torch.nan, torch.inf
    if precision == "int8":
        scale = weight.abs().amax(1) / 127
        codes = (weight / scale[:, None]).round().to(torch.int8)
        out = formulas.int8_linear(x, codes, scale, bias, activation)
        given = twins.int8_linear, arrays(x, codes, scale, bias)
    else:
        out = formulas.bf16_linear(x, weight.bfloat16(), bias, activation)
        rounded = weight.bfloat16().float().numpy().astype(ml_dtypes.bfloat16)
        given = twins.bf16_linear, [x.numpy(), rounded, bias.numpy()]
    with np.errstate(invalid="ignore"):
        expected = given[0](*given[1], activation=activation)
    finite = np.isfinite(expected)
    assert np.isnan(out.numpy()[4]).all()
    np.testing.assert_array_equal(np.isfinite(out.numpy()), finite)
    assert_close(out.numpy()[finite], expected[finite], "reduced precision linear")


@pytest.mark.parametrize("precision", ["int8", "bf16"])
def test_what_stands_around_reduced_precision_layers(assert_close: Any, precision: str) -> None:
    rng = np.random.default_rng(13)
    x, norm_weight, norm_bias = draw(rng, 30, 40).float(), draw(rng, 40).float(), draw(rng, 40).float()
    weight, bias, residual = draw(rng, 20, 40).float(), draw(rng, 20).float(), draw(rng, 30, 20).float()
    if precision == "int8":
        scale = weight.abs().amax(1) / 127
        parameters = [(weight / scale[:, None]).round().to(torch.int8), scale, bias]
        linear, norm_linear, linear_add = formulas.int8_linear, formulas.int8_norm_linear, formulas.int8_linear_add
    else:
        parameters = [weight.bfloat16(), bias]
        linear, norm_linear, linear_add = formulas.bf16_linear, formulas.bf16_norm_linear, formulas.bf16_linear_add
    normed = torch.nn.functional.layer_norm(x, (40,), norm_weight, norm_bias, 0.1)
    for activation in ("none", "gelu"):
        out = norm_linear(x, norm_weight, norm_bias, *parameters, 0.1, activation)
        assert_close(out.numpy(), linear(normed, *parameters, activation).numpy(), "reduced precision linear")
    out = linear_add(x, residual, *parameters)
    assert_close(out.numpy(), (residual + linear(x, *parameters, "none")).numpy(), "reduced precision linear")


@pytest.mark.parametrize("precision", ["int8", "bf16"])
def test_reduced_precision_mlp(assert_close: Any, precision: str) -> None:
    """As its parts, in a row."""
    rng = np.random.default_rng(12)
    x, norm_weight, norm_bias = draw(rng, 30, 40).float(), draw(rng, 40).float(), draw(rng, 40).float()
    layers = [(draw(rng, *shape).float(), draw(rng, shape[0]).float()) for shape in ((20, 40), (40, 20))]
    hidden = torch.nn.functional.layer_norm(x, (40,), norm_weight, norm_bias, 0.1)
    given = []
    for (weight, bias), activation in zip(layers, ("gelu", "none"), strict=True):
        if precision == "int8":
            scale = weight.abs().amax(1) / 127
            parameters = [(weight / scale[:, None]).round().to(torch.int8), scale, bias]
            hidden = formulas.int8_linear(hidden, *parameters, activation)
        else:
            parameters = [weight.bfloat16(), bias]
            hidden = formulas.bf16_linear(hidden, *parameters, activation)
        given += parameters
    formula = formulas.int8_mlp if precision == "int8" else formulas.bf16_mlp
    out = formula(x, norm_weight, norm_bias, *given, 0.1)
    assert_close(out.numpy(), (x + hidden).numpy(), "reduced precision linear")
    assert (out - x).abs().max() > 1


def test_unknown_activation() -> None:
    with pytest.raises(ValueError, match="activation must be 'none' or 'gelu', got 'relu'"):
        formulas.bf16_linear(torch.zeros(1, 1), torch.zeros(1, 1).bfloat16(), torch.zeros(1), "relu")
