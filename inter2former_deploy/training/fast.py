"""The same arithmetic in forms that PyTorch's CPU kernels train several times faster.

Results agree with the reference modules to rounding; only training uses these forms.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inter2former_deploy.operators import formulas


class OneGroupNorm(nn.GroupNorm):
    """GroupNorm with one group on channels-last memory: LayerNorm of the flat sample, then the channels' scale."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        return one_group_norm(x, self.weight, self.bias, self.eps)


def one_group_norm(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """`F.group_norm` with one group, [B, C, H, W] -> [B, C, H, W] in channels-last memory."""
    flat = x.permute(0, 2, 3, 1).contiguous()  # a view, when x is channels-last
    y = F.layer_norm(flat, flat.shape[1:], None, None, epsilon).to(x.dtype)  # autocast gives float32
    return torch.addcmul(bias.to(x.dtype), y, weight.to(x.dtype)).permute(0, 3, 1, 2)


@lru_cache(maxsize=64)
def _doubling(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Bicubic interpolation of n values to 2n as a matrix, [2n, n]."""
    eye = torch.eye(n, device=device)[None, None]
    return F.interpolate(eye, size=(2 * n, n), mode="bicubic", align_corners=False)[0, 0].to(dtype)


def upsample(x: Tensor, norm_weight: Tensor, norm_bias: Tensor, epsilon: float) -> Tensor:
    """`formulas.upsample` with the resize as a matrix product a direction, [B, C, H, W] -> [B, C, 2*H, 2*W]."""
    x = F.group_norm(x.contiguous(), 1, norm_weight.to(x.dtype), norm_bias.to(x.dtype), epsilon)
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    rows, columns = (_doubling(n, x.dtype, x.device) for n in x.shape[2:])
    return (rows @ (x @ columns.T)).contiguous(memory_format=torch.channels_last)


def prepare(model: nn.Module) -> None:
    """Lays a model out for training: channels-last weights, and norms that like it."""
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for module in model.modules():
        if type(module) is nn.GroupNorm and module.num_groups == 1:
            module.__class__ = OneGroupNorm


def attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """`F.scaled_dot_product_attention` written out, whose fused backward is slow on CPUs, [..., T, D]."""
    logits = (query * query.shape[-1] ** -0.5) @ key.mT
    return torch.softmax(logits if attn_mask is None else logits + attn_mask, -1) @ value


def bf16_attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """The same in bfloat16, of and to numbers of any type."""
    mask = None if attn_mask is None else attn_mask.bfloat16()
    return attention(query.bfloat16(), key.bfloat16(), value.bfloat16(), mask).to(query.dtype)


def bf16_is_faster() -> bool:
    """Whether this CPU multiplies matrices faster in bfloat16 than in float32, by a trial of a few milliseconds.

    With instructions for it, twice as fast or more; without, more than ten times slower.
    """

    def seconds(dtype: torch.dtype) -> float:
        x = torch.ones(256, 256, dtype=dtype)
        _ = x @ x
        times = []
        for _ in range(5):
            start = time.perf_counter()
            _ = x @ x
            times.append(time.perf_counter() - start)
        return min(times)

    return seconds(torch.bfloat16) < seconds(torch.float32)


@contextmanager
def fast_forms(*, bf16: bool) -> Iterator[None]:
    """Within, resizes are matrix products, and attention is written out.

    Args:
        bf16: Attention in bfloat16, also where all around it is not.
    """
    names = "upsample", "scaled_dot_product_attention"
    reference = [getattr(formulas, name) for name in names]
    for name, form in zip(names, (upsample, bf16_attention if bf16 else attention), strict=True):
        setattr(formulas, name, form)
    try:
        yield
    finally:
        for name, form in zip(names, reference, strict=True):
            setattr(formulas, name, form)
