"""Each operator alone, over tokens, share of edge tokens and area, against its body, PyTorch and its floor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import Any

import numpy as np
import numpy.typing as npt

from inter2former_deploy.apps.bench.scene import disc_labels, disc_token_box, disc_tokens
from inter2former_deploy.apps.bench.workers import Workload, threads_here
from inter2former_deploy.core.contract import DOMAIN, DOMAIN_VERSION
from inter2former_deploy.families.hrsam.config import HRSAMPP_VIT_B
from inter2former_deploy.families.inter2former.config import PATCH, VIT_B
from inter2former_deploy.operators.registry import OPERATORS, operator_name

Array = npt.NDArray[Any]
DECODER, ENCODER = VIT_B.decoder, VIT_B.encoder
FEATURES = DECODER.pyramid[::-1]  # channels of the edge network's stages, at S, S/2, S/4, S/8
EPSILON = 1e-5  # of all norms
EXP_FLOP = 12.0  # of an exponential: one multiply-add to reduce its argument, five of a polynomial
SILU_FLOP = EXP_FLOP + 3  # and a scaling, a sum and a division
SOFTPLUS_FLOP = EXP_FLOP + 14  # and a quotient, a polynomial of four multiply-adds, and how both are put together
GELU_FLOP = 26.0  # a square, two polynomials of five multiply-adds, a quotient, a multiply-add and a product
# A pixel's Canny maps: of each of three channels 6 to normalise and clamp, 18 to blur, 14 for two Sobel filters, 4 for
# their magnitude; then 4 sums, 12 comparisons and choices for the direction, 8 to thin and compare with the threshold.
CANNY_FLOP = 3 * (6.0 + 18 + 14 + 4) + 4 + 12 + 8


@dataclass(frozen=True, kw_only=True)
class Case:
    """One call of one operator."""

    operator: str
    inputs: Mapping[str, Array]
    constant: frozenset[str]  # inputs that are weights
    attributes: Mapping[str, Any]
    flop: float  # operations that the result needs at least, 2 a multiply-add, exponentials included
    # (of int8 and bfloat16 numbers, too: below the floor, whose rate is that of float32, is what they gain)
    nbytes: float  # bytes that must be read or written at least
    outputs: tuple[str, ...] = ("out",)


LAYERS: Mapping[str, tuple[int, int, str]] = {  # of an encoder block: inputs, outputs, activation
    "qkv": (ENCODER.dim, 3 * ENCODER.dim, "none"),
    "proj": (ENCODER.dim, ENCODER.dim, "none"),
    "fc1": (ENCODER.dim, 4 * ENCODER.dim, "gelu"),
    "fc2": (4 * ENCODER.dim, ENCODER.dim, "none"),
}
SHARES = (0.03, 0.1, 0.3, 1.0)  # of edge tokens, or of the area
CASES: dict[str, Callable[..., Case]] = {}  # by the formula's name
_SWEPT: dict[str, dict[str, Iterable[Any]]] = {}  # what `sweep` gives a case besides the side


def measured(**swept: Iterable[Any]) -> Callable[[Callable[..., Case]], Callable[..., Case]]:
    """Make a function a case of `i2f bench ops`, which measures it for every combination of these arguments."""

    def add(make: Callable[..., Case]) -> Callable[..., Case]:
        CASES[make.__name__] = make
        _SWEPT[make.__name__] = swept
        return make

    return add


@measured(share=(0.0, *SHARES))
def hybrid_attention(side: int, share: float, quantizer: str = "bsq") -> Case:
    """Attention of `side * side` tokens, a disc of which (`share` of all) are edge tokens."""
    rng = np.random.default_rng(1)
    length, dim = side * side, DECODER.attention_dim
    edge = disc_tokens(side, share)
    rows = DECODER.code_bits if quantizer == "bsq" else 2**DECODER.code_bits
    inputs = {
        "qkv": _normal(rng, length, 3 * dim),
        "edge_tokens": edge,
        "code_weight": _normal(rng, rows, dim),
        "code_bias": _normal(rng, rows),
        "codewords": _codewords(rng, dim) if quantizer == "bsq" else _normal(rng, rows, dim),
    }
    others = length - len(edge)
    codes = 2**DECODER.code_bits
    full = len(edge) * length * (4.0 * dim + EXP_FLOP * DECODER.heads)
    if quantizer == "bsq":  # a code's weight is a product of what its bits give
        weights = rows * (2.0 * dim + EXP_FLOP * DECODER.heads) + codes * DECODER.heads
    else:
        weights = codes * (2.0 * dim + EXP_FLOP * DECODER.heads)
    coded = others * (2.0 * codes * dim + weights) + 2.0 * length * dim * rows if others else 0.0
    return Case(
        operator="HybridAttention",
        inputs=inputs,
        constant=frozenset(("code_weight", "code_bias", "codewords")),
        attributes={"heads": DECODER.heads, "grid_width": side, "quantizer": quantizer},
        flop=full + coded,
        nbytes=16.0 * length * dim,
    )


@measured(share=(0.0, *SHARES))
def bf16_hybrid_attention(side: int, share: float, quantizer: str = "bsq") -> Case:
    """The same where bfloat16 serves."""
    return replace(hybrid_attention(side, share, quantizer), operator="Bf16HybridAttention")


def _codewords(rng: np.random.Generator, dim: int) -> Array:
    """As BSQ has them: of each bit of a code one of two vectors."""
    bits = DECODER.code_bits
    set_, unset = _normal(rng, bits, dim) / 3, _normal(rng, bits, dim) / 3
    places = np.arange(2**bits)[:, None] >> np.arange(bits - 1, -1, -1) & 1
    words: Array = (places @ set_ + (1 - places) @ unset).astype(np.float32)
    return words


@measured(share=(0.0, *SHARES))
def hybrid_experts(side: int, share: float, experts: int = DECODER.experts) -> Case:
    """Shared and routed experts of `side * side` tokens, `share` of them edge tokens."""
    rng = np.random.default_rng(2)
    length, dim, hidden = side * side, DECODER.dim, DECODER.expert_hidden
    edge = disc_tokens(side, share)
    weights = {
        "input_norm_weight": 1 + _normal(rng, dim) / 10,
        "input_norm_bias": _normal(rng, dim) / 10,
        "gate_weight": _normal(rng, 1 + experts, dim),
        "gate_bias": _normal(rng, 1 + experts),
        "expert_bias": 0.01 * _normal(rng, experts),
        "w1": _normal(rng, 1 + experts, hidden, dim) / 16,
        "b1": _normal(rng, 1 + experts, hidden),
        "w2": _normal(rng, 1 + experts, hidden, dim) / 16,
        "b2": _normal(rng, 1 + experts, hidden),
        "norm_weight": _normal(rng, 2, hidden),
        "norm_bias": _normal(rng, 2, hidden),
        "w3": _normal(rng, 1 + experts, dim, hidden) / 8,
        "b3": _normal(rng, 1 + experts, dim),
    }
    return Case(
        operator="HybridExperts",
        inputs={"x": _normal(rng, length, dim), "edge_tokens": edge, **weights},
        constant=frozenset(weights),
        attributes={"epsilon": EPSILON},
        flop=(length + len(edge)) * hidden * (6.0 * dim + SILU_FLOP) + 2.0 * len(edge) * dim * (1 + experts),
        nbytes=8.0 * length * dim,
    )


@measured(share=(0.0, *SHARES))
def bf16_hybrid_experts(side: int, share: float, experts: int = DECODER.experts) -> Case:
    """The same where bfloat16 serves."""
    return replace(hybrid_experts(side, share, experts), operator="Bf16HybridExperts")


@measured()
def norm_linear(side: int) -> Case:
    """Queries, keys and values of `side * side` tokens."""
    rng = np.random.default_rng(5)
    length, dim, outputs = side * side, DECODER.dim, 3 * DECODER.attention_dim
    weights = {
        "norm_weight": 1 + _normal(rng, dim) / 10,
        "norm_bias": _normal(rng, dim) / 10,
        "weight": _normal(rng, outputs, dim) / 16,
        "bias": _normal(rng, outputs),
    }
    return Case(
        operator="NormLinear",
        inputs={"x": _normal(rng, length, dim), **weights},
        constant=frozenset(weights),
        attributes={"activation": "none", "epsilon": EPSILON},
        flop=2.0 * length * dim * outputs,
        nbytes=4.0 * length * (dim + outputs),
    )


@measured()
def linear_add(side: int) -> Case:
    """The output of the attention of `side * side` tokens, projected and added to them."""
    rng = np.random.default_rng(6)
    length, dim, width = side * side, DECODER.dim, DECODER.attention_dim
    weights = {"weight": _normal(rng, dim, width) / 6, "bias": _normal(rng, dim)}
    return Case(
        operator="LinearAdd",
        inputs={"x": _normal(rng, length, width), "residual": _normal(rng, length, dim), **weights},
        constant=frozenset(weights),
        attributes={},
        flop=2.0 * length * dim * width,
        nbytes=4.0 * length * (width + 2 * dim),
    )


@measured(share=SHARES)
def low_rank_linear(side: int, share: float, activation: str = "gated") -> Case:
    """The shared expert's hidden values in the last layer, of tokens outside the box of `share` of `side * side`."""
    rng = np.random.default_rng(28)
    length, dim, hidden = side * side, DECODER.dim, DECODER.expert_hidden
    rank, outputs = DECODER.layers * (DECODER.attention_dim + hidden) - hidden, 2 * hidden
    inside = _inside(side, share)
    weights = {
        "weight": _normal(rng, outputs, rank) / 16,
        "root": np.triu(_normal(rng, rank, rank)) / 16,
        "bias": _normal(rng, outputs),
    }
    known = _normal(rng, length, outputs + rank + 1)
    known[:, -1] = 2 * dim  # a norm that is larger than what the state takes away
    outside = length - len(inside)
    products = outputs * rank + rank * (rank + 1) / 2 + rank
    return Case(
        operator="LowRankLinear",
        inputs={"known": known, "state": _normal(rng, length, rank) / 16, "inside": inside, **weights},
        constant=frozenset(weights),
        attributes={"column": 0, "channels": dim, "epsilon": EPSILON, "activation": activation},
        flop=outside * (2.0 * products + SILU_FLOP * hidden),
        nbytes=4.0 * (outside * (outputs + 2 * rank + 1) + length * hidden),
    )


