"""What the kernels are made of, in C++ against double precision: custom_ops/tests/primitives.cc, on every tier."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from operators.harness import ALL_TIERS, FEATURES, machine_tiers

ROOT = Path(__file__).parents[2]
# What the program must have looked at.
CHECKS = {
    "exp",
    "exp2_in_range",
    "exp2_nonpositive",
    "clamp_min_bits",
    "clamp_max_bits",
    "sigmoid",
    "silu",
    "gelu",
    "softplus",
    "even_lanes",
    "odd_lanes",
    "zip_low, zip_high",
    "flip_lanes",
    "sum_of_lanes",
    "transpose",
    "any",
    "broadcast",
    "load_partial, store_partial",
    "Int8Dot",
    "Bf16Dot",
    "mean of moments_of_chunks",
    "squares of moments_of_chunks",
    "inverse_deviation",
    "normalise",
    "table of RotaryTable",
    "RotaryTable::rotate",
    "pack_columns, multiply",
    "columns behind the last",
    "for_parts",
}
# Where there is a matrix unit; "Tiles" is that of the machine, against the model of one.
TILE_CHECKS = {"bytes of TileModel", "bfloat16 numbers of TileModel", "tiles_agree finds what differs"}


@pytest.fixture(scope="session")
def programs() -> Path:
    """The folder of primitives_<tier>, built anew where a source changed; tiers that this machine lacks emulated."""
    folder = ROOT / "build" / "primitives"
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    options = ["-DI2F_TESTS=ON", "-DI2F_EMULATE=ON", "-DI2F_WARNINGS_AS_ERRORS=ON"]
    for command in (
        ["cmake", "-S", str(ROOT / "custom_ops"), "-B", str(folder), *generator, *options],
        ["cmake", "--build", str(folder), "-j", os.environ.get("JOBS", "2"), "--target", "primitives"],
    ):
        built = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        assert built.returncode == 0, built.stdout[-4000:]
    return folder / "tests"


@pytest.mark.parametrize("tier", ALL_TIERS)
def test_primitives(tier: str, programs: Path) -> None:
    result = subprocess.run([programs / f"primitives_{tier}"], capture_output=True, text=True, check=False)
    print(result.stdout)
    lines = [line.split("\t") for line in result.stdout.splitlines()]
    assert [fields for fields in lines if fields[0] != "ok"] == []
    assert result.returncode == 0, result.stderr
    rounded = set() if FEATURES[tier] & {"avx512bf16", "bf16"} else {"Bf16Dot"}  # no instruction, and rounded float32
    tiles = TILE_CHECKS if "amx-tile" in FEATURES[tier] else set()
    checked = {name for _, name, *_ in lines}
    assert checked - {"Tiles"} == CHECKS - rounded | tiles


@pytest.mark.skipif("amx" not in machine_tiers(), reason="no AMX here, or the system grants no tiles: only emulated")
def test_tiles_of_this_machine(programs: Path) -> None:
    """Bit by bit what the model of them computes; the program says so only where it was not compiled for the model."""
    result = subprocess.run([programs / "primitives_amx", "20011"], capture_output=True, text=True, check=False)
    assert "ok\tTiles\t" in result.stdout, result.stdout + result.stderr
