# ruff: noqa: N802 - functions are named like the operators they become
# mypy: ignore-errors
"""CycleScan: all chunks of a few tokens side by side, then what goes over from chunk to chunk, then all chunks again.

A chunk's tokens come one after the other, in `CHUNK` steps that each serve all chunks of all sequences. States go over
from chunk to chunk in as many doublings of the distance as the longest sequence asks for. Time and memory are linear in
the tokens: no tensor is larger than states and channels of all chunks. All factors are decays, at most 1.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnxscript import opset18 as op
from onnxscript import script

from inter2former_deploy.exporters.bodies.shared import (
    HELPER_DOMAIN,
    HELPER_VERSION,
    Integers,
    MadeForSize,
    helpers,
    operators,
)
from inter2former_deploy.exporters.bodies.window_attention import PartOf, Starts

CHUNK = 32  # tokens


@script(helpers, default_opset=op)
def StepWidths(x):
    """log(1 + exp(x)) with a small relative error; onnxruntime's Softplus loses that of small results."""
    w = op.Exp(op.Neg(op.Abs(x)))
    above = w + 1.0
    # The quotient makes up for what `above` has lost of w.
    log = op.Where(op.Equal(above, 1.0), w, op.Log(above) * (w / (above - 1.0)))
    return op.Max(x, 0.0) + log


@script(helpers, default_opset=op)
def Advance(state, step, added, b, rate):
    """States [chunks, N, C] after one more token of each chunk, step and added [chunks, 1, C], b [chunks, N, 1]."""
    return op.Exp(step * rate) * state + added * b


@script(helpers, default_opset=op)
def Passed(gained, kept, place, distance):
    """States and decays [images, chunks, N, C] over `distance` more chunks of the same sequence, where it has them."""
    from_there = op.Max(op.Range(0, op.Squeeze(op.Shape(place)), 1) - distance, 0)
    linked = op.Unsqueeze(op.GreaterOrEqual(place, distance), [1, 2])
    more = gained + kept * op.Gather(gained, from_there, axis=1)
    less = kept * op.Gather(kept, from_there, axis=1)
    return op.Where(linked, more, gained), op.Where(linked, less, kept)


# Stand-ins for scripts: `through_chunk` and `over_chunks` make the functions.
@script(helpers, default_opset=op)
def StatesOfChunks(state, step, added, b, rate):
    """Advance, token by token of each chunk."""
    return Advance(state, step, added, b, rate)


@script(helpers, default_opset=op)
def OutputsOfChunks(state, step, added, b, c, rate):
    """The outputs on the way."""
    return Advance(state, step, added, b, rate)


@script(helpers, default_opset=op)
def OverChunks(gained, kept, place):
    """Passed, for distances of 1, 2, 4 and so on."""
    more, less = Passed(gained, kept, place, 1)
    return more, less


def through_chunk(name: str, *, outputs: bool) -> onnx.FunctionProto:
    """The function `name`: `CHUNK` tokens one after the other, of all chunks at once.

    It takes states [chunks, N, C], step and added [chunks, CHUNK, C], b [chunks, N, CHUNK] and rate [N, C], and returns
    the states at the end; with `outputs` it also takes c [chunks, CHUNK, N], before the rate, and returns c times the
    states after each token [chunks, CHUNK, C].
    """
    parts = {"step": 1, "added": 1, "b": 2} | ({"c": 1} if outputs else {})
    nodes = [
        helper.make_node("Split", [x], [f"{x}_{i}" for i in range(CHUNK)], axis=axis, num_outputs=CHUNK)
        for x, axis in parts.items()
    ]
    state = "state"
    for i in range(CHUNK):
        inputs = [state, f"step_{i}", f"added_{i}", f"b_{i}", "rate"]
        state = f"state_{i}"
        nodes.append(helper.make_node(Advance.name, inputs, [state], domain=HELPER_DOMAIN))
        if outputs:
            nodes.append(helper.make_node("MatMul", [f"c_{i}", state], [f"out_{i}"]))
    if outputs:
        nodes.append(helper.make_node("Concat", [f"out_{i}" for i in range(CHUNK)], ["out"], axis=1))
    return _function(name, ["state", *parts, "rate"], ["out" if outputs else state], nodes)


