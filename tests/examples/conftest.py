from __future__ import annotations

from pathlib import Path

import pytest

from inter2former_deploy.core.manifest import Manifest, sha256
from inter2former_deploy.exporters.bundle import load_weights
from inter2former_deploy.exporters.graphs import DEFAULT_OPSET, export_decoder, export_encoder

SIZE = 256


@pytest.fixture(scope="session")
def demo_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the bundled weights for 256 x 256 pixels, without the gate."""
    folder = tmp_path_factory.mktemp("demo")
    model, weights = load_weights(None)
    graphs = {
        "encoder.onnx": export_encoder(model, size=SIZE),
        "decoder.onnx": export_decoder(model, size=SIZE),
    }
    for name, graph in graphs.items():
        (folder / name).write_bytes(graph.SerializeToString())
    files = {name: sha256(folder / name) for name in graphs}
    Manifest(size=SIZE, config=model.config.to_dict(), files=files, opset=DEFAULT_OPSET, weights=weights).write(folder)
    return folder
