"""The reference modules in float64, and how far their own float32 is from it: what the parity gate judges by."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from inter2former_deploy.core.manifest import Precision
from inter2former_deploy.exporters import tolerances
from inter2former_deploy.exporters.judgement import Check, Exact, counted, equal, judged
from inter2former_deploy.exporters.precision import KEPT_LAYERS, MIN_WEIGHTS, quantize_weight
from inter2former_deploy.families.inter2former.config import PATCH, STAGES
from inter2former_deploy.families.inter2former.graphs import PrepareGraph
from inter2former_deploy.families.inter2former.interface import BLANK_INPUTS, EDGE_INPUTS
from inter2former_deploy.families.inter2former.modules.edges import Canny, CannyNet, ResidualBlock
from inter2former_deploy.families.inter2former.modules.model import Inter2Former
from inter2former_deploy.operators import edge_formulas, formulas

Array = NDArray[Any]

PART = 4  # tokens of a side of the parts in which a large map is judged
NO_GRADIENT = 180  # direction of a pixel without any


def exact_embedding(model: Inter2Former, picture: Tensor, own: Tensor) -> Exact:
    """The image embedding [h, w, C].

    Args:
        model: The reference.
        picture: Normalised BGR, float32 [1, 3, S, S].
        own: What the model makes of it in float32, [1, C, h, w].
    """
    embedding = copy.deepcopy(model.backbone).double()(picture.double())
    return Exact.of(channels_last(embedding), channels_last(own))


def reduced_embedding(model: Inter2Former, picture: Tensor, precision: Precision, exact: Exact) -> Exact:
    """The same with PyTorch's error in reduced precision: of the modules with the layers rounded that the graph rounds.

    Args:
        model: The reference.
        picture: Normalised BGR, float32 [1, 3, S, S].
        precision: "bf16" or "int8".
        exact: What `exact_embedding` gave.
    """
    with _ReducedLayers(precision):
        own = model.backbone(picture)
    return Exact.of(torch.from_numpy(exact.values), channels_last(own), name=precision)


class _ReducedLayers(TorchFunctionMode):
    """Computes linear layers of many tokens as `precision.reduce_precision` writes them, but for the first ones."""

    def __init__(self, precision: Precision) -> None:
        super().__init__()
        self._precision, self._seen = precision, 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is not F.linear or args[1].numel() < MIN_WEIGHTS or args[0].shape[0] == 1:  # one row: a padding slot
            return out
        self._seen += 1
        if self._seen <= KEPT_LAYERS:
            return out
        x, weight, bias = args[0], args[1], args[2] if len(args) > 2 else args[1].new_zeros(len(args[1]))
        if self._precision == "bf16":
            return formulas.bf16_linear(x, weight.bfloat16(), bias, "none")
        codes, scale = (torch.from_numpy(array) for array in quantize_weight(weight.numpy()))
        return formulas.int8_linear(x, codes, scale, bias, "none")


def channels_last(embedding: Tensor) -> Tensor:
    """[1, C, h, w] -> [h, w, C]."""
    return embedding[0].permute(1, 2, 0)


# ---- Canny maps.


def judge_canny_maps(backend: str, maps: Array, canny: Canny, image: Tensor) -> Iterator[Check]:
    """Compare the gradient of a picture with float64, and what follows from it exactly with the maps themselves.

    Args:
        backend: What computed the maps.
        maps: [5, S, S], float32.
        canny: The reference.
        image: The picture, RGB 0-255, float32 [S, S, 3].
    """
    magnitude, direction, thin, thresh, early = maps
    exact, own = _gradient(canny, image.double()), _gradient(canny, image)
    yield from judged("canny_maps/grad_mag", backend, magnitude, Exact.of(_magnitude(*exact), _magnitude(*own)))
    right = _right_directions(torch.from_numpy(direction), *(g.sum(0) for g in (*exact, *own))).numpy()
    none = magnitude == 0  # no channel has a gradient
    yield counted("canny_maps/grad_ori", backend, np.where(none, direction != NO_GRADIENT, ~right))
    # One difference has the right sign in float32, too: no tie is left to rounding here.
    falls = F.conv2d(torch.from_numpy(magnitude).double()[None, None], _DIFFERENCES.double(), padding=1)[0]
    is_maximum = torch.minimum(falls[:4], falls[4:]) > 0  # along each of the four axes
    axis = torch.from_numpy(direction % 180 / 45).long().clamp(0, 3)[None]
    survives = is_maximum.gather(0, axis)[0].numpy()
    yield equal("canny_maps/thin", backend, thin, np.where(survives, magnitude, np.float32(0)))
    strong = np.float32(edge_formulas.THRESHOLD)
    yield equal("canny_maps/thresh", backend, thresh, np.where(thin >= strong, thin, np.float32(0)))
    yield equal("canny_maps/early", backend, early, np.where(magnitude >= strong, magnitude, np.float32(0)))


_DIFFERENCES = edge_formulas.difference_filters()


def _gradient(canny: Canny, image: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the three blurred channels along columns and rows, [3, S, S] each, in the image's precision."""
    numbers = (x.to(image) for x in (canny.mean, canny.std, canny.g_h.weight, canny.g_v.weight))
    return edge_formulas.picture_gradient(image, *(x.flatten() for x in numbers))


