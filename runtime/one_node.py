"""Models of one operator, written without the onnx package: enough of ONNX's protobuf format for a self-test."""

from __future__ import annotations

import struct
from collections.abc import Mapping

import numpy as np

from inter2former_deploy.contract import DOMAIN, DOMAIN_VERSION

ELEMENT = {np.dtype(np.float32): 1, np.dtype(np.uint8): 2, np.dtype(np.int64): 7}  # TensorProto.DataType
STRING = 8


def one_node_model(
    operator: str,
    inputs: Mapping[str, np.ndarray],
    outputs: Mapping[str, int],
    attributes: Mapping[str, int | float | str],
) -> bytes:
    """A serialized model: one node of our domain, whose inputs and outputs are the graph's.

    Args:
        operator: of `custom_ops/OPERATORS.md`.
        inputs: examples by name, in order; they say the element types.
        outputs: element types (`ELEMENT`, `STRING`) by name, in order.
        attributes: of the node.
    """
    node = b"".join(
        [_field(1, name) for name in inputs]
        + [_field(2, name) for name in outputs]
        + [_field(4, operator), _field(7, DOMAIN)]
        + [_field(5, _attribute(name, value)) for name, value in attributes.items()]
    )
    graph = b"".join(
        [_field(1, node), _field(2, operator)]
        + [_field(11, _value(name, ELEMENT[array.dtype])) for name, array in inputs.items()]
        + [_field(12, _value(name, element)) for name, element in outputs.items()]
    )
    opsets = [("", 18), (DOMAIN, DOMAIN_VERSION)]
    imports = [_field(8, _field(1, domain) + _number(2, version)) for domain, version in opsets]
    return _number(1, 8) + b"".join(imports) + _field(7, graph)  # IR version 8


def _attribute(name: str, value: int | float | str) -> bytes:
    if isinstance(value, str):
        return _field(1, name) + _field(4, value) + _number(20, 3)
    if isinstance(value, float):
        return _field(1, name) + _varint(2 << 3 | 5) + struct.pack("<f", value) + _number(20, 1)
    return _field(1, name) + _number(3, value) + _number(20, 2)


def _value(name: str, element: int) -> bytes:
    return _field(1, name) + _field(2, _field(1, _number(1, element)))  # a tensor type without a shape


def _field(number: int, content: bytes | str) -> bytes:
    data = content.encode() if isinstance(content, str) else content
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*data, value])
