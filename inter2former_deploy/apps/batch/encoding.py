"""Pictures in, encodings out: what `i2f encode` does."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass

from inter2former_deploy.apps.batch.pipeline import pipeline
from inter2former_deploy.apps.batch.places import open_folder
from inter2former_deploy.apps.batch.work import Chunk, Outcome, PictureJob, Work, reason_of
from inter2former_deploy.runtime import EncodedImage, Segmenter
from inter2former_deploy.runtime.encoded import MOST_HEADER, SUFFIX, ScaledImage, states_encoding


@dataclass(frozen=True, kw_only=True)
class EncodeJob(PictureJob):
    """Encodings of pictures, in a folder, each under the key of its picture. Items are paths or URLs of pictures."""

    sides: tuple[int, int, int, int] | None = None  # of the window of every picture that is encoded

    def begin(self, threads: int | None) -> Work:
        """Load the encoder."""
        return _Encode(self, self.segmenter(threads))


@dataclass(frozen=True)
class _Ready:
    scaled: ScaledImage
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Made:
    encoded: EncodedImage
    notes: tuple[str, ...]
    seconds: float


class _Encode:
    def __init__(self, job: EncodeJob, segmenter: Segmenter) -> None:
        self._job, self._segmenter = job, segmenter
        self._folder = open_folder(job.output, "--output")
        self._encoder = segmenter.bundle.manifest.encoder_id
        self._made: set[str] = set()  # keys of pictures, one of which may lie in two files

    def __call__(self, chunks: Iterable[Chunk]) -> Generator[Outcome, None, None]:
        pictures: Iterator[str] = (picture for chunk in chunks for picture in chunk)
        return pipeline(pictures, self._read, self._compute, self._write)

    def _read(self, picture: str) -> _Ready | Outcome:
        job, notes = self._job, list[str]()
        try:
            scaled = self._segmenter.scale(job.read(picture, notes.append), job.sides)
        except (ValueError, OSError) as error:
            return Outcome(picture, "broken", reason=reason_of(error, picture), notes=tuple(notes))
        name = f"{scaled.key}{SUFFIX}"
        there = self._folder.beginning(name, MOST_HEADER)
        if there is not None and states_encoding(*there, scaled.key, self._encoder):
            return Outcome(picture, "found", self._folder.path(name), notes=tuple(notes))
        return _Ready(scaled, tuple(notes))

    def _compute(self, picture: str, ready: _Ready | Outcome) -> _Made | Outcome:
        if isinstance(ready, Outcome):
            return ready
        key = ready.scaled.key
        if key in self._made:
            return Outcome(picture, "found", self._folder.path(f"{key}{SUFFIX}"), notes=ready.notes)
        free = self._folder.free()
        if free is not None and free < self._segmenter.encoded_nbytes:
            return Outcome(
                picture, "unwritten", reason=f"{picture}: {self._job.output} has no room for it", notes=ready.notes
            )
        begun = time.perf_counter()
        encoded = self._segmenter.encode(ready.scaled)
        self._made.add(key)
        return _Made(encoded, ready.notes, time.perf_counter() - begun)

    def _write(self, picture: str, made: _Made | Outcome) -> Outcome:
        if isinstance(made, Outcome):
            return made
        key = made.encoded.picture
        try:
            self._folder.write(f"{key}{SUFFIX}", *made.encoded.pieces())
        except OSError as error:
            self._made.discard(key)
            return Outcome(picture, "unwritten", reason=f"{picture}: {error}", notes=made.notes)
        return Outcome(picture, "made", self._folder.path(f"{key}{SUFFIX}"), seconds=made.seconds, notes=made.notes)
