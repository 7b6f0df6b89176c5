"""Reference modules in float64 and in reduced precision: what the gates of all families judge by."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from inter2former_deploy.core.manifest import Precision
from inter2former_deploy.exporters import tolerances
from inter2former_deploy.exporters.judgement import Check, Exact
from inter2former_deploy.exporters.precision import BF16_LAYERS, MIN_WEIGHTS, quantize_weight
from inter2former_deploy.operators import formulas

Array = NDArray[Any]
Module = TypeVar("Module", bound=nn.Module)


def double(module: Module) -> Module:
    """A copy in float64."""
    return copy.deepcopy(module).double()


def judge_whole(
    tensor: str, backend: str, actual: Array, whole: Exact, parts: list[Exact], largest: float, mean: float
) -> Iterator[Check]:
    """The whole of a large map by PyTorch's own, within what both may be off in the parts that float64 judged."""
    off = replace(
        whole,
        largest=max(part.largest for part in parts),
        mean=max(part.mean for part in parts),
        own=f"{whole.own} (in the parts)",
    )
    yield from off.judge(
        f"{tensor} (whole map)",
        backend,
        actual,
        largest=tolerances.WHOLE_MAP * (largest + 1),
        mean=tolerances.WHOLE_MAP * (mean + 1),
    )


class Float64Convolutions(TorchFunctionMode):
    """Computes convolutions in float64 as one matrix product, whose rows are then shifted and added.

    PyTorch has no quick convolution of float64: it copies what the kernel sees at each pixel first, which takes several
    times as long as the sums themselves where a large map has few channels.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return (_convolve if func is F.conv2d else func)(*args, **(kwargs or {}))


def _convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """`F.conv2d`; a matrix product where it is one of a single map in float64 with steps of one pixel."""
    channels, _, height, width = weight.shape
    steps = all(n in (1, (1, 1)) for n in (stride, dilation, groups))
    if x.dtype != torch.float64 or len(x) != 1 or not steps or isinstance(padding, str):
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    (rows, columns), (top, left) = x.shape[2:], (padding, padding) if isinstance(padding, int) else padding
    products = weight.permute(2, 3, 0, 1).flatten(0, 2) @ x[0].flatten(1)
    products = products.view(height, width, channels, rows, columns)
    out = x.new_zeros(channels, rows + height - 1, columns + width - 1)  # wherever the kernel touches the map
    for row, column in product(range(height), range(width)):
        above, before = height - 1 - row, width - 1 - column
        out[:, above : above + rows, before : before + columns] += products[row, column]
    above, before = height - 1 - top, width - 1 - left
    out = out[None, :, above : len(out[0]) - above, before : out.shape[2] - before]
    return out if bias is None else out + bias[:, None, None]


def _attend_in_bf16(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of heads whose factors round to bfloat16, as kernels of Bf16WindowAttention may: [..., L, Dh] each."""

    def rounded(x: Tensor) -> Tensor:
        return x.bfloat16().float()

    logits = rounded(query * (query.shape[-1] ** -0.5 / math.log(2))) @ rounded(key).transpose(-1, -2)
    weights = rounded(torch.exp2(logits - logits.amax(-1, keepdim=True)))
    return weights @ rounded(value) / weights.sum(-1, keepdim=True)


class ReducedLayers(TorchFunctionMode):
    """Computes linear layers of many tokens, and attention, as `precision.reduce_precision` writes them."""

    def __init__(self, precision: Precision) -> None:
        super().__init__()
        self._precision, self._seen = precision, 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            return _attend_in_bf16(*args)
        out = func(*args, **(kwargs or {}))
        if func is not F.linear or args[1].numel() < MIN_WEIGHTS or args[0].shape[0] == 1:  # one row: a padding slot
            return out
        self._seen += 1
        x, weight, bias = args[0], args[1], args[2] if len(args) > 2 else args[1].new_zeros(len(args[1]))
        if self._precision == "bf16" or self._seen <= BF16_LAYERS:
            return formulas.bf16_linear(x, weight.bfloat16(), bias, "none")
        codes, scale = (torch.from_numpy(array) for array in quantize_weight(weight.numpy()))
        return formulas.int8_linear(x, codes, scale, bias, "none")
