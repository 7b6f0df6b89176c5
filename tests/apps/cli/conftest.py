from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

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
