from __future__ import annotations

import numpy as np
import pytest

from inter2former_deploy.core.overlay import MASK_RGB, NEGATIVE_RGB, POSITIVE_RGB, START_RGB, draw_overlay
from inter2former_deploy.core.prompts import Box, Click, StartMask, Stroke

IMAGE = np.full((200, 300, 3), 100, np.uint8)
MASK = np.zeros((200, 300), bool)
MASK[50:150, 50:250] = True


def test_mask_is_tinted_and_the_rest_left_alone() -> None:
    before = IMAGE.copy()
    drawn = draw_overlay(IMAGE, MASK)
    np.testing.assert_array_equal(IMAGE, before)
    np.testing.assert_array_equal(drawn[10:40], IMAGE[10:40])
    inside = drawn[100, 100].astype(int)
    assert (np.sign(inside - 100) == np.sign(np.array(MASK_RGB) - 100)).all()
    assert (drawn[50, 60:240, 2] > 240).all()  # the boundary, bluer than both sides of it


def test_clicks_have_the_colour_of_their_sign_and_their_number() -> None:
    clicks = [Click(30, 20, True), Click(270.9, 180.2, False)]
    drawn = draw_overlay(IMAGE, np.zeros_like(MASK), clicks)
    assert (drawn[20, 25] == POSITIVE_RGB).all()  # beside the number
    assert (drawn[180, 265] == NEGATIVE_RGB).all()
    assert not np.array_equal(drawn[12:29, 22:39], draw_overlay(IMAGE, np.zeros_like(MASK), clicks[::-1])[12:29, 22:39])


def of_colour(pixels: np.ndarray, colour: tuple[int, int, int]) -> bool:
    """Lines are smoothed: nearly this colour."""
    return bool((np.abs(pixels.astype(int) - colour) < 45).all())


def test_boxes_strokes_and_start_masks_are_lines_of_their_colours() -> None:
    nothing = np.zeros_like(MASK)
    drawn = draw_overlay(IMAGE, nothing, [Box(40, 30, 120, 90)])
    for line in (drawn[30, 60:119], drawn[89, 41:119], drawn[45:89, 40], drawn[31:89, 119]):
        assert of_colour(line, POSITIVE_RGB)
    assert (drawn[45:85, 60:115] == 100).all()
    for positive, colour in ((True, POSITIVE_RGB), (False, NEGATIVE_RGB)):
        drawn = draw_overlay(IMAGE, nothing, [Stroke(((30, 40), (200, 40), (200, 150)), positive)])
        assert of_colour(drawn[40, 45:190], colour)
        assert of_colour(drawn[50:150, 200], colour)
        assert (drawn[60:, :190] == 100).all()  # not closed
    drawn = draw_overlay(IMAGE, nothing, [StartMask(MASK)])
    assert of_colour(drawn[149, 60:240], START_RGB)
    assert (drawn[70:130, 60:240] == 100).all()  # not tinted
    drawn = draw_overlay(IMAGE, nothing, [], (10, 20, 110, 120))
    assert of_colour(drawn[[20, 119], 11:109], (255, 255, 255))
    assert of_colour(drawn[21:119, [10, 109]], (255, 255, 255))
    assert (drawn[25:115, 15:105] == 100).all()


def test_clicks_at_the_border_and_empty_masks_are_fine() -> None:
    draw_overlay(IMAGE, np.zeros_like(MASK), [Click(0, 0, True), Click(299, 199, False)])
    assert draw_overlay(IMAGE[:1, :1], np.ones((1, 1), bool), [Click(0, 0, True)]).shape == (1, 1, 3)


def test_sizes_must_agree() -> None:
    with pytest.raises(ValueError, match="of one size"):
        draw_overlay(IMAGE, MASK[:100])
