"""Masks as run lengths."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from inter2former_deploy.core.runs import Runs

MASKS = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=7))


@given(MASKS)
def test_runs_are_those_of_pycocotools(mask: np.ndarray) -> None:
    runs = Runs.of(mask)
    np.testing.assert_array_equal(runs.mask(), mask)
    coco = pytest.importorskip("pycocotools.mask")
    height, width = mask.shape
    encoded = coco.frPyObjects(runs.to_json(), height, width)
    np.testing.assert_array_equal(coco.decode(encoded).astype(bool), mask)
    assert encoded == coco.encode(np.asfortranarray(mask))  # the same runs, none of them empty
    assert runs.area == coco.area(encoded)
    left, top, box_width, box_height = coco.toBbox(encoded)
    assert runs.box == (None if not mask.any() else (left, top, left + box_width, top + box_height))
    assert Runs.from_json(runs.to_json(), height, width) == runs


@given(MASKS, st.data())
def test_windows(whole: np.ndarray, data: st.DataObject) -> None:
    height, width = whole.shape
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    right, bottom = data.draw(st.integers(left + 1, width)), data.draw(st.integers(top + 1, height))
    window = whole[top:bottom, left:right]
    np.testing.assert_array_equal(Runs.of(whole).mask((left, top, right, bottom)), window)
    pasted = np.zeros_like(whole)
    pasted[top:bottom, left:right] = window
    assert Runs.of(window, (left, top), (height, width)) == Runs.of(pasted)


@given(st.lists(st.integers(0, 5), max_size=8))
def test_runs_of_no_length_are_joined(counts: list[int]) -> None:
    """Other tools may write empty runs."""
    total = sum(counts)
    if total:
        expected = [i % 2 == 1 for i, count in enumerate(counts) for _ in range(count)]
        runs = Runs.of_counts(counts, total, 1)
        assert runs.mask()[:, 0].tolist() == expected
        assert runs == Runs.of(np.array(expected)[:, None])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([6], "must be a JSON object with size and counts"),
        ({"size": [2, 3]}, "must be a JSON object with size and counts"),
        ({"size": [3, 2], "counts": [6]}, r"size must be that of the image, \[2, 3\], got \[3, 2\]"),
        ({"size": [2, 3], "counts": "6"}, "counts must be a list, got str"),
        ({"size": [2, 3], "counts": [5]}, "counts must add up to 6 pixels, they give 5"),
        ({"size": [2, 3], "counts": [7, -1]}, "counts must be whole numbers from 0 to 6"),
        ({"size": [2, 3], "counts": [6.0]}, "counts must be whole numbers from 0 to 6"),
        ({"size": [2, 3], "counts": [True, 5]}, "counts must be whole numbers from 0 to 6"),
        ({"size": [2, 3], "counts": [2**70]}, "counts must be whole numbers from 0 to 6"),
    ],
)
def test_what_is_refused(value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Runs.from_json(value, 2, 3)


def test_windows_beyond_the_picture_are_refused() -> None:
    with pytest.raises(ValueError, match=r"2 x 3 pixels at \(4, 0\) reaches beyond a picture of 5 x 5"):
        Runs.of(np.ones((3, 2), bool), (4, 0), (5, 5))


def test_runs_of_more_than_is_looked_at_at_a_time() -> None:
    """A mask of many rows is read in pieces; where they meet nothing begins or ends."""
    mask = np.zeros((1 << 11, 1 << 10), bool)
    mask[100:2000, 5:9] = True
    mask[1020:1028, 900] = True
    mask[:, 1023] = True
    runs = Runs.of(mask)
    assert len(runs.counts) == 2 * (4 + 1 + 1)
    np.testing.assert_array_equal(runs.mask(), mask)
