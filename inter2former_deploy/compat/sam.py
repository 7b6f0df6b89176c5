"""`SamPredictor` as segment-anything has it: the same methods, arguments, shapes and dtypes; NumPy, no PyTorch.

What differs: the model finds one object, so that with `multimask_output` all three masks are the same. The scores are
the stability of the mask (IoU of the masks at thresholds of +1 and -1), not a prediction. Points are clicks one after
the other, each of which refines the mask. Wrong arguments are `ValueError` in place of `AssertionError`, with the same
texts. `set_torch_image` and `predict_torch` are not there.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from inter2former_deploy.core.prompts import Floats
from inter2former_deploy.runtime import Segmenter, Session

LOW_RESOLUTION = 256  # side of the square in which `predict` returns logits and takes them again, pixels
_OUTSIDE = -100.0  # logit where there is no image

_NO_IMAGE = "An image must be set with .set_image(...) before mask prediction."


class SamPredictor:
    """Segments one image after the other by prompts. Not for several threads.

    Args:
        sam_model: a `Segmenter`, or the folder of a bundle.
    """

    features: Floats | None
    original_size: tuple[int, int]  # height and width of the image; 0 before there is one
    input_size: tuple[int, int]  # of the image in the model's square
    _session: Session | None

    def __init__(self, sam_model: Segmenter | str | os.PathLike[str]) -> None:
        self.model = sam_model if isinstance(sam_model, Segmenter) else Segmenter(Path(sam_model))
        self.reset_image()

    def set_image(self, image: npt.NDArray[np.uint8], image_format: str = "RGB") -> None:
        """Encode an image for `predict`.

        Args:
            image: uint8 `[H, W, 3]`.
            image_format: order of its channels, "RGB" or "BGR".

        Raises:
            TypeError, ValueError: it is no such image; the message says how to convert it.
        """
        if image_format not in ("RGB", "BGR"):
            raise ValueError(f"image_format must be in ['RGB', 'BGR'], is {image_format}.")
        self.reset_image()
        pixels = np.ascontiguousarray(image[..., ::-1]) if image_format == "BGR" else image
        encoded = self.model.encode(pixels)
        self._session = self.model.open(encoded)
        self.features = np.ascontiguousarray(encoded.tensors["image_embedding"].transpose(2, 0, 1)[None])
        self.original_size = (encoded.height, encoded.width)
        self.input_size = _scaled(self.original_size, self.model.size)
        self.is_image_set = True

    def predict(
        self,
        point_coords: npt.NDArray[Any] | None = None,
        point_labels: npt.NDArray[Any] | None = None,
        box: npt.NDArray[Any] | None = None,
        mask_input: npt.NDArray[Any] | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> tuple[npt.NDArray[Any], Floats, Floats]:
        """Masks for prompts on the image.

        Args:
            point_coords: `[N, 2]`, x and y in pixels.
            point_labels: `[N]`, 1 on the object, 0 on the background; points of -1 are ignored.
            box: `[4]`, x0, y0, x1, y1.
            mask_input: `[1, 256, 256]`, logits that an earlier call returned: what it found is gone on from.
            multimask_output: return three masks, which are the same here, instead of one.
            return_logits: return logits instead of masks.

        Returns:
            Masks bool `[C, H, W]`, or logits float32; their scores float32 `[C]`, from 0 to 1; logits float32
            `[C, 256, 256]` for `mask_input`. C is 3 or 1.

        Raises:
            RuntimeError: no image is set.
            ValueError: a prompt has another shape or lies outside the image, or there is none.
        """
        if self._session is None:
            raise RuntimeError(_NO_IMAGE)
        if point_coords is not None and point_labels is None:
            raise ValueError("point_labels must be supplied if point_coords is supplied.")
        points = np.empty((0, 2)) if point_coords is None else np.asarray(point_coords, np.float64)
        labels = np.empty(0) if point_coords is None else np.asarray(point_labels)
        if points.ndim != 2 or points.shape[1] != 2 or labels.shape != points.shape[:1]:
            raise ValueError(
                f"point_coords must be of shape (N, 2) and point_labels (N,), got {points.shape} and {labels.shape}"
            )
        if not np.isin(labels, (-1, 0, 1)).all():
            raise ValueError("point_labels must be 1 (object), 0 (background) or -1 (ignored)")
        sides = None if box is None else np.asarray(box, np.float64).ravel()
        if sides is not None and sides.shape != (4,):
            raise ValueError(f"box must be of shape (4,), got {np.asarray(box).shape}")
        given = None if mask_input is None else self._checked_mask_input(np.asarray(mask_input, np.float32))

        logits = self._predict(self._session, points, labels, sides, given)
        count = 3 if multimask_output else 1
        low = np.full((LOW_RESOLUTION, LOW_RESOLUTION), _OUTSIDE, np.float32)
        height, width = _scaled(self.original_size, LOW_RESOLUTION)
        low[:height, :width] = _resized(logits, height, width)
        masks = np.repeat((logits if return_logits else self._session.mask)[None], count, 0)
        return masks, np.full(count, _stability(logits), np.float32), np.repeat(low[None], count, 0)

    def _checked_mask_input(self, mask_input: Floats) -> Floats | None:
        """Logits of the image's size; None where nothing is object, since there is nothing to go on from."""
        expected = (1, LOW_RESOLUTION, LOW_RESOLUTION)
        if mask_input.shape != expected:
            raise ValueError(f"mask_input must be of shape {expected}, got {mask_input.shape}")
        height, width = _scaled(self.original_size, LOW_RESOLUTION)
        logits = _resized(mask_input[0, :height, :width], *self.original_size)
        return logits if (logits > 0).any() else None

    def _predict(
        self, session: Session, points: npt.NDArray[Any], labels: npt.NDArray[Any], box: Any, start: Floats | None
    ) -> Floats:
        """The session with these prompts, and logits of the image's size."""
        session.reset()
        if start is not None:
            session.start(start > 0)
        if box is not None:
            session.box(*box.tolist())
        for (x, y), label in zip(points.tolist(), labels.tolist(), strict=True):
            if label >= 0:
                session.click(x, y, label == 1)
        if not session.prompts:
            raise ValueError("no prompt: supply point_coords, box or mask_input")
        if start is not None and len(session.prompts) == 1:
            return start
        return session.image_logits

    def get_image_embedding(self) -> Floats:
        """What the encoder made of the image, float32 `[1, C, h, w]`.

        Raises:
            RuntimeError: no image is set.
        """
        if self.features is None:
            raise RuntimeError("An image must be set with .set_image(...) to generate an embedding.")
        return self.features

    @property
    def device(self) -> str:
        """Where the model runs."""
        return "cpu"

    def reset_image(self) -> None:
        """Forget the image."""
        self.is_image_set = False
        self.features = None
        self.original_size = (0, 0)
        self.input_size = (0, 0)
        self._session = None


