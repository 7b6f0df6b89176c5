"""Canny maps and what prepare.onnx gives in float64, and how far float32 is from it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from inter2former_deploy.exporters import tolerances
from inter2former_deploy.exporters.exact import Float64Convolutions, judge_whole
from inter2former_deploy.exporters.judgement import Check, Exact, counted, equal, judged
from inter2former_deploy.exporters.parity import PLAIN
from inter2former_deploy.families.exact_embedding import Area
from inter2former_deploy.families.inter2former.config import PATCH, STAGES
from inter2former_deploy.families.inter2former.graphs import PrepareGraph
from inter2former_deploy.families.inter2former.interface import BLANK_INPUTS, EDGE_INPUTS, EMBEDDING, OUTSIDE_INPUTS
from inter2former_deploy.families.inter2former.labels import UNKNOWN
from inter2former_deploy.families.inter2former.modules.edges import Canny, CannyNet, ResidualBlock
from inter2former_deploy.families.inter2former.modules.model import Inter2Former
from inter2former_deploy.families.inter2former.modules.neck import HybridLayer
from inter2former_deploy.families.inter2former.modules.outside import KnownOutside
from inter2former_deploy.operators import edge_formulas

Array = NDArray[Any]
T = TypeVar("T")

PART = 4  # tokens of a side of the parts in which a large map is judged
NO_GRADIENT = 180  # direction of a pixel without any


class ExactCannyMaps:
    """The gradient of a picture in float64, and what follows from it exactly.

    Args:
        canny: The reference.
        image: The picture, RGB 0-255, float32 [S, S, 3].
    """

    def __init__(self, canny: Canny, image: Tensor) -> None:
        exact, own = _gradient(canny, image.double()), _gradient(canny, image)
        self._magnitude = Exact.of(_magnitude(*exact), _magnitude(*own))
        self._gradients = [gradient.sum(0) for gradient in (*exact, *own)]

    def judge(self, backend: str, maps: Array) -> Iterator[Check]:
        """Compare the gradient with float64, and the maps of maxima and thresholds exactly with the maps themselves.

        Args:
            backend: What computed the maps.
            maps: [5, S, S], float32.
        """
        magnitude, direction, thin, thresh, early = maps
        yield from judged("canny_maps/grad_mag", backend, magnitude, self._magnitude)
        right = _right_directions(torch.from_numpy(direction), *self._gradients).numpy()
        none = magnitude == 0  # no channel has a gradient
        yield counted("canny_maps/grad_ori", backend, np.where(none, direction != NO_GRADIENT, ~right))
        axis = direction % 180 / 45  # neighbours k and k + 4 lie on axis k
        around = np.pad(magnitude, 1)
        h, w = magnitude.shape
        higher = [
            magnitude > around[1 + row : 1 + row + h, 1 + column : 1 + column + w]
            for row, column in edge_formulas.NEIGHBOURS
        ]
        survives = np.zeros(magnitude.shape, bool)
        for k in range(4):
            survives |= (axis == k) & higher[k] & higher[k + 4]
        yield equal("canny_maps/thin", backend, thin, np.where(survives, magnitude, np.float32(0)))
        strong = np.float32(edge_formulas.THRESHOLD)
        yield equal("canny_maps/thresh", backend, thresh, np.where(thin >= strong, thin, np.float32(0)))
        yield equal("canny_maps/early", backend, early, np.where(magnitude >= strong, magnitude, np.float32(0)))


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

    def around(self, reach: int, tokens: int) -> Area:
        """The part with `reach` tokens on each side, as far as the map of `tokens` x `tokens` goes."""
        (top, bottom), (left, right) = (
            (max(n - reach, 0), min(n + PART + reach, tokens)) for n in (self.row, self.column)
        )
        return Area(top, bottom, left, right)

    def surroundings(self, tokens: int) -> Area:
        """The part with what its edge inputs see, a square; of a map of `tokens` x `tokens`."""
        side = min(PART + 2, tokens)
        top, left = (min(max(n - 1, 0), tokens - side) for n in (self.row, self.column))
        return Area(top, top + side, left, left + side)

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


@dataclass(frozen=True)
class _Edges:
    """What the edge network makes of Canny maps, by name in `interface.EDGE_INPUTS`."""

    features: tuple[Tensor, ...]  # in float32, coarse to fine
    whole: dict[str, Exact]  # where there are parts, these are float32, too
    parts: list[tuple[_Part, dict[str, Exact]]]


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
        # Its weights are put together anew: not those of float32.
        self._exact.known_outside = KnownOutside(self._exact.neck, self._exact.decode_head)
        self._tokens, self._rng = size // PATCH, rng
        self._known: dict[str, tuple[Array, Any]] = {}  # backends often agree on Canny maps to the last bit
        labels = torch.full((size, size), UNKNOWN, dtype=torch.uint8)
        nothing = torch.zeros(self._tokens, self._tokens, model.config.decoder.dim)
        self._unmarked = [  # what labels without any click add to an embedding
            neck.ref_conv(labels, nothing.to(dtype), neck.ref_embeds.weight)
            for neck, dtype in ((self._exact.neck, torch.float64), (self._own.neck, torch.float32))
        ]

    def judge(self, backend: str, actual: Mapping[str, Array]) -> tuple[list[Check], tuple[Tensor, ...]]:
        """Compare what is of tokens with what the same embedding gives, the edge inputs with those of the same maps.

        Args:
            backend: What computed the tensors.
            actual: What encoder.onnx and prepare.onnx give, and the Canny maps.

        Returns:
            The comparisons, and the edge features that PyTorch's float32 computes from the same maps, coarse to fine.
        """
        tokens = self._of(actual[EMBEDDING], self._judge_tokens_by)
        edges = self._of(actual["canny_maps"], self._judge_edges_by)
        checks: list[Check] = []
        for name, exact in tokens.items():
            checks += judged(name, backend, actual[name], exact)
        for part, by in edges.parts:
            note = f"{PART} x {PART} tokens from row {part.row}, column {part.column}"
            for name, exact in by.items():
                checks += judged(name, backend, part.of(name, actual[name]), exact, note)
        multiples = tolerances.LARGEST, tolerances.MEAN_OF_MAPS
        for name, exact in edges.whole.items():
            if edges.parts:
                parts = [by[name] for _, by in edges.parts]
                checks += judge_whole(name, backend, actual[name], exact, parts, *multiples)
            else:
                checks += judged(name, backend, actual[name], exact)
        return checks, edges.features

    def judge_reduced(self, backend: str, actual: Mapping[str, Array]) -> list[Check]:
        """Compare what prepare.onnx gives with its edge network in bfloat16, all else being float32.

        In plain onnxruntime it computes in float32, and is as exact.
        """
        if backend == PLAIN:
            return self.judge(backend, actual)[0]
        checks: list[Check] = []
        for name, exact in self._of(actual[EMBEDDING], self._judge_tokens_by).items():
            checks += judged(name, backend, actual[name], exact)
        edges = self._of(actual["canny_maps"], self._judge_edges_by)
        own = self._of(actual["canny_maps"], self._rounded_edges)
        multiples = tolerances.REDUCED_LARGEST, tolerances.REDUCED_MEAN

        def rounded(exact: Exact, values: Tensor, size_of: Exact) -> Exact:
            return Exact.of(torch.from_numpy(exact.values), values, "bf16", size_of)

        for name, whole in edges.whole.items():
            tensor = f"{name} in bf16"
            if not edges.parts:
                by = rounded(whole, own[name], whole)
                checks += by.judge(tensor, backend, actual[name], largest=multiples[0], mean=multiples[1])
                continue
            parts = []
            for part, of_part in edges.parts:
                parts.append(rounded(of_part[name], part.of(name, own[name]), whole))
                its = part.of(name, actual[name])
                checks += parts[-1].judge(tensor, backend, its, largest=multiples[0], mean=multiples[1])
            checks += judge_whole(tensor, backend, actual[name], whole, parts, *multiples)
        return checks

    def _of(self, given: Array, compute: Callable[[Tensor], T]) -> T:
        """What is computed of an array, or was the last time, if the array is the same to the last bit."""
        key = compute.__name__
        if key not in self._known or not np.array_equal(self._known[key][0], given):
            self._known[key] = given, compute(torch.from_numpy(given))
        result: T = self._known[key][1]
        return result

    def of_tokens(self, embedding: Array) -> dict[str, Array]:
        """An embedding, float32 [h, w, C], and what of it prepare.onnx gives, by the reference in float32."""
        known = self._own.tokens(torch.from_numpy(embedding))
        names = (*BLANK_INPUTS, *OUTSIDE_INPUTS)
        return {EMBEDDING: embedding} | {name: x.numpy() for name, x in zip(names, known, strict=True)}

    def _judge_tokens_by(self, embedding: Tensor) -> dict[str, Exact]:
        exact, own = (
            (
                *cast(HybridLayer, graph.neck.blocks[0]).attend_fully(
                    embedding.to(unmarked).flatten(0, 1) + unmarked, self._tokens
                ),
                *graph.known_outside(embedding.to(unmarked)),
            )
            for graph, unmarked in zip((self._exact, self._own), self._unmarked, strict=True)
        )
        names = (*BLANK_INPUTS, *OUTSIDE_INPUTS)
        return {name: Exact.of(x, y) for name, x, y in zip(names, exact, own, strict=True)}

    def _judge_edges_by(self, maps: Tensor) -> _Edges:
        with _moments_of_norms(self._own.edge_detector) as moments:
            features = self._own.edge_detector.features(maps[None])
        own = dict(zip(EDGE_INPUTS, self._own.decode_head.project_edges(features), strict=True))
        if self._tokens * PATCH <= tolerances.PARTS_ABOVE:
            net, head = self._exact.edge_detector, self._exact.decode_head
            with Float64Convolutions():
                exact = dict(zip(EDGE_INPUTS, head.project_edges(net.features(maps.double()[None])), strict=True))
            return _Edges(features, {name: Exact.of(exact[name], own[name]) for name in EDGE_INPUTS}, [])
        whole = {name: Exact.of(values.double(), values) for name, values in own.items()}
        anywhere = (int(x) for x in self._rng.integers(0, self._tokens - PART + 1, 2))
        parts = []
        for part in (_Part(0, 0), _Part(*anywhere)):
            with Float64Convolutions():
                exact = self._exact_part(maps, moments, part)
            by = {name: Exact.of(exact[name], part.of(name, own[name]), size_of=whole[name]) for name in EDGE_INPUTS}
            parts.append((part, by))
        return _Edges(features, whole, parts)

    def _rounded_edges(self, maps: Tensor) -> dict[str, Tensor]:
        """The edge inputs in float32, but that all layers behind the first round as those in bfloat16 may."""
        stages = list(self._own.decode_head.stages)[::-1]  # fine to coarse, as those of the network
        laterals = cast(Iterable[nn.Conv2d], self._own.edge_detector.lateral_convs)
        by_stage = [
            _rounded_projection(x, lateral, stage.conv.weight, x.shape[-1] // self._tokens)
            for x, lateral, stage in zip(_rounded_stages(self._own.edge_detector, maps), laterals, stages, strict=True)
        ]
        by_kind = [tensor for kind in zip(*reversed(by_stage), strict=True) for tensor in kind]
        return dict(zip(EDGE_INPUTS, by_kind, strict=True))

    def _exact_part(self, maps: Tensor, moments: list[tuple[Tensor, Tensor]], part: _Part) -> dict[str, Tensor]:
        """The edge inputs of a part in float64, with the norms' statistics of the whole map.

        A crop of the maps goes through the network, and is cut at each stage, but stays so much larger than the part
        that the zeros around it, where the map goes on, do not reach the part.
        """
        net, stages = self._exact.edge_detector, list(self._exact.decode_head.stages)
        area = part.around(_reach(net, 0), self._tokens)
        norms = torch.linalg.vector_norm(maps.double(), dim=(1, 2), keepdim=True).clamp(min=1e-12)
        x = net.conv1((area.of(maps.permute(1, 2, 0), pixels=PATCH).permute(2, 0, 1).double() / norms)[None])
        by_stage, remaining = [], iter(moments)
        for i, (blocks, lateral) in enumerate(zip(net.block_list, net.lateral_convs, strict=True)):
            pixels = PATCH >> i  # of a token here
            if i > 0:
                x = net.downsamplers[i - 1](x)
                outer, area = area, part.around(_reach(net, i), self._tokens)
                x = area.of(x[0].permute(1, 2, 0), outer.top, outer.left, pixels).permute(2, 0, 1)[None]
            for block in cast(Iterable[ResidualBlock], blocks):
                hidden = block.conv1(F.silu(_normalized(block.norm1, x, *next(remaining))))
                x = x + block.conv2(F.silu(_normalized(block.norm2, hidden, *next(remaining))))
            near = part.surroundings(self._tokens)
            features = lateral(near.of(x[0].permute(1, 2, 0), area.top, area.left, pixels).permute(2, 0, 1)[None])
            by_stage.append(edge_formulas.project_edge(features, stages[STAGES - 1 - i].conv.weight, pixels))
        by_kind = [tensor for kind in zip(*reversed(by_stage), strict=True) for tensor in kind]
        named = zip(EDGE_INPUTS, by_kind, strict=True)
        return {name: part.of(name, tensor, near.top, near.left) for name, tensor in named}


@contextmanager
def _moments_of_norms(net: CannyNet) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Collects mean and variance of what each norm of the edge network sees, in float64, in the order of its calls."""
    moments: list[tuple[Tensor, Tensor]] = []

    def collect(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        x = args[0].double().flatten()
        mean = x.mean()
        moments.append((mean, x.dot(x) / len(x) - mean.square()))

    norms = [module for module in net.modules() if isinstance(module, nn.GroupNorm)]
    hooks = [norm.register_forward_pre_hook(collect) for norm in norms]
    try:
        yield moments
    finally:
        for hook in hooks:
            hook.remove()


def _rounded_stages(net: CannyNet, maps: Tensor) -> list[Tensor]:
    """The stages' results [1, C, S, S] and less, fine to coarse, with all convolutions but the first in bfloat16."""
    x = net.conv1(edge_formulas.unit_norm(maps[None]))
    stages = []
    for i, blocks in enumerate(net.block_list):
        if i > 0:
            x = _rounded_convolution(x, cast(nn.Conv2d, net.downsamplers[i - 1]))
        for block in cast(Iterable[ResidualBlock], blocks):
            hidden = _rounded_convolution(F.silu(block.norm1(x)), block.conv1)
            x = x + _rounded_convolution(F.silu(block.norm2(hidden)), block.conv2)
        stages.append(x)
    return stages


def _rounded_convolution(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """A convolution that rounds its weights and what it sees to bfloat16."""
    return F.conv2d(_rounded(x), _rounded(conv.weight), conv.bias, conv.stride, conv.padding)


def _rounded_projection(x: Tensor, lateral: nn.Conv2d, weight: Tensor, pixels: int) -> tuple[Tensor, Tensor, Tensor]:
    """`project_edge` of what a lateral convolution gives, with the two composed and rounded, as x is, to bfloat16."""
    composed = torch.einsum("omyx,mc->ocyx", weight.double(), lateral.weight[:, :, 0, 0].double()).float()
    products = edge_formulas.project_edge(_rounded(x), _rounded(composed), pixels)
    bias = cast(Tensor, lateral.bias)[:, None, None].expand(1, -1, *x.shape[2:])
    edge, border, corner = (
        of_x + of_bias for of_x, of_bias in zip(products, edge_formulas.project_edge(bias, weight, pixels), strict=True)
    )
    return edge, border, corner


def _rounded(x: Tensor) -> Tensor:
    return x.bfloat16().float()


def _normalized(norm: nn.GroupNorm, x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """GroupNorm of [1, C, H, W] with given statistics."""
    centred = (x - mean) / (variance + norm.eps).sqrt()
    return centred * norm.weight[:, None, None] + norm.bias[:, None, None]


def _reach(net: CannyNet, first: int) -> int:
    """How many tokens around a place have a part in its edge inputs, from what enters the blocks of a stage on."""
    reach = 1 if first == 0 else 0  # of the first convolution
    for stage, blocks in list(enumerate(net.block_list))[first:]:
        pixels = 2**stage
        down = pixels // 2 if stage > first else 0
        reach += down + 2 * len(cast(nn.Sequential, blocks)) * pixels
    reach += 2 ** (STAGES - 1)  # of the convolution of edge features
    return int(-(-reach // PATCH))
