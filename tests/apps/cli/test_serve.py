"""`i2f serve` and `i2f annotate`: to whom they open, and how they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from toy_bundle import write_toy_bundle

from inter2former_deploy.apps.cli import main


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_bundle(tmp_path_factory.mktemp("serve") / "bundle")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--host", "0.0.0.0"], "give --token-file"),
        (["--host", "::"], "give --token-file"),
        (["--host", "192.0.2.1", "--without-tls"], "give --token-file"),
        (["--host", "0.0.0.0", "--token-file", "{token}"], "--without-tls"),
        (["--token-file", "{short}"], "at least 16"),
        (["--token-file", "{nothing}"], "No such file"),
        (["--certificate", "{token}"], "--certificate and --key go together"),
        (["--certificate", "{nothing}", "--key", "{token}"], "there is no such file"),
        (["--folder", "{nothing}"], "there is no such folder"),
        (["--cache", "{token}"], "is a file"),
        (["--replicas", "2"], "--replicas and --max-replicas are for --ray"),
        (["--ray", "--replicas", "4", "--max-replicas", "2"], "--max-replicas 2 is less than --replicas 4"),
    ],
)
def test_a_server_that_would_be_open_is_refused(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
):
    (tmp_path / "token").write_text("a-token-that-is-long-enough\n")
    (tmp_path / "short").write_text("short")
    places = {name: str(tmp_path / name) for name in ("token", "short", "nothing")}
    with pytest.raises(SystemExit) as ended:
        main(["serve", str(bundle), *(option.format(**places) for option in options)])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@contextmanager
def started(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A command without torch, and its address."""
    program = "import sys; sys.modules['torch'] = None; from inter2former_deploy.apps.cli import main; main()"
    with subprocess.Popen([sys.executable, "-c", program, *arguments], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert "http://127.0.0.1:" in line, line + process.stderr.read()
        yield process, line.split()[2]
        process.terminate()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_annotate_ends_at_once_with_a_page_open(bundle: Path, tmp_path: Path, number: signal.Signals, code: int):
    options = ("--bundle", str(bundle), "--port", "0", "--no-browser")
    with started("annotate", str(tmp_path), *options) as (process, address):
        with httpx.stream("GET", f"{address}v1/events", headers={"X-I2F": "1"}, timeout=30) as stream:
            lines = stream.iter_lines()
            assert next(lines) == ": hello"
            os.kill(process.pid, number)
            assert [line for line in lines if line.startswith("data")] == []  # the stream ends
        assert process.wait(30) == code
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
    assert (tmp_path / "annotations.sqlite3").is_file()


def test_a_port_that_is_taken_is_named(bundle: Path, capsys: pytest.CaptureFixture[str]):
    with started("serve", str(bundle), "--port", "0") as (_, address):
        port = address.rstrip("/").rpartition(":")[2]
        with pytest.raises(SystemExit) as ended:
            main(["serve", str(bundle), "--port", port])
    assert ended.value.code == 2
    assert f"port {port}" in capsys.readouterr().err
