"""Commands in an installation that lacks packages of the extras."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from inter2former_deploy.core.errors import MissingPackageError
from inter2former_deploy.core.packages import EXPORT_MODULES, require

# Runs `i2f` as if some packages were not installed: no finder finds them.
WITHOUT = """
import sys

hidden, arguments = sys.argv[1].split(","), sys.argv[2:]


class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in hidden else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)


sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
from inter2former_deploy.apps.cli import main

main(arguments)
"""
EXTRAS = (*EXPORT_MODULES, "matplotlib", "skimage", "sklearn", "scipy", "pycocotools", "pillow_heif")
EXPORT_NAMES = "torch, onnx, onnx_ir, onnxscript and ml_dtypes, which are not installed"
TRAIN_NAMES = "torch, matplotlib, skimage and sklearn, which are not installed"


def without(hidden: tuple[str, ...], folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT, ",".join(hidden), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=folder,
    )


@pytest.mark.parametrize(
    ("command", "names", "extra"),
    [
        ("export -o out", f"i2f export needs {EXPORT_NAMES}", "export"),
        ("verify bundle", f"i2f verify needs {EXPORT_NAMES}", "export"),
        ("train -o out", f"i2f train needs {TRAIN_NAMES}", "train"),
        ("train photos -o out", "i2f train needs torch and matplotlib, which are not installed", "train"),
        ("ablate -o out", f"i2f ablate needs {TRAIN_NAMES}", "train"),
        ("bench ops -o out", f"i2f bench ops needs {EXPORT_NAMES}", "export"),
        ("bench ops --alone", f"i2f bench ops needs {EXPORT_NAMES}", "export"),
        ("bench click -o out", f"i2f bench click needs {EXPORT_NAMES}", "export"),
        ("bench encode -o out", f"i2f bench encode needs {EXPORT_NAMES}", "export"),
        ("bench session bundle", f"i2f bench session needs {EXPORT_NAMES}", "export"),
        (
            "bench figure -o out.png",
            "i2f bench figure needs torch, onnx, onnx_ir, onnxscript, ml_dtypes and matplotlib",
            "train",
        ),
    ],
)
def test_what_to_install_is_said_before_any_work(tmp_path: Path, command: str, names: str, extra: str) -> None:
    done = without(EXTRAS, tmp_path, *command.split())
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"i2f: {names}")
    assert line.endswith(f": pip install 'inter2former-deploy[{extra}]'")
    assert list(tmp_path.iterdir()) == []


def test_the_runtime_needs_no_extra(tmp_path: Path, toy_bundle: Path) -> None:
    import cv2
    import numpy as np

    picture = tmp_path / "picture.png"
    cv2.imwrite(str(picture), np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8))
    for command in (
        ["info", toy_bundle],
        ["encode", picture, "-o", tmp_path / "encoded", "--bundle", toy_bundle],
        ["segment", toy_bundle, picture, "--fg", "9,9", "-o", tmp_path / "mask.png"],
        ["doctor"],
    ):
        done = without(EXTRAS, tmp_path, *command)
        assert (done.returncode, done.stderr.count("i2f:")) == (0, 0), done.stderr
    assert (tmp_path / "mask.png").is_file()


OF_RAY = "ray, pandas and pyarrow, which are not installed: pip .*[ray]'"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            "encode x.png -o out --ray --bundle b",
            f"i2f encode --ray needs {OF_RAY}",
        ),
        (
            "segment-batch b list.jsonl -o out --ray 10.0.0.1:6379",
            f"i2f segment-batch --ray needs {OF_RAY}",
        ),
        (
            "eval synthetic --bundle b --ray",
            f"i2f eval --ray needs {OF_RAY}",
        ),
        ("serve b --ray --replicas 2", "i2f serve --ray needs ray, which is not installed: pip .*[ray]'"),
        ("encode s3://a/ -o out --bundle b", "s3://a/ needs fsspec, which is not installed: pip .*[storage]'"),
        ("encode a.png -o s3://out --bundle b", "--output s3://out needs fsspec, which is not installed"),
    ],
)
def test_ray_and_object_stores_are_extras(tmp_path: Path, command: str, message: str) -> None:
    done = without(("ray", "pandas", "pyarrow", "fsspec"), tmp_path, *command.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert re.search(message.replace("[", r"\["), done.stderr), done.stderr


@pytest.mark.parametrize(
    ("hidden", "words"),
    [(("onnxscript",), "onnxscript, which is"), (("torch", "onnx"), "torch and onnx, which are")],
)
def test_only_what_is_missing_is_named(tmp_path: Path, hidden: tuple[str, ...], words: str) -> None:
    done = without(hidden, tmp_path, "export", "-o", "out")
    expected = f"i2f: i2f export needs {words} not installed: pip install 'inter2former-deploy[export]'\n"
    assert (done.returncode, done.stderr) == (2, expected)


def test_require() -> None:
    require("json", "numpy", extra="none", needed_by="this test")
    with pytest.raises(MissingPackageError, match=r"^this test needs no_such_module, which is not installed: pip "):
        require("json", "no_such_module", extra="none", needed_by="this test")
