# ruff: noqa: N802 - functions are named like the operators they become
# mypy: ignore-errors
"""TokenBox: where the object is."""

from __future__ import annotations

from onnxscript import opset18 as op
from onnxscript import script

from inter2former_deploy.exporters.bodies.shared import TightBox, operators


@script(operators, default_opset=op)
def TokenBox(low_res, threshold: float = -2.0):
    """Tight box of the tokens above the threshold (custom_ops/OPERATORS.md)."""
    return TightBox(op.Greater(low_res, op.Constant(value_float=threshold)))
