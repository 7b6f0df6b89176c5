"""The operators of custom_ops/OPERATORS.md in plain NumPy: what their kernels are measured against.

With `dtype=float64` (the default) a twin is the truth; with `float32` it is the plain formula, whose rounding errors
say how accurate a kernel has to be. Feature maps are channels-last, names and shapes are those of OPERATORS.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any, Literal

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike, NDArray

Array = NDArray[Any]
IntArray = NDArray[np.int64]

UNKNOWN = 2  # reference label
POSSIBLE_BACKGROUND = 1


def label_box(labels: Array, patch: int) -> tuple[int, int, int, int]:
    """The box around the object, in pixels: left, top, right, bottom, right and bottom exclusive."""
    height, width = labels.shape
    ys, xs = np.nonzero(labels != POSSIBLE_BACKGROUND)
    if len(ys) == 0:
        return 0, 0, width, height
    left, top = (int(v.min()) // patch * patch - patch for v in (xs, ys))
    right, bottom = (-(-(int(v.max()) + 1) // patch) * patch + patch for v in (xs, ys))
    return max(left, 0), max(top, 0), min(right, width), min(bottom, height)


def token_label_box(labels: Array, *, patch: int = 16) -> IntArray:
    """The same in tokens, int64 [4]."""
    return np.array(label_box(labels, patch), np.int64) // patch


def edge_tokens(labels: Array, *, rule: Literal["released", "exact"], patch: int = 16) -> IntArray:
    """Tokens that get full attention, ascending."""
    if labels.size == 0:
        return np.zeros(0, np.int64)
    left, top, right, bottom = label_box(labels, patch)
    crop = labels[top:bottom, left:right]
    lowest = highest = np.pad(crop, 3, mode="reflect")
    for axis in range(2):
        lowest = np.lib.stride_tricks.sliding_window_view(lowest, 7, axis).min(-1)
        highest = np.lib.stride_tricks.sliding_window_view(highest, 7, axis).max(-1)
    edge = np.zeros(labels.shape, bool)
    edge[top:bottom, left:right] = (crop == UNKNOWN) | (highest > (0 if rule == "released" else lowest))
    tokens = edge.reshape(len(edge) // patch, patch, -1, patch).any((1, 3))
    return np.flatnonzero(tokens).astype(np.int64)


def _prompt_network(labels: Array, label_table: Array, convolutions: list[tuple[Array, Array]]) -> Array:
    """Labels [H, W] through table and stride-2 convolutions -> [H / 2**n, W / 2**n, C]."""
    x = label_table[labels]
    for weight, bias in convolutions:
        height, width = x.shape[0] // 2, x.shape[1] // 2
        padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
        y = np.zeros((height, width, len(weight)), x.dtype)
        for dy in range(3):
            for dx in range(3):
                tap = padded[dy : dy + 2 * height : 2, dx : dx + 2 * width : 2]
                y += (tap.reshape(height * width, -1) @ weight[:, :, dy, dx].T).reshape(y.shape)
        x = np.where(y + bias <= 0, np.zeros((), x.dtype), y + bias)  # ReLU that keeps NaN
    return x


def prompt_embedding(
    labels: Array,
    embedding: Array,
    label_table: Array,
    *weights_and_biases: Array,
    dense: bool = False,
    dtype: DTypeLike = np.float64,
) -> Array:
    """Labels embedded around the object and added to the image embedding -> [L, C]."""
    embedding, label_table = embedding.astype(dtype), label_table.astype(dtype)
    parameters = [parameter.astype(dtype) for parameter in weights_and_biases]
    convolutions = list(zip(parameters[::2], parameters[1::2], strict=True))
    patch = 2 ** len(convolutions)  # pixels a token: each convolution halves the map
    h, w, channels = embedding.shape
    around = np.full((3 * patch, 3 * patch), POSSIBLE_BACKGROUND)
    prompt = np.empty_like(embedding)
    prompt[:] = _prompt_network(around, label_table, convolutions)[1, 1]
    if h * w > 0:
        left, top, right, bottom = (0, 0, w * patch, h * patch) if dense else label_box(labels, patch)
        inside = _prompt_network(labels[top:bottom, left:right], label_table, convolutions)
        prompt[top // patch : bottom // patch, left // patch : right // patch] = inside
    return (embedding + prompt).reshape(h * w, channels)


def rotate(x: Array, tokens: IntArray, grid_width: int) -> Array:
    """The rotary embedding of one head, x [E, Dh], at the places of `tokens` [E]."""
    half = x.shape[1] // 2
    frequencies = 10000.0 ** (-2 * np.arange(half // 2) / half)
    out = np.empty_like(x)
    for axis, position in enumerate((tokens // grid_width, tokens % grid_width)):
        angle = (0.5 * position)[:, None] * frequencies
        cos, sin = np.cos(angle).astype(x.dtype), np.sin(angle).astype(x.dtype)
        even, odd = x[:, axis * half : (axis + 1) * half : 2], x[:, axis * half + 1 : (axis + 1) * half : 2]
        out[:, axis * half : (axis + 1) * half : 2] = even * cos + odd * sin
        out[:, axis * half + 1 : (axis + 1) * half : 2] = odd * cos - even * sin
    return out


def key_codes(
    keys: Array, code_weight: Array, code_bias: Array, quantizer: Literal["bsq", "vq"], dtype: DTypeLike = np.float64
) -> IntArray:
    """The code of each key [L, D] -> [L]."""
    projected = keys.astype(dtype) @ code_weight.astype(dtype).T + code_bias.astype(dtype)
    if quantizer == "vq":
        return np.argmax(np.where(np.isnan(projected), -np.inf, projected), axis=1)
    return (projected >= 0) @ (1 << np.arange(len(code_bias))[::-1])


def hybrid_attention(
    qkv: Array,
    edge: IntArray,
    code_weight: Array,
    code_bias: Array,
    codewords: Array,
    *_known: Array,
    heads: int,
    grid_width: int,
    quantizer: Literal["bsq", "vq"] = "bsq",
    bf16: bool = False,
    dtype: DTypeLike = np.float64,
) -> Array:
    """Full attention for edge tokens, codebook attention for the others -> [L, D]; what is known changes nothing.

    With `bf16` queries, keys, weights and values of full attention round before they are multiplied.
    """
    qkv, codewords = qkv.astype(dtype), codewords.astype(dtype)
    length, width = qkv.shape[0], qkv.shape[1] // 3
    if length == 0:
        return np.zeros((0, width), dtype)
    codes = key_codes(qkv[:, width : 2 * width], code_weight, code_bias, quantizer, dtype)
    occurring, code_of_key = np.unique(codes, return_inverse=True)
    counts = np.bincount(code_of_key)
    others = np.setdiff1d(np.arange(length), edge)
    out = np.empty((length, width), dtype)
    for head in range(heads):
        part = slice(head * width // heads, (head + 1) * width // heads)
        q, k, v = (qkv[:, i * width : (i + 1) * width][:, part] for i in range(3))
        scale = np.asarray((width // heads) ** -0.5, dtype)
        if bf16:
            queries, keys = (rotate(x, np.arange(length), grid_width) for x in (q, k))
            out[edge, part] = _attend_in_bf16(queries[edge] * scale, keys, v)
        else:
            out[edge, part] = _softmax(_logits(q, k, edge, grid_width)) @ v
        values = np.zeros((len(occurring), v.shape[1]), dtype)
        np.add.at(values, code_of_key, v)
        scores = q[others] @ codewords[occurring, part].T * scale
        weights = np.exp(scores - scores.max(1, keepdims=True))
        out[others, part] = weights @ values / (weights @ counts.astype(dtype))[:, None]
    return out


def full_attention(qkv: Array, *, heads: int, grid_width: int, dtype: DTypeLike = np.float64) -> Array:
    """Full attention for all tokens -> [L, D]."""
    weights = _softmax(attention_logits(qkv, heads=heads, grid_width=grid_width, dtype=dtype))
    values = np.split(qkv.astype(dtype)[:, 2 * qkv.shape[1] // 3 :], heads, axis=1)
    return np.hstack([w @ v for w, v in zip(weights, values, strict=True)])


def attention_logsum(qkv: Array, *, heads: int, grid_width: int, dtype: DTypeLike = np.float64) -> Array:
    """The second result of FullAttention, logarithms of its denominators -> [L, heads]."""
    logits = attention_logits(qkv, heads=heads, grid_width=grid_width, dtype=dtype)
    top = logits.max(2, keepdims=True)
    return (top[..., 0] + np.log(np.exp(logits - top).sum(2))).T


def attention_logits(qkv: Array, *, heads: int, grid_width: int, dtype: DTypeLike = np.float64) -> Array:
    """What full attention takes the softmax of -> [heads, L, L]."""
    parts = np.split(qkv.astype(dtype), 3 * heads, axis=1)  # q of all heads, then k, then v
    everyone = np.arange(len(qkv))
    pairs = zip(parts[:heads], parts[heads : 2 * heads], strict=True)
    return np.stack([_logits(q, k, everyone, grid_width) for q, k in pairs])


def _logits(q: Array, k: Array, tokens: IntArray, grid_width: int) -> Array:
    """Of the queries of some tokens and all keys in one head, [L, Dh] each -> [E, L]."""
    scale = np.asarray(q.shape[1] ** -0.5, q.dtype)
    return rotate(q[tokens], tokens, grid_width) @ rotate(k, np.arange(len(k)), grid_width).T * scale


def _softmax(scores: Array) -> Array:
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def _sigmoid(x: Array) -> Array:
    with np.errstate(over="ignore"):  # exp(-x) = inf is the right way to 0
        return 1 / (1 + np.exp(-x))


def chosen_experts(
    x: Array, gate_weight: Array, gate_bias: Array, expert_bias: Array, dtype: DTypeLike = np.float64
) -> IntArray:
    """The routed expert, 1..R, that each token [E, C] goes to -> [E]. A NaN counts as -inf."""
    gates = _sigmoid(x.astype(dtype) @ gate_weight.astype(dtype).T + gate_bias.astype(dtype))
    scores = gates[:, 1:] + expert_bias.astype(dtype)
    return 1 + np.argmax(np.where(np.isnan(scores), -np.inf, scores), axis=1)


def layer_norm(x: Array, weight: Array, bias: Array, epsilon: float, dtype: DTypeLike) -> Array:
    """Over the last axis."""
    centred = x.astype(dtype) - x.astype(dtype).mean(-1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + np.asarray(epsilon, dtype))
    normed: Array = centred / deviation * weight.astype(dtype) + bias.astype(dtype)
    return normed


def norm_linear(
    x: Array,
    norm_weight: Array,
    norm_bias: Array,
    weight: Array,
    bias: Array,
    *,
    epsilon: float = 1e-5,
    activation: Literal["none", "gelu"] = "none",
    dtype: DTypeLike = np.float64,
) -> Array:
    """A linear layer of normalised tokens, and its activation -> [L, N]."""
    normed = layer_norm(x, norm_weight, norm_bias, epsilon, dtype)
    return activated(normed @ weight.astype(dtype).T + bias.astype(dtype), activation)


def linear_add(x: Array, residual: Array, weight: Array, bias: Array, *, dtype: DTypeLike = np.float64) -> Array:
    """A linear layer added to a residual -> [L, N]."""
    return residual.astype(dtype) + (x.astype(dtype) @ weight.astype(dtype).T + bias.astype(dtype))


def image_to_token_attention(
    query: Array,
    query_input: Array,
    query_weight: Array,
    query_bias: Array,
    key: Array,
    value: Array,
    image: Array,
    out_weight: Array,
    out_bias: Array,
    norm_weight: Array,
    norm_bias: Array,
    *,
    heads: int,
    epsilon: float = 1e-5,
    dtype: DTypeLike = np.float64,
) -> Array:
    """Image tokens attend to a few others, are added and normalised -> [L, C]."""
    queries = query.astype(dtype) + (
        query_input.astype(dtype) @ query_weight.astype(dtype).T + query_bias.astype(dtype)
    )
    attended = _attended(queries, key.astype(dtype), value.astype(dtype), heads)
    joined = image.astype(dtype) + (attended @ out_weight.astype(dtype).T + out_bias.astype(dtype))
    return layer_norm(joined, norm_weight, norm_bias, epsilon, dtype)


def token_to_image_attention(
    query: Array,
    image: Array,
    key: Array,
    key_weight: Array,
    value_weight: Array,
    value: Array,
    *,
    heads: int,
    dtype: DTypeLike = np.float64,
) -> Array:
    """A few tokens attend to an image's -> [T, D]."""
    x = image.astype(dtype)
    keys = key.astype(dtype) + x @ key_weight.astype(dtype).T
    values = value.astype(dtype) + x @ value_weight.astype(dtype).T
    return _attended(query.astype(dtype), keys, values, heads)


