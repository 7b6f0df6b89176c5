"""A list of pictures and prompts in, masks as run lengths out: what `i2f segment-batch` does."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from inter2former_deploy.apps.batch.lists import Part, Row, Task
from inter2former_deploy.apps.batch.pipeline import pipeline
from inter2former_deploy.apps.batch.places import Folder, open_folder
from inter2former_deploy.apps.batch.work import Chunk, Outcome, PictureJob, Work, reason_of
from inter2former_deploy.core.runs import Runs
from inter2former_deploy.runtime import EncodedImage, Segmenter
from inter2former_deploy.runtime.encoded import ScaledImage
from inter2former_deploy.runtime.state import MOST_PROMPTS, prompt_from_json

_WHOLE, _INCOMPLETE = ".jsonl", re.compile(r"-\d+-broken\.jsonl")


@dataclass(frozen=True, kw_only=True)
class SegmentJob(PictureJob):
    """The masks of a list's objects. Items are parts of a list; each becomes a file of JSON lines."""

    def begin(self, threads: int | None) -> Work:
        """Load the model."""
        return _Segment(self, self.segmenter(threads))


def file_of(part: str, broken: int = 0) -> str:
    """The name of a part's file, which says how many of its objects could not be segmented."""
    return f"{part}-{broken}-broken.jsonl" if broken else f"{part}{_WHOLE}"


def left_of(parts: Sequence[Part], folder: Folder) -> list[Part]:
    """Parts that have no file yet, or one in which something is broken."""
    there = set(folder.names())
    return [part for part in parts if file_of(part.name) not in there]


@dataclass(frozen=True)
class _Ready:
    scaled: ScaledImage
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Lines:
    """What a picture adds to the file of its part."""

    lines: tuple[dict[str, Any], ...]
    notes: tuple[str, ...] = ()
    seconds: float = 0.0


class _Segment:
    def __init__(self, job: SegmentJob, segmenter: Segmenter) -> None:
        self._job, self._segmenter = job, segmenter
        self._folder = open_folder(job.output, "--output")
        self._done: list[_Lines] = []  # of a part whose other pictures come next

    def __call__(self, chunks: Iterable[Chunk]) -> Generator[Outcome, None, None]:
        left = []
        for part in (part for chunk in chunks for part in chunk):
            if self._folder.beginning(file_of(part.name), 1) is None:
                left.append(part)
            else:  # by a worker that was lost after it had written it
                yield Outcome(part.name, "found", self._folder.path(file_of(part.name)), count=part.rows)
        tasks = [(part, task) for part in left for task in part.tasks]
        yield from (done for done in pipeline(tasks, self._read, self._compute, self._write) if done is not None)

    def _read(self, item: tuple[Part, Task]) -> _Ready | _Lines:
        (_, task), job, notes = item, self._job, list[str]()
        try:
            pixels = job.read(task.picture, notes.append)
            return _Ready(self._segmenter.scale(pixels, task.region), tuple(notes))
        except (TypeError, ValueError, OSError) as error:
            reason = reason_of(error, task.picture)
            return _Lines(tuple(_line(row) | {"error": reason} for row in task.rows), tuple(notes))

    def _compute(self, item: tuple[Part, Task], ready: _Ready | _Lines) -> _Lines:
        if isinstance(ready, _Lines):
            return ready
        _, task = item
        begun = time.perf_counter()
        encoded = self._segmenter.encode(ready.scaled)
        lines = tuple(_line(row) | self._segmented(row, encoded) for row in task.rows)
        return _Lines(lines, ready.notes, time.perf_counter() - begun)

    def _segmented(self, row: Row, encoded: EncodedImage) -> dict[str, Any]:
        height, width = encoded.window.picture_height, encoded.window.picture_width
        if len(row.prompts) > MOST_PROMPTS:
            return {"error": f"{row.image}: more than {MOST_PROMPTS} prompts"}
        session = self._segmenter.open(encoded)
        for number, entry in enumerate(row.prompts):
            try:
                session.add(prompt_from_json(entry, height, width))
            except (TypeError, ValueError) as error:
                return {"error": f"{row.image}: prompts[{number}]: {error}"}
        runs = Runs.of(session.mask)
        return {"mask": runs.to_json(), "area": runs.area, "box": runs.box}

    def _write(self, item: tuple[Part, Task], made: _Lines) -> Outcome | None:
        """Keep a picture's lines until those of its part are together, then write them."""
        part, task = item
        self._done.append(made)
        if task is not part.tasks[-1]:
            return None
        done, self._done = self._done, []
        lines = [line for of_picture in done for line in of_picture.lines]
        broken = tuple(line["error"] for line in lines if "error" in line)
        notes = tuple(note for of_picture in done for note in of_picture.notes)
        seconds = sum(of_picture.seconds for of_picture in done)
        name = file_of(part.name, len(broken))
        content = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
        try:
            self._folder.write(name, content.encode())
            for other in self._folder.names():  # of former runs
                if other != name and other.startswith(part.name) and _INCOMPLETE.fullmatch(other[len(part.name) :]):
                    self._folder.remove(other)
        except OSError as error:
            return Outcome(part.name, "unwritten", reason=str(error), notes=notes, count=part.rows)
        return Outcome(part.name, "made", self._folder.path(name), "", seconds, notes, part.rows, broken)


def _line(row: Row) -> dict[str, Any]:
    """What a line of the results says of its row."""
    told: dict[str, Any] = {"row": row.number, "image": row.image}
    if row.id is not None:
        told["id"] = row.id
    return told if row.region is None else told | {"region": row.region}
