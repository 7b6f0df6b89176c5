"""ONNX models of one node as bytes, without the onnx package: enough of protobuf's wire format for that."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Mapping

import numpy as np

from inter2former_deploy.core.contract import DOMAIN, DOMAIN_VERSION

# TensorProto.DataType
ELEMENT = {np.dtype(np.float32): 1, np.dtype(np.uint8): 2, np.dtype(np.int8): 3, np.dtype(np.int64): 7}
STRING, BFLOAT16 = 8, 16

AttributeValue = int | float | str | list[int]

# Field numbers of onnx.proto
_MODEL_IR_VERSION, _MODEL_GRAPH, _MODEL_OPSET_IMPORT = 1, 7, 8
_GRAPH_NODE, _GRAPH_NAME, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT = 1, 2, 5, 11, 12
_NODE_INPUT, _NODE_OUTPUT, _NODE_OP_TYPE, _NODE_ATTRIBUTE, _NODE_DOMAIN = 1, 2, 4, 5, 7
_ATTRIBUTE_NAME, _ATTRIBUTE_FLOAT, _ATTRIBUTE_INT, _ATTRIBUTE_STRING, _ATTRIBUTE_TYPE = 1, 2, 3, 4, 20
_ATTRIBUTE_INTS = 8
_VALUE_NAME, _VALUE_TYPE = 1, 2

_VARINT, _BYTES, _FIXED32 = 0, 2, 5  # wire types


def one_node_model(
    operator: str,
    inputs: Mapping[str, np.ndarray],
    outputs: Mapping[str, int],
    attributes: Mapping[str, AttributeValue],
    bfloat16: Collection[str] = (),
    *,
    constants: Collection[str] = (),
    domain: str = DOMAIN,
) -> bytes:
    """A model of one node, whose inputs and outputs are the graph's.

    Args:
        operator: of `custom_ops/OPERATORS.md`, or of another domain.
        inputs: examples by name, in order; they say the element types.
        outputs: element types (`ELEMENT`, `STRING`) by name, in order.
        attributes: of the node.
        bfloat16: float32 inputs that the node takes in this type, which NumPy lacks. The graph casts them; of constants
            it keeps the upper halves.
        constants: inputs that the model carries, as it does weights; they are none of the graph's.
        domain: of the operator; "" is the standard's.
    """
    fed = {name: array for name, array in inputs.items() if name not in constants}
    cast = [name for name in bfloat16 if name in fed]
    nodes = [_node("Cast", "", [name], [f"{name}_cast"], {"to": BFLOAT16}) for name in cast]
    taken = [f"{name}_cast" if name in cast else name for name in inputs]
    nodes.append(_node(operator, domain, taken, outputs, attributes))
    graph = b"".join(
        [_field(_GRAPH_NODE, node) for node in nodes]
        + [_field(_GRAPH_NAME, operator)]
        + [_field(_GRAPH_INITIALIZER, _tensor(name, inputs[name], name in bfloat16)) for name in constants]
        + [_field(_GRAPH_INPUT, _value(name, ELEMENT[array.dtype])) for name, array in fed.items()]
        + [_field(_GRAPH_OUTPUT, _value(name, element)) for name, element in outputs.items()]
    )
    imports = [_field(_MODEL_OPSET_IMPORT, _opset(*opset)) for opset in (("", 18), (DOMAIN, DOMAIN_VERSION))]
    return _number(_MODEL_IR_VERSION, 8) + b"".join(imports) + _field(_MODEL_GRAPH, graph)


def _tensor(name: str, array: np.ndarray, bfloat16: bool) -> bytes:
    """A TensorProto; its raw data is little-endian."""
    element = BFLOAT16 if bfloat16 else ELEMENT[array.dtype]
    data = array.astype("<f4").view("<u2")[..., 1::2] if bfloat16 else array.astype(array.dtype.newbyteorder("<"))
    dims = b"".join(_number(1, side) for side in array.shape)
    return dims + _number(2, element) + _field(8, name) + _field(9, data.tobytes())


def _node(
    operator: str,
    domain: str,
    inputs: Iterable[str],
    outputs: Iterable[str],
    attributes: Mapping[str, AttributeValue],
) -> bytes:
    return b"".join(
        [_field(_NODE_INPUT, name) for name in inputs]
        + [_field(_NODE_OUTPUT, name) for name in outputs]
        + [_field(_NODE_OP_TYPE, operator), _field(_NODE_DOMAIN, domain)]
        + [_field(_NODE_ATTRIBUTE, _attribute(name, value)) for name, value in attributes.items()]
    )


def _opset(domain: str, version: int) -> bytes:
    return _field(1, domain) + _number(2, version)


def _attribute(name: str, value: AttributeValue) -> bytes:
    head = _field(_ATTRIBUTE_NAME, name)
    if isinstance(value, str):
        return head + _field(_ATTRIBUTE_STRING, value) + _number(_ATTRIBUTE_TYPE, 3)
    if isinstance(value, float):
        return head + _varint(_ATTRIBUTE_FLOAT << 3 | _FIXED32) + struct.pack("<f", value) + _number(_ATTRIBUTE_TYPE, 1)
    if isinstance(value, list):
        return head + b"".join(_number(_ATTRIBUTE_INTS, item) for item in value) + _number(_ATTRIBUTE_TYPE, 7)
    return head + _number(_ATTRIBUTE_INT, value) + _number(_ATTRIBUTE_TYPE, 2)


def _value(name: str, element: int) -> bytes:
    tensor_type = _field(1, _number(1, element))  # without a shape
    return _field(_VALUE_NAME, name) + _field(_VALUE_TYPE, tensor_type)


def _field(number: int, content: bytes | str) -> bytes:
    data = content.encode() if isinstance(content, str) else content
    return _varint(number << 3 | _BYTES) + _varint(len(data)) + data


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3 | _VARINT) + _varint(value)


def _varint(value: int) -> bytes:
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*data, value])
