"""From an image to the model's square: padded and resized, with sizes that a family gives. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from inter2former_deploy.core.contract import MEAN_BGR
from inter2former_deploy.core.prompts import Box, Click, Floats, Image, Mask

Indices = npt.NDArray[np.int64]

PAD_RGB = MEAN_BGR[::-1]  # the picture value that normalises to 0
_ROWS = 64  # of the result at a time, so that intermediate arrays stay small


@dataclass(frozen=True)
class PaddedFrame:
    """Where an image lies in the model's square: padded, scaled, at its top left. A family says how far."""

    height: int  # of the image, pixels
    width: int
    size: int  # S, side of the model's square, pixels

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width of the image with its padding at the right and the bottom, image pixels."""
        raise NotImplementedError

    @property
    def resized(self) -> tuple[int, int]:
        """Height and width of the padded image in the model's square; the rest of the square is padding."""
        raise NotImplementedError

    def check_click(self, click: Click) -> None:
        """Refuse a click, in pixels of the image, outside it.

        Raises:
            ValueError: It is not finite or lies outside the image.
        """
        if not (0 <= click.x < self.width and 0 <= click.y < self.height):
            raise ValueError(
                f"click ({click.x}, {click.y}) lies outside the image: "
                f"x must be in [0, {self.width}), y in [0, {self.height})"
            )

    def check_box(self, box: Box) -> None:
        """Refuse a box, in pixels of the image, that means nothing there.

        Raises:
            ValueError: It is empty, not finite or reaches outside the image.
        """
        if not (0 <= box.left < box.right <= self.width and 0 <= box.top < box.bottom <= self.height):
            raise ValueError(
                f"box ({box.left}, {box.top}, {box.right}, {box.bottom}) is empty or reaches outside the image: "
                f"x must be in [0, {self.width}], y in [0, {self.height}]"
            )

    def logits_to_image(self, logits: Floats) -> Floats:
        """Logits of the model's square, of whatever resolution, as those of the image, `[H, W]`.

        They are resized twice, bilinearly, as the image was padded twice.
        """
        import cv2  # here, since every start of `i2f` loads this module

        height, width = self.resized
        square = cv2.resize(logits, (self.size, self.size), interpolation=cv2.INTER_LINEAR)[:height, :width]
        padded = np.asarray(cv2.resize(square, self.padded[::-1], interpolation=cv2.INTER_LINEAR), np.float32)
        return padded[: self.height, : self.width]

    def mask_to_model(self, mask: Mask) -> Mask:
        """A mask in the model's square: each pixel has the value of the image's pixel under its centre.

        Args:
            mask: `[H, W]`.

        Returns:
            `[S, S]`, false where there is no image.

        Raises:
            ValueError: The mask has another shape.
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


def model_input(image: Image, frame: PaddedFrame) -> Floats:
    """The image as the encoder takes it: padded with `PAD_RGB`, resized, padded again.

    The releases pad with 0 after normalisation; padding with the colour that normalises to 0 before it is the
    same, since bilinear weights add up to 1. Nothing of the padded size is built: the work is of size S x S.

    Args:
        image: uint8 RGB, `[H, W, 3]`.
        frame: Of this image.

    Returns:
        float32 RGB, 0 to 255, `[S, S, 3]`.
    """
    height, width = frame.resized
    upper, lower, down = bilinear_taps(frame.padded[0], height)
    left, right, across = bilinear_taps(frame.padded[1], width)
    # Pixels and their channels lie in one row, which numpy takes and multiplies at once; an axis of 3 would be slow.
    channels = np.arange(3)
    sides = [
        (
            (np.minimum(columns, frame.width - 1)[:, None] * 3 + channels).ravel(),
            np.repeat(weight, 3),
            np.tile(np.array(PAD_RGB, np.float32), width) * np.repeat(weight, 3),
            3 * int((columns < frame.width).sum()),
        )
        for columns, weight in ((left, 1 - across), (right, across))
    ]
    pixels = image.reshape(frame.height, -1)

    def mixed_columns(rows: Indices) -> Floats:
        """Padded rows in ascending order, resized along x: [n, 3w]."""
        inside = pixels[rows[rows < frame.height]]
        mixed = np.empty((rows.size, 3 * width), np.float32)
        added = np.empty_like(mixed)
        for into, (places, weights, padding, whole) in zip((mixed, added), sides, strict=True):
            np.multiply(inside.take(places, 1), weights, out=into[: len(inside)])
            into[:, whole:] = padding[whole:]
            into[len(inside) :] = padding
        mixed += added
        return mixed

    result = np.empty((frame.size, frame.size, 3), np.float32)
    result[height:] = PAD_RGB
    result[:, width:] = PAD_RGB
    for start in range(0, height, _ROWS):
        block = slice(start, min(start + _ROWS, height))
        rows, places = np.unique((upper[block], lower[block]), return_inverse=True)  # neighbours share rows
        above, below = mixed_columns(rows)[places.reshape(2, -1)]
        share = down[block, None]
        above *= 1 - share
        below *= share
        above += below
        result[block, :width] = above.reshape(-1, width, 3)
    return result
