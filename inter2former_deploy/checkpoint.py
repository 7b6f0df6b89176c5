"""Checkpoints: the released layout, our own safetensors, and synthetic weights where there are none.

A released checkpoint is a `torch.save` of a dict with `state_dict` and bookkeeping of a training framework; it is read
as inert data (torch_archive.py). Ours is a safetensors file with the configuration in its metadata.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from inter2former_deploy.config import PRESETS, ModelConfig
from inter2former_deploy.errors import CheckpointError
from inter2former_deploy.files import replacing
from inter2former_deploy.modules.edges import Canny
from inter2former_deploy.modules.model import Inter2Former
from inter2former_deploy.modules.rotary import rotary_frequencies
from inter2former_deploy.torch_archive import StoredTensor, TorchArchive

METADATA_KEY = "inter2former_config"  # of a safetensors file: the configuration as JSON
SHOWN = 8  # names listed of each kind of problem


class Checkpoint(NamedTuple):
    """What a checkpoint holds."""

    state_dict: dict[str, Tensor]  # float32, and int64 for counters
    config: ModelConfig


class Entry(NamedTuple):
    """Shape and kind of an entry of a state dict."""

    shape: tuple[int, ...]
    floating: bool  # floating-point, or integers


class _Source(NamedTuple):
    """An open checkpoint, of either format: what it holds, and how to read it."""

    entries: dict[str, Entry | None]  # None: not a tensor
    config: ModelConfig | None  # as the file states it
    read: Callable[[list[str]], list[Tensor]]


def load_checkpoint(path: str | Path, config: ModelConfig | None = None) -> Checkpoint:
    """Reads a checkpoint, of the released layout (`torch.save`) or ours (safetensors).

    Args:
        path: The file.
        config: The configuration that it must fit; by default the one stated in the file, else the preset that fits.

    Returns:
        The state dict, as float32 whatever it was saved as, and the configuration.

    Raises:
        CheckpointError: The file is missing or damaged, or its entries do not fit the configuration; the message
            lists all that do not.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file")
    with ExitStack() as stack:
        source = (_open_safetensors if _is_safetensors(path) else _open_archive)(path, stack)
        config = config or source.config or _fitting_preset(source.entries, path)
        if problems := _misfits(source.entries, config):
            raise CheckpointError(f"{path} does not fit the configuration {config.name!r}: " + "; ".join(problems))
        names = list(source.entries)
        tensors = source.read(names)
    expected = layout(config)
    loaded = {
        name: (t.float() if t.is_floating_point() else t.long()).view(expected[name].shape)
        for name, t in zip(names, tensors, strict=True)
    }
    return Checkpoint({name: loaded[name] for name in expected}, config)


def bundled_weights() -> Path:
    """The weights that come with this package: the `demo` configuration (weights/README.md says how it was trained)."""
    return Path(str(files("inter2former_deploy") / "weights" / "demo.safetensors"))


def load_model(path: str | Path, config: ModelConfig | None = None) -> Inter2Former:
    """The model of a checkpoint, in evaluation mode; see `load_checkpoint`."""
    checkpoint = load_checkpoint(path, config)
    model = Inter2Former(checkpoint.config)
    model.load_state_dict(checkpoint.state_dict)
    return model.eval()


def save_checkpoint(model: Inter2Former, path: str | Path, *, dtype: torch.dtype = torch.float32) -> None:
    """Writes a safetensors file with the configuration in its metadata.

    Args:
        model: The model.
        path: The file; an existing one is replaced only when the new one is complete.
        dtype: Of the learned entries: float32, float16 or bfloat16. Fixed filters, frequencies and expert biases stay
            as they are: rounded, they would move Canny's thresholds and the choice of experts for a few bytes.

    Raises:
        ValueError: Another dtype.
    """
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(f"dtype must be float32, float16 or bfloat16, got {dtype}")
    path = Path(path)
    learned = {name for name, _ in model.named_parameters()}
    tensors = {
        name: (t.to(dtype) if name in learned else t).detach().cpu().contiguous()
        for name, t in model.state_dict().items()
    }
    with replacing(path) as unfinished:
        safetensors.torch.save_file(tensors, unfinished, {METADATA_KEY: json.dumps(model.config.to_dict())})


