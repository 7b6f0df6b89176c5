"""What a session has told HRSAM: clicks, a box, and the logits of the decode before. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from inter2former_deploy.core.prompts import Box, Click, Prompt, StartMask
from inter2former_deploy.families.hrsam.config import MASK_STRIDE

NEGATIVE, POSITIVE = 0, 1  # labels of clicks
STROKE_SPACING = 16  # model pixels between the clicks of a stroke: the side of an image token
START_LOGIT = 10.0  # of a start mask inside the object, and with a minus sign outside

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class _Known:
    clicks: tuple[Click, ...] = ()
    box: Box | None = None
    previous: Floats | None = None


class SparsePrompts:
    """The prompt state (`core.prompts.PromptState`) of HRSAM. Coordinates need not be whole pixels."""

    def __init__(self) -> None:
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
            "xy", float32 `[n, 2]`, and "labels", int64 `[n]`, 1 positive, 0 negative: all clicks; where there is one,
            "box", float32 `[4]`: left, top, right, bottom; but for the first decode "previous", float32 `[S/4, S/4]`:
            logits of the decode before, or of the start mask.
        """
        known = self._known
        inputs: dict[str, npt.NDArray[Any]] = {
            "xy": np.array([click[:2] for click in known.clicks], np.float32).reshape(-1, 2),
            "labels": np.array([POSITIVE if click.positive else NEGATIVE for click in known.clicks], np.int64),
        }
        if known.box is not None:
            inputs["box"] = np.array(known.box, np.float32)
        if known.previous is not None:
            inputs["previous"] = known.previous
        return inputs

    def fold(self, prediction: Floats) -> None:
        """The next decode starts from these logits of the whole square, raw, `[S/4, S/4]`."""
        self._known = replace(self._known, previous=prediction)


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
