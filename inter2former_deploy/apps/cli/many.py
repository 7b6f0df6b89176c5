"""What the commands for many pictures share: who does the work, and how it is told of."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from inter2former_deploy.core.packages import RAY_MODULES, require

if TYPE_CHECKING:
    from inter2former_deploy.apps.batch.work import Chunk, Job, Outcome

NAMED = 20  # of many files; --json names all
HERE = "local"  # the address of a cluster that Ray starts on this machine and ends with the command

Ray = Annotated[
    str | None,
    typer.Option(
        metavar="[ADDRESS]",
        help="Let workers of Ray do it: on this machine, or of the cluster at ADDRESS (auto, HOST:PORT, ray://HOST:PORT).",
        show_default=False,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1, help="Workers of Ray, each with the model; as many as the CPUs allow if not given.", show_default=False
    ),
]

_ADDRESS = re.compile(r"local|auto|ray://.+|[\w.\-\[\]]+:\d+")


class RayCommand(TyperCommand):
    """A command whose --ray may stand without an address."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, with the address of this machine where none is given."""
        given: list[str] = []
        for word, following in zip(args, [*args[1:], ""], strict=True):
            given.append(word)
            if word == "--ray" and not _ADDRESS.fullmatch(following):
                given.append(HERE)
        return super().parse_args(ctx, given)


def check_ray(ray: str | None, workers: int | None, command: str) -> None:
    """Refuse, before any work, what cannot be done with Ray.

    Raises:
        MissingPackageError: it is not installed.
        ValueError: there are workers without it.
    """
    if ray is not None:
        require(*RAY_MODULES, extra="ray", needed_by=f"{command} --ray")
    elif workers is not None:
        raise ValueError("--workers is for --ray: without it, one process does all")


@contextmanager
def outcomes_of(
    job: Job, chunks: Sequence[Chunk], threads: int | None, ray: str | None, workers: int | None
) -> Iterator[Iterator[Outcome]]:
    """The work, done by this process or by workers of Ray. Whatever ends it, files that were begun are whole then."""
    if not chunks:
        yield iter(())
        return
    if ray is None:
        done = job.begin(threads)(chunks)
    else:
        from inter2former_deploy.apps.batch.on_ray import run

        done = run(job, chunks, address=ray, workers=workers, threads=threads)
    with closing(done):
        yield done


def some(names: list[str]) -> str:
    """The first of many names."""
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
