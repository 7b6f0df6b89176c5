"""FullAttention, and what HybridAttention makes of its results for another qkv."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from operators import twins
from operators.harness import Array, Library, assert_accurate, random_shapes
from operators.test_hybrid_attention import CONSTANT, assert_accurate_on_average, make_inputs, spread

KNOWN = ("known_qkv", "known_out", "known_logsum")
SIDE = 24  # 576 tokens: enough for what is known to be used, where at most 36 of them differ
LENGTH = SIDE * SIDE
EVERYONE = np.arange(LENGTH)


# ---- FullAttention


def attend(library: Library, qkv: Array, **attributes: int) -> tuple[Array, Array]:
    """Both results; asserts that 1, 2 and 8 threads give the same bits."""
    library.run_all_ways("FullAttention", {"qkv": qkv}, **attributes)
    first, *others = (library.run("FullAttention", {"qkv": qkv}, threads=n, **attributes)[1] for n in (1, 2, 8))
    assert all(other.tobytes() == first.tobytes() for other in others)
    return library.run("FullAttention", {"qkv": qkv}, **attributes)[0], first


def check_full(library: Library, qkv: Array, **attributes: int) -> None:
    out, logsum = attend(library, qkv, **attributes)
    assert_accurate(out, twins.full_attention, qkv, **attributes)
    assert_accurate(logsum, twins.attention_logsum, qkv, **attributes)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (3, 3), (8, 8), (5, 13), (16, 17), (24, 23)])
def test_grids(library: Library, height: int, width: int) -> None:
    check_full(library, make_inputs(height * width, [])["qkv"], heads=1, grid_width=width)


@pytest.mark.parametrize("heads", [1, 2, 3])
@pytest.mark.parametrize("head_width", [4, 16, 20, 36, 256])
def test_heads(library: Library, heads: int, head_width: int) -> None:
    check_full(library, make_inputs(120, [], width=heads * head_width)["qkv"], heads=heads, grid_width=12)


@random_shapes
@given(data=st.data())
def test_random_shapes(library: Library, data: st.DataObject) -> None:
    grid_width, rows = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 20))
    heads, head_width = data.draw(st.integers(1, 4)), 4 * data.draw(st.integers(1, 20))
    inputs = make_inputs(grid_width * rows, [], width=heads * head_width)
    check_full(library, inputs["qkv"], heads=heads, grid_width=grid_width)


def test_it_is_hybrid_attention_of_all_tokens(library: Library) -> None:
    inputs = make_inputs(LENGTH, EVERYONE)
    out, _ = attend(library, inputs["qkv"], heads=2, grid_width=SIDE)
    expected = library.run("HybridAttention", inputs, heads=2, grid_width=SIDE)[0]
    assert out.tobytes() == expected.tobytes()


@pytest.mark.parametrize("side", [1, -1])
def test_distant_logits(library: Library, side: int) -> None:
    """All logits near 1e4 or -1e4: their sum is neither Inf nor 0."""
    qkv = make_inputs(600, [])["qkv"]
    qkv[:, 0], qkv[:, 32] = side * 240, 240  # a grid of one row leaves this channel unturned
    logsum = attend(library, qkv, heads=1, grid_width=600)[1]
    np.testing.assert_allclose(logsum, twins.attention_logsum(qkv, heads=1, grid_width=600), rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, -np.nan])  # what the machine makes of Inf - Inf has its sign bit set
def test_nan(library: Library, value: float) -> None:
    """A row's sum is no number where the row is none."""
    clean = make_inputs(150, [])["qkv"]
    logsum = attend(library, clean, heads=2, grid_width=15)[1]
    for column, rows in ((17, [40]), (32 + 17, range(150))):  # a query of head 1, a key of it
        qkv = clean.copy()
        qkv[40, column] = value
        out, broken = attend(library, qkv, heads=2, grid_width=15)
        assert np.flatnonzero(np.isnan(broken[:, 1])).tolist() == list(rows)
        assert np.flatnonzero(np.isnan(out[:, 16:]).any(1)).tolist() == list(rows)
        np.testing.assert_array_equal(broken[:, 0], logsum[:, 0])
    hidden = np.zeros((5, 12), np.float32)
    hidden[:, 0], hidden[:, 4] = 3e38, -3e38  # through overflow, all logits become -Inf
    for result in attend(library, hidden, heads=1, grid_width=5):
        assert np.isnan(result).all()


