"""The whole road: a model becomes a bundle, and its sessions give what the reference session and the release give."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from inter2former_deploy.apps.evaluation import ReferenceSegmenter
from inter2former_deploy.core.contract import DECODER_FILES, ENCODER_FILE
from inter2former_deploy.exporters.bundle import export_bundle, load_weights
from inter2former_deploy.families.config import presets
from inter2former_deploy.families.hrsam.gate import check_parity
from inter2former_deploy.families.hrsam.model import HRSAM
from inter2former_deploy.families.hrsam.session import ReferenceSession
from inter2former_deploy.runtime import EncodedImage, Segmenter

NAME = "hrsam_probe"
BOX = (30.0, 20.0, 150.5, 120.0)


@pytest.fixture(scope="module")
def arrays(golden: Any) -> dict[str, Any]:
    return golden("hrsam_session")


@pytest.fixture(scope="module")
def image(arrays: dict[str, Any]) -> Any:
    return np.ascontiguousarray(arrays["image_bgr"][..., ::-1])


@pytest.fixture(scope="module")
def model(hrsam_models: Callable[[str], HRSAM]) -> HRSAM:
    """The model of the session: its masks are neither empty nor full."""
    model = copy.deepcopy(hrsam_models(NAME))
    model.decode_head.get_parameter("output_hypernetworks_mlps.0.layers.2.bias").data += 0.15
    return model


@pytest.fixture(scope="module")
def bundle(model: HRSAM, arrays: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Verified by the gate, with the operator library and without."""
    folder = tmp_path_factory.mktemp("hrsam") / "bundle"
    report = export_bundle(model, folder, size=int(arrays["size"]), num_threads=1)
    assert {check.tensor for check in report.parity.checks} >= {"image_embedding", "image_key", "logits", "masks"}
    assert report.parity.table().endswith("all within limits")
    return folder


@pytest.fixture(scope="module", params=[False, True], ids=["bodies", "library"])
def segmenter(request: pytest.FixtureRequest, bundle: Path) -> Segmenter:
    return Segmenter(bundle, num_threads=1, custom_ops=request.param)


def differing(found: Any, expected: Any) -> Any:
    """Share of pixels."""
    assert found.shape == expected.shape
    return np.mean(found != expected, dtype=np.float64)


def test_a_session_gives_what_the_release_gave(
    segmenter: Segmenter, image: Any, arrays: dict[str, Any], assert_close: Any
) -> None:
    session = segmenter.open(image)
    for i, (y, x, positive) in enumerate(arrays["clicks_yxp"].tolist()):
        found = session.click(x, y, bool(positive))
        expected = np.unpackbits(arrays[f"mask_{i}"], count=found.size).reshape(found.shape).astype(bool)
        assert_close(session.logits, arrays["low_res"][i], "hrsam logits")
        assert_close(differing(found, expected), 0.0, "hrsam masks")


def test_every_prompt_gives_what_the_reference_session_gives(
    segmenter: Segmenter, model: HRSAM, image: Any, arrays: dict[str, Any], assert_close: Any
) -> None:
    ours, theirs = segmenter.open(image), ReferenceSession(model, arrays["image_bgr"], segmenter.size)
    mask = np.zeros(image.shape[:2], bool)
    mask[40:90, 60:140] = True
    ours.start(mask)
    theirs.start(mask)
    seen = [ours.mask]
    for prompt, arguments in (("click", (70, 50)), ("box", BOX), ("click", (20.5, 100.25, False))):
        found, expected = (getattr(session, prompt)(*arguments) for session in (ours, theirs))
        assert_close(ours.logits, theirs.logits, "hrsam logits")
        assert_close(differing(found, expected), 0.0, "hrsam masks")
        assert all(differing(found, other) > 0.01 for other in seen)  # every prompt has a say
        seen.append(found)
    assert np.array_equal(ours.undo(), seen[-2])
    assert np.array_equal(ours.click(20.5, 100.25, False), seen[-1])
    again = segmenter.restore(image, ours.state())
    assert np.array_equal(again.mask, seen[-1])
    for _ in range(3):
        ours.undo()
    assert np.array_equal(ours.mask, mask)
    with pytest.raises(ValueError, match="outside the image"):
        ours.click(image.shape[1], 0)


def test_the_evaluation_opens_images_with_the_modules(model: HRSAM, image: Any, arrays: dict[str, Any]) -> None:
    ours = ReferenceSegmenter(model, int(arrays["size"])).open(image)
    theirs = ReferenceSession(model, arrays["image_bgr"], int(arrays["size"]))
    for click in ((70, 50), (20.5, 100.25, False)):
        assert differing(ours.click(*click), theirs.click(*click)) <= 1e-4


def test_an_encoding_holds_the_embedding_alone(segmenter: Segmenter, image: Any, tmp_path: Path) -> None:
    encoded = segmenter.encode(image)
    assert [*encoded.tensors] == ["image_embedding"]
    encoded.save(tmp_path / "picture.safetensors")
    session = segmenter.open(EncodedImage.load(tmp_path / "picture.safetensors"))
    assert np.array_equal(session.box(*BOX), segmenter.open(image).box(*BOX))


@pytest.mark.parametrize("graph", ["encoder", "prepare", "click"])
def test_the_gate_refuses_a_changed_weight(model: HRSAM, bundle: Path, tmp_path: Path, graph: str) -> None:
    """One channel of one layer, 1 % larger: nothing that a person would see."""
    files = {"encoder": bundle / ENCODER_FILE} | {name: bundle / NAME / file for name, file in DECODER_FILES.items()}
    changed = onnx.load(files[graph])
    layers = [tensor for tensor in changed.graph.initializer if len(tensor.dims) == 2 and min(tensor.dims) >= 64]
    weight = numpy_helper.to_array(layers[len(layers) // 2]).copy()
    weight[:, 0] *= 1.01
    layers[len(layers) // 2].CopyFrom(numpy_helper.from_array(weight, layers[len(layers) // 2].name))
    files[graph] = tmp_path / "changed.onnx"
    onnx.save(changed, files[graph])
    report = check_parity(model, **files, size=256, custom_ops=False, num_threads=1)
    assert {check.tensor for check in report.failures} & {"image_embedding", "image_key", "image_query", "logits"}


def test_settings_of_another_family_are_refused(tmp_path: Path) -> None:
    config = presets()[NAME]
    with pytest.raises(ValueError, match="edge_rule is a choice of Inter2Former's decoder; hrsam has none"):
        load_weights(None, config=config, edge_rule="exact")
    with pytest.raises(ValueError, match="size must be a positive multiple of 16, got 200"):
        export_bundle(None, tmp_path / "bundle", config=config, size=200)
    assert not [*tmp_path.iterdir()]
