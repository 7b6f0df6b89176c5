"""The three graphs of HRSAM as PyTorch modules; `interface.graph_tensors` says what they take and give.

The first layer's projections of image embedding and positions are known since `prepare`; the embedding of the previous
mask is linear in a few channels, which join them. Where the few tokens attend to the image, a projection W of the
channels is taken over to their side: `q . (W x) = (W^T q) . x`, head by head; operators do the same elsewhere while it
is less work. Where masks are concerned, only the token of the first mask has to look at the image a last time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from inter2former_deploy.core.contract import GraphName
from inter2former_deploy.families.encoder_graph import EncoderGraph
from inter2former_deploy.families.hrsam.decoder import Attention, TwoWayLayer
from inter2former_deploy.families.hrsam.masks import MaskLogits
from inter2former_deploy.families.hrsam.model import HRSAM
from inter2former_deploy.families.hrsam.prompt import MAP_EPSILON
from inter2former_deploy.families.hrsam.prompts import NOT_A_POINT
from inter2former_deploy.families.hrsam.session import decode
from inter2former_deploy.families.inter2former.config import PATCH
from inter2former_deploy.operators import formulas

MODEL = HRSAM
ENCODER = "backbone."
DIFFERENCES = (
    "each image of a batch gets what it gets alone; in the release, images of larger batches mix",
    "a scan runs once over its tokens instead of several times, which gives the same sums but for rounding",
    "projections of image tokens are applied to the few tokens instead, where that is less; equal but for rounding",
    "masks 1 to 3 and the estimates of IoU, which sessions do not use, are not computed",
)
FIRST_MASK = 1  # its token; before it comes the token of the IoU


class PrepareGraph(nn.Module):
    """prepare.onnx.

    Args:
        model: The whole model.
    """

    def __init__(self, model: HRSAM) -> None:
        super().__init__()
        self.neck, self.transformer = model.neck, model.decode_head.transformer

    def forward(self, image_embedding: Tensor) -> tuple[Tensor, ...]:
        """Image embedding [h, w, C] -> the tensors `interface.PREPARED`, [L, channels of all heads] each."""
        grid = image_embedding.shape[:2]
        image = image_embedding.flatten(0, 1)  # [L, C]
        positions = self.neck.position_map((grid[0], grid[1]))[0].flatten(1).T
        first, *others = layers_of(self.transformer)
        prepared = [x[0] for x in first.project(image[None], positions[None])]
        for layer in others:
            prepared.append(_position_keys(layer.cross_attn_token_to_image, positions))
            prepared.append(layer.cross_attn_image_to_token.q_proj(positions))
        return *prepared, _position_keys(self.transformer.final_attn_token_to_image, positions)


class ClickGraph(nn.Module):
    """click.onnx.

    Args:
        model: The whole model.
    """

    def __init__(self, model: HRSAM) -> None:
        super().__init__()
        self.neck, self.decode_head = model.neck, model.decode_head

    def forward(
        self,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
        image_embedding: Tensor,
        *prepared: Tensor,
    ) -> Tensor:
        """The tensors `interface.CLICK_INPUTS` -> logits of the first mask, [4*h, 4*w]."""
        transformer = self.decode_head.transformer
        height, width, dim = image_embedding.shape
        first_key, first_value, first_query, *positions = prepared
        sparse = self.sparse(point_coords, point_labels, (PATCH * height, PATCH * width))
        mask = self.previous_mask(mask_input, has_mask_input, (height, width))
        placed = self.decode_head.all_tokens(sparse[None])[0]  # [T, C]; they are their own position embeddings
        image = image_embedding.reshape(-1, dim)

        first, *others = layers_of(transformer)
        tokens = first.norm1(_attend(first.self_attn, placed, placed, placed))
        tokens = first.norm2(tokens + _from_known(first, tokens + placed, first_key, first_value, mask))
        tokens = first.norm3(tokens + first.mlp(tokens))
        weight = first.cross_attn_image_to_token.q_proj.weight
        query = ImageQueries(first_query, mask.channels, weight @ mask.weight, F.linear(mask.bias, weight))
        image = formulas.linear_add(mask.channels, image, mask.weight, mask.bias)
        image = _from_tokens(first, query, tokens, placed, image)

        for i, layer in enumerate(others):
            position_key, position_query = positions[2 * i : 2 * i + 2]
            with_positions = tokens + placed
            tokens = layer.norm1(tokens + _attend(layer.self_attn, with_positions, with_positions, tokens))
            tokens = layer.norm2(
                tokens + _from_image(layer.cross_attn_token_to_image, tokens + placed, image, position_key)
            )
            tokens = layer.norm3(tokens + layer.mlp(tokens))
            weight = layer.cross_attn_image_to_token.q_proj.weight
            query = ImageQueries(position_query, image, weight, image.new_zeros(len(weight)))
            image = _from_tokens(layer, query, tokens, placed, image)

        token = tokens[FIRST_MASK : FIRST_MASK + 1]
        own_place = placed[FIRST_MASK : FIRST_MASK + 1]
        token = token + _from_image(transformer.final_attn_token_to_image, token + own_place, image, positions[-1])
        weights = self.decode_head.output_hypernetworks_mlps[0](transformer.norm_final_attn(token))  # [1, channels]
        return self.mask(image, weights, (height, width))

    def sparse(self, xy: Tensor, labels: Tensor, size: tuple[int, int]) -> Tensor:
        """Embeddings of points.

        Args:
            xy: Pixels of the model input, [n, 2].
            labels: 1 positive, 0 negative, -1 not a point, 2 and 3 the corners of a box, int64 [n].
            size: Height and width of the model input, pixels.

        Returns:
            [n, C].
        """
        height, width = size
        encoded = self.neck.pos_embed_layer((xy + 0.5) / xy.new_tensor((width, height)))
        kinds = [self.neck.not_a_point_embed, *self.neck.point_embeds]
        table = torch.cat([kind.get_parameter("weight") for kind in kinds])  # by label, from -1
        return torch.where(labels[:, None] == NOT_A_POINT, 0, encoded) + table[labels - NOT_A_POINT]

    def previous_mask(self, logits: Tensor, has_mask: Tensor, grid: tuple[int, int]) -> MaskEmbedding:
        """The embedding of the previous mask, or of none: logits [4*h, 4*w], and 1 or 0 as [1]."""
        few = self.neck.mask_channels(logits[None, None], grid)[0].flatten(1)
        last = self.neck.mask_downscaling[-1]
        return MaskEmbedding(
            channels=torch.where(has_mask > 0, few, 0).T,
            weight=last.get_parameter("weight").flatten(1),
            bias=torch.where(has_mask > 0, last.get_parameter("bias"), self.neck.no_mask_embed.weight[0]),
        )

    def mask(self, image: Tensor, weights: Tensor, grid: tuple[int, int]) -> Tensor:
        """Image tokens [L, C], weights of the upscaled map's channels [1, channels] -> logits [4*h, 4*w]."""
        first, norm, _, second, _ = self.decode_head.output_upscaling
        parameters = (*_linear(first), norm.get_parameter("weight"), norm.get_parameter("bias"), *_linear(second))
        return formulas.mask_upscaling(torch.unflatten(image, 0, grid), *parameters, weights[0], MAP_EPSILON)


