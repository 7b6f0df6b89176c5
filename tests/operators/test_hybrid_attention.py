from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from operators import twins
from operators.harness import Array, Library, assert_accurate, random_shapes
from tolerances import TOLERANCES

CONSTANT = ("code_weight", "code_bias", "codewords")
MARGIN = 1e-3  # of a key's code decision; scores here are about 1, their rounding errors about 1e-6


def make_inputs(
    length: int,
    edge: Array | list[int],
    *,
    width: int = 32,
    codes: int = 4,
    quantizer: str = "bsq",
    seed: int = 0,
) -> dict[str, Array]:
    """Random inputs whose keys have their codes by a margin: near a tie, either code is right.

    Args:
        length: L.
        edge: Edge tokens.
        width: D.
        codes: Bits (bsq) or number of codes (vq).
        quantizer: "bsq" or "vq".
        seed: Of the random numbers.
    """
    rng = np.random.default_rng([seed, length, width, codes])
    qkv = rng.standard_normal((length, 3 * width))
    qkv[:, 2 * width :] += 1  # a mean of values, so that lost accuracy of sums shows
    code_weight = rng.standard_normal((codes, width)) / np.sqrt(width)
    code_bias = 0.1 * rng.standard_normal(codes)
    keys = qkv[:, width : 2 * width]
    while True:
        scores = keys @ code_weight.T + code_bias
        if quantizer == "bsq":
            close = (np.abs(scores) < MARGIN).any(1)
        elif codes > 1:
            best = np.sort(scores, axis=1)
            close = best[:, -1] - best[:, -2] < MARGIN
        else:
            close = np.zeros(length, bool)
        if not close.any():
            break
        keys[close] = rng.standard_normal((int(close.sum()), width))
    codewords = rng.standard_normal((2**codes if quantizer == "bsq" else codes, width))
    inputs = {
        "qkv": qkv,
        "edge_tokens": edge,
        "code_weight": code_weight,
        "code_bias": code_bias,
        "codewords": codewords,
    }
    return {name: np.asarray(x, np.int64 if name == "edge_tokens" else np.float32) for name, x in inputs.items()}


def spread(length: int, edges: int, seed: int = 0) -> Array:
    """`edges` random tokens, ascending."""
    return np.sort(np.random.default_rng([seed, length, edges]).choice(length, edges, replace=False)).astype(np.int64)


def check(library: Library, inputs: dict[str, Array], **attributes: Any) -> Array:
    """Runs all ways and compares with the twin."""
    out = library.run_all_ways("HybridAttention", inputs, constant=CONSTANT, **attributes)
    assert_accurate(out, twins.hybrid_attention, *inputs.values(), **attributes)
    return out


def assert_accurate_on_average(actual: Array, inputs: dict[str, Array], **attributes: Any) -> None:
    """`assert_accurate` with mean errors, edge tokens and others each on their own.

    Where the largest error is that of the one query whose two best keys are nearest to a tie, it says nothing.
    """
    truth, plain = (
        twins.hybrid_attention(*inputs.values(), **attributes, dtype=dtype) for dtype in (np.float64, np.float32)
    )
    floor = TOLERANCES["operator", "float32"]
    for tokens in (inputs["edge_tokens"], np.setdiff1d(np.arange(len(truth)), inputs["edge_tokens"])):
        allowed = 2 * np.abs(plain - truth)[tokens].mean() + floor.rtol * np.abs(truth[tokens]).mean()
        assert np.abs(actual - truth)[tokens].mean() <= allowed


@pytest.mark.parametrize("heads", [1, 2])
def test_golden(library: Library, heads: int) -> None:
    arrays = np.load(Path(__file__).parents[1] / "golden" / "blocks.npz")
    block = {name.removeprefix(f"h{heads}_"): arrays[name] for name in arrays.files if name.startswith(f"h{heads}")}
    bits = len(block["code_proj_bias"])
    code_bits = np.arange(2**bits)[:, None] >> np.arange(bits)[::-1] & 1
    codewords = np.concatenate([code_bits, 1 - code_bits], axis=1).astype(np.float32) @ block["codebook"]
    inputs = {
        "qkv": np.concatenate([block["q"], block["k"], block["v"]], axis=1),
        "edge_tokens": block["edge"],
        "code_weight": block["code_proj_weight"],
        "code_bias": block["code_proj_bias"],
        "codewords": codewords,
    }
    out = library.run_all_ways("HybridAttention", inputs, constant=CONSTANT, heads=heads, grid_width=16)
    tolerance = TOLERANCES["twin", "float64"]
    expected = np.empty_like(out)
    expected[block["edge"]] = block["full_out"]
    expected[np.delete(np.arange(len(out)), block["edge"])] = block["bsq_out"]
    np.testing.assert_allclose(out, expected, rtol=0, atol=tolerance.rtol * np.abs(expected).max())

    # The release's codes, one byte a key: no other codeword is read.
    absent = np.setdiff1d(np.arange(256), block["key_bits"])
    results = []
    for value in (7, np.nan):  # neither makes them sums of their bits
        codewords[absent] = value
        results.append(library.run("HybridAttention", inputs, heads=heads, grid_width=16)[0])
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_allclose(results[0], expected, rtol=0, atol=tolerance.rtol * np.abs(expected).max())


