"""The operators of the edge network as PyTorch formulas, as operators.py has the others."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from inter2former_deploy.operators.formulas import in_bfloat16, operator

THRESHOLD = 2.0  # of the gradient magnitude, which is a sum over three channels in [0, 1]
TAN_22_5 = 2**0.5 - 1  # a direction is horizontal up to this slope
TAN_67_5 = 2**0.5 + 1  # and vertical from this slope on
NEIGHBOURS = ((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1))  # (row, column), k at k*45 degrees
SOBEL = ((1.0, 0.0, -1.0), (2.0, 0.0, -2.0), (1.0, 0.0, -1.0))  # of the gradient along the columns


def _five_maps(image: Tensor, *_: Any) -> Tensor:
    return image.new_empty(5, image.shape[0], image.shape[1])


@operator(_five_maps)
def canny_maps(image: Tensor, mean: Tensor, std: Tensor, blur_row: Tensor, blur_column: Tensor) -> Tensor:
    """The five Canny maps of a picture.

    Args:
        image: RGB [H, W, 3], 0-255.
        mean: Of the normalisation that the network sees, BGR [3].
        std: Of the normalisation, BGR [3].
        blur_row: Weights of the blur along the rows, [5].
        blur_column: Along the columns, [5].

    Returns:
        [5, H, W], as `maps_of_picture` gives them.
    """
    picture, filters = _picture_and_filters(image, mean, std, blur_row, blur_column)
    return maps_of_picture(picture, *filters, difference_filters().to(image))[0]


def picture_gradient(
    image: Tensor, mean: Tensor, std: Tensor, blur_row: Tensor, blur_column: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of the blurred channels along columns and rows, [3, H, W] each; arguments as of `canny_maps`."""
    picture, filters = _picture_and_filters(image, mean, std, blur_row, blur_column)
    gx, gy = _gradient(picture, *filters)
    return gx[0], gy[0]


