"""Sessions of clicks from picture to masks against the golden arrays, and the arithmetic of their frames."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from inter2former_deploy.core.prompts import Click
from inter2former_deploy.families import pictures
from inter2former_deploy.families.encoder_graph import EncoderGraph
from inter2former_deploy.families.hrsam.config import PRESETS
from inter2former_deploy.families.hrsam.model import HRSAM
from inter2former_deploy.families.hrsam.pictures import Frame, model_size
from inter2former_deploy.families.hrsam.session import ReferenceSession, image_logits, model_input

Models = Callable[[str], HRSAM]
SESSIONS = {"hrsam_session": "hrsam_probe", "hrsam_session_pp": "hrsampp_probe"}
CLICKS = 4


@pytest.fixture(scope="module", params=SESSIONS)
def arrays(request: pytest.FixtureRequest, golden: Any) -> dict[str, Any]:
    return {"name": request.param, **golden(request.param)}


@pytest.fixture(scope="module")
def model(arrays: dict[str, Any], hrsam_models: Models) -> HRSAM:
    """The model of the session: its masks are neither empty nor full."""
    model = copy.deepcopy(hrsam_models(SESSIONS[arrays["name"]]))
    model.decode_head.get_parameter("output_hypernetworks_mlps.0.layers.2.bias").data += 0.15
    return model


@pytest.fixture(scope="module")
def frame(arrays: dict[str, Any]) -> Frame:
    return Frame(*arrays["image_bgr"].shape[:2], size=int(arrays["size"]))


def clicks(arrays: dict[str, Any]) -> list[Click]:
    return [Click(float(x), float(y), bool(positive)) for y, x, positive in arrays["clicks_yxp"]]


def mask(arrays: dict[str, Any], i: int) -> Any:
    height, width, _ = arrays["image_bgr"].shape
    return np.unpackbits(arrays[f"mask_{i}"], count=height * width).reshape(height, width).astype(bool)


def share(found: Any, expected: Any) -> Any:
    """Of pixels that differ."""
    assert found.shape == expected.shape
    return np.mean(found != expected, dtype=np.float64)


def test_frame(arrays: dict[str, Any], frame: Frame, assert_close: Any) -> None:
    assert list(frame.padded) == arrays["padded_hw"].tolist()
    assert list(frame.resized) == arrays["resized_hw"].tolist()
    x = model_input(arrays["image_bgr"], frame)
    assert x.shape == (1, 3, frame.size, frame.size)
    assert_close(x[0, :, 5::16, 7::16], arrays["model_input_every16"], "hrsam model input")
    # What the runtime does: pads with the colour that the graph's normalisation makes 0, and resizes before it.
    rgb = torch.from_numpy(pictures.model_input(arrays["image_bgr"][..., ::-1], frame))
    graph = EncoderGraph(HRSAM(PRESETS["hrsam_probe"]))
    assert_close(graph.normalize(rgb), x, "hrsam model input")
    height, width = frame.resized
    assert (x[:, :, height:] == 0).all()
    assert (x[:, :, :, width:] == 0).all()
    found = np.array([frame.to_model(click)[:2] for click in clicks(arrays)], np.float32)
    assert np.array_equal(found, arrays["xy"])


def test_session_from_the_picture(model: HRSAM, arrays: dict[str, Any], assert_close: Any) -> None:
    session = ReferenceSession(model, arrays["image_bgr"], int(arrays["size"]))
    assert_close(session.embedding[0], arrays["embedding"], "hrsam encoder")
    assert not session.mask.any()
    for i, click in enumerate(clicks(arrays)):
        found = session.click(*click)
        logits = session.logits
        assert_close(logits, arrays["low_res"][i], "hrsam logits")
        assert_close(np.median(np.abs(logits.astype(np.float64) - arrays["low_res"][i])), 0.0, "hrsam median of logits")
        assert 0.02 < mask(arrays, i).mean() < 0.98
        assert_close(share(found, mask(arrays, i)), 0.0, "hrsam masks")
        assert np.array_equal(session.mask, found)


@torch.inference_mode()
def test_clicks_from_the_stored_embedding(
    model: HRSAM, arrays: dict[str, Any], frame: Frame, assert_close: Any
) -> None:
    """Each decode from the release's own embedding and logits: nothing adds up from click to click."""
    embedding, xy = (torch.from_numpy(arrays[name])[None] for name in ("embedding", "xy"))
    labels = torch.from_numpy(arrays["clicks_yxp"][None, :, 2])
    for i in range(CLICKS):
        previous = torch.from_numpy(arrays["low_res"][i - 1])[None, None] if i else None
        prediction = model.predict(embedding, xy[:, : i + 1], labels[:, : i + 1], previous)
        assert_close(prediction.masks[0, 0], arrays["low_res"][i], "hrsam logits")
        assert_close(prediction.iou[0], arrays["iou"][i], "hrsam decoder")
        expected = torch.from_numpy(arrays["low_res"][i])[None, None]
        found = (image_logits(expected, frame)[0, 0] > 0).numpy()
        assert_close(share(found, mask(arrays, i)), 0.0, "hrsam masks")


