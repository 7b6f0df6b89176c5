"""Tokens outside the box of the labels: the click graph's modules against those that compute each token by itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from inter2former_deploy.apps.bench.scene import disc_labels
from inter2former_deploy.families.checkpoint import build_model, synthetic_state_dict
from inter2former_deploy.families.inter2former.config import PROBE
from inter2former_deploy.families.inter2former.graphs import ClickGraph, DenseClick, PrepareGraph
from inter2former_deploy.families.inter2former.interface import outside_width

GRID = 7
RESULTS = ("box_logits", "box", "tokens", "low_res", "edge_tokens")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"layers": 1},
        {"layers": 4, "edge_rule": "exact"},
        {"heads": 2, "edge_rule": "exact"},
        {"attention": "vq"},
        {"attention": "full"},
        {"prompt": "dense"},
        {"upsampling": "full", "edge_rule": "exact"},
    ],
    ids=str,
)
def test_it_is_the_same_sum(changes: dict[str, Any]) -> None:
    """In float64, but for rounding; decisions are the same."""
    config = PROBE.with_decoder(**changes)
    model = build_model(config, synthetic_state_dict(config)).double()
    generator = torch.Generator().manual_seed(3)
    embedding = torch.randn(GRID, GRID, config.decoder.dim, generator=generator, dtype=torch.float64)
    maps = torch.rand(5, 16 * GRID, 16 * GRID, generator=generator, dtype=torch.float64)
    with torch.inference_mode():
        prepare = PrepareGraph(model)
        known, edges = prepare.tokens(embedding), prepare.edge_inputs(maps)
        assert known[-1].shape == (GRID * GRID, outside_width(config.decoder))
        for share in (0.01, 0.2, 1.0):
            labels = torch.from_numpy(disc_labels(16 * GRID, share))
            actual = ClickGraph(model)(labels, embedding, *known, *edges)
            expected = DenseClick(model)(labels, embedding, *edges)
            for name, ours, theirs in zip(RESULTS, actual, expected, strict=True):
                assert ours.shape == theirs.shape, name
                assert (ours - theirs).abs().max() <= 1e-11 * theirs.abs().max(), name
