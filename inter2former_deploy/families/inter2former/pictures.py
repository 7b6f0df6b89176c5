"""From an image to Inter2Former's input: pad, make square, resize. No torch here."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from inter2former_deploy.core.prompts import Box, Click, Floats, Image
from inter2former_deploy.families.inter2former.config import PAD_MULTIPLE, PAD_RGB

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
