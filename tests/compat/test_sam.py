"""SamPredictor as code for segment-anything uses it, and samexporter's prompts."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from toy_bundle import write_toy_bundle

from inter2former_deploy.apps.cli import main
from inter2former_deploy.compat import SamPredictor, sam_model_registry
from inter2former_deploy.compat.samexporter import read_prompts
from inter2former_deploy.runtime import Segmenter

H, W = 300, 400
IMAGE = np.random.default_rng(0).integers(0, 256, (H, W, 3), np.uint8)


@pytest.fixture(scope="module")
def toy_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_bundle(tmp_path_factory.mktemp("toy") / "bundle")


@pytest.fixture(scope="module")
def segmenter(toy_bundle: Path) -> Segmenter:
    return Segmenter(toy_bundle, num_threads=1, custom_ops=False)


@pytest.fixture
def predictor(segmenter: Segmenter) -> SamPredictor:
    predictor = SamPredictor(segmenter)
    predictor.set_image(IMAGE)
    return predictor


@pytest.mark.parametrize(("multimask", "count"), [(True, 3), (False, 1)])
def test_shapes_and_types_are_segment_anything_s(predictor: SamPredictor, multimask: bool, count: int) -> None:
    points, labels = np.array([[200, 150], [20, 30]]), np.array([1, 0])
    masks, scores, low = predictor.predict(points, labels, multimask_output=multimask)
    assert (masks.shape, masks.dtype) == ((count, H, W), bool)
    assert (scores.shape, scores.dtype) == ((count,), np.float32)
    assert (low.shape, low.dtype) == ((count, 256, 256), np.float32)
    assert ((scores >= 0) & (scores <= 1)).all()
    logits, _, _ = predictor.predict(points, labels, multimask_output=multimask, return_logits=True)
    assert (logits.shape, logits.dtype) == ((count, H, W), np.float32)
    assert np.count_nonzero((logits > 0) != masks) <= 2 * count  # rounding, where a logit is next to 0
    assert (low[:, 193:] == -100).all()  # 300 x 400 lies in 192 x 256
    assert masks[0].any()


def test_masks_are_those_of_a_session(predictor: SamPredictor, segmenter: Segmenter) -> None:
    session = segmenter.open(IMAGE)
    session.box(100, 80, 300, 220)
    session.click(200, 150)
    session.click(20.5, 30.25, False)
    points, labels = np.array([[200, 150], [7, 7], [20.5, 30.25]]), np.array([1, -1, 0])
    for box in (np.array([100, 80, 300, 220]), np.array([[100, 80, 300, 220]])):
        masks, _, _ = predictor.predict(points, labels, box=box, multimask_output=False)
        np.testing.assert_array_equal(masks[0], session.mask)
    reversed_channels = SamPredictor(segmenter)
    reversed_channels.set_image(IMAGE[..., ::-1], image_format="BGR")
    masks, _, _ = reversed_channels.predict(points, labels, box=np.array([100, 80, 300, 220]), multimask_output=False)
    np.testing.assert_array_equal(masks[0], session.mask)


def test_a_call_knows_nothing_of_the_one_before(predictor: SamPredictor) -> None:
    first, _, _ = predictor.predict(np.array([[200, 150]]), np.array([1]))
    predictor.predict(np.array([[20, 30]]), np.array([1]))
    again, _, _ = predictor.predict(np.array([[200, 150]]), np.array([1]))
    np.testing.assert_array_equal(first, again)


def test_low_resolution_masks_are_taken_again(predictor: SamPredictor) -> None:
    mask = np.zeros((H, W), bool)
    mask[80:200, 120:310] = True
    scaled = cv2.resize(mask.astype(np.float32) * 20 - 10, (256, 192), interpolation=cv2.INTER_LINEAR)
    given = np.full((1, 256, 256), 3, np.float32)  # what lies outside the image does not count
    given[0, :192] = scaled
    masks, _, low = predictor.predict(mask_input=given, multimask_output=False)
    assert np.count_nonzero(masks[0] != mask) <= 2 * (120 + 190) * 2  # a pixel or two along the border
    np.testing.assert_allclose(low[0, :192] > 0, scaled > 0)
    refined, _, _ = predictor.predict(np.array([[20, 30]]), np.array([1]), mask_input=given, multimask_output=False)
    alone, _, _ = predictor.predict(np.array([[20, 30]]), np.array([1]), multimask_output=False)
    assert (refined != alone).any()
    nothing = np.full((1, 256, 256), -3, np.float32)
    same, _, _ = predictor.predict(np.array([[20, 30]]), np.array([1]), mask_input=nothing, multimask_output=False)
    np.testing.assert_array_equal(same, alone)


def test_the_order_of_calls(segmenter: Segmenter) -> None:
    predictor = SamPredictor(segmenter)
    for _ in range(2):
        assert not predictor.is_image_set
        with pytest.raises(
            RuntimeError, match=r"An image must be set with \.set_image\(\.\.\.\) before mask prediction"
        ):
            predictor.predict(np.array([[1, 2]]), np.array([1]))
        with pytest.raises(RuntimeError, match=r"An image must be set with \.set_image\(\.\.\.\) to generate an"):
            predictor.get_image_embedding()
        predictor.set_image(IMAGE)
        assert predictor.is_image_set
        assert (predictor.original_size, predictor.device) == ((H, W), "cpu")
        embedding = predictor.get_image_embedding()
        kept = segmenter.encode(IMAGE).tensors["image_embedding"]
        np.testing.assert_array_equal(embedding, kept.transpose(2, 0, 1)[None])
        predictor.reset_image()


def test_what_is_refused(predictor: SamPredictor) -> None:
    point, label = np.array([[1, 2]]), np.array([1])
    with pytest.raises(ValueError, match="point_labels must be supplied if point_coords is supplied"):
        predictor.predict(point)
    with pytest.raises(ValueError, match=r"image_format must be in \['RGB', 'BGR'\], is HSV\."):
        predictor.set_image(IMAGE, "HSV")
    for arguments, message in (
        ((point, np.array([1, 0])), r"point_coords must be of shape \(N, 2\)"),
        ((np.array([1, 2]), label), r"point_coords must be of shape \(N, 2\)"),
        ((point, np.array([2])), "point_labels must be 1"),
        ((np.array([[W, 2]]), label), "lies outside the image"),
        ((None, None, np.array([1, 2, 3])), r"box must be of shape \(4,\), got \(3,\)"),
        ((None, None, None, np.zeros((256, 256))), r"mask_input must be of shape \(1, 256, 256\)"),
        ((), "no prompt: supply point_coords, box or mask_input"),
    ):
        with pytest.raises(ValueError, match=message):
            predictor.predict(*arguments)


def test_the_registry_loads_bundles(toy_bundle: Path) -> None:
    sam = sam_model_registry["vit_h"](checkpoint=str(toy_bundle))
    with pytest.warns(UserWarning, match="stays on the CPU, not on cuda"):
        assert sam.to(device="cuda") is sam
    predictor = SamPredictor(sam.to("cpu").eval())
    predictor.set_image(IMAGE)
    assert predictor.predict(np.array([[200, 150]]), np.array([1]))[0].shape == (3, H, W)


PROMPTS = [
    {"type": "rectangle", "data": [300, 80, 100, 220]},
    {"type": "point", "data": [200, 150.5], "label": 1},
    {"type": "point", "data": [20, 30], "label": 0},
]


def test_prompts_of_samexporter_are_those_of_options(
    toy_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "picture.png"
    cv2.imwrite(str(picture), IMAGE)
    (tmp_path / "prompts.json").write_text(json.dumps(PROMPTS))
    box, *points = ("--box", "100,80,300,220"), ("--fg", "200,150.5"), ("--bg", "20,30")
    last = ("--fg", "90,90")
    for name, options in (
        ("file", (("--prompt", tmp_path / "prompts.json"), last)),
        ("options", (box, *points, last)),
    ):
        arguments = [part for option in options for part in option]
        with pytest.raises(SystemExit) as stop:
            main(["segment", str(toy_bundle), str(picture), *map(str, arguments), "-o", str(tmp_path / f"{name}.png")])
        assert not stop.value.code
        lines = [line.split("ms")[-1] for line in capsys.readouterr().out.splitlines() if line.startswith("prompt")]
        assert len(lines) == 4
        assert lines[0].startswith("   --box 100,80,300,220")
    assert (tmp_path / "file.png").read_bytes() == (tmp_path / "options.png").read_bytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "is not JSON"),
        ("{}", "must hold a list of 1 to 10000 prompts"),
        ("[]", "must hold a list"),
        ('[{"type": "circle", "data": [1, 2, 3]}]', 'entry 0: a prompt has "type": "point" or "rectangle"'),
        ('[{"type": "point", "data": [1, 2, 3], "label": 1}]', 'entry 0: "data" of a point must be 2 numbers'),
        ('[{"type": "point", "data": [1, NaN], "label": 1}]', '"data" of a point must be 2 numbers'),
        ('[{"type": "point", "data": [1, 2]}]', '"label" of a point must be 1 or 0, got None'),
        ('[{"type": "rectangle", "data": [1, 2]}]', '"data" of a rectangle must be 4 numbers'),
    ],
)
def test_files_that_are_no_prompts(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "prompts.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_prompts(tmp_path / "prompts.json")
