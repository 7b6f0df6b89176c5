"""examples/python/session.ipynb runs; `scripts/notebook.py` does the same in a kernel, with the package's own model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import inter2former_deploy.runtime as runtime

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples" / "python" / "session.ipynb"


def cells() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(NOTEBOOK.read_text())["cells"]
    return [cell for cell in found if cell["cell_type"] == "code"]


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "ready_bundle", lambda: ROOT / "runtime" / "tiny")  # quick
    folder = tmp_path / "examples" / "python"
    folder.mkdir(parents=True)
    (tmp_path / "exporters").mkdir()
    shutil.copy(ROOT / "exporters" / "photograph.jpg", tmp_path / "exporters")
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    for cell in cells():
        exec(compile("".join(cell["source"]), str(NOTEBOOK), "exec"), names)
    height, width = names["image"].shape[:2]
    assert names["mask"].shape == (height, width)
    assert names["masks"].shape == (1, height, width)
    assert len(names["state"]["prompts"]) == 3


def test_the_notebook_is_kept_without_outputs() -> None:
    assert [cell for cell in cells() if cell["outputs"] or cell["execution_count"]] == []
