from __future__ import annotations

import json
import math
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import pytest
import torch

from inter2former_deploy.apps.cli import info
from inter2former_deploy.apps.cli.stopping import Stopped
from inter2former_deploy.core.errors import CheckpointError, ExportMismatchError
from inter2former_deploy.exporters import bundle as exporter
from inter2former_deploy.exporters.agreement import AgreementReport
from inter2former_deploy.exporters.parity import ParityReport, load_photograph
from inter2former_deploy.families.checkpoint import synthetic_state_dict
from inter2former_deploy.families.inter2former.config import PROBE
from inter2former_deploy.families.inter2former.modules.model import Inter2Former

SIZE = 128


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the probe model."""
    folder = tmp_path_factory.mktemp("export") / "bundle"
    exporter.export_bundle(None, folder, config=PROBE, size=SIZE, edge_rule="exact", num_threads=2)
    return folder


def test_info_and_segment(i2f: Callable[..., Any], exported: Path, tmp_path: Path) -> None:
    info = i2f("info", exported)
    lines = [line.split(maxsplit=1) for line in info.out.splitlines()]
    told = dict(lines)
    assert "edge rule exact" in told["model"]
    assert told["encoder"].startswith("probe, fp32, ")
    assert told["decoder"] == "probe"
    assert told["parity"].startswith("passed")
    photo, mask = tmp_path / "photo.png", tmp_path / "mask.png"
    cv2.imwrite(str(photo), load_photograph()[..., ::-1])
    done = i2f("segment", exported, photo, "--fg", "285,190", "--bg", "60,60", "-o", mask)
    assert done.code == 0, done.err
    assert cv2.imread(str(mask), cv2.IMREAD_UNCHANGED).shape == (400, 600)


def test_verify(i2f: Callable[..., Any], exported: Path) -> None:
    done = i2f("verify", exported, "--threads", 2)
    assert done.code == 0, done.err
    for word in ("image_embedding", "box_logits", "masks", "with operators", "all within limits"):
        assert word in done.out
    assert "click 1" in done.err


def test_verify_finds_what_differs(i2f: Callable[..., Any], exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = exporter.load_weights
    monkeypatch.setattr(exporter, "load_weights", lambda checkpoint, **options: load(None, **(options | {"seed": 8})))
    done = i2f("verify", exported, "--no-custom-ops", "--threads", 2, "--json")
    assert done.code == 1
    report = json.loads(done.out)
    assert report["passed"] is False
    assert report["backends"] == ["onnxruntime"]


def test_what_was_done_to_a_checkpoint_is_said(
    i2f: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """While it is exported; `info` finds it in the manifest, see test_main.py."""
    path = tmp_path / "wrapped.pth"
    torch.save({"model": {f"module.{n}": t for n, t in synthetic_state_dict(PROBE).items()}}, path)

    def stop(*arguments: Any, **options: Any) -> None:
        raise ValueError("far enough")

    monkeypatch.setattr(exporter, "export_model", stop)
    done = i2f("export", path, "-o", tmp_path / "bundle", "--size", SIZE)
    assert "] wrapped.pth: the weights lie under ['model']\n" in done.err
    assert "] wrapped.pth: taken off the names of its entries: module.\n" in done.err


def test_weights_that_are_no_numbers_stop_an_export_before_it_starts(
    i2f: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    state = synthetic_state_dict(PROBE)
    state["neck.ref_embeds.weight"][0, 0] = math.nan
    torch.save(state, tmp_path / "broken.pth")
    monkeypatch.setattr(exporter, "export_model", lambda *_, **__: pytest.fail("exported"))
    done = i2f("export", tmp_path / "broken.pth", "-o", tmp_path / "bundle", "--size", SIZE)
    assert done.code == 2
    assert "neck.ref_embeds.weight (1 of 25 NaN)" in done.err
    assert "export encoder" not in done.err
    model = Inter2Former(PROBE)
    model.load_state_dict(state)
    with pytest.raises(CheckpointError, match=r"the model holds weights that are no numbers: neck\.ref_embeds"):
        exporter.load_weights(model)


def test_a_mismatch_exits_with_one_and_shows_the_table(
    i2f: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    report = ParityReport(size=SIZE, backends=(), checks=(), tools={})
    monkeypatch.setattr(ParityReport, "table", lambda self: "the table")

    def fail(*arguments: Any, **options: Any) -> None:
        raise ExportMismatchError("the exported graphs differ", report)

    monkeypatch.setattr(exporter, "export_bundle", fail)
    done = i2f("export", "-o", tmp_path / "bundle")
    assert (done.code, done.out) == (1, "the table\n")
    assert done.err.endswith("i2f: the exported graphs differ\n")


def test_options_reach_the_exporter(i2f: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: dict[str, Any] = {}

    def record(checkpoint: Path | None, folder: Path, **options: Any) -> SimpleNamespace:
        given.update(options, checkpoint=checkpoint, folder=folder)
        return SimpleNamespace(folder=folder, decoder="x", parity=SimpleNamespace(checks=[]), agreement=None)

    monkeypatch.setattr(exporter, "export_bundle", record)
    monkeypatch.setattr(exporter, "add_decoder", record)
    monkeypatch.chdir(tmp_path)
    Path("weights.pth").touch()
    words = "export weights.pth -o out --name mine --size 512 --edge-rule exact --config probe --opset 21 --force "
    words += "--keep-failed --decoder-precision bf16"
    assert i2f(*words.split(), "--threads", 3, "--no-custom-ops", "--precision", "int8", "--min-iou", 0.9).code == 0
    given.pop("progress")
    assert given == {
        "checkpoint": Path("weights.pth"),
        "folder": Path("out"),
        "name": "mine",
        "config": PROBE,
        "size": 512,
        "edge_rule": "exact",
        "inline": False,
        "opset": 21,
        "precision": "int8",
        "decoder_precision": "bf16",
        "min_iou": 0.9,
        "force": True,
        "keep_failed": True,
        "num_threads": 3,
        "custom_ops": False,
    }
    size, precision, force = given.pop("size"), given.pop("precision"), given.pop("force")
    assert (size, precision, force) == (512, "int8", True)
    before = dict(given)
    words = words.replace("-o out", "--into out").replace("--size 512 ", "").replace("--force ", "")
    assert i2f(*words.split(), "--threads", 3, "--no-custom-ops", "--min-iou", 0.9).code == 0
    given.pop("progress")
    assert given == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "100"], "size must be a positive multiple of 16, got 100"),
        (["--opset", "3"], "opset"),
        (["--min-iou", "0.9"], "min_iou is a limit of reduced precision"),
        (["--config", "no.json"], "no.json is neither a preset"),
        (["no.pth"], "no.pth"),
    ],
)
def test_bad_input(i2f: Callable[..., Any], tmp_path: Path, arguments: list[str], message: str) -> None:
    done = i2f("export", "-o", tmp_path / "bundle", "--config", "probe", *arguments)
    assert done.code == 2
    assert done.err.splitlines()[-1].startswith("i2f: ")
    assert message in done.err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "there"], "there exists: replace it with --force or name another folder"),
        (["-o", "other", "--force"], "other exists and is no bundle: name another folder"),
        (["-o", "no/bundle"], "there is no folder no"),
        ([], "name a folder to make with -o DIR, or a bundle to add the decoder to with --into BUNDLE"),
        (["-o", "new", "--into", "there"], "name a folder to make with -o DIR, or a bundle"),
        (["--into", "there", "--size", "512"], "--size, --precision and --force are not for --into"),
        (["-o", "new", "no.pth"], "there is no checkpoint no.pth"),
        (["-o", "new", "--config", "no.json"], "no.json is neither a preset"),
    ],
)
def test_what_can_be_known_is_said_before_pytorch_is_loaded(
    i2f: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, file in [("there", "manifest.json"), ("other", "notes.txt")]:
        Path(name).mkdir()
        Path(name, file).touch()
    done = i2f("export", *arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("i2f: ")  # no step before it
    assert message in done.err


def test_the_disk_is_looked_at_before_the_export(
    i2f: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise AssertionError("the export began")

    monkeypatch.setattr(exporter, "export_model", fail)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=30_000_000))
    done = i2f("export", "-o", tmp_path / "bundle", "--config", "probe", "--size", SIZE)
    assert done.code == 2
    assert "i2f: the bundle needs about 0.0" in done.err
    assert "0.03 GB are free: make room or name another folder" in done.err
    assert list(tmp_path.iterdir()) == []


def test_who_is_stopped_between_two_bundles_has_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, working = tmp_path / "bundle", tmp_path / ".bundle.new"
    for place, text in [(folder, "old"), (working, "new")]:
        place.mkdir()
        (place / "manifest.json").write_text(text)
    replace = Path.replace

    def stop(self: Path, target: Path) -> Path:
        if self == working:
            raise Stopped(signal.SIGTERM)
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", stop)
        with pytest.raises(Stopped):
            exporter._move_into_place(working, folder)
    assert (folder / "manifest.json").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".bundle.new", "bundle"]
    exporter._move_into_place(working, folder)
    assert (folder / "manifest.json").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_bundle_that_is_there_stays(i2f: Callable[..., Any], exported: Path) -> None:
    done = i2f("export", "-o", exported, "--config", "probe")
    assert (done.code, done.out) == (2, "")
    assert done.err.endswith(f"i2f: {exported} exists: replace it with --force or name another folder\n")


def test_info_of_reduced_precision() -> None:
    measured = {"precision": "int8", "mean_iou": 0.99417, "clicks": 198, "min_iou": 0.99}
    text = "int8, masks agree with fp32 to a mean IoU of 0.9942 over 198 clicks (0.99 was asked for)"
    assert info._agreement(measured) == text


def test_masks_that_differ_exit_with_one_and_say_what_to_do(
    i2f: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    report = AgreementReport(
        precision="int8",
        backend="with operators",
        edges="bf16",
        layers=24,
        images=20,
        clicks=198,
        mean_iou=0.9731,
        session_iou=0.9,
        min_iou=0.99,
        worst={"drawn 6": 0.9},
        embedding_error=0.02,
        seconds=1.0,
    )

    def fail(*arguments: Any, **options: Any) -> None:
        raise ExportMismatchError(report.failure(), report)

    monkeypatch.setattr(exporter, "export_bundle", fail)
    done = i2f("export", "-o", tmp_path / "bundle", "--precision", "int8")
    assert done.code == 1
    assert "mean IoU 0.9731 over 198 clicks on 20 pictures, at least 0.99 asked for: FAILED" in done.out
    assert "export with --precision bf16 or without it, or choose the limit with --min-iou" in done.err
