"""A PostgreSQL server of one's own, where PostgreSQL is installed."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

OTHERS_LEAVE = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE pid <> pg_backend_pid() AND datname = current_database()
"""


class NotInstalledError(RuntimeError):
    """PostgreSQL is not here, or cannot be set up."""


def find(program: str) -> str:
    """A program of PostgreSQL; Debian keeps them off the path."""
    folders = [os.environ["PATH"], *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True))]
    found = shutil.which(program, path=os.pathsep.join(folders))
    if not found:
        raise NotInstalledError("PostgreSQL is not installed")
    return found


def _words(path: Path) -> list[str]:
    """Of the file in which the server says its process and what it does, while it is there."""
    try:
        return path.read_text().split()
    except FileNotFoundError:
        return []


class Server:
    """A server in a folder of its own; its one database is `url`."""

    def __init__(self, folder: Path, fsync: bool) -> None:
        self._user = None
        if os.getuid() == 0:  # as whom it refuses to run
            there = {entry.pw_name for entry in pwd.getpwall()}
            self._user = next((name for name in ("postgres", "nobody") if name in there), None)
            shutil.chown(folder, self._user)
        self._folder = folder
        self._options = ["-c", "listen_addresses=127.0.0.1", "-c", f"fsync={'on' if fsync else 'off'}"]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.url = f"postgresql://tests@127.0.0.1:{self._port}/postgres"
        command = [find("initdb"), "-D", folder / "data", "-U", "tests", "--auth=trust", "--no-sync"]
        made = subprocess.run(command, user=self._user, cwd=folder, capture_output=True, text=True)
        if made.returncode:
            raise NotInstalledError(f"PostgreSQL cannot be set up here: {made.stderr[-200:]}")

    def start(self) -> None:
        """Start it, and wait until it answers."""
        data = self._folder / "data"
        command = [find("postgres"), "-D", data, "-p", str(self._port), "-k", self._folder, *self._options]
        options = {"user": self._user, "cwd": self._folder, "start_new_session": True}
        with (self._folder / "log").open("a") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log, **options)
        while not {str(self.process.pid), "ready"} <= set(_words(data / "postmaster.pid")):
            if self.process.poll() is not None:
                raise RuntimeError((self._folder / "log").read_text())

    def stop(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """Stop it at once, as after a crash; a signal goes to all its processes."""
        pid = self.process.pid
        others = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for each in (pid, *map(int, others)):
            with suppress(ProcessLookupError):
                os.kill(each, how)
        self.process.wait()


@contextmanager
def server(*, fsync: bool = False) -> Iterator[Server]:
    """A running server.

    Raises:
        NotInstalledError: there is none.
    """
    folder = Path(tempfile.mkdtemp(prefix="i2f-postgres-"))
    try:
        made = Server(folder, fsync)
        made.start()
        try:
            yield made
        finally:
            made.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
