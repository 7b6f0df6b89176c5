from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from inter2former_deploy.apps.cli.stopping import Stopped, stopped_by_signals
from inter2former_deploy.runtime import EncodedImage

STARTS_TO_WORK = """
import sys, time
from inter2former_deploy.apps import cli
from inter2former_deploy.exporters import bundle
def work(*arguments, **options):
    print("works", flush=True)
    time.sleep(60)
bundle.export_model = work
cli.main(sys.argv[1:])
"""


def test_an_export_that_is_stopped_leaves_nothing(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STARTS_TO_WORK, "export", "-o", tmp_path / "bundle", "--config", "probe"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "works\n"
        assert [path.name[:8] for path in tmp_path.iterdir()] == [".bundle."]
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 143
    assert errors.endswith("i2f: stopped by SIGTERM\n")
    assert list(tmp_path.iterdir()) == []


def test_an_encoding_that_is_stopped_leaves_whole_files_alone(
    i2f: Callable[..., Any], toy_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((9, 9, 3), np.uint8))
    replace = Path.replace

    def stop_before(self: Path, target: Path) -> Path:
        assert self.stat().st_size > 0  # written, but not yet in its place
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)  # Python calls the handler here at the latest
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", stop_before)
    cache = tmp_path / "cache"
    done = i2f("encode", tmp_path / "a.png", "-o", cache, "--bundle", toy_bundle, "--no-custom-ops")
    assert done.code == 143
    assert done.err == "i2f: stopped by SIGTERM\n"
    (path,) = cache.iterdir()  # the thread that writes finishes its file
    assert EncodedImage.load(path).picture == path.stem


def raise_signal(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(1)  # Python calls the handler here at the latest


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129)])
def test_signals_are_handled_within_and_only_if_nobody_else_does(name: str, code: int) -> None:
    number = signal.Signals[name]
    before = signal.signal(number, signal.SIG_DFL)
    try:
        with pytest.raises(Stopped, match=f"stopped by {name}") as stop, stopped_by_signals():
            raise_signal(number)
        assert stop.value.code == code
        assert signal.getsignal(number) == signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN)
        with stopped_by_signals():
            os.kill(os.getpid(), number)
        assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)


FORKS = """
import os, signal, time
from inter2former_deploy.apps.cli.stopping import stopped_by_signals
with stopped_by_signals():
    child = os.fork()
    if child == 0:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        finally:
            os._exit(7)  # where the parent's clean-up would run
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_fork_ends_without_the_clean_up_of_its_parent() -> None:
    done = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, text=True, check=True)
    assert done.stdout == f"{-signal.SIGTERM}\n"
