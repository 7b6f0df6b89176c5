from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from operators.harness import FAILURES, TIERS, Library, expected_tiers, library_path


@pytest.fixture(scope="session", params=TIERS)
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Library:
    """The library on each tier in turn: copies of the file are separate libraries, each chooses its tier once."""
    path: Path = tmp_path_factory.mktemp(request.param) / library_path().name
    shutil.copy(library_path(), path)
    library = Library(request.param, path)
    if request.param in expected_tiers():
        library.options()
    else:
        with pytest.raises(FAILURES, match="INTER2FORMER_TIER: expected one of"):
            library.options()
        pytest.skip(f"this machine lacks the tier {request.param}")
    assert library.run("OperatorInfo", {})[0] == request.param
    return library