def _magnitude(gx: Tensor, gy: Tensor) -> Tensor:
    return (gx.square() + gy.square()).sqrt().sum(0)


def _right_directions(direction: Tensor, gx: Tensor, gy: Tensor, own_gx: Tensor, own_gy: Tensor) -> Tensor:
    """Where a map of directions is that of the gradient, give or take what float32 is off."""
    off = max(float((own - exact).abs().max()) for own, exact in ((own_gx, gx), (own_gy, gy)))
    largest = max(float(gx.abs().max()), float(gy.abs().max()))
    slack = tolerances.DECISION * max(off, tolerances.FLOOR * largest)
    right = torch.zeros_like(direction, dtype=torch.bool)
    for dx, dy in product((-slack, 0.0, slack), repeat=2):
        right |= direction == edge_formulas.gradient_direction(gx + dx, gy + dy)
    # Where the gradient vanishes, directions lie between the steps that none of them has.
    vanishes = gx.abs().maximum(gy.abs()) <= 4 * slack
    return right | (vanishes & (direction % 45 == 0) & (direction >= 0) & (direction <= 360))


# ---- What prepare.onnx gives.


@dataclass(frozen=True)
class _Part:
    """A square part of the map."""

    row: int  # of its first token
    column: int

    def of(self, name: str, array: Any, top: int = 0, left: int = 0) -> Any:
        """The part of one of `interface.EDGE_INPUTS` of a map whose first token is (top, left), array or tensor."""
        rows, columns = (slice(n, n + PART) for n in (self.row - top, self.column - left))
        pixels = 2 ** (int(name[-1]) + 1)  # of a token
        pixel_rows, pixel_columns = (slice(pixels * s.start, pixels * s.stop) for s in (rows, columns))
        if "corner" in name:
            return array[:, rows, columns]
        if "border" in name:  # above and below a token's row, left and right of its column
            stack = torch.cat if isinstance(array, Tensor) else np.concatenate
            return stack((array[:2, rows, pixel_columns], array[2:, columns, pixel_rows]))
        return array[pixel_rows, pixel_columns]


