"""examples/node: a session of clicks in JavaScript gives the masks of this package's runtime."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from steps import take

from inter2former_deploy.exporters.parity import load_photograph
from inter2former_deploy.families.pictures import bilinear_taps
from inter2former_deploy.runtime import Segmenter

EXAMPLE = Path(__file__).parents[2] / "examples" / "node"
UNREACHABLE = ("ENOTFOUND", "EAI_AGAIN", "ETIMEDOUT", "ECONNREFUSED", "ENETUNREACH")
# Where this was written all masks are equal. Another onnxruntime or CPU rounds otherwise, and a session passes that on
# from click to click: with WebAssembly, 13 of 240000 pixels differed after six clicks, 329 at most, by logits up to
# 0.07.
TIE = 0.1  # largest logit of pixels that may differ
SHARE = 2e-3  # of the picture's pixels that may differ


def run(*command: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, command)], cwd=folder, capture_output=True, text=True, timeout=540, check=False)


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the example with its packages, which are installed once a machine."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("node and npm are not installed")
    major = int(re.match(r"v(\d+)", run(node, "--version", folder=EXAMPLE).stdout)[1])  # type: ignore[index]
    if major < 20:
        pytest.skip(f"node {major} is too old, the example needs 20")
    sources = [EXAMPLE / name for name in ("package.json", "package-lock.json", ".npmrc")]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    cache = Path(tempfile.gettempdir()) / f"inter2former-node-example-{os.getuid()}-{digest}"
    if not cache.is_dir():
        unfinished = Path(tempfile.mkdtemp(prefix=cache.name, dir=cache.parent))
        for path in sources:
            shutil.copy(path, unfinished)
        done = run(npm, "ci", "--no-audit", "--no-fund", folder=unfinished)
        if done.returncode and any(word in done.stderr for word in UNREACHABLE):
            pytest.skip(f"npm cannot reach its registry: {done.stderr.splitlines()[0]}")
        assert done.returncode == 0, done.stderr
        try:
            unfinished.rename(cache)
        except OSError:  # another process was quicker
            shutil.rmtree(unfinished)
    folder = tmp_path_factory.mktemp("node")
    for path in (EXAMPLE / name for name in ("segment.mjs", "inter2former.js", "package.json")):
        shutil.copy(path, folder)
    (folder / "node_modules").symlink_to(cache / "node_modules")
    return folder


def resized_logits(logits: NDArray[np.float32], side: int, height: int, width: int) -> NDArray[np.float32]:
    lower, upper, share = bilinear_taps(logits.shape[0], side)
    rows = logits[lower[:height]] * (1 - share[:height, None]) + logits[upper[:height]] * share[:height, None]
    mixed: NDArray[np.float32] = rows[:, lower[:width]] * (1 - share[:width]) + rows[:, upper[:width]] * share[:width]
    return mixed


PICTURES = {
    "landscape.jpg": (load_photograph(), "+285,190 -60,60 +400,120 undo -520,330 +150,260 +250,90 undo undo -480,60"),
    "portrait.png": (load_photograph()[20:353, 170:387], "+0,332 undo +115,170 -216,0 -20,300"),
}


@pytest.mark.parametrize("name", sorted(PICTURES))
def test_masks_are_those_of_the_python_runtime(example: Path, demo_bundle: Path, tmp_path: Path, name: str) -> None:
    image, text = PICTURES[name]
    steps = text.split()
    cv2.imwrite(str(tmp_path / name), image[..., ::-1])
    done = run("node", "segment.mjs", demo_bundle, tmp_path / name, tmp_path / "masks", *steps, folder=example)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(steps)

    decoded = cv2.imread(str(tmp_path / name))[..., ::-1]  # as JPEG left it
    session = Segmenter(demo_bundle, custom_ops=False, num_threads=1).open(np.ascontiguousarray(decoded))
    height, width = image.shape[:2]
    sizes = []
    for i, step in enumerate(steps, 1):
        expected = take(session, step)
        mask = cv2.imread(str(tmp_path / "masks" / f"{i}.png"), cv2.IMREAD_UNCHANGED)
        assert mask.shape == (height, width)
        assert set(np.unique(mask)) <= {0, 255}
        different = (mask == 255) != expected
        if session.prompts:
            logits = resized_logits(session.logits, -(-max(height, width) // 256) * 256, height, width)
            assert np.abs(logits[different]).max(initial=0) < TIE, f"step {i}, {step}: {different.sum()} pixels differ"
            assert different.mean() < SHARE, f"step {i}, {step}: {different.sum()} pixels differ"
        else:
            assert not different.any()
        sizes.append(int(expected.sum()))
    assert len(set(sizes)) > len(steps) // 2  # clicks do something


def test_the_example_says_how_it_is_called_and_what_is_wrong(example: Path, demo_bundle: Path, tmp_path: Path) -> None:
    done = run("node", "segment.mjs", demo_bundle, folder=example)
    assert (done.returncode, done.stderr[:6]) == (2, "usage:")
    picture = tmp_path / "grey.png"
    cv2.imwrite(str(picture), np.zeros((10, 12), np.uint8))
    done = run("node", "segment.mjs", demo_bundle, picture, tmp_path / "masks", "+12,3", folder=example)
    assert done.returncode != 0
    assert "click 12,3 lies outside the image" in done.stderr
    other = tmp_path / "other"
    shutil.copytree(demo_bundle, other)
    manifest = other / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"schema_version": 5', '"schema_version": 4'))
    done = run("node", "segment.mjs", other, picture, tmp_path / "masks", "+1,3", folder=example)
    assert "has schema 4, this program knows 5" in done.stderr
