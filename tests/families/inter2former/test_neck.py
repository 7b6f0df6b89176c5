"""The decoder's neck and its parts against the golden arrays, and what its variants change."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from inter2former_deploy.families.inter2former.config import PROBE, EdgeRule
from inter2former_deploy.families.inter2former.modules.neck import DecoderNeck

CASES = (
    "first_click",
    "object",
    "corner",
    "all_background",
    "unstable",
    "full_foreground",
    "thin",
    "negatives",
    "background_block",
)


@pytest.fixture(scope="module")
def neck(probe_weights: dict[str, Any]) -> Any:
    """`neck(edge_rule="exact")`: the neck of the golden arrays, with changes of its configuration."""

    def build(**changes: Any) -> DecoderNeck:
        neck = DecoderNeck(config=PROBE.with_decoder(**changes).decoder)
        prefix = "neck."
        neck.load_state_dict({k.removeprefix(prefix): v for k, v in probe_weights.items() if k.startswith(prefix)})
        return neck.eval()

    return build


@pytest.fixture(scope="module")
def arrays(golden: Any) -> dict[str, Any]:
    return {name: torch.from_numpy(array) for name, array in golden("neck").items()}


def labels_of(arrays: dict[str, Any], *cases: str) -> torch.Tensor:
    return torch.stack([arrays[f"{case}_label"] for case in cases])


def test_entries_are_those_of_the_release_in_their_order(neck: Any, probe_weights: dict[str, Any]) -> None:
    names = [name for name in probe_weights if name.startswith("neck.")]
    assert [f"neck.{name}" for name in neck().state_dict()] == names


@pytest.mark.parametrize("rule", ["released", "exact"])
@torch.inference_mode()
def test_golden(neck: Any, arrays: dict[str, Any], assert_close: Any, rule: EdgeRule) -> None:
    """All cases as one batch: samples do not see each other."""
    embedding = arrays["image_embedding"].expand(len(CASES), -1, -1, -1)
    tokens, edges = neck(edge_rule=rule)(embedding, labels_of(arrays, *CASES))
    for i, case in enumerate(CASES):
        np.testing.assert_array_equal(edges[i], arrays[f"{case}_{rule}_edge"], case)
        assert_close(tokens[i : i + 1], arrays[f"{case}_{rule}_tokens"], "neck")


@pytest.mark.parametrize("case", CASES)
@torch.inference_mode()
def test_golden_prompt_embedding(neck: Any, arrays: dict[str, Any], assert_close: Any, case: str) -> None:
    fused, _ = neck().embed(arrays[f"{case}_label"], arrays["image_embedding"][0].permute(1, 2, 0))
    assert_close(fused, arrays[f"{case}_fused"], "neck")


@torch.inference_mode()
def test_decode_is_forward_of_one_image(neck: Any, arrays: dict[str, Any], assert_close: Any) -> None:
    neck, labels, embedding = neck(), arrays["object_label"], arrays["image_embedding"]
    tokens, edge = neck.decode(labels, embedding[0].permute(1, 2, 0))
    batch, edges = neck(embedding, labels[None])
    assert_close(tokens, batch[0].flatten(1).T, "neck")
    assert torch.equal(edge, edges[0])


@torch.inference_mode()
def test_full_and_bsq_attention_are_hybrid_attention_of_all_and_no_edge_tokens(neck: Any, assert_close: Any) -> None:
    rng = torch.Generator().manual_seed(0)
    qkv, some = torch.randn(48, 96, generator=rng), torch.tensor([3, 17, 40])
    hybrid, full, bsq = (neck(attention=variant).blocks[0].attention for variant in ("hybrid", "full", "bsq"))
    everyone, none = torch.arange(48), torch.zeros(0, dtype=torch.int64)
    assert_close(full(qkv, some, 8), hybrid(qkv, everyone, 8), "neck")
    assert_close(bsq(qkv, some, 8), hybrid(qkv, none, 8), "neck")
    mixed = hybrid(qkv, some, 8)
    assert_close(mixed[some], full(qkv, some, 8)[some], "neck")
    others = torch.tensor([t for t in range(48) if t not in some])
    assert_close(mixed[others], bsq(qkv, some, 8)[others], "neck")


@torch.inference_mode()
def test_vq_attention_takes_the_nearest_codeword(assert_close: Any) -> None:
    torch.manual_seed(0)
    attention = DecoderNeck(config=PROBE.with_decoder(attention="vq").decoder).blocks[0].attention
    qkv = torch.randn(48, 96)
    query, key, value = qkv.chunk(3, 1)
    nearest = torch.cdist(key.double(), attention.codebook.double()).argmin(1)
    weights = (query @ attention.codebook[nearest].T * 32**-0.5).softmax(1)
    assert_close(attention(qkv, torch.tensor([5]), 8), weights @ value, "neck")


@torch.inference_mode()
def test_dense_prompt_differs_from_dynamic_only_where_the_box_cuts(neck: Any, arrays: dict[str, Any]) -> None:
    embedding = arrays["image_embedding"][0].permute(1, 2, 0)
    dynamic, dense = neck(), neck(prompt="dense")

    def difference(case: str) -> torch.Tensor:
        label = arrays[f"{case}_label"]
        there = (dense.embed(label, embedding)[0] - dynamic.embed(label, embedding)[0]).abs().amax(1)
        return (there > 1e-4).view(16, 16)

    assert not difference("first_click").any()  # its box is the whole map
    different = difference("corner")  # a box of the top right corner, 3 columns and 4 rows with its margin
    assert different.any()
    ring = torch.zeros(16, 16, dtype=torch.bool)
    ring[0, :], ring[-1, :], ring[:, 0], ring[:, -1] = True, True, True, True  # dense convolutions see the map's border
    ring[:5, 11:] = True
    assert not (different & ~ring).any()


@torch.inference_mode()
def test_one_token(neck: Any) -> None:
    labels = torch.full((2, 16, 16), 2, dtype=torch.uint8)
    tokens, edges = neck()(torch.ones(2, 256, 1, 1), labels)
    assert tokens.shape == (2, 256, 1, 1)
    assert tokens.isfinite().all()
    assert [edge.tolist() for edge in edges] == [[0], [0]]
