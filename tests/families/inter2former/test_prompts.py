"""What each prompt makes of a label map; sessions over it are in tests/runtime/test_session.py."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

from inter2former_deploy.core.prompts import Box, Click, StartMask, Stroke
from inter2former_deploy.families.inter2former.labels import add_clicks, fold_prediction, unknown_labels
from inter2former_deploy.families.inter2former.prompts import LabelMapPrompts

SIZE = 64


class Prediction(NamedTuple):
    box: tuple[int, int, int, int]
    box_logits: np.ndarray


def labels_of(*prompts: Click | Box | Stroke | StartMask) -> np.ndarray:
    state = LabelMapPrompts(SIZE)
    for prompt in prompts:
        state.add(prompt)
    return state.inputs()["labels"].copy()


def test_a_stroke_is_a_closed_line_of_discs() -> None:
    found = labels_of(Stroke(((5, 20), (50, 30), (50, 31)), False))
    y, x = np.mgrid[:SIZE, :SIZE]
    along = np.array([5, 20]) + np.linspace(0, 1, 999)[:, None] * np.array([45, 10])
    distance = np.hypot(x[..., None] - along[:, 0], y[..., None] - along[:, 1]).min(-1)
    assert (found[distance <= 3] == 0).all()  # between discs of radius 5, at most 5 apart, the line stays this wide
    assert (found[distance > 7] == 2).all()
    np.testing.assert_array_equal(labels_of(Stroke(((7, 8),), True)), labels_of(Click(7, 8, True)))


def test_strokes_as_clicks() -> None:
    stroke = Stroke(((0, 0), (6, 8), (6, 8), (6, 3)), True)
    assert stroke.clicks(5) == [Click(0, 0, True), Click(3, 4, True), Click(6, 8, True), Click(6, 3, True)]
    assert len(stroke.clicks(4.99)) == 1 + 3 + 2


def test_folding_the_same_prompts_again() -> None:
    """Predictions of one map after the other, in boxes anywhere: as if each were of the whole square."""
    rng = np.random.default_rng(0)
    state, labels = LabelMapPrompts(SIZE), unknown_labels(SIZE)
    for prompt in (Box(20, 20, 30, 28), Click(24, 24, True)):
        state.add(prompt)
    labels[:] = state.inputs()["labels"]
    for box in [(0, 0, 10, 10), (22, 15, 64, 26), (40, 40, 41, 64)]:
        logits = rng.standard_normal((box[3] - box[1], box[2] - box[0])).astype(np.float32)
        state.fold(Prediction(box, logits))
        foreground = np.zeros((SIZE, SIZE), bool)
        foreground[box[1] : box[3], box[0] : box[2]] = logits > 0
        fold_prediction(labels, foreground)
        np.testing.assert_array_equal(state.inputs()["labels"], labels)
    state.undo(1)
    np.testing.assert_array_equal(state.inputs()["labels"], labels_of(Box(20, 20, 30, 28)))
    state.undo(0)
    assert (state.inputs()["labels"] == 2).all()


def test_definite_labels_stay() -> None:
    expected = unknown_labels(SIZE)
    add_clicks(expected, [Click(10, 10, True), Click(50, 50, False)])
    definite = expected != 2
    mask = np.zeros((SIZE, SIZE), bool)
    mask[:, 30:] = True
    for later in (StartMask(mask), Box(8, 9, 40, 41)):
        found = labels_of(Click(10, 10, True), Click(50, 50, False), later)
        np.testing.assert_array_equal(found[definite], expected[definite])
        assert set(np.unique(found[~definite])) <= {1, 2, 3} | ({4} if isinstance(later, StartMask) else set())
        assert (found[:, :8][~definite[:, :8]] == 1).all()


def test_a_box() -> None:
    """Of a box of 20 x 10 pixels, the ellipse has axes of 6 and 3."""
    found = labels_of(Box(10, 30, 30, 40))
    assert (found[:, :10] == 1).all()
    inside = found[30:40, 10:30]
    assert (found == 1).sum() == SIZE**2 - inside.size
    y, x = np.mgrid[:10, :20] + 0.5
    ellipse = ((x - 10) / 3) ** 2 + ((y - 5) / 1.5) ** 2 <= 1
    assert 10 < ellipse.sum() < 15
    np.testing.assert_array_equal(inside, np.where(ellipse, 3, 2))
    assert (labels_of(Box(10, 30, 30, 40), Box(0, 0, 3, 1))[30:40, 10:30] == 1).all()  # a new one replaces the old


@pytest.mark.parametrize("box", [Box(0, 0, 1, 1), Box(63, 0, 64, 64), Box(0, 0, 64, 64), Box(3, 5, 5, 6)])
def test_boxes_of_any_size_have_something_inside(box: Box) -> None:
    inside = labels_of(box)[box.top : box.bottom, box.left : box.right]  # type: ignore[misc]
    assert set(np.unique(inside)) <= {2, 3}
    assert (inside[inside.shape[0] // 2] >= 2).all()
