"""The parity gate: do the exported graphs compute what PyTorch computes?

A photograph and a session of clicks go through the reference modules and through onnxruntime, with the operator library
and without. Tensors are compared one by one with the same inputs on both sides: the reference runs in float64, and a
graph may be off from it a small multiple of what PyTorch's own float32 is. Masks are compared from the image on, at the
same label maps and in sessions that each side continues by itself.
`photograph.jpg` is "Coffee cup" by Rachel Michetti, CC0.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray

from inter2former_deploy.core import library
from inter2former_deploy.core.errors import OperatorLibraryError
from inter2former_deploy.core.prompts import Click
from inter2former_deploy.core.threads import available_cpus
from inter2former_deploy.exporters.graphs import expose
from inter2former_deploy.exporters.judgement import Check

Array = NDArray[Any]
Arrays = dict[str, Array]
Progress = Callable[[str], None]

PLAIN, OPERATORS = "onnxruntime", "with operators"  # the two ways to run a graph
CLICKS = (  # in pixels of the photograph: the cup, what lies around it, details
    *(Click(285, 190, True), Click(60, 60, False), Click(400, 120, True), Click(520, 330, False)),
    *(Click(150, 260, True), Click(330, 380, False), Click(480, 60, False), Click(250, 90, True)),
)
SESSION = 4  # clicks of the gate's session; of large maps, tensors are compared at the first and the last of them


@dataclass(frozen=True, kw_only=True)
class ParityReport:
    """All that the gate found."""

    size: int
    backends: tuple[str, ...]
    checks: tuple[Check, ...]
    tools: dict[str, str]
    seconds: dict[str, float] = field(default_factory=dict)  # by step

    @property
    def passed(self) -> bool:
        """Whether every comparison is within its limit."""
        return all(check.passed for check in self.checks)

    @property
    def failures(self) -> tuple[Check, ...]:
        """The comparisons that are not."""
        return tuple(check for check in self.checks if not check.passed)

    def to_dict(self) -> dict[str, Any]:
        """For JSON; a number that is not finite becomes a string."""
        checks = [asdict(check) | {"passed": check.passed} for check in self.checks]
        plain: dict[str, Any] = _finite({"passed": self.passed} | asdict(self) | {"checks": checks})
        return plain

    def table(self) -> str:
        """For people: a line a comparison, then the remarks."""
        rows = [("tensor", "backend", "measure", "value", "limit", "")]
        for check in self.checks:
            verdict = "ok" if check.passed else "FAILED"
            numbers = (f"{check.value:.3g}", f"{check.limit:.3g}")
            against = "" if check.passed or not check.against else f"against {check.against}"
            remarks = " ".join(filter(None, (verdict, check.note, against)))
            rows.append((check.tensor, check.backend, check.measure, *numbers, remarks))
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        lines = ["  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[5]]) for row in rows]
        lines += ["", *self.remarks()]
        lines.append("all within limits" if self.passed else f"{len(self.failures)} of {len(self.checks)} FAILED")
        return "\n".join(line.rstrip() for line in lines)

    def remarks(self) -> list[str]:
        """What a family says besides of what happened, a line each."""
        return []


def load_photograph() -> Array:
    """The photograph of the gate, uint8 RGB [400, 600, 3]."""
    data = resources.files("inter2former_deploy.exporters").joinpath("photograph.jpg").read_bytes()
    image = np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR))
    return np.ascontiguousarray(image[..., ::-1])


@dataclass(frozen=True, kw_only=True)
class Graphs:
    """Files of the graphs of an encoder and a decoder."""

    encoder: Path
    prepare: Path
    click: Path


class Graph:
    """A graph in onnxruntime, by names.

    Args:
        path: The graph.
        outputs: Names of its outputs that are asked for.
        inner: Names of inner values that are asked for besides.
        custom_ops: Use the operator library.
        num_threads: As many as this process may keep busy when None.
    """

    def __init__(
        self,
        path: Path,
        outputs: Sequence[str],
        inner: Sequence[str] = (),
        *,
        custom_ops: bool,
        num_threads: int | None,
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads or available_cpus()
        options.log_severity_level = 4  # errors come as exceptions
        if custom_ops:
            library.register(options)
        model = expose(onnx.load(path), inner).SerializeToString() if inner else path
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._outputs = [*outputs, *inner]

    def __call__(self, feeds: Mapping[str, Array]) -> Arrays:
        """The outputs for these inputs."""
        return dict(zip(self._outputs, self._session.run(self._outputs, dict(feeds)), strict=True))


class Findings:
    """What the gate of a family finds, step by step.

    Args:
        size: S.
        progress: Told what comes next.
    """

    def __init__(self, size: int, progress: Progress) -> None:
        self.size, self.progress = size, progress
        self.checks: list[Check] = []
        self.worst: dict[tuple[str, str, str], Check] = {}  # of all decodes, by tensor, backend and measure
        self.seconds: dict[str, float] = {}  # by step

    def report(self) -> ParityReport:
        """All that was found."""
        return ParityReport(**self.found())

    def found(self) -> dict[str, Any]:
        """The fields of `ParityReport`."""
        return {
            "size": self.size,
            "backends": tuple(dict.fromkeys(check.backend for check in self.checks)),
            "checks": tuple(self.checks),
            "tools": {module.__name__: str(module.__version__) for module in (torch, onnx, onnxruntime)},
            "seconds": self.seconds,
        }

    def _keep_worst(self, check: Check) -> None:
        key = check.tensor, check.backend, check.measure
        if check.excess >= self.worst.setdefault(key, check).excess:
            self.worst[key] = check

    @contextmanager
    def _step(self, what: str) -> Iterator[None]:
        self.progress(what)
        start = time.perf_counter()
        yield
        self.seconds[what] = round(time.perf_counter() - start, 3)


def require_kernels(file: Path) -> None:
    """Whether the library has every operator: without the function bodies, a graph loads only then."""
    graph = onnx.load(file)
    del graph.functions[:]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    path = library.register(options)
    try:
        onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base of their own
        raise OperatorLibraryError(
            f"the operator library {path} does not run {file.name} ({error}): reinstall this version"
        ) from error


def _finite(data: Any) -> Any:
    """Lists and dictionaries as JSON knows them, and text for numbers that it does not know."""
    if isinstance(data, dict):
        return {name: _finite(value) for name, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return str(data) if isinstance(data, float) and not np.isfinite(data) else data