def synthetic_state_dict(config: ModelConfig, seed: int = 7) -> dict[str, Tensor]:
    """Seeded weights for any configuration, to run and measure a model before there are trained ones.

    Each entry's numbers depend on the seed and its name alone. They are scaled so that activations keep their size and
    codes and experts are all in use.

    Args:
        config: The configuration.
        seed: A non-negative number.

    Returns:
        A state dict in the order of a released checkpoint.
    """
    fixed = {f"edge_detector.canny.{name}": weight for name, weight in Canny().state_dict().items()}
    fixed["backbone.rope.freqs"] = rotary_frequencies(config.encoder.dim // config.encoder.heads)
    return {
        name: fixed[name] if name in fixed else _synthetic(name, entry, seed) for name, entry in layout(config).items()
    }


def _synthetic(name: str, entry: Entry, seed: int) -> Tensor:
    """Normal random numbers of the scale that suits an entry's role."""
    shape = entry.shape
    if not entry.floating:
        return torch.zeros(shape, dtype=torch.int64)
    x = np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(shape).astype(np.float32)
    if len(shape) == 1:
        is_norm = name.endswith(".weight")
        return torch.from_numpy(0.1 * x + 1 if is_norm else 0.1 * x)
    scales = {"codebook": 0.7, "ref_embeds": 0.7, "pos_embed": 0.2, "attn.padding": 0.2, "select_ffn_b": 0.1}
    for part, scale in scales.items():
        if part in name:
            return torch.from_numpy(scale * x)
    # 1 / sqrt(fan in); twice that for decisions, so that they differ clearly from token to token.
    gain = 2 if any(part in name for part in ("expert_gate", "shared_gate", "code_proj")) else 1
    fan_in = shape[-1] if "select_ffn_w" in name else math.prod(shape[1:])
    return torch.from_numpy((gain * x.astype(np.float64) / math.sqrt(fan_in)).astype(np.float32))


@lru_cache
def layout(config: ModelConfig) -> Mapping[str, Entry]:
    """The entries of a model's state dict, in the order of a released checkpoint; nothing is allocated."""
    with torch.device("meta"):
        state = Inter2Former(config).state_dict()
    return MappingProxyType({name: Entry(tuple(t.shape), t.is_floating_point()) for name, t in state.items()})


def _is_safetensors(path: Path) -> bool:
    """Whether a file starts with the length of a JSON object and an opening brace."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def _open_safetensors(path: Path, stack: ExitStack) -> _Source:
    try:
        file = stack.enter_context(safetensors.safe_open(path, framework="pt"))
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        entries: dict[str, Entry | None] = {
            name: Entry(tuple(s.get_shape()), s.get_dtype() in ("F64", "F32", "F16", "BF16"))
            for name, s in slices.items()
        }
        stated = (file.metadata() or {}).get(METADATA_KEY)
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    try:
        config = None if stated is None else ModelConfig.from_dict(json.loads(stated))
    except ValueError as error:
        raise CheckpointError(f"{path} states an invalid configuration: {error}") from error
    return _Source(entries, config, lambda names: [file.get_tensor(name) for name in names])


def _open_archive(path: Path, stack: ExitStack) -> _Source:
    archive = stack.enter_context(TorchArchive(path))
    content = archive.content
    state: Any = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not any(isinstance(value, StoredTensor) for value in state.values()):
        raise CheckpointError(f"{path} holds no state_dict")
    entries = {
        str(name): Entry(value.shape, value.dtype.is_floating_point) if isinstance(value, StoredTensor) else None
        for name, value in state.items()
    }
    return _Source(entries, None, lambda names: archive.read(state[name] for name in names))


def _fitting_preset(entries: Mapping[str, Entry | None], path: Path) -> ModelConfig:
    for config in PRESETS.values():
        if not _misfits(entries, config):
            return config
    nearest = max(PRESETS.values(), key=lambda config: len(entries.items() & layout(config).items()))
    raise CheckpointError(
        f"{path} fits none of the presets {', '.join(PRESETS)}; name its configuration with --config. "
        f"What does not fit {nearest.name!r}: " + "; ".join(_misfits(entries, nearest))
    )


def _misfits(entries: Mapping[str, Entry | None], config: ModelConfig) -> list[str]:
    """All that keeps the entries of a file from being a state dict of the configuration, one text for each kind."""
    expected = layout(config)
    missing = [name for name in expected if name not in entries]
    unexpected = [name for name in entries if name not in expected]
    wrong = []
    for name, entry in entries.items():
        if name in expected and not _fits(entry, expected[name]):
            wrong.append(f"{name} ({_describe(entry)}, expected {_describe(expected[name])})")
    kinds = {"missing": missing, "unexpected": unexpected, "of another form": wrong}
    return [f"{len(found)} {kind}: {_some(found)}" for kind, found in kinds.items() if found]


def _fits(entry: Entry | None, expected: Entry) -> bool:
    # Old files hold a counter as one number in a list; load_state_dict takes that, too.
    return entry == expected or (expected.shape == () and entry == expected._replace(shape=(1,)))


def _describe(entry: Entry | None) -> str:
    if entry is None:
        return "not a tensor"
    return f"{'float' if entry.floating else 'integer'} {list(entry.shape)}"


def _some(names: list[str]) -> str:
    """The first names of a list that comes from a file: not too many, not too long, without control characters."""
    shown = [name[:120] if name.isprintable() else repr(name[:120]) for name in names[:SHOWN]]
    return ", ".join(shown) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
