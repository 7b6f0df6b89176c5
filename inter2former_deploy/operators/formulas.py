"""The operators of custom_ops/OPERATORS.md as PyTorch formulas; those of the edge network are in edge_formulas.py.

Eager code runs a formula as it stands, with gradients. Under `torch.export` a call becomes one node
`torch.ops.inter2former.<name>` instead, which the exporter maps to the operator of that name; so shapes, layouts,
attributes and edge cases are those of OPERATORS.md. Maps are channels-last, without a batch axis.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from inter2former_deploy.core.contract import DOMAIN
from inter2former_deploy.families.inter2former.config import PATCH
from inter2former_deploy.operators.rotary import rotary_angles, rotary_frequencies, rotate
from inter2former_deploy.operators.windows import WindowLayout

P = ParamSpec("P")
R = TypeVar("R")  # a tensor, or several in a tuple

WINDOW_REACH = 3  # of the 7x7 window of Eq. 4
LOGSUM_BLOCK = 512  # queries whose logits are in memory at a time


def operator(fake: Callable[..., R]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a formula one node of an exported graph.

    Args:
        fake: Takes the arguments of the formula and returns empty tensors of its results' shapes and types.

    Returns:
        A decorator for the formula.
    """

    def decorate(formula: Callable[P, R]) -> Callable[P, R]:
        node: Any = torch.library.custom_op(f"{DOMAIN}::{formula.__name__}", formula, mutates_args=())
        node.register_fake(fake)

        @wraps(formula)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            return (node if torch.compiler.is_exporting() else formula)(*args, **kwargs)

        call.fake = fake  # type: ignore[attr-defined]
        return call

    return decorate


def in_bfloat16(formula: Callable[P, R]) -> Callable[P, R]:
    """The formula of an operator that may round to bfloat16 what it multiplies: the same, `bf16_` before its name.

    Args:
        formula: One that `operator` made a node of.
    """

    @wraps(formula)
    def reduced(*args: P.args, **kwargs: P.kwargs) -> R:
        return formula(*args, **kwargs)

    reduced.__name__ = f"bf16_{formula.__name__}"
    return operator(formula.fake)(reduced)  # type: ignore[attr-defined]


