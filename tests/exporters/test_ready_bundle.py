"""The bundle that comes with the package: made of the bundled weights, by the exporter as it is now."""

from __future__ import annotations

import numpy as np
import onnx
import torch

from inter2former_deploy.apps.evaluation import ReferenceSegmenter
from inter2former_deploy.data.photos import load_photo
from inter2former_deploy.exporters.bundle import weights_sha256
from inter2former_deploy.exporters.graphs import export_model
from inter2former_deploy.families.checkpoint import bundled_weights, load_model
from inter2former_deploy.runtime import Segmenter, ready_bundle
from inter2former_deploy.runtime.bundle import open_bundle

LARGEST = 10_000_000  # bytes: it is part of every installation


def functions(graph: onnx.ModelProto) -> dict[str, onnx.FunctionProto]:
    """Those that are the same at every size: blocks are cut by it."""
    return {f.name: f for f in graph.functions if not f.name.endswith("InBlocks")}


def test_it_is_what_the_exporter_makes_now() -> None:
    """If this fails: i2f export -o inter2former_deploy/weights/demo --size 1024 --force, and commit what it writes."""
    bundle = open_bundle(ready_bundle())
    manifest, decoder = bundle.manifest, bundle.manifest.decoder()
    assert manifest.size == 1024
    assert not decoder.failed
    assert decoder.parity is not None
    assert sum(file.stat().st_size for file in ready_bundle().rglob("*.*")) < LARGEST
    model = load_model(bundled_weights())
    assert manifest.encoder.weights_sha256 == weights_sha256(model)
    stated = bundle.family.graph_tensors(model.config, manifest.size)
    for name, entry in {"encoder": manifest.encoder.graph, "prepare": decoder.prepare, "click": decoder.click}.items():
        assert {"inputs": entry.inputs, "outputs": entry.outputs} == stated[name]  # type: ignore[index]
        with torch.inference_mode():
            made = export_model(model, name, size=256)  # type: ignore[arg-type]
        kept = onnx.load(ready_bundle() / entry.file)
        assert {f.name for f in kept.functions} == {f.name for f in made.functions}
        assert functions(kept) == functions(made)


def test_it_segments_as_the_modules_do() -> None:
    image = load_photo("chelsea")
    clicks = [(225.0, 140.0, True), (420.0, 40.0, False)]
    session = Segmenter(ready_bundle()).open(image)
    reference = ReferenceSegmenter(load_model(bundled_weights()), 1024).open(image)
    for click in clicks:
        mask = session.click(*click)
        assert 0.05 < mask.mean() < 0.95
        np.testing.assert_array_equal(mask, reference.click(*click))