def test_no_tokens(library: Library) -> None:
    out, logsum = attend(library, make_inputs(0, [])["qkv"], heads=2, grid_width=4)
    assert out.shape == (0, 32)
    assert logsum.shape == (0, 2)


def test_bad_inputs(library: Library) -> None:
    qkv = make_inputs(12, [])["qkv"]

    def fails(message: str, qkv: Array = qkv, **attributes: int) -> None:
        library.fails(f"expected {message}", "FullAttention", {"qkv": qkv}, **{"grid_width": 4, **attributes})

    fails(r"qkv float32 \[L, 3\*D\], got float32 \[96\]", qkv[0])
    fails(r"qkv .* a multiple of 4 from 4 to 256, got 3\*D = 96 for 3 heads", heads=3)
    fails(r"L to be a multiple of grid_width=5, got 12", grid_width=5)
    fails(r"attribute heads to be at least 1, got 0", heads=0)


# ---- HybridAttention with what is known


def known_of(library: Library, qkv: Array, heads: int = 1) -> dict[str, Array]:
    out, logsum = library.run("FullAttention", {"qkv": qkv}, heads=heads, grid_width=SIDE)
    return dict(zip(KNOWN, (qkv.copy(), out, logsum), strict=True))


def run(library: Library, inputs: dict[str, Array], heads: int = 1, **attributes: Any) -> Array:
    return library.run_all_ways(
        "HybridAttention", inputs, constant=CONSTANT, heads=heads, grid_width=SIDE, **attributes
    )


def assert_updated(out: Array, inputs: dict[str, Array], **attributes: Any) -> None:
    """Asserts accuracy of rows that start from known ones, float32 numbers themselves: one more rounding."""
    assert_accurate(out, twins.hybrid_attention, *inputs.values(), extra=2.0**-23, grid_width=SIDE, **attributes)


def weights(known: Array, inputs: dict[str, Array], heads: int = 1) -> tuple[Array, Array]:
    """Of each row [L, heads], over the known sum of its weights: those that changed tokens had, and the new sum."""
    given = {"heads": heads, "grid_width": SIDE}
    old, new = (twins.attention_logsum(qkv, **given) for qkv in (known, inputs["qkv"]))
    kept = known.astype(np.float64)
    width = known.shape[1] // 3
    kept[(known != inputs["qkv"]).any(1), width : 2 * width] = np.nan
    logits = twins.attention_logits(kept, **given)  # [heads, L, L], NaN for the keys of changed tokens
    return 1 - np.nansum(np.exp(logits - old.T[..., None]), axis=2).T, np.exp(new - old)


def rows_from_known(
    library: Library, inputs: dict[str, Array], known: dict[str, Array], heads: int = 1, **attributes: Any
) -> Array:
    """Which rows the operator takes from what is known, bool [L], told from a known attention that is 64 too large."""
    out = run(library, inputs | known, heads, **attributes)
    offset = run(library, inputs | known | {"known_out": known["known_out"] + 64}, heads, **attributes)
    shift = (offset - out).reshape(LENGTH, heads, -1)
    taken = (shift != 0).any((1, 2))
    expected = 64 / weights(known["known_qkv"], inputs, heads)[1][taken]
    np.testing.assert_allclose(shift[taken], np.broadcast_to(expected[..., None], shift[taken].shape), rtol=1e-4)
    assert_anew(library, inputs, out, np.setdiff1d(inputs["edge_tokens"], np.flatnonzero(taken)), heads, **attributes)
    others = np.setdiff1d(EVERYONE, inputs["edge_tokens"])
    assert out[others].tobytes() == run(library, inputs, heads, **attributes)[others].tobytes()
    return np.asarray(taken)


def assert_anew(
    library: Library, inputs: dict[str, Array], out: Array, tokens: Array, heads: int = 1, **attributes: Any
) -> None:
    """Asserts that rows of `out` have the bits that they have where these are the edge tokens, and nothing is known."""
    anew = run(library, inputs | {"edge_tokens": tokens}, heads, **attributes)
    assert out[tokens].tobytes() == anew[tokens].tobytes()


@pytest.mark.parametrize("heads", [1, 2])
def test_nothing_changed(library: Library, heads: int) -> None:
    inputs = make_inputs(LENGTH, spread(LENGTH, 400))
    known = known_of(library, inputs["qkv"], heads)
    out = run(library, inputs | known, heads)
    assert out[inputs["edge_tokens"]].tobytes() == known["known_out"][inputs["edge_tokens"]].tobytes()
    taken = rows_from_known(library, inputs, known, heads)
    np.testing.assert_array_equal(np.flatnonzero(taken), inputs["edge_tokens"])


