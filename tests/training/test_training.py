from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from inter2former_deploy.apps.cli import app
from inter2former_deploy.apps.cli.train import train_config
from inter2former_deploy.core.contract import MEAN_BGR
from inter2former_deploy.data import IGNORED, CompositeDataset, DataError, FolderDataset, Sample
from inter2former_deploy.families.checkpoint import load_model, save_checkpoint
from inter2former_deploy.families.inter2former.config import (
    DecoderConfig,
    EdgeNetworkConfig,
    EncoderConfig,
    ModelConfig,
)
from inter2former_deploy.operators import formulas
from inter2former_deploy.training import Stage, TrainConfig, fast, train
from inter2former_deploy.training.auxiliary import Auxiliary
from inter2former_deploy.training.batches import Batches, _resampled
from inter2former_deploy.training.fast import OneGroupNorm, fast_forms
from inter2former_deploy.training.interaction import draw_rounds, simulate
from inter2former_deploy.training.loop import Trainer
from inter2former_deploy.training.optimizers import Muon
from inter2former_deploy.training.state import STATE_FILE, load_state, read_log, save_state

TINY = ModelConfig(
    name="tiny",
    encoder=EncoderConfig(depth=2, dim=32, heads=2, window=4, pos_grid=4, anchor_size=32, fusion_after=(0, 1)),
    edges=EdgeNetworkConfig(blocks=1),
    decoder=DecoderConfig(
        layers=2,
        attention_dim=16,
        code_bits=4,
        experts=4,
        expert_hidden=16,
        prompt_channels=(4, 8, 8, 16),
        pyramid=(16, 8, 4, 4),
        edge_rule="exact",
    ),
)
SHORT = TrainConfig(steps=4, targets=2, stages=(Stage(share=1, size=64, batch=2),), warmup=1, bf16=False)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_fast_forms_compute_what_the_reference_does():
    torch.manual_seed(0)
    x = torch.randn(2, 8, 6, 6, requires_grad=True)
    weight, bias = torch.randn(8, requires_grad=True), torch.randn(8, requires_grad=True)

    def gradients(y):
        return torch.autograd.grad((y * torch.linspace(-1, 1, y.numel()).view(y.shape)).sum(), (x, weight, bias))

    reference = formulas.upsample(x, weight, bias, 1e-5)
    with fast_forms(bf16=False):
        fast = formulas.upsample(x, weight, bias, 1e-5)
    torch.testing.assert_close(fast, reference, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradients(fast), gradients(reference), rtol=1e-4, atol=1e-4)

    norm = nn.GroupNorm(1, 8)
    nn.init.normal_(norm.weight)
    reference = norm(x)
    norm.__class__ = OneGroupNorm
    torch.testing.assert_close(norm(x), reference, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("bf16", "tolerance"), [(False, 1e-5), (True, 3e-2)])  # bfloat16 has 8 bits
def test_fast_attention_is_that_of_the_reference(bf16, tolerance):
    torch.manual_seed(0)
    query, key, value = (torch.randn(20, 16, requires_grad=True) for _ in range(3))

    def results():
        out = formulas.attention(query, key, value, 2, bias=torch.linspace(-1, 1, 20))
        return out, *torch.autograd.grad((out * torch.linspace(-1, 1, 320).view(20, 16)).sum(), (query, key, value))

    reference = results()
    with fast_forms(bf16=bf16):
        fast = results()
    assert all(x.dtype == torch.float32 for x in fast)
    assert (fast[0] == reference[0]).all() == 0  # the other form was used
    torch.testing.assert_close(fast, reference, rtol=tolerance, atol=tolerance)
    assert torch.equal(results()[0], reference[0])  # and is no more


def test_rounds_follow_their_distribution():
    rng = np.random.default_rng(0)
    counts = np.bincount([draw_rounds(rng, SHORT) for _ in range(4000)], minlength=5)
    np.testing.assert_allclose(counts[1:5] / counts[:4], 0.6, atol=0.1)
    assert all(draw_rounds(rng, replace(SHORT, max_rounds=0)) == 0 for _ in range(5))


