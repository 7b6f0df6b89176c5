"""What the shared library is: its exports and dependencies, tiers, and how it meets an onnxruntime that is too old."""

from __future__ import annotations

import ctypes
import platform
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from operators.harness import ALL_TIERS, FAILURES, TIERS, Library, cpu_flags, expected_tiers, library_path

from inter2former_deploy.core.contract import DOMAIN_VERSION
from inter2former_deploy.operators.registry import OPERATORS


def readelf(*arguments: str) -> str:
    return subprocess.run(["readelf", *arguments, library_path()], capture_output=True, text=True, check=True).stdout


def test_exports_one_function() -> None:
    symbols = [line.split() for line in readelf("--dyn-syms", "--wide").splitlines()]
    exported = [fields[7] for fields in symbols if len(fields) == 8 and fields[4] != "LOCAL" and fields[6].isdigit()]
    assert exported == ["RegisterCustomOps"]


def test_links_to_no_framework() -> None:
    entries = [line for line in readelf("--dynamic", "--wide").splitlines() if "(NEEDED)" in line]
    needed = [line.split("[")[1].rstrip("]") for line in entries]
    assert needed
    system = ("libc.", "libm.", "libstdc++.", "libgcc_s.", "ld-linux", "libasan.", "libubsan.")
    assert [name for name in needed if not name.startswith(system)] == []


def test_the_stack_is_not_executable() -> None:
    stack = next(line for line in readelf("--program-headers", "--wide").splitlines() if "GNU_STACK" in line)
    assert stack.split()[6] == "RW"


def test_versions(library: Library) -> None:
    tiers, versions, *_ = library.run("OperatorInfo", {})
    assert tiers.tolist() == [library.tier] * 3
    assert versions.tolist()[0] == DOMAIN_VERSION
    assert versions.tolist()[1] >= 17


def test_holds_the_operators_of_the_registry(library: Library) -> None:
    names = [name for operator in OPERATORS.values() for name in operator.operators]
    assert sorted(library.run("OperatorInfo", {})[2].tolist()) == sorted([*names, "OperatorInfo"])


def copy_of_library(folder: Path) -> Path:
    """A copy is a library of its own: it has not chosen its tier yet."""
    return Path(shutil.copy(library_path(), folder))


def tiers_offered(folder: Path) -> tuple[str, ...]:
    """The tiers that the library says it runs here."""
    with pytest.raises(FAILURES) as failure:
        Library("sse9", copy_of_library(folder)).options()
    found = re.search(r"INTER2FORMER_TIER: expected one of (.*), got sse9", str(failure.value))
    assert found is not None
    return tuple(found[1].split(", "))


def test_runs_every_tier_of_this_machine_and_no_other(tmp_path: Path) -> None:
    assert tiers_offered(tmp_path) == expected_tiers()


# What /proc/cpuinfo says where a tier can run, written out: a row of tiers.txt that is lost, or asks for too much,
# would be skipped by library and tests alike.
X86_FLAGS = {
    "avx2": "avx2 fma bmi1 bmi2",
    "avxvnni": "avx2 fma bmi1 bmi2 avx_vnni",
    "avx512": "avx2 fma bmi1 bmi2 avx512f avx512bw avx512cd avx512dq avx512vl",
    "avx512vnni": "avx2 fma bmi1 bmi2 avx512f avx512bw avx512cd avx512dq avx512vl avx512_vnni",
    "avx512bf16": "avx2 fma bmi1 bmi2 avx512f avx512bw avx512cd avx512dq avx512vl avx512_vnni avx512_bf16",
}
X86_FLAGS["amx"] = X86_FLAGS["avx512bf16"] + " amx_tile amx_int8 amx_bf16"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="names features of x86-64")
def test_leaves_out_no_tier_that_this_machine_has(tmp_path: Path) -> None:
    flags = cpu_flags()
    has = {tier for tier, needed in X86_FLAGS.items() if flags.issuperset(needed.split())}
    assert has <= set(tiers_offered(tmp_path))


@pytest.mark.parametrize("tier", ALL_TIERS)
def test_holds_every_tier(tier: str, tmp_path: Path) -> None:
    """Also those that this machine lacks: a wheel is built once for all machines."""
    library = Library(tier, copy_of_library(tmp_path))
    if tier in expected_tiers():
        chosen, _, _, tiers, rates, unused = library.run("OperatorInfo", {})
        assert chosen.tolist() == [tier] * 3
        assert unused.tolist() == []
        assert tuple(tiers) == expected_tiers()
        assert not rates.any()  # nothing is measured where the choice is made already
    else:
        lacking = "this machine lacks|is not used: the operating system does not grant"
        with pytest.raises(FAILURES, match=f"got {tier}, which ({lacking})"):
            library.options()


