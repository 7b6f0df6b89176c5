"""Bundles and the gate before them: what agrees appears, what does not leaves nothing that looks finished."""

from __future__ import annotations

import hashlib
import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from graphs import exported

from inter2former_deploy.apps.cli import main
from inter2former_deploy.core.contract import ENCODER_FILE, MANIFEST_FILE
from inter2former_deploy.core.errors import BundleError, CheckpointError, ExportMismatchError, OperatorLibraryError
from inter2former_deploy.core.manifest import Manifest
from inter2former_deploy.exporters import bundle, parity
from inter2former_deploy.exporters.bundle import ExportReport, add_decoder, export_bundle, verify_bundle
from inter2former_deploy.exporters.parity import OPERATORS, PLAIN
from inter2former_deploy.families.inter2former import gate
from inter2former_deploy.families.inter2former.config import PROBE
from inter2former_deploy.families.inter2former.gate import check_parity
from inter2former_deploy.families.inter2former.modules.model import Inter2Former
from inter2former_deploy.families.pictures import PAD_RGB
from inter2former_deploy.runtime import EncodedImage, Segmenter
from inter2former_deploy.runtime.bundle import open_bundle

SIZE = 128
GRAPHS = ("encoder", "prepare", "click")
FILES = {"manifest.json", "encoder.onnx", "probe/prepare.onnx", "probe/click.onnx"}


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def graphs(probe_model: Inter2Former) -> dict[str, onnx.ModelProto]:
    return {name: exported(probe_model, name, size=SIZE) for name in GRAPHS}  # type: ignore[arg-type]


@pytest.fixture
def exported_once(graphs: dict[str, onnx.ModelProto], monkeypatch: pytest.MonkeyPatch) -> dict[str, onnx.ModelProto]:
    """The graphs that every export of this test gets, which may be changed; and a gate of a single click."""
    monkeypatch.setattr(parity, "SESSION", 1)
    monkeypatch.setattr(gate, "NOISE_DECODES", (0, 0))
    copies = {name: onnx.ModelProto() for name in graphs}
    for name, copy in copies.items():
        copy.CopyFrom(graphs[name])
    monkeypatch.setattr(bundle, "export_model", lambda _, name, **__: copies[name])
    return copies