def _picture_and_filters(
    image: Tensor, mean: Tensor, std: Tensor, blur_row: Tensor, blur_column: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Channels in 0-1 [1, 3, H, W], and the filters that `maps_of_picture` takes, but for the differences."""
    picture = (((image.flip(2) - mean) / std * std + mean) / 255).clamp(0, 1).permute(2, 0, 1)[None].contiguous()
    sobel = image.new_tensor(SOBEL)
    return picture, (blur_row.view(1, 1, 1, 5), blur_column.view(1, 1, 5, 1), sobel[None, None], sobel.T[None, None])


def difference_filters() -> Tensor:
    """A pixel minus its neighbour k, at k*45 degrees: [8, 1, 3, 3]."""
    filters = torch.zeros(len(NEIGHBOURS), 1, 3, 3)
    for k, (row, column) in enumerate(NEIGHBOURS):
        filters[k, 0, 1, 1], filters[k, 0, 1 + row, 1 + column] = 1, -1
    return filters


def maps_of_picture(
    picture: Tensor, blur_row: Tensor, blur_column: Tensor, sobel_x: Tensor, sobel_y: Tensor, differences: Tensor
) -> Tensor:
    """Gradient, its direction, non-maximum suppression and thresholds; all filters see zeros around the map.

    Args:
        picture: [B, 3, H, W], 0-1.
        blur_row: [1, 1, 1, 5].
        blur_column: [1, 1, 5, 1].
        sobel_x: Of the gradient along the columns, [1, 1, 3, 3].
        sobel_y: Along the rows, [1, 1, 3, 3].
        differences: A pixel minus its neighbour k, at k*45 degrees, [8, 1, 3, 3].

    Returns:
        [B, 5, H, W]: gradient magnitude; direction in degrees, a multiple of 45 in 0..360; magnitude where it is
        a maximum across the edge, else 0; the same where it is also at least 2; magnitude where it is at least 2.
    """
    gx, gy = _gradient(picture, blur_row, blur_column, sobel_x, sobel_y)
    magnitude = (gx.square() + gy.square()).sqrt().sum(1, keepdim=True)
    direction = gradient_direction(gx.sum(1, keepdim=True), gy.sum(1, keepdim=True))
    # Neighbours k and k + 4 lie on one axis, and 0 and 360 degrees on the same one.
    falls = _convolve(magnitude, differences)  # [B, 8, H, W]
    is_maximum = torch.minimum(falls[:, :4], falls[:, 4:]) > 0
    on_axis = direction.remainder(180) == 45 * torch.arange(4, device=picture.device).view(4, 1, 1)
    thin = torch.where((is_maximum & on_axis).any(1, keepdim=True), magnitude, 0)
    thresh = torch.where(thin >= THRESHOLD, thin, 0)
    early = torch.where(magnitude >= THRESHOLD, magnitude, 0)
    return torch.cat((magnitude, direction, thin, thresh, early), dim=1)


def _gradient(
    picture: Tensor, blur_row: Tensor, blur_column: Tensor, sobel_x: Tensor, sobel_y: Tensor
) -> tuple[Tensor, Tensor]:
    """Of each blurred channel along columns and rows, [B, 3, H, W] each; arguments as of `maps_of_picture`."""
    # Channel by channel: with the same memory layout and shapes the convolutions round as in the release. All three at
    # once, `thin` differs at 14 of the 9216 pixels of the golden image.
    blurred = [_convolve(_convolve(channel, blur_row), blur_column) for channel in torch.split(picture, 1, dim=1)]
    gx, gy = (torch.cat([_convolve(channel, sobel) for channel in blurred], dim=1) for sobel in (sobel_x, sobel_y))
    return gx, gy


def _convolve(x: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(x, weight, padding=(weight.shape[2] // 2, weight.shape[3] // 2))


def gradient_direction(gx: Tensor, gy: Tensor) -> Tensor:
    """round((atan2(gy, gx) in degrees + 180) / 45) * 45, by comparisons alone, as ONNX has no Atan2.

    A zero gradient has direction 180. Along the negative x axis the direction is 360 for gy = 0, whatever the sign of
    that zero, and 0 only for gy < 0: so it does not depend on which zero a convolution returns.

    Args:
        gx: Gradient along the columns, to the right, any shape.
        gy: Gradient along the rows, downwards, of the same shape.

    Returns:
        A multiple of 45 in 0..360, of the same shape and type.
    """
    width, height = gx.abs(), gy.abs()
    # Octants from the x axis: 0 horizontal, 1 diagonal, 2 vertical, then counted on to 4 where gx < 0.
    octant: Tensor = (height > TAN_22_5 * width).to(gx) + (height > TAN_67_5 * width).to(gx)
    octant = torch.where(gx < 0, 4 - octant, octant)
    return torch.where(gy < 0, 4 - octant, 4 + octant).mul(45)


def _planes(x: Tensor) -> Tensor:
    """[H, W, C] -> [1, C, H, W]."""
    return x.permute(2, 0, 1)[None].contiguous()


def _pixels(x: Tensor) -> Tensor:
    """[1, C, H, W] -> [H, W, C]."""
    return x[0].permute(1, 2, 0)


def _like_stem(maps: Tensor, weight: Tensor, *_: Any) -> Tensor:
    return maps.new_empty(maps.shape[1], maps.shape[2], weight.shape[0])


@operator(_like_stem)
def edge_stem(maps: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The first convolution of the edge network, of maps with unit norm.

    Args:
        maps: [Ci, H, W].
        weight: [Co, Ci, 3, 3].
        bias: [Co].

    Returns:
        [H, W, Co].
    """
    return _pixels(F.conv2d(unit_norm(maps[None]), weight, bias, padding=1))


def unit_norm(maps: Tensor) -> Tensor:
    """Each map [B, C, H, W] divided by its L2 norm."""
    # Row by row: over 2048 x 2048 pixels at once, as torch.linalg.vector_norm sums, grad_ori's norm loses 5e-4.
    norms = maps.square().sum(3, keepdim=True).sum(2, keepdim=True).sqrt()
    return maps / norms.clamp(min=1e-12)


def _like_map(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape)


@operator(_like_map)
def edge_block(
    x: Tensor,
    norm1_weight: Tensor,
    norm1_bias: Tensor,
    conv1_weight: Tensor,
    conv1_bias: Tensor,
    norm2_weight: Tensor,
    norm2_bias: Tensor,
    conv2_weight: Tensor,
    conv2_bias: Tensor,
    epsilon: float,
) -> Tensor:
    """A residual block of the edge network: x + conv2(silu(norm2(conv1(silu(norm1(x)))))).

    Args:
        x: [H, W, C].
        norm1_weight: [C].
        norm1_bias: [C].
        conv1_weight: [C, C, 3, 3].
        conv1_bias: [C].
        norm2_weight: [C].
        norm2_bias: [C].
        conv2_weight: [C, C, 3, 3].
        conv2_bias: [C].
        epsilon: Of both GroupNorms, which have one group.

    Returns:
        [H, W, C].
    """
    hidden = F.silu(F.group_norm(_planes(x), 1, norm1_weight, norm1_bias, epsilon))
    hidden = F.conv2d(hidden, conv1_weight, conv1_bias, padding=1)
    hidden = F.silu(F.group_norm(hidden, 1, norm2_weight, norm2_bias, epsilon))
    return x + _pixels(F.conv2d(hidden, conv2_weight, conv2_bias, padding=1))


bf16_edge_block = in_bfloat16(edge_block)


def _half_map(x: Tensor, weight: Tensor, *_: Any) -> Tensor:
    return x.new_empty((x.shape[0] + 1) // 2, (x.shape[1] + 1) // 2, weight.shape[0])


@operator(_half_map)
def edge_downsample(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A 3x3 convolution of stride 2 between two stages of the edge network.

    Args:
        x: [H, W, Ci].
        weight: [Co, Ci, 3, 3].
        bias: [Co].

    Returns:
        [(H+1)//2, (W+1)//2, Co].
    """
    return _pixels(F.conv2d(_planes(x), weight, bias, stride=2, padding=1))


bf16_edge_downsample = in_bfloat16(edge_downsample)


def _edge_terms(
    x: Tensor, lateral_weight: Tensor, lateral_bias: Tensor, conv_weight: Tensor, pixels: int
) -> tuple[Tensor, Tensor, Tensor]:
    side, channels = x.shape[0], conv_weight.shape[0]
    grid = side // pixels
    shapes = (side, side, channels), (4, grid, side, channels), (4, grid, grid, channels)
    edge, border, corner = (x.new_empty(shape) for shape in shapes)
    return edge, border, corner


@operator(_edge_terms)
def edge_projection(
    x: Tensor, lateral_weight: Tensor, lateral_bias: Tensor, conv_weight: Tensor, pixels: int
) -> tuple[Tensor, Tensor, Tensor]:
    """What LocalUpsample takes of a stage of the edge network.

    Args:
        x: The stage's result, [H, H, C].
        lateral_weight: Of the 1x1 convolution to edge features, [Ci, C].
        lateral_bias: [Ci].
        conv_weight: Of the upsampling stage, [Co, Ci, 3, 3].
        pixels: Side of a token, pixels.

    Returns:
        As `project_edge`.
    """
    features = F.conv2d(_planes(x), lateral_weight[:, :, None, None], lateral_bias)
    return project_edge(features, conv_weight, pixels)


bf16_edge_projection = in_bfloat16(edge_projection)


def project_edge(features: Tensor, weight: Tensor, pixels: int) -> tuple[Tensor, Tensor, Tensor]:
    """What LocalUpsample takes of edge features: their convolution, and what it sees around crops.

    Args:
        features: Edge features of one image, [1, Ci, H, H].
        weight: Of the upsampling stage's convolution, [Co, Ci, 3, 3].
        pixels: Side of a token, pixels.

    Returns:
        With `h = H / pixels`: `edge_map` [H, H, Co], `edge_border` [4, h, H, Co], `edge_corner` [4, h, h, Co].
    """
    padded = F.pad(features, (1, 1, 1, 1))
    # Of the rows of `padded`, before[k] lies above token row k and after[k] below it; so for columns.
    before, after = slice(0, -2, pixels), slice(pixels + 1, None, pixels)
    first, last, every = slice(0, 1), slice(2, 3), slice(None)

    def convolve(rows: slice, columns: slice, kernel_rows: slice, kernel_columns: slice) -> Tensor:
        return _pixels(F.conv2d(padded[:, :, rows, columns], weight[:, :, kernel_rows, kernel_columns]))

    borders = (
        convolve(before, every, first, every),
        convolve(after, every, last, every),
        convolve(every, before, every, first).transpose(0, 1),
        convolve(every, after, every, last).transpose(0, 1),
    )
    corners = (
        convolve(before, before, first, first),
        convolve(before, after, first, last),
        convolve(after, before, last, first),
        convolve(after, after, last, last),
    )
    return convolve(every, every, every, every), torch.stack(borders), torch.stack(corners)
