"""Where an image lies in HRSAM's square: padded, resized, padded again. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from inter2former_deploy.core.prompts import Box, Click
from inter2former_deploy.families.config import PATCH
from inter2former_deploy.families.hrsam.config import PAD_MULTIPLE
from inter2former_deploy.families.pictures import PaddedFrame


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
class Frame(PaddedFrame):
    """Where an image lies in the model's square: padded, scaled, at its top left."""

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
        """Height and width of the padded image: each a multiple of `PAD_MULTIPLE`."""
        height, width = (-(-n // PAD_MULTIPLE) * PAD_MULTIPLE for n in (self.height, self.width))
        return height, width

    @property
    def resized(self) -> tuple[int, int]:
        """Height and width of the padded image in the model's square, the longer of which fills it."""
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
        self.check_click(click)
        return Click(*self._scaled(click.x, click.y), bool(click.positive))

    def box_to_model(self, box: Box) -> Box:
        """The box in pixels of the model's square, scaled as clicks are.

        Args:
            box: In pixels of the image.

        Raises:
            ValueError: It is empty or reaches outside the image.
        """
        self.check_box(box)
        return Box(*self._scaled(box.left, box.top), *self._scaled(box.right, box.bottom))

    def _scaled(self, x: float, y: float) -> tuple[float, float]:
        (height, width), (after_y, after_x) = self.padded, self.resized
        return float(np.float32(x) * np.float32(after_x / width)), float(np.float32(y) * np.float32(after_y / height))
