"""Sessions of programs that send one prompt at a time: the prompts that were sent, for some time after the last."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass, field

from inter2former_deploy.apps.server.errors import busy, not_found
from inter2former_deploy.apps.server.service import Source
from inter2former_deploy.apps.server.wire import PromptJson
from inter2former_deploy.runtime.region import Region


@dataclass(eq=False)
class ClientSession:
    """What a program has said about an object. Requests take turns by its lock."""

    id: str
    source: Source
    region: Region
    expires: float  # seconds since 1970
    prompts: list[PromptJson] = field(default_factory=list)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Sessions:
    """All of them. For the event loop's thread alone.

    Args:
        most: at once.
        seconds: that one lives after its last use.
    """

    def __init__(self, most: int, seconds: float) -> None:
        self._most, self._seconds = most, seconds
        self._sessions: OrderedDict[str, ClientSession] = OrderedDict()  # the last used at the end

    def make(self, source: Source, region: Region) -> ClientSession:
        """A session without prompts.

        Raises:
            ApiError: there are too many (503).
        """
        self._forget()
        if len(self._sessions) >= self._most:
            oldest = next(iter(self._sessions.values()))
            raise busy(f"there are {self._most} sessions: delete those that are done", oldest.expires - time.time())
        session = ClientSession(secrets.token_urlsafe(16), source, region, time.time() + self._seconds)
        self._sessions[session.id] = session
        return session

    def get(self, key: str) -> ClientSession:
        """A session, which then lives on.

        Raises:
            ApiError: it was never made, was deleted, or its time is over (404).
        """
        self._forget()
        if key not in self._sessions:
            raise not_found("session: its time may be over")
        session = self._sessions[key]
        session.expires = time.time() + self._seconds
        self._sessions.move_to_end(key)
        return session

    def delete(self, key: str) -> None:
        """End a session."""
        self.get(key)
        del self._sessions[key]

    def __len__(self) -> int:
        self._forget()
        return len(self._sessions)

    def _forget(self) -> None:
        now = time.time()
        while self._sessions and next(iter(self._sessions.values())).expires < now:
            self._sessions.popitem(last=False)
