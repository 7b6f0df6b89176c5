"""Reads the file of `torch.save` as data: nothing of it is executed, imported or trusted.

A checkpoint is a zip archive of one pickle and the raw bytes of its tensors. The pickle is read by Python's own
unpickler, whose every look-up of a class or function (`find_class`) gives something of this module: containers, numbers
and strings become themselves, tensors become `StoredTensor` descriptions with all bounds checked, and an object of any
other class becomes a `Foreign`, which ignores what is done to it.

`torch.load(weights_only=True)` with such stand-ins was tried in PyTorch 2.13. It refuses what training frameworks
write: subclasses of dict and list (`ConfigDict`, `defaultdict`, `deque`), which it fills only if they are exactly dict
or list; pickles of protocol 4 and 5; and a checkpoint whose bookkeeping mentions the module `os`. It does not notice a
changed byte of a tensor.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from inter2former_deploy.core.errors import CheckpointError

LEGACY_START = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"  # pickled magic number before the zip format
ZIP_START = b"PK\x03\x04"

FOREIGN = {  # first bytes, in lower case, of what is found in a checkpoint's place
    b"version https": ": it is a pointer of Git LFS, fetch the file itself with git lfs pull",
    b"<!doctype": ": it is a web page, download the file itself",
    b"<html": ": it is a web page, download the file itself",
    b"\x1f\x8b": ": it is compressed, unpack it with gunzip",
    b"\x93numpy": ": it is an array of NumPy",
    b"\x89hdf": ": it is a file of HDF5",
}

MAX_DIMENSIONS = 64  # as in PyTorch
MAX_TUPLES = 50_000  # in a pickle: four a tensor, and what bookkeeping needs
# What the readers of a malformed archive or pickle raise; no code of the file runs, so nothing else is hidden by it.
MALFORMED = (
    zipfile.BadZipFile,
    struct.error,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
)

STORAGE_TYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class Foreign:
    """Stands in for all classes and functions that a file names, and for what it makes with them: nothing is done."""

    def __new__(cls, *_: Any, **__: Any) -> Foreign:
        """An object without attributes, whatever the arguments."""
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __call__(self, *_: Any, **__: Any) -> Any:
        """The result of a call is as foreign."""
        return Foreign()

    def ignore(self, *_: Any) -> None:
        """Takes the state or the items that a file gives to an object."""

    # How the unpickler fills objects; it looks for no other names.
    __setstate__ = __setitem__ = append = extend = add = ignore


class _Dict(dict[Any, Any]):
    """An OrderedDict without attributes, which a file could set."""

    def __setstate__(self, _: Any) -> None:
        pass


# A file can set attributes of what it makes. Those of named tuples cannot be set.
class Storage(NamedTuple):
    """A run of numbers in the archive."""

    key: str  # of the archive's entry data/<key>
    dtype: torch.dtype
    size: int  # numbers in it


class StoredTensor(NamedTuple):
    """A tensor that was not read yet; it lies within its storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def dtype(self) -> torch.dtype:
        """Type of its elements."""
        return self.storage.dtype


