"""The decoder's neck: prompt embedding and hybrid layers turn image embedding and labels into dense tokens."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from inter2former_deploy.families.inter2former.config import PATCH, DecoderConfig
from inter2former_deploy.families.inter2former.labels import UNKNOWN
from inter2former_deploy.families.inter2former.modules.attention import (
    BSQAttention,
    HybridAttention,
    KnownAttention,
    VQAttention,
)
from inter2former_deploy.families.inter2former.modules.experts import HybridExperts
from inter2former_deploy.families.inter2former.modules.prompt import PromptEmbedding
from inter2former_deploy.operators import formulas

LABELS = 5  # definite background, possible background, unknown, possible foreground, definite foreground


class HybridLayer(nn.Module):
    """Hybrid attention and hybrid experts, each before a residual addition."""

    def __init__(self, *, config: DecoderConfig) -> None:
        """Build one layer.

        Args:
            config: Widths, heads, experts, and the attention variant.
        """
        super().__init__()
        dim, width = config.dim, config.attention_dim
        self.norm1 = nn.LayerNorm(dim)
        self.qkv_proj = nn.Linear(dim, 3 * width)
        self.o_proj = nn.Linear(width, dim)
        numbers = {"dim": width, "heads": config.heads, "code_bits": config.code_bits}
        # All but "vq" have the same entries, so that one checkpoint serves them all.
        if config.attention == "vq":
            self.vq_attn = VQAttention(**numbers, variant=config.attention)
        else:
            self.bsq_attn = BSQAttention(**numbers, variant=config.attention)
        self.norm2 = nn.LayerNorm(dim)
        self.ffn = HybridExperts(dim=dim, hidden=config.expert_hidden, experts=config.experts)

    @property
    def attention(self) -> HybridAttention:
        """The attention of this layer's variant."""
        return self.vq_attn if hasattr(self, "vq_attn") else self.bsq_attn

    def forward(self, x: Tensor, edge: Tensor, grid_width: int, known: KnownAttention | None = None) -> Tensor:
        """Tokens of one image after this layer.

        Args:
            x: [L, C].
            edge: Edge tokens, int64 [E], ascending.
            grid_width: Tokens a row.
            known: What `attend_fully` gave for similar tokens: saves time, changes nothing else.

        Returns:
            [L, C].
        """
        return self.mix(x, self.attention(self.qkv(x), edge, grid_width, known), edge)

    def mix(self, x: Tensor, attended: Tensor, edge: Tensor) -> Tensor:
        """Tokens [n, C] after this layer, from what their attention gave [n, D]; `edge` are those among them."""
        x = formulas.linear_add(attended, x, self.o_proj.weight, self.o_proj.bias)
        mixed: Tensor = self.ffn(x, edge, self.norm2)
        return mixed

    def qkv(self, x: Tensor) -> Tensor:
        """Queries, keys and values of tokens [L, C]: [L, 3*D]."""
        norm, linear = self.norm1, self.qkv_proj
        return formulas.norm_linear(x, norm.weight, norm.bias, linear.weight, linear.bias, norm.eps, "none")

    def attend_fully(self, x: Tensor, grid_width: int) -> KnownAttention:
        """This layer's attention if all tokens [L, C] of one image were edge tokens."""
        return self.attention.attend_fully(self.qkv(x), grid_width)

    def training_forward(self, x: Tensor, edges: list[Tensor], grid_width: int) -> tuple[Tensor, Tensor]:
        """Tokens of a batch after this layer, with gradients; moves the expert bias.

        Args:
            x: [B, L, C].
            edges: Edge tokens of every sample, int64 [E], ascending.
            grid_width: Tokens a row.

        Returns:
            [B, L, C] and the quantisation loss, a scalar.
        """
        attended, loss = self.attention.training_forward(self.qkv_proj(self.norm1(x)), edges, grid_width)
        x = x + self.o_proj(attended)
        edge = torch.cat([i * x.shape[1] + e for i, e in enumerate(edges)])
        return self.ffn.training_forward(x.flatten(0, 1), edge, self.norm2).view_as(x), loss