@pytest.mark.parametrize("quantizer", ["bsq", "vq"])
@pytest.mark.parametrize("edges", ["none", "few", "half", "all"])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (3, 3), (8, 8), (5, 13), (16, 17), (24, 23)])
def test_grids(library: Library, height: int, width: int, edges: str, quantizer: str) -> None:
    length = height * width
    count = {"none": 0, "few": min(length, 3), "half": length // 2, "all": length}[edges]
    inputs = make_inputs(length, spread(length, count), quantizer=quantizer)
    check(library, inputs, heads=1, grid_width=width, quantizer=quantizer)


@pytest.mark.parametrize(
    ("heads", "head_width"), [(1, 4), (1, 36), (2, 16), (2, 32), (4, 20), (4, 64), (3, 128), (1, 256)]
)
def test_heads(library: Library, heads: int, head_width: int) -> None:
    inputs = make_inputs(120, spread(120, 50), width=heads * head_width, codes=5)
    check(library, inputs, heads=heads, grid_width=12)


@pytest.mark.parametrize(
    ("quantizer", "codes"),
    [("bsq", 1), ("bsq", 8), ("bsq", 11), ("vq", 1), ("vq", 15), ("vq", 16), ("vq", 33), ("vq", 700)],
)
def test_code_tables(library: Library, quantizer: str, codes: int) -> None:
    inputs = make_inputs(1200, spread(1200, 30), codes=codes, quantizer=quantizer)
    check(library, inputs, heads=1, grid_width=40, quantizer=quantizer)


@random_shapes
@given(data=st.data())
def test_random_shapes(library: Library, data: st.DataObject) -> None:
    grid_width, rows = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 20))
    length = grid_width * rows
    heads, head_width = data.draw(st.integers(1, 4)), 4 * data.draw(st.integers(1, 20))
    quantizer = data.draw(st.sampled_from(["bsq", "vq"]))
    codes = data.draw(st.integers(1, 9 if quantizer == "bsq" else 70))
    edge = spread(length, data.draw(st.integers(0, length)))
    inputs = make_inputs(length, edge, width=heads * head_width, codes=codes, quantizer=quantizer)
    check(library, inputs, heads=heads, grid_width=grid_width, quantizer=quantizer)


@pytest.mark.parametrize("edges", [1, 40, 300])
def test_many_keys(library: Library, edges: int) -> None:
    """16384 keys: sums of many blocks, and keys split over tasks where queries are few."""
    inputs = make_inputs(128 * 128, spread(128 * 128, edges), codes=8)
    inputs["qkv"][:, :32] *= 0.1  # nearly equal weights: the longest sums
    out = library.run("HybridAttention", inputs, heads=1, grid_width=128)[0]
    for threads in (2, 8):
        again = library.run("HybridAttention", inputs, heads=1, grid_width=128, threads=threads)[0]
        assert again.tobytes() == out.tobytes()
    assert_accurate_on_average(out, inputs, heads=1, grid_width=128)


@pytest.mark.parametrize("scale", [1e-20, 30.0])
@pytest.mark.parametrize("order", [1, -1])
def test_scattered_logits(library: Library, scale: float, order: int) -> None:
    """Logits far apart, the largest first or last: the bound that weights refer to rises often, or never again."""
    inputs = make_inputs(600, spread(600, 300), codes=6)
    qkv = inputs["qkv"]
    qkv[:, :32] *= scale
    qkv[:] = qkv[np.argsort(order * qkv[:, 32])]
    inputs["codewords"] *= 3
    out = library.run_all_ways("HybridAttention", inputs, constant=CONSTANT, heads=1, grid_width=600)
    assert_accurate_on_average(out, inputs, heads=1, grid_width=600)


