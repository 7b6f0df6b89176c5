from __future__ import annotations

from pathlib import Path

import pytest
from toy_bundle import write_toy_bundle


@pytest.fixture
def toy_bundle(tmp_path: Path) -> Path:
    """A bundle of toy graphs that a test may damage."""
    return write_toy_bundle(tmp_path / "bundle")