class Sam(Segmenter):
    """A Segmenter with the two methods of PyTorch's modules that code for segment-anything calls."""

    def to(self, device: object = "cpu") -> Sam:
        """Stay on the CPU, whatever device is named; a warning says so."""
        if str(device) != "cpu":
            warnings.warn(f"the model stays on the CPU, not on {device}", stacklevel=2)
        return self

    def eval(self) -> Sam:
        """Do nothing: there is no other mode."""
        return self


def _build(checkpoint: str | os.PathLike[str]) -> Sam:
    """The model of a bundle, whatever its name was: the bundle says which one it is."""
    return Sam(Path(checkpoint))


sam_model_registry: dict[str, Callable[..., Sam]] = dict.fromkeys(("default", "vit_h", "vit_l", "vit_b"), _build)


def _scaled(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """Height and width when the longer side becomes `longest`."""
    scale = longest / max(size)
    return int(size[0] * scale + 0.5), int(size[1] * scale + 0.5)


def _resized(values: Floats, height: int, width: int) -> Floats:
    import cv2

    size = (max(width, 1), max(height, 1))
    return np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_LINEAR), np.float32)


def _stability(logits: Floats) -> float:
    sure, possible = int(np.count_nonzero(logits > 1)), int(np.count_nonzero(logits > -1))
    return sure / possible if possible else 1.0
