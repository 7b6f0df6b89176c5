"""One thing after the other through a model, while the next ones are read and the last ones are written."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Ready = TypeVar("Ready")
Made = TypeVar("Made")
Result = TypeVar("Result")

READERS = 2  # threads: large pictures take longer to decode than small ones to encode
AHEAD = 3  # items that are read before their turn, and at most as many that are not yet written


def pipeline(
    items: Iterable[Item],
    read: Callable[[Item], Ready],
    compute: Callable[[Item, Ready], Made],
    write: Callable[[Item, Made], Result],
    *,
    readers: int = READERS,
) -> Generator[Result, None, None]:
    """Items through three steps, in order.

    Args:
        items: taken one by one, no more of them than are needed.
        read: what the model needs of an item; in threads, some items ahead.
        compute: by the model; in the caller's thread, one item at a time.
        write: keeps what was made; in a thread of its own, one item at a time, in order.
        readers: threads that read.

    Yields:
        What `write` gave of each item.

    Raises:
        Whatever a step raises, at the place of its item. What was computed before it has been written then.
    """
    with (
        ThreadPoolExecutor(readers, thread_name_prefix="read") as reader,
        ThreadPoolExecutor(1, thread_name_prefix="write") as writer,
    ):
        writer.submit(bool).result()  # a signal while its thread starts would leave nobody waiting for that thread
        reading: deque[tuple[Item, Future[Ready]]] = deque()
        writing: deque[Future[Result]] = deque()
        coming = iter(items)
        try:
            while True:
                for item in islice(coming, AHEAD - len(reading)):
                    reading.append((item, reader.submit(read, item)))
                if not reading:
                    break
                item, ready = reading.popleft()
                writing.append(writer.submit(write, item, compute(item, ready.result())))
                while writing and (writing[0].done() or len(writing) >= AHEAD):
                    yield writing.popleft().result()
            while writing:
                yield writing.popleft().result()
        finally:
            for _, ready in reading:
                ready.cancel()
