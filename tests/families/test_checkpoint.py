"""Checkpoints of all families: released layouts without executing any of them, our own format, synthetic weights."""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import pickle
import pickletools
import random
import struct
import sys
import types
import zipfile
from collections import OrderedDict, defaultdict, deque
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from make_weights import state_dict as reference_weights
from safetensors.torch import save_file

from inter2former_deploy.core.errors import CheckpointError
from inter2former_deploy.core.torch_archive import Foreign, StoredTensor, TorchArchive
from inter2former_deploy.families.checkpoint import (
    build_model,
    layout,
    load_checkpoint,
    load_model,
    save_checkpoint,
    synthetic_state_dict,
)
from inter2former_deploy.families.config import Config, presets
from inter2former_deploy.families.hrsam.config import HRSAM_PROBE, HRSAMPP_PROBE
from inter2former_deploy.families.hrsam.config import PRESETS as HRSAM_PRESETS
from inter2former_deploy.families.inter2former.config import DEMO, PROBE, VIT_B
from inter2former_deploy.families.inter2former.modules.model import Inter2Former

Weights = dict[str, torch.Tensor]
REFERENCE = Path(__file__).parents[1] / "reference"


def assert_same(actual: Weights, expected: Weights) -> None:
    assert list(actual) == list(expected)
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype, name
        assert torch.equal(actual[name], tensor), name


@pytest.fixture
def released(probe_weights: Weights, tmp_path: Path) -> Path:
    path = tmp_path / "probe.pth"
    torch.save({"meta": {"iter": 0}, "state_dict": probe_weights}, path)
    return path


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """An archive of one tensor, 17 x 64, and some bookkeeping."""
    path = tmp_path / "small.pth"
    meta = {"iter": 3, "names": ["a", "b"], "config": OrderedDict(a=(1, 2.5, None))}
    torch.save({"meta": meta, "state_dict": {"step": torch.rand(17, 64)}}, path)
    return path


