"""CVAT's shape of a mask, its prompts, and the handler of the nuclio function."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from toy_bundle import write_toy_bundle

from inter2former_deploy.apps.tools.cvat import mask_points, prompts_of
from inter2former_deploy.apps.tools.nuclio import main
from inter2former_deploy.core.prompts import Box, Click
from inter2former_deploy.core.runs import Runs
from inter2former_deploy.runtime import Segmenter


def test_the_shape_is_that_of_cvats_sdk() -> None:
    """Runs along the rows of the box, then its sides, both inclusive."""
    mask = np.zeros((20, 30), bool)
    mask[5:8, 4:7] = True
    assert mask_points(Runs.of(mask)) == [0, 9, 4, 5, 6, 7]
    mask[5, 4] = mask[6, 5] = False
    assert mask_points(Runs.of(mask)) == [1, 3, 1, 4, 4, 5, 6, 7]
    assert mask_points(Runs.of(np.zeros((20, 30), bool))) == [1, 0, 0, 0, 0]


def test_masks_come_back_by_cvats_sdk() -> None:
    masks = pytest.importorskip("cvat_sdk.masks")
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = rng.random((17, 23)) < rng.random()
        points = mask_points(Runs.of(mask))
        np.testing.assert_array_equal(masks.decode_mask(points, image_width=23, image_height=17), mask)


def test_prompts_are_box_then_clicks() -> None:
    found = prompts_of([(3, 4.5), (-0.5, 0)], [(29.4, 20.4)], [(12, 9), (2, 30)], 30, 20)
    below = np.nextafter(20, 0)
    assert found == [Box(2, 9, 12, 20), Click(3, 4.5, True), Click(0, 0, True), Click(29.4, below, False)]
    with pytest.raises(ValueError, match="no click and no box"):
        prompts_of([], [], None, 30, 20)


class Context:
    """What nuclio gives a handler."""

    def __init__(self) -> None:
        self.user_data = SimpleNamespace()

    @staticmethod
    def Response(**given: Any) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(**given)


def test_nuclio_answers_with_the_runtimes_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = write_toy_bundle(tmp_path / "bundle")
    monkeypatch.setattr(main, "BUNDLE", str(bundle))
    context = Context()
    main.init_context(context)
    image = np.random.default_rng(1).integers(0, 256, (90, 120, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    asked = {"image": base64.b64encode(file.getvalue()).decode(), "pos_points": [[60.5, 40]], "neg_points": [[5, 5]]}
    answer = main.handler(context, SimpleNamespace(body=json.dumps(asked | {"obj_bbox": []}).encode()))
    session = Segmenter(bundle).open(image)
    session.click(60.5, 40)
    expected = session.click(5, 5, positive=False)
    assert answer.status_code == 200
    np.testing.assert_array_equal(np.array(json.loads(answer.body)["mask"]) == 1, expected)
    for wrong, told in (
        ({}, "no picture"),
        (b"[]", "no picture"),
        (b"{", "property name"),
        (asked | {"image": "?"}, "'image' is no base64"),
        (asked | {"image": "aGVsbG8="}, "no picture that can be read"),
        (asked | {"pos_points": [[1]]}, "a pair of numbers, x and y, got .1."),
        ({"image": asked["image"]}, "there is no click and no box"),
    ):
        answer = main.handler(context, SimpleNamespace(body=wrong))
        assert answer.status_code == 400
        assert re.search(told, answer.body), answer.body
