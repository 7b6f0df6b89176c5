"""Draw a mask and its clicks over an image, to look at."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from inter2former_deploy.core.prompts import Click

Image = npt.NDArray[np.uint8]

MASK_RGB = (40, 110, 255)
POSITIVE_RGB = (0, 158, 60)
NEGATIVE_RGB = (213, 0, 50)
WHITE = (255, 255, 255)
TINT = 0.45  # share of the mask's colour inside it


def draw_overlay(image: Image, mask: npt.NDArray[np.bool_], clicks: Sequence[Click] = ()) -> Image:
    """The image with the mask tinted and outlined and the clicks as numbered discs, green positive, red negative.

    Lines and discs grow with the image, so that they read alike when it is shown as a whole.

    Args:
        image: uint8 RGB, `[H, W, 3]`; left as it is.
        mask: bool, `[H, W]`.
        clicks: in pixels of the image, numbered from 1 in this order.

    Returns:
        uint8 RGB, `[H, W, 3]`.

    Raises:
        ValueError: image and mask differ in size.
    """
    if image.shape[:2] != mask.shape:
        raise ValueError(f"image and mask must be of one size, got {image.shape[:2]} and {mask.shape}")
    canvas = image.copy()
    for channel, colour in enumerate(MASK_RGB):  # by a table: of a large picture, floating-point values fill the memory
        table = ((1 - TINT) * np.arange(256) + TINT * colour).astype(np.uint8)
        canvas[..., channel][mask] = table[canvas[..., channel][mask]]

    unit = max(1, round(max(mask.shape) / 500))
    outline, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    for line, width in ((WHITE, 3 * unit), (MASK_RGB, unit)):
        cv2.drawContours(canvas, outline, -1, line, width, cv2.LINE_AA)
    for number, click in enumerate(clicks, 1):
        _draw_click(canvas, click, str(number), unit)
    return canvas


def _draw_click(canvas: Image, click: Click, number: str, unit: int) -> None:
    centre = (int(click.x), int(click.y))
    colour = POSITIVE_RGB if click.positive else NEGATIVE_RGB
    cv2.circle(canvas, centre, 8 * unit, WHITE, cv2.FILLED, cv2.LINE_AA)
    cv2.circle(canvas, centre, 7 * unit, colour, cv2.FILLED, cv2.LINE_AA)
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, (0.4 if len(number) == 1 else 0.3) * unit
    (width, height), _ = cv2.getTextSize(number, font, scale, unit)
    corner = (centre[0] - width // 2, centre[1] + height // 2)
    cv2.putText(canvas, number, corner, font, scale, WHITE, unit, cv2.LINE_AA)