def test_a_simulated_user_starts_on_the_object_and_then_corrects():
    masks = np.zeros((2, 64, 64), np.uint8)
    masks[:, 16:48, 16:48] = 1
    masks[1, :, :8] = IGNORED
    seen = []

    def everything(labels, samples):  # a model that calls all of the picture object
        seen.append((labels.copy(), samples))
        return np.ones(labels.shape, bool)

    config = replace(SHORT, round_decay=50.0, max_rounds=2)  # practically always two rounds
    labels = simulate(masks, everything, [np.random.default_rng(i) for i in range(2)], config)
    first, samples = seen[0]
    assert samples == [0, 1]
    assert (first == 4).any((1, 2)).all()  # the first click lies on the object
    assert (masks[first == 4] == 1).mean() > 0.5
    assert not (first == 0).any()
    assert (labels == 0).any((1, 2)).all()  # then the user takes background away,
    assert ((labels == 3) | (labels == 4) | (labels == 0)).all()  # and the prediction was folded in
    centres = np.argwhere(labels[1] == 0).mean(0)
    assert centres[1] > 8  # nobody clicks ignored pixels


def test_a_resumed_run_ends_exactly_as_an_unbroken_one(tmp_path):
    lines: list[str] = []
    weights = train(TINY, SHORT, tmp_path / "whole", workers=0, log_every=1, report=lines.append)
    assert weights is not None
    assert any("iou" in line and "experts" in line for line in lines)
    assert train(TINY, SHORT, tmp_path / "broken", workers=0, log_every=1, minutes=0.0, report=lines.append) is None
    assert load_state(tmp_path / "broken")["step"] == 1
    assert load_model(tmp_path / "broken/weights.safetensors").config == TINY  # an unfinished run is of use, too
    again = train(TINY, SHORT, tmp_path / "broken", workers=0, log_every=1, report=lines.append)
    assert any("resumed at step 1" in line for line in lines)
    assert again.read_bytes() == weights.read_bytes()
    logs = [read_log(tmp_path / run / "log.jsonl") for run in ("whole", "broken")]
    assert [e["full"] for e in logs[0]] == [e["full"] for e in logs[1]]
    assert [e["step"] for e in logs[1]] == [1, 2, 3, 4]
    assert (tmp_path / "whole/log.png").stat().st_size > 1000
    assert load_model(weights).config == TINY


def test_a_kill_while_saving_leaves_the_old_state(tmp_path, monkeypatch):
    save_state(tmp_path, {"step": 1})

    def torn(state, file):
        file.write(b"half of a sta")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", torn)
    with pytest.raises(KeyboardInterrupt):
        save_state(tmp_path, {"step": 2})
    assert load_state(tmp_path) == {"step": 1}
    (tmp_path / "log.jsonl").write_text(json.dumps({"step": 1}) + '\n{"step": 2, "fu')
    assert read_log(tmp_path / "log.jsonl") == [{"step": 1}]
    assert (tmp_path / STATE_FILE).is_file()


@pytest.mark.parametrize(("interrupt", "processes"), [(signal.SIGTERM, 1), (signal.SIGINT, 2)])  # handled alike
def test_an_interrupt_of_all_processes_of_a_run_ends_it_between_steps(tmp_path, interrupt, processes):
    code = (
        "import sys, json; from pathlib import Path;"
        "from inter2former_deploy.families.inter2former.config import ModelConfig;"
        "from inter2former_deploy.training import Stage, TrainConfig, train;"
        "config = TrainConfig(steps=10**6, targets=1, stages=(Stage(share=1, size=64, batch=2),));"
        "model = ModelConfig.from_dict(json.loads(sys.argv[1]));"
        f"train(model, config, Path(sys.argv[2]), processes={processes}, workers=1, log_every=1)"
    )
    command = (sys.executable, "-u", "-c", code, json.dumps(TINY.to_dict()), str(tmp_path / "run"))
    run = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path, start_new_session=True)
    assert "step 1/" in run.stdout.readline()
    os.killpg(run.pid, interrupt)  # as a terminal's Ctrl-C does it
    rest, _ = run.communicate()
    assert run.returncode == 0
    assert "stopped at step" in rest
    assert load_state(tmp_path / "run")["step"] >= 1