@pytest.mark.parametrize(("edges", "quantizer"), [(LENGTH, "bsq"), (300, "bsq"), (300, "vq")])
@pytest.mark.parametrize(("heads", "head_width"), [(1, 32), (2, 16), (3, 20), (1, 4), (1, 256)])
@pytest.mark.parametrize("count", [1, 9, 36])
def test_few_tokens_changed(
    library: Library, edges: int, quantizer: Any, heads: int, head_width: int, count: int
) -> None:
    edge, changed = spread(LENGTH, edges), spread(LENGTH, count, seed=1)
    inputs = make_inputs(LENGTH, edge, width=heads * head_width, quantizer=quantizer)
    known = known_of(library, inputs["qkv"], heads)
    inputs["qkv"][changed] = make_inputs(count, [], width=heads * head_width, quantizer=quantizer, seed=2)["qkv"]
    out = run(library, inputs | known, heads, quantizer=quantizer)
    assert_updated(out, inputs, heads=heads, quantizer=quantizer)
    taken = rows_from_known(library, inputs, known, heads, quantizer=quantizer)
    lost, total = weights(known["known_qkv"], inputs, heads)
    expected = ((8 * lost <= total) & (total <= 1024)).all(1)
    expected[changed] = False
    np.testing.assert_array_equal(taken[edge], expected[edge])
    assert not taken[np.setdiff1d(EVERYONE, edge)].any()
    assert taken.sum() > edges / 2


def test_an_edge_token_that_changed_is_computed_anew(library: Library) -> None:
    """A query alone, a key alone, a value alone, the sign of a zero: each row that differs counts as changed."""
    inputs = make_inputs(LENGTH, EVERYONE)
    inputs["qkv"][[3, 50, 300, 575], [7, 32 + 5, 64 + 30, 0]] = 0
    known = known_of(library, inputs["qkv"])
    inputs["qkv"][[3, 50, 300, 575], [7, 32 + 5, 64 + 30, 0]] = 0.25, 0.25, 0.25, -0.0
    taken = rows_from_known(library, inputs, known)
    assert np.flatnonzero(~taken).tolist() == [3, 50, 300, 575]
    out = run(library, inputs | known)
    assert_updated(out, inputs, heads=1)


def test_keys_that_dominated(library: Library) -> None:
    """Rows most of whose weight goes, or is dwarfed by that of new keys, are computed anew; others are accurate."""
    inputs = make_inputs(LENGTH, EVERYONE)
    qkv = inputs["qkv"]
    qkv[:, 0] = np.linspace(-8, 8, LENGTH)  # how much a query sees of the keys below; rotated, of those nearby
    qkv[[100, 101, 400], 32] = 12
    for old, new in ((12, 0), (12, -12), (12, 12.25), (8, 9), (0, 12), (0, 24), (0, 300)):
        qkv[[100, 101, 400], 32] = old
        known = known_of(library, qkv)
        qkv[[100, 101, 400], 32] = new
        taken = rows_from_known(library, inputs, known)
        lost, total = (x[:, 0] for x in weights(known["known_qkv"], inputs))
        expected = (8 * lost <= total) & (total <= 1024)
        expected[[100, 101, 400]] = False
        np.testing.assert_array_equal(taken, expected)
        assert taken.sum() > 0.1 * LENGTH
        assert taken.sum() < LENGTH - 3 or new == 12  # whose weights are within the limit in every row
        out = run(library, inputs | known)
        assert_updated(out, inputs, heads=1)


@pytest.mark.parametrize("side", [1, -1])
def test_distant_logits_known(library: Library, side: int) -> None:
    """All logits near 1e4 or -1e4: relative to their sum they are small numbers again."""
    inputs = make_inputs(LENGTH, spread(LENGTH, 400))
    inputs["qkv"][:, 14], inputs["qkv"][:, 32 + 14] = side * 240, 240  # the channels that the grid hardly turns
    inputs["qkv"][:, 15], inputs["qkv"][:, 32 + 15] = 0, 0
    changed = spread(LENGTH, 20)
    known = known_of(library, inputs["qkv"])
    assert (np.abs(known["known_logsum"] - side * 1e4) < 300).all()
    inputs["qkv"][changed, 32:46] += 0.25
    out = run(library, inputs | known)
    assert rows_from_known(library, inputs, known).sum() > 300
    assert_accurate_on_average(out, inputs, heads=1, grid_width=SIDE)


