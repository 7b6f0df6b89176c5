"""Comparisons of the parity gate: a tensor is as good as PyTorch's own float32, measured by float64, or it fails."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from inter2former_deploy.exporters import tolerances
from inter2former_deploy.exporters.tolerances import LIMITS

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One comparison."""

    tensor: str
    backend: str
    measure: str  # see `tolerances.Measure`; errors are over the largest (or the mean) absolute value of the tensor
    value: float
    limit: float
    against: str = ""  # what the tensor was compared with
    note: str = ""

    @property
    def passed(self) -> bool:
        """Within the limit; a NaN is not."""
        return self.value <= self.limit

    @property
    def excess(self) -> float:
        """The value over its limit, to find the worst of several checks; NaN counts as infinitely far beyond it."""
        if not self.value <= self.limit:
            return self.value / self.limit if self.limit and np.isfinite(self.value) else np.inf
        return self.value / self.limit if self.limit else 0.0


@dataclass(frozen=True, kw_only=True)
class Exact:
    """A tensor in float64, and how far the float32 of PyTorch is from it."""

    values: Array  # float64
    largest: float  # of PyTorch's absolute errors, over `scale`
    mean: float  # of PyTorch's absolute errors, over `typical`
    scale: float  # the largest absolute value
    typical: float  # the mean of the absolute values
    own: str = "float32"  # what of PyTorch's is measured

    @classmethod
    def of(cls, values: Tensor, own: Tensor, name: str = "float32", size_of: Exact | None = None) -> Exact:
        """From the same tensor in float64 and as PyTorch computes it otherwise.

        Args:
            values: In float64.
            own: As PyTorch computes it otherwise.
            name: Of that other way.
            size_of: Whose largest and mean value errors are measured by; the tensor itself when None.
        """
        exact = values.numpy()
        scale, typical = _sizes(exact) if size_of is None else (size_of.scale, size_of.typical)
        largest, mean = _errors(own.numpy(), exact, scale, typical)
        return cls(values=exact, largest=largest, mean=mean, scale=scale, typical=typical, own=name)

    def judge(
        self, tensor: str, backend: str, actual: Array, *, largest: float, mean: float, note: str = ""
    ) -> Iterator[Check]:
        """Compare the largest and the mean error of a tensor with those of PyTorch.

        Args:
            tensor: Its name.
            backend: What computed it.
            actual: Its values, of any float type.
            largest: How many times PyTorch's largest error the largest error may be.
            mean: The same for the mean error.
            note: For the report.
        """
        if actual.shape != self.values.shape:
            yield _shape_differs(tensor, backend, actual.shape, self.values.shape)
            return
        errors = _errors(actual, self.values, self.scale, self.typical)
        found = (("largest error", self.largest, largest), ("mean error", self.mean, mean))
        for (measure, own, multiple), error in zip(found, errors, strict=True):
            yield Check(
                tensor=tensor,
                backend=backend,
                measure=measure,
                value=error,
                limit=multiple * max(own, tolerances.FLOOR),
                against=f"float64, from which PyTorch's {self.own} is {own:.1e} off",
                note=note,
            )


def judged(tensor: str, backend: str, actual: Array, exact: Exact, note: str = "") -> Iterator[Check]:
    """A tensor in float32 against float64, within the multiples of `tolerances`."""
    mean = tolerances.MEAN_OF_MAPS if tensor.startswith("edge_") else tolerances.MEAN
    return exact.judge(tensor, backend, actual, largest=tolerances.LARGEST, mean=mean, note=note)


def counted(tensor: str, backend: str, differ: Array, note: str = "") -> Check:
    """A tensor by the number of elements that are wrong, where `differ` is true."""
    return limited(tensor, backend, float(np.count_nonzero(differ)), note=note)


def equal(tensor: str, backend: str, actual: Array, expected: Array, note: str = "") -> Check:
    """A tensor by the number of elements that are not those of PyTorch."""
    if actual.shape != expected.shape:
        return _shape_differs(tensor, backend, actual.shape, expected.shape)
    return counted(tensor, backend, actual != expected, note)


def limited(tensor: str, backend: str, value: float, note: str = "") -> Check:
    """A check by the limit of this name in `tolerances.LIMITS`."""
    limit = LIMITS[tensor]
    return Check(
        tensor=tensor,
        backend=backend,
        measure=limit.measure,
        value=value,
        limit=limit.value,
        against="PyTorch",
        note=note,
    )


def mask_difference(one: Array, other: Array) -> float:
    """The pixels in which two masks of a picture differ, over those of either, or over those of a small object."""
    either = float(np.count_nonzero(one.astype(bool) | other.astype(bool)))
    differ = float(np.count_nonzero(one.astype(bool) ^ other.astype(bool)))
    return differ / max(either, tolerances.SMALL_MASK * one.size)


def _shape_differs(tensor: str, backend: str, actual: tuple[int, ...], expected: tuple[int, ...]) -> Check:
    return Check(
        tensor=tensor, backend=backend, measure="count", value=np.inf, limit=0, against="PyTorch",
        note=f"shape {list(actual)}, not {list(expected)}",
    )  # fmt: skip


def _sizes(exact: Array) -> tuple[float, float]:
    """The largest and the mean absolute value; 1 where all are zero, so that errors stay absolute."""
    size = np.abs(exact)
    return float(size.max(initial=0)) or 1.0, float(size.mean() if size.size else 0) or 1.0


def _errors(actual: Array, exact: Array, scale: float, typical: float) -> tuple[float, float]:
    """The largest and the mean absolute error, over the sizes of the tensor."""
    error = np.abs(actual - exact)
    return float(error.max(initial=0)) / scale, float(error.mean() if error.size else 0) / typical
