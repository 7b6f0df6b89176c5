"""What the operator library needs of the system: no more than onnxruntime's wheels do (manylinux_2_28)."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from inter2former_deploy.core.library import LIBRARY_VARIABLE, library_path

# The symbol versions of manylinux_2_28 (glibc 2.28, GCC 8), as PEP 600 and auditwheel have them.
HIGHEST = {"GLIBC": (2, 28), "GLIBCXX": (3, 4, 24), "CXXABI": (1, 3, 11), "GCC": (7, 0, 0)}
SYSTEM = re.compile(r"lib(stdc\+\+|m|gcc_s|c|pthread|dl|rt)\.so\.\d|ld-linux.*")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> str:
    """The library of the installation, whichever the other tests use (with sanitizers, it needs more)."""
    monkeypatch.delenv(LIBRARY_VARIABLE, raising=False)
    return str(library_path())


def objdump(option: str, path: str) -> str:
    tool = shutil.which("objdump")  # of binutils, which every C++ compiler brings
    if tool is None:
        pytest.skip("no objdump (binutils) here")
    return subprocess.run([tool, option, path], capture_output=True, text=True, check=True).stdout


def test_symbol_versions(installed: str) -> None:
    symbols = [line.split() for line in objdump("-T", installed).splitlines() if "*UND*" in line]
    needed = {(words[-2].strip("()"), words[-1]) for words in symbols if "_" in words[-2]}
    versions = {name: re.fullmatch(r"([A-Z]+)_([\d.]+)", name) for name, _ in needed}
    assert {match[1] for match in versions.values() if match} >= {"GLIBC", "GLIBCXX", "CXXABI"}
    too_new = [
        (name, symbol)
        for name, symbol in sorted(needed)
        if (match := versions[name]) is None or tuple(map(int, match[2].split("."))) > HIGHEST[match[1]]
    ]
    assert too_new == []


def test_shared_libraries(installed: str) -> None:
    needed = re.findall(r"NEEDED\s+(\S+)", objdump("-p", installed))
    assert "libc.so.6" in needed
    assert [name for name in needed if not SYSTEM.fullmatch(name)] == []


def test_nothing_but_the_registration_is_exported(installed: str) -> None:
    defined = [line.split()[-1] for line in objdump("-T", installed).splitlines() if re.search(r" g .*\.text", line)]
    assert defined == ["RegisterCustomOps"]
