"""Click sessions on a data set, in parts: what `i2f eval` does with a bundle."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from inter2former_deploy.apps.batch.pipeline import pipeline
from inter2former_deploy.apps.batch.places import Copies, Folder, open_folder
from inter2former_deploy.apps.batch.work import Chunk, Job, Outcome, Work
from inter2former_deploy.apps.evaluation.sessions import Evaluation, Scored, scoring
from inter2former_deploy.data import COMPOSITES, DataError, Dataset, FileDataset, open_dataset
from inter2former_deploy.runtime import Segmenter

TOGETHER = 16  # samples of a part, and those of the last one's picture


@dataclass(frozen=True)
class Part:
    """Some samples, whose results are one file while the others are not done."""

    name: str  # of the file
    indices: tuple[int, ...]


@dataclass(frozen=True)
class Samples:
    """A data set that is still to be opened."""

    source: str  # for `open_dataset`, with URLs in the place of paths, too
    images: str | None  # path or URL of the folder of a JSON file's images
    options: Mapping[str, Any]  # the others of `open_dataset`, but for the size of synthetic pictures
    copies: Copies = field(default_factory=Copies)  # of what lies in object stores

    def open(self, size: int) -> Dataset:
        """The data set, for a model of this resolution.

        Raises:
            DataError: as `open_dataset`; the message names URLs where they were given.
            OSError, ValueError, MissingPackageError: a URL cannot be copied.
        """
        kind = COMPOSITES if self.source.startswith(COMPOSITES) else ""
        source = kind + self.copies.path(self.source[len(kind) :])
        images = None if self.images is None else Path(self.copies.path(self.images))
        try:
            return open_dataset(source, images=images, size=size, **self.options)
        except DataError as error:
            raise DataError(self.copies.named(str(error))) from error


@dataclass(frozen=True, kw_only=True)
class ScoreJob(Job):
    """Sessions on the samples of a data set. Items are parts of it, each of which becomes a file in the output."""

    samples: Samples
    clicks: int
    seed: int | None

    def parts(self, dataset: Dataset, model_id: str) -> list[Part]:
        """The data set in parts, each with whole pictures; those of other samples or another model have other names."""
        pictures = [
            str(dataset.picture_of(index)) if isinstance(dataset, FileDataset) else str(index)
            for index in range(len(dataset))
        ]
        pictures = [self.samples.copies.named(picture) for picture in pictures]  # a copy lies elsewhere each time
        options = {name: str(value) for name, value in {**self.samples.options, "images": self.samples.images}.items()}
        told = [model_id, self.samples.source, options, self.clicks, self.seed, pictures]
        digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]
        groups: list[list[int]] = []
        for index, picture in enumerate(pictures):
            if not groups or (len(groups[-1]) >= TOGETHER and picture != pictures[index - 1]):
                groups.append([])
            groups[-1].append(index)
        return [Part(f"{digest}-{number:06d}.json", tuple(group)) for number, group in enumerate(groups)]

    def begin(self, threads: int | None) -> Work:
        """Load the model, and look at the data set."""
        return _Score(self, self.segmenter(threads))


def gather(parts: Iterable[Part], folder: Folder, strict: bool) -> Evaluation:
    """The evaluation of all parts.

    Raises:
        OSError: a part's file is not there or cannot be read.
    """
    evaluation = Evaluation([])
    for part in parts:
        for sample in json.loads(folder.read(part.name)):
            evaluation.add(Scored.from_dict(sample), strict)
    return evaluation


class _Score:
    def __init__(self, job: ScoreJob, segmenter: Segmenter) -> None:
        self._copies = job.samples.copies
        self._steps = scoring(segmenter, job.samples.open(segmenter.size), clicks=job.clicks, seed=job.seed)
        self._folder = open_folder(job.output, "--output")
        self._part_of: dict[int, Part] = {}
        self._done: list[Scored] = []  # of a part whose other samples come next
        self._begun = time.perf_counter()

    def __call__(self, chunks: Iterable[Chunk]) -> Generator[Outcome, None, None]:
        for part in (part for chunk in chunks for part in chunk):
            if self._folder.beginning(part.name, 1) is None:
                self._part_of |= dict.fromkeys(part.indices, part)
            else:
                yield Outcome(part.name, "found", count=len(part.indices))
        indices, self._begun = list(self._part_of), time.perf_counter()
        done = pipeline(indices, *self._steps, self._write, readers=1)  # a picture is read once for all its objects
        yield from (outcome for outcome in done if outcome is not None)
        self._part_of.clear()

    def _write(self, index: int, scored: Scored) -> Outcome | None:
        """Keep a sample's result until those of its part are together, then write them."""
        part = self._part_of[index]
        self._done.append(replace(scored, problem=self._copies.named(scored.problem)))
        if index != part.indices[-1]:
            return None
        done, self._done = self._done, []
        content = json.dumps([sample.to_dict() for sample in done])
        try:
            self._folder.write(part.name, content.encode())
        except OSError as error:
            return Outcome(part.name, "unwritten", reason=str(error), count=len(done))
        self._begun, seconds = time.perf_counter(), time.perf_counter() - self._begun
        return Outcome(part.name, "made", seconds=seconds, count=len(done))