class DecoderNeck(nn.Module):
    """Dense tokens of an image under its reference labels."""

    def __init__(self, *, config: DecoderConfig) -> None:
        """Build prompt embedding and layers.

        Args:
            config: All numbers of the decoder.
        """
        super().__init__()
        self.edge_rule = config.edge_rule
        self.ref_embeds = nn.Embedding(LABELS, LABELS)
        self.ref_conv = PromptEmbedding(
            in_channels=LABELS, channels=config.prompt_channels, dense=config.prompt == "dense"
        )
        self.blocks = nn.ModuleList([HybridLayer(config=config) for _ in range(config.layers)])

    def embed(self, labels: Tensor, image_embedding: Tensor) -> tuple[Tensor, Tensor]:
        """What the layers start from.

        Args:
            labels: uint8 [S, S], 0..4.
            image_embedding: [h, w, C].

        Returns:
            Tokens [h*w, C], and edge tokens int64 [E], ascending.
        """
        tokens = self.ref_conv(labels, image_embedding, self.ref_embeds.weight)
        return tokens, formulas.edge_tokens(labels, self.edge_rule)

    def attend_blank(self, image_embedding: Tensor) -> KnownAttention:
        """Full attention of the first layer before any click, when every label is unknown.

        Every token is an edge token then, as at the first click, which changes the few tokens that its disc reaches.

        Args:
            image_embedding: [h, w, C].
        """
        h, w, _ = image_embedding.shape
        labels = torch.full((PATCH * h, PATCH * w), UNKNOWN, dtype=torch.uint8, device=image_embedding.device)
        tokens = self.ref_conv(labels, image_embedding, self.ref_embeds.weight)
        return cast(HybridLayer, self.blocks[0]).attend_fully(tokens, w)

    def decode(self, labels: Tensor, image_embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens of one image.

        Args:
            labels: uint8 [S, S], 0..4.
            image_embedding: [h, w, C].

        Returns:
            Tokens [h*w, C], and edge tokens int64 [E], ascending.
        """
        x, edge = self.embed(labels, image_embedding)
        for block in self.blocks:
            x = block(x, edge, image_embedding.shape[1])
        return x, edge

    def forward(self, image_embedding: Tensor, labels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Tokens of a batch, at inference.

        Args:
            image_embedding: [B, C, h, w].
            labels: uint8 [B, S, S], 0..4.

        Returns:
            Tokens [B, C, h, w], and the edge tokens of every sample, int64 [E], ascending.
        """
        decoded = [self.decode(*pair) for pair in zip(labels, image_embedding.permute(0, 2, 3, 1), strict=True)]
        return _to_maps(torch.stack([x for x, _ in decoded]), image_embedding), [edge for _, edge in decoded]

    def training_forward(self, image_embedding: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens of a batch with gradients through the codes; moves the expert biases.

        Args:
            image_embedding: [B, C, h, w].
            labels: uint8 [B, S, S], 0..4.

        Returns:
            Tokens [B, C, h, w], equal to those of `forward`, and the quantisation loss, a scalar.
        """
        embedded = [self.embed(*pair) for pair in zip(labels, image_embedding.permute(0, 2, 3, 1), strict=True)]
        x = torch.stack([tokens for tokens, _ in embedded])  # [B, L, C]
        edges = [edge for _, edge in embedded]
        losses = []
        for block in cast(Iterable[HybridLayer], self.blocks):
            x, loss = block.training_forward(x, edges, image_embedding.shape[3])
            losses.append(loss)
        return _to_maps(x, image_embedding), torch.stack(losses).mean()


def _to_maps(tokens: Tensor, image_embedding: Tensor) -> Tensor:
    return tokens.transpose(1, 2).view_as(image_embedding)  # [B, L, C] -> [B, C, h, w]
