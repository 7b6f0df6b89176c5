"""The pictures of a project as sources: those whose files lie in its folder, links followed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Event, Thread

from inter2former_deploy.annotations.project import Picture, Project, Skipped, content_hash
from inter2former_deploy.apps.server.errors import ApiError, not_found
from inter2former_deploy.apps.server.service import Source, find_below, read_file
from inter2former_deploy.core.errors import DatabaseError

_log = logging.getLogger(__name__)

TELL_SECONDS = 1  # between two words on what was found
LOOK_SECONDS = 2  # after a look, until the list of pictures makes another begin


class Catalogue:
    """Looks through the folder in a thread of its own; what it has found so far is there at once.

    It looks again when a file is not the picture any more that it was, and when the list is asked for after a while.

    Args:
        project: with a folder.
        most: bytes of a file.
        tell: called every now and then when there are other pictures, and at the end of the first look.
        note: called with a line for every file that is no picture of the project.
    """

    def __init__(self, project: Project, most: int, tell: Callable[[], None], note: Callable[[str], None]) -> None:
        self._project, self._most, self._tell, self._note = project, most, tell, note
        self._folder = project.folder or Path()
        self._sources: dict[str, Source] = {}  # also of pictures whose files have gone
        self._present: set[str] = set()  # those of the files that are there
        self._shown: set[str] = set()  # as the last look left them
        self._noted: set[str] = set()
        self._ends = False
        self._wanted = Event()
        self._looked = 0.0  # when the last look ended
        self.done = Event()  # the first look has ended
        self._thread = Thread(target=self._work, name="scan", daemon=True)
        self._thread.start()

    def source(self, picture: str) -> Source:
        """A picture by its id; one whose file was replaced is known as before, but cannot be read any more.

        Raises:
            ApiError: there is none (404).
        """
        found = self._sources.get(picture)
        if found is None:
            raise not_found("picture")
        return found

    def pictures(self) -> list[Picture]:
        """Those that were found, by name, with the number of their objects."""
        if self.done.is_set() and time.monotonic() - self._looked > LOOK_SECONDS:
            self._wanted.set()
        return [picture for picture in self._project.pictures() if picture.id in self._present]

    def close(self) -> None:
        """Stop looking."""
        self._ends = True
        self._wanted.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._ends:
            self._wanted.clear()
            try:
                self._scan()
            except (OSError, DatabaseError) as error:
                _log.error("looking through the folder failed: %s", type(error).__name__)
            self._looked = time.monotonic()
            if not self.done.is_set():
                self.done.set()
                self._tell()
            self._wanted.wait()

    def _scan(self) -> None:
        told = time.monotonic()
        found_now: set[str] = set()
        for found in self._project.scan():
            if self._ends:
                return
            if isinstance(found, Skipped):
                self._note_once(f"{found.name}: {found.reason}")
                continue
            try:
                find_below([self._folder], found.name)
            except ApiError:
                self._note_once(f"{found.name}: a link that leads out of the folder is not followed")
                continue
            load = partial(self._load, found.id, found.name)
            self._sources[found.id] = Source(found.id, found.height, found.width, load)
            self._present.add(found.id)
            found_now.add(found.id)
            if not self.done.is_set() and time.monotonic() - told > TELL_SECONDS:
                self._tell()
                told = time.monotonic()
        before, self._present = self._shown, found_now
        self._shown = found_now
        if self.done.is_set() and before != found_now:
            self._tell()

    def _note_once(self, line: str) -> None:
        if line not in self._noted:
            self._noted.add(line)
            self._note(line)

    def _load(self, picture: str, name: str) -> bytes:
        """The file's content, which is still that of the picture."""
        try:
            content = read_file([self._folder], name, self._most)
        except ApiError:
            self._wanted.set()
            raise
        if content_hash(content) != picture:
            self._project.reread(name)
            self._wanted.set()
            raise ApiError(409, "changed", "the picture's file holds another picture now: open that one")
        return content
