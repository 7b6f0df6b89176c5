"""From an image to the encoder's input: pad, make square, resize."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from inter2former_deploy.core.contract import PAD_MULTIPLE, PAD_RGB
from inter2former_deploy.core.prompts import Box, Click, Stroke

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

_ROWS = 64  # of the result at a time, so that intermediate arrays stay small


@dataclass(frozen=True)
class Frame:
    """Where an image lies in the model's square: at its top left, scaled."""

    height: int  # of the image, pixels
    width: int
    size: int  # S, the model resolution, pixels

    @property
    def side(self) -> int:
        """Side of the padded square before it is resized, image pixels."""
        longer = max(self.height, self.width)
        return -(-longer // PAD_MULTIPLE) * PAD_MULTIPLE

    @property
    def scale(self) -> float:
        """Model pixels an image pixel."""
        return self.size / self.side

    def to_model(self, click: Click) -> Click:
        """The click in whole pixels of the model's square.

        Args:
            click: in pixels of the image; pixel i spans [i, i + 1).

        Raises:
            ValueError: it lies outside the image.
        """
        if not (0 <= click.x < self.width and 0 <= click.y < self.height):
            raise ValueError(
                f"click ({click.x}, {click.y}) lies outside the image: "
                f"x must be in [0, {self.width}), y in [0, {self.height})"
            )
        x, y = (min(int(self.scale * v), self.size - 1) for v in (click.x, click.y))  # rounding may reach the border
        return Click(x, y, click.positive)

    def box_to_model(self, box: Box) -> Box:
        """The smallest box of whole pixels of the model's square around a box.

        Args:
            box: in pixels of the image.

        Raises:
            ValueError: it reaches outside the image.
        """
        if not (box.left >= 0 and box.top >= 0 and box.right <= self.width and box.bottom <= self.height):
            raise ValueError(
                f"box ({box.left}, {box.top}, {box.right}, {box.bottom}) reaches outside the image: "
                f"x must be in [0, {self.width}], y in [0, {self.height}]"
            )
        left, top = (min(int(self.scale * v), self.size - 1) for v in (box.left, box.top))
        right, bottom = (min(math.ceil(self.scale * v), self.size) for v in (box.right, box.bottom))
        return Box(left, top, right, bottom)

    def mask_to_model(self, mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """A mask in the model's square: each pixel has the value of the image's pixel under its centre.

        Args:
            mask: `[H, W]`.

        Returns:
            `[S, S]`, false where there is no image.
        """
        under = ((np.arange(self.size) + 0.5) * (self.side / self.size)).astype(np.int64)
        rows, columns = under[under < self.height], under[under < self.width]
        square = np.zeros((self.size, self.size), bool)
        square[: rows.size, : columns.size] = mask[rows[:, None], columns]
        return square


def check_image(image: object) -> Image:
    """The image, if it is what the model can take.

    Raises:
        TypeError: not an array, or not of uint8.
        ValueError: not H x W x 3, or empty.
    """
    if not isinstance(image, np.ndarray):
        hint = (
            ": inter2former_deploy.core.pictures.read_image reads a file"
            if isinstance(image, str | bytes | Path)
            else ""
        )
        raise TypeError(
            f"image must be a numpy array, uint8 RGB of shape (height, width, 3), got {type(image).__name__}{hint}"
        )
    if image.dtype != np.uint8:
        hint = "scale it to 0-255, round and cast"
        if image.dtype == np.uint16:
            hint = "divide values of all 16 bits by 257 (of 12 bits: by 16.06); read_image does it for files"
        raise TypeError(f"image must be of uint8, 0 to 255, got {image.dtype}: {hint}")
    if image.ndim != 3 or image.shape[2] != 3:
        hint = ""
        if image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 1):
            hint = ": a grey image becomes RGB with cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)"
        elif image.ndim == 3 and image.shape[2] == 4:
            hint = ": drop the alpha channel, image[..., :3]"
        elif image.ndim == 3 and image.shape[0] == 3:
            hint = ": put the channels last, image.transpose(1, 2, 0)"
        raise ValueError(f"image must be RGB of shape (height, width, 3), got {image.shape}{hint}")
    if image.size == 0:
        raise ValueError(f"image is empty, got shape {image.shape}")
    return image


def check_click(x: object, y: object, positive: object) -> Click:
    """A click from what a caller gave.

    Raises:
        TypeError: a coordinate is no number, or the sign no bool.
        ValueError: a coordinate is not finite.
    """
    return Click(_coordinate("click", "x", x), _coordinate("click", "y", y), _sign(positive))


def check_box(x0: object, y0: object, x1: object, y1: object) -> Box:
    """A box from what a caller gave.

    Raises:
        TypeError: a coordinate is no number.
        ValueError: a coordinate is not finite, or the box is empty.
    """
    given = {"x0": x0, "y0": y0, "x1": x1, "y1": y1}
    box = Box(*(_coordinate("box", name, value) for name, value in given.items()))
    if box.left >= box.right or box.top >= box.bottom:
        raise ValueError(
            f"box ({box.left}, {box.top}, {box.right}, {box.bottom}) is empty: "
            "x0 must be less than x1 and y0 less than y1"
        )
    return box


def check_stroke(points: object, positive: object) -> Stroke:
    """A stroke from what a caller gave.

    Raises:
        TypeError: it is no sequence of pairs, a coordinate is no number, or the sign no bool.
        ValueError: there is no point, or a coordinate is not finite.
    """
    try:
        pairs = [(x, y) for x, y in points]  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        raise TypeError(f"a stroke must be a sequence of points (x, y), got {points!r}") from None
    if not pairs:
        raise ValueError("a stroke needs at least one point")
    corners = tuple((_coordinate("stroke", "x", x), _coordinate("stroke", "y", y)) for x, y in pairs)
    return Stroke(corners, _sign(positive))


def check_mask(mask: object, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """A copy of a start mask that a caller gave.

    Args:
        mask: what was given.
        size: height and width of the image, pixels.

    Raises:
        TypeError: it is no array of bool.
        ValueError: it is not of the image's size, or holds no object.
    """
    if not isinstance(mask, np.ndarray) or mask.dtype != bool:
        found = mask.dtype if isinstance(mask, np.ndarray) else type(mask).__name__
        raise TypeError(f"a start mask must be a numpy array of bool, true on the object, got {found}: try mask > 0")
    if mask.shape != size:
        raise ValueError(f"a start mask must be of the image's size, {size}, got {mask.shape}")
    if not mask.any():
        raise ValueError("the start mask holds no object: it is nowhere true")
    return mask.copy()


def _sign(positive: object) -> bool:
    if not isinstance(positive, bool | np.bool_):
        raise TypeError(f"positive must be True or False, got {positive!r}")
    return bool(positive)


def _coordinate(prompt: str, name: str, value: object) -> float:
    """A Python number: NumPy's narrow ones would round when they are scaled."""
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return int(value)
    if not isinstance(value, float | np.floating):
        raise TypeError(f"{prompt} coordinate {name} must be a number, got {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{prompt} coordinate {name} must be finite, got {value}")
    return float(value)


def bilinear_taps(source: int, target: int) -> tuple[Indices, Indices, Floats]:
    """Which two of `source` pixels each of `target` pixels mixes, and how much of the second.

    Bilinear interpolation, align_corners=False, no antialias, positions in float32 as PyTorch computes
    them: one rounding of step * (i + 0.5) - 0.5, with a rounded step.

    Returns:
        lower, upper (`[target]`, upper clamped to the last pixel) and the weight of upper, `[target]`.
    """
    step = float(np.float32(source) / np.float32(target))
    position = np.maximum(step * (np.arange(target) + 0.5) - 0.5, 0).astype(np.float32)
    lower = position.astype(np.int64)
    return lower, np.minimum(lower + 1, source - 1), position - lower.astype(np.float32)


def model_input(image: Image, frame: Frame) -> Floats:
    """The image as the encoder takes it: padded with `PAD_RGB`, square, resized.

    The release pads with 0 after normalisation; padding with the colour that normalises to 0 before it is the
    same, since bilinear weights add up to 1. Nothing of the padded size is built: the work is of size S x S.

    Args:
        image: uint8 RGB, `[H, W, 3]`.
        frame: of this image.

    Returns:
        float32 RGB, 0 to 255, `[S, S, 3]`.
    """
    lower, upper, weight = bilinear_taps(frame.side, frame.size)

    def mixed_columns(rows: Indices) -> Floats:
        """Padded rows, resized along x: [n, S, 3]."""
        inside = np.minimum(rows, frame.height - 1)
        sides = []
        for columns in (lower, upper):
            side = image[inside[:, None], np.minimum(columns, frame.width - 1)].astype(np.float32)
            side[:, columns >= frame.width] = PAD_RGB
            side[rows >= frame.height] = PAD_RGB
            sides.append(side)
        return sides[0] * (1 - weight[:, None]) + sides[1] * weight[:, None]

    result = np.empty((frame.size, frame.size, 3), np.float32)
    for start in range(0, frame.size, _ROWS):
        block = slice(start, start + _ROWS)
        share = weight[block, None, None]
        result[block] = mixed_columns(lower[block]) * (1 - share) + mixed_columns(upper[block]) * share
    return result
