from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from make_weights import state_dict
from numpy.typing import NDArray
from operators import released, twins
from operators.harness import Array, Library, assert_accurate

# Channels, hidden width, routed experts: around the vector widths, odd, and the release's.
SIZES = [
    (1, 1, 1),
    (3, 5, 2),
    (16, 8, 3),
    (17, 15, 4),
    (31, 17, 7),
    (33, 33, 15),
    (64, 31, 16),
    (20, 4, 64),
    (256, 64, 8),
]


def parameters(channels: int, hidden: int, routed: int) -> dict[str, Array]:
    rng = np.random.default_rng([channels, hidden, routed])

    def normal(*shape: int, scale: float = 0.1, mean: float = 0.0) -> NDArray[np.float32]:
        return (mean + scale * rng.standard_normal(shape)).astype(np.float32)

    n = 1 + routed
    return {
        "input_norm_weight": normal(channels, mean=1),
        "input_norm_bias": normal(channels),
        "gate_weight": normal(n, channels, scale=2 * channels**-0.5),
        "gate_bias": normal(n),
        "expert_bias": normal(routed),
        "w1": normal(n, hidden, channels, scale=channels**-0.5),
        "b1": normal(n, hidden),
        "w2": normal(n, hidden, channels, scale=channels**-0.5),
        "b2": normal(n, hidden),
        "norm_weight": normal(2, hidden, mean=1),
        "norm_bias": normal(2, hidden),
        "w3": normal(n, channels, hidden, scale=hidden**-0.5),
        "b3": normal(n, channels),
    }


def tokens(count: int, channels: int) -> NDArray[np.float32]:
    return np.random.default_rng([count, channels]).standard_normal((count, channels)).astype(np.float32)


def some_edges(x: Array, weights: dict[str, Array], share: float) -> NDArray[np.int64]:
    """A share of the tokens, without those that float32 might send to another expert than float64."""
    edge = np.flatnonzero(np.random.default_rng(len(x)).random(len(x)) < share)
    norm = weights["input_norm_weight"], weights["input_norm_bias"]
    normed = twins.layer_norm(x[edge], *norm, 1e-5, np.float64)
    gate = normed @ weights["gate_weight"].T.astype(np.float64) + weights["gate_bias"]
    scores = np.sort(1 / (1 + np.exp(-gate[:, 1:])) + weights["expert_bias"], axis=1)
    clear = scores.shape[1] < 2 or scores[:, -1] - scores[:, -2] > 1e-5
    return edge[np.broadcast_to(clear, edge.shape)]


def inputs(x: Array, edge: Array, weights: dict[str, Array], **changes: Array) -> dict[str, Array]:
    return {"x": x, "edge_tokens": np.asarray(edge, np.int64), **weights, **changes}


def run(library: Library, x: Array, edge: Array, weights: dict[str, Array], **changes: Array) -> Array:
    out: Array = library.run("HybridExperts", inputs(x, edge, weights, **changes))[0]
    return out


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("sizes", SIZES)
def test_against_twin(library: Library, sizes: tuple[int, int, int], share: float) -> None:
    weights = parameters(*sizes)
    for count in (1, 15, 131):
        x = tokens(count, sizes[0])
        case = inputs(x, some_edges(x, weights, share), weights)
        out = library.run_all_ways("HybridExperts", case, constant=list(weights))
        assert_accurate(out, twins.hybrid_experts, *case.values())


def test_many_tokens_of_one_expert(library: Library) -> None:
    weights = parameters(24, 16, 5)
    weights["expert_bias"][3] = 10
    x = tokens(1500, 24)
    edge = np.delete(np.arange(1500), 700)
    out = library.run_all_ways("HybridExperts", inputs(x, edge, weights), constant=list(weights))
    assert_accurate(out, twins.hybrid_experts, x, edge, *weights.values())


@pytest.mark.parametrize("epsilon", [1e-5, 0.7])
def test_epsilon(library: Library, epsilon: float) -> None:
    weights = parameters(17, 9, 2)
    x = 0.05 * tokens(20, 17)  # and the hidden values smaller still
    case = inputs(x, some_edges(x, weights, 0.5), weights)
    out = library.run("HybridExperts", case, epsilon=epsilon)[0]
    assert_accurate(out, twins.hybrid_experts, *case.values(), epsilon=epsilon)


def test_golden(library: Library, golden: Any, assert_close: Any) -> None:
    """The release's tokens, one a call: a norm without scale ends in its shift, whatever comes in."""
    blocks = golden("blocks")
    weights = released.expert_parameters(state_dict("probe", 7))
    for token in blocks["moe_edge"][:20]:
        norm = {"input_norm_weight": zeros(256), "input_norm_bias": blocks["moe_x"][token]}
        for edge, expected in (([0], blocks["moe_out"]), ([], blocks["moe_out_no_edge"])):
            x = tokens(1, 256)
            out = run(library, x, np.array(edge), norm | weights)
            assert_close(out - x, expected[token][None], "blocks")


@pytest.mark.parametrize(
    ("bias", "chosen"),
    [
        ([0.0, 0.5, 0.5], 2),  # the first of equal ones
        ([np.nan, -2.0, np.nan], 2),
        ([-np.inf, np.nan, -3.0], 3),
        ([np.nan, np.nan, np.nan], 1),
    ],
)
def test_choice_of_expert(library: Library, bias: list[float], chosen: int) -> None:
    weights = parameters(8, 8, 3)
    weights["gate_weight"][:] = 0
    weights["gate_bias"][:] = 0.25
    weights["expert_bias"][:] = bias
    x = tokens(20, 8)
    alone = {name: w[[0, chosen]] if len(w) == 4 else w for name, w in weights.items()}
    expected = run(library, x, np.arange(20), {**alone, "expert_bias": np.zeros(1, np.float32)})
    np.testing.assert_array_equal(run(library, x, np.arange(20), weights), expected)


