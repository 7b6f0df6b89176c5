"""examples/cpp: a session of clicks in C++ gives the masks of this package's runtime."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest
from operators.harness import library_path
from steps import take

from inter2former_deploy.exporters.parity import load_photograph
from inter2former_deploy.runtime import Segmenter

ROOT = Path(__file__).parents[2]
TINY = ROOT / "runtime" / "tiny"  # random weights: masks of many holes and borders
STEPS = ["+285,190", "-60,60", "+400.5,120.25", "undo", "-520,330", "+150,260", "undo", "-480,60"]


@pytest.fixture(scope="module")
def program() -> Path:
    """The program, built anew where a source changed."""
    if shutil.which("c++") is None:
        pytest.skip("there is no C++ compiler")
    if tuple(map(int, onnxruntime.__version__.split(".")[:2])) < (1, 21):
        pytest.skip("this onnxruntime is older than the headers")
    folder = ROOT / "build" / "cpp"
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    configure = [
        "cmake",
        "-S",
        ROOT / "examples" / "cpp",
        "-B",
        folder,
        *generator,
        f"-DPython3_EXECUTABLE={sys.executable}",
    ]
    for command in ([*configure, "-DCMAKE_CXX_FLAGS=-Werror"], ["cmake", "--build", folder, "-j", "2"]):
        built = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        assert built.returncode == 0, built.stdout[-4000:]
    return folder / "segment"


def run(program: Path, *arguments: str | Path, operators: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "INTER2FORMER_OPS_LIBRARY": str(operators or "")}
    return subprocess.run([program, *arguments], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("with_operators", [True, False], ids=["operators", "plain"])
def test_masks_are_those_of_the_python_runtime(program: Path, tmp_path: Path, with_operators: bool) -> None:
    image = load_photograph()
    cv2.imwrite(str(tmp_path / "picture.ppm"), image[..., ::-1])
    operators = library_path() if with_operators else None
    done = run(program, TINY, tmp_path / "picture.ppm", tmp_path / "masks", *STEPS, operators=operators)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(STEPS)

    session = Segmenter(TINY, custom_ops=with_operators, num_threads=1).open(image)
    sizes = set()
    for i, step in enumerate(STEPS, 1):
        expected = take(session, step)
        mask = cv2.imread(str(tmp_path / "masks" / f"{i}.pgm"), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(mask, np.where(expected, 255, 0), err_msg=f"step {i}, {step}")
        sizes.add(int(expected.sum()))
    assert len(sizes) > len(STEPS) // 2  # clicks do something


def test_the_program_says_what_is_wrong(program: Path, tmp_path: Path) -> None:
    picture = tmp_path / "picture.ppm"
    cv2.imwrite(str(picture), np.zeros((10, 12, 3), np.uint8))
    assert run(program).returncode == 2
    for arguments, message in (
        ((TINY, picture, tmp_path / "masks", "+12,3"), "a click lies outside the picture"),
        ((TINY, picture, tmp_path / "masks", "+1;3"), "a step is +X,Y"),
        ((TINY, picture, tmp_path / "masks", "undo"), "there is no click to undo"),
        ((TINY, TINY / "manifest.json", tmp_path / "masks", "+1,3"), "is no PPM picture"),
        ((tmp_path, picture, tmp_path / "masks", "+1,3"), "holds no manifest.json"),
    ):
        done = run(program, *arguments)
        assert done.returncode == 1
        assert message in done.stderr
    picture.write_bytes(picture.read_bytes()[:-1])
    assert "is cut off" in run(program, TINY, picture, tmp_path / "masks", "+1,3").stderr
    other = tmp_path / "other"
    other.mkdir()
    for text, message in (('{"schema_version": 4}', "knows schema 5"), ("{", "is no JSON"), ("{}", "no entry")):
        (other / "manifest.json").write_text(text)
        picture.write_bytes(b"P6 1 1 255\n123")
        assert message in run(program, other, picture, tmp_path / "masks", "+0,0").stderr
