"""What napari's layers become for the runtime, without napari."""

from __future__ import annotations

import numpy as np
import pytest

from inter2former_deploy.apps.napari_plugin.layers import click_at, follow, picture_of, write_object
from inter2former_deploy.core.prompts import Click
from inter2former_deploy.runtime import Segmenter
from inter2former_deploy.runtime.doctor import TINY_BUNDLE


def test_grey_is_what_is_seen() -> None:
    picture = picture_of(np.array([[50, 100], [300, 1000]], np.uint16), False, (100, 500))
    assert picture.dtype == np.uint8
    assert picture[..., 0].tolist() == [[0, 0], [128, 255]]
    assert (picture == picture[..., :1]).all()


def test_colours_stay_and_alpha_goes() -> None:
    rgba = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    assert np.array_equal(picture_of(rgba, True, (0, 1)), rgba[..., :3])
    assert np.array_equal(picture_of(rgba / 255, True, (0, 1)), rgba[..., :3])


def test_stacks_and_other_colours_are_refused() -> None:
    with pytest.raises(ValueError, match="3 dimensions"):
        picture_of(np.zeros((4, 5, 6)), False, (0, 1))
    with pytest.raises(ValueError, match="the layer has uint16"):
        picture_of(np.zeros((4, 5, 3), np.uint16), True, (0, 1))


def test_whole_numbers_are_centres_of_pixels() -> None:
    assert click_at(1, 5, True, 10, 20) == Click(5.5, 1.5, True)
    assert click_at(-0.5, 19.4, False, 10, 20) == Click(19.9, 0, False)
    for row, column in ((-0.6, 0), (9.5, 0), (0, 19.5), (float("nan"), 0)):
        with pytest.raises(ValueError, match="outside the picture"):
            click_at(row, column, True, 10, 20)


def test_an_object_takes_no_pixel_of_another() -> None:
    labels = np.array([[1, 2, 0, 1]], np.uint16)
    write_object(labels, 1, np.array([[False, True, True, True]]))
    assert labels.tolist() == [[0, 2, 1, 1]]


def test_a_session_follows_the_points() -> None:
    """Added, moved and removed clicks give what a new session gives."""
    segmenter = Segmenter(TINY_BUNDLE, cache_bytes=1 << 30)
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[16:48, 30:70] = 200
    session = segmenter.open(picture)
    a, b, c = Click(50.5, 30.5, True), Click(5.5, 5.5, False), Click(60.5, 40.5, True)
    for clicks in ([a], [a, b, c], [a, c], [c, b], []):
        assert follow(session, clicks)
        assert not follow(session, clicks)
        new = segmenter.open(picture)
        for click in clicks:
            new.add(click)
        assert session.prompts == tuple(clicks)
        assert np.array_equal(session.mask, new.mask)
