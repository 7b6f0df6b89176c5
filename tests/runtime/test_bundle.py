from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from toy_bundle import add_toy_decoder, write_toy_bundle

from inter2former_deploy.core.files import check_new_bundle
from inter2former_deploy.core.library import LIBRARY_VARIABLE
from inter2former_deploy.runtime import BundleError, OperatorLibraryError, Segmenter


def edit(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Damage that changes the manifest."""

    def damage(folder: Path) -> None:
        path = folder / "manifest.json"
        manifest = json.loads(path.read_text())
        change(manifest)
        path.write_text(json.dumps(manifest))

    return damage


def another_decoder(folder: Path) -> None:
    other = write_toy_bundle(folder.parent / "other", gain=1 / 16)
    (other / "toy" / "click.onnx").replace(folder / "toy" / "click.onnx")


def flip_a_bit(folder: Path) -> None:
    path = folder / "encoder.onnx"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "encoder.onnx").unlink(), r"no whole bundle, it lacks encoder\.onnx: copy all of it"),
        (
            lambda folder: (folder / "toy" / "prepare.onnx").unlink(),
            r"no whole bundle, it lacks toy/prepare\.onnx: copy",
        ),
        (lambda folder: (folder / "manifest.json").unlink(), r"it lacks manifest\.json.*export again"),
        (lambda folder: (folder / "manifest.json").write_text("{"), r"manifest\.json cannot be read"),
        (flip_a_bit, r"encoder\.onnx is not the file that manifest\.json was written for.*copy the whole bundle again"),
        (another_decoder, r"click\.onnx is not the file.*from another export"),
        (edit(lambda m: m.update(schema_version=99)), "has schema 99.*update inter2former-deploy"),
        (
            edit(lambda m: m.update(schema_version=4)),
            r"has schema 4, .* an older version wrote .*: i2f export CHECKPOINT -o .*/bundle --force",
        ),
        (edit(lambda m: m["operator_domain"].update(version=3)), "operators.*'version': 3.*update inter2former-deploy"),
        (edit(lambda m: m["preprocessing"].update(pad_multiple=128)), "another preprocessing"),
        (edit(lambda m: m.pop("preprocessing")), "is damaged .*preprocessing"),
        (edit(lambda m: m["prompts"]["labels"].update(start=1)), "another handling of prompts"),
        (edit(lambda m: m["prompts"]["labels"]["click"].update(radius=3)), "another handling of prompts"),
        (edit(lambda m: m["postprocessing"].update(threshold=1)), "another postprocessing"),
        (edit(lambda m: m.update(family="sam9")), r"must be one of .*, got 'sam9'.*update inter2former-deploy"),
        (
            edit(lambda m: m["decoders"]["toy"].update(config={"name": 3})),
            "is not for this package .*unknown or invalid",
        ),
        (edit(lambda m: m.update(decoders={})), "is damaged .*there is no decoder"),
        (
            edit(lambda m: m["encoder"]["graph"].update(file="../x.onnx")),
            r"is damaged .*'\.\./x\.onnx' is no name of a graph",
        ),
        (edit(lambda m: m["encoder"].update(kept=["tokens"])), "kept names tokens"),
        (edit(lambda m: m.pop("size")), r"manifest\.json is damaged"),
    ],
)
def test_bundles_that_are_refused(toy_bundle: Path, damage: Callable[[Path], None], message: str) -> None:
    Segmenter(toy_bundle, custom_ops=False)
    damage(toy_bundle)
    with pytest.raises(BundleError, match=message):
        Segmenter(toy_bundle, custom_ops=False)


def test_no_bundle_at_all(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no bundle .*/nowhere: make one with i2f export"):
        Segmenter(tmp_path / "nowhere")


def test_a_graph_with_other_tensors_than_the_manifest_states(tmp_path: Path) -> None:
    folder = write_toy_bundle(tmp_path / "bundle", click_names={"labels": "label_map"})
    message = r"click\.onnx has other inputs than manifest\.json states: labels: none, not tensor\(uint8\) \[64, 64\]; "
    with pytest.raises(BundleError, match=message):
        Segmenter(folder, custom_ops=False)


@pytest.mark.parametrize(
    ("graph", "side", "tensor", "change", "message"),
    [
        # What the manifest says does not fit together.
        ("click", "inputs", "labels", {"type": "int64"}, r"takes labels, int64 \[64, 64\], which nobody gives"),
        ("click", "inputs", "labels", {"sizes": [32, 32]}, r"takes labels, uint8 \[32, 32\], which nobody gives"),
        ("click", "inputs", "edge_3", {"sizes": [64, 64, 2]}, r"takes edge_3, .*, which nobody gives"),
        ("click", "outputs", "box", {"sizes": [5]}, r"does not give box, int64 \[4\]"),
        ("click", "inputs", "memory", {"type": "uint8", "sizes": [1]}, "takes memory, .* which nobody gives"),
        # It does, but is not true.
        (
            "prepare",
            "outputs",
            "edge_0",
            {"sizes": [9, 9, 9]},
            r"prepare\.onnx .*edge_0: .*\[1, 1, 1\], not .*\[9, 9, 9\]",
        ),
        ("click", "outputs", "score", {"type": "float32", "sizes": []}, r"click\.onnx .*score: none, not "),
        # It makes no sense.
        (
            "click",
            "outputs",
            "box",
            {"type": "complex"},
            "is damaged .*tensor box of toy/click.onnx has the type 'complex'",
        ),
        ("prepare", "outputs", "edge_0", {"sizes": None}, r"manifest\.json is damaged"),
    ],
)
def test_a_manifest_that_lies_about_tensors(
    toy_bundle: Path, graph: str, side: str, tensor: str, change: dict[str, Any], message: str
) -> None:
    def lie(manifest: dict[str, Any]) -> None:
        graphs = manifest["decoders"]["toy"]
        graphs[graph][side].setdefault(tensor, {}).update(change)
        if (graph, tensor) == ("prepare", "edge_0"):
            graphs["click"]["inputs"][tensor].update(change)

    edit(lie)(toy_bundle)
    with pytest.raises(BundleError, match=message):
        Segmenter(toy_bundle, custom_ops=False)


def test_a_bundle_of_the_version_before_is_told_what_to_do(tmp_path: Path) -> None:
    """It had two graphs; its manifest said nothing of decoders."""
    for name in ("encoder.onnx", "decoder.onnx"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "manifest.json").write_text('{"schema_version": 4, "size": 64, "files": {}, "tensors": {}}')
    with pytest.raises(
        BundleError, match="an older version wrote this bundle; export it again: i2f export CHECKPOINT -o"
    ):
        Segmenter(tmp_path, custom_ops=False)
    check_new_bundle(tmp_path, force=True)  # which may replace it


def test_two_decoders_over_one_encoder(toy_bundle: Path) -> None:
    image = np.random.default_rng(1).integers(0, 256, (200, 150, 3), np.uint8)
    first = Segmenter(toy_bundle, custom_ops=False)
    encoded, before = first.encode(image), first.open(image).click(100, 160)
    add_toy_decoder(toy_bundle, "sharp", gain=1 / 2)
    sharp = Segmenter(toy_bundle, decoder="sharp", custom_ops=False)
    assert sharp.bundle.manifest.encoder_id == first.bundle.manifest.encoder_id
    masks = [sharp.open(each).click(100, 160) for each in (image, encoded)]
    np.testing.assert_array_equal(*masks)
    assert (masks[0] != before).any()
    np.testing.assert_array_equal(Segmenter(toy_bundle, custom_ops=False).open(encoded).click(100, 160), before)
    copy = pickle.loads(pickle.dumps(sharp.open(encoded)))
    np.testing.assert_array_equal(copy.click(100, 160), masks[0])
    with pytest.raises(ValueError, match="has no decoder 'blunt'; it has toy, sharp"):
        Segmenter(toy_bundle, decoder="blunt", custom_ops=False)


def test_a_decoder_that_failed_does_not_stand_in_the_way_of_another(toy_bundle: Path) -> None:
    add_toy_decoder(toy_bundle, "other", gain=1)
    edit(lambda m: m["decoders"]["other"].update(parity={"passed": False}))(toy_bundle)
    Segmenter(toy_bundle, custom_ops=False)
    with pytest.raises(BundleError, match="failed its comparison with PyTorch"):
        Segmenter(toy_bundle, decoder="other", custom_ops=False)


def test_missing_library(toy_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIBRARY_VARIABLE, str(toy_bundle / "no.so"))
    with pytest.raises(OperatorLibraryError, match=rf"{LIBRARY_VARIABLE} names .*no\.so, which is no file"):
        Segmenter(toy_bundle)
    Segmenter(toy_bundle, custom_ops=False)


def test_library_that_does_not_load(toy_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = toy_bundle / "broken.so"
    broken.write_bytes(b"not a library")
    monkeypatch.setenv(LIBRARY_VARIABLE, str(broken))
    with pytest.raises(OperatorLibraryError, match=r"broken\.so does not load.*custom_ops=False"):
        Segmenter(toy_bundle)


def test_installation_without_library(toy_bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(LIBRARY_VARIABLE, raising=False)
    elsewhere = SimpleNamespace(locate_file=lambda name: tmp_path / name)
    monkeypatch.setattr("inter2former_deploy.core.library.distribution", lambda package: elsewhere)
    with pytest.raises(OperatorLibraryError, match=r"has no operator library.*reinstall"):
        Segmenter(toy_bundle)
