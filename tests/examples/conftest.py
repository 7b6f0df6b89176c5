from __future__ import annotations

from pathlib import Path

import pytest

from inter2former_deploy.exporters.bundle import load_weights, write_bundle

SIZE = 256


@pytest.fixture(scope="session")
def demo_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the bundled weights for 256 x 256 pixels, without the gate."""
    folder = tmp_path_factory.mktemp("demo")
    model, weights = load_weights(None)
    write_bundle(folder, model, size=SIZE, weights=weights)
    return folder
