"""What the server does, without HTTP: takes pictures, has them encoded, makes masks of prompts. All routes call it."""

from __future__ import annotations

import asyncio
import functools
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

from inter2former_deploy.apps.server.answers import runs_of
from inter2former_deploy.apps.server.encodings import Encodings, Status
from inter2former_deploy.apps.server.errors import ApiError, bad_request, busy, not_found
from inter2former_deploy.apps.server.events import Events
from inter2former_deploy.apps.server.metrics import Metrics
from inter2former_deploy.apps.server.model import Here, Model
from inter2former_deploy.apps.server.pixels import Pixels, Pyramid
from inter2former_deploy.apps.server.pool import WirePrompt
from inter2former_deploy.apps.server.settings import Settings
from inter2former_deploy.core.errors import PictureError
from inter2former_deploy.core.pictures import read_image
from inter2former_deploy.core.prompts import Image, Mask
from inter2former_deploy.core.runs import Runs
from inter2former_deploy.core.threads import available_cpus
from inter2former_deploy.runtime.bundle import read_bundle
from inter2former_deploy.runtime.region import Region

T = TypeVar("T")

CLIENTS = 4096  # whose last sequence numbers are remembered
LOOK_SECONDS = 2  # between two looks whether a client that waits has left


@dataclass(frozen=True)
class Source:
    """A picture that the server can read again."""

    id: str  # of the file's content
    height: int  # upright, pixels
    width: int
    load: Callable[[], bytes]  # the file's content

    def region(self, sides: Sequence[int] | None) -> Region:
        """A region of it; all of it where None.

        Raises:
            ApiError: it is empty or reaches beyond the picture.
        """
        if sides is None:
            return Region.whole(self.height, self.width)
        try:
            return Region.of(list(sides), self.height, self.width)
        except (TypeError, ValueError) as error:
            raise bad_request(str(error)) from error


