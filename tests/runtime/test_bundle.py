from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from toy_bundle import write_toy_bundle

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
    (other / "decoder.onnx").replace(folder / "decoder.onnx")


def flip_a_bit(folder: Path) -> None:
    path = folder / "encoder.onnx"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "encoder.onnx").unlink(), r"no whole bundle, it lacks encoder\.onnx: copy all of it"),
        (lambda folder: (folder / "manifest.json").unlink(), r"it lacks manifest\.json.*export again"),
        (lambda folder: (folder / "manifest.json").write_text("{"), r"manifest\.json cannot be read"),
        (flip_a_bit, r"encoder\.onnx is not the file that manifest\.json was written for.*copy the whole bundle again"),
        (another_decoder, r"decoder\.onnx is not the file.*from another export"),
        (edit(lambda m: m.update(schema_version=99)), "has schema 99.*update inter2former-deploy"),
        (edit(lambda m: m.update(schema_version=3)), "has schema 3.*export it again with this version"),
        (edit(lambda m: m["operator_domain"].update(version=3)), "operators.*'version': 3.*update inter2former-deploy"),
        (edit(lambda m: m["preprocessing"].update(pad_multiple=128)), "another preprocessing"),
        (edit(lambda m: m.pop("preprocessing")), "another preprocessing"),
        (edit(lambda m: m["interaction"]["labels"].update(start=1)), "another handling of clicks and label maps"),
        (edit(lambda m: m["interaction"]["labels"]["click"].update(radius=3)), "another handling of clicks"),
        (edit(lambda m: m["tensors"]["decoder.onnx"]["inputs"].pop("labels")), "another set of graph tensors"),
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


def test_graphs_of_another_contract(tmp_path: Path) -> None:
    folder = write_toy_bundle(tmp_path / "bundle", decoder_names={"labels": "label_map"})
    with pytest.raises(BundleError, match=r"decoder\.onnx lacks the inputs labels: export again"):
        Segmenter(folder, custom_ops=False)


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