class ExactPreparation:
    """What prepare.onnx gives, from each backend's own embedding and maps.

    Args:
        model: The reference.
        size: S.
        rng: Draws the parts of large maps that are judged in float64.
    """

    def __init__(self, model: Inter2Former, size: int, rng: np.random.Generator) -> None:
        self._own = PrepareGraph(model)
        self._exact = copy.deepcopy(self._own).double()
        self._tokens, self._rng = size // PATCH, rng

    def judge(self, backend: str, actual: Mapping[str, Array]) -> Iterator[Check]:
        """Compare the blank attention with that of the same embedding, the edge inputs with those of the same maps."""
        embedding, maps = (torch.from_numpy(actual[name]) for name in ("image_embedding", "canny_maps"))
        blank = self._exact.blank_inputs(embedding.double()), self._own.blank_inputs(embedding)
        for name, exact, own in zip(BLANK_INPUTS, *blank, strict=True):
            yield from judged(name, backend, actual[name], Exact.of(exact, own))
        if self._tokens * PATCH > tolerances.PARTS_ABOVE:
            yield from self._judge_parts(backend, actual, maps)
            return
        edges = self._exact.edge_inputs(maps.double()), self._own.edge_inputs(maps)
        for name, exact, own in zip(EDGE_INPUTS, *edges, strict=True):
            yield from judged(name, backend, actual[name], Exact.of(exact, own))

    def _judge_parts(self, backend: str, actual: Mapping[str, Array], maps: Tensor) -> Iterator[Check]:
        """Two parts of the edge inputs by float64, and the whole by what may be off in the parts."""
        with _moments_of_norms(self._own.edge_detector) as moments:
            features = self._own.edge_detector.features(maps[None])
        own = dict(zip(EDGE_INPUTS, self._own.decode_head.project_edges(features), strict=True))
        whole = {name: Exact.of(values.double(), values) for name, values in own.items()}
        off: dict[str, list[Exact]] = {name: [] for name in EDGE_INPUTS}
        anywhere = (int(x) for x in self._rng.integers(0, self._tokens - PART + 1, 2))
        for part in (_Part(0, 0), _Part(*anywhere)):
            exact = self._exact_part(maps, moments, part)
            for name in EDGE_INPUTS:
                values = Exact.of(exact[name], part.of(name, own[name]), size_of=whole[name])
                off[name].append(values)
                note = f"{PART} x {PART} tokens from row {part.row}, column {part.column}"
                yield from judged(name, backend, part.of(name, actual[name]), values, note)
        for name, parts in off.items():
            largest, mean = (max(getattr(part, kind) for part in parts) for kind in ("largest", "mean"))
            limits = replace(whole[name], largest=largest, mean=mean, own="float32 (in the parts)")
            yield from limits.judge(
                f"{name} (whole map)",
                backend,
                actual[name],
                largest=tolerances.WHOLE_MAP * (tolerances.LARGEST + 1),
                mean=tolerances.WHOLE_MAP * (tolerances.MEAN_OF_MAPS + 1),
            )

    def _exact_part(self, maps: Tensor, moments: list[tuple[Tensor, Tensor]], part: _Part) -> dict[str, Tensor]:
        """The edge inputs of a part in float64, with the norms' statistics of the whole map.

        A crop of the maps goes through the network, so much larger than the part that the zeros around the crop, where
        the map goes on, do not reach it.
        """
        net, stages = self._exact.edge_detector, self._exact.decode_head.stages
        reach = -(-_reach(net) // PATCH)
        side = min(PART + 2 * reach, self._tokens)
        top, left = (min(max(n - reach, 0), self._tokens - side) for n in (part.row, part.column))
        rows, columns = (slice(PATCH * n, PATCH * (n + side)) for n in (top, left))
        norms = torch.linalg.vector_norm(maps.double(), dim=(1, 2), keepdim=True).clamp(min=1e-12)
        x = net.conv1((maps[:, rows, columns].double() / norms)[None])
        features, remaining = [], iter(moments)
        for i, (blocks, lateral) in enumerate(zip(net.block_list, net.lateral_convs, strict=True)):
            if i > 0:
                x = net.downsamplers[i - 1](x)
            for block in cast(Iterable[ResidualBlock], blocks):
                hidden = block.conv1(F.silu(_normalized(block.norm1, x, *next(remaining))))
                x = x + block.conv2(F.silu(_normalized(block.norm2, hidden, *next(remaining))))
            features.append(lateral(x))
        projected = [
            edge_formulas.project_edge(edge, stage.conv.weight, edge.shape[-1] // side)
            for stage, edge in zip(stages, reversed(features), strict=True)
        ]
        by_kind = [tensor for kind in zip(*projected, strict=True) for tensor in kind]
        return {name: part.of(name, tensor, top, left) for name, tensor in zip(EDGE_INPUTS, by_kind, strict=True)}


@contextmanager
def _moments_of_norms(net: CannyNet) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Collects mean and variance of what each norm of the edge network sees, in float64, in the order of its calls."""
    moments: list[tuple[Tensor, Tensor]] = []

    def collect(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        variance, mean = torch.var_mean(args[0].double(), correction=0)
        moments.append((mean, variance))

    norms = [module for module in net.modules() if isinstance(module, nn.GroupNorm)]
    hooks = [norm.register_forward_pre_hook(collect) for norm in norms]
    try:
        yield moments
    finally:
        for hook in hooks:
            hook.remove()


def _normalized(norm: nn.GroupNorm, x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """GroupNorm of [1, C, H, W] with given statistics."""
    centred = (x - mean) / (variance + norm.eps).sqrt()
    return centred * norm.weight[:, None, None] + norm.bias[:, None, None]


def _reach(net: CannyNet) -> int:
    """How many pixels around a place have a part in its edge inputs."""
    reach = 1  # of the first convolution
    for stage, blocks in enumerate(net.block_list):
        pixels = 2**stage
        reach += pixels // 2 + 2 * len(cast(nn.Sequential, blocks)) * pixels  # of the step down, of the blocks
    return int(reach + 2 ** (STAGES - 1))  # and of the convolution of edge features
