"""Several processes that share the pictures of every step, and so keep the same weights."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn
from torch.multiprocessing.spawn import ProcessRaisedException, spawn

INTERRUPTS = (signal.SIGINT, signal.SIGTERM)


def run_together(processes: int, work: Callable[[], Any]) -> None:
    """Calls `work()` in each of some processes, in which the other functions of this file reach all of them.

    Args:
        processes: Their number. They share the threads of torch that this one has.
        work: Sent to the processes, so that it must be picklable.

    Raises:
        RuntimeError: one of them failed; the message is its error, the cause holds its traceback.
    """
    with tempfile.TemporaryDirectory() as folder:
        meeting = (Path(folder) / "meeting").as_uri()
        threads = max(1, torch.get_num_threads() // processes)
        arguments = processes, meeting, threads, work
        started = spawn(_join, arguments, nprocs=processes, join=False)  # type: ignore[no-untyped-call]

        def pass_on(_: int) -> None:
            for process in started.processes:
                process.terminate()

        with handling_interrupts(pass_on):
            try:
                while not started.join():
                    pass
            except ProcessRaisedException as error:
                raise RuntimeError(str(error).rstrip().splitlines()[-1]) from error


def _join(rank: int, processes: int, meeting: str, threads: int, work: Callable[[], Any]) -> None:
    torch.set_num_threads(threads)
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=processes)
    try:
        work()
        distributed.barrier()  # gloo now and then aborts a process that leaves while another still works
    finally:
        distributed.destroy_process_group()


def count() -> int:
    """Processes that work together."""
    return distributed.get_world_size() if _together() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return distributed.get_rank() if _together() else 0


def any_of_them(here: bool) -> bool:
    """Whether it is so in any process; each must ask."""
    if not _together():
        return here
    flag = torch.tensor(int(here))
    distributed.all_reduce(flag, distributed.ReduceOp.MAX)
    return bool(flag)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replaces every gradient by its mean over all processes; each must call it with the same parameters."""
    if not _together():
        return
    parameters = list(parameters)
    has = torch.tensor([int(p.grad is not None) for p in parameters])
    distributed.all_reduce(has)
    moved = [p for p, n in zip(parameters, has.tolist(), strict=True) if n]
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in moved]
    flat = torch.cat([g.flatten() for g in gradients]) / count()
    distributed.all_reduce(flat)
    for p, mean in zip(moved, torch.split(flat, [g.numel() for g in gradients]), strict=True):
        p.grad = mean.view_as(p)


def _together() -> bool:
    return distributed.is_available() and distributed.is_initialized()


@contextmanager
def handling_interrupts(handle: Callable[[int], Any]) -> Iterator[None]:
    """Within, Ctrl-C and SIGTERM only call `handle` with their number."""
    try:
        old = [signal.signal(s, lambda number, _: handle(number)) for s in INTERRUPTS]
    except ValueError:  # not in the main thread: whoever is there takes care
        yield
        return
    try:
        yield
    finally:
        for s, handler in zip(INTERRUPTS, old, strict=True):
            signal.signal(s, handler)