def rewrite(source: Path, target: Path, replacements: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    """A copy of an archive with some entries replaced (names without the root folder)."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, replacements.get(name.split("/", 1)[1], old.read(name)))
    return target


# --- the released layout ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["probe", "vit_b", *HRSAM_PRESETS])
def test_state_dict_is_the_released_layout(name: str) -> None:
    """Every entry, in its order, and no other."""
    entries = json.loads((REFERENCE / f"layout_{name}.json").read_text())
    expected = {entry: (tuple(shape), dtype == "float32") for entry, shape, dtype in entries}
    assert dict(layout(presets()[name])) == expected
    assert list(layout(presets()[name])) == list(expected)


def test_released_checkpoint(released: Path, probe_weights: Weights) -> None:
    checkpoint = load_checkpoint(released)
    assert checkpoint.config == PROBE
    assert_same(checkpoint.state_dict, probe_weights)
    model = load_model(released)
    assert not model.training
    assert_same(model.state_dict(), probe_weights)


def test_counters_of_one_element(probe_weights: Weights, tmp_path: Path) -> None:
    """As make_weights.py writes them."""
    stored = {name: t.view(1) if t.ndim == 0 else t for name, t in probe_weights.items()}
    torch.save({"state_dict": stored}, tmp_path / "counters.pth")
    assert_same(load_checkpoint(tmp_path / "counters.pth").state_dict, probe_weights)


def test_bare_state_dict(probe_weights: Weights, tmp_path: Path) -> None:
    torch.save(OrderedDict(probe_weights), tmp_path / "bare.pth")
    assert_same(load_checkpoint(tmp_path / "bare.pth").state_dict, probe_weights)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_bookkeeping_of_unknown_classes_is_skipped(probe_weights: Weights, tmp_path: Path, protocol: int) -> None:
    module = types.ModuleType("absent_framework")
    source = """
import collections, enum
class Hub:
    def __init__(self): self.scalars = {"loss": [1.0, 2.0]}
class Log(dict): pass
class Names(list): pass
class Slots:
    __slots__ = ("a",)
    def __init__(self): self.a = 1
class Custom:
    def __reduce__(self): return (Custom, (), {"x": 1}, iter([1, 2]), iter([("k", "v")]))
    def append(self, x): pass
    def extend(self, x): pass
    def __setitem__(self, k, v): pass
class Colour(enum.Enum):
    RED = 1
Pair = collections.namedtuple("Pair", "x y")
Pair.__module__ = "absent_framework"
"""
    exec(source, module.__dict__)
    sys.modules["absent_framework"] = module
    try:
        state = OrderedDict(probe_weights)
        state._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]
        meta = {
            "hub": module.Hub(),
            "log": module.Log(a=1),
            "names": module.Names([1, 2]),
            "slots": module.Slots(),
            "custom": module.Custom(),
            "colour": module.Colour.RED,
            "pair": module.Pair(1, 2),
            "class": module.Hub,
            "numbers": [1, -2, 3 << 80, 1.5, True, None, b"bytes", bytearray(b"b"), {1, 2}, frozenset({3}), 1 + 2j],
            "torch": [torch.float16, torch.Size([1, 2]), torch.device("cpu"), torch.zeros(2, dtype=torch.complex64)],
            (1, 2): "a tuple for a key",
        }
        path = tmp_path / "framework.pth"
        everything = {"meta": meta, "state_dict": state, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}}
        torch.save(everything, path, pickle_protocol=protocol)
    finally:
        del sys.modules["absent_framework"]
    assert_same(load_checkpoint(path).state_dict, probe_weights)
    with TorchArchive(path) as archive:
        read = archive.content["meta"]
        assert all(type(read[name]) is Foreign for name in ("hub", "log", "names", "slots", "custom", "colour", "pair"))
        assert read["numbers"][:6] == [1, -2, 3 << 80, 1.5, True, None]
        (average,) = archive.read([archive.content["optimizer"]["state"][0]["exp_avg"]])
    assert torch.equal(average, torch.ones(3))
    assert "absent_framework" not in sys.modules


def test_parameters_views_and_shared_storages(tmp_path: Path) -> None:
    base = torch.arange(24.0).view(4, 6)
    tensors = {
        "whole": base,
        "transposed": base.t(),
        "slice": base[1:3, ::2],
        "expanded": base[:, :1].expand(4, 5),
        "parameter": torch.nn.Parameter(base[2]),
        "scalar": base[3, 5],
        "empty": base[:0],
        "nothing": torch.zeros(0, 3),
    }
    torch.save({"state_dict": tensors}, tmp_path / "views.pth")
    with TorchArchive(tmp_path / "views.pth") as archive:
        state = archive.content["state_dict"]
        assert len({state[name].storage for name in tensors if name != "nothing"}) == 1
        for name, tensor in zip(state, archive.read(state.values()), strict=True):
            assert torch.equal(tensor, tensors[name]), name
            assert tensor.is_contiguous(), name
            assert tensor.untyped_storage().nbytes() == tensor.numel() * 4, name  # of its own


DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
]


def test_all_types(tmp_path: Path) -> None:
    tensors = {str(dtype): torch.tensor([0, 1, 1, 0], dtype=dtype) for dtype in DTYPES}
    torch.save(tensors, tmp_path / "types.pth")
    with TorchArchive(tmp_path / "types.pth") as archive:
        for tensor, expected in zip(archive.read(archive.content.values()), tensors.values(), strict=True):
            assert tensor.dtype == expected.dtype
            assert torch.equal(tensor, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_are_read_as_float32(probe_weights: Weights, tmp_path: Path, dtype: torch.dtype) -> None:
    stored = {name: t.to(dtype) if t.is_floating_point() else t.int() for name, t in probe_weights.items()}
    torch.save({"state_dict": stored}, tmp_path / "other.pth")
    expected = {name: t.float() if t.is_floating_point() else t.long() for name, t in stored.items()}
    expected |= {name: probe_weights[name] for name in CONSTANTS}  # those are known better than the file has them
    assert_same(load_checkpoint(tmp_path / "other.pth").state_dict, expected)


# --- what others do to checkpoints -----------------------------------------------------------------------------------


def save(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def moved(weights: Weights) -> Weights:
    """Other weights of the same model."""
    return {name: t if name in CONSTANTS else t + 1 for name, t in weights.items()}


@pytest.mark.parametrize(
    ("prefix", "suffix"),
    [
        ("module.", "pth"),
        ("model.", "pth"),
        ("_orig_mod.", "safetensors"),
        ("_orig_mod.model.module.", "pth"),
        ("net.segmentor.0.", "pth"),
    ],
)
def test_a_prefix_of_all_names_is_taken_off_and_said(
    probe_weights: Weights, tmp_path: Path, prefix: str, suffix: str
) -> None:
    path = tmp_path / f"prefixed.{suffix}"
    weights = {prefix + name: t for name, t in probe_weights.items()}
    if suffix == "pth":
        torch.save({"state_dict": weights}, path)
    else:
        save_file(weights, path, {"format": "pt"})
    loaded = load_checkpoint(path)
    assert loaded.config == PROBE
    assert_same(loaded.state_dict, probe_weights)
    assert loaded.notes == (f"taken off the names of its entries: {prefix}",)


def test_wrappers_within_names(probe_weights: Weights, tmp_path: Path) -> None:
    """As of a model whose encoder alone was compiled, and whose decoder alone was trained in parallel."""
    inner = {"backbone.": "backbone._orig_mod.", "neck.": "neck.module."}
    weights = {}
    for name, tensor in probe_weights.items():
        first = name.split(".")[0] + "."
        weights[inner.get(first, first) + name[len(first) :] if "." in name else name] = tensor
    loaded = load_checkpoint(save(tmp_path / "inner.pth", {"state_dict": weights}))
    assert_same(loaded.state_dict, probe_weights)
    assert len(loaded.notes) == 1
    assert "left out of the names" in loaded.notes[0]


def test_a_released_checkpoint_needs_no_notes(released: Path) -> None:
    assert load_checkpoint(released).notes == ()


@pytest.mark.parametrize("key", [("model",), ("model_state_dict",), ("ema",), ("state", "network")])
def test_weights_under_another_key_are_found_and_said(
    probe_weights: Weights, tmp_path: Path, key: tuple[str, ...]
) -> None:
    content: dict[str, Any] = {}
    inner = content
    for part in key[:-1]:
        inner = inner.setdefault(part, {})
    inner[key[-1]] = {f"module.{name}": t for name, t in probe_weights.items()}
    content["optimizer"] = {"state": {0: {"exp_avg": torch.ones(3)}, "named": {"exp_avg": torch.ones(3)}}}
    content["scores"] = {"iou": torch.rand(4)}
    loaded = load_checkpoint(save(tmp_path / "other.pth", content))
    assert_same(loaded.state_dict, probe_weights)
    place = "".join(f"['{part}']" for part in key)
    assert loaded.notes == (f"the weights lie under {place}", "taken off the names of its entries: module.")


def test_the_key_of_a_released_checkpoint_goes_first(probe_weights: Weights, tmp_path: Path) -> None:
    other = moved(probe_weights)
    path = save(tmp_path / "both.pth", {"ema_state_dict": other, "state_dict": probe_weights})
    assert_same(load_checkpoint(path).state_dict, probe_weights)


def test_several_models_are_named_not_chosen_from(probe_weights: Weights, tmp_path: Path) -> None:
    other = moved(probe_weights)
    path = save(tmp_path / "both.pth", {"model": probe_weights, "ema": {"module": other}, "epoch": 3})
    with pytest.raises(
        CheckpointError, match=r"2 models, under \['model'\], \['ema'\]\['module'\]: keep the one"
    ) as error:
        load_checkpoint(path)
    # The advice works as it is printed.
    code = str(error.value).split("e.g. ")[1]
    exec(code, {"torch": torch, "FILE": path, "NEW_FILE": tmp_path / "one.pth"})
    assert_same(load_checkpoint(tmp_path / "one.pth").state_dict, other)

    two = {f"{p}.{name}": t for p, w in (("student", probe_weights), ("teacher", other)) for name, t in w.items()}
    with pytest.raises(CheckpointError, match=r"several models, with names that start with student\., teacher\."):
        load_checkpoint(save(tmp_path / "two.pth", two))


@pytest.mark.parametrize("prefix", ["", "model."])
def test_a_moving_average_beside_the_weights_is_not_used_and_said(
    probe_weights: Weights, tmp_path: Path, prefix: str
) -> None:
    weights = {prefix + name: t for name, t in probe_weights.items()}
    weights |= {f"{prefix}ema.module.{name}": t + 1 for name, t in probe_weights.items()}
    weights |= {f"{prefix}ema.num_updates": torch.tensor(3), f"{prefix}ema.decay": torch.tensor(0.999)}
    loaded = load_checkpoint(save(tmp_path / "average.pth", {"state_dict": weights}))
    assert_same(loaded.state_dict, probe_weights)
    assert f"not used, as they are beside the model: {len(probe_weights) + 2} entries" in loaded.notes[-1]


def test_the_averaged_model_of_pytorch(probe_weights: Weights, tmp_path: Path) -> None:
    model = Inter2Former(PROBE)
    model.load_state_dict(probe_weights)
    averaged = torch.optim.swa_utils.AveragedModel(model)
    loaded = load_checkpoint(save(tmp_path / "averaged.pth", averaged.state_dict()))
    assert_same(loaded.state_dict, probe_weights)
    assert loaded.notes == (
        "taken off the names of its entries: module.",
        "not used, as they are beside the model: 1 entries, n_averaged",
    )


def test_parameters_with_attributes(tmp_path: Path) -> None:
    parameter, tensor = torch.nn.Parameter(torch.rand(3)), torch.rand(4)
    parameter.decay = tensor.scale = 0.1  # type: ignore[attr-defined]
    path = save(tmp_path / "attributes.pth", {"parameter": parameter, "tensor": tensor})
    with TorchArchive(path) as archive:
        read = archive.read(archive.content[name] for name in ("parameter", "tensor"))
    assert torch.equal(read[0], parameter)
    assert torch.equal(read[1], tensor)


@pytest.mark.parametrize(
    ("value", "dtype", "said"),
    [
        (math.nan, torch.float32, "1 of 64 NaN"),
        (-math.inf, torch.float16, "1 of 64 infinite"),
        (math.inf, torch.bfloat16, "1 of 64 infinite"),
        (1e300, torch.float64, "1 of 64 infinite"),  # as float32
    ],
)
def test_weights_that_are_no_numbers_are_named(
    probe_weights: Weights, tmp_path: Path, value: float, dtype: torch.dtype, said: str
) -> None:
    name = "backbone.blocks.1.norm2.weight"
    weights = {n: t.to(dtype) if t.is_floating_point() else t for n, t in probe_weights.items()}
    weights[name] = weights[name].clone()
    weights[name][5] = value
    with pytest.raises(CheckpointError, match=rf"no numbers: {name} \({said}\)$"):
        load_checkpoint(save(tmp_path / "nan.pth", {"state_dict": weights}))


CANNY = "edge_detector.canny"
CONSTANTS = ("backbone.rope.freqs", *(f"{CANNY}.{name}.weight" for name in ("g_h", "g_v", "sobh", "sobv", "dirf")))


@pytest.mark.parametrize("kept_as", [None, torch.float32])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_constants_are_exact_whatever_the_weights_were_rounded_to(
    probe_weights: Weights, tmp_path: Path, dtype: torch.dtype, kept_as: torch.dtype | None
) -> None:
    """Rounded and stored so, or stored as float32 again."""
    weights = {n: t.to(dtype).to(kept_as or dtype) if t.is_floating_point() else t for n, t in probe_weights.items()}
    loaded = load_checkpoint(save(tmp_path / "half.pth", {"state_dict": weights}))
    for name in CONSTANTS:
        assert torch.equal(loaded.state_dict[name], probe_weights[name]), name
    rounded = [
        name
        for name in probe_weights
        if name in CONSTANTS and not torch.equal(weights[name].float(), probe_weights[name])
    ]
    assert len(rounded) == 3  # Sobel's filters and differences are small whole numbers
    said = set(loaded.notes[0].partition(": ")[2].split(", "))
    assert loaded.notes[0].startswith("constants that the file has rounded are set exactly: ")
    assert said == set(rounded)
    assert len(loaded.notes) == 1


def test_canny_maps_do_not_depend_on_the_precision_of_a_file(
    probe_weights: Weights, probe_model: Inter2Former, tmp_path: Path
) -> None:
    weights = {n: t.bfloat16() if t.is_floating_point() else t for n, t in probe_weights.items()}
    model = load_model(save(tmp_path / "half.pth", {"state_dict": weights}))
    picture = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model.edge_detector.canny_maps(picture), probe_model.edge_detector.canny_maps(picture))
    image = 255 * torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(1))
    canny, exact = model.edge_detector.canny, probe_model.edge_detector.canny
    assert torch.equal(canny.encode(image), exact.encode(image))


def test_a_last_bit_of_a_constant(probe_weights: Weights, tmp_path: Path) -> None:
    name = f"{CANNY}.g_h.weight"
    nearby = torch.nextafter(probe_weights[name], torch.tensor(1.0))
    loaded = load_checkpoint(save(tmp_path / "bit.pth", probe_weights | {name: nearby}))
    assert torch.equal(loaded.state_dict[name], probe_weights[name])


@pytest.mark.parametrize("change", [1.01, 1.0005])  # beyond any rounding; less than bfloat16's, yet no such rounding
def test_another_blur_is_kept_and_said(probe_weights: Weights, tmp_path: Path, change: float) -> None:
    name = f"{CANNY}.g_v.weight"
    other = probe_weights[name] * change
    loaded = load_checkpoint(save(tmp_path / "blur.pth", probe_weights | {name: other}))
    assert torch.equal(loaded.state_dict[name], other)
    assert "other constants than the release's, kept as they are: " + name in loaded.notes[0]


@pytest.mark.parametrize("name", ["backbone.rope.freqs", *(f"{CANNY}.{n}.weight" for n in ("sobh", "sobv", "dirf"))])
def test_other_constants_that_operators_have_built_in_are_refused(
    probe_weights: Weights, tmp_path: Path, name: str
) -> None:
    other = probe_weights[name] * 1.01
    with pytest.raises(CheckpointError, match=f"of another model: {name}, a constant that the operators have built in"):
        load_checkpoint(save(tmp_path / "other.pth", probe_weights | {name: other}))


# --- every family ---------------------------------------------------------------------------------------------------

FAMILIES: list[Config] = [PROBE, HRSAM_PROBE, HRSAMPP_PROBE, HRSAMPP_PROBE.without_state_space()]
every_family = pytest.mark.parametrize("config", FAMILIES, ids=lambda c: c.description)


@every_family
def test_family_and_preset_are_found(config: Config, tmp_path: Path) -> None:
    """Under a prefix, without constants, beside objects of classes that are not there, in bfloat16."""
    weights = synthetic_state_dict(config)
    lacking = [name for name in weights if name in CONSTANTS]
    stored = {f"module.{n}": t.bfloat16() if t.is_floating_point() else t for n, t in weights.items()}
    for name in lacking:
        del stored[f"module.{name}"]
    bookkeeping = {"args": argparse.Namespace(lr=1e-4), "path": Path("run"), "best": np.float64(0.9), "at": np.ones(3)}
    counts: dict[str, list[int]] = defaultdict(list, seen=[1])
    content = {"state_dict": stored, "meta": bookkeeping, "counts": counts, "losses": deque([0.1])}
    loaded = load_checkpoint(save(tmp_path / "any.pth", content))
    assert loaded.config == config
    rounded = {n: t.bfloat16().float() if t.is_floating_point() else t for n, t in weights.items()}
    assert_same(loaded.state_dict, rounded | {name: weights[name] for name in lacking})
    assert loaded.notes == (
        "taken off the names of its entries: module.",
        f"constants that the file lacks are set: {', '.join(lacking)}",
    )


@every_family
def test_files_of_every_family_cut_off_and_of_another(config: Config, tmp_path: Path) -> None:
    path = save(tmp_path / "any.pth", {"state_dict": synthetic_state_dict(config)})
    for other in FAMILIES:
        if other != config:
            with pytest.raises(CheckpointError) as error:
                load_checkpoint(path, other)
            said = f"does not fit the configuration {other.description} (it fits {config.description}): "
            assert said in str(error.value)
    foreign = "hrsam" if config.family == "inter2former" else "inter2former"
    with pytest.raises(CheckpointError, match=f"of the family {config.family}; only {foreign} can be used here"):
        load_checkpoint(path, family=foreign)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=r"any\.pth is damaged"):
        load_checkpoint(path)


@every_family
def test_our_own_format_for_every_family(config: Config, tmp_path: Path) -> None:
    """The configuration comes from the metadata, not from what fits."""
    weights = synthetic_state_dict(config)
    config = replace(config, name="mine")
    model = build_model(config, weights)
    save_checkpoint(model, tmp_path / "mine.safetensors")
    loaded = load_model(tmp_path / "mine.safetensors")
    assert type(loaded) is type(model)
    assert loaded.config == config
    assert not loaded.training
    assert_same(loaded.state_dict(), weights)


def test_rounded_constants_of_hrsam(tmp_path: Path) -> None:
    weights = synthetic_state_dict(HRSAM_PROBE)
    name = "backbone.rope.freqs"
    rounded = weights | {name: weights[name].half()}
    loaded = load_checkpoint(save(tmp_path / "half.pth", rounded))
    assert torch.equal(loaded.state_dict[name], weights[name])
    assert loaded.notes == (f"constants that the file has rounded are set exactly: {name}",)
    with pytest.raises(CheckpointError, match=f"of another model: {name}"):
        load_checkpoint(save(tmp_path / "other.pth", weights | {name: 1.01 * weights[name]}))


def test_the_nearest_model_of_any_family_is_named(tmp_path: Path) -> None:
    weights = synthetic_state_dict(HRSAMPP_PROBE.without_state_space())
    del weights["decode_head.iou_token.weight"]
    with pytest.raises(CheckpointError, match=r"incomplete.*1 missing: decode_head\.iou_token\.weight$") as error:
        load_checkpoint(save(tmp_path / "missing.pth", weights))
    found = f"'hrsampp_probe' without state-space modules is nearest, with {len(weights)} of its {len(weights) + 1}"
    assert found in str(error.value)


# --- what does not fit -----------------------------------------------------------------------------------------------


def test_everything_that_does_not_fit_is_listed_in_one_error(probe_weights: Weights, tmp_path: Path) -> None:
    weights: dict[str, Any] = dict(probe_weights)
    del weights["step"], weights["neck.ref_embeds.weight"]
    weights["backbone.pos_embed"] = torch.zeros(1, 5, 64)
    weights["neck.blocks.0.norm1.bias"] = "text"
    weights["neck.blocks.0.ffn.steps"] = torch.tensor(0.5)
    weights |= {f"surplus.{i}": torch.zeros(1) for i in range(20)}
    torch.save({"state_dict": weights}, tmp_path / "wrong.pth")
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(tmp_path / "wrong.pth", PROBE)
    message = str(error.value)
    assert "does not fit the configuration 'probe'" in message
    assert "2 missing: step, neck.ref_embeds.weight;" in message
    assert "20 unexpected: surplus.0, surplus.1," in message
    assert "and 12 more" in message
    assert "backbone.pos_embed (float [1, 5, 64], expected float [1, 17, 64])" in message
    assert "neck.blocks.0.norm1.bias (not a tensor, expected float [256])" in message
    assert "neck.blocks.0.ffn.steps (float [], expected integer [])" in message


def test_names_of_a_file_cannot_flood_or_garble_the_message(tmp_path: Path) -> None:
    torch.save({"x" * 100_000: torch.zeros(1), "\x1b[31m": torch.zeros(1)}, tmp_path / "names.pth")
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(tmp_path / "names.pth", PROBE)
    assert len(str(error.value)) < 3000
    assert "\x1b" not in str(error.value)


def test_a_configuration_is_asked_for_when_no_preset_fits(tmp_path: Path) -> None:
    config = replace(PROBE, name="other", decoder=replace(PROBE.decoder, experts=4))
    torch.save({"state_dict": synthetic_state_dict(config)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"none of the presets .*--config.*'probe'.*select_ffn_w1"):
        load_checkpoint(tmp_path / "other.pth")
    assert load_checkpoint(tmp_path / "other.pth", config).config == config


def test_a_wrong_configuration_is_refused(released: Path) -> None:
    with pytest.raises(CheckpointError, match="does not fit the configuration 'vit_b'"):
        load_checkpoint(released, VIT_B)


def test_missing_entries_are_told_against_the_nearest_preset(probe_weights: Weights, tmp_path: Path) -> None:
    weights = {f"module.{n}": t for n, t in probe_weights.items() if n not in ("step", "neck.ref_embeds.weight")}
    with pytest.raises(CheckpointError, match=r"is incomplete.*2 missing: step, neck\.ref_embeds\.weight$") as error:
        load_checkpoint(save(tmp_path / "missing.pth", {"model": weights}))
    total = len(probe_weights)
    assert f"'probe' is nearest, with {total - 2} of its {total} entries" in str(error.value)
    assert "--config" not in str(error.value)  # no configuration would help


def test_the_preset_that_fits_is_named_beside_the_one_that_does_not(released: Path) -> None:
    with pytest.raises(CheckpointError, match=r"does not fit the configuration 'demo' \(it fits 'probe'\)"):
        load_checkpoint(released, DEMO)


def test_files_of_other_models(tmp_path: Path) -> None:
    resnet = {"conv1.weight": torch.zeros(64, 3, 7, 7), "fc.bias": torch.zeros(10)}
    with pytest.raises(
        CheckpointError, match=r"of its 2 entries is one of inter2former or hrsam; it has conv1\.weight"
    ):
        load_checkpoint(save(tmp_path / "resnet.pth", {"state_dict": resnet}))
    with pytest.raises(CheckpointError, match=r"its tensors lie under \['generator'\], \['discriminator'\]"):
        load_checkpoint(save(tmp_path / "gan.pth", {"generator": resnet, "discriminator": resnet | {}}))
    with pytest.raises(CheckpointError, match="no state_dict, no names with tensors; its keys: epoch, meta"):
        load_checkpoint(save(tmp_path / "log.pth", {"epoch": 1, "meta": {"a": 1}}))
    with pytest.raises(CheckpointError, match=r"an object of a class: .*save model\.state_dict"):
        load_checkpoint(save(tmp_path / "whole.pth", torch.nn.Linear(2, 2)))


# --- files that are damaged or mean harm -----------------------------------------------------------------------------


class Attack:
    def __init__(self, reduction: tuple[Any, ...]) -> None:
        self.reduction = reduction

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduction


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("place", ["meta", "state_dict", "top"])
def test_no_code_of_a_pickle_runs(
    probe_weights: Weights, tmp_path: Path, protocol: int, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    witness = tmp_path / "ran"
    command = f"touch {witness}"
    attacks = (
        [
            Attack((os.system, (command,))),
            Attack((eval, (f"__import__('os').system({command!r})",))),
            Attack((__import__, ("this",))),
            Attack((torch.load, (str(tmp_path / "second.pth"),))),
        ]
        if place != "unused"
        else []
    )
    attacks[2] = Attack((__import__, ("antigravity_of_nobody",)))
    content: Any = {"meta": {}, "state_dict": OrderedDict(probe_weights)}
    if place == "meta":
        content["meta"] = {"attacks": attacks}
    elif place == "state_dict":
        content["state_dict"]["attack"] = attacks
    else:
        content = attacks
    path = tmp_path / "attack.pth"
    torch.save(content, path, pickle_protocol=protocol)
    assert b"system" in zipfile.ZipFile(path).read("attack/data.pkl")

    def refuse(*_: Any) -> Any:
        raise AssertionError("pickle was used")

    for name in ("load", "loads", "Unpickler", "_Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    if place == "meta":
        assert_same(load_checkpoint(path).state_dict, probe_weights)
    else:
        expected = "attack" if place == "state_dict" else "no state_dict"
        with pytest.raises(CheckpointError, match=expected):
            load_checkpoint(path, PROBE)
    assert not witness.exists()


def forged(tmp_path: Path, small: Path, rebuild: tuple[Any, ...], pid: tuple[Any, ...]) -> Path:
    """The small archive with a pickle of one tensor, described by these arguments and this storage."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            return pid if obj == "STORAGE" else None

    buffer = io.BytesIO()
    pickler = Pickler(buffer, protocol=2)
    pickler.dump({"state_dict": {"step": Attack((torch._utils._rebuild_tensor_v2, ("STORAGE", *rebuild)))}})
    return rewrite(small, tmp_path / "forged.pth", {"data.pkl": buffer.getvalue()})


GOOD_STORAGE = ("storage", torch.FloatStorage, "0", "cpu", 17 * 64)
GOOD_TENSOR = (0, (17, 64), (64, 1), False, OrderedDict())


def test_the_forged_tensor_is_read_when_its_numbers_are_good(tmp_path: Path, small: Path) -> None:
    with TorchArchive(forged(tmp_path, small, GOOD_TENSOR, GOOD_STORAGE)) as archive:
        (tensor,) = archive.read(archive.content["state_dict"].values())
    assert tensor.shape == (17, 64)


def test_bytes_beyond_a_storage_are_ignored(tmp_path: Path, small: Path) -> None:
    with zipfile.ZipFile(small) as archive:
        longer = archive.read("small/data/0") + b"\xff"
    with TorchArchive(small) as good, TorchArchive(rewrite(small, tmp_path / "long.pth", {"data/0": longer})) as long:
        (expected,), (tensor,) = (a.read(a.content["state_dict"].values()) for a in (good, long))
    assert torch.equal(tensor, expected)


@pytest.mark.parametrize(
    ("offset", "shape", "stride"),
    [
        (1, (17, 64), (64, 1)),
        (-1, (2,), (1,)),
        (0, (18, 64), (64, 1)),
        (0, (17, 64), (65, 1)),
        (0, (17, 64), (-64, 1)),
        (0, (-17, 64), (64, 1)),
        (0, (17, 64), (64,)),
        (0, (2**62, 4), (2**62, 4)),
        (0, (2**64,), (1,)),
        (2**63, (1,), (1,)),
        (0, (True,), (1,)),
        (0, (1.0,), (1,)),
        (0, ("1",), (1,)),
        (0, (1,) * 65, (1,) * 65),
        (0, 5, 5),
        (None, (1,), (1,)),
    ],
)
def test_tensors_beyond_their_storage_are_refused(
    tmp_path: Path, small: Path, offset: Any, shape: Any, stride: Any
) -> None:
    path = forged(tmp_path, small, (offset, shape, stride, False, OrderedDict()), GOOD_STORAGE)
    with pytest.raises(CheckpointError, match="damaged: malformed pickle"):
        load_checkpoint(path, PROBE)


def test_a_tensor_cannot_be_changed_after_it_was_checked(tmp_path: Path, small: Path) -> None:
    """State that a pickle gives to a tensor, to a function that makes one, and to the class of a dict."""
    tensor = "ctorch._utils\n_rebuild_tensor_v2\n"
    arguments = "((Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nI1088\ntQI0\n(I17\nI64\nt(I64\nI1\ntI00\n}tR"
    state = "}Vshape\n(I1000000\ntsVfunction\nNsV__setstate__\nNsb"
    good = f"\x80\x02}}Vstate_dict\n}}Vstep\n{tensor}{arguments}ss."
    for target in (tensor + arguments, tensor, "ccollections\nOrderedDict\n"):
        pickled = f"\x80\x02}}Vstate_dict\n}}Vstep\n{target}{state}ss.".encode("latin1")
        with pytest.raises(CheckpointError):
            load_checkpoint(rewrite(small, tmp_path / "state.pth", {"data.pkl": pickled}), PROBE)
        path = rewrite(small, tmp_path / "good.pth", {"data.pkl": good.encode("latin1")})
        with TorchArchive(path) as archive:
            (step,) = archive.read(archive.content["state_dict"].values())
        assert step.shape == (17, 64)


@pytest.mark.parametrize(
    ("position", "value"),
    [(2, "999"), (2, "../../etc/passwd"), (2, 1), (4, 17 * 64 + 1), (4, -1), (4, 2**63), (4, True), (4, "9")],
)
def test_storages_that_the_archive_does_not_hold_are_refused(
    tmp_path: Path, small: Path, position: int, value: Any
) -> None:
    pid = tuple(value if i == position else good for i, good in enumerate(GOOD_STORAGE))
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(forged(tmp_path, small, GOOD_TENSOR, pid), PROBE)


def test_a_huge_expanded_tensor_is_refused_before_it_is_made(tmp_path: Path, small: Path) -> None:
    path = forged(tmp_path, small, (0, (2**40, 2**20), (0, 0), False, OrderedDict()), GOOD_STORAGE)
    with pytest.raises(CheckpointError, match=r"step \(float \[1099511627776, 1048576\]"):
        load_checkpoint(path, PROBE)


@pytest.mark.parametrize("keep", [0, 3, 100, 5000, 0.5, 0.99])
def test_truncated_files(released: Path, tmp_path: Path, keep: float) -> None:
    data = released.read_bytes()
    path = tmp_path / "short.pth"
    path.write_bytes(data[: keep if isinstance(keep, int) else int(keep * len(data))])
    with pytest.raises(CheckpointError, match=r"damaged|neither a file of torch.save nor of safetensors"):
        load_checkpoint(path)


def test_a_changed_byte_of_a_tensor_is_noticed(released: Path) -> None:
    data = bytearray(released.read_bytes())
    data[len(data) // 2] ^= 1  # the archive is tensors for the most part
    released.write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(released)


def test_other_files(tmp_path: Path, probe_weights: Weights, released: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a file"):
        load_checkpoint(tmp_path / "absent.pth")
    with pytest.raises(CheckpointError, match="is a folder"):
        load_checkpoint(tmp_path)
    for content, message in (
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "pointer of Git LFS.*git lfs pull"),
        (b"\n<!DOCTYPE html><html>", "is a web page"),
        (b"\x1f\x8b\x08", "gunzip"),
        (b"garbage", r"nor of safetensors$"),
    ):
        (tmp_path / "foreign.pth").write_bytes(content)
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(tmp_path / "foreign.pth")
    np.savez(tmp_path / "arrays.npz", a=np.zeros(2))
    with pytest.raises(CheckpointError, match="holds arrays of NumPy"):
        load_checkpoint(tmp_path / "arrays.npz")
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as script:  # as torch.jit.save writes it
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            script.writestr(f"script/{name}", b"")
    with pytest.raises(CheckpointError, match="TorchScript"):
        load_checkpoint(tmp_path / "script.pt")
    legacy = tmp_path / "legacy.pth"
    torch.save({"state_dict": probe_weights}, legacy, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"before version 1\.6.*save it again"):
        load_checkpoint(legacy)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as other:
        other.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointError, match=r"not a file of torch\.save"):
        load_checkpoint(tmp_path / "other.zip")
    with pytest.raises(CheckpointError, match="compressed"):
        load_checkpoint(rewrite(released, tmp_path / "packed.pth", {}, zipfile.ZIP_DEFLATED))
    with pytest.raises(CheckpointError, match="big-endian"):
        load_checkpoint(rewrite(released, tmp_path / "big.pth", {"byteorder": b"big"}))
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="no state_dict"):
        load_checkpoint(tmp_path / "list.pth")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b".",
        b"\x80\x02.",
        b"(.",
        b"0.",
        b"h\x07.",
        b"]K\x01K\x02s.",
        b"K\x01R.",
        b"}(K\x01u.",
        b"(((((t.",
        b"\x80\x02X\xff\xff\xff\x7fab.",
        b"\x8e" + b"\xff" * 8 + b".",
        b"cos\nsystem\n(S'true'\ntR.",
        b"cos\nsystem\nS'true'\n\x85R.",
        b"(S'true'\nios\nsystem\n.",
        b"\x82\x01.",
        b"\x97.",
        b"]" + b"K\x01\x85a" * 50_001 + b".",  # more tuples than are read
        b"]q\xff.",  # a number of an object that so short a pickle cannot need
        b"]p255\n.",
        b"(" + b"]" * 10 + b"a" * 20 + b".",
        b"L" + b"9" * 100_000 + b"L\n.",
    ],
)
def test_malformed_pickles(small: Path, tmp_path: Path, data: bytes) -> None:
    with pytest.raises(CheckpointError):
        load_checkpoint(rewrite(small, tmp_path / "malformed.pth", {"data.pkl": data}), PROBE)


