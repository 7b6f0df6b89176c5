"""The bundle that comes with the package: made of the bundled weights, by the exporter as it is now."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from graphs import assert_as_exported_now, exported

from inter2former_deploy.apps.evaluation import ReferenceSegmenter
from inter2former_deploy.data.photos import load_photo
from inter2former_deploy.exporters import bundle, parity
from inter2former_deploy.exporters.bundle import export_bundle, load_exported, verify_bundle, weights_sha256
from inter2former_deploy.families.checkpoint import bundled_weights, load_model
from inter2former_deploy.families.inter2former import gate
from inter2former_deploy.families.inter2former.config import DEMO
from inter2former_deploy.runtime import Segmenter, ready_bundle
from inter2former_deploy.runtime.bundle import open_bundle

SIZE = 128
LARGEST = 12_000_000  # bytes: it is part of every installation


def test_it_is_what_the_exporter_makes_now() -> None:
    """If this fails: i2f export -o inter2former_deploy/weights/demo --size 1024 --force, and commit what it writes."""
    manifest = open_bundle(ready_bundle()).manifest
    assert manifest.size == 1024
    assert not manifest.decoder().failed
    assert manifest.decoder().parity is not None
    assert sum(file.stat().st_size for file in ready_bundle().rglob("*.*")) < LARGEST
    model = load_model(bundled_weights())
    assert manifest.encoder.weights_sha256 == weights_sha256(model)
    assert_as_exported_now(ready_bundle(), model, SIZE)


def test_bundled_weights_are_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "SESSION", 1)
    monkeypatch.setattr(gate, "NOISE_DECODES", (0, 0))
    monkeypatch.setattr(bundle, "export_model", exported)  # as above
    manifest = export_bundle(None, tmp_path / "bundle", size=SIZE, custom_ops=False).manifest
    decoder = manifest.decoder()
    assert decoder.config == DEMO.to_dict()
    assert decoder.weights["source"] == "bundled"
    assert verify_bundle(tmp_path / "bundle", custom_ops=False).passed
    decoder.weights["sha256"] = "0" * 64  # a bundle of another version's weights
    with pytest.raises(ValueError, match="SHA-256 differ"):
        load_exported(decoder)


def test_it_segments_as_the_modules_do() -> None:
    image = load_photo("chelsea")
    clicks = [(225.0, 140.0, True), (420.0, 40.0, False)]
    session = Segmenter(ready_bundle()).open(image)
    reference = ReferenceSegmenter(load_model(bundled_weights()), 1024).open(image)
    for click in clicks:
        mask = session.click(*click)
        assert 0.05 < mask.mean() < 0.95
        np.testing.assert_array_equal(mask, reference.click(*click))
