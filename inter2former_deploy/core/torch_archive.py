"""Reads the file of `torch.save` as inert data: nothing of it is executed, imported or trusted.

A checkpoint is a zip archive of one pickle and the raw bytes of its tensors. `pickle` would run what the file says, and
the classes of a training framework are not there to be imported. So the pickle's opcodes are interpreted here, on a
stack of plain values: containers, numbers and strings become themselves, tensors become `StoredTensor` descriptions
with all bounds checked, and any other object becomes `INERT`, whatever is done to it.
"""

from __future__ import annotations

import math
import pickletools
import struct
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
# What the readers of a malformed archive or pickle raise; no code of the file runs, so nothing else is hidden by it.
MALFORMED = (
    zipfile.BadZipFile,
    struct.error,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    NotImplementedError,
    OSError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
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


@dataclass(frozen=True)
class Inert:
    """An object that was not built."""


INERT = Inert()


@dataclass(frozen=True)
class Global:
    """The name of a class or function that the file mentions."""

    module: str
    name: str


PLAIN_TYPES = (Global("torch", "Tensor"), Global("torch.nn.parameter", "Parameter"))


@dataclass(frozen=True, kw_only=True)
class Storage:
    """A run of numbers in the archive."""

    key: str  # of the archive's entry data/<key>
    dtype: torch.dtype
    count: int  # numbers in it


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
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
        content: The saved object, with `StoredTensor` for tensors and `INERT` for unknown objects.

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
            return _Interpreter(self._storage).run(data)
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

    def _storage(self, kind: Any, key: Any, count: Any) -> Storage | Inert:
        """A storage as the pickle names it, checked against the archive's entry."""
        if not isinstance(kind, Global) or kind.module != "torch" or kind.name not in STORAGE_TYPES:
            return INERT
        if type(key) is not str or not _is_size(count):
            raise ValueError("a storage without a name or size")
        dtype = STORAGE_TYPES[kind.name]
        if count * dtype.itemsize > self._entry(f"data/{key}").file_size:
            raise ValueError("a storage larger than its entry")
        return Storage(key=key, dtype=dtype, count=count)

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
                if storage.count:
                    data = torch.frombuffer(raw, dtype=storage.dtype, count=storage.count)
            empty = 0 in t.shape
            view = torch.empty(t.shape, dtype=t.dtype) if empty else data.as_strided(t.shape, t.stride, t.offset)
            result[i] = view.clone(memory_format=torch.contiguous_format)
        return [result[i] for i in range(len(tensors))]


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63  # a bool is an int, but no size


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any) -> StoredTensor | Inert:
    """A tensor as the pickle describes it.

    Raises:
        ValueError: It does not lie within its storage.
    """
    if not isinstance(storage, Storage):
        return INERT
    numbers = [offset, *shape, *stride]
    if len(shape) != len(stride) or len(shape) > MAX_DIMENSIONS or not all(map(_is_size, numbers)):
        raise ValueError("a tensor of unknown form")
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    if math.prod(shape) > 0 and last >= storage.count:
        raise ValueError("a tensor that reaches beyond its storage")
    return StoredTensor(storage=storage, offset=offset, shape=tuple(shape), stride=tuple(stride))


class _Mark:
    """Where on the stack a group of values begins."""


_MARK = _Mark()
# opcodes that push their argument
_NUMBERS = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT")
_STRINGS = (
    "STRING",
    "BINSTRING",
    "SHORT_BINSTRING",
    "BINBYTES",
    "SHORT_BINBYTES",
    "BINBYTES8",
    "BYTEARRAY8",
    "UNICODE",
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE8",
)
_CONSTANTS = frozenset((*_NUMBERS, *_STRINGS))
_LITERALS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_SHORT_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_UNTIL_MARK_INERT = frozenset(("OBJ", "INST", "FROZENSET"))  # take the values since the mark, give an object
_INERT_ARITY = {"NEWOBJ": 2, "NEWOBJ_EX": 3, "EMPTY_SET": 0, "PERSID": 0, "EXT1": 0, "EXT2": 0, "EXT4": 0}
_IGNORED = frozenset(("PROTO", "FRAME", "READONLY_BUFFER"))


