"""The operators of our domain in standard ONNX operators, as model-local functions.

A graph that carries these functions runs wherever ONNX runs; where our library is registered, its kernels run instead
and the bodies are ignored. Every body follows custom_ops/OPERATORS.md, uses only operators of opset 18, and creates no
tensor of E x L or larger than a few feature maps. For runtimes that know less than onnxruntime, bodies have no
subgraphs (loops, branches), no sequences and no strings, and use all of their inputs. So some are made for a graph:
for its number of experts, and for its number of tokens. All else they take from their tensors.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnxscript
from onnx import helper, numpy_helper

from inter2former_deploy.core.contract import DOMAIN, DOMAIN_VERSION
from inter2former_deploy.exporters.bodies.shared import HELPER_DOMAIN, HELPER_VERSION, MadeForSize

__all__ = [
    "HELPER_DOMAIN",
    "HELPER_VERSION",
    "MAX_OPSET",
    "MIN_OPSET",
    "add_bodies",
    "check_opset",
    "function_protos",
    "inline_bodies",
]

REDUCED = "Bf16"  # before the name of an operator: one without a body of its own has that of the operator without it
MIN_OPSET = 18  # torch.onnx.export(dynamo=True) starts here, and so do the operators of the bodies
MAX_OPSET = 24  # the newest that was run


@functools.cache
def _bodies() -> tuple[dict[tuple[str, str], Any], list[MadeForSize]]:
    """All scripts of the modules of this package by domain and name, and what else makes functions there."""
    scripts: dict[tuple[str, str], Any] = {}
    made = []
    for module in pkgutil.iter_modules(__path__):
        for value in vars(importlib.import_module(f"{__name__}.{module.name}")).values():
            if isinstance(value, onnxscript.OnnxFunction):
                scripts[value.opset.domain, value.name] = value
            elif isinstance(value, MadeForSize):
                made.append(value)
    return scripts, made


def check_opset(opset: int) -> None:
    """Refuses a version of the standard operators that was never run.

    Raises:
        ValueError: `opset` is outside `MIN_OPSET`..`MAX_OPSET`.
    """
    if not MIN_OPSET <= opset <= MAX_OPSET:
        raise ValueError(f"opset must be {MIN_OPSET} to {MAX_OPSET}, got {opset}")


def add_bodies(model: onnx.ModelProto) -> None:
    """Gives a model the bodies of those operators of our domain that its nodes are, made for its sizes.

    Functions that it has are replaced.

    Args:
        model: The sizes that some bodies are made for (`MadeForSize`) must be known in it, those of one operator equal.

    Raises:
        ValueError: A shape that is needed is not known or not the same everywhere, or the opset is out of range.
    """
    versions = {entry.domain: entry for entry in model.opset_import}
    used = {node.op_type for node in model.graph.node if node.domain == DOMAIN}
    del model.functions[:]
    if not used:
        return
    lengths = {made.input: _length(model.graph, made) for made in _bodies()[1]}
    model.functions.extend(function_protos(versions[""].version, used, lengths))
    for domain, version in ((DOMAIN, DOMAIN_VERSION), (HELPER_DOMAIN, HELPER_VERSION)):
        if domain not in versions:
            model.opset_import.append(helper.make_opsetid(domain, version))


def inline_bodies(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model without functions: their bodies stand where they were called, all operators are the standard's.

    Args:
        model: With the bodies of its operators; it is left as it is.
    """
    inlined: onnx.ModelProto = onnx.inliner.inline_local_functions(model)
    for node in inlined.graph.node:
        if node.op_type == "Constant":  # attributes of a call, as onnxslim 0.1.98 reads a float as float64 otherwise
            _as_tensor(node.attribute[0])
    standard = [entry for entry in inlined.opset_import if entry.domain not in (DOMAIN, HELPER_DOMAIN)]
    del inlined.opset_import[:]
    inlined.opset_import.extend(standard)
    onnx.checker.check_model(inlined, full_check=True)
    return inlined