@measured(share=SHARES)
def low_rank_add(side: int, share: float) -> Case:
    """First layer of the low-resolution logits, of tokens outside the box of `share` of `side * side`."""
    rng = np.random.default_rng(29)
    length, outputs = side * side, DECODER.pyramid[1]
    rank = DECODER.layers * (DECODER.attention_dim + DECODER.expert_hidden)
    inside = _inside(side, share)
    weights = {"weight": _normal(rng, outputs, rank) / 8, "bias": _normal(rng, outputs)}
    outside = length - len(inside)
    return Case(
        operator="LowRankAdd",
        inputs={
            "known": _normal(rng, length, outputs),
            "state": _normal(rng, length, rank),
            "inside": inside,
            "rows": _normal(rng, len(inside), outputs),
            "wanted": np.arange(length),
            **weights,
        },
        constant=frozenset(weights),
        attributes={"column": 0},
        flop=2.0 * outside * outputs * rank,
        nbytes=4.0 * (outside * rank + 2 * length * outputs),
    )


def _inside(side: int, share: float) -> Array:
    """The tokens of a box of `share` of `side * side` tokens, ascending."""
    left, top, right, bottom = disc_token_box(side, share)
    inside: Array = np.arange(side * side).reshape(side, side)[top:bottom, left:right].ravel()
    return inside


