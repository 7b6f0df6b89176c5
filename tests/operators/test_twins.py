"""The twins against the arrays of the release: what everything else is measured against must itself be right."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from operators import released, twins
from tolerances import TOLERANCES

TESTS = Path(__file__).parents[1]
NECK_CASES = (
    *("first_click", "object", "corner", "all_background", "unstable"),
    *("full_foreground", "thin", "negatives", "background_block"),
)
STAGES = 4


def golden(name: str) -> Any:
    return np.load(TESTS / "golden" / f"{name}.npz")


@pytest.fixture(scope="module")
def weights() -> dict[str, NDArray[Any]]:
    """The synthetic weights that the arrays were computed with."""
    spec = importlib.util.spec_from_file_location("make_weights", TESTS / "reference" / "make_weights.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    state: dict[str, NDArray[Any]] = module.state_dict("probe", 7)
    return state


def assert_close(actual: NDArray[Any], expected: NDArray[Any]) -> None:
    """Within the table's share of the largest value: the release's own float32 rounding."""
    tolerance = TOLERANCES["twin", "float64"]
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance.rtol * np.abs(expected).max())


@pytest.mark.parametrize("case", NECK_CASES)
def test_edge_tokens(case: str) -> None:
    neck = golden("neck")
    for rule in ("released", "exact"):
        edge = twins.edge_tokens(neck[f"{case}_label"], rule=rule)
        np.testing.assert_array_equal(edge, neck[f"{case}_{rule}_edge"])


def prompt_weights(weights: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
    stem = [weights[f"neck.ref_conv.stem.{2 * i}.{kind}"] for i in range(STAGES) for kind in ("weight", "bias")]
    return [weights["neck.ref_embeds.weight"], *stem]


@pytest.mark.parametrize("case", NECK_CASES)
def test_prompt_embedding(case: str, weights: dict[str, NDArray[Any]]) -> None:
    neck = golden("neck")
    embedding = neck["image_embedding"][0].transpose(1, 2, 0)
    tokens = twins.prompt_embedding(neck[f"{case}_label"], embedding, *prompt_weights(weights))
    fused = neck[f"{case}_fused"]
    assert_close(tokens, fused)


@pytest.mark.parametrize("heads", [1, 2])
def test_hybrid_attention(heads: int) -> None:
    blocks = {name.removeprefix(f"h{heads}_"): x for name, x in golden("blocks").items() if name[:2] == f"h{heads}"}
    bits, book = len(blocks["code_proj_bias"]), blocks["codebook"]
    codes = np.arange(2**bits)[:, None] >> np.arange(bits)[::-1] & 1
    codewords = np.concatenate([codes, 1 - codes], axis=1) @ book
    out = twins.hybrid_attention(
        np.concatenate([blocks["q"], blocks["k"], blocks["v"]], axis=1),
        blocks["edge"],
        blocks["code_proj_weight"],
        blocks["code_proj_bias"],
        codewords,
        heads=heads,
        grid_width=16,
    )
    assert_close(out[blocks["edge"]], blocks["full_out"])
    assert_close(np.delete(out, blocks["edge"], axis=0), blocks["bsq_out"])


def test_hybrid_experts(weights: dict[str, NDArray[Any]]) -> None:
    blocks = golden("blocks")
    parameters = list(released.expert_parameters(weights).values())
    x, edge = blocks["moe_x"], blocks["moe_edge"]
    np.testing.assert_array_equal(twins.chosen_experts(x[edge], *parameters[:3]), blocks["moe_expert"] + 1)
    assert_close(twins.mix_experts(x, edge, *parameters), blocks["moe_out"])
    assert_close(twins.mix_experts(x, edge[:0], *parameters), blocks["moe_out_no_edge"])


@pytest.mark.parametrize("case", ["whole", "crop", "small", "none"])
def test_token_box_and_local_upsample(case: str, weights: dict[str, NDArray[Any]]) -> None:
    arrays, edges = golden("upsampler"), golden("upsampler_edges")
    low_res = arrays["low_res"][0, 0] + (arrays[f"{case}_bias"] - arrays["whole_bias"])
    box = twins.token_box(low_res)
    np.testing.assert_array_equal(box, arrays[f"{case}_box_ltrb"])
    left, top, right, bottom = box
    x = arrays["tokens"][0].transpose(1, 2, 0)[top:bottom, left:right]
    for stage in range(STAGES):
        parameters = released.upsample_parameters(weights, stage)
        e = edges[f"edge_{stage}"][0].transpose(1, 2, 0).astype(np.float64)
        x = twins.local_upsample(
            x,
            box,
            *parameters.values(),
            *twins.edge_terms(e, parameters["conv_weight"].astype(np.float64), len(low_res)),
            activation="silu" if stage < STAGES - 1 else "none",
        )
    logits = np.full(arrays[f"{case}_logits"].shape[2:], -100.0)
    logits[16 * top : 16 * bottom, 16 * left : 16 * right] = x[..., 0]
    assert_close(logits, arrays[f"{case}_logits"][0, 0])
