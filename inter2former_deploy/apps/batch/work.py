"""What the kinds of work on many pictures share, whoever does them: this process, or workers of Ray."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from inter2former_deploy.apps.batch.places import read_picture
from inter2former_deploy.core.pictures import Tell
from inter2former_deploy.runtime import Segmenter

State: TypeAlias = Literal["made", "found", "broken", "unwritten"]


@dataclass(frozen=True)
class Outcome:
    """What became of a picture or of a part of a list."""

    name: str
    state: State  # made now; found, as it was made before; its picture is broken; its result could not be written
    file: str = ""  # of the result, where there is one
    reason: str = ""  # why there is none
    seconds: float = 0.0  # that the model took
    notes: tuple[str, ...] = ()  # how a picture was understood that could be meant in several ways
    count: int = 1  # of what was asked for in it
    broken: tuple[str, ...] = ()  # of these, what could not be done, and why


Chunk: TypeAlias = Sequence[Any]  # items that one worker does one after the other
Work: TypeAlias = Callable[[Iterable[Chunk]], Generator[Outcome, None, None]]


@dataclass(frozen=True, kw_only=True)
class Job(ABC):
    """A kind of work with all that it needs to know. Pickled, it goes to the worker that does it."""

    bundle: Path
    decoder: str | None = None  # of the bundle: its first where None
    output: str  # path or URL of a folder
    custom_ops: bool = True

    @abstractmethod
    def begin(self, threads: int | None) -> Work:
        """Load the model.

        Args:
            threads: for the model; as many as usable CPUs where None.

        Returns:
            What does chunks, one item after the other while the next ones are read. What is written already is not done
            again.
        """

    def segmenter(self, threads: int | None) -> Segmenter:
        """The model, with as many threads, as `begin` takes them."""
        return Segmenter(self.bundle, decoder=self.decoder, num_threads=threads, custom_ops=self.custom_ops)


@dataclass(frozen=True, kw_only=True)
class PictureJob(Job):
    """A job that reads pictures."""

    convert_colours: bool = True
    max_pixels: int

    def read(self, picture: str, tell: Tell) -> NDArray[np.uint8]:
        """A picture of a path or URL, as `read_picture` gives it and with its errors."""
        return read_picture(picture, convert_colours=self.convert_colours, max_pixels=self.max_pixels, tell=tell)


def chunks_of(items: Sequence[Any], most: int) -> list[Chunk]:
    """Items in pieces of at most so many."""
    return [items[at : at + most] for at in range(0, len(items), most)]


def reason_of(error: Exception, name: str) -> str:
    """An error's message, which names the picture."""
    return str(error) if name in str(error) else f"{name}: {error}"
