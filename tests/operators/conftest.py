from __future__ import annotations

import re
import shutil
from pathlib import Path
from zlib import crc32

import pytest
from operators.harness import FAILURES, TIERS, Library, expected_tiers, library_path


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--every",
        type=int,
        default=1,
        metavar="N",
        help="of the cases of each test, run the first on each tier and one of N of the others",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the cases that `--every` passes over: the same in each process, and of no pattern."""
    seen: set[tuple[str, str]] = set()
    kept, passed_over = [], []
    for item in items:
        test, _, case = item.nodeid.partition("[")
        group = test, re.split(r"[-\]]", case)[0]
        one_of_many = crc32(item.nodeid.encode()) % config.getoption("--every") == 0
        keep = one_of_many or group not in seen or item.get_closest_marker("every_case")
        (kept if keep else passed_over).append(item)
        seen.add(group)
    items[:] = kept
    config.hook.pytest_deselected(items=passed_over)


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
    assert (library.run("OperatorInfo", {})[0] == request.param).all()
    return library
