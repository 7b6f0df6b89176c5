"""Bf16HybridExperts: HybridExperts, in bfloat16 on the tiers that have a matrix unit."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from operators import twins
from operators.harness import ALL_TIERS, Array, Library
from operators.test_hybrid_experts import inputs, parameters, some_edges, tokens

pytestmark = pytest.mark.parametrize("library", ALL_TIERS, indirect=True)

TILED = {"amx"}  # tiers that round
# Channels, hidden width, routed experts.
SIZES = [(32, 32, 1), (32, 96, 20), (64, 32, 3), (96, 64, 15), (256, 64, 8)]
OTHER_SIZES = [(32, 16, 3), (48, 32, 2), (33, 64, 4)]  # that no tier rounds


def folded(weights: dict[str, Array]) -> dict[str, Array]:
    """The same experts where norms have no scale and shift, but what is behind them: so the kernel rounds."""
    w = {name: values.astype(np.float64) for name, values in weights.items()}
    scale, shift = w["input_norm_weight"], w["input_norm_bias"]
    for weight, bias in (("gate_weight", "gate_bias"), ("w1", "b1"), ("w2", "b2")):
        w[bias] += w[weight] @ shift
        w[weight] *= scale
    for index in range(len(w["w3"])):
        norm = min(index, 1)
        w["b3"][index] += w["w3"][index] @ w["norm_bias"][norm]
        w["w3"][index] *= w["norm_weight"][norm]
    for name in ("input_norm", "norm"):
        w[f"{name}_weight"][:], w[f"{name}_bias"][:] = 1, 0
    return w


def assert_rounded(library: Library, out: Array, x: Array, edge: Array, weights: dict[str, Array]) -> None:
    """As if factors were rounded, but for those that another rounding before moves to the next number."""
    exact = twins.hybrid_experts(x, edge, *weights.values())
    rounded = twins.hybrid_experts(x, edge, *folded(weights).values(), bfloat16=True)
    error, rounding = (np.sqrt(np.mean((values - rounded) ** 2)) for values in (out, exact))
    message = f"{error:.2g} from the rounded formula, which is {rounding:.2g} from the exact one"
    assert 0 < error < 0.25 * rounding, message
    assert np.abs(out - exact).max() < 2.0**-5 * np.abs(exact - x).max()


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("sizes", [*SIZES, *OTHER_SIZES])
def test_experts_in_bfloat16(library: Library, sizes: tuple[int, int, int], share: float) -> None:
    weights = parameters(*sizes)
    for count in (1, 16, 17, 33, 131):
        x = tokens(count, sizes[0])
        edge = some_edges(x, weights, share)
        case = inputs(x, edge, weights)
        out = library.run_all_ways("Bf16HybridExperts", case, constant=list(weights))
        if library.tier in TILED and sizes in SIZES:
            assert_rounded(library, out, x, edge, weights)
        else:
            np.testing.assert_array_equal(out, library.run("HybridExperts", case)[0])


def test_many_tokens_of_one_expert(library: Library) -> None:
    weights = parameters(32, 64, 5)
    weights["expert_bias"][3] = 10
    x = tokens(1500, 32)
    edge = np.delete(np.arange(1500), [3, 700])
    out = library.run_all_ways("Bf16HybridExperts", inputs(x, edge, weights), constant=list(weights))
    if library.tier in TILED:
        assert_rounded(library, out, x, edge, weights)


def test_a_map_that_leaves_the_caches(library: Library) -> None:
    """Its results go past them, and its tokens come in two parts, each with edge tokens of its own."""
    weights = parameters(1024, 32, 3)
    x = tokens(1030, 1024)
    edge = some_edges(x, weights, 0.3)
    out = library.run_all_ways("Bf16HybridExperts", inputs(x, edge, weights), constant=list(weights))
    if library.tier in TILED:
        assert_rounded(library, out, x, edge, weights)


def test_the_same_expert_as_in_float32(library: Library) -> None:
    """Where rounding decides between experts, too: only tokens of which all see the same have the same result."""
    weights = parameters(256, 64, 8)
    noise = np.random.default_rng(3).standard_normal((8, 256)).astype(np.float32)
    weights["gate_weight"][1:] = weights["gate_weight"][1] * (1 + np.float32(2e-7) * noise)
    weights["gate_bias"][1:] = weights["gate_bias"][1]
    weights["expert_bias"][:] = 0
    x = tokens(700, 256)
    case = inputs(x, np.arange(700), weights)
    change = library.run("HybridExperts", case)[0] - x
    out = library.run("Bf16HybridExperts", case)[0] - x
    exact = np.stack([twins.hybrid_experts(x, np.arange(700), *of_one(weights, e).values()) - x for e in range(8)])
    of_expert, of_expert_in_bfloat16 = (np.argmin(((exact - values) ** 2).sum(2), axis=0) for values in (change, out))
    assert len(np.unique(of_expert)) > 1
    np.testing.assert_array_equal(of_expert_in_bfloat16, of_expert)


def of_one(weights: dict[str, Array], expert: int) -> dict[str, Array]:
    """The same where all edge tokens go to one expert."""
    bias = np.zeros_like(weights["expert_bias"])
    bias[expert] = 10
    return {**weights, "expert_bias": bias}


def test_tokens_do_not_see_each_other(library: Library) -> None:
    weights = parameters(64, 32, 4)
    x = tokens(90, 64)
    edge = np.arange(3, 90, 2)

    def run(x: Array, edge: NDArray[np.int64]) -> Array:
        out: Array = library.run("Bf16HybridExperts", inputs(x, edge, weights))[0]
        return out

    out = run(x, edge)
    np.testing.assert_array_equal(run(x, edge[::3])[edge[::3]], out[edge[::3]])
    others = np.setdiff1d(np.arange(90), edge)
    np.testing.assert_array_equal(run(x[others], edge[:0]), out[others])
    bad = {4: np.nan, 5: np.inf, 8: -np.inf, 9: np.nan}  # edge tokens and others
    broken = x.copy()
    for token, value in bad.items():
        broken[token, 7] = value
    again = run(broken, edge)
    assert np.isnan(again[list(bad)]).all()
    kept = np.setdiff1d(np.arange(90), list(bad))
    np.testing.assert_array_equal(again[kept], out[kept])


def test_no_tokens(library: Library) -> None:
    case = inputs(np.zeros((0, 32), np.float32), np.zeros(0, np.int64), parameters(32, 32, 2))
    assert library.run("Bf16HybridExperts", case)[0].shape == (0, 32)


def test_bad_inputs(library: Library) -> None:
    case = inputs(tokens(6, 32), np.array([1, 1]), parameters(32, 32, 2))
    library.fails(r"expected edge_tokens strictly ascending in \[0, 6\), got 1 after 1", "Bf16HybridExperts", case)
