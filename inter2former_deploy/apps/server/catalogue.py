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


class Catalogue:
    """Looks through the folder in a thread of its own; what it has found so far is there at once.

    Args:
        project: with a folder.
        most: bytes of a file.
        tell: called every now and then when there are more pictures, and at the end.
        note: called with a line for every file that is no picture of the project.
    """

    def __init__(self, project: Project, most: int, tell: Callable[[], None], note: Callable[[str], None]) -> None:
        self._project, self._most, self._tell, self._note = project, most, tell, note
        self._folder = project.folder or Path()
        self._sources: dict[str, Source] = {}
        self._ends = False
        self.done = Event()
        self._thread = Thread(target=self._scan, name="scan", daemon=True)
        self._thread.start()

    def source(self, picture: str) -> Source:
        """A picture by its id.

        Raises:
            ApiError: there is none (404).
        """
        found = self._sources.get(picture)
        if found is None:
            raise not_found("picture")
        return found

    def pictures(self) -> list[Picture]:
        """Those that were found, by name, with the number of their objects."""
        return [picture for picture in self._project.pictures() if picture.id in self._sources]

    def close(self) -> None:
        """Stop looking."""
        self._ends = True
        self._thread.join()

    def _scan(self) -> None:
        told = time.monotonic()
        try:
            for found in self._project.scan():
                if self._ends:
                    return
                if isinstance(found, Skipped):
                    self._note(f"{found.name}: {found.reason}")
                    continue
                try:
                    find_below([self._folder], found.name)
                except ApiError:
                    self._note(f"{found.name}: a link that leads out of the folder is not followed")
                    continue
                load = partial(self._load, found.id, found.name)
                self._sources[found.id] = Source(found.id, found.height, found.width, load)
                if time.monotonic() - told > TELL_SECONDS:
                    self._tell()
                    told = time.monotonic()
        except (OSError, DatabaseError) as error:
            _log.error("looking through the folder failed: %s", type(error).__name__)
        finally:
            self.done.set()
        self._tell()

    def _load(self, picture: str, name: str) -> bytes:
        """The file's content, which is still that of the picture."""
        content = read_file([self._folder], name, self._most)
        if content_hash(content) != picture:
            raise ApiError(409, "changed", "the picture's file has changed: start the server again")
        return content
