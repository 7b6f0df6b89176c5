"""Checkpoints of all families: released layouts, our own safetensors, and synthetic weights where there are none.

A released checkpoint is a `torch.save` of a dict with `state_dict` and bookkeeping of a training framework; it is read
as inert data (torch_archive.py). Ours is a safetensors file with the configuration in its metadata. What sets a family
apart, its layouts, presets and constants, is in its own folder (`Weights`); which family a file is of, it shows itself.

What others do to such files on the way is undone, and said in `Checkpoint.notes`: weights under another key, names
with the prefix of a wrapper, a second copy of the weights beside the first, constants that are missing or were rounded
with the weights. What cannot be told apart is refused, with all names.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping
from contextlib import ExitStack
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from inter2former_deploy.core.errors import CheckpointError
from inter2former_deploy.core.files import replacing
from inter2former_deploy.core.torch_archive import Foreign, StoredTensor, TorchArchive
from inter2former_deploy.families import FAMILIES, part
from inter2former_deploy.families.config import Config, presets, read_config

METADATA_KEY = "inter2former_config"  # of a safetensors file: the configuration as JSON
SHOWN = 8  # names listed of each kind of problem

# Parts of names that wrappers put there: data parallelism and averaging, torch.compile, checkpointing, sharding.
WRAPPERS = frozenset(("module", "_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"))
BOOKKEEPING = frozenset(("n_averaged", "num_updates", "decay"))  # last parts of names: counters of moving averages
STATE_DICT = ("state_dict",)  # where a released checkpoint has its weights
SEARCHED_DEPTH = 3  # of dicts in dicts that may hold weights
NAME_LIMIT = 512  # characters of a name that may be one of ours


class Weights(Protocol):
    """The module `checkpoint` of a family."""

    MODEL: Callable[[Any], nn.Module]  # the model of a configuration
    CONFIGS: tuple[Config, ...]  # those that a file may fit which states none
    BUILT_IN: frozenset[str]  # names of constants that operators do not take from the graph

    # Beginnings of names by which another model's file is known, and what takes over the entries that fit.
    FOREIGN: Mapping[str, Callable[[Mapping[str, Tensor]], dict[str, Tensor]]]

    @staticmethod
    def constants(config: Any) -> dict[str, Tensor]:
        """The entries of a state dict that are never learned, exact."""

    @staticmethod
    def synthetic(name: str, x: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
        """Normal random numbers brought to the scale that suits an entry's role."""


def _weights(config: Config) -> Weights:
    return cast(Weights, part(config.family, "checkpoint"))


class Checkpoint(NamedTuple):
    """What a checkpoint holds."""

    state_dict: dict[str, Tensor]  # float32, and int64 for counters
    config: Any  # of the family's class
    notes: tuple[str, ...] = ()  # what was not as in a released checkpoint, and what was done about it, for people


class Entry(NamedTuple):
    """Shape and kind of an entry of a state dict."""

    shape: tuple[int, ...]
    floating: bool  # floating-point, or integers


class _Source(NamedTuple):
    """An open checkpoint, of either format: what it holds, and how to read it."""

    entries: dict[str, Entry | None]  # None: not a tensor
    config: Config | None  # as the file states it
    read: Callable[[list[str]], list[Tensor]]
    notes: tuple[str, ...] = ()


