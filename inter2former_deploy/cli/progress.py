"""What the long commands share: steps on standard error, and a word about what is not installed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import typer

EXPORT_PACKAGES = ("torch", "onnx", "onnx_ir", "onnxscript", "safetensors")


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


@contextmanager
def export_extra() -> Iterator[None]:
    """Imports of `inter2former_deploy.exporters`: what is missing becomes an error of bad input that says what to do.

    Raises:
        ValueError: a package of the export extra is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in EXPORT_PACKAGES:
            raise
        raise ValueError(
            f"this command needs {error.name}, which is not installed: pip install 'inter2former-deploy[export]'"
        ) from error