def test_undo_and_decoding_again(model: HRSAM, arrays: dict[str, Any]) -> None:
    """Undo restores what was, the previous logits included; decoding again goes on from the newer logits."""
    session = ReferenceSession(model, arrays["image_bgr"], int(arrays["size"]))
    first, second, *_ = clicks(arrays)
    with pytest.raises(RuntimeError, match="nothing to segment before the first prompt"):
        session.again()
    with pytest.raises(RuntimeError, match="no prompt to undo"):
        session.undo()
    one = session.click(*first)
    logits = session.logits
    two = session.click(*second)
    assert (one != two).any()
    assert np.array_equal(session.undo(), one)
    assert session.logits is logits
    assert np.array_equal(session.click(*second), two)

    before = session.logits
    session.again()
    after = session.logits
    assert np.abs(before - after).max() > 1e-3  # the same clicks, but another previous mask
    with pytest.raises(ValueError, match="outside the image"):
        session.click(-1, 0)
    assert session.logits is after
    session.undo()
    assert np.array_equal(session.undo(), np.zeros_like(one))
    assert "previous" not in session.state.inputs()


@pytest.mark.parametrize(
    ("height", "width", "size", "padded", "resized"),
    [
        (32, 64, 64, (32, 64), (32, 64)),  # nothing to do
        (33, 64, 128, (64, 64), (128, 128)),  # padded to a multiple of 32, then enlarged
        (1, 1, 16, (32, 32), (16, 16)),
        (100, 230, 112, (128, 256), (56, 112)),
        (96, 160, 80, (96, 160), (48, 80)),
        (600, 1000, 240, (608, 1024), (143, 240)),  # 142.5 is rounded up
    ],
)
def test_frames(
    height: int, width: int, size: int, padded: tuple[int, int], resized: tuple[int, int], assert_close: Any
) -> None:
    frame = Frame(height, width, size)
    assert (frame.padded, frame.resized) == (padded, resized)
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    x = model_input(image, frame)
    assert x.shape == (1, 3, size, size)
    if resized == padded:
        mean, std = np.array((123.675, 116.28, 103.53)), np.array((58.395, 57.12, 57.375))
        plain = ((image - mean) / std).transpose(2, 0, 1).astype(np.float32)
        assert_close(x[0, :, :height, :width], plain, "hrsam model input")
    logits = image_logits(torch.full((1, 1, size // 4, size // 4), -3.5), frame)
    assert logits.shape == (1, 1, height, width)
    torch.testing.assert_close(logits, torch.full_like(logits, -3.5))


@pytest.mark.parametrize(
    ("height", "width", "expected"), [(600, 900, 1024), (1000, 1024, 1024), (1025, 64, 2048), (3000, 900, 2048)]
)
def test_the_smallest_size_that_does_not_shrink_the_picture(height: int, width: int, expected: int) -> None:
    assert model_size(height, width, (2048, 1024)) == expected


def test_the_border_is_padded_before_it_is_resized() -> None:
    """What is beyond the picture's border mixes into its last pixels: the order of the two paddings matters."""
    frame = Frame(24, 32, 64)  # padded to 32 x 32, twice as large in the model
    assert frame.resized == (64, 64)
    image = np.full((24, 32, 3), 255, np.uint8)
    x = model_input(image, frame)[0, 0, :, 5]
    full = x[0]
    assert torch.equal(x[:47], full.expand(47))
    torch.testing.assert_close(x[47:49] / full, torch.tensor([0.75, 0.25]))
    assert (x[49:] == 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 5, 64), "the image is empty: 0 x 5"),
        ((5, 5, 72), "size must be a multiple of 16, got 72"),
        ((5, 5, 0), "size must be a multiple of 16, got 0"),
        ((10, 9000, 64), "an image of 10 x 9000 pixels is too narrow for a model size of 64"),
    ],
)
def test_other_frames_are_refused(arguments: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Frame(*arguments)


@pytest.mark.parametrize(("x", "y"), [(-0.5, 3), (32, 3), (3, 24), (float("nan"), 3), (3, float("inf"))])
def test_clicks_outside_are_refused(x: float, y: float) -> None:
    with pytest.raises(ValueError, match=r"lies outside the image: x must be in \[0, 32\), y in \[0, 24\)"):
        Frame(24, 32, 64).to_model(Click(x, y, True))


def test_other_arrays_are_refused(hrsam_models: Models) -> None:
    frame = Frame(24, 32, 64)
    for image in (np.zeros((24, 32, 3), np.float32), np.zeros((32, 24, 3), np.uint8), np.zeros((24, 32, 4), np.uint8)):
        with pytest.raises(ValueError, match=r"expected a uint8 BGR image \[24, 32, 3\]"):
            model_input(image, frame)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected a uint8 BGR image \[H, W, 3\]"):
        ReferenceSession(hrsam_models("hrsam_probe"), np.zeros((24, 32), np.uint8), 64)
    with pytest.raises(ValueError, match=r"expected logits \[B, 1, 16, 16\], got \[1, 1, 64, 64\]"):
        image_logits(torch.zeros(1, 1, 64, 64), frame)
