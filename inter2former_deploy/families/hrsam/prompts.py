"""What a session has told HRSAM: clicks, a box, and the logits of the decode before. No torch here."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from inter2former_deploy.core.prompts import Box, Click, Prompt, StartMask
from inter2former_deploy.families.hrsam.config import MASK_STRIDE
from inter2former_deploy.families.hrsam.masks import MaskLogits

NOT_A_POINT, NEGATIVE, POSITIVE, TOP_LEFT, BOTTOM_RIGHT = -1, 0, 1, 2, 3  # labels of points; the last are a box's
STROKE_SPACING = 16  # model pixels between the clicks of a stroke: the side of an image token
START_LOGIT = 10.0  # of a start mask inside the object, and with a minus sign outside

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class _Known:
    clicks: tuple[Click, ...] = ()
    box: Box | None = None
    previous: Floats | None = None


class SparsePrompts:
    """The prompt state (`core.prompts.PromptState`) of HRSAM. Coordinates need not be whole pixels.

    Args:
        size: S, side of the model's square, pixels.
    """

    def __init__(self, size: int) -> None:
        self._no_mask = np.zeros((size // MASK_STRIDE,) * 2, np.float32)
        self._known = _Known()
        self._steps: list[_Known] = []

    def add(self, prompt: Prompt) -> None:
        """A new prompt: pixels of the model's square; a mask `[S, S]`. A box replaces the one before."""
        if isinstance(prompt, Click):
            self._known = replace(self._known, clicks=(*self._known.clicks, prompt))
        elif isinstance(prompt, Box):
            self._known = replace(self._known, box=prompt)
        elif isinstance(prompt, StartMask):
            self._known = replace(self._known, previous=start_logits(prompt.mask))
        else:
            self._known = replace(self._known, clicks=(*self._known.clicks, *prompt.clicks(STROKE_SPACING)))
        self._steps.append(self._known)

    def undo(self, left: int) -> None:
        """Go back to the first `left` prompts, before anything was folded in after them."""
        del self._steps[left:]
        self._known = self._steps[-1] if self._steps else _Known()

    def inputs(self) -> dict[str, npt.NDArray[Any]]:
        """What the next decode takes, in pixels of the model's square.

        Returns:
            "point_coords", float32 `[n, 2]`, and "point_labels", int64 `[n]`: all clicks (1 positive, 0 negative), then
            the two corners of the box (2 top left, 3 bottom right) or, without a box, a point that is none (-1);
            "mask_input", float32 `[S/4, S/4]`: logits of the decode before, or of the start mask; "has_mask_input",
            float32 `[1]`: whether there are any, 1 or 0.
        """
        known = self._known
        points = [(*click[:2], POSITIVE if click.positive else NEGATIVE) for click in known.clicks]
        if known.box is None:
            points.append((0, 0, NOT_A_POINT))
        else:
            points += [(*known.box[:2], TOP_LEFT), (*known.box[2:], BOTTOM_RIGHT)]
        return {
            "point_coords": np.array([point[:2] for point in points], np.float32),
            "point_labels": np.array([point[2] for point in points], np.int64),
            "mask_input": self._no_mask if known.previous is None else known.previous,
            "has_mask_input": np.array([known.previous is not None], np.float32),
        }

    def fold(self, prediction: MaskLogits) -> None:
        """The next decode starts from these logits."""
        self._known = replace(self._known, previous=prediction.values)

    def copy(self) -> SparsePrompts:
        """Another state that has been told the same."""
        copied = copy(self)
        copied._steps = list(self._steps)
        return copied

    @property
    def nbytes(self) -> int:
        """Size of all logits in memory, bytes."""
        known = (known.previous for known in (self._known, *self._steps))
        return self._no_mask.nbytes + sum(previous.nbytes for previous in known if previous is not None)


def start_logits(mask: npt.NDArray[np.bool_]) -> Floats:
    """A mask of the model's square as logits: where its border crosses a pixel of theirs, by the share inside.

    Args:
        mask: `[S, S]`.

    Returns:
        `[S/4, S/4]`, from -`START_LOGIT` outside to `START_LOGIT` inside.
    """
    rows, columns = (side // MASK_STRIDE for side in mask.shape)
    share: Floats = mask.reshape(rows, MASK_STRIDE, columns, MASK_STRIDE).mean(axis=(1, 3), dtype=np.float32)
    return np.float32(START_LOGIT) * (2 * share - 1)