class _Interpreter:
    """A pickle machine that builds containers, constants and tensor descriptions only."""

    def __init__(self, storage: Any) -> None:
        self._storage = storage  # (kind, key, count) -> Storage
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        """The pickled object; whatever a malformed pickle raises is a ValueError, TypeError or the like."""
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "STOP":
                return self._pop()
            self._step(opcode.name, argument)
        raise ValueError("no end")

    def _step(self, name: str, argument: Any) -> None:
        push = self._stack.append
        if name in _CONSTANTS:
            push(argument)
        elif name in _LITERALS:
            push(_LITERALS[name])
        elif name in _IGNORED:
            pass
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self._memo[argument] = self._top()
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = self._top()
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            push(self._memo[argument])
        elif name == "MARK":
            push(_MARK)
        elif name == "POP":
            self._stack.pop()
        elif name == "POP_MARK":
            self._since_mark()
        elif name == "DUP":
            push(self._top())
        elif name in _SHORT_TUPLES:
            push(tuple(self._take(_SHORT_TUPLES[name])))
        elif name == "TUPLE":
            push(tuple(self._since_mark()))
        elif name == "EMPTY_LIST":
            push([])
        elif name == "LIST":
            push(self._since_mark())
        elif name == "EMPTY_DICT":
            push({})
        elif name == "DICT":
            values = self._since_mark()
            push({})
            self._set_items(values)
        elif name == "APPEND":
            self._append([self._pop()])
        elif name == "APPENDS":
            self._append(self._since_mark())
        elif name == "ADDITEMS":
            self._since_mark()
        elif name == "SETITEM":
            self._set_items(self._take(2))
        elif name == "SETITEMS":
            self._set_items(self._since_mark())
        elif name == "GLOBAL":
            push(Global(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            module, attribute = self._take(2)
            push(Global(module, attribute) if type(module) is type(attribute) is str else INERT)
        elif name == "BINPERSID":
            push(self._persistent(self._pop()))
        elif name == "REDUCE":
            push(self._reduce(*self._take(2)))
        elif name == "BUILD":
            self._pop()  # the state of an object; the containers that we build have none
            self._top()
        elif name in _INERT_ARITY:
            self._take(_INERT_ARITY[name])
            push(INERT)
        elif name in _UNTIL_MARK_INERT:
            self._since_mark()
            push(INERT)
        else:
            raise ValueError(f"opcode {name}")

    def _persistent(self, identity: Any) -> Any:
        if not isinstance(identity, tuple) or len(identity) != 5 or identity[0] != "storage":
            return INERT
        _, kind, key, _device, count = identity
        return self._storage(kind, key, count)

    def _reduce(self, function: Any, arguments: Any) -> Any:
        """What calling a global would give, for the few that a state dict is made of."""
        if function == Global("collections", "OrderedDict") and arguments == ():
            return {}
        if function == Global("torch._utils", "_rebuild_tensor_v2"):
            return _tensor(*arguments[:4])
        if function == Global("torch._utils", "_rebuild_parameter"):
            return arguments[0]
        if function == Global("torch._utils", "_rebuild_parameter_with_state"):  # of a parameter with attributes
            return arguments[0]
        if function == Global("torch._tensor", "_rebuild_from_type_v2") and arguments[1] in PLAIN_TYPES:
            rebuild, _, plain, _ = arguments  # of a tensor with attributes
            return self._reduce(rebuild, plain)
        return INERT

    def _top(self) -> Any:
        value = self._pop()
        self._stack.append(value)
        return value

    def _pop(self) -> Any:
        value = self._stack.pop()
        if value is _MARK:
            raise ValueError("a mark where a value belongs")
        return value

    def _take(self, count: int) -> list[Any]:
        return [self._pop() for _ in range(count)][::-1]

    def _since_mark(self) -> list[Any]:
        values = []
        while (value := self._stack.pop()) is not _MARK:
            values.append(value)
        return values[::-1]

    def _append(self, values: list[Any]) -> None:
        if isinstance(target := self._top(), list):
            target.extend(values)

    def _set_items(self, values: list[Any]) -> None:
        target = self._top()
        for key, value in zip(values[::2], values[1::2], strict=True):
            # Only plain keys: hashing a deeply nested tuple would exhaust the C stack.
            if isinstance(target, dict) and isinstance(key, str | int | float | bytes | None):
                target[key] = value
