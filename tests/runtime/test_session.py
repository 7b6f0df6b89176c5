"""Sessions over a stand-in for the decoder: any pure function of the label map will do."""

from __future__ import annotations

from threading import Thread

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inter2former_deploy.core.labels import Click, Labels, add_clicks, fold_prediction, unknown_labels
from inter2former_deploy.runtime.postprocess import Box, paste_logits
from inter2former_deploy.runtime.preprocess import Floats, Frame
from inter2former_deploy.runtime.session import KEPT_LOGITS, Session

FRAME = Frame(90, 70, 64)  # scale 1/4
HILLS = np.random.default_rng(3).standard_normal((64, 64)).astype(np.float32)


def decode(labels: Labels) -> tuple[Box, Floats]:
    """Logits that depend on every label, in a box that moves with them."""
    total = int(labels.astype(np.int64).sum())
    box = Box(total % 7, total % 5, 64 - total % 11, 64 - total % 13)
    logits = HILLS + (labels.astype(np.float32) - 2) + total % 3 - 1
    return box, logits[box.top : box.bottom, box.left : box.right].copy()


def state(session: Session) -> tuple[np.ndarray, ...]:
    logits = session.logits if session.clicks else np.zeros(0)
    return session.mask, session.labels, logits, np.array(session.clicks)


def assert_same(actual: Session, expected: Session) -> None:
    for a, b in zip(state(actual), state(expected), strict=True):
        np.testing.assert_array_equal(a, b)


points = st.tuples(st.integers(0, 69), st.integers(0, 89), st.booleans())


@given(actions=st.lists(st.one_of(points, st.just("undo"), st.just("reset")), max_size=2 * KEPT_LOGITS + 6))
@settings(deadline=None)
def test_undo_is_as_if_the_click_had_never_been_made(actions: list[tuple[int, int, bool] | str]) -> None:
    session = Session(FRAME, decode)
    left: list[tuple[int, int, bool]] = []
    for action in actions:
        if action == "reset":
            session.reset()
            left.clear()
        elif action == "undo":
            if left:
                left.pop()
                session.undo()
        elif isinstance(action, tuple):
            left.append(action)
            session.click(*action)
    fresh = Session(FRAME, decode)
    for click in left:
        fresh.click(*click)
    assert_same(session, fresh)


def test_undo_far_back() -> None:
    session, clicks = Session(FRAME, decode), [(3 * i, 4 * i, i % 3 != 1) for i in range(KEPT_LOGITS + 8)]
    masks = [session.click(*click) for click in clicks]
    for mask in masks[-2::-1]:
        np.testing.assert_array_equal(session.undo(), mask)
    assert not session.undo().any()
    with pytest.raises(RuntimeError, match="no click to undo"):
        session.undo()


def test_labels_follow_the_release_s_order() -> None:
    """Labels are those the last decode saw: clicks added to earlier predictions, its own not yet folded in."""
    session, labels = Session(FRAME, decode), unknown_labels(64)
    np.testing.assert_array_equal(session.labels, labels)
    for x, y, positive in [(30, 40, True), (60, 80, False), (10, 10, True)]:
        mask = session.click(x, y, positive)
        add_clicks(labels, [Click(int(x / 4), int(y / 4), positive)])
        np.testing.assert_array_equal(session.labels, labels)
        box, box_logits = decode(labels)
        logits = paste_logits(box_logits, box, 64)
        np.testing.assert_array_equal(session.logits, logits)
        np.testing.assert_array_equal(session.mask, mask)
        fold_prediction(labels, logits > 0)


def test_what_a_session_hands_out_is_the_caller_s() -> None:
    session, other = Session(FRAME, decode), Session(FRAME, decode)
    for one in (session, other):
        one.click(20, 20)
    for array in (session.mask, session.labels, session.logits, session.click(5, 5), session.undo()):
        array[...] = 1
    assert_same(session, other)


def test_before_the_first_click() -> None:
    session = Session(FRAME, decode)
    assert session.clicks == ()
    assert session.mask.shape == (90, 70)
    assert not session.mask.any()
    with pytest.raises(RuntimeError, match="no logits before the first click"):
        _ = session.logits


def test_an_error_leaves_the_session_as_it_was() -> None:
    broken = False

    def sometimes(labels: Labels) -> tuple[Box, Floats]:
        if broken:
            raise MemoryError
        return decode(labels)

    session, other = Session(FRAME, sometimes), Session(FRAME, decode)
    for clicks in range(2):
        broken = True
        with pytest.raises(MemoryError):
            session.click(40, 40, False)
        broken = False
        with pytest.raises(ValueError, match="outside"):
            session.click(70, 0)
        assert_same(session, other)
        for one in (session, other):
            one.click(10 + clicks, 10)
    assert_same(session, other)


def test_clicks_of_one_session_from_several_threads_take_turns() -> None:
    session = Session(FRAME, decode)
    threads = [Thread(target=lambda x=x: [session.click(x, y) for y in range(5)]) for x in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    replay = Session(FRAME, decode)
    for click in session.clicks:
        replay.click(*click)
    assert len(replay.clicks) == 40
    assert_same(session, replay)