def test_fastest_tier_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For each product by itself: the highest tier, or a lower one that was measured to be clearly faster."""
    monkeypatch.delenv("INTER2FORMER_TIER", raising=False)
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(copy_of_library(tmp_path)))
    # The copy has chosen: from now on the variable says nothing.
    library = Library("portable", tmp_path / library_path().name)
    chosen, _, _, tiers, rates, _ = library.run("OperatorInfo", {})
    assert tuple(tiers) == expected_tiers()
    for product, (tier, measured) in enumerate(zip(chosen, rates, strict=True)):
        candidates = TIERS if product == 0 else ALL_TIERS  # a tier with a base has no float32 kernels of its own
        assert [rate > 0 for rate in measured] == [name in candidates for name in tiers]
        highest = np.flatnonzero(measured)[-1]
        faster = measured > 1.15 * measured[highest]
        assert tier == tiers[measured.argmax() if faster.any() else highest]
    library.session.cache_clear()
    np.testing.assert_array_equal(library.run("OperatorInfo", {})[4], rates)  # measured once for all sessions


def test_unknown_tier(tmp_path: Path) -> None:
    message = r"\[inter2former\] INTER2FORMER_TIER: expected one of portable.*, got sse9"
    with pytest.raises(FAILURES, match=message):
        Library("sse9", copy_of_library(tmp_path)).options()


def test_many_sessions_share_the_library(library: Library) -> None:
    low_res = np.zeros((3, 4), np.float32)
    for _ in range(20):
        assert library.run("TokenBox", {"low_res": low_res})[0].tolist() == [0, 0, 4, 3]
        library.session.cache_clear()  # sessions come and go, the operators stay


class FakeApi(ctypes.Structure):
    """The first entry of OrtApi, all that an error needs."""

    create_status_type = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)
    _fields_ = (("create_status", create_status_type),)


class FakeApiBase(ctypes.Structure):
    """OrtApiBase."""

    get_api_type = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)
    get_version_type = ctypes.CFUNCTYPE(ctypes.c_void_p)
    _fields_ = (("get_api", get_api_type), ("get_version_string", get_version_type))


def register_with(release: bytes, newest_api: int, path: Path) -> tuple[list[int], list[str]]:
    """Registers with an onnxruntime of which only errors work: API versions asked for, messages of the errors."""
    asked: list[int] = []
    messages: list[str] = []

    def create_status(_code: int, message: bytes) -> int:
        messages.append(message.decode())
        return 1

    api = FakeApi(FakeApi.create_status_type(create_status))

    def get_api(version: int) -> int | None:
        asked.append(version)
        return ctypes.addressof(api) if version <= newest_api else None

    text = ctypes.create_string_buffer(release)
    get_version_string = FakeApiBase.get_version_type(lambda: ctypes.addressof(text))
    base = FakeApiBase(FakeApiBase.get_api_type(get_api), get_version_string)
    register = ctypes.CDLL(str(path)).RegisterCustomOps
    register.restype = ctypes.c_void_p
    register.argtypes = (ctypes.c_void_p, ctypes.POINTER(FakeApiBase))
    assert register(None, ctypes.byref(base)) == 1
    return asked, messages


def test_onnxruntime_too_old(tmp_path: Path) -> None:
    asked, messages = register_with(b"1.16.3", 16, copy_of_library(tmp_path))
    assert messages == ["[inter2former] expected onnxruntime 1.17 or newer, got 1.16.3"]
    assert asked == [1]


def test_interface_version_is_negotiated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An onnxruntime older than the headers is asked for what it has; a bad tier ends the attempt there."""
    monkeypatch.setenv("INTER2FORMER_TIER", "sse9")
    asked, messages = register_with(b"1.18.1", 18, copy_of_library(tmp_path))
    assert asked == [18]
    assert messages[0].startswith("[inter2former] INTER2FORMER_TIER: expected one of ")


@pytest.mark.parametrize("attribute", ["activation", "patch", "quantizer", "rule"])
def test_nodes_of_an_older_graph_are_refused(library: Library, attribute: str) -> None:
    """What an attribute said in version 1 of the domain would otherwise be passed over."""
    low_res = {"low_res": np.zeros((2, 2), np.float32)}
    message = f"expected no attribute {attribute}, got one: the graph is of another version, export it again"
    for value in ("gelu", 8):
        library.fails(message, "TokenBox", low_res, **{attribute: value})
