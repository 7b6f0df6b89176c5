"""No kernel touches memory beside its tensors: each input and output lies against an inaccessible page.

A violation ends the process, so each operator and tier has its own: this file run as a program with the library's path,
the tier and the operator. Under scripts/sanitize each tensor is a block of its own instead, which the sanitizer guards
at both ends; that needs no process and one run.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from operators.harness import ALL_TIERS, TIERS, Array, Library, fed, one_node_model

from inter2former_deploy.operators.registry import OPERATORS

SIZES = (1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 48, 49)  # around the vectors and tiles of every tier
Case = tuple[dict[str, Array], dict[str, Any]]  # inputs and attributes


def guarded(array: Array, at_end: bool) -> Array:
    """A copy that ends where an inaccessible page begins or, not `at_end`, begins where one ends."""
    page = mmap.PAGESIZE
    size = max(1, -(-array.nbytes // page)) * page
    memory = mmap.mmap(-1, page + size + page)
    begin = np.frombuffer(memory, np.uint8).ctypes.data
    libc = ctypes.CDLL(None, use_errno=True)
    for guard in (begin, begin + page + size):
        if libc.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(page), 0) != 0:
            raise OSError(ctypes.get_errno(), "mprotect")
    offset = page + (size - array.nbytes if at_end else 0)
    copy: Array = np.ndarray(array.shape, array.dtype, buffer=memory, offset=offset)
    copy[...] = array
    return copy


def run_guarded(
    library: Library, operator: str, case: Case, expected: list[Array], guard: Callable[[Array], Array]
) -> list[Array]:
    """The operator's outputs when all its tensors are copies by `guard`; `expected` says how large they are."""
    inputs, attributes = case
    session = library.session(one_node_model(operator, inputs, (), attributes), 1)
    binding = session.io_binding()
    copies = {name: guard(x) for name, x in inputs.items()}
    for name, x in copies.items():
        value = fed(x) if x.dtype == ml_dtypes.bfloat16 else onnxruntime.OrtValue.ortvalue_from_numpy(x)
        assert x.size == 0 or value.data_ptr() == x.ctypes.data, "onnxruntime copied an input"
        binding.bind_ortvalue_input(name, value)
    outputs = []
    for i, result in enumerate(expected):
        output = guard(np.frombuffer(b"\xa5" * result.nbytes, result.dtype).reshape(result.shape))
        element = onnx.helper.np_dtype_to_tensor_dtype(output.dtype)
        binding.bind_output(f"out_{i}", "cpu", 0, element, output.shape, output.ctypes.data)
        outputs.append(output)
    session.run_with_iobinding(binding)
    return outputs


# ---- Cases.


