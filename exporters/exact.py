"""The reference modules in float64, and how far their own float32 is from it: what the parity gate judges by."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, TypeVar, cast

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
from inter2former_deploy.families.inter2former.interface import BLANK_INPUTS, EDGE_INPUTS, EMBEDDING, OUTSIDE_INPUTS
from inter2former_deploy.families.inter2former.labels import UNKNOWN
from inter2former_deploy.families.inter2former.modules.edges import Canny, CannyNet, ResidualBlock
from inter2former_deploy.families.inter2former.modules.encoder import (
    EncoderBlock,
    WindowEncoder,
    add_positions,
    fuse_maps,
    resize,
)
from inter2former_deploy.families.inter2former.modules.model import Inter2Former
from inter2former_deploy.families.inter2former.modules.neck import HybridLayer
from inter2former_deploy.families.inter2former.modules.outside import KnownOutside
from inter2former_deploy.operators import edge_formulas, formulas
from inter2former_deploy.operators.windows import WindowLayout

Array = NDArray[Any]
Module = TypeVar("Module", bound=nn.Module)
T = TypeVar("T")

WINDOWS = 2  # windows along the border in the part of a large map whose embedding is computed in float64
PART = 4  # tokens of a side of the parts in which a large map is judged
NO_GRADIENT = 180  # direction of a pixel without any


@dataclass(frozen=True)
class _Area:
    """A rectangle of tokens of a map."""

    top: int
    bottom: int
    left: int
    right: int

    def of(self, x: Any, top: int = 0, left: int = 0, pixels: int = 1) -> Any:
        """The area of a map [h, w, C], array or tensor, whose first token is (top, left), at some pixels a token."""
        rows, columns = (self.top - top, self.bottom - top), (self.left - left, self.right - left)
        return x[pixels * rows[0] : pixels * rows[1], pixels * columns[0] : pixels * columns[1]]

    def __str__(self) -> str:
        return f"tokens {self.top} to {self.bottom - 1} by {self.left} to {self.right - 1}"


class ExactEmbedding:
    """The image embedding in float64, of large maps in a part at their border that is drawn anew each time.

    The part lies in `WINDOWS` windows side by side, whose tokens go through all blocks in float64. Attention in shifted
    windows sees tokens around them, too, and these are what float32 made of them: half a window away from there, where
    the part begins, this hardly shows (docs/gate.md).

    Args:
        encoder: The reference.
        size: S.
        rng: Draws the part.
    """

    def __init__(self, encoder: WindowEncoder, size: int, rng: np.random.Generator) -> None:
        self._encoder, self._grid = encoder, size // PATCH
        side = encoder.config.window
        count = -(-self._grid // side)  # windows a side of the map
        in_parts = size > tolerances.PARTS_ABOVE and type(encoder) is WindowEncoder  # whose blocks see windows alone
        spans = [(0, self._grid)] * 2
        if in_parts and count > WINDOWS:
            along = int(rng.integers(0, count - WINDOWS + 1)) * side
            last = (self._grid // side - 1) * side  # with what lies beyond the last whole window
            across = ((0, side), (last, self._grid))[rng.integers(2)]  # at a border
            spans = [(along, min(along + WINDOWS * side, self._grid)), across]
            rng.shuffle(spans)
        (top, bottom), (left, right) = spans
        self._inner = _Area(top, bottom, left, right)
        # With the shifted windows that reach into it; windows of a crop start where those of the whole map do.
        beyond = side - side // 2
        self._outer = _Area(
            max(top - side, 0), min(bottom + beyond, self._grid), max(left - side, 0), min(right + beyond, self._grid)
        )
        margin = side // 2
        self.part = _Area(
            *(top + margin * (top > 0), bottom - margin * (bottom < self._grid)),
            *(left + margin * (left > 0), right - margin * (right < self._grid)),
        )
        self._around: dict[int, Tensor] = {}  # what float32 made of the outer area, by shifted block

    def encode(self, picture: Tensor) -> Tensor:
        """The embedding [1, C, h, w] of a normalised BGR picture [1, 3, S, S] in float32, by the reference."""
        hooks = []
        for i, block in enumerate(self._encoder.blocks):

            def see(_: nn.Module, args: tuple[Any, ...], i: int = i) -> None:
                tokens = torch.unflatten(args[0][: self._grid**2], 0, (self._grid, self._grid))
                self._around[i] = self._outer.of(tokens).clone()

            if i % 2 and self._outer != self._inner:
                hooks.append(block.register_forward_pre_hook(see))
        try:
            own: Tensor = self._encoder(picture)
        finally:
            for hook in hooks:
                hook.remove()
        return own

    def encode_exactly(self, picture: Tensor) -> None:
        """The part of the embedding of the picture that went through `encode` before."""
        if self._inner == _Area(0, self._grid, 0, self._grid):
            self.exact = _double(self._encoder)(picture.double())[0].permute(1, 2, 0)
            return
        encoder, inner, outer = self._encoder, self._inner, self._outer
        small = F.interpolate(picture.double(), size=(encoder.config.anchor_size,) * 2, mode="bilinear")
        positions, embed = encoder.pos_embed.double(), _double(encoder.patch_embed)
        main, anchor = (add_positions(embed(x), positions)[0] for x in (picture.double(), small))
        main, fused = inner.of(main), []
        for i, block in enumerate(map(_double, cast(Iterable[EncoderBlock], encoder.blocks))):
            around = self._around[i].double() if i in self._around else main
            if around is not main:
                inner.of(around, outer.top, outer.left)[:] = main
            layouts = [
                WindowLayout.of(x.shape[0], x.shape[1], encoder.config.window, shifted=i % 2 == 1)
                for x in (around, anchor)
            ]
            attended = block.attn(torch.cat((around.flatten(0, 1), anchor.flatten(0, 1))), block.norm1, layouts)
            around, anchor = _unflatten(attended, around, anchor)
            main = around if i not in self._around else inner.of(around, outer.top, outer.left)
            tokens = torch.cat((main.flatten(0, 1), anchor.flatten(0, 1)))
            main, anchor = _unflatten(block.mlp(tokens, block.norm2), main, anchor)
            if i in encoder.config.fusion_after:
                stage = encoder.config.fusion_after.index(i)
                norm, lateral = _double(encoder.multi_scale_fusion[stage]), _double(encoder.lateral_convs[stage])
                there = inner.of(resize(anchor[None], self._grid, self._grid)[0])
                fused.append(fuse_maps(main[None], there[None], norm, lateral))
        out = _double(encoder.out_conv)(sum(fused[1:], fused[0]).permute(0, 3, 1, 2))[0]
        self.exact = self.part.of(out, inner.top, inner.left)

    def judge(
        self, tensor: str, backend: str, actual: Array, own: Tensor, largest: float, mean: float, name: str = "float32"
    ) -> Iterator[Check]:
        """Compare an embedding with float64 in the part, and elsewhere with PyTorch's own.

        Args:
            tensor: Its name.
            backend: What computed it.
            actual: [h, w, C].
            own: The same by PyTorch in the graph's precision, [1, C, h, w].
            largest: How many times PyTorch's largest error the largest error may be.
            mean: The same for the mean error.
            name: Of the precision.
        """
        own = own[0].permute(1, 2, 0)
        whole = Exact.of(own.double(), own, name)
        part = Exact.of(self.exact, self.part.of(own), name, size_of=whole)
        if self.exact.shape == own.shape:
            yield from part.judge(tensor, backend, actual, largest=largest, mean=mean)
            return
        yield from part.judge(tensor, backend, self.part.of(actual), largest=largest, mean=mean, note=str(self.part))
        yield from _judge_whole(tensor, backend, actual, whole, [part], largest, mean)


def _judge_whole(
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


def _double(module: Module) -> Module:
    """A copy in float64."""
    return copy.deepcopy(module).double()


def _unflatten(tokens: Tensor, *maps: Tensor) -> list[Tensor]:
    """Tokens [T, C] of several maps one after the other as maps of the same sizes as the given ones."""
    parts = torch.split(tokens, [len(x) * x.shape[1] for x in maps])
    return [torch.unflatten(part, 0, x.shape[:2]) for part, x in zip(parts, maps, strict=True)]


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


class ReducedLayers(TorchFunctionMode):
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


# ---- Canny maps.


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

    def around(self, reach: int, tokens: int) -> _Area:
        """The part with `reach` tokens on each side, as far as the map of `tokens` x `tokens` goes."""
        (top, bottom), (left, right) = (
            (max(n - reach, 0), min(n + PART + reach, tokens)) for n in (self.row, self.column)
        )
        return _Area(top, bottom, left, right)

    def surroundings(self, tokens: int) -> _Area:
        """The part with what its edge inputs see, a square; of a map of `tokens` x `tokens`."""
        side = min(PART + 2, tokens)
        top, left = (min(max(n - 1, 0), tokens - side) for n in (self.row, self.column))
        return _Area(top, top + side, left, left + side)

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
                checks += _judge_whole(name, backend, actual[name], exact, parts, *multiples)
            else:
                checks += judged(name, backend, actual[name], exact)
        return checks, edges.features

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