def test_processes_that_share_the_pictures_make_the_steps_of_one(tmp_path):
    states = {}
    # Without rounds: the masks of a model that knows nothing hang on rounding, and so would the clicks on them.
    config = replace(SHORT, max_rounds=0)
    for processes in (1, 2):
        train(TINY, config, tmp_path / str(processes), processes=processes, workers=0, minutes=0.0, report=str)
        states[processes] = load_state(tmp_path / str(processes))
    assert states[2]["step"] == 1
    # After one step a first moment is a tenth of the clipped gradient. The Canny maps of flat parts hang on rounding,
    # which moves it by a fiftieth; one of the two pictures alone would move it by half.
    gradients = [
        torch.cat([s["exp_avg"].flatten() for s in state["optimizers"][0]["state"].values()])
        for state in states.values()
    ]
    assert (gradients[0] - gradients[1]).norm() < 0.1 * gradients[0].norm()

    assert train(TINY, config, tmp_path / "2", processes=2, workers=0, report=str) == tmp_path / "2/weights.safetensors"
    assert load_state(tmp_path / "2")["step"] == config.steps


def test_processes_need_pictures_alike_and_a_cpu(tmp_path):
    with pytest.raises(ValueError, match="3 processes cannot share 2 pictures a step alike: give every stage"):
        train(TINY, SHORT, tmp_path, processes=3)
    with pytest.raises(ValueError, match="not a device 'cuda'"):
        train(TINY, SHORT, tmp_path, processes=2, device="cuda")


def test_a_failing_process_ends_the_run_with_its_reason(tmp_path):
    train(TINY, SHORT, tmp_path, workers=0, minutes=0.0, report=str)
    with pytest.raises(
        RuntimeError,
        match=r"^ValueError: the saved state is of another model configuration",
    ):
        train(TINY.with_decoder(experts=2), SHORT, tmp_path, processes=2, workers=0, report=str)


@pytest.mark.parametrize(
    ("attention", "bf16", "optimizer"), [("hybrid", True, "adamw"), ("vq", False, "adamw"), ("hybrid", True, "muon")]
)
def test_a_batch_is_learned_by_heart(attention, bf16, optimizer):
    config = replace(SHORT, learning_rate=5e-3, steps=1000, bf16=bf16, max_rounds=1, optimizer=optimizer, jaccard=1.0)
    trainer = Trainer(TINY.with_decoder(attention=attention), config)
    batch = Batches(config)[0]
    results = [trainer.train_step(batch) for _ in range(30)]
    assert np.mean([r["iou"] for r in results[-5:]]) > np.mean([r["iou"] for r in results[:5]]) + 0.1
    assert all(np.isfinite(r["gradient"]) for r in results)
    for result in results:
        np.testing.assert_allclose(sum(result["load"]), 1, atol=1e-6)
    averaged, last = trainer.average.weights, trainer.model.state_dict()
    assert any(not torch.equal(averaged[k], last[k]) for k in last)  # the average lags behind


def test_muon_moves_the_matrices_of_linear_layers_along_all_directions_alike():
    trainer = Trainer(TINY, replace(SHORT, optimizer="muon", weight_decay=0.0))
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    trainer.train_step(Batches(trainer.config)[0])
    after = trainer.model.state_dict()

    def farthest(name):
        """Largest singular value of a step over their mean."""
        values = torch.linalg.svdvals((after[name] - before[name]).flatten(1))
        return values.max() / values.mean()

    assert all(farthest(f"backbone.blocks.{i}.mlp.{name}.weight") < 2 for i in (0, 1) for name in ("fc1", "fc2"))
    assert farthest("backbone.patch_embed.proj.weight") > 2.5  # AdamW's, a convolution
    assert farthest("neck.blocks.0.o_proj.weight") > 2.5  # and so is this, of 16 x 16