@pytest.mark.parametrize("side", [1, -1])
def test_distant_logits(library: Library, side: int) -> None:
    """All logits near 1e4 or -1e4: their softmax must neither overflow nor vanish."""
    inputs = make_inputs(600, spread(600, 300), codes=6)
    inputs["qkv"][:, 0] = side * 240  # a grid of one row leaves this channel unturned
    inputs["qkv"][:, 32] = inputs["codewords"][:, 0] = 240
    inputs["code_weight"][:, 0] = 0
    out = library.run_all_ways("HybridAttention", inputs, constant=CONSTANT, heads=1, grid_width=600)
    assert_accurate_on_average(out, inputs, heads=1, grid_width=600)


def test_weights_of_one_key(library: Library) -> None:
    """Logits so far apart that one key takes all: the output is its value, to the bit."""
    inputs = make_inputs(64, np.arange(64), width=4)
    qkv = inputs["qkv"]
    qkv[:, :4], qkv[:, 4:8] = (1000, 0, 0, 0), 0
    qkv[0, 4] = 1000  # at the grid's first token nothing turns
    out = library.run("HybridAttention", inputs, heads=1, grid_width=64)[0]
    np.testing.assert_array_equal(out[0], qkv[0, 8:])


def test_absent_code_counts_for_nothing(library: Library) -> None:
    inputs = make_inputs(200, [], codes=8)
    expected = library.run("HybridAttention", inputs, heads=1, grid_width=20)[0]
    qkv = inputs["qkv"]
    codes = twins.key_codes(qkv[:, 32:64], inputs["code_weight"], inputs["code_bias"], "bsq")
    absent = np.setdiff1d(np.arange(256), codes)
    inputs["codewords"][absent] = np.tile(np.float32([1e30, np.nan]), 16)
    actual = library.run("HybridAttention", inputs, heads=1, grid_width=20)[0]
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_a_score_of_zero_is_a_bit(library: Library, zero: float) -> None:
    inputs = make_inputs(5, [], width=4, codes=3)
    inputs["code_bias"][:] = [zero, -1, zero]
    inputs["qkv"][:, 4:8] = zero
    codewords = np.zeros((8, 4), np.float32)
    codewords[0b101] = np.nan  # the code of all keys
    out = library.run("HybridAttention", inputs | {"codewords": codewords}, heads=1, grid_width=5)[0]
    assert np.isnan(out).all()
    codewords = np.full((8, 4), np.nan, np.float32)
    codewords[0b101] = 1
    check(library, inputs | {"codewords": codewords}, heads=1, grid_width=5)