@pytest.fixture(scope="module")
def checkpoint(probe_weights: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "probe.pth"
    torch.save({"state_dict": probe_weights}, path)
    return path


@pytest.fixture(scope="module")
def steps() -> list[str]:
    return []


@pytest.fixture(scope="module")
def export(checkpoint: Path, steps: list[str], tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    folder = tmp_path_factory.mktemp("export") / "bundle"
    return export_bundle(checkpoint, folder, size=SIZE, edge_rule="exact", num_threads=2, progress=steps.append)


def test_a_bundle_is_whole(export: ExportReport, checkpoint: Path, steps: list[str]) -> None:
    folder, manifest = export.folder, Manifest.read(export.folder)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["bundle"]  # nothing is left of the work
    assert files_of(folder) == FILES
    assert manifest == export.manifest
    assert list(manifest.decoders) == [export.decoder] == ["probe"]
    assert set(manifest.files()) == FILES - {MANIFEST_FILE}
    decoder = manifest.decoder()
    for entry in (manifest.encoder.graph, decoder.prepare, decoder.click):
        data = (folder / entry.file).read_bytes()
        assert hashlib.sha256(data).hexdigest() == entry.sha256
        onnx.checker.check_model(onnx.load(folder / entry.file), full_check=True)
        assert str(Path.cwd()).encode() not in data
        assert entry.opset == 20
    assert decoder.config == PROBE.with_decoder(edge_rule="exact").to_dict()
    stated = json.loads((folder / MANIFEST_FILE).read_text())
    assert stated["family"] == stated["decoders"]["probe"]["config"]["family"] == "inter2former"
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert decoder.weights == {"source": "checkpoint", "file": "probe.pth", "sha256": digest}
    assert manifest.size == SIZE
    assert {"torch", "onnx", "onnxruntime", "onnxscript", "python"} <= set(decoder.tools)
    assert steps[:4] == ["read weights", "export encoder", "export prepare", "export click"]
    assert any(step.startswith("verify: click") for step in steps)


def test_the_gate_compares_everything(export: ExportReport) -> None:
    report = export.parity
    assert report.passed
    assert report.backends == (PLAIN, OPERATORS)
    compared = {(check.tensor, check.backend) for check in report.checks}
    for backend in report.backends:
        decoded = ("edge_tokens", "tokens", "box", "box_logits", "masks")
        assert {(name, backend) for name in decoded} <= compared
    assert {"image_embedding", "canny_maps/thin", "edge_0", "edge_border_3", "edge_corner_1"} <= {
        x for x, _ in compared
    }
    assert not report.unreached_experts
    used = np.array([decode.decisions.experts for decode in report.decodes]).sum(0)
    assert used.shape == (2, 8)
    assert (used > 0).all()
    assert all(all(decode.tight.values()) or decode.decisions.on_tie for decode in report.decodes)
    assert any("code 0" in decode.decisions.margins for decode in report.decodes)  # not edge tokens alone
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["passed"]
    assert "image_embedding" in report.table()
    assert "FAILED" not in report.table()


def test_verify(export: ExportReport, checkpoint: Path, probe_weights: dict[str, Any], tmp_path: Path) -> None:
    assert verify_bundle(export.folder, checkpoint, custom_ops=False, num_threads=2).passed
    with pytest.raises(ValueError, match=r"was exported from probe\.pth: name that checkpoint"):
        verify_bundle(export.folder)
    other = tmp_path / "other.pth"
    torch.save({"state_dict": probe_weights, "meta": {"epoch": 3}}, other)
    with pytest.raises(ValueError, match=r"other\.pth is not the checkpoint that .* was exported from"):
        verify_bundle(export.folder, other)


def test_another_model_does_not_pass(export: ExportReport) -> None:
    other = Inter2Former(PROBE).eval()
    report = verify_bundle(export.folder, other, custom_ops=False, num_threads=2)
    assert not report.passed
    assert {"image_embedding", "tokens", "box_logits"} <= {check.tensor for check in report.failures}
    assert "FAILED" in report.table()
    assert not report.to_dict()["passed"]


def test_verify_refuses_a_changed_file(exported_once: Any, checkpoint: Path, tmp_path: Path) -> None:
    export_bundle(checkpoint, tmp_path / "bundle", size=SIZE, custom_ops=False)
    path = tmp_path / "bundle" / "probe" / "click.onnx"
    path.write_bytes(path.read_bytes() + b"\0\0")
    with pytest.raises(BundleError, match=r"click\.onnx is missing or is not the file"):
        verify_bundle(tmp_path / "bundle", checkpoint)


def scale(graph: onnx.ModelProto, name: str, factor: float) -> None:
    (weight,) = [x for x in graph.graph.initializer if x.name == name]
    values = onnx.numpy_helper.to_array(weight) * np.float32(factor)
    weight.CopyFrom(onnx.numpy_helper.from_array(values, name))


@pytest.mark.parametrize(
    ("name", "weight", "tensor"),
    [
        ("encoder", "backbone.out_conv.2.weight", "image_embedding"),
        ("prepare", "edge_detector.conv1.bias", "edge_0"),
        ("click", "neck.blocks.1.o_proj.bias", "tokens"),
        ("click", "decode_head.upsamplers.3.conv.bias", "box_logits"),
    ],
)
def test_a_graph_that_differs_leaves_no_bundle(
    exported_once: dict[str, onnx.ModelProto], checkpoint: Path, tmp_path: Path, name: str, weight: str, tensor: str
) -> None:
    scale(exported_once[name], weight, 1.01)
    words = r"differ from PyTorch: .* error .*, at most .* against float64, .* What to try: .*--keep-failed"
    with pytest.raises(ExportMismatchError, match=words) as caught:
        export_bundle(checkpoint, tmp_path / "bundle", size=SIZE, custom_ops=False)
    assert tensor in {check.tensor for check in caught.value.report.failures}  # type: ignore[attr-defined]
    assert list(tmp_path.iterdir()) == []


def test_failed_graphs_may_be_kept(
    exported_once: Any, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scale(exported_once["click"], "neck.blocks.1.o_proj.bias", 2)
    with pytest.raises(ExportMismatchError):
        export_bundle(checkpoint, tmp_path / "bundle", size=SIZE, custom_ops=False, keep_failed=True)
    failed = tmp_path / "bundle.failed"
    assert list(tmp_path.iterdir()) == [failed]
    report = verify_bundle(failed, checkpoint, custom_ops=False)
    assert "tokens" in {check.tensor for check in report.failures}
    assert Manifest.read(failed).decoder().failed
    assert open_bundle(failed, failed=True).manifest.decoder().parity["passed"] is False  # type: ignore[index]
    with pytest.raises(BundleError, match="failed its comparison with PyTorch when it was exported"):
        open_bundle(failed)
    for command, code, word in (
        (("info", failed), 0, "failed"),
        (("verify", failed, "--checkpoint", checkpoint, "--no-custom-ops"), 1, "tokens"),
    ):
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in command])
        assert (end.value.code or 0) == code
        assert word in capsys.readouterr().out


def test_an_old_bundle_stays_until_a_new_one_has_passed(exported_once: Any, checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    export_bundle(checkpoint, folder, size=SIZE, custom_ops=False)
    before = {path: path.read_bytes() for path in folder.rglob("*.*")}
    with pytest.raises(FileExistsError, match="replace it with --force"):
        export_bundle(checkpoint, folder, size=SIZE, custom_ops=False)

    scale(exported_once["click"], "neck.blocks.1.o_proj.bias", 2)
    with pytest.raises(ExportMismatchError):
        export_bundle(checkpoint, folder, size=SIZE, custom_ops=False, force=True)
    assert {path: path.read_bytes() for path in folder.rglob("*.*")} == before

    scale(exported_once["click"], "neck.blocks.1.o_proj.bias", 0.5)
    report = export_bundle(checkpoint, folder, size=SIZE, custom_ops=False, force=True)
    assert list(tmp_path.iterdir()) == [folder]
    assert Manifest.read(folder) == report.manifest


def test_a_library_without_an_operator_is_not_taken_for_whole(
    graphs: dict[str, onnx.ModelProto], probe_model: Inter2Former, tmp_path: Path
) -> None:
    """Its function body would run instead, and pass."""
    click = onnx.ModelProto()
    click.CopyFrom(graphs["click"])
    for part in (click.graph.node, click.functions):
        for entry in part:
            if "TokenBox" in (getattr(entry, "op_type", ""), entry.name):
                setattr(entry, "op_type" if hasattr(entry, "op_type") else "name", "TokenBoxes")
    paths = []
    for name, graph in (graphs | {"click": click}).items():
        paths.append(tmp_path / f"{name}.onnx")
        onnx.save(graph, paths[-1])
    with pytest.raises(OperatorLibraryError, match=r"does not run click\.onnx .*TokenBoxes"):
        check_parity(probe_model, *paths, size=SIZE)


@pytest.mark.parametrize("force", [False, True])
def test_other_folders_are_not_touched(tmp_path: Path, force: bool) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is no bundle: name another folder"):
        export_bundle(None, tmp_path, config=PROBE, size=SIZE, force=force)
    with pytest.raises(FileExistsError, match="is no bundle"):
        export_bundle(None, tmp_path / "notes.txt", config=PROBE, size=SIZE, force=force)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        export_bundle(None, tmp_path / "no" / "bundle", config=PROBE, size=SIZE, force=force)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 100}, "size must be a positive multiple of 16, got 100"),
        ({"size": 0}, "size must be a positive multiple of 16, got 0"),
        ({"opset": 17}, "opset must be 18 to"),
        ({"edge_rule": "all"}, "edge_rule must be one of \\('released', 'exact'\\), got 'all'"),
    ],
)
def test_bad_settings(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        export_bundle(None, tmp_path / "bundle", config=PROBE, **{"size": SIZE, **settings})
    assert list(tmp_path.iterdir()) == []


def test_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a file"):
        export_bundle(tmp_path / "none.pth", tmp_path / "bundle", size=SIZE)


def test_synthetic_weights_are_made_again(
    tmp_path: Path, probe_model: Inter2Former, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "SESSION", 1)
    monkeypatch.setattr(gate, "NOISE_DECODES", (0, 0))
    report = export_bundle(None, tmp_path / "bundle", config=PROBE, size=SIZE, seed=5, custom_ops=False)
    assert report.manifest.decoder().weights == {"source": "synthetic", "seed": 5}
    assert verify_bundle(tmp_path / "bundle", custom_ops=False).passed
    assert not verify_bundle(tmp_path / "bundle", probe_model, custom_ops=False).passed


@pytest.mark.parametrize("threads", [1, 2])
def test_the_gates_picture_is_as_flat_as_its_padding(probe_model: Inter2Former, threads: int) -> None:
    """PyTorch resizes by another kernel on one thread, and the edge network sees the direction of any rounding."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            picture = gate.Gate(probe_model, 512).image
    finally:
        torch.set_num_threads(before)
    height, width, _ = parity.load_photograph().shape
    scale = 512 / 768
    assert (picture[int(scale * height) + 2 :] == np.float32(PAD_RGB)).all()
    assert (picture[:, int(scale * width) + 2 :] == np.float32(PAD_RGB)).all()


def test_inline_forms_stand_beside_the_graphs(
    tmp_path: Path, probe_model: Inter2Former, exported_once: dict[str, onnx.ModelProto]
) -> None:
    for inline in (True, False):
        report = export_bundle(probe_model, tmp_path / "bundle", size=SIZE, inline=inline, num_threads=2, force=True)
        forms = {name.replace(".onnx", ".inline.onnx") for name in FILES - {MANIFEST_FILE}}
        assert files_of(report.folder) == FILES | (forms if inline else set())
        manifest = Manifest.read(report.folder)
        assert manifest == report.manifest
        for entry in (manifest.encoder.graph, manifest.decoder().prepare, manifest.decoder().click):
            assert (entry.inline_file is not None) == inline
            if entry.inline_file is not None:
                data = (report.folder / entry.inline_file).read_bytes()
                assert hashlib.sha256(data).hexdigest() == entry.inline_sha256
                assert not onnx.load_model_from_string(data).functions
        if inline:
            (report.folder / "probe" / "click.inline.onnx").write_bytes(b"")
            with pytest.raises(BundleError, match=r"click\.inline\.onnx is missing or is not the file"):
                verify_bundle(report.folder, probe_model)


def test_weights_of_large_graphs_lie_beside_them(
    tmp_path: Path, probe_model: Inter2Former, graphs: dict[str, onnx.ModelProto], monkeypatch: pytest.MonkeyPatch
) -> None:
    def written(name: str, at_least: int, factor: float = 1) -> Path:
        (tmp_path / name).mkdir()
        with monkeypatch.context() as changed:
            changed.setattr(bundle, "export_model", lambda _, graph, **__: deepcopy(graphs[graph]))
            changed.setattr(bundle, "APART_FROM", at_least)
            scale(graphs["encoder"], "backbone.blocks.0.mlp.fc1.weight", factor)
            bundle.write_bundle(tmp_path / name, probe_model, size=SIZE, inline=True)
            scale(graphs["encoder"], "backbone.blocks.0.mlp.fc1.weight", 1 / factor)
        return tmp_path / name

    within, apart = written("within", bundle.APART_FROM), written("apart", 1 << 19)
    graph = Manifest.read(apart).encoder.graph
    assert Manifest.read(within).encoder.graph.weights_file is None
    assert graph.weights_file == "encoder.weights"
    weights = (apart / "encoder.weights").read_bytes()
    assert graph.weights_sha256 == hashlib.sha256(weights).hexdigest()
    assert (apart / "encoder.onnx").stat().st_size + len(weights) < 1.2 * (within / "encoder.onnx").stat().st_size

    # Every tensor is there, at a page of its own; tools that load the graph find it, in both forms.
    stored = onnx.load(apart / "encoder.onnx", load_external_data=False).graph.initializer
    offsets = {int(entry.value) for x in stored for entry in x.external_data if entry.key == "offset"}
    assert len(offsets) > 10
    assert all(offset % 4096 == 0 for offset in offsets)
    for file in ("encoder.onnx", "encoder.inline.onnx"):
        both = [
            {x.name: onnx.numpy_helper.to_array(x) for x in onnx.load(f / file).graph.initializer}
            for f in (within, apart)
        ]
        assert both[0].keys() == both[1].keys()
        assert all(np.array_equal(value, both[1][name]) for name, value in both[0].items())

    # The same masks; what is encoded belongs to the weights.
    image, segmenter = parity.load_photograph(), Segmenter(apart)
    np.testing.assert_array_equal(segmenter.open(image).click(285, 190), Segmenter(within).open(image).click(285, 190))
    others = Manifest.read(written("other", 1 << 19, 2))
    assert others.encoder_id != Manifest.read(apart).encoder_id
    assert others.model_id(others.decoder()) != segmenter.bundle.manifest.model_id(segmenter.bundle.manifest.decoder())

    (apart / "encoder.weights").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    with pytest.raises(BundleError, match=r"encoder\.weights is not the file that manifest\.json was written for"):
        Segmenter(apart)
    (apart / "encoder.weights").unlink()
    with pytest.raises(BundleError, match=r"lacks encoder\.weights"):
        Segmenter(apart)


def with_other_decoder(model: Inter2Former) -> Inter2Former:
    other = deepcopy(model)
    with torch.no_grad():
        other.decode_head.upsamplers[3].conv.bias += 0.5
    return other


def test_a_decoder_is_added_to_a_bundle_and_replaced(
    tmp_path: Path, probe_model: Inter2Former, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "SESSION", 1)
    monkeypatch.setattr(gate, "NOISE_DECODES", (0, 0))
    monkeypatch.setattr(bundle, "export_model", exported)
    folder, settings = tmp_path / "bundle", {"custom_ops": False, "num_threads": 1}
    export_bundle(probe_model, folder, size=SIZE, **settings)  # type: ignore[arg-type]
    image = parity.load_photograph()
    before = Segmenter(folder, custom_ops=False)
    before.encode(image).save(tmp_path / "saved.safetensors")
    mask = before.open(image).click(285, 190)
    first = {path.name: path.read_bytes() for path in (folder / "probe").iterdir()}
    encoder = (folder / ENCODER_FILE).read_bytes()

    other = with_other_decoder(probe_model)
    report = add_decoder(other, folder, name="other", **settings)  # type: ignore[arg-type]
    assert list(Manifest.read(folder).decoders) == ["probe", "other"]
    assert report.manifest == Manifest.read(folder)
    assert files_of(folder) == FILES | {"other/prepare.onnx", "other/click.onnx"}
    assert {path.name: path.read_bytes() for path in (folder / "probe").iterdir()} == first
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["bundle"]
    encoded = EncodedImage.load(tmp_path / "saved.safetensors")
    masks = {
        name: Segmenter(folder, decoder=name, custom_ops=False).open(encoded).click(285, 190)
        for name in ("probe", "other")
    }
    np.testing.assert_array_equal(masks["probe"], mask)
    assert masks["other"].sum() > masks["probe"].sum()
    assert verify_bundle(folder, other, decoder="other", **settings).passed  # type: ignore[arg-type]
    assert not verify_bundle(folder, other, **settings).passed  # type: ignore[arg-type]

    add_decoder(other, folder, **settings)  # type: ignore[arg-type]
    assert list(Manifest.read(folder).decoders) == ["probe", "other"]
    assert (folder / ENCODER_FILE).read_bytes() == encoder
    np.testing.assert_array_equal(Segmenter(folder, custom_ops=False).open(encoded).click(285, 190), masks["other"])


def test_a_decoder_over_another_encoder_is_refused(
    tmp_path: Path, probe_model: Inter2Former, exported_once: dict[str, onnx.ModelProto]
) -> None:
    folder = tmp_path / "bundle"
    export_bundle(probe_model, folder, size=SIZE, custom_ops=False)
    before = {path: path.read_bytes() for path in folder.rglob("*.*")}
    other = deepcopy(probe_model)
    with torch.no_grad():
        other.backbone.out_conv[0].weight[0, 0] += 1e-6
    with pytest.raises(ValueError, match=r"the encoder of this model is not that of .*: their weights differ"):
        add_decoder(other, folder, name="other", custom_ops=False)
    with pytest.raises(ValueError, match=r"a decoder's name must be .*, got '\.\./other'"):
        add_decoder(probe_model, folder, name="../other", custom_ops=False)
    scale(exported_once["click"], "neck.blocks.1.o_proj.bias", 2)
    with pytest.raises(ExportMismatchError):
        add_decoder(probe_model, folder, name="other", custom_ops=False)
    assert {path: path.read_bytes() for path in folder.rglob("*.*")} == before