@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")  # a string opcode, by chance
def test_random_damage_is_refused_or_harmless(small: Path, tmp_path: Path) -> None:
    """Opcodes put anywhere into the pickle, bytes changed anywhere in the file: an error of ours or none."""
    generator = random.Random(0)
    with zipfile.ZipFile(small) as archive:
        pickled = archive.read("small/data.pkl")
    opcodes = bytes(ord(opcode.code) for opcode in pickletools.opcodes)
    path = tmp_path / "damaged.pth"
    outcomes = []
    for i in range(600):
        if i % 2:
            data = bytearray(pickled)
            for _ in range(generator.randint(1, 4)):
                data[generator.randrange(len(data))] = generator.choice(opcodes)
            rewrite(small, path, {"data.pkl": bytes(data)})
        else:
            data = bytearray(small.read_bytes())
            for _ in range(generator.randint(1, 8)):
                data[generator.randrange(len(data))] = generator.randrange(256)
            path.write_bytes(data)
        try:
            with TorchArchive(path) as archive:
                state = archive.content.get("state_dict") if isinstance(archive.content, dict) else None
                values = state.values() if isinstance(state, dict) else ()
                archive.read(t for t in values if isinstance(t, StoredTensor) and math.prod(t.shape) < 10_000)
            outcomes.append("read")
        except CheckpointError:
            outcomes.append("refused")
    assert outcomes.count("refused") > 100
    assert outcomes.count("read") > 30


