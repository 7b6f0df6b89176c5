"""Kill -9 at random moments of a session that annotates: nothing that was acknowledged may be lost.

    python scripts/kill_annotations.py --kills 100 --database sqlite|postgresql|server

A process writes objects of a project, one version after the other, deletes and restores some, and says each answer on
a pipe after it has it. It is killed after a random time; then the database is opened, and every answer
that was said must be there, in its version. With `server` PostgreSQL itself is killed, all its processes at once, and
started again, while the writing process waits for it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TextIO

import numpy as np
from PIL import Image

from inter2former_deploy.annotations.project import Draft, Object, Project
from inter2former_deploy.core.errors import DatabaseLostError
from inter2former_deploy.core.runs import Runs

HEIGHT, WIDTH = 300, 400


def write(url: str, folder: Path, seed: int, output: int) -> None:
    """Annotate until killed; a line `id version deleted digest` for each answer."""
    rng = np.random.default_rng(seed)
    say = partial(print, file=os.fdopen(output, "w"), flush=True)
    with Project.open(url, folder) as project:
        list(project.scan())
        picture = project.pictures()[0].id
        there = {entry.id: entry for entry in project.objects(picture)}
        say("ready")
        while True:
            key = (
                str(uuid.UUID(bytes=rng.bytes(16))) if len(there) < 5 or rng.random() < 0.2 else rng.choice(list(there))
            )
            old = there.get(key)
            mask = np.zeros((HEIGHT, WIDTH), bool)
            x, y = rng.integers(0, (WIDTH - 50, HEIGHT - 50))
            mask[y : y + 50, x : x + 50] = rng.random((50, 50)) < 0.8
            draft = Draft(class_name="cat", mask=Runs.of(mask), author=f"writer {seed}")
            try:
                if old is None or old.deleted or rng.random() < 0.8:
                    new = project.put_object(picture, key, draft, old.version if old else 0)
                else:
                    new = project.delete_object(picture, key, old.version)
            except DatabaseLostError:  # with --database server: it comes back, maybe with what was on its way
                time.sleep(0.05)
                if (known := last_version(project, picture, key)) is not None:
                    there[key] = known
                continue
            there[key] = new
            say(key, new.version, int(new.deleted), hash(new.mask.counts))


def last_version(project: Project, picture: str, key: str) -> Object | None:
    """The last version of an object, as soon as the database answers."""
    while True:
        try:
            found = project.history(picture, key)
        except DatabaseLostError:
            time.sleep(0.05)
        else:
            return found[-1] if found else None


def check(url: str, folder: Path, answers: dict[tuple[str, int], tuple[int, int]]) -> None:
    """Every answer is there."""
    with Project.open(url, folder, create=False) as project:
        list(project.scan())
        picture = project.pictures()[0].id
        for key in {key for key, _ in answers}:
            versions = {entry.version: entry for entry in project.history(picture, key)}
            newest = max(versions)
            for (other, version), (deleted, digest) in answers.items():
                if other == key and version > newest - 50:
                    entry = versions[version]
                    if (int(entry.deleted), hash(entry.mask.counts)) != (deleted, digest):
                        raise SystemExit(f"version {version} of {key} is not what was acknowledged")


@contextmanager
def database(kind: str, folder: Path) -> Iterator[tuple[str, object]]:
    """The URL of a new database, and the server to kill, if any."""
    if kind == "sqlite":
        yield f"sqlite:///{folder}/annotations.sqlite3", None
        return
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    import postgres

    with postgres.server(fsync=True) as running:
        yield running.url, running if kind == "server" else None


def main() -> None:
    """Kill, look, and print a line at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--database", choices=("sqlite", "postgresql", "server"), default="sqlite")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=0.5, help="seconds until a kill, at most")
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    with tempfile.TemporaryDirectory() as place, database(arguments.database, Path(place)) as (url, server):
        folder = Path(place) / "photos"
        folder.mkdir()
        Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(folder / "a.png")
        answers: dict[tuple[str, int], tuple[int, int]] = {}
        for number in range(arguments.kills):
            process, lines = start(url, folder, number)
            time.sleep(random.uniform(0, arguments.longest))
            if server is not None:
                server.stop(signal.SIGKILL)  # type: ignore[attr-defined]
                server.start()  # type: ignore[attr-defined]
                time.sleep(0.2)
            process.kill()
            process.join()
            with lines:
                for line in lines:
                    if line.endswith("\n"):
                        key, version, deleted, digest = line.split()
                        answers[key, int(version)] = int(deleted), int(digest)
            check(url, folder, answers)
    counts = {"kills": arguments.kills, "acknowledged": len(answers), "lost": 0}
    print(json.dumps({"database": arguments.database, **counts}))


def start(url: str, folder: Path, seed: int) -> tuple[multiprocessing.Process, TextIO]:
    """A writing process that has opened the database, and what it says."""
    reading, writing = os.pipe()
    process = multiprocessing.get_context("fork").Process(target=write, args=(url, folder, seed, writing))
    process.start()
    os.close(writing)
    lines = os.fdopen(reading)
    if lines.readline() != "ready\n":
        raise SystemExit("the writing process did not start")
    return process, lines


if __name__ == "__main__":
    main()
