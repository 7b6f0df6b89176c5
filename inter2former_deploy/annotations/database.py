"""The database of annotations: its tables, its migrations, its transactions. SQLite in one file, or PostgreSQL.

Objects and classes are never changed but written anew with the next version: whoever writes a version that is there
already has not seen what somebody else wrote. So the primary keys alone rule out that one silently overwrites another,
and the history of an object is there without further tables.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import exc

from inter2former_deploy.core.errors import DatabaseError, DatabaseFullError, DatabaseLostError, MissingPackageError

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

SCHEMA = "0001"  # the newest of the migrations; a database of it is opened without alembic
WAIT = 30  # seconds for other writers

metadata = sa.MetaData()

pictures = sa.Table(
    "pictures",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),  # hash of the file's content
    sa.Column("name", sa.Text, nullable=False),  # path in the folder, with slashes; of copies the first that was found
    sa.Column("height", sa.Integer, nullable=False),  # pixels, upright
    sa.Column("width", sa.Integer, nullable=False),
)

files = sa.Table(  # so that only new and changed files are read to know their pictures
    "files",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("modified", sa.BigInteger, nullable=False),  # nanoseconds since 1970
    sa.Column("picture", sa.ForeignKey("pictures.id"), nullable=False),
)

classes = sa.Table(
    "classes",
    metadata,
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("classes", sa.JSON, nullable=False),  # [{"name": ..., "colour": "#rrggbb"}, ...] in the order of display
    sa.Column("author", sa.Text, nullable=False),
    sa.Column("changed", sa.String(32), nullable=False),  # ISO 8601, UTC
)

objects = sa.Table(  # large columns last: SQLite reads a row from its beginning
    "objects",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),  # UUID
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("picture", sa.ForeignKey("pictures.id"), nullable=False),
    sa.Column("deleted", sa.Boolean, nullable=False),
    sa.Column("class", sa.Text, nullable=False),
    sa.Column("order", sa.Float, nullable=False),
    sa.Column("hidden", sa.Boolean, nullable=False),
    sa.Column("locked", sa.Boolean, nullable=False),
    sa.Column("author", sa.Text, nullable=False),
    sa.Column("changed", sa.String(32), nullable=False),  # ISO 8601, UTC
    sa.Column("region", sa.JSON(none_as_null=True)),  # [x0, y0, x1, y1] or null
    sa.Column("prompts", sa.JSON, nullable=False),  # in order
    sa.Column("counts", sa.JSON, nullable=False),  # run lengths of the mask
    sa.Index("objects_of_picture", "picture", "id", "version"),
)


class Database:
    """Reads and writes in transactions. For several threads.

    Args:
        url: `sqlite:///path` or `postgresql://user@host/name`; other schemes are refused.
        create: make the tables, and a file, where there are none.

    Raises:
        DatabaseError: it cannot be opened, is no database of annotations, or a newer one.
        ValueError: the URL is none of these.
        MissingPackageError: the driver is not installed.
    """

    def __init__(self, url: str, *, create: bool = True) -> None:
        self._url = _checked_url(url)
        self._file: Path | None = None
        self._identity: tuple[int, int] | None = None  # of the file
        if self._url.get_backend_name() == "sqlite":
            self._file = Path(self._url.database or "").absolute()
            if not create and not self._file.is_file():
                raise DatabaseError(f"there is no database of annotations {self._file}")
            if not self._file.parent.is_dir():
                raise DatabaseError(f"{self._file}: there is no folder {self._file.parent}")
        self.name = str(self._file or self._url.render_as_string(hide_password=True))
        self._engine = self._make_engine()
        try:
            with self._errors():
                self._migrate(create)
        except BaseException:
            self.close()
            raise
        if self._file is not None:
            self._identity = _identity(self._file)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def _make_engine(self) -> sa.Engine:
        options: dict[str, Any] = {"json_serializer": partial(json.dumps, separators=(",", ":"), allow_nan=False)}
        if self._file is not None:
            engine = sa.create_engine(self._url, connect_args={"timeout": WAIT}, **options)
            sa.event.listen(engine, "connect", _on_sqlite_connect)
            sa.event.listen(engine, "begin", _on_sqlite_begin)
            return engine
        durable = {"connect_timeout": 10, "options": f"-c synchronous_commit=on -c lock_timeout={WAIT}s"}
        return sa.create_engine(self._url, connect_args=durable, pool_pre_ping=True, **options)

    def _migrate(self, create: bool) -> None:
        """Bring the tables to `SCHEMA`."""
        with self._engine.connect().execution_options(writes=True) as connection, connection.begin():
            if self._file is None:  # SQLite's transaction has begun with the lock
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(4926322)"))
            there = set(sa.inspect(connection).get_table_names())
            version = None
            if "alembic_version" in there:
                version = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
            if version == SCHEMA:
                return
            if version is None and (there or not create):
                raise DatabaseError(f"{self.name} is no database of annotations: name another one")
            if version is not None and version > SCHEMA:
                raise DatabaseError(
                    f"{self.name} was written by a newer inter2former-deploy (schema {version}, here {SCHEMA}): "
                    "update inter2former-deploy"
                )
            upgrade(connection)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that sees one state of the database.

        Raises:
            DatabaseError: what went wrong.
        """
        with self._errors(), self._engine.connect() as connection, connection.begin():
            if self._file is None:
                connection.execute(sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that is on disk when the block has ended well, and nowhere when it has not.

        Raises:
            DatabaseError: what went wrong.
        """
        self._check_file()
        with self._errors(), self._engine.connect().execution_options(writes=True) as connection, connection.begin():
            yield connection

    def _check_file(self) -> None:
        """SQLite would go on writing into a file that was deleted or replaced."""
        if self._file is not None and _identity(self._file) != self._identity:
            raise DatabaseLostError(
                f"the database {self.name} was moved, deleted or replaced: put it back, or stop and start again"
            )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except exc.IntegrityError:
            raise  # of versions; told by those who know what was written
        except exc.DBAPIError as error:
            raise self._named(error) from error
        except exc.TimeoutError as error:
            raise DatabaseError(f"{self.name}: no connection became free: try again") from error

    def _named(self, error: exc.DBAPIError) -> DatabaseError:
        why = " ".join(str(error.orig).split())[:300]
        state = getattr(error.orig, "sqlstate", None) or ""
        if "disk is full" in why or state == "53100":
            return DatabaseFullError(f"the disk of {self.name} is full, nothing was written: make room and try again")
        if self._file is not None:
            if "is locked" in why:
                return DatabaseError(f"{self.name} is in use by another program for {WAIT} s: try again")
            if "readonly" in why or "unable to open" in why:
                lost = self._identity is not None and _identity(self._file) != self._identity
                kind = DatabaseLostError if lost else DatabaseError
                return kind(f"{self.name} cannot be written ({why}): check the file's and its folder's permissions")
            if "not a database" in why:
                return DatabaseError(f"{self.name} is no database of annotations: name another one")
            return DatabaseError(f"{self.name}: {why}")
        if error.connection_invalidated or isinstance(error, exc.OperationalError) or state[:2] in ("08", "57"):
            return DatabaseLostError(f"the database {self.name} does not answer ({why}): start it and try again")
        return DatabaseError(f"{self.name}: {why}")


def insert(connection: Connection, table: sa.Table) -> Any:
    """An insertion that knows what to do where a row is there already."""
    from sqlalchemy.dialects import postgresql, sqlite

    return (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(table)


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Bring a database to a schema, within the transaction of a connection."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", f"{__package__}:migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def url_of_file(path: str | os.PathLike[str]) -> str:
    """The URL of an SQLite file."""
    return sa.URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)


def _checked_url(url: str) -> sa.URL:
    try:
        made = sa.make_url(url)
    except exc.ArgumentError:
        raise ValueError("a database is named as sqlite:///PATH or postgresql://USER@HOST/NAME") from None
    kind = made.drivername
    if kind == "sqlite":
        if not made.database or made.database == ":memory:" or made.query:
            raise ValueError("an SQLite database is named as sqlite:///PATH, without options")
        return made
    if kind in ("postgresql", "postgres", "postgresql+psycopg"):
        try:
            import psycopg  # noqa: F401
        except ImportError as error:
            raise MissingPackageError(
                f"PostgreSQL needs psycopg, which is not installed ({error}): "
                "pip install 'inter2former-deploy[postgres]'"
            ) from error
        return made.set(drivername="postgresql+psycopg")
    raise ValueError(f"a database is sqlite:///PATH or postgresql://USER@HOST/NAME, not one of {kind}")


def _on_sqlite_connect(connection: sqlite3.Connection, _: object) -> None:
    connection.isolation_level = None  # transactions begin below, not where the driver thinks
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")


def _on_sqlite_begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
