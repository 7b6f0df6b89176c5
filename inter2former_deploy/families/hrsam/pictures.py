"""From a picture to HRSAM's input: pad, resize, pad again. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from inter2former_deploy.core.prompts import Box, Click, Floats, Image, Mask
from inter2former_deploy.families.hrsam.config import PAD_MULTIPLE
from inter2former_deploy.families.inter2former.config import PAD_RGB, PATCH
from inter2former_deploy.families.inter2former.pictures import Indices, bilinear_taps

_ROWS = 64  # of the result at a time, so that intermediate arrays stay small


def model_size(height: int, width: int, sizes: Sequence[int]) -> int:
    """Which of several model sizes an image gets: the smallest that does not shrink it, else the largest.

    Args:
        height: Of the image, pixels.
        width: Of the image, pixels.
        sizes: Sides of the model's square, pixels.
    """
    longer = max(Frame(height, width, size=max(sizes)).padded)
    return min((size for size in sizes if size >= longer), default=max(sizes))


@dataclass(frozen=True)
class Frame:
    """Where an image lies in the model's square: padded, scaled, at its top left."""

    height: int  # of the image, pixels
    width: int
    size: int  # S, side of the model's square, pixels

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 1:
            raise ValueError(f"the image is empty: {self.height} x {self.width}")
        if self.size < PATCH or self.size % PATCH:
            raise ValueError(f"size must be a multiple of {PATCH}, got {self.size}")
        if min(self.resized) < 1:
            raise ValueError(
                f"an image of {self.height} x {self.width} pixels is too narrow for a model size of {self.size}"
            )

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width of the image with its padding at the right and the bottom, image pixels."""
        height, width = (-(-n // PAD_MULTIPLE) * PAD_MULTIPLE for n in (self.height, self.width))
        return height, width

    @property
    def resized(self) -> tuple[int, int]:
        """Height and width of the padded image in the model's square; the rest of the square is padding."""
        scale = self.size / max(self.padded)
        height, width = (int(scale * n + 0.5) for n in self.padded)
        return height, width

    def to_model(self, click: Click) -> Click:
        """The click in pixels of the model's square, not rounded; each axis has its own scale, in float32.

        Args:
            click: In pixels of the image; pixel i spans [i, i + 1).

        Raises:
            ValueError: It is not finite or lies outside the image.
        """
        if not (0 <= click.x < self.width and 0 <= click.y < self.height):
            raise ValueError(
                f"click ({click.x}, {click.y}) lies outside the image: "
                f"x must be in [0, {self.width}), y in [0, {self.height})"
            )
        return Click(*self._scaled(click.x, click.y), bool(click.positive))

    def box_to_model(self, box: Box) -> Box:
        """The box in pixels of the model's square, scaled as clicks are.

        Args:
            box: In pixels of the image.

        Raises:
            ValueError: It is empty or reaches outside the image.
        """
        if not (0 <= box.left < box.right <= self.width and 0 <= box.top < box.bottom <= self.height):
            raise ValueError(
                f"box ({box.left}, {box.top}, {box.right}, {box.bottom}) is empty or reaches outside the image: "
                f"x must be in [0, {self.width}], y in [0, {self.height}]"
            )
        return Box(*self._scaled(box.left, box.top), *self._scaled(box.right, box.bottom))

    def mask_to_model(self, mask: Mask) -> Mask:
        """A mask in the model's square: each pixel has the value of the image's pixel under its centre.

        Args:
            mask: [H, W].

        Returns:
            [S, S], false where there is no image.
        """
        if mask.shape != (self.height, self.width):
            raise ValueError(f"expected a mask {[self.height, self.width]}, got {list(mask.shape)}")
        sampled = []
        for length, before, after in zip((self.height, self.width), self.padded, self.resized, strict=True):
            under = ((np.arange(after) + 0.5) * (before / after)).astype(np.int64)
            sampled.append(under[under < length])
        rows, columns = sampled
        square = np.zeros((self.size, self.size), bool)
        square[: rows.size, : columns.size] = mask[rows[:, None], columns]
        return square

    def _scaled(self, x: float, y: float) -> tuple[float, float]:
        (height, width), (after_y, after_x) = self.padded, self.resized
        return float(np.float32(x) * np.float32(after_x / width)), float(np.float32(y) * np.float32(after_y / height))


def model_input(image: Image, frame: Frame) -> Floats:
    """The image as the encoder takes it: padded with `PAD_RGB`, resized, padded again.

    The release pads with 0 after normalisation; padding with the colour that normalises to 0 before it is the
    same, since bilinear weights add up to 1. Nothing of the padded size is built.

    Args:
        image: uint8 RGB, `[H, W, 3]`.
        frame: of this image.

    Returns:
        float32 RGB, 0 to 255, `[S, S, 3]`.
    """
    height, width = frame.resized
    upper, lower, down = bilinear_taps(frame.padded[0], height)
    left, right, share = bilinear_taps(frame.padded[1], width)
    across = share[:, None]

    def mixed_columns(rows: Indices) -> Floats:
        """Padded rows, resized along x: [n, w', 3]."""
        inside = np.minimum(rows, frame.height - 1)
        sides = []
        for columns in (left, right):
            side = image[inside[:, None], np.minimum(columns, frame.width - 1)].astype(np.float32)
            side[:, columns >= frame.width] = PAD_RGB
            side[rows >= frame.height] = PAD_RGB
            sides.append(side)
        return sides[0] * (1 - across) + sides[1] * across

    result = np.empty((frame.size, frame.size, 3), np.float32)
    result[height:] = PAD_RGB
    result[:, width:] = PAD_RGB
    for start in range(0, height, _ROWS):
        block = slice(start, min(start + _ROWS, height))
        along = down[block, None, None]
        result[block, :width] = mixed_columns(upper[block]) * (1 - along) + mixed_columns(lower[block]) * along
    return result