def function_protos(
    opset: int, operators: Collection[str], lengths: Mapping[str, int] | None = None
) -> list[onnx.FunctionProto]:
    """The bodies of operators of `DOMAIN`, after the functions of `HELPER_DOMAIN` that they call.

    Args:
        opset: version of the standard operators; the same as the model's.
        operators: names of operators.
        lengths: First dimensions, or more, of the inputs that some bodies are made for (`MadeForSize`), by name; others
            are ignored.

    Raises:
        ValueError: `opset` is outside `MIN_OPSET`..`MAX_OPSET`.
    """
    check_opset(opset)
    bodies, sized = _bodies()
    lengths = lengths or {}
    made = {
        name: functools.partial(make, lengths.get(some.input, 0))
        for some in sized
        for name, make in some.functions.items()
    }
    found: dict[tuple[str, str], onnx.FunctionProto] = {}  # callees first

    def visit(domain: str, name: str) -> None:
        if (domain, name) in found:
            return
        if domain == HELPER_DOMAIN and name in made:
            proto = made[name]()
        else:
            script = _script_of(name) if domain == DOMAIN else name
            proto = _proto(bodies[domain, script])
            proto = proto if script == name else _in_float32(name, proto)
        for entry in proto.opset_import:
            if entry.domain == "":
                entry.version = opset
        for node in proto.node:
            if node.domain in (DOMAIN, HELPER_DOMAIN):
                visit(node.domain, node.op_type)
        found[domain, name] = proto

    for name in sorted(operators):
        visit(DOMAIN, name)
    return list(found.values())


def _script_of(operator: str) -> str:
    """Name of the operator whose script is the body of this one."""
    return operator if (DOMAIN, operator) in _bodies()[0] else operator.removeprefix(REDUCED)


def _in_float32(name: str, body: onnx.FunctionProto) -> onnx.FunctionProto:
    """The body of an operator that may round to bfloat16: that in float32, by a call of the operator with this body."""
    kinds = {
        attribute.ref_attr_name: attribute.type for node in body.node for attribute in node.attribute
    }  # of the attributes that nodes take
    call = helper.make_node(body.name, list(body.input), list(body.output), domain=DOMAIN)
    for attribute in (*body.attribute, *(given.name for given in body.attribute_proto)):
        reference = onnx.AttributeProto(name=attribute, ref_attr_name=attribute, type=kinds[attribute])
        call.attribute.append(reference)
    same = onnx.FunctionProto()
    same.CopyFrom(body)
    same.name, same.doc_string = name, f"{body.name} in float32 (custom_ops/OPERATORS.md)."
    del same.node[:]
    same.node.append(call)
    if DOMAIN not in {entry.domain for entry in same.opset_import}:
        same.opset_import.append(helper.make_opsetid(DOMAIN, DOMAIN_VERSION))
    return same


def _proto(function: Any) -> onnx.FunctionProto:
    proto: onnx.FunctionProto = function.to_function_proto()
    _settle_literals(proto)
    for node in proto.node:
        if node.op_type == "Constant":
            _as_tensor(node.attribute[0])
    proto.doc_string = (function.function.__doc__ or "").split("\n")[0]
    return proto


def _settle_literals(proto: onnx.FunctionProto) -> None:
    """Drops what onnxscript casts a literal with: bodies write literals in the type of what they meet."""
    constants = {node.output[0] for node in proto.node if node.op_type == "Constant"}
    literals = {}
    for node in list(proto.node):
        if node.op_type == "CastLike" and node.input[0] in constants:
            literals[node.output[0]] = node.input[0]
            proto.node.remove(node)
        else:
            node.input[:] = [literals.get(name, name) for name in node.input]


def _as_tensor(value: onnx.AttributeProto) -> None:
    """Make the value of a Constant a tensor: onnxruntime before 1.25 infers no shape for lists within functions."""
    if value.ref_attr_name or value.name not in ("value_int", "value_ints", "value_float", "value_floats"):
        return
    array = helper.get_attribute_value(value)
    element = onnx.TensorProto.INT64 if "int" in value.name else onnx.TensorProto.FLOAT
    tensor = numpy_helper.from_array(np.asarray(array, helper.tensor_dtype_to_np_dtype(element)))
    value.CopyFrom(helper.make_attribute("value", tensor))


def _length(graph: onnx.GraphProto, made: MadeForSize) -> int:
    """The first dimension of the input that bodies are made for; 0 if no node needs them."""
    names = set()
    for node in graph.node:
        if node.domain == DOMAIN and _script_of(node.op_type) in made.operators:
            inputs = [value.name for value in _bodies()[0][DOMAIN, _script_of(node.op_type)].function_ir.inputs]
            names.add(node.input[inputs.index(made.input)])
    if not names:
        return 0
    shapes = {x.name: list(x.dims) for x in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        shapes[value.name] = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    sizes = {shapes[name][0] if shapes.get(name) else 0 for name in names}
    if len(sizes) != 1 or 0 in sizes:
        operators = " and ".join(made.operators)
        raise ValueError(f"input {made.input} of {operators} has no known shape, or not one: {sorted(names)}")
    return sizes.pop()
