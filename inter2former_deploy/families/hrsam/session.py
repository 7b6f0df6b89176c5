"""A session of clicks as HRSAM was evaluated: from a picture to the model input, and from logits to masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from inter2former_deploy.core.contract import MEAN_BGR, STD_BGR
from inter2former_deploy.core.prompts import Box, Click, Floats, Mask, StartMask
from inter2former_deploy.families.hrsam.config import MASK_STRIDE
from inter2former_deploy.families.hrsam.masks import MaskLogits
from inter2former_deploy.families.hrsam.model import HRSAM
from inter2former_deploy.families.hrsam.pictures import Frame
from inter2former_deploy.families.hrsam.prompts import NEGATIVE, POSITIVE, TOP_LEFT, SparsePrompts


def model_input(image_bgr: npt.NDArray[np.uint8], frame: Frame) -> Tensor:
    """A picture as the encoder takes it: normalised, padded, resized, padded again.

    Args:
        image_bgr: uint8 BGR, 0 to 255, [H, W, 3].
        frame: Of this picture.

    Returns:
        float32 [1, 3, S, S].

    Raises:
        ValueError: The picture has another type or shape.
    """
    if image_bgr.dtype != np.uint8 or image_bgr.shape != (frame.height, frame.width, 3):
        raise ValueError(
            f"expected a uint8 BGR image [{frame.height}, {frame.width}, 3], got {image_bgr.dtype} "
            f"{list(image_bgr.shape)}"
        )
    pixels = torch.from_numpy(np.ascontiguousarray(image_bgr)).float()
    x = ((pixels - torch.tensor(MEAN_BGR)) / torch.tensor(STD_BGR)).permute(2, 0, 1)[None]
    x = _resize(_pad(x, *frame.padded), *frame.resized)
    return _pad(x, frame.size, frame.size)


def image_logits(logits: Tensor, frame: Frame) -> Tensor:
    """Logits of the model's square at the size of the picture: resized twice, as the picture was padded twice.

    Args:
        logits: [B, 1, S/4, S/4].
        frame: Of the picture.

    Returns:
        [B, 1, H, W], foreground where > 0.

    Raises:
        ValueError: The logits have another shape.
    """
    side = frame.size // MASK_STRIDE
    if logits.ndim != 4 or logits.shape[1:] != (1, side, side):
        raise ValueError(f"expected logits [B, 1, {side}, {side}], got {list(logits.shape)}")
    height, width = frame.resized
    x = _resize(logits, frame.size, frame.size)[:, :, :height, :width]
    return _resize(x, *frame.padded)[:, :, : frame.height, : frame.width]


def decode(model: HRSAM, embedding: Tensor, prompts: Mapping[str, npt.NDArray[Any]]) -> Tensor:
    """What the modules make of the state of a session.

    Args:
        model: In evaluation mode, or one whose prompt encoder and decoder are.
        embedding: Of the image, [1, C, h, w].
        prompts: As `SparsePrompts.inputs` gives them.

    Returns:
        Logits of the first mask, [4*h, 4*w].
    """
    given = {name: torch.from_numpy(array) for name, array in prompts.items()}
    xy, labels = given["point_coords"].to(embedding.dtype), given["point_labels"]
    of_clicks, of_box = (labels == POSITIVE) | (labels == NEGATIVE), labels >= TOP_LEFT
    logits = model.decode(
        embedding,
        xy[of_clicks][None],
        labels[of_clicks][None],
        previous=given["mask_input"].to(embedding.dtype)[None, None] if given["has_mask_input"] > 0 else None,
        box=xy[of_box].view(1, 4) if of_box.any() else None,
    )
    return logits[0, 0]


class ReferenceSession:
    """A picture being segmented by the reference modules, as the published scores were computed.

    Args:
        model: In evaluation mode.
        image_bgr: uint8 BGR, 0 to 255, [H, W, 3].
        size: S, side of the model's square, a multiple of 16.

    Raises:
        ValueError: The picture has another type or shape, or is too narrow.
    """

    def __init__(self, model: HRSAM, image_bgr: npt.NDArray[np.uint8], size: int) -> None:
        if image_bgr.ndim != 3:
            raise ValueError(f"expected a uint8 BGR image [H, W, 3], got {image_bgr.dtype} {list(image_bgr.shape)}")
        self.model = model
        self.frame = Frame(image_bgr.shape[0], image_bgr.shape[1], size)
        self.state = SparsePrompts(size)
        self._logits: list[Floats] = []  # [S/4, S/4] after each prompt; of a start mask: those that stand for it
        with torch.inference_mode():
            self.embedding = model.encode(model_input(image_bgr, self.frame))  # [1, C, S/16, S/16]

    def click(self, x: float, y: float, positive: bool = True) -> Mask:
        """Adds a click and segments again.

        Args:
            x: To the right, pixels of the image, in [0, W).
            y: Down, pixels of the image, in [0, H).
            positive: Whether the click is on the object, or on what must not belong to it.

        Returns:
            The mask, bool [H, W].

        Raises:
            ValueError: The click lies outside the image; nothing has changed then.
        """
        return self._add(self.frame.to_model(Click(x, y, positive)))

    def box(self, x0: float, y0: float, x1: float, y1: float) -> Mask:
        """Adds a box around the object, in pixels of the image, and segments again.

        Returns:
            The mask, bool [H, W].

        Raises:
            ValueError: The box is empty or reaches outside the image; nothing has changed then.
        """
        return self._add(self.frame.box_to_model(Box(x0, y0, x1, y1)))

    def start(self, mask: Mask) -> None:
        """Goes on from a mask, bool [H, W], in place of the last prediction; nothing is decoded."""
        self.state.add(StartMask(self.frame.mask_to_model(mask)))
        self._logits.append(self.state.inputs()["mask_input"])

    def again(self) -> Mask:
        """Decodes the same prompts once more, from the newer logits: the evaluation does so when all is right already.

        Raises:
            RuntimeError: There is no prompt.
        """
        if not self._logits:
            raise RuntimeError("there is nothing to segment before the first prompt")
        self.state.fold(MaskLogits(self._logits[-1]))
        self._logits[-1] = self._decode()
        return self.mask

    def undo(self) -> Mask:
        """Takes the last prompt back: everything is as if it had never been made.

        Returns:
            The mask of the prompts that are left.

        Raises:
            RuntimeError: There is no prompt.
        """
        if not self._logits:
            raise RuntimeError("there is no prompt to undo")
        self._logits.pop()
        self.state.undo(len(self._logits))
        return self.mask

    @property
    def logits(self) -> Floats:
        """Raw logits of the last decode, [S/4, S/4].

        Raises:
            RuntimeError: There is no prompt.
        """
        if not self._logits:
            raise RuntimeError("there are no logits before the first prompt")
        return self._logits[-1]

    @property
    def mask(self) -> Mask:
        """The mask, bool [H, W]; nowhere true before the first prompt."""
        if not self._logits:
            return np.zeros((self.frame.height, self.frame.width), bool)
        found: Mask = (image_logits(torch.from_numpy(self._logits[-1])[None, None], self.frame)[0, 0] > 0).numpy()
        return found

    def _add(self, prompt: Click | Box) -> Mask:
        if self._logits:
            self.state.fold(MaskLogits(self._logits[-1]))
        self.state.add(prompt)
        self._logits.append(self._decode())
        return self.mask

    def _decode(self) -> Floats:
        with torch.inference_mode():
            logits: Floats = decode(self.model, self.embedding, self.state.inputs()).numpy()
        return logits


def _pad(x: Tensor, height: int, width: int) -> Tensor:
    """[B, C, h, w] with zeros at the right and the bottom, [B, C, height, width]."""
    return F.pad(x, (0, width - x.shape[3], 0, height - x.shape[2]))


def _resize(x: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(x, size=(height, width), mode="bilinear", align_corners=False)
