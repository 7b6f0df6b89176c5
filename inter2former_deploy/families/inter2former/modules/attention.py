"""Dynamic hybrid attention (DHA): full attention for edge tokens, codebook attention for the others."""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import sqrt
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inter2former_deploy.families.inter2former.config import Attention
from inter2former_deploy.operators import formulas

COMMITMENT = 0.25  # weight of the loss that pulls keys to their codes


class KnownAttention(NamedTuple):
    """Full attention of all tokens, which `formulas.hybrid_attention` of a similar qkv can start from."""

    qkv: Tensor  # [L, 3*D]
    out: Tensor  # [L, D]
    logsum: Tensor  # [L, heads]


class HybridAttention(nn.Module, ABC):
    """Attention over given queries, keys and values; a subclass says how keys become codewords.

    Codewords span all heads: keys are quantised at the whole width and split into heads afterwards.
    """

    quantizer: str  # as formulas.hybrid_attention names it

    def __init__(self, *, heads: int, variant: Attention) -> None:
        """Choose the heads, and which tokens get full attention.

        Args:
            heads: Attention heads.
            variant: "hybrid" (edge tokens), "full" (all tokens), "bsq" or "vq" (none).
        """
        super().__init__()
        self.heads = heads
        self.variant = variant

    @abstractmethod
    def pack(self) -> tuple[Tensor, Tensor, Tensor]:
        """The arrays of the HybridAttention operator: code_weight [B, D], code_bias [B], codewords [K, D]."""

    @abstractmethod
    def quantize(self, key: Tensor) -> tuple[Tensor, Tensor]:
        """Keys as codewords, with straight-through gradients.

        Args:
            key: [..., D].

        Returns:
            Codewords [..., D] and the quantisation loss, a scalar.
        """

    def forward(self, qkv: Tensor, edge: Tensor, grid_width: int, known: KnownAttention | None = None) -> Tensor:
        """Attention of one image at inference: keys of one code count as one.

        Args:
            qkv: [L, 3*D].
            edge: Edge tokens, int64 [E], ascending.
            grid_width: Tokens a row.
            known: What `attend_fully` gave for a similar qkv: saves time, changes nothing else.

        Returns:
            [L, D].
        """
        full = self.full_tokens(qkv, edge)
        return formulas.hybrid_attention(
            qkv, full, *self.pack(), self.heads, grid_width, self.quantizer, *(known or ())
        )

    def attend_fully(self, qkv: Tensor, grid_width: int) -> KnownAttention:
        """Full attention for all tokens of one image, whatever the variant.

        Args:
            qkv: [L, 3*D].
            grid_width: Tokens a row.
        """
        return KnownAttention(qkv, *formulas.full_attention(qkv, self.heads, grid_width))

    def training_forward(self, qkv: Tensor, edges: list[Tensor], grid_width: int) -> tuple[Tensor, Tensor]:
        """The same attention of a batch as full attention over quantised keys, which has gradients.

        The release computes it for edge tokens, too, and then replaces it, so that nothing of that passes on.

        Args:
            qkv: [B, L, 3*D].
            edges: Edge tokens of every sample, int64 [E], ascending.
            grid_width: Tokens a row.

        Returns:
            [B, L, D] and the quantisation loss, a scalar.
        """
        query, key, value = qkv.chunk(3, dim=-1)  # [B, L, D]
        codeword, loss = self.quantize(key)
        out = []
        for i, edge in enumerate(edges):
            full = self.full_tokens(qkv[i], edge)
            other = formulas.all_but(full, len(qkv[i]))
            by_code = formulas.attention(query[i][other], codeword[i], value[i], self.heads)
            by_key = formulas.attention_to_all(query[i], key[i], value[i], full, self.heads, grid_width)
            out.append(torch.zeros_like(query[i]).index_copy(0, other, by_code).index_copy(0, full, by_key))
        return torch.stack(out), loss

    def full_tokens(self, qkv: Tensor, edge: Tensor) -> Tensor:
        """The tokens that get full attention, int64, ascending; arguments as in `forward`."""
        if self.variant == "hybrid":
            return edge
        count = len(qkv) if self.variant == "full" else 0
        return torch.arange(count, device=qkv.device)


class BSQAttention(HybridAttention):
    """Codes by binary spherical quantisation: the signs of a projection, each choosing one of two vectors."""

    quantizer = "bsq"
    code_table: Tensor

    def __init__(self, *, dim: int, heads: int, code_bits: int, variant: Attention = "hybrid") -> None:
        """Build projection and codebook.

        Args:
            dim: Width of q, k and v over all heads.
            heads: Attention heads.
            code_bits: Bits of a code.
            variant: Which tokens get full attention.
        """
        super().__init__(heads=heads, variant=variant)
        self.codebook = nn.Parameter(torch.randn(2 * code_bits, dim) / sqrt(code_bits))  # of bits set, of bits unset
        self.code_proj = nn.Linear(dim, code_bits)
        places = torch.arange(code_bits - 1, -1, -1)
        code_table = torch.arange(2**code_bits)[:, None] >> places & 1
        self.register_buffer("code_table", code_table.float(), persistent=False)  # bits of every code, [K, B]

    def pack(self) -> tuple[Tensor, Tensor, Tensor]:
        """Codewords of all codes: the sum of a vector a bit, the first bit being the highest."""
        return self.code_proj.weight, self.code_proj.bias, self._codewords(self.code_table)

    def quantize(self, key: Tensor) -> tuple[Tensor, Tensor]:
        """Keys as codewords; the gradient of a bit passes to its coordinate on the unit sphere."""
        u = F.normalize(self.code_proj(key), dim=-1)
        corner = 1 / sqrt(u.shape[-1])  # coordinates of the cube's corners on the unit sphere are +-corner
        s = torch.where(u >= 0, corner, -corner)
        c = u + (s - u).detach()
        return self._codewords(c / (2 * corner) + 0.5), COMMITMENT * F.mse_loss(u, s.to(u))

    def _codewords(self, bits: Tensor) -> Tensor:
        return torch.cat((bits, 1 - bits), dim=-1) @ self.codebook


class VQAttention(HybridAttention):
    """Codes by vector quantisation: the nearest codeword (paper Eq. 7-9), the ablation that BSQ replaces."""

    quantizer = "vq"

    def __init__(self, *, dim: int, heads: int, code_bits: int, variant: Attention = "vq") -> None:
        """Build the codebook of `2**code_bits` codewords.

        Args:
            dim: Width of q, k and v over all heads.
            heads: Attention heads.
            code_bits: Bits of a code.
            variant: Which tokens get full attention.
        """
        super().__init__(heads=heads, variant=variant)
        self.codebook = nn.Parameter(torch.randn(2**code_bits, dim))

    def pack(self) -> tuple[Tensor, Tensor, Tensor]:
        """The nearest codeword c of a key k has the largest `c.k - |c|^2 / 2`."""
        return self.codebook, -self.codebook.square().sum(1) / 2, self.codebook

    def quantize(self, key: Tensor) -> tuple[Tensor, Tensor]:
        """Keys as their nearest codewords; the gradient passes to the key, codewords learn from the loss."""
        weight, bias, codewords = self.pack()
        code = formulas.assign_codes(key.flatten(0, -2), weight, bias, self.quantizer)
        nearest = codewords[code].view_as(key)
        loss = F.mse_loss(nearest, key.detach()) + COMMITMENT * F.mse_loss(key, nearest.detach())
        return key + (nearest - key).detach(), loss