# --- our own format --------------------------------------------------------------------------------------------------


@pytest.fixture
def model(probe_weights: Weights) -> Inter2Former:
    config = replace(PROBE, name="mine").with_decoder(edge_rule="exact")
    model = Inter2Former(config)
    model.load_state_dict(probe_weights)
    return model


def test_safetensors_round_trip(model: Inter2Former, probe_weights: Weights, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_checkpoint(model, path)
    checkpoint = load_checkpoint(path)
    assert checkpoint.config == model.config
    assert_same({name: checkpoint.state_dict[name] for name in probe_weights}, probe_weights)
    assert load_model(path).config.decoder.edge_rule == "exact"
    assert load_checkpoint(path, PROBE).config == PROBE  # what the caller names goes first
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_safetensors_at_half_precision(
    model: Inter2Former, probe_weights: Weights, tmp_path: Path, dtype: torch.dtype
) -> None:
    save_checkpoint(model, tmp_path / "half.safetensors", dtype=dtype)
    save_checkpoint(model, tmp_path / "whole.safetensors")
    assert (tmp_path / "half.safetensors").stat().st_size < 0.6 * (tmp_path / "whole.safetensors").stat().st_size
    loaded = load_checkpoint(tmp_path / "half.safetensors").state_dict
    learned = {name for name, _ in model.named_parameters()}
    for name, tensor in probe_weights.items():
        expected = tensor.to(dtype).float() if name in learned else tensor  # filters and biases of experts stay whole
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], expected), name


