"""Prompts: what a user says about the object, and what a family of models keeps of it. No torch here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

PredictionT = TypeVar("PredictionT", contravariant=True)
Image = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]


class Click(NamedTuple):
    """A click in pixels, x to the right and y down; which picture's pixels is said where it is used."""

    x: float
    y: float
    positive: bool


class Box(NamedTuple):
    """A box around the object, in pixels: its sides, so that it covers `[left, right)` and `[top, bottom)`."""

    left: float
    top: float
    right: float
    bottom: float


class Stroke(NamedTuple):
    """A line that was drawn over the object, or over what must not belong to it: clicks all along it."""

    points: tuple[tuple[float, float], ...]  # x and y of its corners, pixels
    positive: bool

    @property
    def corners(self) -> tuple[Click, ...]:
        """A click at every corner of the line."""
        return tuple(Click(x, y, self.positive) for x, y in self.points)

    def clicks(self, spacing: float) -> list[Click]:
        """The line as clicks, its corners among them; neighbours are at most `spacing` pixels apart."""
        clicks = [Click(*self.points[0], self.positive)]
        for (x0, y0), (x1, y1) in zip(self.points, self.points[1:], strict=False):
            steps = math.ceil(math.hypot(x1 - x0, y1 - y0) / spacing)
            shares = [step / steps for step in range(1, steps + 1)]
            clicks += [Click(x0 + (x1 - x0) * s, y0 + (y1 - y0) * s, self.positive) for s in shares]
        return clicks


@dataclass(frozen=True, eq=False)
class StartMask:
    """A mask to go on from, in place of a prediction."""

    mask: npt.NDArray[np.bool_]  # [H, W]


Prompt: TypeAlias = Click | Box | Stroke | StartMask


def in_common(some: Sequence[object], others: Sequence[object]) -> int:
    """How many of the first prompts are the same in both; those of two kinds never are, whatever their numbers."""
    count = 0
    for one, other in zip(some, others, strict=False):
        if type(one) is not type(other) or one != other:
            break
        count += 1
    return count


class PromptState(Protocol[PredictionT]):
    """What a session has been told, as the decoder of a family takes it. Coordinates are those of the model's square.

    Prompts are added one by one. What the decoder makes of `inputs` is folded in before the next prompt is added.
    """

    def add(self, prompt: Prompt) -> None:
        """A new prompt: pixels of the model's square, a mask of the square's size."""

    def undo(self, left: int) -> None:
        """Go back to the first `left` prompts: to what was when the last of them had just been added."""

    def inputs(self) -> Mapping[str, npt.NDArray[Any]]:
        """What the next decode takes, by name. The arrays may change with the state: copy them to keep them."""

    def fold(self, prediction: PredictionT) -> None:
        """Take in what the decoder made of `inputs`."""

    def copy(self) -> PromptState[PredictionT]:
        """Another state that has been told the same, and goes on by itself."""

    @property
    def nbytes(self) -> int:
        """Size of its arrays in memory, bytes."""


class Frame(Protocol):
    """Where an image lies in the model's square, which a family decides."""

    @property
    def height(self) -> int:
        """Of the image, pixels."""

    @property
    def width(self) -> int:
        """Of the image, pixels."""

    @property
    def size(self) -> int:
        """S, side of the model's square, pixels."""

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width of the image with its padding at the right and the bottom, image pixels."""

    @property
    def resized(self) -> tuple[int, int]:
        """Height and width of the padded image in the model's square, at its top left."""

    def to_model(self, click: Click) -> Click:
        """A click in pixels of the model's square; ValueError where it lies outside the image."""

    def box_to_model(self, box: Box) -> Box:
        """A box in pixels of the model's square; ValueError where it reaches outside the image."""

    def mask_to_model(self, mask: Mask) -> Mask:
        """A mask of the image as one of the model's square."""

    def logits_to_image(self, logits: Floats) -> Floats:
        """Logits of the model's square, of whatever resolution, as those of the image, `[H, W]`."""


class Prediction(Protocol):
    """What a decoder made of a prompt state, as its family reads it."""

    def mask(self, frame: Any) -> Mask:
        """The object in the image, bool `[H, W]`."""

    def logits(self, frame: Any) -> Floats:
        """Logits of the model's square, padding included."""

    @property
    def nbytes(self) -> int:
        """Size in memory, bytes."""
