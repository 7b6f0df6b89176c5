from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inter2former_deploy.core.prompts import Click
from inter2former_deploy.families.inter2former.labels import add_clicks, fold_prediction, unknown_labels

GOLDEN = Path(__file__).parents[2] / "golden"


def clicks_of(points: list[list[Any]]) -> list[Click]:
    return [Click(x, y, sign == "positive") for y, x, sign in points]


def test_every_step_of_the_release(golden: Callable[[str], dict[str, Any]]) -> None:
    arrays = golden("labels")
    steps = json.loads((GOLDEN / "labels_steps.json").read_text())
    labels = unknown_labels(*arrays["states"].shape[1:])
    for step, expected in zip(steps, arrays["states"], strict=True):
        if step["kind"] == "click":
            add_clicks(labels, clicks_of(step["value"]))
        else:
            fold_prediction(labels, arrays["preds"][step["value"]] > 0)
        np.testing.assert_array_equal(labels, expected)


def test_overlapping_clicks_of_one_batch(golden: Callable[[str], dict[str, Any]]) -> None:
    states = golden("labels_overlap")["states"]
    batches = json.loads((GOLDEN / "labels_overlap_steps.json").read_text())
    labels = unknown_labels(*states.shape[1:])
    for batch, expected in zip(batches, states, strict=True):
        add_clicks(labels, clicks_of(batch))
        np.testing.assert_array_equal(labels, expected)


@pytest.mark.parametrize(("label", "background", "foreground"), [(0, 0, 0), (1, 1, 2), (2, 1, 3), (3, 2, 3), (4, 4, 4)])
def test_a_prediction_moves_each_label_one_step(label: int, background: int, foreground: int) -> None:
    labels = np.full((1, 2), label, np.uint8)
    fold_prediction(labels, np.array([[False, True]]))
    assert labels.tolist() == [[background, foreground]]


@pytest.mark.parametrize(("x", "y"), [(-1, 0), (0, -1), (40, 0), (0, 30)])
def test_a_click_outside_changes_nothing(x: int, y: int) -> None:
    labels = unknown_labels(30, 40)
    with pytest.raises(ValueError, match="outside the 40 x 30 label map"):
        add_clicks(labels, [Click(5, 5, True), Click(x, y, True)])
    assert (labels == 2).all()