def test_other_precisions_are_refused(model: Inter2Former, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="float32, float16 or bfloat16"):
        save_checkpoint(model, tmp_path / "x.safetensors", dtype=torch.float64)


def test_damaged_safetensors(model: Inter2Former, probe_weights: Weights, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_checkpoint(model, path)
    data = path.read_bytes()
    for damaged in (data[:-1], data[:1000], struct.pack("<Q", 2**60) + data[8:]):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="damaged"):
            load_checkpoint(path)
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="none of the presets"):
        load_checkpoint(path)
    save_file(probe_weights, path, {"inter2former_config": '{"encoder": {"depth": "many"}}'})
    with pytest.raises(CheckpointError, match=r"invalid configuration: encoder\.depth"):
        load_checkpoint(path)
    save_file(probe_weights, path)  # without metadata
    assert load_checkpoint(path).config == PROBE


# --- synthetic weights -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [7, 8])
def test_synthetic_weights_are_those_of_the_golden_arrays(seed: int) -> None:
    expected = {name: torch.from_numpy(array.copy()) for name, array in reference_weights("probe", seed).items()}
    assert_same(synthetic_state_dict(PROBE, seed), expected)


@pytest.mark.parametrize("attention", ["full", "bsq", "vq"])
def test_synthetic_weights_of_variants(attention: str) -> None:
    config = PROBE.with_decoder(attention=attention)
    Inter2Former(config).load_state_dict(synthetic_state_dict(config))