@measured()
def mask_upscaling(side: int) -> Case:
    """HRSAM: the logits of a mask from `side * side` image tokens."""
    rng = np.random.default_rng(27)
    length, dim = side * side, HRSAMPP_VIT_B.decoder.dim
    first, second = HRSAMPP_VIT_B.decoder.upscaling
    weights = {
        "first_weight": _normal(rng, 4 * first, dim) / 16,
        "first_bias": _normal(rng, first),
        "norm_weight": 1 + _normal(rng, first) / 10,
        "norm_bias": _normal(rng, first) / 10,
        "second_weight": _normal(rng, 4 * second, first) / 8,
        "second_bias": _normal(rng, second),
    }
    products, activations = 4 * first * dim + 16 * second * (first + 1), 4 * first + 16 * second
    return Case(
        operator="MaskUpscaling",
        inputs={"x": _normal(rng, side, side, dim), **weights, "mask": _normal(rng, second)},
        constant=frozenset(weights),
        attributes={"epsilon": 1e-6},
        flop=length * (2.0 * products + GELU_FLOP * activations),
        nbytes=4.0 * length * (dim + 16),
    )


@measured(clicks=(1, 10, 20))
def image_to_token_attention(side: int, clicks: int) -> Case:
    """HRSAM: `side * side` image tokens attend to those of some clicks and of the decoder."""
    rng = np.random.default_rng(28)
    length, tokens = side * side, _few_tokens(clicks)
    dim, width = HRSAMPP_VIT_B.decoder.dim, HRSAMPP_VIT_B.decoder.cross_dim
    weights = {
        "query_weight": _normal(rng, width, dim) / 16,
        "out_weight": _normal(rng, dim, width) / 16,
        "out_bias": _normal(rng, dim),
        "norm_weight": 1 + _normal(rng, dim) / 10,
        "norm_bias": _normal(rng, dim) / 10,
    }
    image = _normal(rng, length, dim)
    inputs = {
        "query": _normal(rng, length, width),
        "query_input": image,
        "query_weight": weights["query_weight"],
        "query_bias": _normal(rng, width),
        "key": _normal(rng, tokens, width),
        "value": _normal(rng, tokens, width),
        "image": image,
    }
    heads = HRSAMPP_VIT_B.decoder.heads
    projected = min(width, heads * tokens)  # columns: those of the projection, or of the tokens taken through it
    products = 2 * dim * projected + (1 if heads * tokens < width else 2) * width * tokens
    return Case(
        operator="ImageToTokenAttention",
        inputs=inputs | weights,
        constant=frozenset(weights),
        attributes={"heads": heads, "epsilon": EPSILON},
        flop=length * (2.0 * products + EXP_FLOP * heads * tokens),
        nbytes=4.0 * length * (2 * dim + width),
    )