@pytest.mark.parametrize(("edges", "count"), [(LENGTH, 37), (LENGTH, LENGTH), (255, 3), (0, 3)])
def test_too_much_changed_or_too_little_to_gain(library: Library, edges: int, count: int) -> None:
    """What is known is not looked at, even if it is wrong."""
    inputs = make_inputs(LENGTH, spread(LENGTH, edges))
    known = known_of(library, inputs["qkv"])
    inputs["qkv"][spread(LENGTH, count)] += 0.5
    expected = run(library, inputs)
    broken = {"known_out": known["known_out"] * np.nan, "known_logsum": known["known_logsum"] * np.inf}
    assert run(library, inputs | known | broken).tobytes() == expected.tobytes()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity(library: Library, value: float) -> None:
    """What is not finite, known or new, is never passed on: such rows are computed anew, with the same bits."""
    inputs = make_inputs(LENGTH, EVERYONE)
    known = known_of(library, inputs["qkv"], heads=2)
    inputs["qkv"][[7, 200]] += 0.5

    def check(**changes: Array) -> Array:
        out = run(library, inputs | known | changes, heads=2)
        anew = run(library, {**inputs, **{name: x for name, x in changes.items() if name in inputs}}, heads=2)
        np.testing.assert_array_equal(np.isnan(out), np.isnan(anew))
        np.testing.assert_array_equal(np.isinf(out), np.isinf(anew))
        return out

    for name, column in (("known_out", 17), ("known_logsum", 1)):
        broken = known[name].copy()
        broken[[7, 40, 41], column] = value
        out = check(**{name: broken})
        if (name, value) != ("known_logsum", np.inf):  # weights of 0: nothing is lost or gained by them
            assert_anew(library, inputs, out, np.array([7, 40, 41, 200]), 2)
        else:
            assert np.isfinite(out).all()
    for column in (17, 32 + 17, 64 + 17):  # a query, a key, a value of a token that changed, and of one that did not
        for token in (7, 40):
            qkv = inputs["qkv"].copy()
            qkv[token, column] = value
            check(qkv=qkv)
        old = known["known_qkv"].copy()
        old[7, column] = value
        check(known_qkv=old)


def test_everything_known_is_nan(library: Library) -> None:
    inputs = make_inputs(LENGTH, EVERYONE)
    expected = run(library, inputs)
    known = {name: np.full_like(x, np.nan) for name, x in known_of(library, inputs["qkv"]).items()}
    assert run(library, inputs | known).tobytes() == expected.tobytes()
    known["known_qkv"] = inputs["qkv"]
    assert run(library, inputs | known).tobytes() == expected.tobytes()


def test_no_tokens_known(library: Library) -> None:
    inputs = make_inputs(0, [])
    known = dict(zip(KNOWN, (inputs["qkv"], np.zeros((0, 32), np.float32), np.zeros((0, 1), np.float32)), strict=True))
    assert run(library, inputs | known).shape == (0, 32)


def test_bad_known_inputs(library: Library) -> None:
    inputs = make_inputs(LENGTH, EVERYONE)
    known = known_of(library, inputs["qkv"])

    def fails(message: str, inputs: dict[str, Array]) -> None:
        library.fails(f"expected {message}", "HybridAttention", inputs, grid_width=SIDE)

    def with_known(name: str, value: Array) -> dict[str, Array]:
        return inputs | known | {name: value}

    fails(
        r"known_qkv float32 \[L=576, 3\*D=96\], got float32 \[575, 96\]",
        with_known("known_qkv", known["known_qkv"][1:]),
    )
    fails(
        r"known_out float32 \[L=576, D=32\], got float32 \[576, 31\]",
        with_known("known_out", known["known_out"][:, 1:]),
    )
    fails(
        r"known_logsum float32 \[L=576, heads=1\], got float32 \[576\]",
        with_known("known_logsum", known["known_logsum"][:, 0]),
    )
    fails(
        r"known_logsum float32 .*, got float64 \[576, 1\]",
        with_known("known_logsum", known["known_logsum"].astype(np.float64)),
    )
    for count in (2, 1):  # onnxruntime itself counts
        some = inputs | {name: known[name] for name in KNOWN[:count]}
        with pytest.raises(
            Exception, match=rf"HybridAttentionKnown.* input size {5 + count} not in range \[min=8, max=8\]"
        ):
            library.run("HybridAttention", some, grid_width=SIDE)
