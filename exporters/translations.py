"""How our PyTorch operators become ONNX nodes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from onnx.defs import OpSchema
from onnxscript import opset18, values

from inter2former_deploy.core.contract import DOMAIN, DOMAIN_VERSION
from inter2former_deploy.operators.registry import OPERATORS, Operator, operator_name

Translation = Callable[..., Any]

_TENSOR_TYPES = ("tensor(float)", "tensor(uint8)", "tensor(int64)")
_TENSORS = ("Tensor", "Optional[Tensor]")
_ATTRIBUTES: dict[str, tuple[Callable[[Any], Any], OpSchema.AttrType]] = {
    "int": (int, OpSchema.AttrType.INT),
    "bool": (int, OpSchema.AttrType.INT),
    "float": (float, OpSchema.AttrType.FLOAT),
    "str": (str, OpSchema.AttrType.STRING),
    "List[int]": (list[int], OpSchema.AttrType.INTS),
}


def translation_table() -> dict[Translation, Translation]:
    """The `custom_translation_table` of torch.onnx.export."""
    return dict(_bare_node(operator) for operator in OPERATORS.values()) | {torch.ops.aten.index_put.default: _put_rows}


def _put_rows(self: Any, indices: Any, values: Any, accumulate: bool = False) -> Any:
    """Rows of a matrix by one list of indices, without the copy that the exporter makes of them to fit their shape."""
    (rows,) = indices
    if accumulate or rows is None or len(rows.shape) != 1 or tuple(values.shape) != (*rows.shape, *self.shape[1:]):
        raise ValueError(f"expected whole rows by one list of indices, got {values.shape} for {self.shape}")
    last: Any = opset18.Constant(value_ints=[-1])
    return opset18.ScatterND(self, opset18.Unsqueeze(rows, last), values)


def _bare_node(described: Operator) -> tuple[Translation, Translation]:
    """A custom operator, and what makes it a node of our domain.

    Tensors are inputs, all else is an attribute, but for what the operator's name says (`Operator.choice`).
    """
    described.load()  # defines the PyTorch operator
    operator = getattr(getattr(torch.ops, DOMAIN), described.formula).default
    arguments = {argument.name: str(argument.type) for argument in operator._schema.arguments}
    tensors = [argument for argument, kind in arguments.items() if kind in _TENSORS]
    attributes = {argument: _ATTRIBUTES[kind] for argument, kind in arguments.items() if kind not in _TENSORS}
    chosen, _ = described.choice or ("", {})

    def node(operator_type: str, inputs: Sequence[str]) -> values.Op:
        schema = OpSchema(
            operator_type,
            DOMAIN,
            DOMAIN_VERSION,
            inputs=[OpSchema.FormalParameter(tensor, f"T_{tensor}") for tensor in inputs],
            outputs=[OpSchema.FormalParameter(f"out_{i}", "T_out") for i in range(len(operator._schema.returns))],
            type_constraints=[(f"T_{tensor}", list(_TENSOR_TYPES), "") for tensor in (*inputs, "out")],
            attributes=[OpSchema.Attribute(x, kind) for x, (_, kind) in attributes.items() if x != chosen],
        )
        return values.Op(values.Opset(DOMAIN, DOMAIN_VERSION), operator_type, schema)

    def translate(*args: Any, **kwargs: Any) -> Any:
        given: Mapping[str, Any] = dict(zip(arguments, args, strict=False)) | kwargs
        settings = {attribute: convert(given[attribute]) for attribute, (convert, _) in attributes.items()}
        inputs = [tensor for tensor in tensors if given.get(tensor) is not None]
        operator_type = operator_name(described.name, settings, known="known_qkv" in inputs)
        return node(operator_type, inputs)(*(given[tensor] for tensor in inputs), **settings)

    # The exporter looks at names and types of the parameters.
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    translate.__signature__ = inspect.Signature([inspect.Parameter(x, kind) for x in arguments])  # type: ignore[attr-defined]
    translate.__annotations__ = {attribute: convert for attribute, (convert, _) in attributes.items()}
    return operator, translate
