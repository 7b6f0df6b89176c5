"""Do the operators' tests notice a fault? One line of a kernel is changed at a time, on purpose, and its tests run.

Usage: python scripts/kernel_mutants.py BUILD [WORD...]

BUILD is a build folder of the operators for this tree (scripts/build-ops; CMake with compile_commands.json). Only
mutants whose file or change holds one of the WORDs are run, or all. A mutant is compiled for the tier avx2 alone and
its tests run on that tier. Prints a line for each, with the first test that failed; the exit status is 1 when one
survives. Outside CI: some minutes.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
KERNELS = ROOT / "custom_ops" / "kernels"
TIER = "avx2"


class Mutant(NamedTuple):
    """A change of one place, and the tests that should fail for it."""

    file: str  # of custom_ops/kernels
    old: str  # found once
    new: str
    tests: str  # of tests/operators, without test_ and .py
    source: str = (
        ""  # that is compiled, where the file is a header; the linker keeps the first copy of a shared function
    )


MUTANTS = [
    Mutant("edge_tokens.cc", "kReach = 3;", "kReach = 2;", "edge_tokens"),
    Mutant("edge_tokens.cc", "? high > 0 : high > low", "? high > 0 : high >= low", "edge_tokens"),
    Mutant("edge_tokens.cc", "|| low == kUnknown", "", "edge_tokens"),
    Mutant("token_box.cc", "!(row[last] > threshold)", "!(row[last] >= threshold)", "token_box"),
    Mutant("token_box.cc", "right = last + 1 > right", "right = last > right", "token_box"),
    Mutant("label_box.cc", ": v / patch * patch - patch", ": (v - 1) / patch * patch - patch", "edge_tokens"),
    Mutant("label_box.cc", "(v + patch - 1) / patch", "(v + patch) / patch", "edge_tokens"),
    Mutant("label_box.cc", "high(right, width)", "high(right, height)", "edge_tokens"),
    Mutant("low_rank.cc", "square < 0.0f ? 0.0f : square", "square", "low_rank"),
    Mutant("low_rank.cc", "+ 2.0f * dot(", "+ dot(", "low_rank"),
    Mutant("low_rank.cc", "(1 + first) * kWidth", "kWidth", "low_rank"),
    Mutant("low_rank.cc", "x.inside[middle] < wanted[first]", "x.inside[middle] <= wanted[first]", "low_rank"),
    Mutant("canny_maps.cc", "thresholded[i] = t >= kThreshold", "thresholded[i] = t > kThreshold", "canny_maps"),
    Mutant("canny_maps.cc", "early[i] = m >= kThreshold", "early[i] = m > kThreshold", "canny_maps"),
    Mutant("canny_maps.cc", "(m - below[i + 1] > 0)", "(m - below[i + 1] >= 0)", "canny_maps"),
    Mutant("canny_maps.cc", "45 * (y < 0 ?", "45 * (y <= 0 ?", "canny_maps"),
    Mutant("canny_maps.cc", "2.414213562373095f", "2.41421f", "canny_maps"),
    Mutant("canny_maps.cc", "if (outside(row)) return clear(magnitude);", "", "canny_maps"),
    Mutant("edge_stem.cc", "norm < kMin ? kMin : norm", "norm", "edge_network"),
    Mutant("edge_stem.cc", "kMin = 1e-12", "kMin = 1e-9", "edge_network"),
    Mutant("edge_downsample.cc", "dy == 0 ? bias[c]", "dy == 1 ? 2 * bias[c]", "edge_network"),
    Mutant("edge_downsample.cc", "y < 2 * row + 2; ++y", "y < 2 * row + 1; ++y", "edge_network"),
    Mutant("edge_downsample.cc", "min(left + 3, x.columns)", "min(left + 3, x.columns + 1)", "edge_network"),
    Mutant("edge_block.cc", "inverse_deviation(epsilon)", "inverse_deviation(1e-5f)", "edge_network"),
    Mutant(
        "edge_projection.cc",
        "kCorners[4] = {{0, 1, 0, 1}, {0, 1, 2, 3}",
        "kCorners[4] = {{0, 1, 2, 3}, {0, 1, 0, 1}",
        "edge_network",
    ),
    Mutant("edge_projection.cc", "s * k + s - 1}", "s * k + s - 2}", "edge_network"),
    Mutant("edge_projection.cc", "weights.lateral_bias[m]", "0", "edge_network"),
    Mutant(
        "windows.h",
        "w.row - offset + shape.side);",
        "w.row - offset + shape.side - 1);",
        "window_attention",
        "window_attention.cc",
    ),
    Mutant(
        "window_attention.cc",
        "rotary.rotate(slot + key, row, column, keys)",
        "rotary.rotate(slot + key, column, row, keys)",
        "window_attention",
    ),
    Mutant("window_attention.cc", "y + w.map->offset, x + w.map->offset, row", "y, x, row", "window_attention"),
    Mutant("hybrid_attention.cc", "(score[k][0] >= Vec{})", "(score[k][0] > Vec{})", "hybrid_attention"),
    Mutant("hybrid_attention.cc", "shape.scores - 1 - i", "i", "hybrid_attention"),
    Mutant("hybrid_attention.cc", "score[k][0] > largest[k];", "score[k][0] >= largest[k];", "hybrid_attention"),
    Mutant("hybrid_attention.cc", "v = v < other ? v : other;", "v = v > other ? v : other;", "hybrid_attention"),
    Mutant("hybrid_attention.cc", "top = other > top ? other : top;", "top = other;", "full_attention"),
    Mutant(
        "hybrid_attention.cc",
        "if (edge_tokens[middle] - middle > first)",
        "if (edge_tokens[middle] - middle >= first)",
        "hybrid_attention",
    ),
    Mutant("hybrid_attention.cc", "bits / kLog2E", "bits", "full_attention"),
    Mutant(
        "attention_tile.h",
        'raised = is_nan ? broadcast(__builtin_nanf("")) : raised;',
        "",
        "full_attention",
        "hybrid_attention.cc",
    ),
    Mutant(
        "attention_tile.h",
        "constexpr float kSlack = 8.0f;",
        "constexpr float kSlack = 140.0f;",
        "full_attention",
        "hybrid_attention.cc",
    ),
    Mutant(
        "attention_tile.h",
        "constexpr int kBlockKeys = 32 * kTileKeys;",
        "constexpr int kBlockKeys = 3200 * kTileKeys;",
        "full_attention",
        "hybrid_attention.cc",
    ),
    Mutant("attention_tile.h", "tile.weight[j] *= factor;", "", "full_attention", "hybrid_attention.cc"),
    Mutant("attention_update.h", "kMaxLost = 0.125f", "kMaxLost = 0.9999f", "full_attention", "hybrid_attention.cc"),
    Mutant(
        "attention_update.h",
        "gather(known.qkv, token, found, -1);",
        "gather(known.qkv, token, found, 1);",
        "full_attention",
        "hybrid_attention.cc",
    ),
    Mutant(
        "attention_update.h", "kMaxDivisor = 1024.0f", "kMaxDivisor = 1e30f", "full_attention", "hybrid_attention.cc"
    ),
    Mutant("attention_update.h", "good[j] &= x - x == Vec{};", "", "full_attention", "hybrid_attention.cc"),
    Mutant("rotary.h", "kPositionScale = 0.5", "kPositionScale = 0.50001", "full_attention", "hybrid_attention.cc"),
    Mutant(
        "expert_routing.h",
        "best = score > highest ? r : best;",
        "best = score >= highest ? r : best;",
        "hybrid_experts",
        "hybrid_experts.cc",
    ),
    Mutant(
        "expert_routing.h",
        "const float score = gates[1 + r] + biases[r];",
        "const float score = gates[1 + r];",
        "hybrid_experts",
        "hybrid_experts.cc",
    ),
    Mutant(
        "expert_routing.h",
        "gates[1 + best] - gates[0];",
        "gates[0] - gates[1 + best];",
        "hybrid_experts",
        "hybrid_experts.cc",
    ),
    Mutant(
        "hybrid_experts.cc",
        "const int64_t norm = index == 0 ? 0 : hidden;",
        "const int64_t norm = 0;",
        "hybrid_experts",
    ),
    Mutant("hybrid_experts.cc", "exp(load(gap + m))", "exp(-load(gap + m))", "hybrid_experts"),
    Mutant(
        "layer_norm.h",
        "__builtin_sqrtf(variance + epsilon)",
        "__builtin_sqrtf(variance + 10 * epsilon)",
        "linear",
        "hybrid_experts.cc",
    ),
    Mutant(
        "layer_norm.h",
        "for (int j = 0; j < rest; ++j) squares[j] += last[j];",
        "squares += last;",
        "linear",
        "hybrid_experts.cc",
    ),
    Mutant("linear_block.h", "int64_t kSum = 256;", "int64_t kSum = 25600;", "linear", "linear.cc"),
    Mutant("linear.cc", "if (with_gelu) {", "if (false) {", "linear"),
    Mutant("math.h", "x > broadcast(5.5f)", "x > broadcast(4.5f)", "linear", "linear.cc"),
    Mutant("math.h", "0x1.5bb994p-10f", "0x1.5cb994p-10f", "hybrid_experts", "hybrid_experts.cc"),
    Mutant("moments.h", "mean += step * share;", "mean += step / 2;", "local_upsample", "local_upsample.cc"),
    Mutant("moments.h", "(v - from); }) - n * rest * rest", "(v - from); })", "local_upsample", "local_upsample.cc"),
    Mutant(
        "reduced_linear.h",
        "peak >= 0x1p-100f",
        "peak >= 0x1p-90f",
        "reduced_precision_linear",
        "reduced_precision_linear.cc",
    ),
    Mutant("bfloat16.h", "(bits >> 16 & 1)", "1", "reduced_precision_linear", "reduced_precision_linear.cc"),
    Mutant(
        "reduced_linear.h",
        'finite ? peak / 127.0f : __builtin_nanf("")',
        "peak / 127.0f",
        "reduced_precision_linear",
        "reduced_precision_linear.cc",
    ),
    Mutant(
        "reduced_linear.h",
        "to[c] = to[c] * weight[c] + bias[c]",
        "to[c] = to[c] * weight[c]",
        "reduced_precision_linear",
        "reduced_precision_linear.cc",
    ),
    Mutant(
        "reduced_linear.h",
        "y = load_partial(plus, static_cast<int>(left)) + y",
        "y = load_partial(plus, static_cast<int>(left))",
        "reduced_precision_linear",
        "reduced_precision_linear.cc",
    ),
    Mutant(
        "reduced_precision_linear.cc",
        "after.residual = around.residual + first * outputs",
        "after.residual = around.residual",
        "reduced_precision_linear",
    ),
    Mutant(
        "reduced_linear.h",
        "(x & 0x01010101)",
        "(x & 0x00010101)",
        "reduced_precision_linear",
        "reduced_precision_linear.cc",
    ),
    Mutant(
        "upsample_stage.h",
        "return inside + load_partial(corner, count);",
        "return inside - load_partial(corner, count);",
        "local_upsample",
        "upsample_few_channels.cc",
    ),
    Mutant(
        "upsample_stage.h",
        "(top ? 0 : 2) + (first ? 0 : 1)",
        "(top ? 0 : 2) + (first ? 1 : 0)",
        "local_upsample",
        "upsample_many_channels.cc",
    ),
    Mutant(
        "upsample_stage.h",
        "0.26171875f, -0.03515625f",
        "0.26171874f, -0.03515625f",
        "local_upsample",
        "upsample_few_channels.cc",
    ),
    Mutant(
        "upsample_stage.h",
        "inverse_deviation(epsilon)",
        "inverse_deviation(1e-5f)",
        "local_upsample",
        "local_upsample.cc",
    ),
    Mutant("prompt_embedding.cc", "v < Vec{} ? Vec{} : v;", "v > Vec{} ? v : Vec{};", "prompt_embedding"),
    Mutant(
        "prompt_embedding.cc",
        "constant_row(kPossibleBackground, 1, 1)",
        "constant_row(kPossibleBackground, 0, 1)",
        "prompt_embedding",
    ),
    Mutant(
        "prompt_embedding.cc", "? zeros : before.row(y, x)", "? before.row(0, 0) : before.row(y, x)", "prompt_embedding"
    ),
    Mutant("prompt_embedding.cc", "if (shift > 0) pair[0]", "if (false) pair[0]", "prompt_embedding"),
]


def compile_commands(build: Path) -> dict[str, tuple[list[str], Path]]:
    """The command and the object of each kernel source on the tier, without optimisation that takes long."""
    found = {}
    for entry in json.loads((build / "compile_commands.json").read_text()):
        words = shlex.split(entry["command"])
        source = Path(entry["file"])
        if f"I2F_TIER={TIER}" in entry["command"] and source.parent.name == "kernels":
            words = ["-O1" if word == "-O3" else word for word in words]
            found[source.name] = words, Path(entry["directory"], words[words.index("-o") + 1])
    return found


def link_command(build: Path) -> list[str]:
    """What links the library, as ninja would."""
    lines = subprocess.run(
        ["ninja", "-C", str(build), "-t", "commands", "libinter2former_ops.so"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    command = next(part for part in re.split(r" && ", lines[-1]) if " -o libinter2former_ops.so" in part)
    return shlex.split(command)


def run(mutant: Mutant, build: Path, work: Path) -> str:
    """The first test that notices the mutant, or an empty text."""
    text = (KERNELS / mutant.file).read_text()
    if text.count(mutant.old) < 1:
        raise ValueError(f"{mutant.file} no longer holds {mutant.old!r}: change the mutant")
    headers = work / "kernels"
    headers.mkdir(exist_ok=True)
    source = mutant.source or mutant.file
    for name in {mutant.file, source}:
        (headers / name).write_text((KERNELS / name).read_text())
    (headers / mutant.file).write_text(text.replace(mutant.old, mutant.new, 1))

    words, target = compile_commands(build)[source]
    mutated = work / "mutated.o"
    words = [str(mutated) if word == str(target.relative_to(build)) else word for word in words]
    words[words.index("-c") + 1] = str(headers / source)
    # Headers of the mutant come first; those beside them are the tree's.
    subprocess.run([words[0], f"-I{work}", *words[1:], "-w"], cwd=build, check=True)
    library = work / "libinter2former_ops.so"
    link = [str(mutated) if word == str(target.relative_to(build)) else word for word in link_command(build)]
    link[link.index("-o") + 1] = str(library)
    subprocess.run(link, cwd=build, check=True)

    environment = os.environ | {"INTER2FORMER_OPS_LIBRARY": str(library)}
    tests = subprocess.run(
        ["pytest", "-q", "-x", "-k", TIER, "-p", "no:cacheprovider", f"tests/operators/test_{mutant.tests}.py"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    failed = re.search(r"^(?:FAILED|ERROR) \S+?::(\S+)", tests.stdout, re.MULTILINE)
    if tests.returncode == 0:
        return ""
    return failed[1] if failed else f"crashed: {tests.stderr[-80:]!r}"


def main(build: Path, words: list[str]) -> int:
    survivors = 0
    for mutant in MUTANTS:
        change = f"{mutant.file}: {mutant.old} -> {mutant.new}"
        if words and not any(word in change for word in words):
            continue
        with tempfile.TemporaryDirectory() as folder:
            noticed = run(mutant, build, Path(folder))
        survivors += not noticed
        print(f"{'noticed by ' + noticed if noticed else 'SURVIVED'}: {change}", flush=True)
    print(f"{survivors} survived")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve(), sys.argv[2:]))
