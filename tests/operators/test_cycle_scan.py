from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from operators import twins
from operators.harness import Array, Library, assert_accurate, random_shapes

OPERATOR = "CycleScan"
CONSTANT = ("rate", "skip", "bias", "gamma")


def make_inputs(
    lengths: list[int], channels: int, states: int, passes: int = 3, *, images: int = 1
) -> dict[str, Array]:
    """States that last for two tokens, and states that last for hundreds."""
    tokens = images * sum(lengths)
    rng = np.random.default_rng([tokens, channels, states, passes])
    inputs = {
        "u": rng.standard_normal((tokens, channels)),
        "projected": rng.standard_normal((tokens, channels + 2 * states)),
        "rate": -np.exp(1.5 * rng.standard_normal((channels, states))),
        "skip": rng.standard_normal(channels),
        "bias": 2 * rng.standard_normal(channels) - 3,
        "gamma": rng.standard_normal((channels, passes)),
    }
    return {name: x.astype(np.float32) for name, x in inputs.items()}


def check(library: Library, inputs: dict[str, Array], lengths: list[int]) -> Array:
    """Runs all ways and compares with the twin."""
    out = library.run_all_ways(OPERATOR, inputs, constant=CONSTANT, lengths=lengths)
    assert_accurate(out, twins.cycle_scan, *inputs.values(), lengths=lengths)
    return out


@pytest.mark.parametrize("lengths", [[1], [31], [32], [33], [150], [24, 6], [1, 70, 5]])
@pytest.mark.parametrize("images", [1, 3])
def test_sequences(library: Library, lengths: list[int], images: int) -> None:
    check(library, make_inputs(lengths, 6, 3, images=images), lengths)


@pytest.mark.parametrize("channels", [1, 3, 4, 5, 8, 9, 16, 17, 31, 32, 33, 65])
@pytest.mark.parametrize("states", [1, 4, 5, 8])
def test_sizes(library: Library, channels: int, states: int) -> None:
    check(library, make_inputs([37], channels, states), [37])


@pytest.mark.parametrize("passes", [1, 2, 3, 6])
@pytest.mark.parametrize("states", [2, 33])
def test_passes(library: Library, passes: int, states: int) -> None:
    check(library, make_inputs([40, 3], 10, states, passes), [40, 3])


@random_shapes
@given(data=st.data())
def test_random_shapes(library: Library, data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(1, 80), min_size=1, max_size=3))
    channels, states = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 20))
    passes, images = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 2))
    check(library, make_inputs(lengths, channels, states, passes, images=images), lengths)


def test_steps_of_all_widths(library: Library) -> None:
    """From steps that round to nothing to those beyond which the softplus is its argument."""
    inputs = make_inputs([90], 9, 2)
    inputs["projected"][:, :9] = np.linspace(-120, 40, 90, dtype=np.float32)[:, None]
    inputs["bias"][:] = 0
    check(library, inputs, [90])
    inputs["projected"][:, :9] *= 1e6
    assert np.isfinite(check(library, inputs, [90])[:40]).all()


def test_slow_and_fast_states(library: Library) -> None:
    """States that last for the whole sequence and more, that vanish within a token, and all between, of one channel."""
    inputs = make_inputs([300], 8, 12)
    inputs["rate"][:] = -np.logspace(-6, 6, 12, dtype=np.float32)
    check(library, inputs, [300])
    inputs["rate"][:] = -0.0
    check(library, inputs, [300])


def test_cycle_is_one_scan_of_copies(library: Library) -> None:
    """Passes that count one by one are parts of a single pass over copies of the sequence."""
    inputs = make_inputs([50], 7, 4)
    copies = dict(inputs) | {name: np.tile(inputs[name], (3, 1)) for name in ("u", "projected")}
    copies["gamma"] = np.ones((7, 1), np.float32)
    passes = library.run(OPERATOR, copies, lengths=[150])[0].reshape(3, 50, 7)
    for r in range(3):
        inputs["gamma"] = np.eye(3, dtype=np.float32)[[r] * 7]
        out = library.run(OPERATOR, inputs, lengths=[50])[0]
        np.testing.assert_allclose(out, passes[r], atol=1e-5 * np.abs(passes).max())


