"""Where the modules of the package come from."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

import inter2former_deploy
from inter2former_deploy import exporters, runtime

NESTED = {"runtime": runtime, "exporters": exporters}
# As in an environment whose packages are a folder `site`, whatever way this one was installed. The folder that the
# package really lies in stays on the path, behind: in an ordinary environment all other packages lie there, too.
ELSEWHERE = """
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in str(finder).lower()]
sys.path[:0] = {paths}
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with the package as a wheel installs it."""
    folder = tmp_path / "site"
    without = shutil.ignore_patterns("__pycache__", *NESTED, "weights")
    shutil.copytree(Path(inter2former_deploy.__file__).parent, folder / "inter2former_deploy", ignore=without)
    for name, module in NESTED.items():
        shutil.copytree(Path(str(module.__file__)).parent, folder / "inter2former_deploy" / name)
    metadata = folder / "inter2former_deploy-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: inter2former-deploy\nVersion: 0.1.0\n")
    return folder


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder laid out as the repository: the subpackages lie beside the package."""
    folder = tmp_path / "checkout"
    without = shutil.ignore_patterns("__pycache__", *NESTED, "weights", "lib")
    shutil.copytree(Path(inter2former_deploy.__file__).parent, folder / "inter2former_deploy", ignore=without)
    for name, module in NESTED.items():
        shutil.copytree(Path(str(module.__file__)).parent, folder / name)
    return folder


def run(code: str, *paths: Path) -> list[str]:
    setup = ELSEWHERE.format(paths=[str(path) for path in paths])
    done = subprocess.run([sys.executable, "-c", setup + code], capture_output=True, text=True, cwd=paths[0])
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_in_a_checkout_modules_come_from_the_installed_package(site: Path, checkout: Path) -> None:
    code = """
from inter2former_deploy.runtime import Segmenter
import inter2former_deploy.apps.cli
import inter2former_deploy.core.library as library
for name, module in sorted(sys.modules.items()):
    if name.startswith("inter2former_deploy."):
        print(module.__file__)
try:
    print(library.library_path())
except library.OperatorLibraryError as error:
    print(error)
"""
    *files, library = run(code, checkout, site)
    assert len(files) > 15
    assert [file for file in files if not file.startswith(str(site))] == []
    assert str(site / "inter2former_deploy" / "lib") in library


def test_an_installed_package_is_left_alone(site: Path) -> None:
    code = "import inter2former_deploy; print(*inter2former_deploy.__path__, inter2former_deploy.__version__)"
    assert run(code, site) == [f"{site / 'inter2former_deploy'} 0.1.0"]


@pytest.mark.parametrize("where", ["checkout", "site"])
def test_the_package_runs_as_a_command(site: Path, checkout: Path, where: str) -> None:
    code = """
import runpy
sys.argv[1:] = ["--version"]
runpy.run_module("inter2former_deploy", run_name="__main__", alter_sys=True)
"""
    assert run(code, *([checkout, site] if where == "checkout" else [site])) == ["0.1.0"]


def test_versions_agree() -> None:
    assert inter2former_deploy.__version__ == distribution("inter2former-deploy").version


def test_onnxruntime_is_told_to_send_nothing(tmp_path: Path) -> None:
    """From its import on it would: then it leaves an identifier of the device in the user's cache."""
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    code = "import inter2former_deploy.runtime, onnxruntime, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    for given, expected in ({}, "1"), ({"ORT_DISABLE_TELEMETRY": "yes"}, "yes"):
        run = [sys.executable, "-c", code]
        told = subprocess.run(run, env=environment | given, check=True, capture_output=True, text=True)
        assert told.stdout.strip() == expected  # what the user says counts
        assert not list(tmp_path.rglob("*device*"))