def _box(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(4, dtype=torch.int64)


@operator(_box)
def label_box(labels: Tensor) -> Tensor:
    """The box around all that labels say.

    Args:
        labels: uint8 [H, W], 0..4; H and W multiples of 16.

    Returns:
        int64 [4], tokens: left, top, right, bottom, right and bottom exclusive.
    """
    top, bottom, left, right = (pixels // PATCH for pixels in _prompt_box(labels))
    return torch.tensor((left, top, right, bottom), device=labels.device)


def _some_tokens(labels: Tensor, rule: str) -> Tensor:
    return labels.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.int64)


@operator(_some_tokens)
def edge_tokens(labels: Tensor, rule: str) -> Tensor:
    """Tokens that get full attention and routed experts (paper Eq. 4, in integers).

    Args:
        labels: uint8 [H, W], 0..4; H and W multiples of 16.
        rule: "released" or "exact".

    Returns:
        int64 [E], ascending.
    """
    top, bottom, left, right = _prompt_box(labels)
    crop = labels[None, top:bottom, left:right].float()
    # A reflected pixel lies inside the 7x7 window already, so that padding adds no label. And where the window of a
    # whole token, 3 pixels larger on each side, holds two labels, it holds two adjacent ones, which some pixel of
    # the token sees both. So one pooling a token decides.
    pool = partial(F.max_pool2d, kernel_size=PATCH + 2 * WINDOW_REACH, stride=PATCH, padding=WINDOW_REACH)
    highest: Tensor = pool(crop)
    if rule == "released":
        edge = highest > 0
    elif rule == "exact":
        unknown = F.max_pool2d((crop == 2).float(), PATCH) > 0
        edge = (highest != -pool(-crop)) | unknown
    else:
        raise ValueError(f"rule must be 'released' or 'exact', got {rule!r}")
    h, w = labels.shape[0] // PATCH, labels.shape[1] // PATCH
    around = (left // PATCH, w - right // PATCH, top // PATCH, h - bottom // PATCH)
    return F.pad(edge[0], around).flatten().nonzero()[:, 0]


def _prompt_box(labels: Tensor) -> tuple[int, int, int, int]:
    """Top, bottom, left, right (pixels) of the box around all that is not possible background (1)."""

    def span(hit: Tensor) -> tuple[int, int]:
        found = hit.nonzero()
        if len(found) == 0:
            return 0, len(hit)
        first, last = int(found[0]) // PATCH, int(found[-1]) // PATCH
        return max(0, (first - 1) * PATCH), min(len(hit), (last + 2) * PATCH)

    marked = labels != 1
    return *span(marked.any(1)), *span(marked.any(0))


def _like_tokens(labels: Tensor, embedding: Tensor, *_: Any) -> Tensor:
    h, w, dim = embedding.shape
    return embedding.new_empty(h * w, dim)


@operator(_like_tokens)
def prompt_embedding(
    labels: Tensor,
    embedding: Tensor,
    label_table: Tensor,
    w0: Tensor,
    b0: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    w3: Tensor,
    b3: Tensor,
    dense: bool,
) -> Tensor:
    """Image tokens plus the embedded labels, convolved only around the object (DPE).

    Args:
        labels: uint8 [16*h, 16*w], 0..4.
        embedding: [h, w, C].
        label_table: [5, T].
        w0: Weights of the first 3x3 stride-2 convolution, [C_0, T, 3, 3].
        b0: [C_0].
        w1: [C_1, C_0, 3, 3].
        b1: [C_1].
        w2: [C_2, C_1, 3, 3].
        b2: [C_2].
        w3: [C, C_2, 3, 3].
        b3: [C].
        dense: Convolve the whole map.

    Returns:
        [h*w, C].
    """

    def convolve(crop: Tensor) -> Tensor:
        x = F.embedding(crop.long(), label_table)[None].permute(0, 3, 1, 2)  # [1, T, H, W], channels last in memory
        for weight, bias in ((w0, b0), (w1, b1), (w2, b2), (w3, b3)):
            x = F.relu(F.conv2d(x, weight, bias, stride=2, padding=1))
        return x[0].permute(1, 2, 0)  # [H/16, W/16, C]

    whole = (0, labels.shape[0], 0, labels.shape[1])
    top, bottom, left, right = whole if dense else _prompt_box(labels)
    if (top, bottom, left, right) == whole:
        return (embedding + convolve(labels)).flatten(0, 1)
    box = slice(top // PATCH, bottom // PATCH), slice(left // PATCH, right // PATCH)
    background = convolve(labels.new_ones(3 * PATCH, 3 * PATCH))[1, 1]
    tokens = embedding + background
    tokens[box] = embedding[box] + convolve(labels[top:bottom, left:right])
    return tokens.flatten(0, 1)


def _like_values(qkv: Tensor, *_: Any) -> Tensor:
    return qkv.new_empty(qkv.shape[0], qkv.shape[1] // 3)


@operator(_like_values)
def hybrid_attention(
    qkv: Tensor,
    edge_tokens: Tensor,
    code_weight: Tensor,
    code_bias: Tensor,
    codewords: Tensor,
    heads: int,
    grid_width: int,
    quantizer: str,
    known_qkv: Tensor | None = None,
    known_out: Tensor | None = None,
    known_logsum: Tensor | None = None,
) -> Tensor:
    """Full attention for edge tokens, codebook attention for the others (DHA).

    Args:
        qkv: Queries, keys and values side by side, [L, 3*D].
        edge_tokens: int64 [E], ascending.
        code_weight: [B, D].
        code_bias: [B].
        codewords: [K, D].
        heads: Attention heads.
        grid_width: Tokens a row.
        quantizer: "bsq" (`K = 2**B`) or "vq" (`K = B`).
        known_qkv: A qkv whose `full_attention` is known, [L, 3*D]. The three save the kernel time, and nothing here.
        known_out: Its first result, [L, D].
        known_logsum: Its second result, [L, heads].

    Returns:
        [L, D].
    """
    query, key, value = qkv.chunk(3, dim=1)  # [L, D]
    other = all_but(edge_tokens, len(qkv))
    out = torch.zeros_like(query)
    if len(edge_tokens):
        out = out.index_copy(0, edge_tokens, attention_to_all(query, key, value, edge_tokens, heads, grid_width))
    if len(other):
        code = assign_codes(key, code_weight, code_bias, quantizer)
        out = out.index_copy(0, other, codebook_attention(query[other], code, value, codewords, heads))
    return out


bf16_hybrid_attention = in_bfloat16(hybrid_attention)


def all_but(tokens: Tensor, length: int) -> Tensor:
    """The tokens 0 to `length` - 1 that are not among some int64 [E]; int64 [length - E], ascending."""
    other = torch.ones(length, dtype=torch.bool, device=tokens.device).index_fill(0, tokens, False)
    return other.nonzero()[:, 0]


def _values_and_logsums(qkv: Tensor, heads: int, grid_width: int) -> tuple[Tensor, Tensor]:
    return _like_values(qkv), qkv.new_empty(qkv.shape[0], heads)


@operator(_values_and_logsums)
def full_attention(qkv: Tensor, heads: int, grid_width: int) -> tuple[Tensor, Tensor]:
    """Full attention for all tokens, and what another qkv can be compared by.

    Args:
        qkv: Queries, keys and values side by side, [L, 3*D].
        heads: Attention heads.
        grid_width: Tokens a row.

    Returns:
        [L, D], and the logarithms of the sums of exponentiated logits, [L, heads].
    """
    query, key, value = qkv.chunk(3, dim=1)  # [L, D]
    out = attention_to_all(query, key, value, torch.arange(len(qkv), device=qkv.device), heads, grid_width)
    angles = _angles(key, heads, grid_width)
    queries, keys = (torch.unflatten(rotate(x, angles), 1, (heads, -1)).transpose(0, 1) for x in (query, key))
    scaled = queries / queries.shape[2] ** 0.5  # [heads, L, D/heads]
    logsums = [torch.logsumexp(block @ keys.mT, dim=2) for block in torch.split(scaled, LOGSUM_BLOCK, dim=1)]
    return out, torch.cat(logsums, dim=1).T.contiguous()


def attention_to_all(query: Tensor, key: Tensor, value: Tensor, tokens: Tensor, heads: int, grid_width: int) -> Tensor:
    """Softmax attention of some tokens over all, with rotary embedding.

    Args:
        query: [L, D].
        key: [L, D].
        value: [L, D].
        tokens: Whose queries, int64 [E].
        heads: Attention heads.
        grid_width: Tokens a row.

    Returns:
        [E, D].
    """
    angles = _angles(key, heads, grid_width)
    return attention(rotate(query[tokens], angles[tokens]), rotate(key, angles), value, heads)


def _angles(key: Tensor, heads: int, grid_width: int) -> Tensor:
    """Of the rotary embedding of [L, D]: [L, D/2]."""
    index = torch.arange(len(key), device=key.device)
    dtype = torch.promote_types(key.dtype, torch.float32)  # positions need more bits than bfloat16 has
    frequencies = rotary_frequencies(key.shape[1] // heads, dtype).to(key.device)
    return rotary_angles(index // grid_width, index % grid_width, frequencies).repeat(1, heads)


def codebook_attention(query: Tensor, code: Tensor, value: Tensor, codewords: Tensor, heads: int) -> Tensor:
    """Attention over quantised keys: keys of one code act as one key with their mean value, weighted by their number.

    Args:
        query: [R, D].
        code: Code of every key, int64 [L].
        value: [L, D].
        codewords: [K, D].
        heads: Attention heads.

    Returns:
        [R, D].
    """
    used, index, count = torch.unique(code, return_inverse=True, return_counts=True)
    total = value.new_zeros(len(used), value.shape[1]).index_add(0, index, value)
    mean = total / count[:, None]
    return attention(query, codewords[used], mean, heads, bias=count.to(value).log())  # n exp(s) = exp(s + log n)


def attention(query: Tensor, key: Tensor, value: Tensor, heads: int, bias: Tensor | None = None) -> Tensor:
    """Softmax attention.

    Args:
        query: [R, D].
        key: [K, D].
        value: [K, D].
        heads: Attention heads, contiguous slices of D.
        bias: Added to the logits of each key, [K].

    Returns:
        [R, D].
    """

    def split(x: Tensor) -> Tensor:
        return x.reshape(1, len(x), heads, x.shape[1] // heads).transpose(1, 2)  # [1, heads, T, D/heads]

    mask = None if bias is None else bias.expand(1, 1, len(query), -1)
    out = scaled_dot_product_attention(split(query), split(key), split(value), attn_mask=mask)
    return out[0].transpose(0, 1).flatten(1)


@operator(_like_values)
def window_attention(
    qkv: Tensor,
    padding: Tensor,
    heads: int,
    window: int,
    heights: list[int],
    widths: list[int],
    offsets: list[int],
) -> Tensor:
    """Attention within the windows of an image's maps, padding slots being keys and values only.

    Args:
        qkv: Queries, keys and values side by side of the tokens of all maps, image after image, [T, 3*D].
        padding: The same of a padding slot, [1, 3*D]. Its query is not used.
        heads: Attention heads.
        window: Side of a window, tokens.
        heights: Of the maps of an image, tokens.
        widths: Of the maps, tokens.
        offsets: Padding of the maps at top and left, less than a window.

    Returns:
        [T, D].
    """
    layouts = [
        WindowLayout(height=height, width=width, side=window, offset=offset)
        for height, width, offset in zip(heights, widths, offsets, strict=True)
    ]
    sizes = [layout.tokens for layout in layouts]
    maps = torch.split(torch.unflatten(qkv, 0, (-1, sum(sizes))), sizes, dim=1)  # [images, tokens of a map, 3*D] each
    attended = [_attend_in_windows(x, padding, layout, heads) for x, layout in zip(maps, layouts, strict=True)]
    return torch.cat(attended, dim=1).flatten(0, 1)


bf16_window_attention = in_bfloat16(window_attention)


def _attend_in_windows(qkv: Tensor, padding: Tensor, layout: WindowLayout, heads: int) -> Tensor:
    """[B, height*width, 3*D] of one map -> [B, height*width, D]."""
    batch, _, channels = qkv.shape
    head_dim = channels // (3 * heads)
    dtype = torch.promote_types(qkv.dtype, torch.float32)  # positions need more bits than bfloat16 has
    frequencies = rotary_frequencies(head_dim, dtype).to(qkv.device)
    angles = rotary_angles(*layout.places(qkv.device), frequencies)[:, None]  # [windows, 1, side*side, head_dim/2]
    padded = layout.pad(torch.unflatten(qkv, 1, (layout.height, layout.width)), padding)
    x = layout.cut(torch.unflatten(padded, -1, (3, heads, head_dim)))
    # [B, rows, columns, side, side, 3, heads, head_dim] -> [3, B, windows, heads, side*side, head_dim]
    x = x.permute(5, 0, 1, 2, 6, 3, 4, 7).reshape(3, batch, -1, heads, layout.side**2, head_dim)
    turned, value = torch.split(x, [2, 1])
    query, key = rotate(turned, angles).flatten(1, 2).unbind()  # [B*windows, heads, side*side, head_dim]
    out = scaled_dot_product_attention(query, key, value.flatten(0, 2))
    out = out.transpose(1, 2).reshape(batch, layout.rows, layout.columns, layout.side, layout.side, channels // 3)
    return layout.merge(out)


def assign_codes(key: Tensor, code_weight: Tensor, code_bias: Tensor, quantizer: str) -> Tensor:
    """Code of every key: the signs of its projection as a binary number ("bsq"), or the highest score ("vq").

    Args:
        key: [L, D].
        code_weight: [B, D].
        code_bias: [B].
        quantizer: "bsq" or "vq".

    Returns:
        int64 [L].
    """
    score = F.linear(key, code_weight, code_bias)  # [L, B]
    if quantizer == "bsq":
        place = 2 ** torch.arange(score.shape[1] - 1, -1, -1, device=key.device)
        return torch.sum((score >= 0) * place, dim=1)
    if quantizer == "vq":
        return _first_argmax(score)
    raise ValueError(f"quantizer must be 'bsq' or 'vq', got {quantizer!r}")


def _first_argmax(score: Tensor) -> Tensor:
    """Index of the largest number of each row, the first of equal ones; NaN is never the largest."""
    return torch.where(score.isnan(), -torch.inf, score).argmax(1)


def _like_first(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x)


@operator(_like_first)
def hybrid_experts(
    x: Tensor,
    edge_tokens: Tensor,
    input_norm_weight: Tensor,
    input_norm_bias: Tensor,
    gate_weight: Tensor,
    gate_bias: Tensor,
    expert_bias: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    w3: Tensor,
    b3: Tensor,
    epsilon: float,
) -> Tensor:
    """Tokens plus what the experts make of the normalised tokens (HMoE).

    Args:
        x: [L, C].
        edge_tokens: int64 [E], ascending.
        input_norm_weight: Of the tokens' LayerNorm, [C].
        input_norm_bias: [C].
        gate_weight: Shared gate, then routed ones, [1+R, C].
        gate_bias: [1+R].
        expert_bias: [R].
        w1: Of the shared expert, then of the routed ones, [1+R, H, C].
        b1: [1+R, H].
        w2: [1+R, H, C].
        b2: [1+R, H].
        norm_weight: Of the shared expert, then of all routed ones, [2, H].
        norm_bias: [2, H].
        w3: [1+R, C, H].
        b3: [1+R, C].
        epsilon: Of both LayerNorms.

    Returns:
        [L, C].
    """
    normed = F.layer_norm(x, x.shape[1:], input_norm_weight, input_norm_bias, epsilon)
    parameters = (gate_weight, gate_bias, expert_bias, w1, b1, w2, b2, norm_weight, norm_bias, w3, b3)
    return x + mix_experts(normed, edge_tokens, *parameters, epsilon)


bf16_hybrid_experts = in_bfloat16(hybrid_experts)


def mix_experts(
    x: Tensor,
    edge_tokens: Tensor,
    gate_weight: Tensor,
    gate_bias: Tensor,
    expert_bias: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    w3: Tensor,
    b3: Tensor,
    epsilon: float,
) -> Tensor:
    """A shared expert for all tokens, a routed one besides for each edge token.

    What `hybrid_experts` does between its LayerNorm and its addition, with the same arguments.
    """

    def expert(e: int, tokens: Tensor) -> Tensor:
        hidden = F.silu(F.linear(tokens, w1[e], b1[e])) * F.linear(tokens, w2[e], b2[e])
        norm = min(e, 1)
        hidden = F.layer_norm(hidden, hidden.shape[1:], norm_weight[norm], norm_bias[norm], epsilon)
        return F.linear(hidden, w3[e], b3[e])

    shared = expert(0, x)
    if len(edge_tokens) == 0:
        return shared
    tokens = x[edge_tokens]
    gates = torch.sigmoid(F.linear(tokens, gate_weight, gate_bias))  # [E, 1+R]
    chosen = route(gates[:, 1:], expert_bias)
    share = torch.stack((gates[:, 0], gates.gather(1, 1 + chosen[:, None])[:, 0]), dim=1).softmax(1)
    by_expert = chosen.argsort(stable=True)
    groups = torch.split(tokens[by_expert], chosen.bincount(minlength=len(expert_bias)).tolist())
    routed = torch.cat([expert(e, group) for e, group in enumerate(groups, start=1)])
    mixed = share[:, :1] * shared[edge_tokens] + share[:, 1:] * torch.empty_like(routed).index_copy(
        0, by_expert, routed
    )
    return shared.index_copy(0, edge_tokens, mixed.to(shared.dtype))


def route(scores: Tensor, expert_bias: Tensor) -> Tensor:
    """Routed expert of every edge token; the bias takes part in the choice only.

    Args:
        scores: Sigmoid of the gate, [E, R].
        expert_bias: [R].

    Returns:
        int64 [E], 0..R-1.
    """
    return _first_argmax(scores + expert_bias)


def _projected(x: Tensor, norm_weight: Tensor, norm_bias: Tensor, weight: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


@operator(_projected)
def norm_linear(
    x: Tensor, norm_weight: Tensor, norm_bias: Tensor, weight: Tensor, bias: Tensor, epsilon: float, activation: str
) -> Tensor:
    """A linear layer of normalised tokens, and its activation.

    Args:
        x: [L, C].
        norm_weight: Of the LayerNorm, [C].
        norm_bias: [C].
        weight: [N, C].
        bias: [N].
        epsilon: Of the LayerNorm.
        activation: "gelu" (exact, erf) or "none".

    Returns:
        [L, N].
    """
    y = F.linear(F.layer_norm(x, x.shape[1:], norm_weight, norm_bias, epsilon), weight, bias)
    if activation == "gelu":
        return F.gelu(y)
    if activation == "none":
        return y
    raise ValueError(f"activation must be 'gelu' or 'none', got {activation!r}")


def _like_residual(x: Tensor, residual: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(residual)


@operator(_like_residual)
def linear_add(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A linear layer added to a residual.

    Args:
        x: [L, C].
        residual: [L, N].
        weight: [N, C].
        bias: [N].

    Returns:
        [L, N].
    """
    return residual + F.linear(x, weight, bias)


def _like_image(query: Tensor, *others: Any) -> Tensor:
    return torch.empty_like(others[5])


@operator(_like_image)
def image_to_token_attention(
    query: Tensor,
    query_input: Tensor,
    query_weight: Tensor,
    query_bias: Tensor,
    key: Tensor,
    value: Tensor,
    image: Tensor,
    out_weight: Tensor,
    out_bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    heads: int,
    epsilon: float,
) -> Tensor:
    """Many image tokens attend to a few others, and are normalised: SAM's `cross_attn_image_to_token` and `norm4`.

    Args:
        query: What is known of the image's queries, [L, D].
        query_input: What the rest of them is a linear layer of, [L, I].
        query_weight: [D, I].
        query_bias: [D].
        key: Of the few tokens, [T, D].
        value: [T, D].
        image: Image tokens, to which the attention is added, [L, C].
        out_weight: Of the output's projection, [C, D].
        out_bias: [C].
        norm_weight: Of the LayerNorm after it, [C].
        norm_bias: [C].
        heads: That divide D; a head's scores are scaled by (D / heads)^-0.5.
        epsilon: Of the LayerNorm.

    Returns:
        [L, C].
    """
    joined = _attend(query + F.linear(query_input, query_weight, query_bias), key, value, heads)
    return F.layer_norm(
        image + F.linear(joined, out_weight, out_bias), image.shape[1:], norm_weight, norm_bias, epsilon
    )


def _like_query(query: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(query)


@operator(_like_query)
def token_to_image_attention(
    query: Tensor, image: Tensor, key: Tensor, key_weight: Tensor, value_weight: Tensor, value: Tensor, heads: int
) -> Tensor:
    """A few tokens attend to the many of an image: SAM's `cross_attn_token_to_image` up to the output's projection.

    Args:
        query: [T, D].
        image: Image tokens, [L, C].
        key: What is known of their keys, [L, D].
        key_weight: Of the rest of their keys, [D, C].
        value_weight: Of the rest of their values, [D, C].
        value: What is known of their values, [L, D], or [1, D], the same for all.
        heads: That divide D; a head's scores are scaled by (D / heads)^-0.5.

    Returns:
        [T, D].
    """
    return _attend(query, key + F.linear(image, key_weight), value + F.linear(image, value_weight), heads)


def _attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Softmax attention of [n, D] to [m, D] -> [n, D]."""
    queries, keys, values = (torch.unflatten(x, 1, (heads, -1)).transpose(0, 1)[None] for x in (query, key, value))
    return scaled_dot_product_attention(queries, keys, values)[0].transpose(0, 1).flatten(1)


def _four_times_as_large(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(4 * x.shape[0], 4 * x.shape[1])


@operator(_four_times_as_large)
def mask_upscaling(
    x: Tensor,
    first_weight: Tensor,
    first_bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    second_weight: Tensor,
    second_bias: Tensor,
    mask: Tensor,
    epsilon: float,
) -> Tensor:
    """Image tokens, twice doubled in side, times a mask's channels: SAM's `output_upscaling` and hypernetwork product.

    A transposed convolution of side and stride 2 is a linear layer of each pixel, with four results: rows, then columns
    of what the pixel becomes.

    Args:
        x: A map of tokens, [h, w, C].
        first_weight: Of the first doubling, [4*D, C].
        first_bias: [D].
        norm_weight: Of the LayerNorm after it, [D]; a GELU follows.
        norm_bias: [D].
        second_weight: Of the second doubling, which a GELU follows, [4*E, D].
        second_bias: [E].
        mask: [E].
        epsilon: Of the LayerNorm.

    Returns:
        Logits, [4*h, 4*w].
    """
    height, width, _ = x.shape
    pixels = F.linear(x.flatten(0, 1), first_weight, first_bias.repeat(4)).reshape(-1, len(first_bias))
    pixels = F.gelu(F.layer_norm(pixels, pixels.shape[1:], norm_weight, norm_bias, epsilon))
    pixels = F.gelu(F.linear(pixels, second_weight, second_bias.repeat(4)).reshape(-1, len(second_bias)))
    logits = (pixels @ mask).view(height, width, 2, 2, 2, 2)  # rows and columns of the first doubling, of the second
    return logits.permute(0, 2, 4, 1, 3, 5).reshape(4 * height, 4 * width)


def _box_of_four(low_res: Tensor, threshold: float) -> Tensor:
    return low_res.new_empty(4, dtype=torch.int64)


@operator(_box_of_four)
def token_box(low_res: Tensor, threshold: float) -> Tensor:
    """The tight box of values above a threshold, the whole map if there are none.

    Args:
        low_res: [h, w].
        threshold: Of the values.

    Returns:
        int64 [4]: left, top, right, bottom in tokens, right and bottom exclusive.
    """
    above = low_res > threshold

    def span(hit: Tensor) -> tuple[int, int]:
        found = hit.nonzero()
        return (int(found[0]), int(found[-1]) + 1) if len(found) else (0, len(hit))

    (left, right), (top, bottom) = span(above.any(0)), span(above.any(1))
    return torch.tensor((left, top, right, bottom), device=low_res.device)


def _upsampled(x: Tensor, box: Tensor, norm_weight: Tensor, norm_bias: Tensor, conv_weight: Tensor, *_: Any) -> Tensor:
    return x.new_empty(2 * x.shape[0], 2 * x.shape[1], conv_weight.shape[0])


@operator(_upsampled)
def local_upsample(
    x: Tensor,
    box: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    edge_map: Tensor,
    edge_border: Tensor,
    edge_corner: Tensor,
    activation: str,
    epsilon: float,
) -> Tensor:
    """One stage of local upsampling on the crop of a box (DLU), with edge features already convolved.

    Args:
        x: The crop at u pixels a token, [Hc, Wc, Ci].
        box: int64 [4], tokens: left, top, right, bottom, right and bottom exclusive.
        norm_weight: [Ci].
        norm_bias: [Ci].
        conv_weight: [Co, Ci, 3, 3].
        conv_bias: [Co].
        edge_map: conv3x3 of the edge features of the whole map, [2u*h, 2u*w, Co].
        edge_border: What of `edge_map` comes from above, below, left and right of a row or column of tokens,
            [4, h, 2u*w, Co].
        edge_corner: What two borders of a token both hold, [4, h, w, Co].
        activation: "silu" or "none".
        epsilon: Of the GroupNorm.

    Returns:
        [2*Hc, 2*Wc, Co].
    """
    left, top, right, bottom = box.tolist()
    s = 2 * x.shape[0] // (bottom - top)  # pixels a token at the output
    rows, columns = slice(s * top, s * bottom), slice(s * left, s * right)
    y = upsample(x[None].permute(0, 3, 1, 2), norm_weight, norm_bias, epsilon)
    y = F.conv2d(y, conv_weight, conv_bias, padding=1)[0].permute(1, 2, 0) + edge_map[rows, columns]
    # The convolution of the cropped edge features sees zeros where `edge_map` saw the pixels around the crop.
    above, below, before, behind = edge_border
    y[0] -= above[top, columns]
    y[-1] -= below[bottom - 1, columns]
    y[:, 0] -= before[left, rows]
    y[:, -1] -= behind[right - 1, rows]
    y[0, 0] += edge_corner[0, top, left]
    y[0, -1] += edge_corner[1, top, right - 1]
    y[-1, 0] += edge_corner[2, bottom - 1, left]
    y[-1, -1] += edge_corner[3, bottom - 1, right - 1]
    if activation == "silu":
        return F.silu(y)
    if activation == "none":
        return y
    raise ValueError(f"activation must be 'silu' or 'none', got {activation!r}")


bf16_local_upsample = in_bfloat16(local_upsample)


def upsample(x: Tensor, norm_weight: Tensor, norm_bias: Tensor, epsilon: float) -> Tensor:
    """GroupNorm with one group, then bicubic resize to twice the size.

    Args:
        x: [B, Ci, H, W].
        norm_weight: [Ci].
        norm_bias: [Ci].
        epsilon: Of the GroupNorm.

    Returns:
        [B, Ci, 2*H, 2*W].
    """
    # Contiguous: over the 4 million values of a channels-last map of 1024 x 1024, PyTorch's statistics lose 9e-4.
    x = torch.group_norm(x.contiguous(), 1, norm_weight, norm_bias, epsilon)
    return F.interpolate(x, scale_factor=2, mode="bicubic", align_corners=False)


def _linear_rows(x: Tensor, weight: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


@operator(_linear_rows)
def int8_linear(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, activation: str) -> Tensor:
    """A linear layer of int8 weights; every row of `x` is quantised by itself.

    Args:
        x: [T, K].
        weight: int8 [N, K].
        scale: Of each row of `weight`, [N].
        bias: [N].
        activation: "none" or "gelu".

    Returns:
        [T, N].
    """
    peak = x.abs().amax(1, keepdim=True)  # [T, 1]
    finite = peak.isfinite()
    # PyTorch computes 127 / peak as 127 * peak.reciprocal(), which rounds twice; of two tensors it divides.
    inverse = torch.where(finite & (peak >= 2.0**-100), peak.new_tensor(127) / peak, 0)
    codes = (torch.where(finite, x, 0) * inverse).round()
    row_scale = torch.where(finite, peak / 127, torch.nan)
    sums = codes.double() @ weight.double().T  # whole numbers, exact
    return _activated(sums.to(x.dtype) * scale * row_scale + bias, activation)


@operator(_linear_rows)
def bf16_linear(x: Tensor, weight: Tensor, bias: Tensor, activation: str) -> Tensor:
    """A linear layer of bfloat16 weights; `x` is rounded to bfloat16, sums are not.

    Args:
        x: [T, K].
        weight: bfloat16 [N, K].
        bias: [N].
        activation: "none" or "gelu".

    Returns:
        [T, N].
    """
    return _activated(F.linear(x.bfloat16().to(x.dtype), weight.to(x.dtype), bias), activation)


def _normed_linear_rows(x: Tensor, norm_weight: Tensor, norm_bias: Tensor, weight: Tensor, *_: Any) -> Tensor:
    return _linear_rows(x, weight)


@operator(_normed_linear_rows)
def int8_norm_linear(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor,
    epsilon: float,
    activation: str,
) -> Tensor:
    """A LayerNorm, and a linear layer of int8 weights.

    Args:
        x: [T, K].
        norm_weight: Of the LayerNorm, [K].
        norm_bias: [K].
        weight: int8 [N, K].
        scale: Of each row of `weight`, [N].
        bias: [N].
        epsilon: Of the LayerNorm.
        activation: "none" or "gelu".

    Returns:
        [T, N].
    """
    normed = F.layer_norm(x, x.shape[1:], norm_weight, norm_bias, epsilon)
    return int8_linear(normed, weight, scale, bias, activation)


@operator(_normed_linear_rows)
def bf16_norm_linear(
    x: Tensor, norm_weight: Tensor, norm_bias: Tensor, weight: Tensor, bias: Tensor, epsilon: float, activation: str
) -> Tensor:
    """A LayerNorm, and a linear layer of bfloat16 weights.

    Args:
        x: [T, K].
        norm_weight: Of the LayerNorm, [K].
        norm_bias: [K].
        weight: bfloat16 [N, K].
        bias: [N].
        epsilon: Of the LayerNorm.
        activation: "none" or "gelu".

    Returns:
        [T, N].
    """
    return bf16_linear(F.layer_norm(x, x.shape[1:], norm_weight, norm_bias, epsilon), weight, bias, activation)


@operator(_like_residual)
def int8_linear_add(x: Tensor, residual: Tensor, weight: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """A linear layer of int8 weights, added to a residual.

    Args:
        x: [T, K].
        residual: [T, N].
        weight: int8 [N, K].
        scale: Of each row of `weight`, [N].
        bias: [N].

    Returns:
        [T, N].
    """
    return residual + int8_linear(x, weight, scale, bias, "none")


@operator(_like_residual)
def bf16_linear_add(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A linear layer of bfloat16 weights, added to a residual.

    Args:
        x: [T, K].
        residual: [T, N].
        weight: bfloat16 [N, K].
        bias: [N].

    Returns:
        [T, N].
    """
    return residual + bf16_linear(x, weight, bias, "none")


def _like_x(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x)


@operator(_like_x)
def int8_mlp(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight1: Tensor,
    scale1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    scale2: Tensor,
    bias2: Tensor,
    epsilon: float,
) -> Tensor:
    """The MLP of a transformer block with int8 weights: a LayerNorm, two layers, and what went in.

    Args:
        x: [T, D].
        norm_weight: Of the LayerNorm, [D].
        norm_bias: [D].
        weight1: int8 [H, D].
        scale1: Of each row of `weight1`, [H].
        bias1: [H].
        weight2: int8 [D, H].
        scale2: [D].
        bias2: [D].
        epsilon: Of the LayerNorm.

    Returns:
        [T, D].
    """
    hidden = int8_norm_linear(x, norm_weight, norm_bias, weight1, scale1, bias1, epsilon, "gelu")
    return int8_linear_add(hidden, x, weight2, scale2, bias2)


@operator(_like_x)
def bf16_mlp(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    bias2: Tensor,
    epsilon: float,
) -> Tensor:
    """The same with bfloat16 weights.

    Args:
        x: [T, D].
        norm_weight: Of the LayerNorm, [D].
        norm_bias: [D].
        weight1: bfloat16 [H, D].
        bias1: [H].
        weight2: bfloat16 [D, H].
        bias2: [D].
        epsilon: Of the LayerNorm.

    Returns:
        [T, D].
    """
    hidden = bf16_norm_linear(x, norm_weight, norm_bias, weight1, bias1, epsilon, "gelu")
    return bf16_linear_add(hidden, x, weight2, bias2)


def _activated(y: Tensor, activation: str) -> Tensor:
    if activation == "gelu":
        return F.gelu(y)
    if activation == "none":
        return y
    raise ValueError(f"activation must be 'none' or 'gelu', got {activation!r}")
