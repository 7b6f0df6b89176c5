"""What callers give: pictures and prompts, checked before anything is computed."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt

from inter2former_deploy.core.prompts import Box, Click, Image, Stroke


def check_image(image: object) -> Image:
    """The image, if it is what the model can take.

    Raises:
        TypeError: not an array, or not of uint8.
        ValueError: not H x W x 3, or empty.
    """
    if not isinstance(image, np.ndarray):
        hint = (
            ": inter2former_deploy.core.pictures.read_image reads a file"
            if isinstance(image, str | bytes | Path)
            else ""
        )
        raise TypeError(
            f"image must be a numpy array, uint8 RGB of shape (height, width, 3), got {type(image).__name__}{hint}"
        )
    if image.dtype != np.uint8:
        hint = "scale it to 0-255, round and cast"
        if image.dtype == np.uint16:
            hint = "divide values of all 16 bits by 257 (of 12 bits: by 16.06); read_image does it for files"
        raise TypeError(f"image must be of uint8, 0 to 255, got {image.dtype}: {hint}")
    if image.ndim != 3 or image.shape[2] != 3:
        hint = ""
        if image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 1):
            hint = ": a grey image becomes RGB with cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)"
        elif image.ndim == 3 and image.shape[2] == 4:
            hint = ": drop the alpha channel, image[..., :3]"
        elif image.ndim == 3 and image.shape[0] == 3:
            hint = ": put the channels last, image.transpose(1, 2, 0)"
        raise ValueError(f"image must be RGB of shape (height, width, 3), got {image.shape}{hint}")
    if image.size == 0:
        raise ValueError(f"image is empty, got shape {image.shape}")
    return image


def check_click(x: object, y: object, positive: object) -> Click:
    """A click from what a caller gave.

    Raises:
        TypeError: a coordinate is no number, or the sign no bool.
        ValueError: a coordinate is not finite.
    """
    return Click(_coordinate("click", "x", x), _coordinate("click", "y", y), _sign(positive))


def check_box(x0: object, y0: object, x1: object, y1: object) -> Box:
    """A box from what a caller gave.

    Raises:
        TypeError: a coordinate is no number.
        ValueError: a coordinate is not finite, or the box is empty.
    """
    given = {"x0": x0, "y0": y0, "x1": x1, "y1": y1}
    box = Box(*(_coordinate("box", name, value) for name, value in given.items()))
    if box.left >= box.right or box.top >= box.bottom:
        raise ValueError(
            f"box ({box.left}, {box.top}, {box.right}, {box.bottom}) is empty: "
            "x0 must be less than x1 and y0 less than y1"
        )
    return box


def check_stroke(points: object, positive: object) -> Stroke:
    """A stroke from what a caller gave.

    Raises:
        TypeError: it is no sequence of pairs, a coordinate is no number, or the sign no bool.
        ValueError: there is no point, or a coordinate is not finite.
    """
    try:
        pairs = [(x, y) for x, y in points]  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        raise TypeError(f"a stroke must be a sequence of points (x, y), got {points!r}") from None
    if not pairs:
        raise ValueError("a stroke needs at least one point")
    corners = tuple((_coordinate("stroke", "x", x), _coordinate("stroke", "y", y)) for x, y in pairs)
    return Stroke(corners, _sign(positive))


def check_mask(mask: object, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """A copy of a start mask that a caller gave.

    Args:
        mask: what was given.
        size: height and width of the image, pixels.

    Raises:
        TypeError: it is no array of bool.
        ValueError: it is not of the image's size, or holds no object.
    """
    if not isinstance(mask, np.ndarray) or mask.dtype != bool:
        found = mask.dtype if isinstance(mask, np.ndarray) else type(mask).__name__
        raise TypeError(f"a start mask must be a numpy array of bool, true on the object, got {found}: try mask > 0")
    if mask.shape != size:
        raise ValueError(f"a start mask must be of the image's size, {size}, got {mask.shape}")
    if not mask.any():
        raise ValueError("the start mask holds no object: it is nowhere true")
    return mask.copy()


def _sign(positive: object) -> bool:
    if not isinstance(positive, bool | np.bool_):
        raise TypeError(f"positive must be True or False, got {positive!r}")
    return bool(positive)


def _coordinate(prompt: str, name: str, value: object) -> float:
    """A Python number: NumPy's narrow ones would round when they are scaled."""
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return int(value)
    if not isinstance(value, float | np.floating):
        raise TypeError(f"{prompt} coordinate {name} must be a number, got {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{prompt} coordinate {name} must be finite, got {value}")
    return float(value)