def floats(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(shape).standard_normal(shape, np.float32)


def some(count: int) -> list[Array]:
    """No, a few, and all of `count` tokens, the few with the first and the last."""
    few = np.arange(count) % 3 == 0
    few[-1:] = True
    return [np.flatnonzero(which).astype(np.int64) for which in (np.zeros(count, bool), few, np.ones(count, bool))]


def label_maps(side: int) -> list[Array]:
    """Noise, one label, and an object in a corner and in the middle of the background."""
    noise = np.random.default_rng(side).integers(0, 5, (side, side), np.uint8)
    maps = [noise, np.full_like(noise, 3)]
    for at in (side - 1, side // 2):
        maps.append(np.ones_like(noise))
        maps[-1][at, at] = 4
    return maps


def edge_tokens() -> Iterator[Case]:
    for grid, rule in product((1, 2, 3, 5, 15, 16, 17), ("released", "exact")):  # blocks of 256 columns, too
        for labels in label_maps(16 * grid):
            yield {"labels": labels}, {"rule": rule}
    yield {"labels": label_maps(2064)[0]}, {}  # strips of columns


def label_box() -> Iterator[Case]:
    for grid in (1, 2, 17):
        for labels in label_maps(16 * grid):
            yield {"labels": labels}, {}
            yield {"labels": labels[: 16 * (grid - grid // 2)]}, {}


def token_box() -> Iterator[Case]:
    for height, width in product((1, 2, 17), SIZES):
        yield {"low_res": floats(height, width)}, {"threshold": 2.0}


def prompt_embedding() -> Iterator[Case]:
    # channels of the table and after each convolution
    networks = [(3, c) for c in SIZES] + [(c, 5, 9) for c in SIZES] + [(4, c, 2 * c, 5) for c in (3, 8, 16, 17, 33)]
    for i, channels in enumerate([*networks, (1, 2, 3, 4, 5), (5, 32, 64, 65, 64)]):
        patch = 2 ** (len(channels) - 1)
        weights = {"label_table": floats(5, channels[0])}
        for level, (before, after) in enumerate(pairwise(channels)):
            weights |= {f"w{level}": floats(after, before, 3, 3), f"b{level}": floats(after)}
        for grid in (1, 2 + i % 7):
            for labels in label_maps(patch * grid):
                inputs = {"labels": labels, "embedding": floats(grid, grid, channels[-1]), **weights}
                yield inputs, {"dense": i % 2}


def rows_of(length: int) -> int:
    """Rows of a grid of `length` tokens."""
    return next(n for n in (5, 3, 2, 1) if length % n == 0)


def full_attention() -> Iterator[Case]:
    def case(length: int, heads: int, head_width: int) -> Case:
        inputs = {"qkv": floats(length, 3 * heads * head_width)}
        return inputs, {"heads": heads, "grid_width": length // rows_of(length)}

    for length in (*SIZES, 255, 257, 600):
        yield case(length, 1, 4)
        yield case(length, 3, 20)
    for head_width, heads in product((4, 8, 12, 16, 28, 32, 36, 60, 68, 256), (1, 3)):
        yield case(35, heads, head_width)


def attention_case(length: int, edge: Array, heads: int, head_width: int, scores: int, quantizer: str) -> Case:
    width = heads * head_width
    inputs = {
        "qkv": floats(length, 3 * width),
        "edge_tokens": edge,
        "code_weight": floats(scores, width),
        "code_bias": floats(scores),
        "codewords": floats(2**scores if quantizer == "bsq" else scores, width),
    }
    if length % 2 == 0 and length > 0:  # with what is known of tokens few of which, or all, are others
        known = inputs["qkv"].copy()
        known[:: 40 if length % 4 == 0 else 1] += 1
        inputs |= {"known_qkv": known, "known_out": floats(length, width), "known_logsum": floats(length, heads)}
    return inputs, {"heads": heads, "grid_width": length // rows_of(length), "quantizer": quantizer}


def hybrid_attention() -> Iterator[Case]:
    for length in (*SIZES, 255, 257, 300, 600):
        for edge in some(length):
            yield attention_case(length, edge, 1, 4, 3, "bsq")
            yield attention_case(length, edge, 2, 20, length % 40 + 1, "vq")
    for head_width, heads in product((4, 8, 12, 16, 28, 32, 36, 60, 68, 256), (1, 3)):
        yield attention_case(35, some(35)[1], heads, head_width, 2, "bsq")
    for scores in SIZES:
        yield attention_case(21, some(21)[1], 2, 12, scores, "vq")
    for scores in (1, 8, 11):
        yield attention_case(21, some(21)[1], 2, 12, scores, "bsq")


def bf16_hybrid_attention() -> Iterator[Case]:
    yield from hybrid_attention()
    for length, head_width in product((*SIZES, 255, 257, 600), (32, 128)):
        for edge in some(length):
            yield attention_case(length, edge, 1 + length % 2, head_width, 3, "bsq")


def expert_cases(length: int, channels: int, hidden: int, routed: int) -> Iterator[Case]:
    n = 1 + routed
    weights = {
        "input_norm_weight": floats(channels),
        "input_norm_bias": floats(channels),
        "gate_weight": floats(n, channels),
        "gate_bias": floats(n),
        "expert_bias": floats(routed),
        "w1": floats(n, hidden, channels),
        "b1": floats(n, hidden),
        "w2": floats(n, hidden, channels),
        "b2": floats(n, hidden),
        "norm_weight": floats(2, hidden),
        "norm_bias": floats(2, hidden),
        "w3": floats(n, channels, hidden),
        "b3": floats(n, channels),
    }
    for edge in some(length):
        yield {"x": floats(length, channels), "edge_tokens": edge, **weights}, {}


def hybrid_experts() -> Iterator[Case]:
    for size in SIZES:
        yield from expert_cases(3, size, 5, 2)
        yield from expert_cases(3, 5, size, 2)
        yield from expert_cases(3, 5, 2, size)
        yield from expert_cases(size, 9, 17, 3)
    yield from expert_cases(131, 64, 33, 16)


def bf16_hybrid_experts() -> Iterator[Case]:
    for size in SIZES:
        yield from expert_cases(size, 32, 64, 2)
        yield from expert_cases(3, 64, 32, size)
    yield from expert_cases(131, 96, 32, 3)


def local_upsample() -> Iterator[Case]:
    def case(ci: int, co: int, u: int, grid: int, box: tuple[int, int, int, int]) -> Case:
        left, top, right, bottom = box
        side = 2 * u * grid
        inputs = {
            "x": floats(u * (bottom - top), u * (right - left), ci),
            "box": np.array(box, np.int64),
            "norm_weight": floats(ci),
            "norm_bias": floats(ci),
            "conv_weight": floats(co, ci, 3, 3),
            "conv_bias": floats(co),
            "edge_map": floats(side, side, co),
            "edge_border": floats(4, grid, side, co),
            "edge_corner": floats(4, grid, grid, co),
        }
        return inputs, {}

    for ci, co in product((1, 5, 16), SIZES):
        yield case(ci, co, 2, 2, (0, 0, 2, 2))
    for ci in SIZES:
        for co in (1, 2, 4, 8, 16, 3):
            yield case(ci, co, 1, 3, (1, 0, 3, 3))
    for columns, co in product((1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33), (1, 2, 4, 8, 16, 3)):  # runs of pixels
        yield case(3, co, 1, 33, (33 - columns, 31, 33, 33))
        yield case(2, co, 1, 33, (0, 0, 1, columns))


def linear_sizes() -> Iterator[tuple[int, int, int]]:
    """Rows, inputs, outputs."""
    for size in SIZES:
        yield from ((size, 5, 3), (3, size, 5), (3, 5, size), (131, size, 33))


def norm_linear() -> Iterator[Case]:
    for rows, inputs, outputs in linear_sizes():
        yield (
            {
                "x": floats(rows, inputs),
                "norm_weight": floats(inputs),
                "norm_bias": floats(inputs),
                "weight": floats(outputs, inputs),
                "bias": floats(outputs),
            },
            {},
        )


def linear_add() -> Iterator[Case]:
    for rows, inputs, outputs in linear_sizes():
        yield (
            {
                "x": floats(rows, inputs),
                "residual": floats(rows, outputs),
                "weight": floats(outputs, inputs),
                "bias": floats(outputs),
            },
            {},
        )


def image_to_token_attention() -> Iterator[Case]:
    def case(rows: int, tokens: int, heads: int, head_width: int, inputs: int, channels: int) -> Case:
        width = heads * head_width
        arrays = {
            "query": floats(rows, width),
            "query_input": floats(rows, inputs),
            "query_weight": floats(width, inputs),
            "query_bias": floats(width),
            "key": floats(tokens, width),
            "value": floats(tokens, width),
            "image": floats(rows, channels),
            "out_weight": floats(channels, width),
            "out_bias": floats(channels),
            "norm_weight": floats(channels),
            "norm_bias": floats(channels),
        }
        return arrays, {"heads": heads}

    for (tokens, channels), (heads, head_width) in product(pairwise((*SIZES, 1)), ((1, 1), (3, 5), (2, 16), (1, 33))):
        yield case(5, tokens, heads, head_width, channels, tokens)
        yield case(3, tokens, heads, head_width, 7, channels)
    for rows in SIZES:
        yield case(rows, 3, 2, 4, 5, 9)


def token_to_image_attention() -> Iterator[Case]:
    def case(rows: int, tokens: int, heads: int, head_width: int, channels: int, *, values: int = 1) -> Case:
        width = heads * head_width
        arrays = {
            "query": floats(tokens, width),
            "image": floats(rows, channels),
            "key": floats(rows, width),
            "key_weight": floats(width, channels),
            "value_weight": floats(width, channels),
            "value": floats(values, width),
        }
        return arrays, {"heads": heads}

    for (tokens, channels), (heads, head_width) in product(pairwise((*SIZES, 1)), ((1, 1), (3, 5), (2, 16), (1, 33))):
        yield case(5, tokens, heads, head_width, channels)
    for rows in (*SIZES, 63, 65, 129):
        yield case(rows, 3, 2, 4, 9)
        yield case(rows, 9, 2, 4, 9, values=rows)


def low_rank_linear() -> Iterator[Case]:
    for (rank, outputs), rows in product(pairwise((*SIZES, 1)), (1, 19)):
        for inside in some(rows):
            inputs = {
                "known": floats(rows, 1 + 2 * outputs + rank + 1),
                "state": floats(rows, rank),
                "inside": inside,
                "weight": floats(2 * outputs, rank),
                "root": np.triu(floats(min(rank, outputs), rank)),
                "bias": floats(2 * outputs),
            }
            for activation in ("none", "gated"):
                yield inputs, {"column": 1, "channels": 7, "activation": activation}


def low_rank_add() -> Iterator[Case]:
    for (rank, outputs), rows in product(pairwise((*SIZES, 1)), (1, 19)):
        for inside, wanted in product(some(rows), some(rows)):
            inputs = {
                "known": floats(rows, 1 + outputs),
                "state": floats(rows, rank),
                "inside": inside,
                "rows": floats(len(inside), outputs),
                "wanted": wanted,
                "weight": floats(outputs, rank),
                "bias": floats(outputs),
            }
            yield inputs, {"column": 1}


def mask_upscaling() -> Iterator[Case]:
    for (channels, first), second in product(pairwise((*SIZES, 1)), (1, 8, 33)):
        inputs = {
            "x": floats(2, 3, channels),
            "first_weight": floats(4 * first, channels),
            "first_bias": floats(first),
            "norm_weight": floats(first),
            "norm_bias": floats(first),
            "second_weight": floats(4 * second, first),
            "second_bias": floats(second),
            "mask": floats(second),
        }
        yield inputs, {}
    yield {**inputs, "x": floats(13, 9, inputs["x"].shape[2])}, {}


def window_attention() -> Iterator[Case]:
    def case(height: int, width: int, window: int, heads: int, head_width: int) -> Case:
        channels = 3 * heads * head_width
        inputs = {"qkv": floats(height * width + 6, channels), "padding": floats(1, channels)}
        maps = {"heights": [height, 2], "widths": [width, 3], "offsets": [window // 2, 0]}
        return inputs, {"heads": heads, "window": window, **maps}

    for columns, window in product(SIZES, (1, 2, 5, 7)):
        yield case(3, columns, window, 2, 12)
    for head_width, heads in product((4, 8, 12, 16, 28, 32, 36, 60, 68, 256), (1, 3)):
        yield case(4, 5, 4, heads, head_width)
    yield case(16, 20, 16, 2, 64)


def bf16_window_attention() -> Iterator[Case]:
    yield from window_attention()


def cycle_scan() -> Iterator[Case]:
    def case(lengths: list[int], channels: int, states: int, passes: int) -> Case:
        inputs = {"u": floats(sum(lengths), channels), "projected": floats(sum(lengths), channels + 2 * states)}
        inputs |= {"rate": -np.abs(floats(channels, states)), "skip": floats(channels), "bias": floats(channels)}
        return inputs | {"gamma": floats(channels, passes)}, {"lengths": lengths}

    for size in SIZES:
        yield case([3], size, 2, 2)
        yield case([3], 5, size, 2)
        yield case([2, size], 5, 3, 2)
        yield case([size, 40], 65, 9, 1 + size % 3)


def layer_sizes() -> Iterator[tuple[int, int, int]]:
    for size in SIZES:
        yield from ((3, size, 5), (3, 5, size), (size, 9, 17))
    yield from ((131, 63, 65), (2, 771, 30))


def int8_linear_parameters(inputs: int, outputs: int) -> dict[str, Array]:
    weight = np.random.default_rng(inputs).integers(-127, 128, (outputs, inputs), np.int8)
    return {"weight": weight, "scale": floats(outputs), "bias": floats(outputs)}


def bf16_linear_parameters(inputs: int, outputs: int) -> dict[str, Array]:
    return {"weight": floats(outputs, inputs).astype(ml_dtypes.bfloat16), "bias": floats(outputs)}


def int8_linear() -> Iterator[Case]:
    for rows, inputs, outputs in layer_sizes():
        yield (
            {"x": floats(rows, inputs), **int8_linear_parameters(inputs, outputs)},
            {"activation": "gelu" if rows % 2 else "none"},
        )


def bf16_linear() -> Iterator[Case]:
    for rows, inputs, outputs in layer_sizes():
        yield (
            {"x": floats(rows, inputs), **bf16_linear_parameters(inputs, outputs)},
            {"activation": "gelu" if rows % 2 else "none"},
        )


def int8_norm_linear() -> Iterator[Case]:
    yield from normed(int8_linear())


def bf16_norm_linear() -> Iterator[Case]:
    yield from normed(bf16_linear())


def normed(cases: Iterator[Case]) -> Iterator[Case]:
    """A LayerNorm before each layer."""
    for case, options in cases:
        x, *weights = case.items()
        width = x[1].shape[1]
        yield dict([x, ("norm_weight", floats(width)), ("norm_bias", floats(width)), *weights]), options


def int8_linear_add() -> Iterator[Case]:
    yield from added(int8_linear())


def bf16_linear_add() -> Iterator[Case]:
    yield from added(bf16_linear())


def added(cases: Iterator[Case]) -> Iterator[Case]:
    """A residual behind each layer."""
    for case, _ in cases:
        x, *weights = case.items()
        yield dict([x, ("residual", floats(len(x[1]), len(case["bias"]))), *weights]), {}


def int8_mlp() -> Iterator[Case]:
    yield from mlps(int8_linear_parameters)


def bf16_mlp() -> Iterator[Case]:
    yield from mlps(bf16_linear_parameters)


def mlps(parameters: Callable[[int, int], dict[str, Array]]) -> Iterator[Case]:
    for rows, width, hidden in layer_sizes():
        inputs = {"x": floats(rows, width), "norm_weight": floats(width), "norm_bias": floats(width)}
        for number, sizes in enumerate(((width, hidden), (hidden, width)), 1):
            inputs |= {f"{name}{number}": x for name, x in parameters(*sizes).items()}
        yield inputs, {}


MAPS = ((1, 1), (4, 4), (5, 7), (9, 33), (35, 6))  # around tiles and bands


def canny_maps() -> Iterator[Case]:
    for height, width in (*MAPS, *((66, width) for width in SIZES)):
        numbers = {"mean": floats(3), "std": floats(3), "blur_row": floats(5), "blur_column": floats(5)}
        yield {"image": floats(height, width, 3), **numbers}, {}


def edge_stem() -> Iterator[Case]:
    for (height, width), channels in product((*MAPS, (2, 32), (2, 64)), (1, 3, 4, 8)):
        weights = {"weight": floats(channels, 2, 3, 3), "bias": floats(channels)}
        yield {"maps": floats(2, height, width), **weights}, {}


def bf16_local_upsample() -> Iterator[Case]:
    return local_upsample()


def edge_block() -> Iterator[Case]:
    for (height, width), channels in product(MAPS, (1, 2, *SIZES)):
        inputs = {"x": floats(height, width, channels)}
        for i in (1, 2):
            inputs |= {f"norm{i}_weight": floats(channels), f"norm{i}_bias": floats(channels)}
            inputs |= {f"conv{i}_weight": floats(channels, channels, 3, 3), f"conv{i}_bias": floats(channels)}
        yield inputs, {}


def bf16_edge_block() -> Iterator[Case]:
    return edge_block()


def edge_downsample() -> Iterator[Case]:
    for (height, width), channels in product(MAPS, SIZES):
        for ci, co in ((channels, 5), (3, channels)):
            yield {"x": floats(height, width, ci), "weight": floats(co, ci, 3, 3), "bias": floats(co)}, {}


def bf16_edge_downsample() -> Iterator[Case]:
    yield from edge_downsample()
    for (height, width), ci, co in product(MAPS, (2, 32), (1, 2, 4, 8, 48)):
        yield {"x": floats(height, width, ci), "weight": floats(co, ci, 3, 3), "bias": floats(co)}, {}


def edge_projection() -> Iterator[Case]:
    for grid, pixels, channels in product((1, 3, 17), (1, 2), (2, *SIZES)):
        for ci, co in ((channels, 3), (3, channels)):
            inputs = {"x": floats(grid * pixels, grid * pixels, ci), "lateral_weight": floats(4, ci)}
            inputs |= {"lateral_bias": floats(4), "conv_weight": floats(co, 4, 3, 3)}
            yield inputs, {"pixels": pixels}


def bf16_edge_projection() -> Iterator[Case]:
    yield from edge_projection()
    for grid, pixels, ci, co in product((1, 3, 17), (1, 2, 5), (2, 32), (1, 2, 4, 8, 48)):
        inputs = {"x": floats(grid * pixels, grid * pixels, ci), "lateral_weight": floats(4, ci)}
        inputs |= {"lateral_bias": floats(4), "conv_weight": floats(co, 4, 3, 3)}
        yield inputs, {"pixels": pixels}


# The function of each operator above, by its formula's name.
CASES: dict[str, Callable[[], Iterator[Case]]] = {name: globals()[op.formula] for name, op in OPERATORS.items()}
RUNS = [(tier, name) for name in CASES for tier in (ALL_TIERS if OPERATORS[name].reduced_precision else TIERS)]


# ---- Tests, each in a process of its own.


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-X", "faulthandler", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=Path(__file__).parents[1])


@pytest.mark.every_case
@pytest.mark.parametrize(("library", "operator"), RUNS, indirect=["library"])
def test_nothing_beside_the_tensors_is_touched(library: Library, operator: str) -> None:
    if os.environ.get("INTER2FORMER_OPS_EMULATED"):  # scripts/sanitize
        check(library, operator, {"blocks of their own": np.copy})
        return
    result = python("-m", "operators.test_guard_pages", str(library.path), library.tier, operator)
    case = result.stdout.splitlines()[-1:]
    assert result.returncode == 0, f"ended with {result.returncode} in {case}\n{result.stderr}"


@pytest.mark.parametrize("at_end", [True, False])
def test_guards_bite(at_end: bool) -> None:
    """What lies in the array can be read, the byte behind (or before) it ends the process."""
    code = (
        "import ctypes, sys, numpy; from operators.test_guard_pages import guarded;"
        f"a = guarded(numpy.zeros(1500, numpy.float32), {at_end});"
        "ctypes.string_at(a.ctypes.data + int(sys.argv[1]), 1); print('alive')"
    )
    last, outside = (5999, 6000) if at_end else (0, -1)
    assert python("-c", code, str(last)).stdout == "alive\n"
    result = python("-c", code, str(outside))
    assert result.returncode != 0
    assert result.stdout == ""


def main(path: str, tier: str, operator: str) -> None:
    library = Library(tier, Path(path))
    assert (library.run("OperatorInfo", {})[0] == tier).all()
    check(
        library, operator, {f"the {end} guarded": partial(guarded, at_end=end == "end") for end in ("end", "beginning")}
    )


def check(library: Library, operator: str, guards: Mapping[str, Callable[[Array], Array]]) -> None:
    """Prints every case before it runs: the last one printed is the one that ended a process."""
    for case in CASES[operator]():
        inputs, attributes = case
        shapes = {name: list(x.shape) for name, x in inputs.items()}
        print(f"{attributes} {shapes}", flush=True)
        expected = library.run(operator, inputs, **attributes)
        for what, guard in guards.items():
            print(f"{attributes} {shapes} with {what}", flush=True)
            outputs = run_guarded(library, operator, case, expected, guard)
            for output, result in zip(outputs, expected, strict=True):
                assert output.tobytes() == result.tobytes(), "the result differs"


if __name__ == "__main__":
    main(*sys.argv[1:])