def load_checkpoint(path: str | Path, config: Config | None = None, *, family: str | None = None) -> Checkpoint:
    """Reads a checkpoint of any family, of the released layout (`torch.save`) or ours (safetensors).

    Args:
        path: The file. Its weights may lie under another key than `state_dict`, if it holds one model only; names may
            have a prefix; floats may be of any precision.
        config: The configuration that it must fit; by default the one stated in the file, else the preset that fits.
        family: The only one that the caller can use; any where None.

    Returns:
        The state dict, as float32 whatever it was saved as, the configuration, and notes on what was done to the file's
        entries. Constants (Canny's filters, rotary frequencies) are exact, also where the file lacks or rounded them.

    Raises:
        CheckpointError: The file is missing or damaged, its entries do not fit the configuration, hold NaN or infinity,
            or it holds several models; the message lists all that is wrong.
    """
    with ExitStack() as stack:
        source = _open(path := Path(path), stack)
        names, naming_notes = _names_of_model(source.entries, path)
        entries = {ours: source.entries[theirs] for ours, theirs in names.items()}
        config = config or source.config or _fitting_config(entries, path)
        if family not in (None, config.family):
            raise CheckpointError(f"{path} is of the family {config.family}; only {family} can be used here")
        if problems := _misfits(entries, config):
            raise CheckpointError(
                f"{path} does not fit the configuration {config.description}{_other_config(entries)}: "
                f"{'; '.join(problems)}"
            )
        tensors = source.read(list(names.values()))
    expected, exact = layout(config), constants(config)
    loaded = {
        name: (t.float() if t.is_floating_point() else t.long()).view(expected[name].shape)
        for name, t in zip(names, tensors, strict=True)
    }
    state = {name: loaded[name] if name in loaded else exact[name] for name in expected}
    if problem := not_finite(state):
        raise CheckpointError(f"{path} holds weights that are no numbers: {problem}")
    absent = [name for name in expected if name not in loaded]
    absent_notes = [f"constants that the file lacks are set: {', '.join(absent)}"] if absent else []
    constant_notes = _set_constants(state, config, path)
    return Checkpoint(state, config, (*source.notes, *naming_notes, *absent_notes, *constant_notes))


