"""What the long commands share: steps on standard error."""

from __future__ import annotations

import time

import typer


class Steps:
    """Prints each step as it begins, with the seconds since the start."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def __call__(self, what: str) -> None:
        """Announce the next step."""
        typer.echo(f"[{self.seconds:7.1f} s] {what}", err=True)

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.perf_counter() - self._start
