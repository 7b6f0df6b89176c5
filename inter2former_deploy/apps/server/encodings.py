"""The one queue in which pictures are encoded, and the encodings that are kept."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Condition, Thread
from typing import Generic, TypeVar

from inter2former_deploy.apps.server.errors import ApiError, busy
from inter2former_deploy.core.errors import PictureError
from inter2former_deploy.core.prompts import Image
from inter2former_deploy.runtime import EncodedImage, EncodedImages, Segmenter
from inter2former_deploy.runtime.region import Region
from inter2former_deploy.runtime.session import Session

_log = logging.getLogger(__name__)

Encoding = TypeVar("Encoding")

FAILURES = 256  # that are remembered


@dataclass(frozen=True)
class Opened:
    """An encoded region of a picture."""

    region: Region
    session: Session  # without prompts, in pixels of the region: copied, never used


@dataclass(frozen=True)
class Status:
    """Where an encoding is."""

    state: str  # "none", "queued", "encoding", "ready" or "failed"
    position: int = 0  # in the queue, from 1
    error: str | None = None


@dataclass(eq=False)
class _Job(Generic[Encoding]):
    key: str
    region: Region
    read: Callable[[], Image]
    ahead: bool
    done: Future[Encoding] = field(default_factory=Future)


class Encodings(Generic[Encoding]):
    """Has pictures encoded, in threads of its own; those that nobody waits for yet come last.

    Args:
        encode: makes the encoding of a region of a picture, `encode(region, image)`.
        keep: how many are kept.
        queue: encodings that may wait.
        threads: how many are made at a time.
        tell: called with a key whenever its status has changed, by any thread.
    """

    def __init__(
        self,
        encode: Callable[[Region, Image], Encoding],
        *,
        keep: int,
        queue: int,
        threads: int = 1,
        tell: Callable[[str], None],
    ) -> None:
        self._encode_image, self._queue_limit, self._tell, self._kept = encode, queue, tell, keep
        self._ready: OrderedDict[str, Encoding] = OrderedDict()  # the last used at the end
        self._failed: OrderedDict[str, str] = OrderedDict()
        self._queue: OrderedDict[str, _Job[Encoding]] = OrderedDict()
        self._running: dict[str, _Job[Encoding]] = {}
        self._changed = Condition()
        self._closed = False
        self.made, self.seconds = 0, 0.0
        self._threads = [Thread(target=self._work, name="encode", daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def request(self, key: str, region: Region, read: Callable[[], Image], *, ahead: bool = False) -> Future[Encoding]:
        """Have a region of a picture encoded, if it is not yet.

        Args:
            key: of picture and region.
            region: of the picture.
            read: gives the picture, in the encoding thread.
            ahead: nobody waits for it: others come first.

        Raises:
            ApiError: too many encodings wait (503).
        """
        with self._changed:
            opened = self._ready.get(key)
            if opened is not None:
                self._ready.move_to_end(key)
                done: Future[Encoding] = Future()
                done.set_result(opened)
                return done
            if key in self._running:
                return self._running[key].done
            job = self._queue.get(key)
            if job is None:
                if len(self._queue) >= self._queue_limit and not self._drop_ahead():
                    raise busy(f"{len(self._queue)} pictures wait to be encoded: come again", self._wait())
                job = self._queue[key] = _Job(key, region, read, ahead)
                self._failed.pop(key, None)
                self._changed.notify()
            job.ahead = job.ahead and ahead
        self._tell(key)
        return job.done

    def status(self, key: str) -> Status:
        """Where an encoding is."""
        with self._changed:
            if key in self._ready:
                return Status("ready")
            if key in self._running:
                return Status("encoding")
            if key in self._queue:
                return Status("queued", [job.key for job in self._in_order()].index(key) + 1)
            if key in self._failed:
                return Status("failed", error=self._failed[key])
            return Status("none")

    def __len__(self) -> int:
        """Encodings that wait."""
        return len(self._queue)

    @property
    def kept(self) -> int:
        """Encodings in memory."""
        return len(self._ready)

    def close(self) -> None:
        """Let the encodings that run end, and no other begin."""
        with self._changed:
            self._closed = True
            for job in self._queue.values():
                job.done.cancel()
            self._queue.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _in_order(self) -> list[_Job[Encoding]]:
        return sorted(self._queue.values(), key=lambda job: job.ahead)

    def _drop_ahead(self) -> bool:
        """Make room by the last encoding that nobody waits for."""
        last = next((job for job in reversed(self._queue.values()) if job.ahead), None)
        if last is not None:
            del self._queue[last.key]
            last.done.cancel()
        return last is not None

    def _wait(self) -> float:
        """Seconds until the queue may have room."""
        return self.seconds / self.made if self.made else 1.0

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._queue)
                if self._closed:
                    return
                job = self._in_order()[0]
                self._running[job.key] = self._queue.pop(job.key)
                waiting = list(self._queue)
            for key in (job.key, *waiting):
                self._tell(key)
            try:
                opened = self._encode(job)
            except BaseException as error:
                refusal = error if isinstance(error, ApiError) else ApiError(422, "picture", _told(error))
                with self._changed:
                    del self._running[job.key]
                    self._failed[job.key] = refusal.detail
                    while len(self._failed) > FAILURES:
                        self._failed.popitem(last=False)
                job.done.set_exception(refusal)
            else:
                with self._changed:
                    del self._running[job.key]
                    self._ready[job.key] = opened
                    while len(self._ready) > self._kept:
                        self._ready.popitem(last=False)
                job.done.set_result(opened)
            self._tell(job.key)

    def _encode(self, job: _Job[Encoding]) -> Encoding:
        begun = time.perf_counter()
        made = self._encode_image(job.region, job.read())
        with self._changed:
            self.made += 1
            self.seconds += time.perf_counter() - begun
        return made


class Opener:
    """Encodes pictures with a model of this process, and opens them.

    Args:
        segmenter: the model.
        cache: folder in which encodings are kept, too.
    """

    def __init__(self, segmenter: Segmenter, cache: Path | None) -> None:
        self._segmenter = segmenter
        self._cache = None if cache is None else EncodedImages(cache)

    def __call__(self, region: Region, image: Image) -> Opened:
        """A region of a picture, ready for prompts."""
        return Opened(region, self.session(self.encode(region, image)))

    def encode(self, region: Region, image: Image) -> EncodedImage:
        """The encoding of a region of a picture."""
        if self._cache is None:
            return self._segmenter.encode(image, None if region.is_whole else region.sides)
        return self._cache.find_or_encode(self._segmenter, image, None if region.is_whole else region)[0]

    def session(self, encoded: EncodedImage) -> Session:
        """A session as on a picture of its own: masks and prompts of the region's size, however large the picture."""
        return self._segmenter.open(replace(encoded, region=None))


def _told(error: BaseException) -> str:
    """What a client may read of an error: nothing of paths."""
    if isinstance(error, PictureError):
        return str(error)
    _log.error("encoding failed: %s", type(error).__name__)
    return "the picture cannot be encoded: the server's log names the kind of error"
