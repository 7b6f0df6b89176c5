"""Where an image lies in Inter2Former's square: padded to a square, then resized. No torch here."""

from __future__ import annotations

import math
from dataclasses import dataclass

from inter2former_deploy.core.prompts import Box, Click
from inter2former_deploy.families.inter2former.config import PAD_MULTIPLE
from inter2former_deploy.families.pictures import PaddedFrame


@dataclass(frozen=True)
class Frame(PaddedFrame):
    """Where an image lies in the model's square: at its top left, scaled alike in both directions."""

    @property
    def side(self) -> int:
        """Side of the padded square before it is resized, image pixels."""
        longer = max(self.height, self.width)
        return -(-longer // PAD_MULTIPLE) * PAD_MULTIPLE

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width of the padded image: a square."""
        return self.side, self.side

    @property
    def resized(self) -> tuple[int, int]:
        """Height and width of the padded image in the model's square: all of it."""
        return self.size, self.size

    @property
    def scale(self) -> float:
        """Model pixels an image pixel."""
        return self.size / self.side

    def to_model(self, click: Click) -> Click:
        """The click in whole pixels of the model's square.

        Args:
            click: In pixels of the image; pixel i spans [i, i + 1).

        Raises:
            ValueError: It lies outside the image.
        """
        self.check_click(click)
        x, y = (min(int(self.scale * v), self.size - 1) for v in (click.x, click.y))  # rounding may reach the border
        return Click(x, y, click.positive)

    def box_to_model(self, box: Box) -> Box:
        """The smallest box of whole pixels of the model's square around a box.

        Args:
            box: In pixels of the image.

        Raises:
            ValueError: It is empty or reaches outside the image.
        """
        self.check_box(box)
        left, top = (min(int(self.scale * v), self.size - 1) for v in (box.left, box.top))
        right, bottom = (min(math.ceil(self.scale * v), self.size) for v in (box.right, box.bottom))
        return Box(left, top, right, bottom)
