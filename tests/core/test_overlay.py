from __future__ import annotations

import numpy as np
import pytest

from inter2former_deploy.core.overlay import MASK_RGB, NEGATIVE_RGB, POSITIVE_RGB, draw_overlay
from inter2former_deploy.core.prompts import Click

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


def test_clicks_at_the_border_and_empty_masks_are_fine() -> None:
    draw_overlay(IMAGE, np.zeros_like(MASK), [Click(0, 0, True), Click(299, 199, False)])
    assert draw_overlay(IMAGE[:1, :1], np.ones((1, 1), bool), [Click(0, 0, True)]).shape == (1, 1, 3)


def test_sizes_must_agree() -> None:
    with pytest.raises(ValueError, match="of one size"):
        draw_overlay(IMAGE, MASK[:100])
