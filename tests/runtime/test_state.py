"""Regions of pictures, and sessions that are saved and gone on with."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inter2former_deploy.core.errors import EncodedImageError, SessionStateError
from inter2former_deploy.runtime import EncodedImage, EncodedImages, Segmenter, Session
from inter2former_deploy.runtime.encoded import picture_key
from inter2former_deploy.runtime.region import Region

H, W = 300, 400
REGION = (100, 50, 356, 300)
IMAGE = np.random.default_rng(0).integers(0, 256, (H, W, 3), np.uint8)
START = np.zeros((H, W), bool)
START[100:180, 150:260] = True


@pytest.fixture
def segmenter(toy_bundle: Path) -> Segmenter:
    return Segmenter(toy_bundle, num_threads=1, custom_ops=False, cache_bytes=10**7)


def tell(session: Session) -> np.ndarray:
    """Prompts of every kind."""
    session.start(START)
    session.click(150.5, 100)
    session.box(110, 60, 300.25, 290)
    return session.stroke([(120, 70), (200, 80.5), (130, 150)], False)


def test_a_region_is_segmented_as_a_picture_of_its_own(segmenter: Segmenter) -> None:
    x0, y0, x1, y1 = REGION
    session = segmenter.open(IMAGE, region=REGION)
    alone = segmenter.open(IMAGE[y0:y1, x0:x1].copy())
    assert session.mask.shape == (H, W)
    alone.start(START[y0:y1, x0:x1])
    alone.click(50.5, 50)
    alone.box(10, 10, 200.25, 240)
    expected = alone.stroke([(20, 20), (100, 30.5), (30, 100)], False)
    mask = tell(session)
    assert 0.01 < expected.mean() < 0.99
    np.testing.assert_array_equal(mask[y0:y1, x0:x1], expected)
    assert mask.sum() == expected.sum()
    np.testing.assert_array_equal(session.inputs["labels"], alone.inputs["labels"])
    session.reset()
    np.testing.assert_array_equal(session.start(START), START)


def test_prompts_outside_the_region_are_refused(segmenter: Segmenter) -> None:
    session = segmenter.open(IMAGE, region=REGION)
    bounds = r"outside the region: x must be in \[100, 356{0}, y in \[50, 300{0}"
    for x, y in [(99.9, 60), (356, 60), (120, 49), (120, 300)]:
        with pytest.raises(ValueError, match=bounds.format(r"\)")):
            session.click(x, y)
        with pytest.raises(ValueError, match=bounds.format(r"\)")):
            session.stroke([(120, 60), (x, y)])
    session.click(355.9, 299.9)
    session.box(100, 50, 356, 300)
    with pytest.raises(ValueError, match=r"box \(99, 50, 356, 300\) reaches " + bounds.format(r"\]")):
        session.box(99, 50, 356, 300)
    beyond = START.copy()
    beyond[10, 10:13] = True
    with pytest.raises(ValueError, match="the start mask has 3 pixels outside the region"):
        session.start(beyond)
    assert len(session.prompts) == 2


@pytest.mark.parametrize(
    ("region", "error", "message"),
    [
        (
            (0, 0, 401, 300),
            ValueError,
            r"0 <= x0 < x1 <= 400 and 0 <= y0 < y1 <= 300: the image is 400 x 300",
        ),
        ((-1, 0, 20, 20), ValueError, "must have 0 <= x0"),
        ((5, 7, 5, 9), ValueError, "must have 0 <= x0"),
        ((5, 9, 7, 8), ValueError, "must have 0 <= x0"),
        ((5, 9, 7.0, 11), TypeError, "a region must be four whole numbers x0, y0, x1, y1, got"),
        ((5, 9, True, 11), TypeError, "four whole numbers"),
        ((5, 9, 7), TypeError, "four whole numbers"),
        ("1234", TypeError, "four whole numbers"),
        (7, TypeError, "four whole numbers"),
    ],
)
def test_regions_that_make_no_sense_are_refused(
    segmenter: Segmenter, region: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        segmenter.open(IMAGE, region=region)


def test_what_is_kept_of_a_region_serves_that_region_alone(segmenter: Segmenter, tmp_path: Path) -> None:
    """Pictures of one content all over: only keys tell their regions apart."""
    plain = np.full((H, W, 3), 90, np.uint8)
    regions = [REGION, (101, 50, 357, 300), (100, 50, 356, 299), (0, 0, W, H)]
    keys = [picture_key(plain, Region.of(region, H, W)) for region in regions]
    assert len({*keys, picture_key(np.full((H + 1, W, 3), 90, np.uint8), Region.of(REGION, H + 1, W))}) == 5
    assert keys[-1] == picture_key(plain)
    first = segmenter.encode(plain, REGION)
    assert segmenter.encode(plain, REGION) is first
    assert segmenter.encode(plain, regions[1]) is not first
    assert segmenter.encode(plain, regions[-1]) is segmenter.encode(plain)

    images = EncodedImages(tmp_path)
    expected = tell(segmenter.open(IMAGE, region=REGION))
    region = Region.of(REGION, H, W)
    assert [images.find_or_encode(segmenter, IMAGE, region)[1] for _ in range(2)] == [False, True]
    assert not images.find_or_encode(segmenter, IMAGE)[1]
    assert not images.find_or_encode(segmenter, IMAGE, Region.of(regions[1], H, W))[1]
    loaded = EncodedImage.load(images.path(picture_key(IMAGE, region)))
    assert loaded.window == region
    for named in (None, REGION):
        np.testing.assert_array_equal(tell(segmenter.open(loaded, region=named)), expected)
    with pytest.raises(ValueError, match="is not what was encoded of this image"):
        segmenter.open(loaded, region=regions[1])


def test_a_file_that_states_another_region_is_refused(segmenter: Segmenter, tmp_path: Path) -> None:
    path = tmp_path / "region.safetensors"
    segmenter.encode(IMAGE, REGION).save(path)
    content = path.read_bytes()
    assert content.count(b"[100, 50, 356, 300") == 1
    for other in (b"[101, 50, 357, 300", b"[100, 50, 356, 301", b"[100, 50, 999, 300"):
        path.write_bytes(content.replace(b"[100, 50, 356, 300", other))
        with pytest.raises(EncodedImageError):
            EncodedImage.load(path)


@pytest.mark.parametrize("region", [None, REGION])
def test_a_restored_session_goes_on_where_the_other_was(segmenter: Segmenter, region: Any) -> None:
    session = segmenter.open(IMAGE, region=region)
    mask = tell(session)
    state = json.loads(json.dumps(session.state()))
    other = Segmenter(segmenter.bundle.folder, num_threads=1, custom_ops=False)
    for image in (IMAGE, segmenter.encode(IMAGE, region)):
        restored = other.restore(image, state)
        np.testing.assert_array_equal(restored.mask, mask)
        np.testing.assert_array_equal(restored.logits, session.logits)
        assert restored.state() == state
    np.testing.assert_array_equal(restored.click(200, 200), session.click(200, 200))
    for _ in range(4):
        np.testing.assert_array_equal(restored.undo(), session.undo())
    empty = segmenter.open(IMAGE, region=region).state()
    assert other.restore(IMAGE, empty).prompts == ()


def changed(state: Any, path: str, value: Any) -> Any:
    """A copy of the state with another value at a path such as "model.size"; without the entry where it is None."""
    state = deepcopy(state)
    *way, last = path.split(".")
    at = state
    for step in way:
        at = at[int(step)] if isinstance(at, list) else at[step]
    if value is None:
        del at[last]
    else:
        at[int(last) if isinstance(at, list) else last] = value
    return state


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("format", "coco", "no state of a session: format must be 'inter2former-deploy session', got 'coco'"),
        ("version", 2, "version must be 1, got 2: update inter2former-deploy"),
        ("prompts", None, "the state lacks prompts"),
        ("model", [], "model must be a JSON object, got list"),
        ("model.family", "hrsam", "of another bundle: model.family is hrsam, here inter2former"),
        ("model.bundle", "0" * 32, "of another bundle: model.bundle is 0000"),
        ("model.size", 128, "of another bundle: model.size is 128, here 64"),
        ("model.size", "64", "model.size must be a positive whole number, got '64'"),
        ("image.key", "0" * 32, "of another image: image.key is 0000"),
        ("image.key", 5, "image.key must be a text, got int"),
        ("image.height", 10**9, "its image has 1000000000 rows and 400 columns, this one 300 and 400"),
        ("region", [100, 50, 356, 301], "region .* must have"),
        ("region", [100, 50, 355, 300], "of another image: image.key"),
        ("region", "all", "a region must be four whole numbers"),
        ("prompts", {}, "prompts must be a list, got dict"),
        ("prompts.0", 5, r"prompts\[0\]: a prompt must be a JSON object with one of click, box, stroke, mask"),
        ("prompts.1", {"dot": [1, 2]}, r"prompts\[1\]: a prompt must be a JSON object with one of"),
        ("prompts.1", {"click": [1, 2], "box": [1, 2, 3, 4]}, "with one of"),
        ("prompts.1.click", [150, 100, 3], r"prompts\[1\]: click must have 2 numbers, got 3"),
        ("prompts.1.click", ["150", 100], r"prompts\[1\]: click coordinate x must be a number, got '150'"),
        ("prompts.1.click", [float("nan"), 100], "click coordinate x must be finite"),
        ("prompts.1.click", [99, 100], r"prompts\[1\]: click \(99, 100\) lies outside the region"),
        ("prompts.1.positive", 1, "positive must be True or False, got 1"),
        ("prompts.1.positive", None, "a prompt lacks positive"),
        ("prompts.2.box", [1, 2, 3], "box must have 4 numbers, got 3"),
        ("prompts.2.box", [200, 60, 150, 80], "is empty"),
        ("prompts.3.stroke", [], "a stroke needs at least one point"),
        ("prompts.3.stroke", [[120, 70], 5], "a stroke must be a sequence of points"),
        ("prompts.0.mask.size", [H, W + 1], r"size must be that of the image, \[300, 400\], got \[300, 401\]"),
        ("prompts.0.mask.counts", [H * W - 1], r"counts must add up to 120000 pixels, they give 119999"),
        ("prompts.0.mask.counts", [H * W], "the start mask holds no object"),
        ("prompts.0.mask.counts", [-1, H * W + 1], "counts must be whole numbers from 0 to 120000"),
        ("prompts.0.mask.counts", [1e5, 2e4], "counts must be whole numbers"),
        ("prompts.0.mask.counts", [2**70], "counts must be whole numbers"),
        ("prompts.0.mask.counts", [0, H * W], r"prompts\[0\]: the start mask has 56000 pixels outside the region"),
    ],
)
def test_states_from_anywhere_are_checked_before_anything_is_computed(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch, path: str, value: Any, message: str
) -> None:
    session = segmenter.open(IMAGE, region=REGION)
    tell(session)
    state = session.state()
    monkeypatch.setattr(Segmenter, "open", None)
    with pytest.raises(SessionStateError, match=message):
        segmenter.restore(IMAGE, changed(state, path, value))
    for other in (None, [], "state", 5):
        with pytest.raises(SessionStateError, match="the state must be a JSON object"):
            segmenter.restore(IMAGE, other)
    with pytest.raises(SessionStateError, match="its image has 300 rows and 400 columns, this one 200 and 400"):
        segmenter.restore(IMAGE[:200], state)


def test_too_many_prompts_are_refused(segmenter: Segmenter) -> None:
    state = segmenter.open(IMAGE).state()
    state["prompts"] = [{"stroke": [[1, 2]] * 60_000, "positive": True}] * 2
    with pytest.raises(SessionStateError, match="prompts are more than 100000"):
        segmenter.restore(IMAGE, state)