def _attended(query: Array, key: Array, value: Array, heads: int) -> Array:
    """Softmax attention of [n, D] to [m, D], head by head -> [n, D]."""
    scale = np.asarray((query.shape[1] / heads) ** -0.5, query.dtype)
    parts = zip(*(np.split(x, heads, axis=1) for x in (query, key, value)), strict=True)
    return np.hstack([_softmax(q @ k.T * scale) @ v for q, k, v in parts])


def low_rank_linear(
    known: Array,
    state: Array,
    inside: IntArray,
    weight: Array,
    root: Array,
    bias: Array,
    *,
    column: int = 0,
    channels: int = 1,
    epsilon: float = 1e-5,
    activation: Literal["none", "gated"] = "none",
    dtype: DTypeLike = np.float64,
) -> Array:
    """A linear layer of normalised tokens that are known but for a part of low rank -> [L, N], gated [L, N/2]."""
    outside = np.setdiff1d(np.arange(len(known)), inside)
    known, s = known[outside, column:].astype(dtype), state[outside].astype(dtype)
    outputs, rank = weight.shape
    u, v, n = known[:, :outputs], known[:, outputs : outputs + rank], known[:, outputs + rank]
    squares = n + 2 * (v * s).sum(1) + ((s @ root.astype(dtype).T) ** 2).sum(1)
    deviation = np.sqrt(np.maximum(squares, 0) / channels + np.asarray(epsilon, dtype))
    y = (u + s @ weight.astype(dtype).T) / deviation[:, None] + bias.astype(dtype)
    if activation == "gated":
        gate, hidden = np.split(y, 2, axis=1)
        ones = np.ones(outputs // 2, dtype)
        y = layer_norm(gate * _sigmoid(gate) * hidden, ones, 0 * ones, epsilon, dtype)
    out = np.zeros((len(state), y.shape[1]), dtype)
    out[outside] = y
    return out


def low_rank_add(
    known: Array,
    state: Array,
    inside: IntArray,
    rows: Array,
    wanted: IntArray,
    weight: Array,
    bias: Array,
    *,
    column: int = 0,
    dtype: DTypeLike = np.float64,
) -> Array:
    """A linear layer of states added to what is known, and rows that are given -> [n, N]."""
    out = known[:, column : column + len(weight)].astype(dtype) + state.astype(dtype) @ weight.astype(dtype).T
    out += bias.astype(dtype)
    out[inside] = rows
    wanted_rows: Array = out[wanted]
    return wanted_rows


def mask_upscaling(
    x: Array,
    first_weight: Array,
    first_bias: Array,
    norm_weight: Array,
    norm_bias: Array,
    second_weight: Array,
    second_bias: Array,
    mask: Array,
    *,
    epsilon: float = 1e-6,
    dtype: DTypeLike = np.float64,
) -> Array:
    """Two transposed convolutions of stride 2, each place by itself, and the product with a mask -> [4h, 4w]."""

    def doubled(x: Array, weight: Array, bias: Array) -> Array:
        height, width, _ = x.shape
        kernel = weight.astype(dtype).reshape(2, 2, len(bias), -1)
        y = np.empty((2 * height, 2 * width, len(bias)), dtype)
        for row, column in product(range(2), repeat=2):
            y[row::2, column::2] = x @ kernel[row, column].T + bias.astype(dtype)
        return y

    y = doubled(x.astype(dtype), first_weight, first_bias)
    y = activated(layer_norm(y, norm_weight, norm_bias, epsilon, dtype), "gelu")
    logits: Array = activated(doubled(y, second_weight, second_bias), "gelu") @ mask.astype(dtype)
    return logits


def window_attention(
    qkv: Array,
    padding: Array,
    *,
    heads: int,
    window: int,
    heights: Sequence[int],
    widths: Sequence[int],
    offsets: Sequence[int],
    bf16: bool = False,
    dtype: DTypeLike = np.float64,
) -> Array:
    """Attention in the windows of an image's maps; padding slots are keys and values -> [T, D].

    With `bf16` queries, keys, weights and values round before they are multiplied.
    """
    qkv, padding = qkv.astype(dtype), padding.astype(dtype)
    width = qkv.shape[1] // 3
    out = np.empty((len(qkv), width), dtype)
    first = 0
    while first < len(qkv):
        for height, columns, offset in zip(heights, widths, offsets, strict=True):
            grid = first + np.arange(height * columns).reshape(height, columns)
            first += grid.size
            extra = [(offset, -(offset + size) % window) for size in grid.shape]
            slots = np.pad(grid, extra, constant_values=-1)  # the token in each slot of the padded map
            for top, left in product(*(range(0, size, window) for size in slots.shape)):
                place = np.arange(top, top + window)[:, None] * slots.shape[1] + np.arange(left, left + window)
                tokens, place = slots.flat[place].ravel(), place.ravel()
                inside = tokens >= 0
                x = np.where(inside[:, None], qkv[tokens], padding)
                for head in range(heads):
                    part = slice(head * width // heads, (head + 1) * width // heads)
                    q, k, v = (x[:, i * width : (i + 1) * width][:, part] for i in range(3))
                    q = rotate(q[inside], place[inside], slots.shape[1])
                    k, scale = rotate(k, place, slots.shape[1]), np.asarray((width // heads) ** -0.5, dtype)
                    if bf16:
                        out[tokens[inside], part] = _attend_in_bf16(q * scale, k, v)
                    else:
                        out[tokens[inside], part] = _softmax(q @ k.T * scale) @ v
    return out


def _attend_in_bf16(q: Array, k: Array, v: Array) -> Array:
    """Attention of scaled queries whose factors round; by base 2, so that the largest weight is 1."""

    def rounded(x: Array) -> Array:
        return x.astype(ml_dtypes.bfloat16).astype(x.dtype)

    scores = rounded(q * np.asarray(1 / np.log(2), q.dtype)) @ rounded(k).T
    weights = rounded(np.exp2(scores - scores.max(1, keepdims=True)))
    return weights @ rounded(v) / weights.sum(1, keepdims=True)


def cycle_scan(
    u: Array,
    projected: Array,
    rate: Array,
    skip: Array,
    bias: Array,
    gamma: Array,
    *,
    lengths: Sequence[int],
    dtype: DTypeLike = np.float64,
) -> Array:
    """The selective scan over every sequence R times end to end, a token's outputs added up with weights -> [T, C]."""
    u, projected, rate, skip, bias, gamma = (x.astype(dtype) for x in (u, projected, rate, skip, bias, gamma))
    channels, states = rate.shape
    step = np.logaddexp(projected[:, :channels] + bias, np.zeros((), dtype))
    b, c = np.split(projected[:, channels:], 2, axis=1)
    out = np.zeros_like(u)
    first = 0
    while first < len(u):
        for length in lengths:
            state = np.zeros((channels, states), dtype)
            for weight in gamma.T:
                for t in range(first, first + length):
                    state = np.exp(step[t, :, None] * rate) * state + (step[t] * u[t])[:, None] * b[t]
                    out[t] += weight * (state @ c[t] + skip * u[t])
            first += length
    return out


def hybrid_experts(
    x: Array,
    edge: IntArray,
    input_norm_weight: Array,
    input_norm_bias: Array,
    *parameters: Array,
    epsilon: float = 1e-5,
    dtype: DTypeLike = np.float64,
    bfloat16: bool = False,
) -> Array:
    """Tokens plus what the experts make of the normalised tokens -> [L, C].

    `bfloat16`: normalised tokens and hidden values, and what they are multiplied with in experts, are rounded to it.
    """
    normed = layer_norm(x, input_norm_weight, input_norm_bias, epsilon, dtype)
    return x.astype(dtype) + mix_experts(normed, edge, *parameters, epsilon=epsilon, dtype=dtype, bfloat16=bfloat16)


def mix_experts(
    x: Array,
    edge: IntArray,
    gate_weight: Array,
    gate_bias: Array,
    expert_bias: Array,
    w1: Array,
    b1: Array,
    w2: Array,
    b2: Array,
    norm_weight: Array,
    norm_bias: Array,
    w3: Array,
    b3: Array,
    *,
    epsilon: float = 1e-5,
    dtype: DTypeLike = np.float64,
    bfloat16: bool = False,
) -> Array:
    """The shared expert for all tokens, a routed one beside it for edge tokens -> [L, C]."""

    def factor(values: Array) -> Array:
        return values.astype(ml_dtypes.bfloat16).astype(dtype) if bfloat16 else values.astype(dtype)

    x = x.astype(dtype)
    b1, b2, b3 = (bias.astype(dtype) for bias in (b1, b2, b3))
    w1, w2, w3 = (factor(weight) for weight in (w1, w2, w3))

    def expert(index: int, x: Array) -> Array:
        x = factor(x)
        up = x @ w1[index].T + b1[index]
        hidden = up * _sigmoid(up) * (x @ w2[index].T + b2[index])
        norm = min(index, 1)
        normed = layer_norm(hidden, norm_weight[norm], norm_bias[norm], epsilon, dtype)
        return factor(normed) @ w3[index].T + b3[index]

    out = expert(0, x)
    gates = _sigmoid(x[edge] @ gate_weight.astype(dtype).T + gate_bias.astype(dtype))
    chosen = chosen_experts(x[edge], gate_weight, gate_bias, expert_bias, dtype)
    for index in np.unique(chosen):
        here = chosen == index
        tokens = edge[here]
        weights = _softmax(np.stack([gates[here, 0], gates[here, index]], axis=1))
        out[tokens] = weights[:, :1] * out[tokens] + weights[:, 1:] * expert(int(index), x[tokens])
    return out


def token_box(low_res: Array, *, threshold: float = -2.0) -> IntArray:
    """The tight box of values > threshold: left, top, right, bottom, right and bottom exclusive."""
    ys, xs = np.nonzero(low_res > threshold)
    if len(ys) == 0:
        return np.array([0, 0, low_res.shape[1], low_res.shape[0]])
    return np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])


def cubic_matrix(size: int) -> Array:
    """Bicubic x2 along one axis as a matrix [2 * size, size]: half-pixel centres, A = -0.75, indices clamped."""
    a = -0.75
    matrix = np.zeros((2 * size, size))
    for target in range(2 * size):
        source = (target + 0.5) / 2 - 0.5
        first = int(np.floor(source)) - 1
        for tap in range(first, first + 4):
            d = abs(source - tap)
            weight = ((a + 2) * d - (a + 3)) * d * d + 1 if d <= 1 else ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
            matrix[target, min(max(tap, 0), size - 1)] += weight
    return matrix


def conv3x3(x: Array, weight: Array) -> Array:
    """Zero padding, no bias: x [H, W, Ci], weight [Co, Ci, 3, 3] -> [H, W, Co]."""
    height, width = x.shape[:2]
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    y = np.zeros((height, width, len(weight)), x.dtype)
    for dy in range(3):
        for dx in range(3):
            y += padded[dy : dy + height, dx : dx + width] @ weight[:, :, dy, dx].T
    return y


def edge_terms(e: Array, weight: Array, grid: int) -> tuple[Array, Array, Array]:
    """What LocalUpsample takes of the edge features e [H, W, Ci] of a map of `grid` x `grid` tokens.

    Returns:
        edge [H, W, Co], edge_border [4, grid, W, Co], edge_corner [4, grid, grid, Co].
    """
    side, channels = e.shape[0], len(weight)
    s = side // grid
    framed = np.pad(e, ((1, 1), (1, 1), (0, 0)))  # framed[y + 1, x + 1] = e[y, x], 0 outside the map
    rows = {0: s * np.arange(grid) - 1, 2: s * (np.arange(grid) + 1)}  # outside the token, by index of the kernel row
    border = np.zeros((4, grid, side, channels), e.dtype)
    for i, k in enumerate((0, 2)):
        for d in range(3):
            border[i] += framed[rows[k] + 1, d : d + side] @ weight[:, :, k, d].T
            border[2 + i] += (framed[d : d + side, rows[k] + 1] @ weight[:, :, d, k].T).swapaxes(0, 1)
    corner = np.stack(
        [framed[rows[ky] + 1][:, rows[kx] + 1] @ weight[:, :, ky, kx].T for ky in (0, 2) for kx in (0, 2)]
    )
    return conv3x3(e, weight), border, corner


def local_upsample(
    x: Array,
    box: IntArray,
    norm_weight: Array,
    norm_bias: Array,
    conv_weight: Array,
    conv_bias: Array,
    edge: Array,
    edge_border: Array,
    edge_corner: Array,
    *,
    activation: Literal["silu", "none"] = "silu",
    epsilon: float = 1e-5,
    dtype: DTypeLike = np.float64,
    bfloat16: bool = False,
) -> Array:
    """One stage of local upsampling: x [Hc, Wc, Ci] -> [2 * Hc, 2 * Wc, Co].

    `bfloat16`: normalised inputs and the weights of the convolution are rounded to it.
    """
    x, edge, edge_border, edge_corner = (array.astype(dtype) for array in (x, edge, edge_border, edge_corner))
    norm_weight, norm_bias = norm_weight.astype(dtype), norm_bias.astype(dtype)
    conv_weight, conv_bias = conv_weight.astype(dtype), conv_bias.astype(dtype)
    left, top, right, bottom = (int(side) for side in box)
    s = 2 * x.shape[0] // (bottom - top)  # output pixels a token

    centred = x - x.mean()
    x = centred / np.sqrt((centred**2).mean() + np.asarray(epsilon, dtype)) * norm_weight + norm_bias
    if bfloat16:
        x, conv_weight = (factor.astype(ml_dtypes.bfloat16).astype(dtype) for factor in (x, conv_weight))
    x = np.einsum("Yy,yxc->Yxc", cubic_matrix(x.shape[0]).astype(dtype), x)
    x = np.einsum("Xx,Yxc->YXc", cubic_matrix(x.shape[1]).astype(dtype), x)

    rows, columns = slice(s * top, s * bottom), slice(s * left, s * right)
    e = edge[rows, columns].copy()  # becomes conv3x3 of the crop of the edge features
    e[0] -= edge_border[0, top, columns]
    e[-1] -= edge_border[1, bottom - 1, columns]
    e[:, 0] -= edge_border[2, left, rows]
    e[:, -1] -= edge_border[3, right - 1, rows]
    e[0, 0] += edge_corner[0, top, left]
    e[0, -1] += edge_corner[1, top, right - 1]
    e[-1, 0] += edge_corner[2, bottom - 1, left]
    e[-1, -1] += edge_corner[3, bottom - 1, right - 1]

    y = conv3x3(x, conv_weight) + e + conv_bias
    return y * _sigmoid(y) if activation == "silu" else y


ERF = np.frompyfunc(math.erf, 1, 1)


def activated(y: Array, activation: Literal["none", "gelu"]) -> Array:
    if activation == "none":
        return y
    phi = (1 + ERF(y.astype(np.float64) / math.sqrt(2)).astype(y.dtype)) / 2
    out: Array = y * phi
    return out


def quantize_rows(x: Array) -> tuple[Array, Array]:
    """Rows of x [T, K] as whole numbers -127..127, int64, and their scales [T, 1]: in float32 whatever the rest is."""
    x = x.astype(np.float32)
    peak = np.abs(x).max(1, keepdims=True)
    finite, counts = np.isfinite(peak), np.isfinite(peak) & (peak >= np.float32(2.0**-100))
    inverse = np.where(counts, np.float32(127) / np.where(counts, peak, np.float32(1)), np.float32(0))
    codes = np.where(finite, np.rint(np.where(finite, x, np.float32(0)) * inverse), 0).astype(np.int64)
    return codes, np.where(finite, peak / np.float32(127), np.float32(np.nan))


def int8_linear(
    x: Array,
    weight: Array,
    scale: Array,
    bias: Array,
    *,
    activation: Literal["none", "gelu"] = "none",
    dtype: DTypeLike = np.float64,
) -> Array:
    """A linear layer of int8 weights and rows quantised one by one: x [T, K] -> [T, N]."""
    codes, row_scale = quantize_rows(x)
    sums = (codes @ weight.T.astype(np.int64)).astype(dtype)
    return activated(sums * scale.astype(dtype) * row_scale.astype(dtype) + bias.astype(dtype), activation)


def bf16_linear(
    x: Array,
    weight: Array,
    bias: Array,
    *,
    activation: Literal["none", "gelu"] = "none",
    dtype: DTypeLike = np.float64,
) -> Array:
    """A linear layer of bfloat16 weights and rows rounded to bfloat16: x [T, K] -> [T, N]."""
    rounded = x.astype(weight.dtype).astype(dtype)
    return activated(rounded @ weight.astype(dtype).T + bias.astype(dtype), activation)


def int8_norm_linear(
    x: Array,
    norm_weight: Array,
    norm_bias: Array,
    weight: Array,
    scale: Array,
    bias: Array,
    *,
    epsilon: float = 1e-5,
    activation: Literal["none", "gelu"] = "none",
    dtype: DTypeLike = np.float64,
) -> Array:
    """The same of normalised rows: x [T, K] -> [T, N]."""
    normed = layer_norm(x, norm_weight, norm_bias, epsilon, dtype)
    return int8_linear(normed, weight, scale, bias, activation=activation, dtype=dtype)


def bf16_norm_linear(
    x: Array,
    norm_weight: Array,
    norm_bias: Array,
    weight: Array,
    bias: Array,
    *,
    epsilon: float = 1e-5,
    activation: Literal["none", "gelu"] = "none",
    dtype: DTypeLike = np.float64,
) -> Array:
    """The same of normalised rows: x [T, K] -> [T, N]."""
    normed = layer_norm(x, norm_weight, norm_bias, epsilon, dtype)
    return bf16_linear(normed, weight, bias, activation=activation, dtype=dtype)


def int8_linear_add(
    x: Array, residual: Array, weight: Array, scale: Array, bias: Array, *, dtype: DTypeLike = np.float64
) -> Array:
    """A linear layer of int8 weights added to a residual: x [T, K], residual [T, N] -> [T, N]."""
    return residual.astype(dtype) + int8_linear(x, weight, scale, bias, dtype=dtype)


def bf16_linear_add(x: Array, residual: Array, weight: Array, bias: Array, *, dtype: DTypeLike = np.float64) -> Array:
    """A linear layer of bfloat16 weights added to a residual: x [T, K], residual [T, N] -> [T, N]."""
    return residual.astype(dtype) + bf16_linear(x, weight, bias, dtype=dtype)


def int8_mlp(
    x: Array,
    norm_weight: Array,
    norm_bias: Array,
    weight1: Array,
    scale1: Array,
    bias1: Array,
    weight2: Array,
    scale2: Array,
    bias2: Array,
    *,
    epsilon: float = 1e-5,
    dtype: DTypeLike = np.float64,
) -> Array:
    """An MLP of int8 weights after a LayerNorm, added to what went in: x [T, D] -> [T, D]."""
    normed = layer_norm(x, norm_weight, norm_bias, epsilon, dtype)
    hidden = int8_linear(normed, weight1, scale1, bias1, activation="gelu", dtype=dtype)
    return x.astype(dtype) + int8_linear(hidden, weight2, scale2, bias2, dtype=dtype)


def bf16_mlp(
    x: Array,
    norm_weight: Array,
    norm_bias: Array,
    weight1: Array,
    bias1: Array,
    weight2: Array,
    bias2: Array,
    *,
    epsilon: float = 1e-5,
    dtype: DTypeLike = np.float64,
) -> Array:
    """The same with bfloat16 weights: x [T, D] -> [T, D]."""
    normed = layer_norm(x, norm_weight, norm_bias, epsilon, dtype)
    hidden = bf16_linear(normed, weight1, bias1, activation="gelu", dtype=dtype)
    return x.astype(dtype) + bf16_linear(hidden, weight2, bias2, dtype=dtype)


def canny_maps(
    image: Array, mean: Array, std: Array, blur_row: Array, blur_column: Array, *, dtype: DTypeLike = np.float64
) -> Array:
    """Gradient magnitude, direction, thinned, thresholded and unthinned magnitude of image [H, W, 3] -> [5, H, W]."""
    mean, std, blur_row, blur_column = (x.astype(dtype) for x in (mean, std, blur_row, blur_column))
    height, width = image.shape[:2]
    picture = np.clip(((image[..., ::-1].astype(dtype) - mean) / std * std + mean) / np.asarray(255, dtype), 0, 1)

    def around(x: Array, reach: int) -> Array:
        return np.pad(x, ((reach, reach), (reach, reach), *[(0, 0)] * (x.ndim - 2)))

    framed = around(picture, 2)[2:-2]
    smeared = sum(blur_row[k] * framed[:, k : k + width] for k in range(5))
    framed = around(smeared, 2)[:, 2:-2]
    framed = around(sum(blur_column[k] * framed[k : k + height] for k in range(5)), 1)

    def at(x: Array, dy: int, dx: int) -> Array:
        return x[1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]

    weights = ((-1, 1), (0, 2), (1, 1))
    gx = sum(w * (at(framed, d, -1) - at(framed, d, 1)) for d, w in weights)
    gy = sum(w * (at(framed, -1, d) - at(framed, 1, d)) for d, w in weights)
    magnitude = np.sqrt(gx**2 + gy**2).sum(2)
    x, y = gx.sum(2), gy.sum(2)
    steps = np.sum([np.abs(y) > np.sqrt(2, dtype=dtype) * np.abs(x) + sign * np.abs(x) for sign in (-1, 1)], 0)
    steps = np.where(x < 0, 4 - steps, steps)
    steps = np.where(y < 0, 4 - steps, 4 + steps)
    framed = around(magnitude, 1)
    neighbours = ((0, 1), (1, 1), (1, 0), (1, -1))
    both = np.stack([np.maximum(at(framed, dy, dx), at(framed, -dy, -dx)) for dy, dx in neighbours])
    survives = magnitude > np.take_along_axis(both, (steps % 4)[None], 0)[0]
    thin = np.where(survives, magnitude, 0)
    large = [np.where(m >= 2, m, 0) for m in (thin, magnitude)]
    return np.stack([magnitude, 45 * steps.astype(dtype), thin, *large])


def edge_stem(maps: Array, weight: Array, bias: Array, *, dtype: DTypeLike = np.float64) -> Array:
    """Maps [Ci, H, W] of unit norm through a 3 x 3 convolution -> [H, W, Co]."""
    maps, weight, bias = (x.astype(dtype) for x in (maps, weight, bias))
    norms = np.sqrt((maps**2).sum(2, keepdims=True).sum(1, keepdims=True))
    return conv3x3((maps / np.maximum(norms, np.asarray(1e-12, dtype))).transpose(1, 2, 0), weight) + bias


def edge_block(
    x: Array, *parameters: Array, epsilon: float = 1e-5, dtype: DTypeLike = np.float64, bfloat16: bool = False
) -> Array:
    """A residual block on x [H, W, C]; the parameters of norm1, conv1, norm2 and conv2, weight and bias each.

    `bfloat16`: what is convolved, and the weights of convolutions, are rounded to it.
    """

    def factor(values: Array) -> Array:
        return values.astype(ml_dtypes.bfloat16).astype(dtype) if bfloat16 else values

    x = hidden = x.astype(dtype)
    halves = [parameter.astype(dtype) for parameter in parameters]
    for norm_weight, norm_bias, conv_weight, conv_bias in (halves[:4], halves[4:]):
        centred = hidden - hidden.mean()
        normed = centred / np.sqrt((centred**2).mean() + np.asarray(epsilon, dtype)) * norm_weight + norm_bias
        hidden = conv3x3(factor(normed * _sigmoid(normed)), factor(conv_weight)) + conv_bias
    return x + hidden


def edge_downsample(
    x: Array, weight: Array, bias: Array, *, dtype: DTypeLike = np.float64, bfloat16: bool = False
) -> Array:
    """A 3 x 3 convolution of stride 2, x [H, W, Ci] -> [(H + 1) // 2, (W + 1) // 2, Co].

    `bfloat16`: x and the weight are rounded to it.
    """
    if bfloat16:
        x, weight = (array.astype(ml_dtypes.bfloat16) for array in (x, weight))
    x, weight, bias = (array.astype(dtype) for array in (x, weight, bias))
    return conv3x3(x, weight)[::2, ::2] + bias


def edge_projection(
    x: Array,
    lateral_weight: Array,
    lateral_bias: Array,
    conv_weight: Array,
    *,
    pixels: int = 2,
    dtype: DTypeLike = np.float64,
    bfloat16: bool = False,
) -> tuple[Array, Array, Array]:
    """Edge features of a stage x [H, H, C] as LocalUpsample takes them: `edge_terms`.

    `bfloat16`: x and the composed weights of each tap are rounded to it.
    """
    x, lateral_weight, lateral_bias, conv_weight = (
        array.astype(dtype) for array in (x, lateral_weight, lateral_bias, conv_weight)
    )
    if bfloat16:
        composed = np.einsum("omyx,mc->ocyx", conv_weight, lateral_weight)
        rounded_x, rounded = (array.astype(ml_dtypes.bfloat16).astype(dtype) for array in (x, composed))
        products = edge_terms(rounded_x, rounded, len(x) // pixels)
        constants = edge_terms(
            np.broadcast_to(lateral_bias, (*x.shape[:2], len(lateral_bias))), conv_weight, len(x) // pixels
        )
        edge, border, corner = (one + other for one, other in zip(products, constants, strict=True))
        return edge, border, corner
    return edge_terms(x @ lateral_weight.T + lateral_bias, conv_weight, len(x) // pixels)
