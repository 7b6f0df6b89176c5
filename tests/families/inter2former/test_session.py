"""Whole interactive sessions against those of the release: from stored features tightly, from the image by masks."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from tolerances import TOLERANCES
from torch.nn import functional as F

from inter2former_deploy.core.contract import MEAN_BGR, STD_BGR
from inter2former_deploy.core.prompts import Click
from inter2former_deploy.families.inter2former.config import PAD_MULTIPLE
from inter2former_deploy.families.inter2former.labels import add_clicks, fold_prediction, unknown_labels
from inter2former_deploy.families.inter2former.modules.model import ImageFeatures, Inter2Former

SIZE = 256
EDGES = tuple(f"edge_{i}" for i in range(4))


@pytest.fixture(scope="module")
def model(probe_model: Inter2Former) -> Inter2Former:
    """The model of the sessions: its masks are neither empty nor full."""
    model = copy.deepcopy(probe_model)
    model.decode_head.upsamplers[3].conv.bias.data += 0.42
    return model


def square_side(height: int, width: int) -> int:
    return -(-max(height, width) // PAD_MULTIPLE) * PAD_MULTIPLE


def preprocess(image: np.ndarray) -> torch.Tensor:
    """uint8 BGR [H, W, 3] -> the model input [1, 3, SIZE, SIZE]: normalise, pad to a square, resize."""
    height, width, _ = image.shape
    side = square_side(height, width)
    x = (torch.from_numpy(image).float() - torch.tensor(MEAN_BGR)) / torch.tensor(STD_BGR)
    x = F.pad(x.permute(2, 0, 1)[None], (0, side - width, 0, side - height))
    return F.interpolate(x, size=(SIZE, SIZE), mode="bilinear", align_corners=False)


def postprocess(logits: torch.Tensor, height: int, width: int) -> np.ndarray:
    """Logits [1, 1, SIZE, SIZE] -> logits of the image [H, W]."""
    side = square_side(height, width)
    return F.interpolate(logits, size=(side, side), mode="bilinear", align_corners=False)[0, 0, :height, :width].numpy()


def clicks(arrays: dict[str, np.ndarray]) -> list[Click]:
    """The session's clicks, in pixels of the model's square."""
    scale = SIZE / square_side(*arrays["image_bgr"].shape[:2])
    return [Click(int(scale * x), int(scale * y), bool(positive)) for y, x, positive in arrays["clicks_yxp"]]


def mask(arrays: dict[str, np.ndarray], i: int) -> np.ndarray:
    height, width, _ = arrays["image_bgr"].shape
    return np.unpackbits(arrays[f"mask_{i}"], count=height * width).reshape(height, width).astype(bool)


def stored_features(arrays: dict[str, np.ndarray]) -> ImageFeatures:
    return ImageFeatures(
        torch.from_numpy(arrays["image_embedding"]), tuple(torch.from_numpy(arrays[name]) for name in EDGES)
    )


@torch.inference_mode()
def test_session_from_stored_features(model: Inter2Former, golden: Any, assert_close: Any) -> None:
    arrays = golden("session")
    features = stored_features(arrays)
    labels = unknown_labels(SIZE)
    for i, click in enumerate(clicks(arrays)):
        add_clicks(labels, [click])
        assert np.array_equal(labels, arrays[f"label_{i}"])
        logits = model.decode(features, torch.from_numpy(labels)[None])
        assert_close(logits[0, 0], arrays[f"logits_{i}"], "session logits")
        at_image = postprocess(logits, *arrays["image_bgr"].shape[:2])
        decided = np.abs(at_image) > 1e-5  # the sign of the others is rounding
        assert np.array_equal(at_image[decided] > 0, mask(arrays, i)[decided])
        assert 0.1 < mask(arrays, i).mean() < 0.9
        # The release's own prediction: a logit that rounding moves over 0 must not change the next steps.
        fold_prediction(labels, arrays[f"logits_{i}"] > 0)


@torch.inference_mode()
def test_embedding_from_the_image(model: Inter2Former, golden: Any, assert_close: Any) -> None:
    arrays = golden("session")
    features = model.encode(preprocess(arrays["image_bgr"]))
    assert_close(features.embedding, arrays["image_embedding"], "encoder")
    for computed, name in zip(features.edges, EDGES, strict=True):
        assert computed.shape == arrays[name].shape


@pytest.mark.parametrize("onednn", [True, False])
@pytest.mark.parametrize("name", ["session", "session_third"])
@torch.inference_mode()
def test_session_from_the_image(
    model: Inter2Former, golden: Any, name: str, onednn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Canny maps depend on how convolutions round, so two backends show what masks of one model may differ by."""
    if onednn and not torch.backends.mkldnn.is_available():
        pytest.skip("this PyTorch has no oneDNN")
    arrays = golden(name)
    labels = unknown_labels(SIZE)
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", onednn)
    features = model.encode(preprocess(arrays["image_bgr"]))
    for i, click in enumerate(clicks(arrays)):
        add_clicks(labels, [click])
        if i == 0:
            assert np.array_equal(labels, arrays["label_0"])
        logits = model.decode(features, torch.from_numpy(labels)[None])
        found, expected = postprocess(logits, *arrays["image_bgr"].shape[:2]) > 0, mask(arrays, i)
        iou = (found & expected).sum() / (found | expected).sum()
        assert 1 - iou <= TOLERANCES["session masks", "bool"].atol, f"click {i}: IoU {iou:.4f}"
        fold_prediction(labels, (logits[0, 0] > 0).numpy())


@torch.inference_mode()
def test_samples_of_a_batch_are_independent(model: Inter2Former, golden: Any, assert_close: Any) -> None:
    arrays = golden("session")
    one = stored_features(arrays)
    two = ImageFeatures(one.embedding.repeat(2, 1, 1, 1), tuple(edge.repeat(2, 1, 1, 1) for edge in one.edges))
    logits = model.decode(two, torch.from_numpy(np.stack([arrays["label_1"], arrays["label_4"]])))
    assert_close(logits[:, 0], np.stack([arrays["logits_1"], arrays["logits_4"]]), "session logits")


@pytest.mark.parametrize(
    "labels",
    [
        torch.full((1, SIZE, SIZE), 2, dtype=torch.int64),
        torch.full((SIZE, SIZE), 2, dtype=torch.uint8),
        torch.full((2, SIZE, SIZE), 2, dtype=torch.uint8),
        torch.full((1, SIZE, SIZE // 2), 2, dtype=torch.uint8),
    ],
)
def test_other_labels_are_refused(model: Inter2Former, golden: Any, labels: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"expected uint8 labels \[1, 256, 256\]"):
        model.decode(stored_features(golden("session")), labels)
