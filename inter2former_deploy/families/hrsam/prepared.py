"""A click in two steps: what depends on the image alone, and the rest, which gives what `HRSAM.decode` gives.

The first decoder layer projects the image tokens three times. These projections are linear in the image embedding,
the position map and the embedding of the previous mask. So those of the first two are computed once an image, and a
click adds the third: a constant without a previous mask, and a product of few channels with one.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from inter2former_deploy.families.hrsam.decoder import ImageProjections, TwoWayLayer
from inter2former_deploy.families.hrsam.model import HRSAM
from inter2former_deploy.families.hrsam.prompt import check_batch
from inter2former_deploy.families.inter2former.config import PATCH


class PreparedImage(NamedTuple):
    """What clicks take of an image."""

    grid: tuple[int, int]  # h and w of the image embedding, tokens
    image: Tensor  # image tokens, [B, h*w, C]
    positions: Tensor  # of the image tokens, [1, h*w, C]
    projected: ImageProjections  # of both, by the first layer


def prepare(model: HRSAM, embedding: Tensor) -> PreparedImage:
    """What is computed once an image.

    Args:
        model: Whose decoder is going to be used.
        embedding: Of `HRSAM.encode`, [B, C, h, w].

    Raises:
        ValueError: The embedding has another shape.
    """
    dim = model.config.decoder.dim
    if embedding.ndim != 4 or embedding.shape[1] != dim:
        raise ValueError(f"expected an image embedding [B, {dim}, h, w], got {list(embedding.shape)}")
    grid = (embedding.shape[2], embedding.shape[3])
    image, positions = (x.flatten(2).mT for x in (embedding, model.neck.position_map(grid)))
    return PreparedImage(grid, image, positions, _first_layer(model).project(image, positions))


def click(
    model: HRSAM,
    prepared: PreparedImage,
    xy: Tensor,
    labels: Tensor,
    previous: Tensor | None = None,
    box: Tensor | None = None,
) -> Tensor:
    """What is computed at every click; arguments after `prepared`, result and errors as of `HRSAM.decode`."""
    h, w = prepared.grid
    sparse = model.neck.sparse(xy, labels, (PATCH * h, PATCH * w), box)
    mask, of_mask = _previous_mask(model, previous, prepared.grid)
    check_batch(len(prepared.image), xy, previous)
    projected = ImageProjections(*(a + b for a, b in zip(prepared.projected, of_mask, strict=True)))
    decoder = model.decode_head
    tokens, image = decoder.transformer(
        decoder.all_tokens(sparse), prepared.image + mask, prepared.positions, projected
    )
    return decoder.masks(torch.unflatten(image.mT, 2, prepared.grid), decoder.mask_weights(tokens, 1))


def _previous_mask(model: HRSAM, previous: Tensor | None, grid: tuple[int, int]) -> tuple[Tensor, ImageProjections]:
    """Embedding of the previous mask as tokens, and what it adds to the projections, [B, h*w, .] or [1, 1, .]."""
    layer = _first_layer(model)
    to_image, to_tokens = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
    weights = [to_image.k_proj.weight, to_image.v_proj.weight, to_tokens.q_proj.weight]
    if previous is None:
        constant = model.neck.no_mask_embed.weight[None]
        return constant, ImageProjections(*(F.linear(constant, weight) for weight in weights))
    few = model.neck.mask_channels(previous, grid).flatten(2).mT  # [B, h*w, few channels]
    last = model.neck.mask_downscaling[-1]
    matrix, bias = last.get_parameter("weight").flatten(1), last.get_parameter("bias")
    added = ImageProjections(*(F.linear(few, weight @ matrix, weight @ bias) for weight in weights))
    return F.linear(few, matrix, bias), added


def _first_layer(model: HRSAM) -> TwoWayLayer:
    return cast(TwoWayLayer, model.decode_head.transformer.layers[0])
