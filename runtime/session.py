"""One image being segmented: prompts in, masks out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from threading import RLock
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from inter2former_deploy.core.prompts import (
    Box,
    Floats,
    Frame,
    Mask,
    Prediction,
    Prompt,
    PromptState,
    StartMask,
    Stroke,
)
from inter2former_deploy.runtime.checks import check_box, check_click, check_mask, check_stroke
from inter2former_deploy.runtime.region import Region
from inter2former_deploy.runtime.state import SessionState

KEPT_PREDICTIONS = 8  # prompts whose predictions stay in memory


Decode: TypeAlias = Callable[[Mapping[str, npt.NDArray[Any]]], Prediction]


class Session:
    """One image of a `Segmenter`: each prompt refines the mask. Made by `Segmenter.open`.

    Every prompt keeps what `undo` needs: what the prompt state says (of Inter2Former, a byte a model pixel of what is
    not possible background), and for the last few prompts their predictions (4 bytes a pixel of the predicted box). An
    undo beyond those decodes again, which gives the same logits. Calls from several threads take turns.

    A session can be pickled, with its prompts and its encoded image: another process goes on where this one is, with
    the segmenter that it loads for it (one for all sessions of a segmenter that are pickled together).

    All coordinates are pixels of the image: x to the right, in [0, W), y down, in [0, H). Where only a region of it was
    encoded, prompts must lie in the region, and masks are false outside it. After any error the session is unchanged.
    """

    def __init__(
        self, frame: Frame, state: PromptState[Any], decode: Decode, origin: SessionState | None = None
    ) -> None:
        self._frame = frame  # of the image, or of its region
        self._origin = origin  # model and image, without prompts
        self._region = Region.whole(frame.height, frame.width) if origin is None else origin.region
        self._state = state  # of the last prompt, before its prediction is folded in
        self._decode = decode
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
            x: to the right.
            y: down.
            positive: whether the click is on the object (or on what must not belong to it).

        Returns:
            The mask, bool `[H, W]`, the caller's own.

        Raises:
            TypeError: a coordinate is no number, or `positive` no bool.
            ValueError: the click is not finite or lies outside the image.
        """
        return self.add(check_click(x, y, positive))

    def box(self, x0: float, y0: float, x1: float, y1: float) -> Mask:
        """Add a box around the object and segment again.

        A new box takes the place of an earlier one. Clicks stay.

        Args:
            x0: left side.
            y0: upper side.
            x1: right side, greater than `x0`, at most W.
            y1: lower side, greater than `y0`, at most H.

        Returns:
            The mask, bool `[H, W]`, the caller's own.

        Raises:
            TypeError: a coordinate is no number.
            ValueError: a coordinate is not finite, the box is empty or reaches beyond the image.
        """
        return self.add(check_box(x0, y0, x1, y1))

    def stroke(self, points: Sequence[tuple[float, float]], positive: bool = True) -> Mask:
        """Add a line, drawn over the object or over what must not belong to it, and segment again.

        It counts as clicks all along the line, and is one step for `undo`.

        Args:
            points: x and y of its corners, one or more.
            positive: whether the line is on the object.

        Returns:
            The mask, bool `[H, W]`, the caller's own.

        Raises:
            TypeError: a coordinate is no number, or `positive` no bool.
            ValueError: there is no point, or one is not finite or lies outside the image.
        """
        return self.add(check_stroke(points, positive))

    def start(self, mask: npt.NDArray[np.bool_]) -> Mask:
        """Go on from a mask: one that was drawn before, or another tool's.

        Nothing is decoded. The mask takes the place of what was predicted so far; the prompts that follow refine it.

        Args:
            mask: bool `[H, W]`, true on the object.

        Returns:
            The mask as it was given, the caller's own.

        Raises:
            TypeError: it is no array of bool.
            ValueError: it is not of the image's size, or holds no object.
        """
        return self.add(StartMask(check_mask(mask, (self._region.picture_height, self._region.picture_width))))

    def undo(self) -> Mask:
        """Take the last prompt back: everything is as if it had never been made.

        Returns:
            The mask of the prompts that are left.

        Raises:
            RuntimeError: there is no prompt.
        """
        with self._lock:
            if not self._steps:
                raise RuntimeError("there is no prompt to undo")
            self.keep(len(self._steps) - 1)
            return self.mask

    def keep(self, count: int) -> None:
        """Take back all prompts but the first `count`, as `undo` does one by one. No mask is made of those that stay.

        Raises:
            ValueError: there are not so many prompts, or `count` is negative.
        """
        with self._lock:
            if not 0 <= count <= len(self._steps):
                raise ValueError(f"count must be from 0 to {len(self._steps)}, the number of prompts, got {count}")
            if count < len(self._steps):
                del self._steps[count:]
                self._state.undo(count)

    def reset(self) -> None:
        """Take all prompts back. The image stays."""
        self.keep(0)

    def copy(self) -> Session:
        """A session of its own with the same prompts, on the same encoded image. Nothing is decoded."""
        with self._lock:
            steps = [replace(step) for step in self._steps]
            copied = Session(self._frame, self._state.copy(), self._decode, self._origin)
        copied._steps = steps
        return copied

    @property
    def mask(self) -> Mask:
        """The mask, bool `[H, W]`, a copy; nowhere true before the first prompt."""
        with self._lock:
            if not self._steps:
                return np.zeros((self._region.picture_height, self._region.picture_width), bool)
            return self._mask(self._steps[-1])

    @property
    def logits(self) -> Floats:
        """Logits of the last decode, float32, of the whole square, padding included; a copy.

        Of Inter2Former `[S, S]`, -100 outside the upsampled box.

        Raises:
            RuntimeError: before the first decode, or where the last prompt is a start mask.
        """
        with self._lock:
            if not self._steps or not self._steps[-1].decoded:
                raise RuntimeError("there are no logits before the first decode, nor right after a start mask")
            return self._prediction(self._steps[-1]).logits(self._frame)

    @property
    def image_logits(self) -> Floats:
        """Logits of the last decode at the image's resolution, float32 `[H, W]`; -100 outside a region.

        The object is where they are above 0; rounding may differ from `mask` where one is next to 0.

        Raises:
            RuntimeError: as of `logits`.
        """
        return np.ascontiguousarray(self._region.paste(self._frame.logits_to_image(self.logits), outside=-100))

    @property
    def inputs(self) -> dict[str, npt.NDArray[Any]]:
        """What the last decode took of the prompts, by name, copies; before the first prompt: what the state begins as.

        Of Inter2Former: "labels", the reference labels after the last prompt, uint8 `[S, S]`.
        """
        with self._lock:
            return {name: array.copy() for name, array in self._state.inputs().items()}

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """The prompts so far, in pixels of the image."""
        with self._lock:
            return tuple(step.prompt for step in self._steps)

    @property
    def nbytes(self) -> int:
        """Memory of prompts and predictions, bytes, without the encoded image."""
        with self._lock:
            predictions = sum(step.prediction.nbytes for step in self._steps if step.prediction is not None)
            masks = sum(step.prompt.mask.nbytes for step in self._steps if isinstance(step.prompt, StartMask))
            return self._state.nbytes + predictions + masks

    def state(self) -> dict[str, Any]:
        """All that `Segmenter.restore` needs beside the image: plain JSON, of a version of its own.

        A restored session has the same prompts and masks, bit for bit where bundle and machine are the same.

        Raises:
            RuntimeError: the session was not made by a `Segmenter`.
        """
        if self._origin is None:
            raise RuntimeError("only sessions of a Segmenter have a state: this one knows no bundle")
        return replace(self._origin, prompts=self.prompts).to_dict()

    def add(self, prompt: Prompt) -> Mask:
        """Add a prompt of any kind, as its method does.

        Args:
            prompt: in pixels of the image.

        Returns:
            The mask, bool `[H, W]`, the caller's own.

        Raises:
            ValueError: it reaches outside the image, or outside its region.
        """
        at = self._to_model(prompt)
        step = _Step(prompt)
        with self._lock:
            try:
                if self._steps and self._steps[-1].decoded:
                    self._state.fold(self._prediction(self._steps[-1]))
                self._state.add(at)
                mask = self._mask(step)
            except BaseException:
                self._state.undo(len(self._steps))
                raise
            self._steps.append(step)
            if len(self._steps) > KEPT_PREDICTIONS:
                self._steps[-KEPT_PREDICTIONS - 1].prediction = None
            return mask

    def _to_model(self, prompt: Prompt) -> Prompt:
        """The prompt in the model's square.

        Raises:
            ValueError: it reaches outside the image, or outside its region.
        """
        prompt = self._region.to_window(prompt)
        if isinstance(prompt, StartMask):
            return StartMask(self._frame.mask_to_model(prompt.mask))
        if isinstance(prompt, Box):
            return self._frame.box_to_model(prompt)
        if isinstance(prompt, Stroke):
            clicks = [self._frame.to_model(click) for click in prompt.corners]
            return Stroke(tuple((click.x, click.y) for click in clicks), prompt.positive)
        return self._frame.to_model(prompt)

    def _mask(self, step: _Step) -> Mask:
        if isinstance(step.prompt, StartMask):
            return step.prompt.mask.copy()
        return self._region.paste(self._prediction(step).mask(self._frame))

    def _prediction(self, step: _Step) -> Prediction:
        """What the prompt state gives at this step, which is the last."""
        if step.prediction is None:  # new, or forgotten until an undo came back to it
            step.prediction = self._decode(self._state.inputs())
        return step.prediction


@dataclass
class _Step:
    prompt: Prompt  # in pixels of the image
    prediction: Prediction | None = None

    @property
    def decoded(self) -> bool:
        return not isinstance(self.prompt, StartMask)
