"""Between napari's layers and the runtime: pictures, clicks, labels. No napari here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from inter2former_deploy.core.prompts import Click, Floats, Image, Mask, in_common
from inter2former_deploy.runtime.session import Session

Labels = npt.NDArray[np.integer]


def picture_of(pixels: npt.ArrayLike, rgb: bool, limits: tuple[float, float]) -> Image:
    """An image layer as the model takes it: uint8 RGB, `[H, W, 3]`.

    Args:
        pixels: `[H, W]`, or with `rgb` `[H, W, 3]` or `[H, W, 4]`: uint8, or floats from 0 to 1. Alpha is left out.
        rgb: whether the last axis is colour.
        limits: of a layer that is not colour, what napari shows as black and as white.

    Raises:
        ValueError: there are more axes, or the colour has another type.
    """
    array = np.asarray(pixels)
    if array.ndim != (3 if rgb else 2):
        raise ValueError(
            f"the image layer has {array.ndim - rgb} dimensions: only flat pictures are segmented. Take one plane of "
            "it as a layer of its own (right click on it, Split Stack)"
        )
    if rgb and array.dtype == np.uint8:
        return np.ascontiguousarray(array[..., :3])
    if rgb and array.dtype.kind != "f":
        raise ValueError(f"colours must be uint8, or floats from 0 to 1; the layer has {array.dtype}")
    if not rgb:
        array = np.repeat(array[..., None], 3, axis=2)
    black, white = (0.0, 1.0) if rgb else limits
    shown: Floats = (array[..., :3].astype(np.float32) - black) / (white - black)
    picture: Image = np.rint(255 * np.nan_to_num(shown).clip(0, 1)).astype(np.uint8)
    return picture


def click_at(row: float, column: float, positive: bool, height: int, width: int) -> Click:
    """A point of napari, whose whole numbers are pixels' centres, as a click, whose whole numbers are their corners.

    Raises:
        ValueError: it lies outside the picture of `height` x `width`.
    """
    if not (-0.5 <= row < height - 0.5 and -0.5 <= column < width - 0.5):
        raise ValueError(f"the point at row {row:.1f}, column {column:.1f} lies outside the picture: move or remove it")
    return Click(column + 0.5, row + 0.5, positive)


def follow(session: Session, clicks: Sequence[Click]) -> bool:
    """Make a session's prompts be these clicks, keeping those that it begins with; gives whether any changed."""
    made = session.prompts
    same = in_common(made, clicks)
    session.keep(same)
    for click in clicks[same:]:
        session.add(click)
    return not len(made) == same == len(clicks)


def write_object(labels: Labels, number: int, mask: Mask) -> None:
    """Write an object into labels `[H, W]`, in place of what it was. Pixels of other objects stay theirs."""
    labels[labels == number] = 0
    labels[mask & (labels == 0)] = number
