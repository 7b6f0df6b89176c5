"""One image being segmented: clicks in, masks out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import RLock
from typing import Any

import numpy as np
import numpy.typing as npt

from inter2former_deploy.core.labels import (
    POSSIBLE_BACKGROUND,
    UNKNOWN,
    Click,
    Labels,
    add_clicks,
    fold_prediction,
    unknown_labels,
)
from inter2former_deploy.runtime.postprocess import Box, Mask, foreground_mask, paste_logits
from inter2former_deploy.runtime.preprocess import Floats, Frame, check_click

Decode = Callable[[Labels], tuple[Box, Floats]]  # label map -> box and the logits inside it

KEPT_LOGITS = 8  # clicks whose logits stay in memory


class Session:
    """One image of a `Segmenter`: each click refines the mask. Made by `Segmenter.open`.

    Every click keeps what `undo` needs: its label map, cropped to what is not possible background (a byte a model
    pixel), and for the last few clicks the logits of its box (4 bytes a pixel). An undo beyond those decodes the
    kept label map again, which gives the same logits. Calls from several threads take turns.

    A session can be pickled, with its clicks and its encoded image: another process goes on where this one is, with
    the segmenter that it loads for it (one for all sessions of a segmenter that are pickled together).
    """

    def __init__(self, frame: Frame, decode: Decode) -> None:
        self._frame = frame
        self._decode = decode
        self._labels = unknown_labels(frame.size)  # of the last click, before its prediction is folded in
        self._steps: list[_Step] = []
        self._lock = RLock()

    def __getstate__(self) -> dict[str, Any]:
        with self._lock:
            return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._lock = RLock()

    def click(self, x: float, y: float, positive: bool = True) -> Mask:
        """Add a click and segment again.

        Args:
            x: to the right, pixels of the image, in [0, W).
            y: down, pixels of the image, in [0, H).
            positive: whether the click is on the object (or on what must not belong to it).

        Returns:
            The mask, bool `[H, W]`, the caller's own.

        Raises:
            TypeError: a coordinate is no number, or `positive` no bool.
            ValueError: the click is not finite or lies outside the image. The session is unchanged after any error.
        """
        click = check_click(x, y, positive)
        at = self._frame.to_model(click)
        with self._lock:
            try:
                if self._steps:
                    self._fold(self._steps[-1].labels, *self._prediction())
                add_clicks(self._labels, [at])
                box, box_logits = self._decode(self._labels)
                mask = foreground_mask(box_logits, box, self._frame)
                step = _Step(click, _Crop.of(self._labels), (box, box_logits))
            except BaseException:
                self._restore_labels()
                raise
            self._steps.append(step)
            if len(self._steps) > KEPT_LOGITS:
                self._steps[-KEPT_LOGITS - 1].prediction = None
            return mask

    def undo(self) -> Mask:
        """Take the last click back: everything is as if it had never been made.

        Returns:
            The mask of the clicks that are left.

        Raises:
            RuntimeError: there is no click.
        """
        with self._lock:
            if not self._steps:
                raise RuntimeError("there is no click to undo")
            self._steps.pop()
            self._restore_labels()
            return self.mask

    def reset(self) -> None:
        """Take all clicks back. The image stays."""
        with self._lock:
            self._steps.clear()
            self._restore_labels()

    @property
    def mask(self) -> Mask:
        """The mask, bool `[H, W]`, a copy; nowhere true before the first click."""
        with self._lock:
            if not self._steps:
                return np.zeros((self._frame.height, self._frame.width), bool)
            box, box_logits = self._prediction()
            return foreground_mask(box_logits, box, self._frame)

    @property
    def logits(self) -> Floats:
        """Logits of the last decode, float32 `[S, S]`: padding included, -100 outside the upsampled box; a copy.

        Raises:
            RuntimeError: before the first click.
        """
        with self._lock:
            if not self._steps:
                raise RuntimeError("there are no logits before the first click")
            box, box_logits = self._prediction()
            return paste_logits(box_logits, box, self._frame.size)

    @property
    def labels(self) -> Labels:
        """Reference labels after the last click, before its prediction was folded in: uint8 `[S, S]`, a copy."""
        with self._lock:
            return self._labels.copy()

    @property
    def clicks(self) -> tuple[Click, ...]:
        """The clicks so far, in pixels of the image."""
        with self._lock:
            return tuple(step.click for step in self._steps)

    def _prediction(self) -> tuple[Box, Floats]:
        """Of the last click."""
        last = self._steps[-1]
        if last.prediction is None:  # forgotten, and now an undo came back to it
            last.prediction = self._decode(self._labels)
        return last.prediction

    def _fold(self, known: _Crop, box: Box, box_logits: Floats) -> None:
        """Only where labels or prediction are other than background: there possible background stays."""
        height, width = known.values.shape
        top, left = min(box.top, known.top), min(box.left, known.left)
        bottom, right = max(box.bottom, known.top + height), max(box.right, known.left + width)
        foreground = np.zeros((bottom - top, right - left), bool)
        inside = foreground[box.top - top : box.bottom - top, box.left - left : box.right - left]
        np.greater(box_logits, 0, out=inside)
        fold_prediction(self._labels[top:bottom, left:right], foreground)

    def _restore_labels(self) -> None:
        if self._steps:
            self._steps[-1].labels.paste(self._labels)
        else:
            self._labels.fill(UNKNOWN)


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

    def paste(self, labels: Labels) -> None:
        """Make `labels` the whole map again."""
        labels.fill(POSSIBLE_BACKGROUND)
        height, width = self.values.shape
        labels[self.top : self.top + height, self.left : self.left + width] = self.values


def _span(found: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """First True and one past the last; (0, 0) without any."""
    where = np.flatnonzero(found)
    return (int(where[0]), int(where[-1]) + 1) if where.size else (0, 0)


@dataclass
class _Step:
    click: Click  # in pixels of the image
    labels: _Crop  # as decoded
    prediction: tuple[Box, Floats] | None
