"""Counters for /metrics, in Prometheus' text format."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds


@dataclass
class Counter:
    """Something that is counted."""

    name: str
    help: str
    value: int = 0
    _lock: Lock = field(default_factory=Lock)

    def add(self) -> None:
        """One more."""
        with self._lock:
            self.value += 1

    def lines(self) -> Iterator[str]:
        """As text."""
        yield from _head(self.name, self.help, "counter")
        yield f"{self.name} {self.value}"


@dataclass
class Histogram:
    """How long something took."""

    name: str
    help: str
    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    total: float = 0.0
    _lock: Lock = field(default_factory=Lock)

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Count the time of the block."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - begun
            with self._lock:
                self.counts[sum(seconds > bound for bound in BOUNDS)] += 1
                self.total += seconds

    def lines(self) -> Iterator[str]:
        """As text."""
        yield from _head(self.name, self.help, "histogram")
        with self._lock:
            counts, total = list(self.counts), self.total
        for place, bound in enumerate((*map(str, BOUNDS), "+Inf"), 1):
            yield f'{self.name}_bucket{{le="{bound}"}} {sum(counts[:place])}'
        yield f"{self.name}_sum {total}"
        yield f"{self.name}_count {sum(counts)}"


class Metrics:
    """All that is counted."""

    def __init__(self) -> None:
        self.predictions = Histogram("i2f_predict_seconds", "Time of predictions, without waiting.")
        self.stale = Counter("i2f_stale_total", "Predictions that were dropped as newer ones had been asked for.")
        self.left = Counter("i2f_left_total", "Clients that left before their prediction began.")
        self.refused = Counter("i2f_refused_total", "Requests that were refused, by host, origin, token or size.")
        self.failures = Counter("i2f_failures_total", "Requests that failed by a defect of the server.")

    def text(self, gauges: Mapping[str, tuple[str, Callable[[], float]]]) -> str:
        """All of it, and values of the moment by their names, each with what it means."""
        lines = [
            line
            for one in (self.predictions, self.stale, self.left, self.refused, self.failures)
            for line in one.lines()
        ]
        for name, (meaning, value) in gauges.items():
            lines += [*_head(name, meaning, "gauge"), f"{name} {value()}"]
        return "\n".join(lines) + "\n"


def _head(name: str, meaning: str, kind: str) -> list[str]:
    return [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"]
