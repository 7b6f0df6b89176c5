"""HRSAM through the same commands: from the file of a checkpoint to a bundle that is verified and measured."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from inter2former_deploy.apps.bench import sessions
from inter2former_deploy.exporters import agreement, parity
from inter2former_deploy.families.checkpoint import synthetic_state_dict
from inter2former_deploy.families.hrsam.config import HRSAM_PROBE, HRSAMPP_PROBE, HRSAMConfig

SIZE = 64


def save_checkpoint(config: HRSAMConfig, path: Path) -> Path:
    """As it is released: names nothing of the configuration, which the entries tell."""
    torch.save({"meta": {"iter": 40_000}, "state_dict": synthetic_state_dict(config)}, path)
    return path


def test_a_checkpoint_in_int8(i2f: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """HRSAM++ with its state-space modules: exported, described, verified against the file, measured."""
    monkeypatch.setattr(agreement, "CLICKS", parity.CLICKS[:2])
    monkeypatch.setattr(agreement, "pictures_for", lambda _: 2)
    checkpoint, bundle = save_checkpoint(HRSAMPP_PROBE, tmp_path / "iter_40000.pth"), tmp_path / "bundle"
    options = ("--size", SIZE, "--precision", "int8", "--min-iou", 0.2, "--threads", 1)
    done = i2f("export", checkpoint, "-o", bundle, *options)
    assert done.code == 0, done.err
    assert "int8 masks against fp32 (with operators): mean IoU" in done.out

    manifest = json.loads(i2f("info", bundle, "--json").out)
    assert manifest["family"] == "hrsam"
    (decoder,) = manifest["decoders"].values()
    assert decoder["weights"]["file"] == checkpoint.name
    # Four layers a block, three a state-space module, one a lateral layer for each map.
    stages, depth = len(HRSAMPP_PROBE.encoder.fusion_after), HRSAMPP_PROBE.encoder.depth
    assert decoder["agreement"]["layers"] == 4 * depth + 3 * 2 * stages + 2 * stages
    assert 0.2 <= decoder["agreement"]["mean_iou"] < 1
    told = dict(re.split(r" {2,}", line, maxsplit=1) for line in i2f("info", bundle).out.splitlines())
    assert told["encoder"].startswith("hrsampp_probe, int8, ")
    assert told["parity"].startswith("passed")

    judged = {check["tensor"] for check in decoder["parity"]["checks"]}
    assert judged >= {"image_embedding", "image_embedding in int8", "logits", "masks"}
    opened = {
        name: load.function(**load.arguments)()  # as the workers of i2f bench session call them
        for name, load in sessions.workloads(bundle, None, checkpoint).items()
    }
    assert opened.keys() == {f"{name} {part}" for name in ("library", "plain", "torch") for part in ("open", "clicks")}


def test_the_baseline_without_state_space_modules(i2f: Callable[..., Any], tmp_path: Path) -> None:
    checkpoint = save_checkpoint(HRSAM_PROBE.without_state_space(), tmp_path / "baseline.pth")
    done = i2f("export", checkpoint, "-o", tmp_path / "bundle", "--size", SIZE, "--threads", 1)
    assert done.code == 0, done.err
    assert " hrsam_probe without state-space modules\n" in i2f("info", tmp_path / "bundle").out
    done = i2f("verify", tmp_path / "bundle", "--checkpoint", checkpoint, "--threads", 1)
    assert done.code == 0, done.out
    assert done.out.endswith("all within limits\n")
    other = save_checkpoint(HRSAM_PROBE.without_state_space(), tmp_path / "other.pth")
    done = i2f("verify", tmp_path / "bundle", "--checkpoint", other)
    assert "is not the checkpoint that the bundle was exported from: their SHA-256 differ" in done.err
