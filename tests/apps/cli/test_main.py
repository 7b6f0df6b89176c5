from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import typer

from inter2former_deploy.apps.cli import app
from inter2former_deploy.core.errors import PictureWarning
from inter2former_deploy.core.library import LIBRARY_VARIABLE
from inter2former_deploy.runtime import bundle


def commands(command: Any, words: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """A command and all below it, by their words on the command line."""
    found = {words: command}
    for name, below in getattr(command, "commands", {}).items():
        found |= commands(below, (*words, name))
    return found


COMMANDS = commands(typer.main.get_command(app))


def test_version(i2f: Callable[..., Any]) -> None:
    done = i2f("--version")
    assert (done.code, done.out) == (0, "0.1.0\n")


def test_every_command_is_found() -> None:
    assert {("segment",), ("bench",), ("bench", "ops"), ("bench", "compare")} <= COMMANDS.keys()
    assert len(COMMANDS) >= 17


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help(i2f: Callable[..., Any], words: tuple[str, ...]) -> None:
    """Says how the command is called, what it does, and each option, argument and command below it."""
    done = i2f(*words, "--help")
    assert done.code == 0
    assert done.out.startswith(" ".join(["Usage: i2f", *words]) + " ")
    text = " ".join(done.out.split())
    command = COMMANDS[words]
    summary = " ".join(command.help.split("\n\n")[0].split())
    assert len(summary) > 10
    assert summary in text
    for parameter in command.params:
        for spelling in parameter.opts if parameter.param_type_name == "option" else ():
            assert f"{spelling} " in text or f"{spelling}," in text
    for name, below in getattr(command, "commands", {}).items():
        assert f" {name} {' '.join(below.help.split()[:3])}" in text


@pytest.mark.parametrize("arguments", [["frobnicate"], ["segment"], ["info", "--frobnicate"]])
def test_wrong_usage(i2f: Callable[..., Any], arguments: list[str]) -> None:
    done = i2f(*arguments)
    assert done.code == 2
    assert "Error: " in done.err


def test_debug_shows_where_an_error_comes_from(i2f: Callable[..., Any], tmp_path: Path) -> None:
    assert "Traceback" not in i2f("info", tmp_path).err
    done = i2f("--debug", "info", tmp_path)
    assert done.code == 2
    assert "Traceback" in done.err
    assert done.err.splitlines()[-1].startswith(f"i2f: {tmp_path} is no whole bundle")
    assert "Traceback" not in i2f("info", tmp_path).err


def test_a_defect_has_its_own_exit_code(
    i2f: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(folder: Path, **_: bool) -> None:
        raise KeyError("gone")

    monkeypatch.setattr("inter2former_deploy.runtime.bundle.open_bundle", fail)
    done = i2f("info", tmp_path)
    assert (done.code, done.err) == (3, "i2f: unexpected KeyError: 'gone' (i2f --debug ... shows where)\n")


def test_info(i2f: Callable[..., Any], toy_bundle: Path) -> None:
    done = i2f("info", toy_bundle)
    assert done.code == 0
    for word in ("inter2former, images scaled into 64 x 64", "edge rule released", "encoder.onnx", "toy/click.onnx"):
        assert word in done.out
    manifest = json.loads(i2f("info", toy_bundle, "--json").out)
    assert manifest == json.loads((toy_bundle / "manifest.json").read_text())


def test_info_says_what_was_done_to_the_weights(i2f: Callable[..., Any], toy_bundle: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(toy_bundle, tmp_path / "bundle")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["decoders"]["toy"]["weights"] = {
        "source": "checkpoint",
        "file": "a.pth",
        "notes": ["first note", "second note"],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    lines = i2f("info", folder).out.splitlines()
    told = [line.split(maxsplit=1)[1] for line in lines if line.startswith("weights ")]
    assert told == ["source checkpoint, file a.pth", "first note", "second note"]


def test_doctor_finds_a_missing_library(i2f: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIBRARY_VARIABLE, "/nowhere/lib.so")
    done = i2f("doctor")
    assert done.code == 1
    assert "WRONG  operator library" in done.out
    assert "/nowhere/lib.so, which is no file; correct or unset it" in done.out
    report = json.loads(i2f("doctor", "--json").out)
    assert report["ok"] is False
    assert [f["name"] for f in report["findings"] if not f["ok"]] == ["operator library"]


def test_commands_load_what_they_need_when_they_run(tmp_path: Path) -> None:
    heavy = {"torch", "onnx", "onnxscript", "onnxruntime"}
    code = f"import sys, inter2former_deploy.apps.cli; print(*{heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(
    "command",
    [
        ["bench", "ops"],
        ["bench", "click"],
        ["bench", "encode"],
        ["bench", "session", "bundle"],
        ["bench", "figure"],
        ["train"],
        ["ablate"],
    ],
)
def test_outputs_are_looked_at_before_the_work(i2f: Callable[..., Any], tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "file").touch()
    done = i2f(*command, "-o", tmp_path / "file" / "out.png")
    place = tmp_path / "file" / ("" if command[0] == "bench" else "out.png")
    assert (done.code, done.out) == (2, "")
    assert done.err == f"i2f: --output {place}: {tmp_path}/file is a file, not a folder\n"
    if command[0] == "bench":
        done = i2f(*command, "-o", tmp_path)
        assert (done.code, done.err) == (2, f"i2f: --output {tmp_path} is a folder: name a file\n")


def test_warnings_about_pictures_are_notes(i2f: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def warn(folder: Path, **_: bool) -> None:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(warnings.warn, "a.png holds 12 bits", PictureWarning).result()
        raise ValueError("no bundle")

    monkeypatch.setattr(bundle, "open_bundle", warn)
    done = i2f("info", "bundle")
    assert (done.code, done.err) == (2, "i2f: note: a.png holds 12 bits\ni2f: no bundle\n")
