from __future__ import annotations

import threading
from typing import NoReturn

import pytest

from inter2former_deploy.apps.batch.pipeline import AHEAD, pipeline

SECONDS = 60  # until a step that waits for another is taken to wait for ever


def test_results_come_in_order_whatever_reading_takes() -> None:
    later = threading.Event()

    def read(item: int) -> int:
        if item == 0:
            assert later.wait(SECONDS)
        if item == 1:
            later.set()
        return 10 * item

    done = pipeline(range(20), read, lambda item, ready: (item, ready), lambda item, made: (item, *made))
    assert list(done) == [(item, item, 10 * item) for item in range(20)]


def test_the_next_is_read_and_the_last_written_while_one_is_computed() -> None:
    read_of = {item: threading.Event() for item in range(4)}
    written_of = {item: threading.Event() for item in range(4)}

    def compute(item: int, _: None) -> int:
        if item < 3:
            assert read_of[item + 1].wait(SECONDS), "the next item is read after this one only"
        if item > 0:
            assert written_of[item - 1].wait(SECONDS), "the last item is not written before this one"
        return item

    done = pipeline(range(4), lambda item: read_of[item].set(), compute, lambda item, _: written_of[item].set())
    assert len(list(done)) == 4


def test_nothing_is_read_long_before_its_turn() -> None:
    taken: list[int] = []

    def items() -> list[int]:
        return list(range(100))

    def read(item: int) -> int:
        taken.append(item)
        return item

    results = pipeline(iter(items()), read, lambda item, _: item, lambda item, _: item)
    next(results)
    assert max(taken) <= 2 * AHEAD
    results.close()  # type: ignore[attr-defined]
    assert max(taken) <= 2 * AHEAD


def test_what_was_computed_is_written_before_an_error_ends_it() -> None:
    written: list[int] = []

    def compute(item: int, _: int) -> int:
        if item == 2:
            raise KeyboardInterrupt
        return item

    with pytest.raises(KeyboardInterrupt):
        list(pipeline(range(9), lambda item: item, compute, lambda item, _: written.append(item)))
    assert written == [0, 1]


def test_errors_of_every_step_are_those_of_the_caller() -> None:
    def fail(*_: object) -> NoReturn:
        raise LookupError("here")

    def well(*values: object) -> object:
        return values[0]

    for steps in ((fail, well, well), (well, fail, well), (well, well, fail)):
        with pytest.raises(LookupError, match="here"):
            list(pipeline(range(3), *steps))
