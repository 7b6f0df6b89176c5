"""Sessions over a stand-in for the decoder: any pure function of the label map will do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from threading import Thread
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inter2former_deploy.core.prompts import Click, StartMask
from inter2former_deploy.families.inter2former.labels import add_clicks, fold_prediction, unknown_labels
from inter2former_deploy.families.inter2former.masks import Box, BoxLogits, paste_logits
from inter2former_deploy.families.inter2former.pictures import Frame
from inter2former_deploy.families.inter2former.prompts import LabelMapPrompts
from inter2former_deploy.runtime.session import KEPT_PREDICTIONS, Session

FRAME = Frame(90, 70, 64)  # scale 1/4
HILLS = np.random.default_rng(3).standard_normal((64, 64)).astype(np.float32)


def decode(prompts: Mapping[str, np.ndarray]) -> BoxLogits:
    """Logits that depend on every label, in a box that moves with them."""
    labels = prompts["labels"]
    total = int(labels.astype(np.int64).sum())
    box = Box(total % 7, total % 5, 64 - total % 11, 64 - total % 13)
    logits = HILLS + (labels.astype(np.float32) - 2) + total % 3 - 1
    return BoxLogits(box, logits[box.top : box.bottom, box.left : box.right].copy())


def new_session(decode: Callable[[Mapping[str, np.ndarray]], BoxLogits] = decode) -> Session:
    return Session(FRAME, LabelMapPrompts(FRAME.size), decode)


def state(session: Session) -> tuple[np.ndarray, ...]:
    decoded = session.prompts and not isinstance(session.prompts[-1], StartMask)
    logits = session.logits if decoded else np.zeros(0)
    told = [prompt.mask.tobytes() if isinstance(prompt, StartMask) else repr(prompt) for prompt in session.prompts]
    return session.mask, session.inputs["labels"], logits, np.array(told)


def assert_same(actual: Session, expected: Session) -> None:
    for a, b in zip(state(actual), state(expected), strict=True):
        np.testing.assert_array_equal(a, b)


xs, ys = st.integers(0, 69), st.integers(0, 89)
DISC = np.hypot(*(np.mgrid[:90, :70] - np.array([50, 30])[:, None, None])) < 20
prompts = st.one_of(
    st.tuples(st.just("click"), xs, ys, st.booleans()),
    st.tuples(st.just("box"), xs, ys, st.just(70), st.just(90)),
    st.tuples(st.just("stroke"), st.lists(st.tuples(xs, ys), min_size=1, max_size=3), st.booleans()),
    st.tuples(st.just("start"), st.sampled_from([DISC, ~DISC])),
)


def tell(session: Session, prompt: tuple[Any, ...]) -> np.ndarray:
    """Calls the method of the prompt."""
    mask: np.ndarray = getattr(session, prompt[0])(*prompt[1:])
    return mask


@given(actions=st.lists(st.one_of(prompts, st.just("undo"), st.just("reset")), max_size=2 * KEPT_PREDICTIONS + 6))
@settings(deadline=None)
def test_undo_is_as_if_the_prompt_had_never_been_made(actions: list[tuple[Any, ...] | str]) -> None:
    session = new_session()
    left: list[tuple[Any, ...]] = []
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
            np.testing.assert_array_equal(tell(session, action), session.mask)
    fresh = new_session()
    for prompt in left:
        tell(fresh, prompt)
    assert_same(session, fresh)


def test_a_start_mask_is_refined() -> None:
    """It is the mask until another prompt comes, and then the prediction that the prompt corrects."""
    session = new_session()
    given_mask = DISC.copy()
    np.testing.assert_array_equal(session.start(given_mask), DISC)
    given_mask[:] = False  # the caller's own
    np.testing.assert_array_equal(session.mask, DISC)
    with pytest.raises(RuntimeError, match="no logits before the first decode, nor right after a start mask"):
        _ = session.logits
    mask = session.click(4, 8)
    square = np.zeros((64, 64), bool)
    square[:22, :17] = DISC[2::4, 2::4]  # the pixel under each centre; the image covers 22.5 x 17.5
    labels = np.where(square, 3, 1).astype(np.uint8)
    depth = cv2.distanceTransform(square.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    labels[depth > depth.max() / 1.4] = 4
    assert 5 < (labels == 4).sum() < 0.2 * square.sum()
    add_clicks(labels, [Click(1, 2, True)])
    np.testing.assert_array_equal(session.inputs["labels"], labels)
    np.testing.assert_array_equal(mask, decode({"labels": labels}).mask(FRAME))
    np.testing.assert_array_equal(session.undo(), DISC)

    session.click(30, 50, False)
    session.start(~DISC)
    session.start(DISC)  # in place of the one before; the clicks made before them stay
    labels = session.inputs["labels"]
    clicked = np.hypot(*(np.mgrid[:64, :64] - np.array([12, 7])[:, None, None])) <= 5
    assert (labels[clicked] == 0).all()
    assert (labels[square & ~clicked] == 3).all()
    assert (labels[~square & ~clicked] == 1).all()


@pytest.mark.parametrize(
    ("prompt", "error", "message"),
    [
        (("box", 5, 5, 5, 9), ValueError, r"box \(5, 5, 5, 9\) is empty: x0 must be less than x1"),
        (("box", 5, 9, 6, 2), ValueError, "is empty"),
        (("box", -1, 0, 5, 5), ValueError, r"reaches outside the image: x must be in \[0, 70\], y in \[0, 90\]"),
        (("box", 0, 0, 70, 90.5), ValueError, "reaches outside the image"),
        (("box", 0, 0, float("inf"), 5), ValueError, "box coordinate x1 must be finite"),
        (("box", 0, 0, "7", 5), TypeError, "box coordinate x1 must be a number, got '7'"),
        (("stroke", []), ValueError, "a stroke needs at least one point"),
        (("stroke", [1, 2]), TypeError, r"a stroke must be a sequence of points \(x, y\), got \[1, 2\]"),
        (("stroke", [(1, 2), (70, 3)]), ValueError, r"click \(70, 3\) lies outside the image"),
        (("stroke", [(1, float("nan"))]), ValueError, "stroke coordinate y must be finite"),
        (("stroke", [(1, 2)], 1), TypeError, "positive must be True or False, got 1"),
        (("start", DISC[1:]), ValueError, r"must be of the image's size, \(90, 70\), got \(89, 70\)"),
        (("start", DISC.astype(np.uint8)), TypeError, "must be a numpy array of bool, .*got uint8: try mask > 0"),
        (("start", "mask.png"), TypeError, "got str"),
        (("start", np.zeros((90, 70), bool)), ValueError, "holds no object"),
    ],
)
def test_prompts_that_make_no_sense_are_refused(prompt: tuple[Any, ...], error: type[Exception], message: str) -> None:
    session, other = new_session(), new_session()
    for one in (session, other):
        one.click(20, 20)
    with pytest.raises(error, match=message):
        tell(session, prompt)
    assert_same(session, other)


def test_undo_far_back() -> None:
    session, clicks = new_session(), [(3 * i, 4 * i, i % 3 != 1) for i in range(KEPT_PREDICTIONS + 8)]
    masks = [session.click(*click) for click in clicks]
    for mask in masks[-2::-1]:
        np.testing.assert_array_equal(session.undo(), mask)
    assert not session.undo().any()
    with pytest.raises(RuntimeError, match="no prompt to undo"):
        session.undo()


def test_labels_follow_the_release_s_order() -> None:
    """Labels are those the last decode saw: clicks added to earlier predictions, its own not yet folded in."""
    session, labels = new_session(), unknown_labels(64)
    np.testing.assert_array_equal(session.inputs["labels"], labels)
    for x, y, positive in [(30, 40, True), (60, 80, False), (10, 10, True)]:
        mask = session.click(x, y, positive)
        add_clicks(labels, [Click(int(x / 4), int(y / 4), positive)])
        np.testing.assert_array_equal(session.inputs["labels"], labels)
        box, box_logits = decode({"labels": labels})
        logits = paste_logits(box_logits, box, 64)
        np.testing.assert_array_equal(session.logits, logits)
        np.testing.assert_array_equal(session.mask, mask)
        fold_prediction(labels, logits > 0)


def test_what_a_session_hands_out_is_the_caller_s() -> None:
    session, other = new_session(), new_session()
    for one in (session, other):
        one.click(20, 20)
    for array in (session.mask, session.inputs["labels"], session.logits, session.click(5, 5), session.undo()):
        array[...] = 1
    assert_same(session, other)


def test_before_the_first_click() -> None:
    session = new_session()
    assert session.prompts == ()
    assert session.mask.shape == (90, 70)
    assert not session.mask.any()
    with pytest.raises(RuntimeError, match="no logits before the first decode"):
        _ = session.logits


def test_an_error_leaves_the_session_as_it_was() -> None:
    broken = False

    def sometimes(prompts: Mapping[str, np.ndarray]) -> BoxLogits:
        if broken:
            raise MemoryError
        return decode(prompts)

    session, other = new_session(sometimes), new_session()
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
    session = new_session()
    threads = [Thread(target=lambda x=x: [session.click(x, y) for y in range(5)]) for x in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    replay = new_session()
    for click in session.prompts:
        replay.click(*click)
    assert len(replay.prompts) == 40
    assert_same(session, replay)


def test_a_copy_goes_on_by_itself() -> None:
    session, told = new_session(), [("click", 20, 30, True), ("start", DISC), ("click", 60, 80, False)]
    for prompt in told:
        tell(session, prompt)
    copied, expected = session.copy(), new_session()
    tell(copied, ("click", 5, 5, True))
    copied.keep(1)
    tell(expected, told[0])
    assert_same(copied, expected)
    for prompt in told[1:]:
        tell(expected, prompt)
    assert_same(session, expected)


def test_keeping_the_first_prompts_is_undoing_the_others() -> None:
    calls: list[int] = []
    session, expected = new_session(lambda prompts: calls.append(1) or decode(prompts)), new_session()
    for n in range(6):
        session.click(10 * n, 10 * n)
    made = len(calls)
    session.keep(6)
    session.keep(2)
    assert len(calls) == made  # nothing is decoded for it
    for n in range(2):
        expected.click(10 * n, 10 * n)
    assert_same(session, expected)
    for count in (-1, 3):
        with pytest.raises(ValueError, match="from 0 to 2"):
            session.keep(count)


def test_memory_is_that_of_labels_and_predictions() -> None:
    session = new_session()
    assert session.nbytes == 64 * 64
    session.click(20, 30)
    first = session.nbytes
    assert first >= 64 * 64 + 4 * 40 * 40
    session.click(40, 30)
    assert session.nbytes > first
    session.reset()
    assert session.nbytes == 64 * 64