def test_tokens_do_not_see_each_other(library: Library) -> None:
    weights = parameters(33, 12, 4)
    x = tokens(90, 33)
    edge = np.arange(3, 90, 2)
    out = run(library, x, edge, weights)
    np.testing.assert_array_equal(run(library, x, edge[::3], weights)[edge[::3]], out[edge[::3]])
    others = np.setdiff1d(np.arange(90), edge)
    np.testing.assert_array_equal(run(library, x[others], edge[:0], weights), out[others])
    bad = {4: np.nan, 5: np.inf, 8: -np.inf, 9: np.nan}  # edge tokens and others
    broken = x.copy()
    for token, value in bad.items():
        broken[token, 7] = value
    again = run(library, broken, edge, weights)
    assert np.isnan(again[list(bad)]).all()
    kept = np.setdiff1d(np.arange(90), list(bad))
    np.testing.assert_array_equal(again[kept], out[kept])


def test_not_finite_weights(library: Library) -> None:
    weights = parameters(9, 6, 3)
    x, edge = tokens(30, 9), np.arange(10, 30)
    clean = run(library, x, edge, weights)
    weights["b3"][2, 4] = np.inf  # of expert 2
    out = run(library, x, edge, weights)
    chosen = np.zeros(30, np.int64)
    gates = (weights[name] for name in ("gate_weight", "gate_bias", "expert_bias"))
    norm = weights["input_norm_weight"], weights["input_norm_bias"]
    chosen[edge] = twins.chosen_experts(twins.layer_norm(x[edge], *norm, 1e-5, np.float64), *gates)
    assert (chosen == 2).any()
    clean[chosen == 2, 4] = np.inf
    np.testing.assert_array_equal(out, clean)


def test_no_tokens(library: Library) -> None:
    out = run(library, np.zeros((0, 8), np.float32), np.zeros(0, np.int64), parameters(8, 4, 2))
    assert out.shape == (0, 8)


@pytest.mark.parametrize(
    ("edge", "got"),
    [
        ([-1], "-1"),
        ([6], "6"),
        ([0, 2, 2], "2 after 2"),
        ([1, 5, 4], "4 after 5"),
        ([0, 2**40], str(2**40)),
    ],
)
def test_bad_edges(library: Library, edge: list[int], got: str) -> None:
    message = rf"expected edge_tokens strictly ascending in \[0, 6\), got {got}"
    library.fails(message, "HybridExperts", inputs(tokens(6, 4), np.array(edge), parameters(4, 4, 2)))


def zeros(*shape: int) -> NDArray[np.float32]:
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("x", zeros(6), r"expected x float32 \[L, C=4\], got float32 \[6\]"),
        ("x", zeros(6, 5), r"expected x float32 \[L, C=4\], got float32 \[6, 5\]"),
        ("x", np.zeros((6, 4)), r"expected x float32 \[L, C=4\], got float64 \[6, 4\]"),
        ("edge_tokens", np.zeros(1, np.int32), r"expected edge_tokens int64 \[E\], got int32 \[1\]"),
        ("edge_tokens", np.zeros((1, 1), np.int64), r"expected edge_tokens int64 \[E\], got int64 \[1, 1\]"),
        ("input_norm_weight", zeros(5), r"expected input_norm_weight float32 \[C=4\], got float32 \[5\]"),
        ("input_norm_bias", zeros(1, 4), r"expected input_norm_bias float32 \[C=4\], got float32 \[1, 4\]"),
        ("gate_weight", zeros(1, 4), r"expected gate_weight \[1\+R, C\] with R >= 1 and C >= 1, got \[1, 4\]"),
        ("gate_weight", zeros(3), r"expected gate_weight float32 \[1\+R, C\], got float32 \[3\]"),
        ("gate_bias", zeros(2), r"expected gate_bias float32 \[1\+R=3\], got float32 \[2\]"),
        ("expert_bias", zeros(3), r"expected expert_bias float32 \[R=2\], got float32 \[3\]"),
        ("w1", zeros(3, 0, 4), r"expected w1 \[1\+R, H, C\] with H >= 1, got H=0"),
        ("w1", zeros(2, 5, 4), r"expected w1 float32 \[1\+R=3, H, C=4\], got float32 \[2, 5, 4\]"),
        ("b1", zeros(3, 4), r"expected b1 float32 \[1\+R=3, H=5\], got float32 \[3, 4\]"),
        ("w2", zeros(3, 4, 5), r"expected w2 float32 \[1\+R=3, H=5, C=4\], got float32 \[3, 4, 5\]"),
        ("b2", zeros(15), r"expected b2 float32 \[1\+R=3, H=5\], got float32 \[15\]"),
        ("norm_weight", zeros(3, 5), r"expected norm_weight float32 \[2, H=5\], got float32 \[3, 5\]"),
        ("norm_bias", zeros(2, 4), r"expected norm_bias float32 \[2, H=5\], got float32 \[2, 4\]"),
        ("w3", zeros(3, 5, 4), r"expected w3 float32 \[1\+R=3, C=4, H=5\], got float32 \[3, 5, 4\]"),
        ("b3", zeros(3, 5), r"expected b3 float32 \[1\+R=3, C=4\], got float32 \[3, 5\]"),
    ],
)
def test_bad_inputs(library: Library, name: str, value: Array, message: str, constant: bool) -> None:
    weights = parameters(4, 5, 2)
    case = inputs(tokens(6, 4), np.array([1]), weights) | {name: value}
    library.fails(message, "HybridExperts", case, constant=list(weights) if constant else [])
