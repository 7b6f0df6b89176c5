from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from toy_bundle import write_toy_bundle

from inter2former_deploy.apps.cli import main


class Done(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def i2f(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """`i2f("segment", bundle, ...)` runs the command in this process."""

    def run(*arguments: object) -> Done:
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        code = end.value.code
        captured = capsys.readouterr()
        return Done(code if isinstance(code, int) else 0, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def toy_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of toy graphs; do not damage it."""
    return write_toy_bundle(tmp_path_factory.mktemp("toy") / "bundle")


@pytest.fixture
def disk_full_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], AbstractContextManager[None]]:
    """A context in which the n-th file that is written finds no space left on the disk."""

    @contextmanager
    def full(number: int) -> Iterator[None]:
        open_, calls = Path.open, count(1)

        def sometimes(self: Path, mode: str = "r", *others: Any, **named: Any) -> Any:
            if mode == "wb" and next(calls) == number:
                raise OSError(28, "No space left on device", str(self))
            return open_(self, mode, *others, **named)

        with monkeypatch.context() as patched:
            patched.setattr(Path, "open", sometimes)
            yield

    return full