@measured(clicks=(1, 10, 20))
def token_to_image_attention(side: int, clicks: int) -> Case:
    """HRSAM: the tokens of some clicks and of the decoder attend to `side * side` image tokens."""
    rng = np.random.default_rng(29)
    length, tokens = side * side, _few_tokens(clicks)
    dim, width, heads = HRSAMPP_VIT_B.decoder.dim, HRSAMPP_VIT_B.decoder.cross_dim, HRSAMPP_VIT_B.decoder.heads
    inputs = {
        "query": _normal(rng, tokens, width),
        "image": _normal(rng, length, dim),
        "key": _normal(rng, length, width),
        "key_weight": _normal(rng, width, dim) / 16,
        "value_weight": _normal(rng, width, dim) / 16,
        "value": _normal(rng, 1, width),
    }
    projected = min(width, heads * tokens)
    products = 2 * dim * projected + (1 if heads * tokens < width else 2) * width * tokens
    return Case(
        operator="TokenToImageAttention",
        inputs=inputs,
        constant=frozenset(("key_weight", "value_weight", "value")),
        attributes={"heads": heads},
        flop=length * (2.0 * products + EXP_FLOP * heads * tokens),
        nbytes=4.0 * length * (dim + width),
    )


def _few_tokens(clicks: int) -> int:
    """Tokens of HRSAM's decoder: one of the IoU, those of the masks, of each click, and of the point that is none."""
    return 1 + HRSAMPP_VIT_B.decoder.mask_tokens + clicks + 1


@measured(share=SHARES)
def edge_tokens(side: int, share: float, rule: str = "exact") -> Case:
    """Edge tokens of a label map with a disc of `share` of the area."""
    labels = disc_labels(side * PATCH, share)
    return Case(
        operator="EdgeTokens",
        inputs={"labels": labels},
        constant=frozenset(),
        attributes={"rule": rule},
        flop=0.0,
        nbytes=float(labels.size),
    )


@measured(share=SHARES)
def label_box(side: int, share: float) -> Case:
    """The box of a label map with a disc of `share` of the area."""
    labels = disc_labels(side * PATCH, share)
    return Case(
        operator="LabelBox",
        inputs={"labels": labels},
        constant=frozenset(),
        attributes={},
        flop=0.0,
        nbytes=float(labels.size),
    )


@measured(share=SHARES)
def token_box(side: int, share: float) -> Case:
    """The box of `share` of `side * side` tokens."""
    low_res = np.full((side, side), -3, np.float32)
    low_res.ravel()[disc_tokens(side, share)] = 3
    return Case(
        operator="TokenBox",
        inputs={"low_res": low_res},
        constant=frozenset(),
        attributes={"threshold": -2.0},
        flop=0.0,
        nbytes=float(low_res.nbytes),
    )


@measured(share=SHARES)
def prompt_embedding(side: int, share: float, dense: bool = False) -> Case:
    """Prompt embedding of a label map with a disc of `share` of the area."""
    rng = np.random.default_rng(3)
    labels = disc_labels(side * PATCH, share)
    channels = (5, *DECODER.prompt_channels)  # 5 labels in a table of 5 channels
    weights: dict[str, Array] = {"label_table": _normal(rng, 5, 5)}
    for i, (before, after) in enumerate(pairwise(channels)):
        weights[f"w{i}"] = _normal(rng, after, before, 3, 3) / np.float32(np.sqrt(9 * before))
        weights[f"b{i}"] = _normal(rng, after)
    return Case(
        operator="PromptEmbedding",
        inputs={"labels": labels, "embedding": _normal(rng, side, side, DECODER.dim), **weights},
        constant=frozenset(weights),
        attributes={"dense": int(dense)},
        flop=_mixed_flop(labels, channels),
        nbytes=8.0 * side * side * DECODER.dim + labels.size,
    )


@measured(share=SHARES, stage=range(4))
def local_upsample(side: int, share: float, stage: int) -> Case:
    """Stage 0..3 of local upsampling of the box around a disc of `share` of the area."""
    rng = np.random.default_rng(4)
    last = stage == 3
    channels = (*DECODER.pyramid, 1)
    ci, co = channels[stage], channels[stage + 1]
    box = disc_token_box(side, share)
    u = 2**stage
    hc, wc = (int(n) * u for n in (box[3] - box[1], box[2] - box[0]))
    whole = 2 * u * side
    weights = {
        "norm_weight": _normal(rng, ci),
        "norm_bias": _normal(rng, ci),
        "conv_weight": _normal(rng, co, ci, 3, 3) / np.float32(np.sqrt(9 * ci)),
        "conv_bias": _normal(rng, co),
    }
    return Case(
        operator="LocalUpsample",
        inputs={
            "x": _normal(rng, hc, wc, ci),
            "box": box,
            **weights,
            "edge_map": _normal(rng, whole, whole, co),
            "edge_border": _normal(rng, 4, side, whole, co),
            "edge_corner": _normal(rng, 4, side, side, co),
        },
        constant=frozenset(weights),
        attributes={"activation": "none" if last else "silu", "epsilon": EPSILON},
        # nine taps; resizing four sums of them, 16 products each; four activations
        flop=hc * wc * co * (2.0 * (9 * ci + 64) + (0.0 if last else 4 * SILU_FLOP)),
        nbytes=4.0 * hc * wc * (ci + 8 * co),
    )


