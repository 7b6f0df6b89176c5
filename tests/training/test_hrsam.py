"""`i2f train` of HRSAM: distillation of the encoder by a teacher, and fine-tuning of everything by clicks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from inter2former_deploy.apps.cli import app
from inter2former_deploy.families.checkpoint import load_model
from inter2former_deploy.families.hrsam.config import HRSAMPP_PROBE, HRSAMConfig
from inter2former_deploy.training import Stage, TrainConfig, train
from inter2former_deploy.training.batches import Batch, Batches
from inter2former_deploy.training.hrsam import HRSAMTrainer
from inter2former_deploy.training.optimizers import Optimizers
from inter2former_deploy.training.state import load_state, read_log

TINY = HRSAMConfig(
    name="tiny",
    encoder=replace(HRSAMPP_PROBE.encoder, depth=2, dim=32, states=3, repeats=2, anchor_size=48, fusion_after=(0, 1)),
    decoder=replace(HRSAMPP_PROBE.decoder, dim=32, heads=2, cross_dim=16, mlp_hidden=32, upscaling=(8, 8)),
)
SHORT = TrainConfig(steps=3, targets=2, stages=(Stage(share=1, size=80, batch=2),), warmup=1, bf16=False, max_rounds=2)
DISTIL = replace(SHORT, stages=(Stage.parse("1:80:2:encoder"),))
UNUSED = ("point_embeds.2", "point_embeds.3", "hypernetworks_mlps.1", "hypernetworks_mlps.2", "hypernetworks_mlps.3")


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def taught(batch: Batch) -> Batch:
    return batch._replace(teacher=torch.randn(2, 32, 5, 5, generator=torch.Generator().manual_seed(0)))


def easy_batch() -> Batch:
    """A bright rectangle, which is the object."""
    masks = torch.zeros(1, 1, 64, 64, dtype=torch.uint8)
    masks[:, :, 8:56, 16:60] = 1
    noise = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    return Batch(0.2 * noise + (3.0 * masks[:, 0] - 1.5)[:, None], masks, masks[:, 0], None)


@pytest.mark.parametrize("bf16", [False, True])
def test_fine_tuning_learns_a_batch_and_reaches_every_parameter(bf16: bool) -> None:
    trainer = HRSAMTrainer(TINY, replace(SHORT, learning_rate=3e-3, steps=1000, bf16=bf16, max_rounds=1))
    start = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    results = [trainer.train_step(easy_batch()) for _ in range(16)]
    assert np.mean([r["full"] for r in results[-3:]]) < 0.85 * results[0]["full"]
    assert np.mean([r["iou"] for r in results[-3:]]) > results[0]["iou"] + 0.2
    assert all(np.isfinite(r["gradient"]) for r in results)
    moved = {name for name, p in trainer.model.named_parameters() if not torch.equal(p, start[name])}
    still = {name for name in start if name not in moved}
    assert still == {name for name in start if any(part in name for part in UNUSED) or "iou_prediction" in name}


def test_the_first_decode_has_no_previous_mask_and_later_ones_their_own() -> None:
    """Samples without a round keep `no_mask_embed`; of those with rounds, the last logits go in, without gradient."""
    trainer = HRSAMTrainer(TINY, SHORT)
    masks = np.zeros((2, 80, 80), np.uint8)
    masks[:, 20:60, 30:70] = 1
    rngs = [np.random.default_rng(seed) for seed in range(2)]
    rounds = iter((0, 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("inter2former_deploy.training.hrsam.draw_rounds", lambda *_: next(rounds))
        none, two = trainer._simulate(torch.randn(2, 32, 5, 5), masks, rngs)
    assert none.previous is None
    assert len(none.clicks) == 1
    assert none.clicks[0].positive
    assert two.previous is not None
    assert two.previous.shape == (1, 20, 20)
    assert not two.previous.requires_grad
    assert len(two.clicks) == 3
    embedding = torch.randn(2, 32, 5, 5)
    together = trainer._decode(embedding, [two, none])
    for i, prompts in enumerate((two, none)):
        torch.testing.assert_close(trainer._decode(embedding[i : i + 1], [prompts])[0], together[i])


def test_distillation_teaches_the_encoder_alone() -> None:
    trainer = HRSAMTrainer(TINY, replace(DISTIL, learning_rate=4e-3, steps=1000), teacher_channels=32)
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    batch = taught(Batches(trainer.config)[0])
    losses = [trainer.train_step(batch) for _ in range(10)]
    assert set(losses[0]) == {"distillation", "gradient"}
    assert trainer.model.backbone.drop_path == 0.2
    assert np.mean([x["distillation"] for x in losses[-2:]]) < 0.95 * losses[0]["distillation"]
    changed = {k.split(".")[0] for k, v in trainer.model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"backbone"}


def test_the_loss_of_distillation_is_that_of_the_pictures_that_have_features() -> None:
    trainer = HRSAMTrainer(TINY, replace(DISTIL, drop_path=0.0), teacher_channels=32)
    batch = taught(Batches(trainer.config)[0])
    assert batch.teacher is not None
    batch.teacher[1] = torch.nan
    with torch.no_grad():
        embedding = trainer.model.encode(batch.images)
        expected = (embedding[0] - batch.teacher[0]).square().mean().item()
    assert trainer.train_step(batch)["distillation"] == pytest.approx(expected, rel=1e-5)
    assert trainer.train_step(batch._replace(teacher=None))["gradient"] == 0


def test_what_cannot_be_distilled_is_refused() -> None:
    with pytest.raises(ValueError, match="imitates a teacher: name its features with --teacher"):
        HRSAMTrainer(TINY, DISTIL)
    with pytest.raises(ValueError, match="must have 32 channels, as the image embedding of tiny has, got 8"):
        HRSAMTrainer(TINY, DISTIL, teacher_channels=8)


def test_later_blocks_learn_faster() -> None:
    model = HRSAMTrainer(TINY, SHORT).model
    optimizers = Optimizers(model, [], replace(SHORT, layer_decay=0.5))
    optimizers.step(1.0)
    names = {id(p): name for name, p in model.named_parameters()}
    rates = {names[id(p)]: group["lr"] for o in optimizers._all for group in o.param_groups for p in group["params"]}
    assert len(rates) == len(names)
    for name, rate in rates.items():
        expected = 0.25 if ".blocks.0." in name else 0.5 if ".blocks.1." in name else 1.0
        assert rate == expected, name


def test_a_resumed_run_ends_exactly_as_an_unbroken_one(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"workers": 0, "log_every": 1, "report": str}
    config = replace(SHORT, jaccard=0.5, layer_decay=0.9)
    weights = train(TINY, config, tmp_path / "whole", **settings)
    assert weights is not None
    assert train(TINY, config, tmp_path / "broken", minutes=0.0, **settings) is None
    state = load_state(tmp_path / "broken")
    assert state is not None
    assert state["step"] == 1
    again = train(TINY, config, tmp_path / "broken", **settings)
    assert again is not None
    assert again.read_bytes() == weights.read_bytes()
    logs = [read_log(tmp_path / run / "log.jsonl") for run in ("whole", "broken")]
    assert [entry["full"] for entry in logs[0]] == [entry["full"] for entry in logs[1]]
    assert load_model(weights).config == TINY


def test_the_command_takes_the_family_from_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "tiny.json").write_text(json.dumps(TINY.to_dict()))
    options = ["--config", str(tmp_path / "tiny.json"), "--steps", "1", "--stage", "1:64:1", "--targets", "1"]
    done = CliRunner().invoke(app, ["train", *options, "--workers", "0", "-o", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    assert load_model(tmp_path / "run" / "weights.safetensors").config == TINY
