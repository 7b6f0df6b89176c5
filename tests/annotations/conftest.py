"""Databases to keep annotations in: SQLite, and PostgreSQL where it is installed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from postgres import OTHERS_LEAVE, NotInstalledError, server

pytest.importorskip("sqlalchemy", reason="the extra serve is not installed")


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL database."""
    pytest.importorskip("psycopg")
    try:
        with server() as running:
            yield running.url
    except NotInstalledError as error:
        pytest.skip(str(error))


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'annotations.sqlite3'}"
    import psycopg

    found: str = request.getfixturevalue("postgres_url")
    with psycopg.connect(found, autocommit=True) as connection:
        connection.execute(OTHERS_LEAVE)
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    return found
