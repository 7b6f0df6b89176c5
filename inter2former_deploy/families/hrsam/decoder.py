"""The mask decoder of HRSAM, which is SAM's: a few tokens and the image attend to each other, both ways."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inter2former_deploy.families.hrsam.config import HRSAMDecoderConfig
from inter2former_deploy.families.hrsam.prompt import MapNorm


class Prediction(NamedTuple):
    """What the decoder makes of a batch of prompts."""

    masks: Tensor  # logits, foreground where > 0, [B, masks, 4*h, 4*w]
    iou: Tensor  # the decoder's own estimate of each mask's IoU, [B, masks]


class ImageProjections(NamedTuple):
    """Of the image tokens, what one layer's attention between tokens and image takes, [B, h*w, width] each."""

    key: Tensor  # for the tokens' queries
    value: Tensor
    query: Tensor  # for the tokens' keys


class Attention(nn.Module):
    """Attention with projections of its own; heads are adjacent channels.

    Args:
        dim: Channels of queries, keys, values and results.
        width: Channels within, over all heads.
        heads: Number of heads.
    """

    def __init__(self, *, dim: int, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(dim, width)
        self.k_proj = nn.Linear(dim, width)
        self.v_proj = nn.Linear(dim, width)
        self.out_proj = nn.Linear(width, dim)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Queries [B, Q, dim], keys and values [B, K, dim] -> [B, Q, dim]."""
        return self.attend(self.q_proj(query), self.k_proj(key), self.v_proj(value))

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """The same of what is projected already, [B, Q, width] and [B, K, width]."""
        query, key, value = (torch.unflatten(x, 2, (self.heads, -1)).transpose(1, 2) for x in (query, key, value))
        out = F.scaled_dot_product_attention(query, key, value)  # [B, heads, Q, width / heads]
        projected: Tensor = self.out_proj(out.transpose(1, 2).flatten(2))
        return projected


class TokenMlp(nn.Module):
    """Two linear layers with a ReLU between."""

    def __init__(self, *, dim: int, hidden: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(dim, hidden)
        self.lin2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[..., dim] -> [..., dim]."""
        out: Tensor = self.lin2(F.relu(self.lin1(x)))
        return out


class HeadMlp(nn.Module):
    """Linear layers with ReLUs between, on the output of one token.

    Args:
        widths: Channels before, between and after the layers.
    """

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """[..., first width] -> [..., last width]."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        out: Tensor = self.layers[-1](x)
        return out


class TwoWayLayer(nn.Module):
    """Tokens attend to each other and to the image, then the image to the tokens.

    Args:
        config: The decoder's numbers.
        first: The layer's tokens are their own position embeddings still: it attends without positions, and without
            a residual connection.
    """

    def __init__(self, *, config: HRSAMDecoderConfig, first: bool) -> None:
        super().__init__()
        dim, heads = config.dim, config.heads
        self.first = first
        self.self_attn = Attention(dim=dim, width=dim, heads=heads)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn_token_to_image = Attention(dim=dim, width=config.cross_dim, heads=heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = TokenMlp(dim=dim, hidden=config.mlp_hidden)
        self.norm3 = nn.LayerNorm(dim)
        self.cross_attn_image_to_token = Attention(dim=dim, width=config.cross_dim, heads=heads)
        self.norm4 = nn.LayerNorm(dim)

    def project(self, image: Tensor, positions: Tensor) -> ImageProjections:
        """What the layer takes of the image tokens and their positions, [B, h*w, C] each."""
        to_image, to_tokens = self.cross_attn_token_to_image, self.cross_attn_image_to_token
        placed = image + positions
        return ImageProjections(to_image.k_proj(placed), to_image.v_proj(image), to_tokens.q_proj(placed))

    def forward(
        self, tokens: Tensor, token_positions: Tensor, image: Tensor, projected: ImageProjections
    ) -> tuple[Tensor, Tensor]:
        """Tokens and their positions [B, n, C], image tokens [B, h*w, C] and what `project` made of them.

        Returns:
            Tokens and image tokens.
        """
        to_image, to_tokens = self.cross_attn_token_to_image, self.cross_attn_image_to_token
        if self.first:
            tokens = self.self_attn(tokens, tokens, tokens)
        else:
            placed = tokens + token_positions
            tokens = tokens + self.self_attn(placed, placed, tokens)
        tokens = self.norm1(tokens)
        query = to_image.q_proj(tokens + token_positions)
        tokens = self.norm2(tokens + to_image.attend(query, projected.key, projected.value))
        tokens = self.norm3(tokens + self.mlp(tokens))
        key, value = to_tokens.k_proj(tokens + token_positions), to_tokens.v_proj(tokens)
        image = self.norm4(image + to_tokens.attend(projected.query, key, value))
        return tokens, image


class TwoWayTransformer(nn.Module):
    """Layers of attention between tokens and image, and a last one from tokens to image.

    Args:
        config: The decoder's numbers.
    """

    def __init__(self, *, config: HRSAMDecoderConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TwoWayLayer(config=config, first=i == 0) for i in range(config.layers))
        self.final_attn_token_to_image = Attention(dim=config.dim, width=config.cross_dim, heads=config.heads)
        self.norm_final_attn = nn.LayerNorm(config.dim)

    def forward(self, tokens: Tensor, image: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """All layers.

        Args:
            tokens: [B, n, C]; they are their own position embeddings, too.
            image: Image tokens, [B, h*w, C].
            positions: Of the image tokens, [1, h*w, C].

        Returns:
            Tokens and image tokens.
        """
        token_positions = tokens
        for layer in cast(Iterable[TwoWayLayer], self.layers):
            tokens, image = layer(tokens, token_positions, image, layer.project(image, positions))
        placed = tokens + token_positions
        tokens = tokens + self.final_attn_token_to_image(placed, image + positions, image)
        return self.norm_final_attn(tokens), image


class MaskDecoder(nn.Module):
    """Image embedding and prompts -> masks.

    Args:
        config: The decoder's numbers.
    """

    def __init__(self, *, config: HRSAMDecoderConfig) -> None:
        super().__init__()
        self.config = config
        dim, (first, second) = config.dim, config.upscaling
        self.transformer = TwoWayTransformer(config=config)
        self.iou_token = nn.Embedding(1, dim)
        self.mask_tokens = nn.Embedding(config.mask_tokens, dim)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(dim, first, 2, stride=2),
            MapNorm(first),
            nn.GELU(),
            nn.ConvTranspose2d(first, second, 2, stride=2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(
            HeadMlp(dim, dim, dim, second) for _ in range(config.mask_tokens)
        )
        self.iou_prediction_head = HeadMlp(dim, dim, dim, config.mask_tokens)

    def forward(self, embedding: Tensor, positions: Tensor, sparse: Tensor, dense: Tensor) -> Prediction:
        """All masks of a batch of prompts, and their estimated IoUs.

        Args:
            embedding: Of the images, [B, C, h, w].
            positions: `PromptEncoder.position_map`, [1, C, h, w].
            sparse: `PromptEncoder.sparse`, [B, n, C].
            dense: `PromptEncoder.dense`, [B, C, h, w] or [1, C, 1, 1].
        """
        tokens, image = self.attend(embedding, positions, sparse, dense)
        weights = self.mask_weights(tokens, self.config.mask_tokens)
        return Prediction(self.masks(image, weights), self.iou_prediction_head(tokens[:, 0]))

    def first_mask(self, embedding: Tensor, positions: Tensor, sparse: Tensor, dense: Tensor) -> Tensor:
        """Logits of the first mask alone, which sessions and training use, [B, 1, 4*h, 4*w]; arguments of `forward`."""
        tokens, image = self.attend(embedding, positions, sparse, dense)
        return self.masks(image, self.mask_weights(tokens, 1))

    def attend(self, embedding: Tensor, positions: Tensor, sparse: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
        """The transformer, with the arguments of `forward`.

        Returns:
            The tokens (one of IoU, those of the masks, the sparse embeddings) [B, 1 + masks + n, C], and the image
            tokens as a map [B, C, h, w].
        """
        image, positions = ((x.flatten(2).mT) for x in (embedding + dense, positions))  # [B, h*w, C]
        tokens, image = self.transformer(self.all_tokens(sparse), image, positions)
        return tokens, torch.unflatten(image.mT, 2, embedding.shape[2:])

    def all_tokens(self, sparse: Tensor) -> Tensor:
        """The decoder's own tokens, then the sparse embeddings [B, n, C] -> [B, 1 + masks + n, C]."""
        own = torch.cat((self.iou_token.weight, self.mask_tokens.weight)).expand(len(sparse), -1, -1)
        return torch.cat((own, sparse), dim=1)

    def mask_weights(self, tokens: Tensor, masks: int) -> Tensor:
        """Weights of the upscaled map's channels for the first `masks` masks, [B, masks, channels]."""
        heads = list(self.output_hypernetworks_mlps)[:masks]
        return torch.stack([head(tokens[:, 1 + i]) for i, head in enumerate(heads)], dim=1)

    def masks(self, image: Tensor, weights: Tensor) -> Tensor:
        """Image tokens as a map [B, C, h, w], weights [B, masks, channels] -> logits [B, masks, 4*h, 4*w]."""
        upscaled: Tensor = self.output_upscaling(image)
        return torch.unflatten(weights @ upscaled.flatten(2), 2, upscaled.shape[2:])
