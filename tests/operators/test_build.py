"""Which tiers a build of the library holds, by what its compiler can; where its header comes from."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from operators.harness import ALL_TIERS

SOURCES = Path(__file__).parents[2] / "custom_ops"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="names options of x86-64")
@pytest.mark.parametrize(
    ("refused", "lacking"),
    [
        ("", ()),
        ("-mavx512bf16", ("avx512bf16", "amx")),
        ("-mamx-int8", ("amx",)),
        ("-mavxvnni", ("avxvnni",)),
        ("-mavx2", ("avx2", "avxvnni", "avx512", "avx512vnni", "avx512bf16", "amx")),
    ],
)
def test_tiers_that_the_compiler_cannot_build_are_named(refused: str, lacking: tuple[str, ...], tmp_path: Path) -> None:
    """Without an option, a compiler lacks the tiers that build on it."""
    compiler = tmp_path / "c++"
    real = shutil.which("c++")
    assert real is not None
    compiler.write_text(f'#!/bin/sh\nfor word; do [ "$word" != "{refused}" ] || exit 1; done\nexec {real} "$@"\n')
    compiler.chmod(0o755)
    options = [f"-DCMAKE_CXX_COMPILER={compiler}", *(["-G", "Ninja"] if shutil.which("ninja") else [])]
    done = subprocess.run(
        ["cmake", "-S", SOURCES, "-B", tmp_path / "build", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    built = [tier for tier in ALL_TIERS if tier not in lacking]
    assert f"-- tiers: {';'.join(built)}\n" in done.stdout
    message = " ".join(done.stdout.split())
    for tier in ALL_TIERS:
        named = f"cannot compile the tier {tier}: the library, and a wheel made of it, lacks this tier" in message
        assert named == (tier in lacking)
    header = (tmp_path / "build" / "generated" / "tiers.h").read_text()
    assert [tier for tier in ALL_TIERS if f"X({tier}, " in header] == built


def test_a_header_that_cannot_be_downloaded(tmp_path: Path) -> None:
    """Neither the mirrors answer nor is the package in the cache the right one."""
    finder = SOURCES / "cmake" / "FindOnnxruntimeHeaders.cmake"
    package = re.search(r"set\(_package (\S+)\)", finder.read_text())
    assert package is not None
    cached = tmp_path / "inter2former-deploy" / package[1]
    cached.parent.mkdir()
    cached.write_bytes(b"not the package")
    nowhere = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "no_proxy": ""}
    environment = {name: value for name, value in os.environ.items() if name != "ONNXRUNTIME_INCLUDE_DIR"}
    environment |= {"XDG_CACHE_HOME": str(tmp_path), **nowhere}
    ignored = ("-DCMAKE_FIND_USE_CMAKE_SYSTEM_PATH=OFF", "-DCMAKE_FIND_USE_SYSTEM_ENVIRONMENT_PATH=OFF")
    done = subprocess.run(
        ["cmake", *ignored, "-P", finder], cwd=tmp_path, capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode != 0
    for advice in ("libonnxruntime-dev", "export ONNXRUNTIME_INCLUDE_DIR=", "deb.debian.org", "snapshot.debian.org"):
        assert advice in done.stderr
    assert cached.read_bytes() == b"not the package"
