"""Draw a mask and its prompts over an image, to look at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from inter2former_deploy.core.prompts import Box, Click, Prompt, StartMask

Image = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]
Line = Sequence[tuple[float, float]]

MASK_RGB = (40, 110, 255)
POSITIVE_RGB = (0, 158, 60)
NEGATIVE_RGB = (213, 0, 50)
START_RGB = (255, 190, 0)
WHITE = (255, 255, 255)
TINT = 0.45  # share of the mask's colour inside it


def draw_overlay(
    image: Image,
    mask: npt.NDArray[np.bool_],
    prompts: Sequence[Prompt] = (),
    region: tuple[int, int, int, int] | None = None,
) -> Image:
    """The image with the mask tinted and outlined and the prompts in it, each with its number.

    Clicks are discs, strokes lines, boxes rectangles; green is positive, red negative. Start masks are yellow outlines.
    Lines and discs grow with the image, so that they read alike when it is shown as a whole.

    Args:
        image: uint8 RGB, `[H, W, 3]`; left as it is.
        mask: bool, `[H, W]`.
        prompts: in pixels of the image, numbered from 1 in this order.
        region: left, top, right, bottom of what was segmented: framed in white.

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
    if region is not None:
        left, top, right, bottom = region
        _draw_lines(
            canvas, [((left, top), (right - 1, top), (right - 1, bottom - 1), (left, bottom - 1))], WHITE, unit, 0
        )
    _draw_lines(canvas, _outlines(mask), MASK_RGB, unit, unit)
    for prompt in prompts:  # discs and numbers lie above the lines
        if isinstance(prompt, Box):
            _draw_lines(canvas, [_rectangle(*prompt)], POSITIVE_RGB, unit, unit)
        elif isinstance(prompt, StartMask):
            _draw_lines(canvas, _outlines(prompt.mask), START_RGB, unit, 0)
        elif not isinstance(prompt, Click):
            line = [(click.x, click.y) for click in prompt.corners]
            _draw_lines(canvas, [line], _colour(prompt.positive), 3 * unit, unit, closed=False)
    for number, prompt in enumerate(prompts, 1):
        _draw_number(canvas, *_place(prompt), str(number), unit)
    return canvas


def _rectangle(left: float, top: float, right: float, bottom: float) -> Line:
    return [(left, top), (right - 1, top), (right - 1, bottom - 1), (left, bottom - 1)]


def _outlines(mask: npt.NDArray[np.bool_]) -> list[npt.NDArray[np.int32]]:
    """Closed lines of x and y, `[n, 1, 2]` each."""
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    return [np.asarray(line, np.int32) for line in found]


def _draw_lines(canvas: Image, lines: Any, colour: Colour, width: int, edge: int, closed: bool = True) -> None:
    """Lines of x and y; with an edge, as many white pixels on both sides."""
    points = [np.asarray(line, np.float64).reshape(-1, 1, 2).astype(np.int32) for line in lines]
    for drawn, thickness in ((WHITE, width + 2 * edge), (colour, width))[edge == 0 :]:
        cv2.polylines(canvas, points, closed, drawn, thickness, cv2.LINE_AA)


def _colour(positive: bool) -> Colour:
    return POSITIVE_RGB if positive else NEGATIVE_RGB


def _place(prompt: Prompt) -> tuple[float, float, Colour]:
    """Where its number stands, x and y, and the colour of the disc under it."""
    if isinstance(prompt, Click):
        return prompt.x, prompt.y, _colour(prompt.positive)
    if isinstance(prompt, Box):
        return prompt.left, prompt.top, POSITIVE_RGB
    if isinstance(prompt, StartMask):
        row = int(prompt.mask.any(axis=1).argmax())
        return int(prompt.mask[row].argmax()), row, START_RGB
    return *prompt.points[0], _colour(prompt.positive)


def _draw_number(canvas: Image, x: float, y: float, colour: Colour, number: str, unit: int) -> None:
    """A disc with a number in it."""
    centre = (int(x), int(y))
    cv2.circle(canvas, centre, 8 * unit, WHITE, cv2.FILLED, cv2.LINE_AA)
    cv2.circle(canvas, centre, 7 * unit, colour, cv2.FILLED, cv2.LINE_AA)
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, (0.4 if len(number) == 1 else 0.3) * unit
    (width, height), _ = cv2.getTextSize(number, font, scale, unit)
    corner = (centre[0] - width // 2, centre[1] + height // 2)
    cv2.putText(canvas, number, corner, font, scale, WHITE, unit, cv2.LINE_AA)
