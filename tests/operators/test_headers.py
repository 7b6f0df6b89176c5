"""The script that fetches onnxruntime's headers, without a network."""

from __future__ import annotations

import importlib.util
import io
import tarfile
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "custom_ops" / "cmake" / "fetch_headers.py"


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fetch_headers", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def archive(path: Path, names: list[str]) -> str:
    """A release archive with files of these names, as a URL."""
    with tarfile.open(path, "w:gz") as file:
        for name in names:
            member = tarfile.TarInfo(name)
            content = name.encode()
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return path.as_uri()


def no_debian(_into: Path) -> None:
    raise RuntimeError("no mirror here")


def test_release_archive(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["ort/include/onnxruntime_c_api.h", "ort/include/onnxruntime_cxx_api.h", "ort/lib/libonnxruntime.so"]
    monkeypatch.setattr(script, "ARCHIVE", archive(tmp_path / "ort.tgz", [*names, "../../outside.h"]))
    monkeypatch.setattr(script, "from_debian", no_debian)
    cache = tmp_path / "cache"
    folder = script.fetch(cache)
    assert sorted(path.name for path in folder.iterdir()) == [
        "onnxruntime_c_api.h",
        "onnxruntime_cxx_api.h",
        "outside.h",
    ]
    assert folder.is_relative_to(cache)
    assert not list(tmp_path.rglob("*.so"))

    (tmp_path / "ort.tgz").unlink()  # the second time, the cache has them
    assert script.fetch(cache) == folder


def test_no_source(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "ARCHIVE", archive(tmp_path / "ort.tgz", ["ort/README"]))
    monkeypatch.setattr(script, "from_debian", no_debian)
    with pytest.raises(
        RuntimeError, match=r"debian-trixie: no mirror here\nrelease-.*: onnxruntime_cxx_api.h is not in"
    ):
        script.fetch(tmp_path / "cache")
    assert not script.header_folder(tmp_path)


def test_cache_folder(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/some/cache")
    assert script.cache_folder() == Path("/some/cache/inter2former-deploy/onnxruntime-headers")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, says its specification
    assert script.cache_folder() == Path.home() / ".cache/inter2former-deploy/onnxruntime-headers"