def load_initial(path: str | Path, family: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """What a model of a family can start from: all of a checkpoint, or what the family takes of another model's file.

    Args:
        path: As of `load_checkpoint`; for HRSAM, too, a file of SAM's.
        family: Of the model.

    Returns:
        Entries under the family's names, and notes for people.

    Raises:
        CheckpointError: As of `load_checkpoint`.
    """
    with ExitStack() as stack:
        names = list(_open(Path(path), stack).entries)
    for beginning, take in cast(Weights, part(family, "checkpoint")).FOREIGN.items():
        if any(name.startswith(beginning) for name in names):
            try:
                taken = take(load_tensors(path))
            except CheckpointError as error:
                raise CheckpointError(f"{path}: {error}") from None
            kinds = ", ".join(dict.fromkeys(name.split(".")[0] for name in taken))
            return taken, (f"another model's file: {kinds} are taken from it, everything else begins anew",)
    checkpoint = load_checkpoint(path)
    return checkpoint.state_dict, checkpoint.notes


def load_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a file as they are, whatever model they are of, e.g. SAM's.

    Raises:
        CheckpointError: The file is missing or damaged, or holds no names with tensors.
    """
    with ExitStack() as stack:
        source = _open(Path(path), stack)
        names = [name for name, entry in source.entries.items() if entry is not None]
        return dict(zip(names, source.read(names), strict=True))


def not_finite(state: Mapping[str, Tensor]) -> str | None:
    """Which tensors hold NaN or infinity, and how many of each; None where all numbers are finite."""
    found = []
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            count = tensor.numel() - int(tensor.isfinite().sum())
            kind = "NaN" if bool(tensor.isnan().any()) else "infinite"
            found.append(f"{name} ({count} of {tensor.numel()} {kind})")
    return shorten(found) if found else None


def bundled_weights() -> Path:
    """The weights that come with this package: the `demo` configuration (weights/README.md says how it was trained)."""
    return Path(str(files("inter2former_deploy") / "weights" / "demo.safetensors"))


def build_model(config: Config, state: Mapping[str, Tensor]) -> Any:
    """The model of a configuration with these weights, in evaluation mode."""
    model = _weights(config).MODEL(config)
    model.load_state_dict(dict(state), assign=True)
    return model.eval()


def load_model(path: str | Path, config: Config | None = None) -> Any:
    """The model of a checkpoint, in evaluation mode; see `load_checkpoint`."""
    checkpoint = load_checkpoint(path, config)
    return build_model(checkpoint.config, checkpoint.state_dict)


def save_checkpoint(model: Any, path: str | Path, *, dtype: torch.dtype = torch.float32) -> None:
    """Writes a safetensors file with the configuration in its metadata.

    Args:
        model: Of any family.
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


def synthetic_state_dict(config: Config, seed: int = 7) -> dict[str, Tensor]:
    """Seeded weights for any configuration, to run and measure a model before there are trained ones.

    Each entry's numbers depend on the seed and its name alone. They are scaled so that activations keep their size and
    codes and experts are all in use.

    Args:
        config: The configuration.
        seed: A non-negative number.

    Returns:
        A state dict in the order of a released checkpoint.
    """
    fixed, scaled = constants(config), _weights(config).synthetic
    return {
        name: fixed[name] if name in fixed else _synthetic(name, entry, seed, scaled)
        for name, entry in layout(config).items()
    }


def constants(config: Config) -> dict[str, Tensor]:
    """The entries of a state dict that are never learned, exact."""
    return _weights(config).constants(config)


def _synthetic(name: str, entry: Entry, seed: int, scaled: Callable[..., NDArray[Any]]) -> Tensor:
    if not entry.floating:
        return torch.zeros(entry.shape, dtype=torch.int64)
    x = np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(entry.shape).astype(np.float32)
    return torch.from_numpy(np.asarray(scaled(name, x), dtype=np.float32))


@lru_cache
def layout(config: Config) -> Mapping[str, Entry]:
    """The entries of a model's state dict, in the order of a released checkpoint; nothing is allocated."""
    with torch.device("meta"):
        state = _weights(config).MODEL(config).state_dict()
    return MappingProxyType({name: Entry(tuple(t.shape), t.is_floating_point()) for name, t in state.items()})


def _open(path: Path, stack: ExitStack) -> _Source:
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder: name the checkpoint in it")
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file")
    return (_open_safetensors if _is_safetensors(path) else _open_archive)(path, stack)


def _is_safetensors(path: Path) -> bool:
    """Whether a file starts with the length of a JSON object and an opening brace."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def _open_safetensors(path: Path, stack: ExitStack) -> _Source:
    try:
        file = stack.enter_context(safetensors.safe_open(path, framework="pt"))
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        entries: dict[str, Entry | None] = {
            name: Entry(tuple(s.get_shape()), s.get_dtype().startswith(("F", "BF"))) for name, s in slices.items()
        }
        stated = (file.metadata() or {}).get(METADATA_KEY)
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or cut off: {error}; copy it again") from error
    try:
        config = None if stated is None else read_config(json.loads(stated))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} states an invalid configuration: {error}") from error
    return _Source(entries, config, lambda names: [file.get_tensor(name) for name in names])


def _open_archive(path: Path, stack: ExitStack) -> _Source:
    archive = stack.enter_context(TorchArchive(path))
    if not isinstance(archive.content, dict):
        kind = "an object of a class" if isinstance(archive.content, Foreign) else f"a {type(archive.content).__name__}"
        raise CheckpointError(
            f"{path} holds no state_dict but {kind}: load it where it was made and save model.state_dict()"
        )
    key, state = _find_state_dict(archive.content, path)
    entries = {
        str(name): Entry(value.shape, value.dtype.is_floating_point) if isinstance(value, StoredTensor) else None
        for name, value in state.items()
    }
    by_name = {str(name): value for name, value in state.items()}
    notes = () if key in ((), STATE_DICT) else (f"the weights lie under {_key(key)}",)
    return _Source(entries, None, lambda names: archive.read(by_name[name] for name in names), notes)


def _find_state_dict(content: dict[Any, Any], path: Path) -> tuple[tuple[str, ...], dict[Any, Any]]:
    """The dict of tensors in a checkpoint, and the keys that lead to it."""
    found = _dicts_of_tensors(content)
    if not found:
        keys = shorten([str(key) for key in content]) or "none"
        raise CheckpointError(f"{path} holds no state_dict, no names with tensors; its keys: {keys}")
    if STATE_DICT in found:
        return STATE_DICT, found[STATE_DICT]
    models = [key for key, state in found.items() if _prefixes(str(name) for name in state)]
    if len(models) > 1:
        some = models[-1]
        raise CheckpointError(
            f"{path} holds {len(models)} models, under {', '.join(map(_key, models[:SHOWN]))}: keep the one to use, "
            f"e.g. torch.save(torch.load(FILE, weights_only=True){''.join(f'[{part!r}]' for part in some)}, NEW_FILE)"
        )
    if not models and len(found) > 1:
        places = ", ".join(map(_key, [*found][:SHOWN]))
        raise CheckpointError(f"{path} holds no state_dict of {' or '.join(FAMILIES)}; its tensors lie under {places}")
    key = models[0] if models else next(iter(found))
    return key, found[key]


def _dicts_of_tensors(content: dict[Any, Any]) -> dict[tuple[str, ...], dict[Any, Any]]:
    """All dicts in `content`, itself included, that hold tensors by name, by the keys that lead to them."""
    found: dict[tuple[str, ...], dict[Any, Any]] = {}
    seen = {id(content)}
    level: list[tuple[tuple[str, ...], dict[Any, Any]]] = [((), content)]
    for _ in range(SEARCHED_DEPTH):
        inner = []
        for key, state in level:
            if any(isinstance(name, str) and isinstance(value, StoredTensor) for name, value in state.items()):
                found[key] = state
            for name, value in state.items():
                if isinstance(name, str) and isinstance(value, dict) and id(value) not in seen:
                    seen.add(id(value))
                    inner.append(((*key, name), value))
        level = inner
    return found


def _key(key: tuple[str, ...]) -> str:
    """Keys that lead to a dict, for people."""
    return "".join(f"[{part[:120]!r}]" for part in key) or "no key"


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _prefixes(names: Iterable[str]) -> list[str]:
    """What stands before the names of a model's entries, wrappers aside: one prefix for each model that is there."""
    families = _common_names()
    counts: list[Counter[str]] = [Counter() for _ in families]
    for name in names:
        parts = _unwrapped(name).split(".") if len(name) <= NAME_LIMIT else []
        for i in range(len(parts)):
            for common, count in zip(families, counts, strict=True):
                if ".".join(parts[i:]) in common:
                    count["".join(f"{part}." for part in parts[:i])] += 1
    found = {p for common, count in zip(families, counts, strict=True) for p in count if count[p] >= len(common) / 2}
    return sorted(found, key=lambda prefix: (len(prefix), prefix))


@lru_cache
def _configs() -> tuple[Config, ...]:
    """Those that a file may fit which states none, of all families."""
    return tuple(config for family in FAMILIES for config in cast(Weights, part(family, "checkpoint")).CONFIGS)


@lru_cache
def _common_names() -> tuple[frozenset[str], ...]:
    """Names of the entries that all models of a family have, for each family."""
    names = [[frozenset(layout(c)) for c in _configs() if c.family == family] for family in FAMILIES]
    return tuple(first.intersection(*others) for first, *others in names)


def _names_of_model(entries: Iterable[str], path: Path) -> tuple[dict[str, str], list[str]]:
    """The names in the file by the names in our layout, without a second copy of the weights; and notes."""
    names = list(entries)
    prefix, *copies = _prefixes(names) or [""]
    if rivals := [copy for copy in copies if not copy.startswith(prefix)]:
        raise CheckpointError(
            f"{path} holds several models, with names that start with {shorten([prefix, *rivals])}: keep the entries "
            "of the one to use, and save them alone"
        )
    ours: dict[str, str] = {}
    beside, taken_off, within = [], set(), False
    for name in names:
        plain = _unwrapped(name)
        if any(plain.startswith(copy) for copy in copies) or plain.rsplit(".", 1)[-1] in BOOKKEEPING:
            beside.append(name)
            continue
        short = plain.removeprefix(prefix)
        if short in ours:
            raise CheckpointError(f"{path} holds one entry twice, as {shorten([ours[short], name])}: keep one of them")
        ours[short] = name
        if name.endswith(short):
            taken_off.add(name.removesuffix(short))
        else:
            within = True
    notes = []
    if taken_off - {""}:
        notes.append(f"taken off the names of its entries: {shorten(sorted(taken_off - {''}))}")
    if within:
        notes.append(f"left out of the names of its entries: {', '.join(sorted(WRAPPERS))}")
    if beside:
        notes.append(f"not used, as they are beside the model: {len(beside)} entries, {shorten(beside)}")
    return ours, notes


def _set_constants(state: dict[str, Tensor], config: Config, path: Path) -> list[str]:
    """Makes the constants of a state dict exact where the file has them rounded; returns notes.

    Raises:
        CheckpointError: A constant is another one, which the operators cannot use.
    """
    rounded, other = [], []
    for name, exact in constants(config).items():
        found = state[name]
        if torch.equal(found, exact):
            continue
        if _is_rounded(found, exact):
            state[name] = exact
            rounded.append(name)
            continue
        difference = float((found - exact).abs().max())
        if name in _weights(config).BUILT_IN:
            raise CheckpointError(
                f"{path} is of another model: {name}, a constant that the operators have built in, is off by up to "
                f"{difference:.2g}, which is no rounding"
            )
        other.append(f"{name} (off by up to {difference:.2g})")
    notes = []
    if rounded:
        notes.append(f"constants that the file has rounded are set exactly: {', '.join(rounded)}")
    if other:
        notes.append(f"other constants than the release's, kept as they are: {', '.join(other)}")
    return notes


def _is_rounded(found: Tensor, exact: Tensor) -> bool:
    """Whether float32 numbers are what a constant becomes in float32 (computed another way), float16 or bfloat16."""
    difference = (found - exact).abs()
    for dtype, steps in ((torch.float32, 4), (torch.float16, 1), (torch.bfloat16, 1)):
        if torch.equal(found.to(dtype).float(), found) and bool(
            (difference <= steps * torch.finfo(dtype).eps * exact.abs()).all()
        ):
            return True
    return False


def _fitting_config(entries: Mapping[str, Entry | None], path: Path) -> Config:
    for config in _configs():
        if not _misfits(entries, config):
            return config

    def count(config: Config) -> int:
        return sum(name in entries and _fits(entries[name], entry) for name, entry in layout(config).items())

    # The most entries in common; of models that share them, the one that lacks the fewest.
    nearest = max(_configs(), key=lambda config: (count(config), -len(layout(config))))
    known = ", ".join(presets())
    if not count(nearest):
        raise CheckpointError(
            f"{path} fits none of the presets {known}: none of its {len(entries)} entries is one of "
            f"{' or '.join(FAMILIES)}; it has {shorten(list(entries))}"
        )
    problems = "; ".join(_misfits(entries, nearest))
    found = f"{nearest.description} is nearest, with {count(nearest)} of its {len(layout(nearest))} entries"
    if all(name in layout(nearest) and _fits(entry, layout(nearest)[name]) for name, entry in entries.items()):
        raise CheckpointError(f"{path} is incomplete. It fits none of the presets {known}: {found}; {problems}")
    raise CheckpointError(
        f"{path} fits none of the presets {known}; name its configuration with --config. {found}. "
        f"What does not fit: {problems}"
    )


def _other_config(entries: Mapping[str, Entry | None]) -> str:
    """Which preset the entries of a file do fit, for people; empty where none."""
    fitting = [config.description for config in _configs() if not _misfits(entries, config)]
    return f" (it fits {fitting[0]})" if fitting else ""


def _misfits(entries: Mapping[str, Entry | None], config: Config) -> list[str]:
    """All that keeps the entries of a file from being a state dict of the configuration, one text for each kind."""
    return misfits(entries, layout(config), optional=constants(config))


def misfits(
    entries: Mapping[str, Entry | None], expected: Mapping[str, Entry], *, optional: Container[str] = ()
) -> list[str]:
    """All that keeps entries from being the expected ones, one text a kind; those of `optional` may be missing."""
    missing = [name for name in expected if name not in entries and name not in optional]
    unexpected = [name for name in entries if name not in expected]
    wrong = []
    for name, entry in entries.items():
        if name in expected and not _fits(entry, expected[name]):
            wrong.append(f"{name} ({_describe(entry)}, expected {_describe(expected[name])})")
    kinds = {"missing": missing, "unexpected": unexpected, "of another form": wrong}
    return [f"{len(found)} {kind}: {shorten(found)}" for kind, found in kinds.items() if found]


def _fits(entry: Entry | None, expected: Entry) -> bool:
    # Old files hold a counter as one number in a list; load_state_dict takes that, too.
    return entry == expected or (expected.shape == () and entry == expected._replace(shape=(1,)))


def _describe(entry: Entry | None) -> str:
    if entry is None:
        return "not a tensor"
    return f"{'float' if entry.floating else 'integer'} {list(entry.shape)}"


def shorten(names: list[str]) -> str:
    """The first names of a list that comes from a file: not too many, not too long, without control characters."""
    shown = [name[:120] if name.isprintable() else repr(name[:120]) for name in names[:SHOWN]]
    return ", ".join(shown) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