class Uploads:
    """Pictures that were sent or named, the last ones, as many as fit into a number of bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._sources: OrderedDict[str, tuple[Source, int]] = OrderedDict()
        self._lock = Lock()

    def add(self, source: Source, nbytes: int) -> None:
        """Keep a picture; the ones that were not used for longest go."""
        with self._lock:
            self._sources[source.id] = source, nbytes
            self._sources.move_to_end(source.id)
            total = sum(size for _, size in self._sources.values())
            while total > self._limit and len(self._sources) > 1:
                total -= self._sources.popitem(last=False)[1][1]

    def get(self, key: str) -> Source:
        """A picture by its id.

        Raises:
            ApiError: it was never sent, or long ago (404).
        """
        with self._lock:
            if key not in self._sources:
                raise not_found("image: send it, or send it again")
            self._sources.move_to_end(key)
            return self._sources[key][0]


class Service:
    """One model, the pictures that it knows, and all that is kept for the next request.

    Args:
        settings: all that it is told.
        replicas: processes that have the model; this one where None.
    """

    def __init__(self, settings: Settings, replicas: Model | None = None) -> None:
        self.settings, limits = settings, settings.limits
        self.bundle = read_bundle(settings.bundle, settings.decoder)
        self.metrics = Metrics()
        self.events = Events(limits.streams)
        self.pixels = Pixels(limits.decoded)
        self._model: Model = Here(settings) if replicas is None else replicas
        self.uploads = Uploads(limits.images)
        self.on_encoding: Callable[[str, Status], None] = lambda key, status: None
        self.encodings: Encodings[Any] = Encodings(
            self._model.encode,
            keep=max(1, limits.encodings // self._model.nbytes),
            queue=limits.queue,
            threads=self._model.at_a_time,
            tell=lambda key: self.on_encoding(key, self.encodings.status(key)),
        )
        self.gauges: dict[str, tuple[str, Callable[[], float]]] = {
            "i2f_queue_length": ("Encodings that wait.", lambda: len(self.encodings)),
            "i2f_encodings": ("Encodings in memory.", lambda: self.encodings.kept),
            "i2f_encoded_total": ("Pictures that were encoded.", lambda: self.encodings.made),
            "i2f_pixels_bytes": ("Memory of decoded pictures.", lambda: self.pixels.nbytes),
            "i2f_listeners": ("Clients that listen to events.", lambda: len(self.events)),
            **self._model.gauges,
        }
        self._newest: OrderedDict[tuple[str, bool], int] = (
            OrderedDict()
        )  # sequence number of the last click and preview
        self._decoders = ThreadPoolExecutor(max(4, available_cpus()), thread_name_prefix="decode")

    def close(self) -> None:
        """End all threads."""
        self.events.close()
        self.encodings.close()
        self._decoders.shutdown(cancel_futures=True)
        self._model.close()

    # Pictures

    def add(self, content: bytes) -> Source:
        """Keep the content of a picture's file. It is decoded, to know that it can be.

        Raises:
            ApiError: it is no picture, or too large (422).
        """
        source = self._source(content, lambda: content)
        self.uploads.add(source, len(content))
        return source

    def add_file(self, path: str) -> Source:
        """Keep a file below an allowed folder by its name.

        Raises:
            ApiError: it lies in none, links followed, or is no picture; which of both is not said of files elsewhere.
        """
        load = functools.partial(read_file, self.settings.folders, path, self.settings.limits.upload)
        source = self._source(load(), load)
        self.uploads.add(source, 0)
        return source

    def _source(self, content: bytes, load: Callable[[], bytes]) -> Source:
        key = hashlib.sha256(content).hexdigest()[:32]
        try:
            image = self.pixels.get(key, functools.partial(self._decode, content)).levels[0]
        except PictureError as error:
            raise ApiError(422, "picture", str(error)) from error
        height, width, _ = image.shape
        return Source(key, height, width, load)

    def _decode(self, content: bytes) -> Image:
        return read_image(content, max_pixels=self.settings.limits.pixels, tell=lambda line: None)

    def pyramid(self, source: Source) -> Pyramid:
        """A picture at all its sizes.

        Raises:
            PictureError, OSError: its file has changed or is gone.
        """
        return self.pixels.get(source.id, lambda: self._decode(source.load()))

    # Encodings

    def open(self, source: Source, region: Region, *, ahead: bool = False) -> Status:
        """Have a picture, or a region of it, encoded.

        Raises:
            ApiError: too many wait (503).
        """
        self._request(source, region, ahead=ahead)
        return self.status(source, region)

    def status(self, source: Source, region: Region) -> Status:
        """How far that is."""
        return self.encodings.status(_key(source, region))

    def _request(self, source: Source, region: Region, *, ahead: bool = False) -> Future[Any]:
        return self.encodings.request(_key(source, region), region, lambda: self.pyramid(source).levels[0], ahead=ahead)

    # Masks

    async def predict(
        self,
        source: Source,
        prompts: Sequence[WirePrompt],
        region: Region | None = None,
        *,
        client: str = "",
        sequence: int | None = None,
        preview: bool = False,
        gone: Callable[[], Awaitable[bool]] | None = None,
        answer: Callable[[Mask, Region], T],
    ) -> T:
        """The mask that prompts make of a picture, which is encoded first if need be.

        Args:
            source: the picture.
            prompts: all of them, in order.
            region: what is encoded of the picture; all of it where None.
            client: who asks: the client's last prompts are remembered best.
            sequence: of this client: a request is dropped when a click with a greater number has come, or, if it is a
                preview, another preview.
            preview: the last prompt is only where the pointer is.
            gone: whether the client has left meanwhile.
            answer: makes the result of the region's mask, in the decoding thread; it must not change the mask.

        Raises:
            ApiError: a prompt is not possible (400), the picture cannot be encoded (422), a newer request has come
                (409), or too many wait (503).
        """
        region = region or Region.whole(source.height, source.width)
        self._note(client, sequence, preview)
        opened = await self._opened(source, region, gone)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._decoders, self._predict, source, region, opened, prompts, client, sequence, preview, answer
        )

    async def runs(self, source: Source, prompts: Sequence[WirePrompt], region: Region | None = None) -> Runs:
        """The mask that prompts make of a picture, as run lengths: `predict` for the simplest case."""
        return await self.predict(source, prompts, region, answer=runs_of)

    async def _opened(self, source: Source, region: Region, gone: Callable[[], Awaitable[bool]] | None) -> Any:
        future = self._request(source, region)
        if not future.done():
            waiting = asyncio.wrap_future(future)
            waiting.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # it is looked at
            while not (await asyncio.wait({waiting}, timeout=LOOK_SECONDS))[0]:
                if gone is not None and await gone():
                    self.metrics.left.add()
                    raise ApiError(499, "gone", "the client has left")  # others may wait for it: it goes on
        try:
            return future.result()
        except CancelledError:
            raise busy("the server ends", 10) from None

    def _predict(
        self,
        source: Source,
        region: Region,
        opened: Any,
        prompts: Sequence[WirePrompt],
        client: str,
        sequence: int | None,
        preview: bool,
        answer: Callable[[Mask, Region], T],
    ) -> T:
        still_wanted = functools.partial(self._check_newest, client, sequence, preview)
        still_wanted()
        with self.metrics.predictions.timed():
            mask = self._model.predict(_key(source, region), opened, prompts, client, preview, still_wanted)
        return answer(mask, region)

    def _note(self, client: str, sequence: int | None, preview: bool) -> None:
        if sequence is None:
            return
        key = client, preview
        self._newest[key] = max(sequence, self._newest.pop(key, sequence))
        while len(self._newest) > CLIENTS:
            self._newest.popitem(last=False)
        self._check_newest(client, sequence, preview)

    def _check_newest(self, client: str, sequence: int | None, preview: bool) -> None:
        """Drop what is not waited for any more: what is older than a click, and previews older than another."""
        if sequence is None:
            return
        kinds = (False, True) if preview else (False,)
        if any(self._newest.get((client, kind), sequence) > sequence for kind in kinds):
            self.metrics.stale.add()
            raise ApiError(409, "stale", "a newer request of this client has come")


def find_below(folders: Sequence[Path], name: str) -> Path:
    """A file below one of some folders, once all links are followed.

    Args:
        folders: that are allowed.
        name: relative to one of them.

    Raises:
        ApiError: there is none (404).
    """
    if "\0" not in name and not Path(name).is_absolute():
        for folder in folders:
            try:
                root = folder.resolve(strict=True)
                file = (root / name).resolve(strict=True)
            except (OSError, RuntimeError):  # a loop of links
                continue
            if file.is_relative_to(root) and file.is_file():
                return file
    raise not_found("file below the allowed folders")


def read_file(folders: Sequence[Path], name: str, most: int) -> bytes:
    """The content of such a file.

    Raises:
        ApiError: there is none (404), or it is too large (413).
    """
    try:
        with find_below(folders, name).open("rb") as opened:
            content = opened.read(most + 1)
    except OSError:
        raise not_found("file below the allowed folders") from None
    if len(content) > most:
        raise ApiError(413, "too_large", f"the file has more than {most} bytes")
    return content


def _key(source: Source, region: Region) -> str:
    return source.id if region.is_whole else f"{source.id}/{','.join(map(str, region.sides))}"
