"""Events for the clients that listen: each gets those from when it began to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from inter2former_deploy.apps.server.errors import busy

WAITING = 256  # events that a client may lag behind; beyond it is sent away, comes again and reads everything anew
SILENCE = 15  # seconds after which a comment is sent, so that whoever has left is noticed


class Events:
    """Sends events to any number of listeners, from any thread."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._listeners: set[asyncio.Queue[str | None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def send(self, event: dict[str, Any]) -> None:
        """Send an event to all who listen now."""
        if self._loop is not None and self._listeners and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._send, f"data: {json.dumps(event)}\n\n")

    def _send(self, text: str) -> None:
        for queue in list(self._listeners):
            if queue.qsize() >= WAITING:
                self._listeners.discard(queue)
                queue.put_nowait(None)
            else:
                queue.put_nowait(text)

    def close(self) -> None:
        """End all streams, from any thread or signal."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._close)

    def _close(self) -> None:
        for queue in self._listeners:
            queue.put_nowait(None)
        self._listeners.clear()

    def listen(self) -> AsyncIterator[str]:
        """Events as text/event-stream, until the client leaves.

        Raises:
            ApiError: too many clients listen (503).
        """
        if len(self._listeners) >= self._limit:
            raise busy(f"{self._limit} clients listen to events already", 60)
        return self._stream()

    async def _stream(self) -> AsyncIterator[str]:
        self._loop = asyncio.get_running_loop()
        queue: asyncio.Queue[str | None] = asyncio.Queue()
        self._listeners.add(queue)
        try:
            yield ": hello\n\n"
            while True:
                try:
                    text = await asyncio.wait_for(queue.get(), SILENCE)
                except asyncio.TimeoutError:
                    text = ": still here\n\n"
                if text is None:
                    return
                yield text
        finally:
            self._listeners.discard(queue)

    def __len__(self) -> int:
        return len(self._listeners)