class TorchArchive:
    """An open file of `torch.save`.

    Attributes:
        content: The saved object, with `StoredTensor` for tensors and `Foreign` for objects of other classes.

    Raises:
        CheckpointError: The file is of another format, or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            start = file.read(len(LEGACY_START))
        if start == LEGACY_START:
            raise CheckpointError(
                f"{path} is in PyTorch's format from before version 1.6, which this reader refuses; "
                "load it where it was made and save it again with torch.save"
            )
        self._size = path.stat().st_size
        if not start.startswith(ZIP_START):
            what = next((text for sign, text in FOREIGN.items() if start.lstrip().lower().startswith(sign)), "")
            empty = "is empty and so " if self._size == 0 else ""
            raise CheckpointError(f"{path} {empty}is neither a file of torch.save nor of safetensors{what}")
        try:
            self._zip = zipfile.ZipFile(path)
        except MALFORMED as error:  # its table of contents is at the end
            raise self._damaged(f"{error}; it may be cut off, copy it again") from error
        try:
            self.content = self._load()
        except BaseException:
            self._zip.close()
            raise

    def __enter__(self) -> TorchArchive:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def _damaged(self, problem: object) -> CheckpointError:
        return CheckpointError(f"{self.path} is damaged: {str(problem)[:200]}")

    def _load(self) -> Any:
        self._entries = self._zip.NameToInfo
        pickles = [name for name in self._entries if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            what = "no data.pkl in it" if not pickles else "several data.pkl in it"
            if any(name.endswith(".npy") for name in self._entries):
                what = "it holds arrays of NumPy"
            raise CheckpointError(f"{self.path} is a zip archive, but not a file of torch.save: {what}")
        self._root = pickles[0].removesuffix("data.pkl")
        if self._root + "constants.pkl" in self._entries:
            raise CheckpointError(
                f"{self.path} is a TorchScript model, not a file of torch.save: save its state_dict() instead"
            )
        if self._root + "byteorder" in self._entries and self._read("byteorder").strip() != b"little":
            raise CheckpointError(f"{self.path} was saved on a big-endian machine, which this reader refuses")
        data = self._read("data.pkl")
        try:
            _check(data)
            return _Unpickler(data, self._storage).load()
        except CheckpointError:
            raise
        except MALFORMED as error:
            raise self._damaged(f"malformed pickle ({error})") from error

    def _entry(self, name: str) -> zipfile.ZipInfo:
        info = self._entries.get(self._root + name)
        if info is None:
            raise self._damaged(f"it lacks {name}")
        # torch.save stores its entries as they are; a small file that unpacks to a huge one is no checkpoint.
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise CheckpointError(f"{self.path} is not a file of torch.save: {name} is compressed")
        if info.header_offset + info.file_size > self._size:
            raise self._damaged(f"{name} is cut off")
        return info

    def _read(self, name: str) -> bytes:
        try:
            return self._zip.read(self._entry(name))
        except CheckpointError:
            raise
        except MALFORMED as error:
            raise self._damaged(f"{name} cannot be read ({error})") from error

    def _storage(self, dtype: Any, key: Any, count: Any) -> Storage | Foreign:
        """A storage as the pickle names it, checked against the archive's entry."""
        if not isinstance(dtype, torch.dtype):
            return Foreign()
        if type(key) is not str or not _is_size(count):
            raise ValueError("a storage without a name or size")
        if count * dtype.itemsize > self._entry(f"data/{key}").file_size:
            raise ValueError("a storage larger than its entry")
        return Storage(key=key, dtype=dtype, size=count)

    def read(self, tensors: Iterable[StoredTensor]) -> list[Tensor]:
        """Reads tensors of `content`, each contiguous and on its own memory; a storage that they share is read once.

        Raises:
            CheckpointError: The bytes of a tensor are damaged or cut off.
        """
        tensors = list(tensors)
        result: dict[int, Tensor] = {}
        storage, data = None, torch.empty(0)
        for i in sorted(range(len(tensors)), key=lambda i: (tensors[i].storage.key, str(tensors[i].dtype))):
            t = tensors[i]
            if t.storage != storage:
                storage, data = t.storage, torch.empty(0)  # frees the previous one before reading
                raw = bytearray(self._read(f"data/{storage.key}"))
                if storage.size:
                    data = torch.frombuffer(raw, dtype=storage.dtype, count=storage.size)
            empty = 0 in t.shape
            view = torch.empty(t.shape, dtype=t.dtype) if empty else data.as_strided(t.shape, t.stride, t.offset)
            result[i] = view.clone(memory_format=torch.contiguous_format)
        return [result[i] for i in range(len(tensors))]


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63  # a bool is an int, but no size


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> StoredTensor | Foreign:
    """A tensor as the pickle describes it.

    Raises:
        ValueError: It does not lie within its storage.
    """
    if not isinstance(storage, Storage):
        return Foreign()
    numbers = [offset, *shape, *stride]
    if len(shape) != len(stride) or len(shape) > MAX_DIMENSIONS or not all(map(_is_size, numbers)):
        raise ValueError("a tensor of unknown form")
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    if math.prod(shape) > 0 and last >= storage.size:
        raise ValueError("a tensor that reaches beyond its storage")
    return StoredTensor(storage=storage, offset=offset, shape=tuple(shape), stride=tuple(stride))


class _Rebuild(Foreign):
    """Stands for a function that makes tensors: calling it calls `function`, and nothing else can be done to it."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *arguments: Any) -> Any:
        """What the function makes."""
        return self.function(*arguments)


def _tensor_with_attributes(rebuild: Any, kind: Any, arguments: Any, _: Any) -> Any:
    """A tensor without the attributes that it had; a foreign object, if it is of a class of its own."""
    return _tensor(*arguments) if rebuild is _TENSOR and kind is _PLAIN else Foreign()


_PLAIN = type("_Plain", (Foreign,), {})  # the classes of an ordinary tensor and parameter
_TENSOR = _Rebuild(_tensor)
_PARAMETER = _Rebuild(lambda tensor, *_: tensor)  # with attributes or without
_KNOWN = {  # what stands for the classes and functions that a state dict is made of
    ("collections", "OrderedDict"): _Dict,
    ("torch", "Tensor"): _PLAIN,
    ("torch.nn.parameter", "Parameter"): _PLAIN,
    ("torch._utils", "_rebuild_tensor_v2"): _TENSOR,
    ("torch._utils", "_rebuild_parameter"): _PARAMETER,
    ("torch._utils", "_rebuild_parameter_with_state"): _PARAMETER,
    ("torch._tensor", "_rebuild_from_type_v2"): _Rebuild(_tensor_with_attributes),
    **{("torch", name): dtype for name, dtype in STORAGE_TYPES.items()},
}


class _Unpickler(pickle.Unpickler):
    """Python's unpickler, without access to any class or function but those of this module.

    Args:
        data: The pickle.
        storage: Makes a storage of a type, key and number of elements.
    """

    def __init__(self, data: bytes, storage: Callable[[Any, Any, Any], Any]) -> None:
        super().__init__(io.BytesIO(data), encoding="utf-8")
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a class or function."""
        return _KNOWN.get((module, name), Foreign)

    def persistent_load(self, pid: Any) -> Any:
        """A storage, which `torch.save` writes as ("storage", type, key, device, number of elements)."""
        if type(pid) is not tuple or len(pid) != 5 or pid[0] != "storage":
            return Foreign()
        _, kind, key, _device, count = pid
        return self._storage(kind, key, count)


def _check(data: bytes) -> None:
    """Refuses before anything is unpickled what no checkpoint needs and what could exhaust memory or stack.

    Raises:
        ValueError: There are more than `MAX_TUPLES` tuples, a number of an object that a pickle of this size cannot
            need, an opcode of the extension registry, or a malformed one.
    """
    tuples = 0
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name.endswith("PUT") and (argument or 0) > len(data):
            raise ValueError("an object with too large a number")
        if opcode.name.startswith("EXT"):
            raise ValueError(f"opcode {opcode.name}")
        tuples += opcode.name.startswith("TUPLE")
    if tuples > MAX_TUPLES:
        raise ValueError(f"{tuples} tuples, where at most {MAX_TUPLES} are read")
