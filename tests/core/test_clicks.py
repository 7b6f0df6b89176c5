"""Simulated clicks and scores against the golden arrays and a brute-force distance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from inter2former_deploy.core.clicks import IGNORED, Click, mean_iou, next_click, number_of_clicks
from inter2former_deploy.core.masks import iou

POINTS = json.loads((Path(__file__).parents[1] / "golden" / "clicks_points.json").read_text())


class CountingChoice:
    """Stands in for a random generator: takes the first candidate and notes their number."""

    count = 0

    def choice(self, candidates: Any) -> Any:
        self.count = len(candidates)
        return candidates[0]


@pytest.mark.parametrize("case", range(6))
def test_golden_clicks_after_others(golden: Any, case: int) -> None:
    arrays, rng = golden("clicks"), CountingChoice()
    earlier = [Click(x, y, mode == "positive") for y, x, mode in POINTS[case]]
    masks = arrays["pred_masks"][case], arrays["gt_masks"][case]
    click = next_click(*masks, earlier, factor=float(arrays["k"][case]), rng=rng)  # type: ignore[arg-type]
    y, x, count = arrays["first_candidate_yx_count"][case]
    assert click == Click(x, y, arrays["mode"][case] == "positive")
    assert rng.count == count
    assert next_click(*masks, earlier, factor=float(arrays["k"][case])) == click


@pytest.mark.parametrize("case", range(6))
def test_golden_clicks_and_scores(golden: Any, case: int) -> None:
    arrays, rng = golden("loss_clicks_metrics"), CountingChoice()
    masks = arrays["pred_masks"][case], arrays["gt_masks"][case]
    click = next_click(*masks, rng=rng)  # type: ignore[arg-type]
    y, x, count = arrays["first_candidate_yx_count"][case]
    mode = arrays["click_mode"][case]
    assert click == (None if mode == "none" else Click(x, y, mode == "positive"))
    assert rng.count == count
    assert iou(*masks) == pytest.approx(arrays["iou"][case], rel=1e-12)


def test_golden_number_of_clicks(golden: Any) -> None:
    arrays = golden("loss_clicks_metrics")
    for percent in (85, 90, 95):
        noc = number_of_clicks(arrays["iou_per_click"], percent / 100)
        assert noc == pytest.approx(float(arrays[f"noc{percent}"]), rel=1e-12)
    assert mean_iou(arrays["iou_per_click"], 5) == pytest.approx(arrays["iou_per_click"][:, 4].mean())


def test_number_of_clicks_beyond_the_limit() -> None:
    ious = np.zeros((3, 25))
    ious[0, 0], ious[1, 19], ious[2, 20] = 0.9, 0.95, 0.95  # with click 1, with click 20, too late
    assert number_of_clicks(ious, 0.9) == pytest.approx((1 + 20 + 20) / 3)


def brute_force_distance(region: Any) -> Any:
    """Distance of every pixel of the region to the nearest pixel outside it or just outside the image."""
    framed = np.pad(region, 1)
    outside = np.argwhere(~framed)
    distance = np.zeros(framed.shape)
    for y, x in np.argwhere(framed):
        distance[y, x] = np.sqrt(((outside - (y, x)) ** 2).sum(1).min())
    return distance[1:-1, 1:-1]


@pytest.mark.parametrize("seed", range(8))
def test_every_candidate_is_far_from_the_border_and_drawn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    prediction = rng.random((12, 15)) < 0.35
    prediction[:, 7:] |= rng.random() < 0.5
    target = np.zeros((12, 15), np.uint8)
    target[3:10, 2:12] = rng.integers(1, 3)
    misses, false_alarms = (target > 0) & ~prediction, prediction & (target == 0)
    distances = brute_force_distance(misses), brute_force_distance(false_alarms)
    positive = distances[0].max() > distances[1].max()
    distance = distances[0 if positive else 1]
    expected = {(x, y) for y, x in np.argwhere(distance > distance.max() / 1.7)}
    drawn = [next_click(prediction, target, factor=1.7, rng=np.random.default_rng(i)) for i in range(400)]
    assert {(click.x, click.y) for click in drawn if click} == expected
    assert {click.positive for click in drawn if click} == {positive}
    first = next_click(prediction, target)
    assert first is not None
    assert (first.y, first.x) == min((y, x) for y, x in np.argwhere(distance == distance.max()))


def test_the_same_pixel_is_clicked_from_call_to_call_and_on_any_number_of_threads() -> None:
    target = np.zeros((100, 100), np.uint8)
    target[32:49, 6:48], target[32:49, 52:94] = 1, 1  # of one depth; OpenCV's distances differ by rounding here
    threads = cv2.getNumThreads()
    try:
        clicks, counts = set(), set()
        for count in (1, 2, 1, 4) * 10:
            cv2.setNumThreads(count)
            rng = CountingChoice()
            clicks.add(next_click(np.zeros_like(target), target, rng=rng))  # type: ignore[arg-type]
            counts.add(rng.count)
    finally:
        cv2.setNumThreads(threads)
    assert clicks == {Click(14, 40, True)}
    assert counts == {2 * (42 - 16)}


def squared_distances(region: Any) -> Any:
    """Exactly, by another library."""
    return np.rint(distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1] ** 2).astype(np.int64)


@pytest.mark.parametrize("seed", range(30))
def test_candidates_are_those_of_exact_distances(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = (int(v) for v in rng.integers(1, 120, 2))
    blocks = (rng.random(rng.integers(2, 12, 2)) < rng.random()).astype(np.uint8)
    target = cv2.resize(blocks, (width, height), interpolation=cv2.INTER_NEAREST)
    target &= (rng.random((height, width)) < rng.choice([1, 0.99, 0.9, 0.5])).astype(np.uint8)
    squared = squared_distances(target == 1)
    for factor in (1.0, 1.7):
        choice = CountingChoice()
        click = next_click(np.zeros_like(target), target, factor=factor, rng=choice)  # type: ignore[arg-type]
        expected = np.flatnonzero(squared * (factor + 1.19e-7) ** 2 > squared.max())
        assert (click is None) == (len(expected) == 0)
        if click:
            assert (choice.count, (click.y, click.x)) == (len(expected), divmod(int(expected[0]), width))


def test_distances_beyond_what_single_precision_tells_apart_are_exact() -> None:
    target = np.ones((2600, 2300), np.uint8)
    target[700, 900] = target[1800, 200] = target[50, 2000] = 0
    squared = squared_distances(target == 1)
    assert squared.max() > 512**2  # where a square is no longer what its rounded root says
    for factor in (1.0, 1.02):
        choice = CountingChoice()
        click = next_click(np.zeros_like(target), target, factor=factor, rng=choice)  # type: ignore[arg-type]
        expected = np.flatnonzero(squared * (factor + 1.19e-7) ** 2 > squared.max())
        assert click == Click(int(expected[0]) % 2300, int(expected[0]) // 2300, True)
        assert choice.count == len(expected)


def test_a_tie_of_both_signs_is_a_negative_click() -> None:
    target, prediction = np.zeros((2, 7, 20), np.uint8)
    target[1:6, 1:6], prediction[1:6, 10:15] = 1, 1
    assert next_click(prediction, target) == Click(12, 3, False)


def test_the_image_border_is_a_border() -> None:
    assert next_click(np.zeros((5, 9), bool), np.ones((5, 9), np.uint8)) == Click(2, 2, True)


def test_ignored_pixels_are_neither_clicked_nor_scored() -> None:
    target, prediction = np.zeros((10, 10), np.uint8), np.zeros((10, 10), bool)
    target[:, :6], target[0, 0] = IGNORED, 1
    prediction[:, :5] = True
    assert next_click(prediction, target) is None
    assert iou(prediction, target, target != IGNORED) == 1.0


def test_earlier_clicks_are_not_repeated() -> None:
    target, prediction = np.ones((3, 3), np.uint8), np.zeros((3, 3), bool)
    clicks: list[Click] = []
    while (click := next_click(prediction, target, clicks)) is not None:
        clicks.append(click)
    assert clicks[0] == Click(1, 1, True)
    assert len({(click.x, click.y) for click in clicks}) == len(clicks) == 9


def test_agreement_and_empty_masks() -> None:
    empty = np.zeros((4, 4), np.uint8)
    assert next_click(empty, empty) is None
    assert iou(empty, empty) == 1.0  # they agree
    assert iou(empty, empty + 1) == 0.0
    with pytest.raises(ValueError, match="one shape"):
        iou(empty, empty[1:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prediction": np.zeros((4, 5))}, "two masks"),
        ({"prediction": np.zeros((1, 4, 4)), "target": np.zeros((1, 4, 4))}, "two masks"),
        ({"clicks": [Click(4, 0, True)]}, "outside the 4 x 4 mask"),
        ({"clicks": [Click(0, -1, True)]}, "outside the 4 x 4 mask"),
        ({"factor": 0.5}, "factor must be at least 1"),
        ({"factor": float("nan")}, "factor must be at least 1"),
    ],
)
def test_bad_values_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        next_click(**{"prediction": np.zeros((4, 4)), "target": np.zeros((4, 4)), **arguments})
