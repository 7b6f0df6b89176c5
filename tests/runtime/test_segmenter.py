from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from operator import methodcaller
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_bundle import BOX, SIZE, toy_logits, write_toy_bundle

from inter2former_deploy.core import threads
from inter2former_deploy.core.errors import BundleError, EncodedImageError
from inter2former_deploy.core.prompts import Click
from inter2former_deploy.families.inter2former.labels import add_clicks, unknown_labels
from inter2former_deploy.families.inter2former.masks import Box, foreground_mask
from inter2former_deploy.families.inter2former.pictures import Frame
from inter2former_deploy.families.pictures import model_input
from inter2former_deploy.runtime import Segmenter
from inter2former_deploy.runtime.bundle import Bundle


def picture(seed: int, height: int = 200, width: int = 150) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture
def segmenter(toy_bundle: Path) -> Segmenter:
    return Segmenter(toy_bundle, num_threads=1, custom_ops=False)


def test_image_and_labels_reach_the_graphs_and_the_mask_comes_back(segmenter: Segmenter) -> None:
    assert segmenter.size == SIZE
    image, frame = picture(1), Frame(200, 150, SIZE)
    labels = unknown_labels(SIZE)
    add_clicks(labels, [Click(25, 40, True)])  # scale 1/4
    logits = toy_logits(model_input(image, frame), labels)
    session = segmenter.open(image)
    mask = session.click(100, 160)
    np.testing.assert_array_equal(mask, foreground_mask(logits, Box(*BOX), frame))
    np.testing.assert_allclose(session.logits[: BOX[3], BOX[0] :], logits, rtol=1e-5, atol=1e-5)
    assert (session.logits[BOX[3] :] == -100).all()


def test_later_images_and_clicks_leave_earlier_sessions_alone(segmenter: Segmenter) -> None:
    first = segmenter.open(picture(1))
    masks = [first.click(100, 160)]
    other = segmenter.open(picture(2, 60, 90))
    other.click(3, 4)
    logits = first.logits
    other.click(50, 50, False)
    np.testing.assert_array_equal(first.logits, logits)
    masks.append(first.click(20, 30, False))
    fresh = segmenter.open(picture(1))
    np.testing.assert_array_equal(masks, [fresh.click(100, 160), fresh.click(20, 30, False)])


def test_one_segmenter_serves_several_threads(segmenter: Segmenter) -> None:
    def work(seed: int) -> list[np.ndarray]:
        rng = np.random.default_rng(seed)
        session = segmenter.open(picture(seed))
        return [session.click(int(rng.integers(150)), int(rng.integers(200)), bool(rng.integers(2))) for _ in range(10)]

    with ThreadPoolExecutor(8) as pool:
        parallel = list(pool.map(work, range(16)))
    for seed, masks in enumerate(parallel):
        np.testing.assert_array_equal(masks, work(seed))


@pytest.mark.parametrize("number", [0, -1])
def test_bad_thread_counts(toy_bundle: Path, number: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Segmenter(toy_bundle, num_threads=number)


@pytest.mark.parametrize("number", [1.5, True, "2"])
def test_thread_counts_are_whole_numbers(toy_bundle: Path, number: Any) -> None:
    with pytest.raises(TypeError, match="whole number"):
        Segmenter(toy_bundle, num_threads=number)


@pytest.mark.parametrize(("given", "expected"), [(None, 3), (5, 5)])
def test_onnxruntime_is_always_told_the_number_of_threads(
    toy_bundle: Path, monkeypatch: pytest.MonkeyPatch, given: int | None, expected: int
) -> None:
    monkeypatch.setattr(threads, "cpu_limits", lambda: threads.CpuLimits(64, 8, 3.5))
    segmenter = Segmenter(toy_bundle, num_threads=given, custom_ops=False)
    options = [
        graph._session.get_session_options() for graph in (segmenter._encoder, segmenter._prepare, segmenter._click)
    ]
    assert [o.intra_op_num_threads for o in options] == [expected] * 3
    assert [o.get_session_config_entry("session.intra_op.allow_spinning") for o in options] == ["0", "0", "1"]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no CPU affinity here")
def test_as_many_threads_as_the_affinity_allows(toy_bundle: Path, tmp_path: Path) -> None:
    code = f"""
import os
os.sched_setaffinity(0, [{min(os.sched_getaffinity(0))}])
from inter2former_deploy.runtime import Segmenter
segmenter = Segmenter({str(toy_bundle)!r}, custom_ops=False)
print(segmenter._click._session.get_session_options().intra_op_num_threads)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == "1\n"


@pytest.mark.parametrize("method", [m for m in ("spawn", "forkserver") if m in multiprocessing.get_all_start_methods()])
def test_another_process_goes_on_with_a_session(toy_bundle: Path, method: str) -> None:
    segmenter = Segmenter(toy_bundle, num_threads=1, custom_ops=False)
    session, image = segmenter.open(picture(1)), picture(2)
    session.click(100, 160)
    with multiprocessing.get_context(method).Pool(1) as pool:
        fresh = pool.apply(Segmenter.open, (segmenter, image))
        mask = pool.apply(methodcaller("click", 20, 30, False), (session,))
    np.testing.assert_array_equal(mask, session.click(20, 30, False))
    np.testing.assert_array_equal(fresh.click(9, 9), segmenter.open(image).click(9, 9))


def test_what_is_pickled(toy_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(toy_bundle.parent)
    segmenter = Segmenter(toy_bundle.name, custom_ops=False, cache_bytes=10**6)
    first, second = segmenter.open(picture(1)), segmenter.open(picture(2))
    masks = [first.click(100, 160), first.click(20, 30, False)]
    data = pickle.dumps([first, second])
    monkeypatch.chdir("/")
    monkeypatch.setattr(threads, "cpu_limits", lambda: threads.CpuLimits(64, 7))
    copy, other = pickle.loads(data)
    assert copy._decode._segmenter is other._decode._segmenter
    loaded = copy._decode._segmenter
    assert (loaded.bundle, loaded._recent._limit) == (Bundle(toy_bundle, segmenter.bundle.manifest), 10**6)
    assert loaded._click._session.get_session_options().intra_op_num_threads == 7
    np.testing.assert_array_equal([copy.undo(), copy.click(20, 30, False)], masks)
    np.testing.assert_array_equal(first.mask, masks[1])
    assert copy.prompts == first.prompts
    assert other.prompts == ()


def test_a_bundle_that_changed_meanwhile_continues_no_session(toy_bundle: Path) -> None:
    segmenter = Segmenter(toy_bundle, custom_ops=False)
    data = pickle.dumps(segmenter.open(picture(1)))
    shutil.rmtree(toy_bundle)
    with pytest.raises(BundleError, match="there is no bundle"):
        pickle.loads(data)
    write_toy_bundle(toy_bundle, encoder=2)
    with pytest.raises(EncodedImageError, match="encoded with another encoder"):
        pickle.loads(data)


def test_importing_the_runtime_loads_neither_torch_nor_onnx(tmp_path: Path) -> None:
    code = (
        "import sys, inter2former_deploy.runtime; print(*{'torch', 'onnx', 'onnxscript', 'typer'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == ""
