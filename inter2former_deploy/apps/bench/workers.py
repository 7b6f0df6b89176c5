"""Variants of a workload in processes of their own, timed in turn."""

from __future__ import annotations

import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

# glibc gives large blocks back to the system and pays for the page faults again; PyTorch is much faster without that
TUNED_MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000", "MALLOC_TOP_PAD_": "268435456"}


SETTLE = 0.03  # seconds after a call in which its threads stop spinning, so that they don't take the next one's cores


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What a worker runs: `builder` names a function "module:name" that returns the callable to be timed."""

    builder: str
    arguments: Mapping[str, Any]
    environment: Mapping[str, str] | None = None

    @property
    def function(self) -> Callable[..., Callable[[], Any]]:
        """The builder, imported."""
        module, _, name = self.builder.partition(":")
        found: Callable[..., Callable[[], Any]] = getattr(importlib.import_module(module), name)
        return found


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Milliseconds of one call: median, quartiles and extremes over `runs` calls; memory of the worker in MiB."""

    median: float
    low: float  # first quartile
    high: float  # third quartile
    best: float
    runs: int
    peak_mib: float  # largest resident set of the worker since the workload was built
    growth_mib: float  # that, less what was resident before the first call

    def to_dict(self) -> dict[str, float]:
        """As written to JSON."""
        return asdict(self)


class Worker:
    """One process that builds a workload once and times calls of it on request."""

    def __init__(self, workload: Workload, threads: int) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "I2F_BENCH_THREADS": str(threads)}
        environment |= dict(workload.environment or {})
        self._process = subprocess.Popen(
            [sys.executable, "-m", "inter2former_deploy.apps.bench.workers"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=os.sep,  # Python looks there first, and a checkout would shadow the package
        )
        self.milliseconds: list[float] = []
        self.peak_mib = self.growth_mib = 0.0
        try:
            self._ask({"builder": workload.builder, "arguments": dict(workload.arguments)})
        except BaseException:
            self._end()
            raise

    def run(self, calls: int = 1) -> None:
        """Time some calls, one after the other."""
        answer = self._ask({"run": calls})
        self.milliseconds += answer["milliseconds"]
        self.peak_mib, self.growth_mib = answer["peak_mib"], answer["growth_mib"]

    def timing(self) -> Timing:
        """What was measured so far, the first (warming) call left out."""
        times = sorted(self.milliseconds[1:]) or self.milliseconds
        quartiles = statistics.quantiles(times, n=4) if len(times) > 1 else [times[0]] * 3
        return Timing(
            median=statistics.median(times),
            low=quartiles[0],
            high=quartiles[2],
            best=times[0],
            runs=len(times),
            peak_mib=self.peak_mib,
            growth_mib=self.growth_mib,
        )

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise RuntimeError("the worker has no pipes")
        stdin.write(json.dumps(request) + "\n")
        stdin.flush()
        line = stdout.readline()
        if not line:
            raise RuntimeError(f"a benchmark worker died at {request}; its error stands above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        self._process.kill()
        self._process.communicate()  # closes its pipes and waits


def alternate(
    workloads: Mapping[str, Workload], *, threads: int, seconds: float = 4.0, least: int = 5, calls: int = 1
) -> dict[str, Timing]:
    """Time all workloads in turn until `seconds` a workload are spent, at least `least` rounds after a warming one.

    Args:
        workloads: By name.
        threads: Of each.
        seconds: For each, waiting included.
        least: Rounds at least.
        calls: In a row at each turn: 1 measures a call after a pause, as users make them; more, mostly warm ones.
    """
    with ExitStack() as stack:
        workers = {name: stack.enter_context(Worker(load, threads)) for name, load in workloads.items()}
        start, rounds = time.perf_counter(), 0
        while rounds <= least or time.perf_counter() - start < seconds * len(workers):
            for worker in workers.values():
                worker.run(calls)
                time.sleep(SETTLE)
            rounds += 1
        return {name: worker.timing() for name, worker in workers.items()}


def threads_here() -> int:
    """The thread count a workload must use, inside a worker."""
    return int(os.environ.get("I2F_BENCH_THREADS", "1"))


def _memory_mib(field: str) -> float:
    """`VmRSS`, what is resident, or `VmHWM`, the most that was since the peak was forgotten."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _serve() -> None:
    # what the workload prints must not reach the pipe of answers
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    call: Callable[[], object] | None = None
    before = 0.0
    for line in sys.stdin:
        request = json.loads(line)
        if "builder" in request:
            call = Workload(**request).function(**request["arguments"])
            before = _memory_mib("VmRSS")
            _forget_peak()
            answers.write("{}\n")
            continue
        if call is None:
            raise RuntimeError("a workload must be built before it runs")
        milliseconds = []
        for _ in range(request["run"]):
            start = time.perf_counter()
            call()
            milliseconds.append(1e3 * (time.perf_counter() - start))
        peak = _memory_mib("VmHWM")
        answers.write(json.dumps({"milliseconds": milliseconds, "peak_mib": peak, "growth_mib": peak - before}) + "\n")


if __name__ == "__main__":
    _serve()
