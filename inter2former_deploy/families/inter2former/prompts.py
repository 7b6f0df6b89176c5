"""What a session has told Inter2Former: the reference label map."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from inter2former_deploy.core.prompts import Box, Click, Prompt, StartMask
from inter2former_deploy.families.inter2former.labels import (
    CLICK_RADIUS,
    POSSIBLE_BACKGROUND,
    UNKNOWN,
    Labels,
    add_clicks,
    fold_prediction,
    mask_labels,
    paint_box,
    unknown_labels,
)


class Prediction(Protocol):
    """What the decoder predicts: logits inside a box of the model's square; all else is background."""

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom, pixels; right and bottom exclusive."""

    @property
    def box_logits(self) -> npt.NDArray[np.float32]:
        """Foreground where > 0, `[bottom - top, right - left]`."""


class LabelMapPrompts:
    """The prompt state (`core.prompts.PromptState`) of Inter2Former.

    Every prompt keeps the label map that it made, cropped to what is not possible background: a byte a model pixel.

    Args:
        size: S, side of the model's square, pixels.
    """

    def __init__(self, size: int) -> None:
        self._labels = unknown_labels(size)
        self._steps: list[_Step] = []
        self._around = (0, 0, size, size)  # top, left, bottom, right: outside, all is possible background

    def add(self, prompt: Prompt) -> None:
        """A new prompt: whole pixels of the model's square; a mask `[S, S]`."""
        clicks: list[Click] = []
        if isinstance(prompt, Box):
            paint_box(self._labels, prompt)
        elif isinstance(prompt, StartMask):
            self._labels[:] = mask_labels(prompt.mask)
            for step in self._steps:  # what was clicked stays
                add_clicks(self._labels, step.clicks)
        else:
            clicks = [prompt] if isinstance(prompt, Click) else prompt.clicks(CLICK_RADIUS)
            add_clicks(self._labels, clicks)
        self._steps.append(_Step(clicks, _Crop.of(self._labels)))
        self._around = self._steps[-1].labels.around

    def undo(self, left: int) -> None:
        """Go back to the first `left` prompts, before anything was folded in after them."""
        del self._steps[left:]
        if self._steps:
            self._steps[-1].labels.paste(self._labels)
            self._around = self._steps[-1].labels.around
        else:
            self._labels.fill(UNKNOWN)
            self._around = (0, 0, *self._labels.shape)

    def inputs(self) -> dict[str, Labels]:
        """The label map, `[S, S]`; it changes with the state."""
        return {"labels": self._labels}

    def fold(self, prediction: Prediction) -> None:
        """Move labels one step towards a prediction."""
        # Where both labels and prediction are background, possible background stays.
        left, top, right, bottom = prediction.box
        around = self._around
        self._around = min(top, around[0]), min(left, around[1]), max(bottom, around[2]), max(right, around[3])
        first_row, first_column, end_row, end_column = self._around
        foreground = np.zeros((end_row - first_row, end_column - first_column), bool)
        inside = foreground[top - first_row : bottom - first_row, left - first_column : right - first_column]
        np.greater(prediction.box_logits, 0, out=inside)
        fold_prediction(self._labels[first_row:end_row, first_column:end_column], foreground)

    def copy(self) -> LabelMapPrompts:
        """Another state that has been told the same; the maps of earlier prompts are shared, as they never change."""
        copied = copy(self)
        copied._labels, copied._steps = self._labels.copy(), list(self._steps)
        return copied

    @property
    def nbytes(self) -> int:
        """Size of all label maps in memory, bytes."""
        return self._labels.nbytes + sum(step.labels.values.nbytes for step in self._steps)


@dataclass(frozen=True)
class _Crop:
    """A label map, kept as the part of it that is not possible background."""

    top: int
    left: int
    values: Labels

    @classmethod
    def of(cls, labels: Labels) -> _Crop:
        known = labels != POSSIBLE_BACKGROUND
        top, bottom = _span(known.any(axis=1))
        left, right = _span(known.any(axis=0))
        return cls(top, left, labels[top:bottom, left:right].copy())

    @property
    def around(self) -> tuple[int, int, int, int]:
        """Top, left, bottom, right."""
        height, width = self.values.shape
        return self.top, self.left, self.top + height, self.left + width

    def paste(self, labels: Labels) -> None:
        """Make `labels` the whole map again."""
        labels.fill(POSSIBLE_BACKGROUND)
        height, width = self.values.shape
        labels[self.top : self.top + height, self.left : self.left + width] = self.values


@dataclass(frozen=True)
class _Step:
    clicks: list[Click]  # of a click or a stroke, pixels of the model's square
    labels: _Crop


def _span(found: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """First True and one past the last; (0, 0) without any."""
    where = np.flatnonzero(found)
    return (int(where[0]), int(where[-1]) + 1) if where.size else (0, 0)