@pytest.mark.parametrize("shape", [(32, 48), (48, 32), (32, 32)])
def test_muon_steps_as_that_of_pytorch_to_the_rounding_of_bfloat16(shape):
    start, gradients = torch.randn(shape), [torch.randn(shape) for _ in range(3)]
    weights = [torch.nn.Parameter(start.clone()) for _ in range(2)]
    ours = Muon(weights[:1], lr=0.01, weight_decay=0.05)
    theirs = torch.optim.Muon(weights[1:], lr=0.01, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
    for gradient in gradients:
        for weight, optimizer in zip(weights, (ours, theirs), strict=True):
            weight.grad = gradient.clone()
            optimizer.step()
    farthest = (weights[0] - start).abs().max()
    assert (weights[0] - weights[1]).abs().max() < 0.02 * farthest
    ours.load_state_dict(theirs.state_dict())  # a run goes on from the state of either


def test_bfloat16_is_taken_where_it_is_faster(monkeypatch):
    for faster in (False, True):
        monkeypatch.setattr(fast, "bf16_is_faster", lambda faster=faster: faster)
        assert train_config({"bf16": None, "stage": None}).bf16 is faster
        assert train_config({"bf16": not faster, "stage": None}).bf16 is not faster


def test_a_state_of_other_optimizers_is_refused(tmp_path):
    train(TINY, SHORT, tmp_path, workers=0, minutes=0.0, report=str)
    with pytest.raises(ValueError, match="another optimizer; choose another output folder"):
        train(TINY, replace(SHORT, optimizer="muon"), tmp_path, workers=0, report=str)


@pytest.fixture
def known():
    """Two tokens beside two others, and auxiliary maps that read the first two channels."""
    auxiliary = Auxiliary(8)
    segments = torch.zeros(1, 32, 32, dtype=torch.uint8)
    segments[:, :, 16:] = 1
    tokens = torch.zeros(1, 8, 2, 2)
    tokens[:, 0, :, 1], tokens[:, 1, :, 0] = 1, 1
    with torch.no_grad():
        auxiliary.masks.weight.zero_()[:, 0] = 30
        auxiliary.masks.bias.fill_(-15)
        auxiliary.borders.weight.zero_()[15::16, 1] = 30  # the last column of the tokens to the left
        auxiliary.borders.bias.fill_(-15)
        auxiliary.features.weight.copy_(torch.eye(64, 8))
        auxiliary.features.bias.zero_()
        auxiliary.scale.fill_(30)
        auxiliary.shift.fill_(-15)
    return auxiliary, tokens, segments


@pytest.mark.parametrize("loss", ["mask_loss", "border_loss", "likeness_loss"])
def test_auxiliary_losses_know_right_from_wrong(known, loss):
    auxiliary, tokens, segments = known
    compute = getattr(auxiliary, loss)
    assert compute(tokens, segments).item() < 5e-3
    assert compute(tokens.flip(3) if loss != "likeness_loss" else torch.ones_like(tokens), segments).item() > 0.3
    segments[:, :, :16] = IGNORED  # what is ignored can't be wrong
    assert compute(torch.ones_like(tokens) * (loss != "border_loss"), segments).item() < 5e-3


def test_a_stage_of_the_encoder_alone_leaves_the_decoder_as_it_is():
    trainer = Trainer(TINY, replace(SHORT, stages=(Stage.parse("1:64:2:encoder"),)))
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    entry = trainer.train_step(Batches(trainer.config)[0])
    assert set(entry) == {"border", "likeness", "gradient"}
    changed = {k.split(".")[0] for k, v in trainer.model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"backbone"}


def test_a_run_starts_from_a_checkpoint_where_it_fits(tmp_path):
    first = Trainer(TINY, SHORT)
    with torch.no_grad():
        first.model.neck.ref_embeds.weight.fill_(3)
        first.model.neck.blocks[0].bsq_attn.codebook.fill_(3)
    save_checkpoint(first.model, tmp_path / "first.safetensors")
    changed = TINY.with_decoder(attention="vq")
    train(changed, SHORT, tmp_path / "run", workers=0, minutes=0.0, initial=tmp_path / "first.safetensors", report=str)
    started = load_state(tmp_path / "run")["model"]
    assert (started["neck.ref_embeds.weight"] > 2.9).all()
    assert (started["neck.blocks.0.vq_attn.codebook"] < 2.9).any()


class Halves:
    """The object is the white half of each picture."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        image = np.zeros((90, 120, 3), np.uint8)
        image[:, 60:] = 255
        return Sample(f"half-{index}", image, (image[..., 0] > 0).astype(np.uint8))


def test_real_pictures_keep_image_and_mask_together():
    batches = Batches(replace(SHORT, stages=(Stage(share=1, size=64, batch=8),), steps=2), [Halves()])
    batch = batches[0]
    assert batch.images.shape == (8, 3, 64, 64)
    assert batch.masks.shape == (8, 2, 64, 64)
    for image, mask in zip(batch.images, batch.masks[:, 0], strict=True):
        outside = (image == 0).all(0)  # padding
        bright = image.mean(0) > 0.6
        assert (bright == (mask == 1))[~outside].float().mean() > 0.97
    assert torch.equal(batches[0].images, batch.images)
    assert not torch.equal(batches[1].images, batch.images)


def test_composites_are_trained_on_in_their_share(tmp_path):
    for name in ("cutouts", "backgrounds"):
        (tmp_path / name).mkdir()
    disc = cv2.circle(np.zeros((100, 100, 4), np.uint8), (50, 50), 45, (255, 255, 255, 255), -1)
    cv2.imwrite(str(tmp_path / "cutouts/disc.png"), disc)
    cv2.imwrite(str(tmp_path / "backgrounds/dark.png"), np.zeros((99, 99, 3), np.uint8))
    composites = CompositeDataset(tmp_path)
    config = replace(SHORT, stages=(Stage(share=1, size=64, batch=24),), targets=3)
    alone = Batches(config, [composites])[0]
    assert (alone.masks == 1).flatten(2).any(2).all()
    numbers = set(alone.segments.unique().tolist()) - {0, IGNORED}
    assert {1, 2} <= numbers <= {1, 2, 3, 4, 5}  # the things of a scene are told apart
    mixed = Batches(config, [Halves(), composites], synthetic=0.5, composites=0.4)
    assert (mixed.synthetic, mixed.composed) == (0.5, 0.7)
    assert [d for d in mixed.datasets if isinstance(d, CompositeDataset)] == []
    without = Batches(config, [Halves()], synthetic=0.25)
    assert without.composed == without.synthetic == 0.25
    weights = train(TINY, replace(SHORT, steps=1), tmp_path / "run", datasets=[composites], workers=0, report=str)
    assert weights == tmp_path / "run/weights.safetensors"


def test_synthetic_batches_have_targets_in_view_and_padding():
    batch = Batches(replace(SHORT, stages=(Stage(share=1, size=64, batch=16),)))[0]
    assert (batch.masks == 1).any(-1).any(-1).all()
    padded = (batch.images == 0).all(1)  # [B, S, S]
    assert padded.any()
    assert not (batch.masks == 1).any(1)[padded].any()


def test_a_teachers_features_are_cut_like_the_picture(tmp_path):
    at = (np.arange(32) + 0.5) / 32
    teacher = np.stack(np.broadcast_arrays(at[None, :], at[:, None])).astype(np.float16)  # x and y
    np.save(tmp_path / "half-0.npy", teacher)
    batches = Batches(SHORT, teacher=tmp_path)
    assert batches.teacher_channels == 2
    plain = batches._features("half-0", (0.25, 0.5, 0.5, 0.25), 64)
    np.testing.assert_allclose(plain[0, 0], 0.25 + 0.5 * (np.arange(4) + 0.5) / 4, atol=2e-3)
    np.testing.assert_allclose(plain[1, :, 0], 0.5 + 0.25 * (np.arange(4) + 0.5) / 4, atol=2e-3)
    mirrored = batches._features("half-0", (-0.25 - 0.5, 0.5, 0.5, 0.25), 64)
    np.testing.assert_allclose(mirrored, plain.flip(2), atol=2e-3)
    assert batches._features("unknown", (0.0, 0.0, 1.0), 64) is None

    config = replace(SHORT, distillation=100.0)
    trainer = Trainer(TINY, config, teacher_channels=2)
    batch = Batches(config)[0]._replace(teacher=torch.ones(2, 2, 4, 4))
    before = trainer.train_step(batch)["distillation"]
    for _ in range(8):
        after = trainer.train_step(batch)["distillation"]
    assert after < before


def test_a_run_on_a_folder_of_pictures(tmp_path):
    for kind, array in (("images", Halves()[0].image), ("masks", Halves()[0].mask * 255)):
        (tmp_path / "data" / kind).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "data" / kind / "a.png"), array)
    data = FolderDataset(tmp_path / "data")
    assert train(TINY, replace(SHORT, steps=1), tmp_path / "run", datasets=[data], workers=0, report=str) is not None
    with pytest.raises(ValueError, match="another model configuration"):
        train(TINY.with_decoder(experts=2), SHORT, tmp_path / "run", workers=0, report=str)


def test_impossible_numbers_are_refused():
    with pytest.raises(ValueError, match=r"targets must be positive, got 0; ema"):
        TrainConfig(targets=0, ema=1.0)
    with pytest.raises(ValueError, match="optimizer must be one of adamw, muon, got sgd"):
        TrainConfig(optimizer="sgd")
    for text in ("1:100:6", "0:256:6", "1:256", "a:b:c"):
        with pytest.raises(ValueError, match=r"expected a stage SHARE:SIZE:BATCH"):
            Stage.parse(text)


def test_stages_follow_their_shares():
    config = TrainConfig(steps=20, stages=(Stage.parse("0.6:64:4"), Stage.parse("0.3:128:2"), Stage.parse("0.3:256:1")))
    assert [config.stage(step).size for step in range(20)] == [64] * 10 + [128] * 5 + [256] * 5


def test_scenes_become_harder():
    config = TrainConfig(steps=10, ramp_share=0.5)
    assert [config.difficulty(step) for step in (0, 4, 9)] == [0.2, 1.0, 1.0]


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        for kind in ("images", "masks"):
            (tmp_path / "data" / kind).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(tmp_path / "data" / kind / f"{name}.png"), rng.integers(0, 255, (40, 50), dtype=np.uint8))
    return tmp_path / "data"


def test_the_command_leaves_weights_and_goes_on_when_asked_for_more(tmp_path, pictures):
    (tmp_path / "tiny.json").write_text(json.dumps(TINY.to_dict()))
    command = [
        "train",
        str(pictures),
        "synthetic",
        "-o",
        str(tmp_path / "run"),
        "--config",
        str(tmp_path / "tiny.json"),
    ]
    command += ["--stage", "1:64:1", "--threads", "1"]
    command += ["--workers", "0", "--log-every", "1"]
    result = CliRunner().invoke(app, [*command, "--steps", "1"])
    assert result.exit_code == 0, result.output
    assert "step 1/1" in result.output
    assert load_model(tmp_path / "run/weights.safetensors").config == TINY
    result = CliRunner().invoke(app, [*command, "--steps", "2"])
    assert "resumed at step 1" in result.output
    assert "step 2/2" in result.output
    result = CliRunner().invoke(app, [*command, "--steps", "9", "--minutes", "0", "--processes", "1"])
    assert "stopped at step 3" in result.output
    assert result.exit_code == 4  # a script can tell it from a finished run


def test_broken_pictures_are_named_before_any_step(tmp_path, pictures):
    (pictures / "images/b.png").write_bytes(b"no picture")
    (pictures / "masks/a.png").write_bytes(b"no mask")
    result = CliRunner().invoke(app, ["train", str(pictures), "-o", str(tmp_path / "run")])
    assert isinstance(result.exception, DataError)  # exit code 2 and one message from `main`
    assert "2 samples cannot be used" in str(result.exception)
    assert "b.png" in str(result.exception)
    assert "a.png: not a readable image" in str(result.exception)
    assert not (tmp_path / "run").exists()


@pytest.fixture
def trained_on(monkeypatch, tmp_path):
    """`trained_on(data, ...)`: the result of `i2f train`, and the names of the samples that it would train on."""

    def run(*arguments):
        given = []

        def take(*_, datasets, **__):
            given.extend(sample.name for dataset in datasets for sample in dataset)

        monkeypatch.setattr("inter2former_deploy.training.train", take)
        result = CliRunner().invoke(app, ["train", *map(str, arguments), "-o", str(tmp_path / "run")])
        return result, given

    return run


def test_samples_without_an_object_are_counted_and_left_out(pictures, trained_on):
    cv2.imwrite(str(pictures / "masks/a.png"), np.zeros((40, 50), np.uint8))
    result, names = trained_on(pictures)
    assert names == ["images/b.png"]
    assert "passed over: 1 masks without an object: images/a.png" in result.output
    result, names = trained_on(pictures, "--strict")
    assert isinstance(result.exception, DataError)
    assert "images/a.png: masks without an object" in str(result.exception)
    cv2.imwrite(str(pictures / "masks/b.png"), np.zeros((40, 50), np.uint8))
    result, names = trained_on(pictures)
    assert "no sample has an object" in str(result.exception)


def test_a_split_has_to_be_chosen_where_there_are_several(pictures, trained_on):
    for split in ("train", "test"):
        shutil.copytree(pictures, pictures.parent / "set" / split)
    root = pictures.parent / "set"
    result, names = trained_on(root)
    assert "has the splits test, train: choose with --split NAME" in str(result.exception)
    assert names == []
    assert trained_on(root, "--split", "train")[1] == ["train/images/a.png", "train/images/b.png"]
    assert len(trained_on(root, "--split", "all")[1]) == 4


class Speck:
    """An object of one pixel in a large picture."""

    def __init__(self):
        self.reads = 0

    def __len__(self):
        return 1

    def __getitem__(self, _):
        self.reads += 1
        rng = np.random.default_rng(3)
        mask = np.zeros((1000, 1500), np.uint8)
        mask[333, 1001] = 1
        image = cv2.resize(rng.integers(0, 255, (50, 75, 3), dtype=np.uint8), (1500, 1000))
        image[333, 1001] = 255
        return Sample("speck", image, mask)


def test_a_speck_in_a_large_picture_is_read_once_and_keeps_a_pixel():
    data = Speck()
    batches = Batches(replace(SHORT, targets=1), [data])
    for seed in range(12):
        _, masks, _, _, (left, top, width, height) = batches._real(np.random.default_rng(seed), 64)
        y, x = np.argwhere(masks[0] == 1)[0]
        if left < 0 and width > 0 and left + width <= 0:  # mirrored
            left, x = -left - width, 63 - x
        at = ((left + (x + 0.5) / 64 * width) * 1500, (top + (y + 0.5) / 64 * height) * 1000)
        assert abs(at[0] - 1001.5) <= 0.51 * width / 64 * 1500 + 1
        assert abs(at[1] - 333.5) <= 0.51 * height / 64 * 1000 + 1
    assert data.reads == 12


def test_a_part_of_a_picture_is_resampled_as_the_whole_picture_would_be():
    image = Speck()[0].image
    for scale, left, top, size in ((5.0, 300.0, 200.0, 64), (23.4, 0.0, -7.5, 64), (9.1, 900.3, 411.7, 64)):
        matrix = np.array([[scale, 0, left], [0, scale, top]])
        smooth = cv2.GaussianBlur(image, (0, 0), 0.4 * scale)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        expected = cv2.warpAffine(smooth, matrix, (size, size), flags=flags, borderValue=MEAN_BGR[::-1])
        found = _resampled(image, matrix, size)
        assert np.abs(found.astype(int) - expected).max() <= 2  # grey levels, by the order of rounding
