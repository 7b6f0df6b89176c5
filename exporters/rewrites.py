"""What our graphs are tidied by besides onnxscript's own rules: fewer copies, fewer nodes for single numbers.

A click has some hundred nodes for the numbers of its boxes, and each costs onnxruntime some microseconds; a slice of an
image's tokens is copied by one thread. scripts/measure_click_precision.py measures them together.
"""

from __future__ import annotations

from typing import Any

import onnx_ir
from onnxscript.rewriter import MatchResult, RewriteRule, RewriteRuleClassBase


class _SliceSlice(RewriteRuleClassBase):
    """`Slice(Slice(x))` along different axes becomes one Slice, which copies nothing but what is wanted."""

    def pattern(
        self, op: Any, x: Any, begin0: Any, end0: Any, axes0: Any, steps0: Any, begin1: Any, end1: Any, axes1: Any,
        steps1: Any,
    ) -> Any:  # fmt: skip
        return op.Slice(op.Slice(x, begin0, end0, axes0, steps0), begin1, end1, axes1, steps1)

    def check(  # type: ignore[override]  # by the names of the pattern
        self, context: Any, axes0: onnx_ir.Value, steps0: onnx_ir.Value, axes1: onnx_ir.Value, steps1: onnx_ir.Value,
        **_: Any,
    ) -> MatchResult:  # fmt: skip
        axes, steps = _numbers(axes0, axes1), _numbers(steps0, steps1)
        if axes is None or steps is None or min(axes) < 0 or len(set(axes)) < len(axes):
            return MatchResult().fail("Axes and steps are not constant, or axes perhaps the same.")
        return MatchResult()

    def rewrite(
        self, op: Any, x: Any, begin0: Any, end0: Any, axes0: Any, steps0: Any, begin1: Any, end1: Any, axes1: Any,
        steps1: Any,
    ) -> Any:  # fmt: skip
        begin, end = op.Concat(begin0, begin1, axis=0), op.Concat(end0, end1, axis=0)
        axes, steps = (op.Constant(value_ints=_numbers(*pair)) for pair in ((axes0, axes1), (steps0, steps1)))
        return op.Slice(x, begin, end, axes, steps)


class _FirstOfOne(RewriteRuleClassBase):
    """`Gather(Reshape(x), 0)` of a single number without axes is that number."""

    def pattern(self, op: Any, x: Any, shape: Any, index: Any) -> Any:
        return op.Gather(op.Reshape(x, shape), index)

    def check(  # type: ignore[override]  # by the names of the pattern
        self, context: Any, x: onnx_ir.Value, index: onnx_ir.Value, shape: onnx_ir.Value, **_: Any
    ) -> MatchResult:
        row = _numbers(shape)
        if x.shape is None or len(x.shape) > 0 or row not in ([1], [-1]):
            return MatchResult().fail("It is not a single number as a row.")
        if index.shape is None or len(index.shape) > 0 or _numbers(index) != [0]:
            return MatchResult().fail("It is not the first of a row.")
        return MatchResult()

    def rewrite(self, op: Any, x: Any, **_: Any) -> Any:
        return op.Identity(x)


def _numbers(*values: onnx_ir.Value) -> list[int] | None:
    """Of constants, one behind the other; None where one is none."""
    numbers: list[int] = []
    for value in values:
        if value.const_value is None:
            return None
        numbers += value.const_value.numpy().reshape(-1).tolist()
    return numbers


RULES: tuple[RewriteRule, ...] = (_SliceSlice.rule(), _FirstOfOne.rule())  # type: ignore[no-untyped-call]