class MaskEmbedding(NamedTuple):
    """The dense embedding `channels @ weight.T + bias` of the previous mask."""

    channels: Tensor  # [L, few]
    weight: Tensor  # [C, few]
    bias: Tensor  # [C]


class ImageQueries(NamedTuple):
    """The image's queries `known + weight @ x + bias` of one layer."""

    known: Tensor  # [L, D]
    x: Tensor  # [L, few or C]
    weight: Tensor  # [D, few or C]
    bias: Tensor  # [D]


def predict(model: HRSAM, features: Tensor, prompts: Mapping[str, NDArray[Any]]) -> MaskLogits:
    """What the modules make of an image embedding [1, C, h, w] and the inputs of a prompt state."""
    return MaskLogits(decode(model, features, prompts).numpy())


MODULES: dict[GraphName, type[nn.Module]] = {"encoder": EncoderGraph, "prepare": PrepareGraph, "click": ClickGraph}
INNER: dict[GraphName, dict[str, tuple[str, ...]]] = {"encoder": {}, "prepare": {}, "click": {}}


def layers_of(transformer: nn.Module) -> list[TwoWayLayer]:
    """The layers of a `TwoWayTransformer`."""
    return [cast(TwoWayLayer, layer) for layer in cast(nn.ModuleList, transformer.layers)]