@pytest.mark.parametrize("codes", [3, 16, 40])
def test_first_of_equal_scores(library: Library, codes: int) -> None:
    for winner in {0, 1, codes // 2, codes - 1}:
        inputs = make_inputs(9, [], width=4, codes=codes, quantizer="vq")
        inputs["code_bias"][:] = np.where(np.arange(codes) < winner, -1, 2)
        inputs["code_bias"][winner - 1 : winner] = np.nan  # never the largest
        inputs["qkv"][:, 4:8] = 0
        codewords = np.full((codes, 4), np.nan, np.float32)
        codewords[winner] = 1
        check(library, inputs | {"codewords": codewords}, heads=1, grid_width=3, quantizer="vq")


def test_nan_and_infinity(library: Library) -> None:
    edge = spread(150, 70)
    rest = np.setdiff1d(np.arange(150), edge)
    inputs = make_inputs(150, edge, codes=5)
    clean = library.run("HybridAttention", inputs, heads=2, grid_width=15)[0]

    def with_value(token: int, column: int, value: float) -> Array:
        changed = {name: x.copy() for name, x in inputs.items()}
        changed["qkv"][token, column] = value
        return check(library, changed, heads=2, grid_width=15)

    payload = np.array([0x7FC00001, 0xFFC1FFFF], np.uint32).view(np.float32)  # other NaNs than the usual
    for value in (np.nan, -np.nan, np.inf, -np.inf, *payload):
        for token in (edge[0], edge[50], rest[0], rest[60]):
            out = with_value(token, 17, value)  # a query, in head 1
            others = np.arange(150) != token
            np.testing.assert_array_equal(out[others], clean[others])
            np.testing.assert_array_equal(out[token, :16], clean[token, :16])
            if np.isnan(value):
                assert np.isnan(out[token, 16:]).all()
        for token in (0, 77, 149):  # a key and a value
            out = with_value(token, 32 + 17, value)
            np.testing.assert_array_equal(out[edge, :16], clean[edge, :16])
            if np.isnan(value):
                assert np.isnan(out[edge, 16:]).all()
            assert np.isfinite(out[rest]).all()
            out = with_value(token, 64 + 17, value)
            assert not np.isfinite(out[:, 17]).any()
            np.testing.assert_array_equal(np.delete(out, 17, axis=1), np.delete(clean, 17, axis=1))


def test_everything_nan(library: Library) -> None:
    inputs = make_inputs(300, spread(300, 150))
    broken = {name: x if name == "edge_tokens" else np.full_like(x, np.nan) for name, x in inputs.items()}
    for quantizer in ("bsq", "vq"):
        if quantizer == "vq":
            broken |= {name: broken[name][:4] for name in CONSTANT}
        out = library.run("HybridAttention", broken, heads=2, grid_width=30, quantizer=quantizer)[0]
        assert np.isnan(out).all()


def test_minus_infinity_hides_keys(library: Library) -> None:
    """Keys with a logit of -Inf have no weight, wherever they stand; when all have it, the row is NaN."""
    inputs = make_inputs(700, np.arange(700), width=4)
    qkv = inputs["qkv"]
    qkv[:, 0], qkv[:, 1:4] = np.abs(qkv[:, 0]), 0
    hidden = np.ones(700, bool)
    hidden[[300, 640]] = False
    # A grid of one row leaves the first two channels unturned.
    qkv[:, 4:8] = 0
    qkv[hidden, 4] = -np.inf
    qkv[300, 4] = 1
    with np.errstate(invalid="ignore"):
        twin = twins.hybrid_attention(*inputs.values(), heads=1, grid_width=700)
    assert np.isnan(twin).all()  # -Inf times the sine 0: such keys are NaN after the rotary embedding
    out = library.run("HybridAttention", inputs, heads=1, grid_width=700)[0]
    assert np.isnan(out).all()

    # Through overflow, logits do become -Inf: -3e38 * 3e38.
    qkv[:, 0], qkv[hidden, 4] = 3e38, -3e38
    qkv[[300, 640], 4] = 0
    out = library.run("HybridAttention", inputs, heads=1, grid_width=700)[0]
    np.testing.assert_allclose(out, np.tile(qkv[[300, 640], 8:].mean(0), (700, 1)), rtol=1e-6)
    qkv[:, 4] = -3e38
    assert np.isnan(library.run("HybridAttention", inputs, heads=1, grid_width=700)[0]).all()


def test_no_tokens(library: Library) -> None:
    inputs = make_inputs(0, [])
    assert library.run_all_ways("HybridAttention", inputs, constant=CONSTANT, grid_width=4).shape == (0, 32)


@pytest.mark.parametrize(
    ("edge", "got"),
    [([3, 3], "3 after 3"), ([5, 2], "2 after 5"), ([-1], "-1"), ([0, 12], "12 after 0"), ([2**40], str(2**40))],
)
def test_bad_edge(library: Library, edge: list[int], got: str) -> None:
    expected = rf"expected edge_tokens strictly ascending in \[0, 12\), got {got}$"
    library.fails(expected, "HybridAttention", make_inputs(12, edge), grid_width=4)


def test_bad_inputs(library: Library) -> None:
    good = make_inputs(12, [1, 2])

    def fails(message: str, **changes: Any) -> None:
        attributes = {"grid_width": 4} | {name: changes.pop(name) for name in list(changes) if name not in good}
        library.fails(message, "HybridAttention", good | changes, **attributes)

    fails(r"expected qkv float32 \[L, 3\*D\], got float32 \[96\]", qkv=good["qkv"][0])
    fails(
        r"expected qkv float32 \[L, 3\*D\] with D / heads a multiple of 4 from 4 to 256, got 3\*D = 95 for 1",
        qkv=good["qkv"][:, 1:],
    )
    fails(r"expected qkv .* got 3\*D = 96 for 3 heads", heads=3)
    fails(r"expected qkv .* got 3\*D = 96 for 16 heads", heads=16)
    fails(r"expected qkv .* got 3\*D = 0 for 1 heads", qkv=good["qkv"][:, :0])
    fails(r"expected qkv .* got 3\*D = 780 for 1 heads", qkv=np.zeros((12, 780), np.float32))
    fails(r"expected L to be a multiple of grid_width=5, got 12", grid_width=5)
    fails(r"expected edge_tokens int64 \[E\], got int64 \[1, 2\]", edge_tokens=good["edge_tokens"][None])
    fails(r"expected code_weight float32 \[B, D=32\], got float32 \[4, 31\]", code_weight=good["code_weight"][:, 1:])
    fails(r"expected code_bias float32 \[B=4\], got float32 \[3\]", code_bias=good["code_bias"][1:])
    fails(r"expected codewords float32 \[K, D=32\], got float32 \[16, 31\]", codewords=good["codewords"][:, 1:])
    fails(r"expected K = 2\*\*B, 1 <= B <= 30, got B = 4, K = 15", codewords=good["codewords"][1:])
    fails(r"expected K = B >= 1, got B = 4, K = 16", quantizer="vq")
    fails(r"expected attribute heads to be at least 1, got 0", heads=0)
    fails(r"expected attribute grid_width to be at least 1, got 0", grid_width=0)
    long = {"code_weight": np.zeros((31, 32), np.float32), "code_bias": np.zeros(31, np.float32)}
    fails(r"expected K = 2\*\*B, 1 <= B <= 30, got B = 31, K = 16", **long)


def sums_of_bits(bits: int, width: int, scale: float) -> NDArray[np.float32]:
    """Codewords as BSQ has them: of each bit one of two vectors."""
    codebook = np.random.default_rng([bits, width]).standard_normal((2 * bits, width)) * scale / bits**0.5
    places = np.arange(2**bits)[:, None] >> np.arange(bits - 1, -1, -1) & 1
    return np.asarray(np.concatenate((places, 1 - places), axis=1) @ codebook, np.float32)


@pytest.mark.parametrize("bits", [1, 2, 3, 7, 8, 10, 11])
@pytest.mark.parametrize(("heads", "head_width"), [(1, 32), (2, 20), (3, 4)])
def test_codewords_that_are_sums_of_their_bits(library: Library, bits: int, heads: int, head_width: int) -> None:
    """Weights of codes are products then, up to logits that lie too far apart; both, and NaN, in one tile."""
    width, columns = heads * head_width, 10
    rng = np.random.default_rng([bits, heads])
    qkv = rng.standard_normal((130, 3 * width)).astype(np.float32)
    qkv[5:60:7, :width] *= 1e3  # queries
    broken = qkv.copy()
    broken[[8, 77], [0, width - 1]] = np.nan, np.inf
    case = {
        "qkv": broken,
        "edge_tokens": np.array([3, 4, 129]),
        "code_weight": rng.standard_normal((bits, width)).astype(np.float32),
        "code_bias": rng.standard_normal(bits).astype(np.float32),
        "codewords": sums_of_bits(bits, width, 1.0),
    }
    given = {"heads": heads, "grid_width": columns}
    weights = ("code_weight", "code_bias", "codewords")
    out = library.run_all_ways("HybridAttention", case, constant=weights, **given)
    whole = case | {"qkv": qkv}
    apart = np.arange(5, 60, 7)
    usual = np.setdiff1d(np.arange(130), [*apart, 8, 77])
    truth, plain = (
        twins.hybrid_attention(*whole.values(), **given, quantizer="bsq", dtype=dtype)[usual]
        for dtype in (np.float64, np.float32)
    )
    allowed = 2 * np.abs(plain - truth).max() + TOLERANCES["operator", "float32"].rtol * np.abs(truth).max()
    assert np.abs(out[usual] - truth).max() <= allowed
    # Logits that lie far apart make weights as codewords that are no such sums do.
    codes = twins.key_codes(qkv[:, width : 2 * width], case["code_weight"], case["code_bias"], "bsq", np.float64)
    absent = np.setdiff1d(np.arange(2**bits), codes)
    if len(absent):
        changed = case["codewords"].copy()
        changed[absent] = np.nan
        one_by_one = library.run("HybridAttention", case | {"codewords": changed}, **given)[0]
        np.testing.assert_array_equal(one_by_one[apart], out[apart])
        assert bits > 10 or (one_by_one[usual] != out[usual]).any()  # else the products were not there
    assert np.isnan(out[8, :head_width]).all()
    # A row does not depend on those beside it.
    calm = qkv.copy()
    calm[5:60:7, :width] = 0
    again = library.run("HybridAttention", case | {"qkv": calm}, **given)[0]
    np.testing.assert_array_equal(again[usual], out[usual])
