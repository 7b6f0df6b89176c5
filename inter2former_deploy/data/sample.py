"""What every dataset of this package is, a sequence of named pairs of image and mask, and how it is checked."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from inter2former_deploy.core.masks import IGNORED as IGNORED
from inter2former_deploy.core.pictures import PictureError
from inter2former_deploy.core.pictures import read_image as read_picture
from inter2former_deploy.core.threads import available_cpus

HELD_OUT_SEED = 90_000  # of what is drawn to score with; training seeds stay below
SIZE_GROUPS = {"small": 0.05, "medium": 0.2, "large": 1.0}  # of samples: largest share of the picture
NAMED = 20  # how many of a kind are named; the others are counted

# Kinds of what is passed over and counted.
EMPTY = "masks without an object"
UNREADABLE_ANNOTATIONS = "annotations that cannot be used"


class DataError(ValueError):
    """Files of a dataset are missing, unreadable or do not fit together; the message names them."""


class PassedOverError(DataError):
    """A sample without an object, as real datasets have them: it is counted, and the others go on.

    Args:
        kind: what it is, in the plural.
        name: of the sample, with what is wrong where the kind does not say it.
    """

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(kind, name)
        self.kind, self.name = kind, name

    def __str__(self) -> str:
        return f"{self.name}: {self.kind}"


@dataclass(frozen=True)
class Sample:
    """One picture and the one object in it that is to be segmented."""

    name: str  # unique in its dataset: file and object, or kind and index of a synthetic scene
    image: NDArray[np.uint8]  # [H, W, 3] RGB
    mask: NDArray[np.uint8]  # [H, W], 1 object, 0 background, `IGNORED` neither
    group: str = ""  # scores are also given for every group of a dataset
    split: str = ""  # train or test, a resolution: samples of two splits are never in one score
    picture: str = ""  # name of the picture, the same for all its objects; "" if it has this one alone

    def __post_init__(self) -> None:
        if self.image.shape[:2] != self.mask.shape:
            raise DataError(f"{self.name}: the image is {_size(self.image)} but the mask {_size(self.mask)}")
        if not (self.mask == 1).any():
            raise PassedOverError(EMPTY, self.name)


class Dataset(Protocol):
    """Random access to samples."""

    def __len__(self) -> int:
        """Number of samples."""

    def __getitem__(self, index: int) -> Sample:
        """The sample, read or drawn anew on every access.

        Raises:
            PassedOverError: this sample has no object.
            DataError: this sample is broken.
        """


class DrawnDataset(ABC):
    """Samples that are drawn, each from the seed and its number.

    Args:
        seed: of all samples.
        length: number of samples.
        size: pixels a side.

    Raises:
        ValueError: one of them is out of range.
    """

    def __init__(self, *, seed: int = HELD_OUT_SEED, length: int = 200, size: int = 1024) -> None:
        if size < 16 or length < 1 or seed < 0:
            raise ValueError(f"expected size >= 16, length >= 1 and seed >= 0, got {size}, {length} and {seed}")
        self.seed, self.length, self.size = seed, length, size

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.length:
            raise IndexError(index)
        return self.draw(index)

    @abstractmethod
    def draw(self, index: int) -> Sample:
        """The sample of this number, 0 to the length."""


class Tally:
    """What was passed over: how many of each kind, and the names of the first."""

    def __init__(self) -> None:
        self.names: dict[str, list[str]] = {}

    def add(self, kind: str, name: str) -> None:
        """Count one."""
        self.names.setdefault(kind, []).append(name)

    def add_all(self, other: Tally) -> None:
        """Count what another tally counted."""
        for kind, names in other.names.items():
            self.names.setdefault(kind, []).extend(names)

    def counts(self) -> dict[str, int]:
        """How many of each kind."""
        return {kind: len(names) for kind, names in self.names.items()}

    def lines(self) -> list[str]:
        """One line for each kind."""
        return [f"{len(names)} {kind}: {first_names(names)}" for kind, names in self.names.items()]

    def __bool__(self) -> bool:
        return bool(self.names)


class FileDataset:
    """What the datasets of files share: what they have to say, and pictures that are read once for all their objects.

    Samples of one picture follow each other; whoever reads them in order decodes the picture once.

    Args:
        convert_colours: convert the pictures' colours to sRGB by their profiles. False: the numbers as they are
            stored, as the authors' code reads them.
        strict: what would be passed over is an error.
    """

    def __init__(self, *, convert_colours: bool, strict: bool) -> None:
        self.strict = strict
        self.passed_over = Tally()
        self.problems: list[str] = []  # what is missing although samples need it
        self.notes: list[str] = []  # how the files were understood
        self._convert_colours = convert_colours
        self._last_image: LastRead[NDArray[np.uint8]] = LastRead()

    def remarks(self) -> list[str]:
        """What a command tells its user about the files, a line each."""
        return [*self.notes, *(f"passed over: {line}" for line in self.passed_over.lines())]

    def picture_of(self, index: int) -> object:
        """What is equal for samples of one picture."""
        raise NotImplementedError

    def _read_image(self, path: Path) -> NDArray[np.uint8]:
        return self._last_image(path, lambda: read_image(path, convert_colours=self._convert_colours))

    def _refuse_if_strict(self, source: object) -> None:
        if self.strict and (self.passed_over or self.problems):
            lines = "\n".join(f"  {line}" for line in (*self.problems, *self.passed_over.lines()))
            raise DataError(f"{source}: not all of it can be used, and it was asked for strictly:\n{lines}")


_Value = TypeVar("_Value")


class LastRead(threading.local, Generic[_Value]):
    """Remembers what was read last, for each thread of its own. A copy in another process starts anew."""

    def __init__(self) -> None:
        self._key: object = None
        self._value: _Value | None = None

    def __call__(self, key: object, read: Callable[[], _Value]) -> _Value:
        """The value of a key, read if it was not the last one."""
        if self._value is None or self._key != key:
            self._value = None  # let go of it first
            self._value, self._key = read(), key
        return self._value

    def __reduce__(self) -> tuple[type[LastRead[Any]], tuple[()]]:
        return LastRead, ()


@dataclass(frozen=True)
class Part:
    """Some samples of a dataset."""

    dataset: Dataset
    indices: Sequence[int]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[self.indices[index]]


@dataclass
class Checked:
    """What reading every sample once has shown."""

    usable: list[int] = field(default_factory=list)
    passed_over: Tally = field(default_factory=Tally)
    problems: list[str] = field(default_factory=list)  # broken samples, a line each


def check(dataset: Dataset, progress: Callable[[int, int], None] | None = None) -> Checked:
    """Reads every sample once, several pictures at a time.

    Args:
        dataset: what to read.
        progress: told the number of samples read and their total.
    """
    result = Checked()

    def read(indices: Sequence[int]) -> list[DataError | None]:
        errors: list[DataError | None] = []
        for index in indices:
            try:
                dataset[index]
                errors.append(None)
            except DataError as error:
                errors.append(error)
        return errors

    parts = _by_picture(dataset)
    done = 0
    with ThreadPoolExecutor(available_cpus()) as pool:
        for indices, errors in zip(parts, pool.map(read, parts), strict=True):
            for index, error in zip(indices, errors, strict=True):
                if error is None:
                    result.usable.append(index)
                elif isinstance(error, PassedOverError) and not getattr(dataset, "strict", False):
                    result.passed_over.add(error.kind, error.name)
                else:
                    result.problems.append(str(error))
                done += 1
                if progress:
                    progress(done, len(dataset))
    return result


def _by_picture(dataset: Dataset) -> list[list[int]]:
    key: Callable[[int], object] = dataset.picture_of if isinstance(dataset, FileDataset) else lambda index: index
    return [list(indices) for _, indices in groupby(range(len(dataset)), key)]


def read_image(path: Path, *, convert_colours: bool = False) -> NDArray[np.uint8]:
    """A picture file as uint8 RGB `[H, W, 3]`, upright, with colours as stored or converted to sRGB.

    Raises:
        DataError: the file is missing or no picture.
    """
    try:
        return read_picture(path, convert_colours=convert_colours)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (PictureError, OSError) as error:
        raise DataError(str(error) if str(path) in str(error) else f"{path}: {error}") from error


def size_group(share: float) -> str:
    """The group of a thing that covers this share of its picture, 0-1 (`SIZE_GROUPS`)."""
    return next(name for name, largest in SIZE_GROUPS.items() if share <= largest)


def first_names(names: Iterable[object]) -> str:
    """The first names of many, and how many more there are."""
    listed = [str(name) for name in names]
    more = f" and {len(listed) - NAMED} more" if len(listed) > NAMED else ""
    return ", ".join(listed[:NAMED]) + more


def unique(names: Iterable[str]) -> Iterator[str]:
    """The names, those that were there before with a number."""
    seen: set[str] = set()
    counts: dict[str, int] = {}
    for name in names:
        chosen = name
        while chosen in seen:
            counts[name] = counts.get(name, 1) + 1
            chosen = f"{name} ({counts[name]})"
        seen.add(chosen)
        yield chosen


def _size(array: NDArray[np.uint8]) -> str:
    return f"{array.shape[1]} x {array.shape[0]}"