def _from_known(layer: TwoWayLayer, query: Tensor, key: Tensor, value: Tensor, mask: MaskEmbedding) -> Tensor:
    """The first layer's attention from tokens to image, by what `prepare` knows of the image.

    The bias of the mask's embedding adds the same to all scores of a query, which changes nothing, and to all values.

    Args:
        layer: The first.
        query: Tokens with their positions, [T, C].
        key: Of image and positions, [L, D].
        value: Of the image, [L, D].
        mask: What joins the image.

    Returns:
        [T, C].
    """
    attention = layer.cross_attn_token_to_image
    attended = formulas.token_to_image_attention(
        attention.q_proj(query),
        mask.channels,
        key,
        attention.k_proj.weight @ mask.weight,
        attention.v_proj.weight @ mask.weight,
        value,
        attention.heads,
    )
    out: Tensor = attention.out_proj(attended + F.linear(mask.bias, attention.v_proj.weight))
    return out


def _from_image(attention: Attention, query: Tensor, image: Tensor, position_key: Tensor) -> Tensor:
    """Attention from tokens [T, C] to image tokens [L, C], given the keys of their positions [L, D]."""
    attended = formulas.token_to_image_attention(
        attention.q_proj(query),
        image,
        position_key,
        attention.k_proj.weight,
        attention.v_proj.weight,
        attention.v_proj.bias[None],
        attention.heads,
    )
    out: Tensor = attention.out_proj(attended)
    return out


def _from_tokens(layer: TwoWayLayer, query: ImageQueries, tokens: Tensor, placed: Tensor, image: Tensor) -> Tensor:
    """The attention from image tokens [L, C] to tokens [T, C] at their positions, added to the image and normalised."""
    attention, norm = layer.cross_attn_image_to_token, layer.norm4
    return formulas.image_to_token_attention(
        *query,
        attention.k_proj(tokens + placed),
        attention.v_proj(tokens),
        image,
        *(attention.out_proj.weight, attention.out_proj.bias),
        *(norm.weight, norm.bias),
        attention.heads,
        norm.eps,
    )


def _attend(attention: Attention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention among tokens, [T, C] each."""
    heads = attention.heads
    query = _split(attention.q_proj(query) * _scale(attention), heads)
    weights = torch.softmax(query @ _keys(attention.k_proj(key), heads), dim=2)
    joined = (weights @ _split(attention.v_proj(value), heads)).transpose(0, 1).flatten(1)
    out: Tensor = attention.out_proj(joined)
    return out


def _position_keys(attention: Attention, positions: Tensor) -> Tensor:
    """What positions [L, C] add to the keys of image tokens; the bias adds the same to all scores of a query."""
    return F.linear(positions, attention.k_proj.weight)


def _scale(attention: Attention) -> float:
    return float((attention.q_proj.out_features / attention.heads) ** -0.5)


def _split(x: Tensor, heads: int) -> Tensor:
    """[T, D] -> [heads, T, D / heads]."""
    return torch.unflatten(x, 1, (heads, -1)).transpose(0, 1)


def _keys(x: Tensor, heads: int) -> Tensor:
    """[T, D] -> [heads, D / heads, T]."""
    return torch.unflatten(x.T, 0, (heads, -1))


def _linear(up: nn.Module) -> tuple[Tensor, Tensor]:
    """A transposed convolution of side and stride 2 as a linear layer: weight [4*out, in], bias [out]."""
    return up.get_parameter("weight").permute(2, 3, 1, 0).flatten(0, 2), up.get_parameter("bias")  # [in, out, 2, 2]