def test_channels_and_sequences_are_independent(library: Library) -> None:
    inputs = make_inputs([20, 45], 40, 5)
    clean = check(library, inputs, [20, 45])
    for name, at in (("u", (30, 35)), ("projected", (30, 35)), ("rate", (35, 4)), ("skip", 35), ("gamma", (35, 2))):
        changed = {key: x.copy() for key, x in inputs.items()}
        changed[name][at] = np.nan
        out = check(library, changed, [20, 45])
        broken = np.zeros(out.shape, bool)
        broken[20 if name in ("u", "projected") else 0 :, 35] = True
        assert np.isnan(out[broken]).all()
        np.testing.assert_array_equal(out[~broken], clean[~broken])


def test_nan_of_one_pass_begins_at_its_token(library: Library) -> None:
    """With one pass, nothing goes back to earlier tokens; b and c are all channels'."""
    for column in (10, 10 + 4):
        inputs = make_inputs([100], 10, 4, 1)
        inputs["projected"][60, column] = np.nan
        out = check(library, inputs, [100])
        assert np.isnan(out[60]).all()
        assert np.isfinite(out[:60]).all()
        assert np.isnan(out[61:]).all() == (column == 10)


def test_no_tokens(library: Library) -> None:
    inputs = make_inputs([5], 6, 3, images=0)
    assert library.run_all_ways(OPERATOR, inputs, constant=CONSTANT, lengths=[5]).shape == (0, 6)


def test_bad_inputs(library: Library) -> None:
    good = make_inputs([4, 3], 6, 2)

    def fails(message: str, lengths: Any = (4, 3), constant: tuple[str, ...] = (), **changes: Array) -> None:
        attributes = {} if lengths is None else {"lengths": lengths}
        library.fails(message, OPERATOR, good | changes, constant=constant, **attributes)

    fails(r"expected u float32 \[T, C\], got float32 \[6\]", u=good["u"][0])
    fails(r"expected projected float32 \[T=7, C \+ 2\*N=10\], got float32 \[7, 9\]", projected=good["projected"][:, 1:])
    fails(r"expected projected float32 \[T=7, C \+ 2\*N=10\], got float32 \[6, 10\]", projected=good["projected"][1:])
    fails(r"expected rate float32 \[C=6, N\], got float32 \[5, 2\]", rate=good["rate"][1:])
    fails(r"expected skip float32 \[C=6\], got float32 \[5\]", skip=good["skip"][1:])
    fails(r"expected bias float32 \[C=6\], got float32 \[5\]", bias=good["bias"][1:])
    fails(r"expected gamma float32 \[C=6, R\], got float32 \[6\]", gamma=good["gamma"][:, 0])
    fails(r"expected gamma \[C, R\] with R >= 1, got R = 0", gamma=good["gamma"][:, :0])
    fails(r"expected C >= 1 and N >= 1, got C = 6 and N = 0", rate=good["rate"][:, :0])
    fails(r"expected T to be a multiple of the sequences' 6 tokens, got 7", lengths=(4, 2))
    for bad in (1.0, np.inf, -np.inf):
        wrong = good["rate"].copy()
        wrong[5, 1] = bad
        for constant in ((), CONSTANT):
            fails(r"expected rate of at most 0, not infinite, got ", rate=wrong, constant=constant)
    fails("expected attribute lengths of at least one sequence, got none", lengths=None)
    fails("expected attribute lengths to be a list of integers, got another type", lengths=7)
    for wrong in ((7, 0), (8, -1), (2**31,), (2**31 - 7, 7)):
        fails("expected attribute lengths of at least 1 token each, and at most 2147483647 together", lengths=wrong)