def over_chunks(name: str, tokens: int) -> onnx.FunctionProto:
    """The function `name`: `Passed` for distances of 1, 2, 4 and so on, enough for sequences of up to `tokens`.

    There is always one, so that no input is ignored, which some runtimes do not take.
    """
    nodes = []
    gained, kept = "gained", "kept"
    for level in range(max((-(-tokens // CHUNK) - 1).bit_length(), 1)):
        distance, inputs = f"distance_{level}", [gained, kept, "place"]
        gained, kept = f"gained_{level}", f"kept_{level}"
        value = numpy_helper.from_array(np.array([2**level]))
        nodes.append(helper.make_node("Constant", [], [distance], value=value))
        nodes.append(helper.make_node(Passed.name, [*inputs, distance], [gained, kept], domain=HELPER_DOMAIN))
    nodes += [
        helper.make_node("Identity", [gained], ["out_gained"]),
        helper.make_node("Identity", [kept], ["out_kept"]),
    ]
    return _function(name, ["gained", "kept", "place"], ["out_gained", "out_kept"], nodes)


def _function(name: str, inputs: list[str], outputs: list[str], nodes: list[onnx.NodeProto]) -> onnx.FunctionProto:
    opsets = [helper.make_opsetid("", op.version), helper.make_opsetid(HELPER_DOMAIN, HELPER_VERSION)]
    return helper.make_function(HELPER_DOMAIN, name, inputs, outputs, nodes, opsets)


MADE = MadeForSize(
    ("CycleScan",),
    "u",
    {
        "StatesOfChunks": lambda _: through_chunk("StatesOfChunks", outputs=False),
        "OutputsOfChunks": lambda _: through_chunk("OutputsOfChunks", outputs=True),
        "OverChunks": partial(over_chunks, "OverChunks"),
    },
)


@script(helpers, default_opset=op)
def Chunks(lengths):
    """The chunks of an image's sequences: for each its sequence and its place there [chunks], int64.

    Then the tokens of all chunks one after the other, or the number of tokens where a chunk has none, and where each
    token is in there; the last chunk of each sequence [n]; chunks and tokens of an image, [1] each.
    """
    chunk = op.Constant(value_ints=[32])
    first_chunk, chunks = Starts((lengths + chunk - 1) / chunk)
    first_token, tokens = Starts(lengths)
    sequence = PartOf(chunks, first_chunk)  # [chunks]
    place = op.Range(0, op.Squeeze(chunks), 1) - op.Gather(first_chunk, sequence)
    within = op.Unsqueeze(place * chunk, [1]) + op.Range(0, 32, 1)  # [chunks, CHUNK]
    inside = op.Less(within, op.Unsqueeze(op.Gather(lengths, sequence), [1]))
    token = op.Where(inside, within + op.Unsqueeze(op.Gather(first_token, sequence), [1]), tokens)
    token = op.Reshape(token, op.Constant(value_ints=[-1]))

    sequence_of = PartOf(tokens, first_token)  # [tokens]
    slot = op.Range(0, op.Squeeze(tokens), 1) - op.Gather(first_token, sequence_of)
    slot = slot + op.Gather(first_chunk, sequence_of) * chunk
    last = first_chunk + (lengths + chunk - 1) / chunk - 1
    return sequence, place, token, slot, last, chunks, tokens


@script(operators, default_opset=op)
def CycleScan(u, projected, rate, skip, bias, gamma, lengths: Integers):
    """The selective scan over each sequence several times end to end (custom_ops/OPERATORS.md)."""
    one = op.Constant(value_ints=[1])
    chunk = op.Constant(value_ints=[32])
    sequence, place, token, slot, last, chunks, tokens = Chunks(op.Constant(value_ints=lengths))
    all_tokens, channels = op.Split(op.Shape(u), num_outputs=2)
    states = op.Shape(rate, start=1)
    images = all_tokens / tokens
    total = op.ReduceSum(gamma, one, keepdims=0)  # [C]

    # Tokens by chunks; behind the last of a sequence, steps of no width.
    delta, b_c = op.Split(projected, op.Concat(channels, states * 2, axis=0), axis=1)
    step = StepWidths(delta + bias)
    values = op.Concat(step, step * u, b_c, axis=1)
    width = channels * 2 + states * 2
    values = op.Reshape(values, op.Concat(images, tokens, width, axis=0))
    nothing = op.Expand(op.Constant(value_float=0.0), op.Concat(images, one, width, axis=0))
    values = op.Gather(op.Concat(values, nothing, axis=1), token, axis=1)
    values = op.Reshape(values, op.Concat(images * chunks, chunk, width, axis=0))
    step, added, b, c = op.Split(values, op.Concat(channels, channels, states, states, axis=0), axis=2)
    b = op.Transpose(b, perm=[0, 2, 1])
    rates = op.Transpose(rate)  # [N, C]

    # What each chunk leaves of states that are zero before its sequence, and of all that was there before.
    of_chunks = op.Concat(images * chunks, states, channels, axis=0)
    by_image = op.Concat(images, chunks, states, channels, axis=0)
    start = op.Expand(op.Constant(value_float=0.0), of_chunks)
    gained = op.Reshape(StatesOfChunks(start, step, added, b, rates), by_image)
    kept = op.Reshape(op.Exp(op.ReduceSum(step, one) * rates), by_image)
    gained, kept = OverChunks(gained, kept, place)

    # The weighted sum of the states that the passes begin with is F (weights_0 + weights_1 P + weights_2 P^2 + ...).
    passes = op.Shape(gamma, start=1)
    weights = op.CumSum(gamma, 1, exclusive=1, reverse=1)  # [C, R], of the passes behind each
    power = op.Cast(op.Range(0, op.Squeeze(passes), 1), to=1)
    of_passes = op.Pow(op.Unsqueeze(op.Gather(kept, last, axis=1), [4]), power) * weights
    begin = op.Gather(gained, last, axis=1) * op.ReduceSum(of_passes, op.Constant(value_ints=[4]), keepdims=0)
    begin = op.Where(op.Greater(passes, 1), begin, 0.0)
    begin = op.Gather(begin, sequence, axis=1)  # [images, chunks, N, C]

    before = op.Max(op.Range(0, op.Squeeze(chunks), 1) - 1, 0)
    carried = op.Gather(gained, before, axis=1) * total + op.Gather(kept, before, axis=1) * begin
    start = op.Where(op.Unsqueeze(op.Greater(place, 0), [1, 2]), carried, begin)
    y = OutputsOfChunks(op.Reshape(start, of_chunks), step, added * total, b, c, rates)
    y = op.Reshape(y, op.Concat(images, chunks * chunk, channels, axis=0))
    y = op.Reshape(op.Gather(y, slot, axis=1), op.Concat(all_tokens, channels, axis=0))
    return y + u * (skip * total)
