from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from inter2former_deploy.apps.evaluation.ablation import (
    evaluate_variants,
    load_variants,
    speed_and_accuracy_figure,
    train_variants,
)
from inter2former_deploy.data import SyntheticDataset
from inter2former_deploy.families.hrsam.config import HRSAM_PROBE
from inter2former_deploy.families.hrsam.config import VARIANTS as OF_HRSAM
from inter2former_deploy.families.inter2former.config import PROBE, VARIANTS
from inter2former_deploy.training import Stage, TrainConfig

SMALL = replace(
    PROBE.with_decoder(prompt_channels=(4, 8, 8, 16), pyramid=(16, 8, 4, 4), expert_hidden=16, experts=2),
    name="small",
    encoder=replace(PROBE.encoder, depth=2, dim=16, fusion_after=(0, 1)),
)


def test_all_variants_are_trained_alike_and_scored_on_the_same_samples(tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    config = TrainConfig(
        steps=1, stages=(Stage(share=1, size=64, batch=1),), targets=1, warmup=1, bf16=False, max_rounds=0
    )
    weights = train_variants(SMALL, config, tmp_path, report=str, workers=0)
    assert list(weights) == list(VARIANTS)
    assert len({p.read_bytes() for p in weights.values()}) == len(VARIANTS) - 1  # upsampling is a matter of inference
    models = load_variants(weights, 64)
    decoders = {name: m.model.config.decoder for name, m in models.items()}
    first = decoders[next(iter(VARIANTS))]
    assert (first.attention, first.prompt, first.upsampling, first.edge_rule) == ("hybrid", "dynamic", "local", "exact")
    assert decoders["all VQ attention"].attention == "vq"
    assert decoders["full upsampling"].upsampling == "full"
    assert decoders["edge rule as released"].edge_rule == "released"
    for name, decoder in decoders.items():  # one thing differs at a time
        differing = [k for k in vars(first) if getattr(decoder, k) != getattr(first, k)]
        assert len(differing) == (decoder is not first), name
    results = evaluate_variants(models, SyntheticDataset(length=2, size=64), clicks=2)
    assert {tuple(r.name for r in e.results) for e in results.values()} == {("thin-000000", "solid-000001")}
    rows = {n: e.scores()["all"] for n, e in results.items()}
    (axis,) = speed_and_accuracy_figure(rows).axes
    points = {c.get_label(): c.get_offsets().tolist() for c in axis.collections}
    assert points == {n: [[1000 * row["online SPC"], row["NoC@90"]]] for n, row in rows.items()}
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("milliseconds a click", "NoC@90 (lower is better)")
    assert [t.get_text() for t in axis.get_legend().get_texts()] == list(VARIANTS)
    torch.set_num_threads(threads)


def test_a_stopped_training_is_no_result(tmp_path):
    config = TrainConfig(steps=2, stages=(Stage(share=1, size=64, batch=1),), targets=1, max_rounds=0)
    with pytest.raises(RuntimeError, match="was stopped"):
        train_variants(SMALL, config, tmp_path, report=str, workers=0, minutes=0.0)


def test_hrsam_without_its_state_space_modules(tmp_path):
    small = replace(HRSAM_PROBE, encoder=replace(HRSAM_PROBE.encoder, depth=2, dim=16, fusion_after=(0, 1), states=2))
    config = TrainConfig(steps=1, stages=(Stage(share=1, size=64, batch=1),), targets=1, bf16=False, max_rounds=0)
    weights = train_variants(small, config, tmp_path, report=str, workers=0)
    models = load_variants(weights, 64)
    assert list(models) == list(OF_HRSAM)
    assert [m.model.config.encoder.state_space for m in models.values()] == [True, False]
    results = evaluate_variants(models, SyntheticDataset(length=1, size=64), clicks=1)
    assert all(len(e.results) == 1 for e in results.values())