@measured(share=SHARES, stage=range(4))
def bf16_local_upsample(side: int, share: float, stage: int) -> Case:
    """The same where bfloat16 serves."""
    return replace(local_upsample(side, share, stage), operator="Bf16LocalUpsample")


@measured()
def full_attention(side: int) -> Case:
    """Attention of `side * side` tokens before any click, once an image."""
    length, dim = side * side, DECODER.attention_dim
    return Case(
        operator="FullAttention",
        inputs={"qkv": _normal(np.random.default_rng(7), length, 3 * dim)},
        constant=frozenset(),
        attributes={"heads": DECODER.heads, "grid_width": side},
        flop=float(length * length) * (4 * dim + EXP_FLOP * DECODER.heads),
        nbytes=4.0 * length * (4 * dim + DECODER.heads),
        outputs=("out", "logsum"),
    )


@measured()
def window_attention(side: int) -> Case:
    """Attention in windows of the encoder's two maps, the main one of `side * side` tokens, without an offset."""
    rng = np.random.default_rng(8)
    sides, dim = [side, ENCODER.anchor_size // PATCH], ENCODER.dim
    length = sum(n * n for n in sides)
    return Case(
        operator="WindowAttention",
        inputs={"qkv": _normal(rng, length, 3 * dim), "padding": _normal(rng, 1, 3 * dim)},
        constant=frozenset(("padding",)),
        attributes={
            "heads": ENCODER.heads,
            "window": ENCODER.window,
            "heights": sides,
            "widths": sides,
            "offsets": [0, 0],
        },
        flop=float(length * ENCODER.window**2) * (4 * dim + EXP_FLOP * ENCODER.heads),
        nbytes=16.0 * length * dim,
    )


@measured()
def bf16_window_attention(side: int) -> Case:
    """The same, where what is multiplied may be rounded to bfloat16."""
    return replace(window_attention(side), operator="Bf16WindowAttention")


@measured(apart=(False, True))
def cycle_scan(side: int, apart: bool = False) -> Case:
    """The scan of a fresh state-space module of HRSAM++, `side * side` tokens and those of the anchor map.

    Through both maps, or `apart`: through each by itself. Work is that of one pass, the least that the result needs.
    """
    rng = np.random.default_rng(16)
    encoder = HRSAMPP_VIT_B.encoder
    lengths = [side * side, (encoder.anchor_size // PATCH) ** 2]
    length, dim, states = sum(lengths), encoder.dim, encoder.states
    step = np.exp(rng.uniform(np.log(1e-3), np.log(1e-1), dim))
    weights = {
        "rate": np.tile(-np.arange(1, states + 1, dtype=np.float32), (dim, 1)),
        "skip": np.ones(dim, np.float32),
        "bias": np.log(np.expm1(step)).astype(np.float32),
        "gamma": np.ones((dim, encoder.repeats), np.float32),
    }
    return Case(
        operator="CycleScan",
        inputs={
            "u": _normal(rng, length, dim),
            "projected": _normal(rng, length, dim + 2 * states) / 2,
            **weights,
        },
        constant=frozenset(weights),
        attributes={"lengths": lengths if apart else [length]},
        # the decay's exponent and exponential, what is kept and added, and the output's product
        flop=float(length * dim) * (states * (EXP_FLOP + 6) + SOFTPLUS_FLOP + 5),
        nbytes=4.0 * length * (3 * dim + 2 * states),
    )


@measured(layer=LAYERS)
def int8_linear(side: int, layer: str = "fc1") -> Case:
    """One of the linear `LAYERS` of an encoder block in int8, on all tokens of both maps."""
    rng = np.random.default_rng(9)
    length, inputs, outputs, activation = _layer(side, layer)
    weights = {
        "weight": rng.integers(-127, 128, (outputs, inputs), np.int8),
        "scale": np.full(outputs, 1 / (127 * np.sqrt(inputs)), np.float32),
        "bias": _normal(rng, outputs),
    }
    return Case(
        operator="Int8Linear",
        inputs={"x": _normal(rng, length, inputs), **weights},
        constant=frozenset(weights),
        attributes={"activation": activation},
        flop=_layer_flop(length, inputs, outputs, activation),
        nbytes=4.0 * length * (inputs + outputs) + inputs * outputs,
    )


@measured(layer=LAYERS)
def bf16_linear(side: int, layer: str = "fc1") -> Case:
    """The same in bfloat16."""
    import ml_dtypes

    rng = np.random.default_rng(10)
    length, inputs, outputs, activation = _layer(side, layer)
    weight = _normal(rng, outputs, inputs) / np.float32(np.sqrt(inputs))
    weights = {"weight": weight.astype(ml_dtypes.bfloat16), "bias": _normal(rng, outputs)}
    return Case(
        operator="Bf16Linear",
        inputs={"x": _normal(rng, length, inputs), **weights},
        constant=frozenset(weights),
        attributes={"activation": activation},
        flop=_layer_flop(length, inputs, outputs, activation),
        nbytes=4.0 * length * (inputs + outputs) + 2 * inputs * outputs,
    )


@measured(layer=("qkv", "fc1"))
def int8_norm_linear(side: int, layer: str = "qkv") -> Case:
    """A layer of an encoder block that takes normalised tokens, in int8."""
    return _after_norm(int8_linear(side, layer))


@measured(layer=("qkv", "fc1"))
def bf16_norm_linear(side: int, layer: str = "qkv") -> Case:
    """The same in bfloat16."""
    return _after_norm(bf16_linear(side, layer))


@measured(layer=("proj", "fc2"))
def int8_linear_add(side: int, layer: str = "proj") -> Case:
    """A layer of an encoder block that is added to its tokens, in int8."""
    return _added(int8_linear(side, layer))


@measured(layer=("proj", "fc2"))
def bf16_linear_add(side: int, layer: str = "proj") -> Case:
    """The same in bfloat16."""
    return _added(bf16_linear(side, layer))


def _after_norm(case: Case) -> Case:
    """A linear layer with a LayerNorm before it."""
    rng = np.random.default_rng(22)
    x, weights = case.inputs["x"], {name: value for name, value in case.inputs.items() if name != "x"}
    width = x.shape[1]
    norm = {"norm_weight": 1 + _normal(rng, width) / 10, "norm_bias": _normal(rng, width) / 10}
    return replace(
        case,
        operator=case.operator.replace("Linear", "NormLinear"),
        inputs={"x": x, **norm, **weights},
        constant=case.constant | norm.keys(),
        attributes={**case.attributes, "epsilon": EPSILON},
    )


def _added(case: Case) -> Case:
    """A linear layer with a residual addition behind it."""
    rng = np.random.default_rng(23)
    x, weights = case.inputs["x"], {name: value for name, value in case.inputs.items() if name != "x"}
    residual = _normal(rng, len(x), len(weights["bias"]))
    return replace(
        case,
        operator=f"{case.operator}Add",
        inputs={"x": x, "residual": residual, **weights},
        attributes={},
        flop=case.flop + residual.size,
        nbytes=case.nbytes + residual.nbytes,
    )


@measured()
def int8_mlp(side: int) -> Case:
    """The MLP of an encoder block in int8, on all tokens of both maps."""
    rng = np.random.default_rng(20)

    def layer(number: int, inputs: int, outputs: int) -> dict[str, np.ndarray]:
        return {
            f"weight{number}": rng.integers(-127, 128, (outputs, inputs), np.int8),
            f"scale{number}": np.full(outputs, 1 / (127 * np.sqrt(inputs)), np.float32),
            f"bias{number}": _normal(rng, outputs),
        }

    return _mlp("Int8Mlp", side, rng, layer, 1)


@measured()
def bf16_mlp(side: int) -> Case:
    """The same in bfloat16."""
    import ml_dtypes

    rng = np.random.default_rng(21)

    def layer(number: int, inputs: int, outputs: int) -> dict[str, np.ndarray]:
        weight = _normal(rng, outputs, inputs) / np.float32(np.sqrt(inputs))
        return {f"weight{number}": weight.astype(ml_dtypes.bfloat16), f"bias{number}": _normal(rng, outputs)}

    return _mlp("Bf16Mlp", side, rng, layer, 2)


def _mlp(
    operator: str,
    side: int,
    rng: np.random.Generator,
    layer: Callable[[int, int, int], dict[str, np.ndarray]],
    width: int,
) -> Case:
    """An MLP of two layers whose weights have `width` bytes each."""
    length, dim, hidden, _ = _layer(side, "fc1")
    x, norm_weight, norm_bias = _normal(rng, length, dim), _normal(rng, dim), _normal(rng, dim)
    weights = layer(1, dim, hidden) | layer(2, hidden, dim)
    return Case(
        operator=operator,
        inputs={"x": x, "norm_weight": norm_weight, "norm_bias": norm_bias, **weights},
        constant=frozenset(weights),
        attributes={"epsilon": EPSILON},
        flop=_layer_flop(length, dim, hidden, "gelu") + _layer_flop(length, hidden, dim, "none") + length * dim,
        nbytes=4.0 * length * 2 * dim + width * 2 * dim * hidden,
    )


def _layer(side: int, layer: str) -> tuple[int, int, int, str]:
    """Tokens, inputs, outputs and activation of a linear layer of the encoder."""
    return (side * side + (ENCODER.anchor_size // PATCH) ** 2, *LAYERS[layer])


def _layer_flop(length: int, inputs: int, outputs: int, activation: str) -> float:
    return float(length * outputs) * (2 * inputs + (GELU_FLOP if activation == "gelu" else 0))


@measured()
def canny_maps(side: int) -> Case:
    """The Canny maps of a picture of `side * side` tokens."""
    from inter2former_deploy.core.contract import MEAN_BGR, STD_BGR

    pixels = side * PATCH
    blur = np.exp(-0.5 * (np.arange(5) - 2.0) ** 2)
    blur = (blur / blur.sum()).astype(np.float32)
    numbers = {
        "mean": np.array(MEAN_BGR, np.float32),
        "std": np.array(STD_BGR, np.float32),
        "blur_row": blur,
        "blur_column": blur,
    }
    return Case(
        operator="CannyMaps",
        inputs={"image": np.random.default_rng(11).uniform(0, 255, (pixels, pixels, 3)).astype(np.float32), **numbers},
        constant=frozenset(numbers),
        attributes={},
        flop=CANNY_FLOP * pixels**2,
        nbytes=4.0 * pixels**2 * (3 + 5),
    )


@measured()
def edge_stem(side: int) -> Case:
    """The first convolution of the edge network, of five maps."""
    rng = np.random.default_rng(12)
    pixels, maps, channels = side * PATCH, 5, FEATURES[0]
    weights = {"weight": _normal(rng, channels, maps, 3, 3), "bias": _normal(rng, channels)}
    return Case(
        operator="EdgeStem",
        inputs={"maps": _normal(rng, maps, pixels, pixels), **weights},
        constant=frozenset(weights),
        attributes={},
        flop=pixels**2 * maps * (2.0 + 18 * channels),  # the norm's squares and sums, and the convolution
        nbytes=4.0 * pixels**2 * (maps + channels),
    )


@measured(stage=range(4))
def edge_block(side: int, stage: int) -> Case:
    """A residual block of stage 0..3 of the edge network, fine to coarse; work as direct convolutions do it."""
    rng = np.random.default_rng(13)
    pixels, channels = side * PATCH >> stage, FEATURES[stage]
    weights: dict[str, Array] = {}
    for half in ("1", "2"):
        weights[f"norm{half}_weight"] = 1 + _normal(rng, channels) / 10
        weights[f"norm{half}_bias"] = _normal(rng, channels) / 10
        weights[f"conv{half}_weight"] = _normal(rng, channels, channels, 3, 3) / np.float32(np.sqrt(9 * channels))
        weights[f"conv{half}_bias"] = _normal(rng, channels)
    return Case(
        operator="EdgeBlock",
        inputs={"x": _normal(rng, pixels, pixels, channels), **weights},
        constant=frozenset(weights),
        attributes={"epsilon": EPSILON},
        flop=2.0 * pixels**2 * channels * (18 * channels + SILU_FLOP),
        nbytes=8.0 * pixels**2 * channels,
    )


@measured(stage=range(4))
def bf16_edge_block(side: int, stage: int) -> Case:
    """The same where bfloat16 serves."""
    return replace(edge_block(side, stage), operator="Bf16EdgeBlock")


@measured(stage=range(3))
def edge_downsample(side: int, stage: int) -> Case:
    """The convolution behind stage 0..2 of the edge network."""
    rng = np.random.default_rng(14)
    pixels, before, after = side * PATCH >> stage, FEATURES[stage], FEATURES[stage + 1]
    weights = {"weight": _normal(rng, after, before, 3, 3), "bias": _normal(rng, after)}
    return Case(
        operator="EdgeDownsample",
        inputs={"x": _normal(rng, pixels, pixels, before), **weights},
        constant=frozenset(weights),
        attributes={},
        flop=(pixels // 2) ** 2 * 18.0 * before * after,
        nbytes=4.0 * (pixels**2 * before + (pixels // 2) ** 2 * after),
    )


@measured(stage=range(3))
def bf16_edge_downsample(side: int, stage: int) -> Case:
    """The same where bfloat16 serves."""
    return replace(edge_downsample(side, stage), operator="Bf16EdgeDownsample")


@measured(stage=range(4))
def edge_projection(side: int, stage: int) -> Case:
    """What stage 0..3 of local upsampling takes from the edge network, coarse to fine."""
    rng = np.random.default_rng(15)
    before, after = (*DECODER.pyramid, 1)[stage : stage + 2]
    pixels = 2 << stage  # a token
    whole = side * pixels
    weights = {
        "lateral_weight": _normal(rng, before, before) / np.float32(np.sqrt(before)),
        "lateral_bias": _normal(rng, before),
        "conv_weight": _normal(rng, after, before, 3, 3) / np.float32(np.sqrt(9 * before)),
    }
    return Case(
        operator="EdgeProjection",
        inputs={"x": _normal(rng, whole, whole, before), **weights},
        constant=frozenset(weights),
        attributes={"pixels": pixels},
        flop=whole**2 * 18.0 * before * after,  # nine taps, the lateral convolution folded into them
        nbytes=4.0 * (whole**2 * (before + after) + 4 * side * (whole + side) * after),
        outputs=("out", "border", "corner"),
    )


@measured(stage=range(4))
def bf16_edge_projection(side: int, stage: int) -> Case:
    """The same where bfloat16 serves."""
    return replace(edge_projection(side, stage), operator="Bf16EdgeProjection")


VARIANTS = ("library", "plain", "torch")  # ours first


def workload(case: str, variant: str, arguments: Mapping[str, Any]) -> Workload:
    """A case of `CASES` as a workload: with the library, with the function body, or as the PyTorch formula."""
    return Workload(
        builder=f"{__name__}:build", arguments={"case": case, "variant": variant, "arguments": dict(arguments)}
    )


def build(case: str, variant: str, arguments: Mapping[str, Any]) -> Callable[[], object]:
    """The callable of `workload`."""
    made = CASES[case](**arguments)
    return _torch(made) if variant == "torch" else _graph(made, library=variant == "library")


def _graph(case: Case, *, library: bool) -> Callable[[], object]:
    import onnx
    import onnx.helper as oh
    import onnxruntime as ort

    from inter2former_deploy.core import library as operator_library
    from inter2former_deploy.exporters.bodies import add_bodies

    attributes = dict(case.attributes)
    operator = operator_name(case.operator, attributes)
    fed = {name: array for name, array in case.inputs.items() if name not in case.constant}
    graph = oh.make_graph(
        [oh.make_node(operator, list(case.inputs), list(case.outputs), domain=DOMAIN, **attributes)],
        case.operator,
        [oh.make_tensor_value_info(n, oh.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in fed.items()],
        [onnx.ValueInfoProto(name=name) for name in case.outputs],
        [onnx.numpy_helper.from_array(np.ascontiguousarray(case.inputs[n]), n) for n in sorted(case.constant)],
    )
    opsets = [oh.make_opsetid("", 20), oh.make_opsetid(DOMAIN, DOMAIN_VERSION)]
    model = oh.make_model(graph, opset_imports=opsets, ir_version=10)
    add_bodies(model)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads_here()
    options.log_severity_level = 3
    if library:
        operator_library.register(options)
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    values = {name: ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array)) for name, array in fed.items()}
    return lambda: session.run_with_ort_values(list(case.outputs), values)


def _torch(case: Case) -> Callable[[], object]:
    import torch

    torch.set_num_threads(threads_here())
    formula = OPERATORS[case.operator].load()
    tensors = [_tensor(array) for array in case.inputs.values()]

    def call() -> object:
        with torch.inference_mode():
            return formula(*tensors, **case.attributes)

    return call


def _tensor(array: Array) -> Any:
    """An array in PyTorch, whose interface to NumPy knows no bfloat16."""
    import torch

    array = np.ascontiguousarray(array)
    if array.dtype.name != "bfloat16":
        return torch.from_numpy(array)
    return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)


def _normal(rng: np.random.Generator, *shape: int) -> Array:
    return rng.standard_normal(shape, np.float32)


def _mixed_flop(labels: Array, channels: tuple[int, ...]) -> float:
    """Operations of the prompt convolutions where a receptive field holds two labels; elsewhere all is constant."""
    total = 0.0
    stride, reach = 2, 1  # of the receptive field in pixels: it spans stride * x - reach .. stride * x + reach
    for level, (before, after) in enumerate(pairwise(channels)):
        total += _mixed_places(labels, stride, reach) * 18.0 * (1 if level == 0 else before) * after
        reach += stride
        stride *= 2
    return total


def _mixed_places(labels: Array, stride: int, reach: int) -> int:
    """How many windows of side 2 * reach + 1, `stride` apart, hold two labels."""
    import cv2

    kernel = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    return int(np.count_nonzero((cv2.dilate(labels, kernel) != cv2.erode(labels, kernel))[::stride, ::stride]))


def sweep(sizes: Iterable[int]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The cases of `i2f bench ops` at these resolutions, each with all the arguments that it is measured for."""
    for size, (name, swept) in product(sizes, _SWEPT.items()):
        for values in product(*swept.values()):
            yield name, {"side": size // PATCH, **dict(zip(swept, values, strict=True))}
