"""A checkpoint whose weights, and with them its constants, were rounded to half precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from inter2former_deploy.core.manifest import Manifest
from inter2former_deploy.exporters import parity
from inter2former_deploy.exporters.bundle import export_bundle
from inter2former_deploy.families.inter2former import gate

SIZE = 64  # where rounded Canny filters show most: a pixel counts most


def test_it_passes_the_gate_and_the_manifest_says_what_was_rounded(
    probe_weights: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "CLICKS", parity.CLICKS[:2])
    monkeypatch.setattr(gate, "NOISE_DECODES", (0, 0))
    path = tmp_path / "half.pth"
    torch.save({"model": {n: t.bfloat16() if t.is_floating_point() else t for n, t in probe_weights.items()}}, path)
    told: list[str] = []
    report = export_bundle(path, tmp_path / "bundle", size=SIZE, num_threads=1, progress=told.append)
    assert report.parity.passed
    notes = Manifest.read(tmp_path / "bundle").decoder().weights["notes"]
    assert notes[0] == "the weights lie under ['model']"
    assert notes[1].startswith("constants that the file has rounded are set exactly: edge_detector.canny.g_h.weight, ")
    assert [f"half.pth: {note}" for note in notes] == [line for line in told if line.startswith("half.pth: ")]
