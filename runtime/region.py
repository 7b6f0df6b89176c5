"""A window of a picture that is segmented by itself, at full resolution, while all coordinates stay the picture's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from inter2former_deploy.core.prompts import Box, Click, Floats, Image, Mask, Prompt, StartMask, Stroke

Pixels = TypeVar("Pixels", Mask, Floats)


@dataclass(frozen=True)
class Region:
    """Where the window lies: columns `[left, right)` and rows `[top, bottom)` of a picture."""

    left: int
    top: int
    right: int
    bottom: int
    picture_height: int  # pixels
    picture_width: int

    @classmethod
    def of(cls, sides: object, height: int, width: int) -> Region:
        """A region from what a caller gave.

        Args:
            sides: x0, y0, x1, y1: whole pixels of the picture, x1 and y1 exclusive.
            height: of the picture.
            width: of the picture.

        Raises:
            TypeError: these are not four whole numbers.
            ValueError: the region is empty or reaches beyond the picture.
        """
        numbers = list(sides) if isinstance(sides, list | tuple | np.ndarray) else []
        if len(numbers) != 4 or not all(isinstance(n, int | np.integer) and not isinstance(n, bool) for n in numbers):
            raise TypeError(f"a region must be four whole numbers x0, y0, x1, y1, got {sides!r}")
        left, top, right, bottom = map(int, numbers)
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise ValueError(
                f"region ({left}, {top}, {right}, {bottom}) must have 0 <= x0 < x1 <= {width} and "
                f"0 <= y0 < y1 <= {height}: the image is {width} x {height} pixels"
            )
        return cls(left, top, right, bottom, height, width)

    @classmethod
    def whole(cls, height: int, width: int) -> Region:
        """All of a picture."""
        return cls(0, 0, width, height, height, width)

    @property
    def is_whole(self) -> bool:
        """Whether it is all of the picture."""
        return self == Region.whole(self.picture_height, self.picture_width)

    @property
    def sides(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom."""
        return self.left, self.top, self.right, self.bottom

    def crop(self, image: Image) -> Image:
        """The window of the picture, `[bottom - top, right - left, 3]`."""
        return image[self.top : self.bottom, self.left : self.right]

    def to_window(self, prompt: Prompt) -> Prompt:
        """A prompt in pixels of the window.

        Args:
            prompt: in pixels of the picture; a mask of its size.

        Raises:
            ValueError: it is not finite or reaches outside the region.
        """
        if isinstance(prompt, StartMask):
            inside = prompt.mask[self.top : self.bottom, self.left : self.right]
            if (outside := int(np.count_nonzero(prompt.mask)) - int(np.count_nonzero(inside))) != 0:
                raise ValueError(f"the start mask has {outside} pixels outside {self._bounds(')')}")
            return StartMask(inside)
        if isinstance(prompt, Box):
            left, top, right, bottom = prompt
            if not (self.left <= left and right <= self.right and self.top <= top and bottom <= self.bottom):
                raise ValueError(f"box ({left}, {top}, {right}, {bottom}) reaches outside {self._bounds(']')}")
            return Box(left - self.left, top - self.top, right - self.left, bottom - self.top)
        clicks = prompt.corners if isinstance(prompt, Stroke) else (prompt,)
        for x, y, _ in clicks:
            if not (self.left <= x < self.right and self.top <= y < self.bottom):
                raise ValueError(f"click ({x}, {y}) lies outside {self._bounds(')')}")
        moved = [Click(x - self.left, y - self.top, prompt.positive) for x, y, _ in clicks]
        return Stroke(tuple((x, y) for x, y, _ in moved), prompt.positive) if isinstance(prompt, Stroke) else moved[0]

    def paste(self, values: Pixels, outside: float = 0) -> Pixels:
        """Values of the window, a mask or logits, in the picture; `outside` of the window this one value."""
        if self.is_whole:
            return values
        whole: Pixels = np.full((self.picture_height, self.picture_width), outside, values.dtype)
        whole[self.top : self.bottom, self.left : self.right] = values
        return whole

    def _bounds(self, end: str) -> str:
        what = "image" if self.is_whole else "region"
        return f"the {what}: x must be in [{self.left}, {self.right}{end}, y in [{self.top}, {self.bottom}{end}"
