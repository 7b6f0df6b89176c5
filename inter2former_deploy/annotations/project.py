"""A project: pictures of a folder, and what people draw on them, kept in a database. The server calls nothing else.

    with Project.open(folder=Path("photos")) as project:
        for _ in project.scan():
            pass
        picture = project.pictures()[0]
        draft = Draft.from_json(request, picture.height, picture.width)
        stored = project.put_object(picture.id, uuid, draft, version=0)

A method that writes returns when the change is on disk. Every object has versions, counted from 1; whoever writes says
which one they have seen, 0 for a new object, and a `ConflictError` carries what somebody else wrote meanwhile.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime, timezone
from pathlib import Path
from threading import Lock
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from inter2former_deploy.annotations import database as db
from inter2former_deploy.annotations.database import Database
from inter2former_deploy.core.errors import ConflictError, PictureError
from inter2former_deploy.core.pictures import picture_files, picture_size
from inter2former_deploy.core.runs import Runs, Sides
from inter2former_deploy.runtime.checks import check_stroke
from inter2former_deploy.runtime.region import Region
from inter2former_deploy.runtime.state import MOST_PROMPTS, prompt_from_json, prompt_to_json

DATABASE_FILE = "annotations.sqlite3"  # in the folder of the pictures
KEPT_VERSIONS = 50  # of an object; older ones go
LONGEST_NAME = 200  # characters of a class or an author
MOST_CLASSES = 10_000
MOST_OBJECTS = 10_000  # of a picture

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Draft:
    """An object as an annotator writes it."""

    class_name: str  # "" where none was chosen
    mask: Runs
    order: float = 0.0  # objects are listed and drawn in this order
    hidden: bool = False
    locked: bool = False
    region: Sides | None = None  # window that was segmented; None for the whole picture
    prompts: tuple[Json, ...] = ()  # in order; those of `runtime.state`, and paint
    author: str = ""

    @classmethod
    def from_json(cls, value: object, height: int, width: int) -> Draft:
        """A draft from what a client sent: class and mask must be there, all else may be left out.

        Args:
            value: `{"class", "order", "hidden", "locked", "region", "prompts", "mask", "author"}`; other keys are
                ignored.
            height: of the picture, pixels.
            width: likewise.

        Raises:
            ValueError: an entry is wrong; the message says which.
        """
        if not isinstance(value, dict):
            raise ValueError(f"an object must be a JSON object, got {type(value).__name__}")
        if missing := [key for key in ("class", "mask") if key not in value]:
            raise ValueError(f"the object lacks {', '.join(missing)}")
        order = value.get("order", 0)
        if type(order) not in (int, float) or not -1e300 < order < 1e300:
            raise ValueError(f"order must be a finite number, got {order!r:.80}")
        try:
            sides = value.get("region")
            region = Region.whole(height, width) if sides is None else Region.of(sides, height, width)
            return cls(
                class_name=_checked_name(value["class"], "class"),
                order=float(order),
                hidden=_checked_bool(value, "hidden"),
                locked=_checked_bool(value, "locked"),
                region=None if sides is None else region.sides,
                prompts=checked_prompts(value.get("prompts", []), region),
                mask=Runs.from_json(value["mask"], height, width),
                author=_checked_name(value.get("author", ""), "author"),
            )
        except TypeError as error:
            raise ValueError(str(error)) from error


@dataclass(frozen=True, kw_only=True)
class Object(Draft):
    """An object as it is kept."""

    id: str  # UUID
    picture: str  # id of the picture
    version: int  # from 1
    changed: str  # ISO 8601, UTC
    deleted: bool = False

    def to_json(self) -> Json:
        """`OBJECT` of the HTTP interface."""
        return {
            "id": self.id,
            "version": self.version,
            "class": self.class_name,
            "order": self.order,
            "hidden": self.hidden,
            "locked": self.locked,
            "region": None if self.region is None else list(self.region),
            "prompts": list(self.prompts),
            "mask": self.mask.to_json(),
            "author": self.author,
            "changed": self.changed,
        }

    @property
    def draft(self) -> Draft:
        """What was written."""
        return Draft(**_values(self))


@dataclass(frozen=True)
class Picture:
    """A picture of the project."""

    id: str  # `content_hash` of its file
    name: str  # path in the folder, with slashes
    height: int  # pixels, upright as `read_image` gives it
    width: int
    objects: int = 0  # how many there are on it


@dataclass(frozen=True)
class Class:
    """A class of objects."""

    name: str
    colour: str  # "#rrggbb"

    @classmethod
    def from_json(cls, value: object) -> Class:
        """A class from what a client sent.

        Raises:
            ValueError: it is none.
        """
        if not isinstance(value, dict) or not {"name", "colour"} <= value.keys():
            raise ValueError("a class must be a JSON object with name and colour")
        name = _checked_name(value["name"], "name")
        if not name:
            raise ValueError("the name of a class must not be empty")
        colour = value["colour"]
        digits = colour[1:] if isinstance(colour, str) and len(colour) == 7 and colour[0] == "#" else ""
        if not digits or set(digits.lower()) - set("0123456789abcdef"):
            raise ValueError(f"colour of a class must be #rrggbb, got {colour!r:.80}")
        return cls(name, colour.lower())

    def to_json(self) -> Json:
        """As `from_json` takes it."""
        return {"name": self.name, "colour": self.colour}


@dataclass(frozen=True)
class Classes:
    """The classes in the order in which they are shown, and the version of this list; 0 before the first."""

    version: int = 0
    classes: tuple[Class, ...] = ()


@dataclass(frozen=True)
class Renamed:
    """A class that has another name now: the list of classes after that, and the objects that were of it."""

    classes: Classes
    objects: Mapping[str, int]  # id -> version that it has now; those that were deleted, too


@dataclass(frozen=True)
class Skipped:
    """A file that `scan` could not take, and why."""

    name: str
    reason: str


class Project:
    """Pictures, classes, objects. Made by `Project.open`; for several threads.

    All methods may raise `DatabaseError` and its kinds; nothing of a change that failed is kept.
    """

    def __init__(self, database: Database, folder: Path | None) -> None:
        self._database = database
        self.folder = folder
        self._found: dict[str, str] = {}  # picture -> name, of the last scan
        self._known: dict[str, str] = {}  # the same of all scans: pictures whose files were replaced keep their objects
        self._lock = Lock()  # on what was found

    @classmethod
    def open(cls, url: str | None = None, folder: Path | None = None, *, create: bool = True) -> Project:
        """Open a project, or begin one.

        Args:
            url: of the database (`Database`); None for SQLite in the folder.
            folder: of the pictures; None to work with what is in the database alone.
            create: begin a new one where there is none.

        Raises:
            DatabaseError: the database cannot be opened, or is another program's.
            ValueError: there is no such folder, or the URL is wrong.
            MissingPackageError: a driver is not installed.
        """
        if folder is not None and not folder.is_dir():
            raise ValueError(f"there is no folder {folder}")
        if url is None:
            if folder is None:
                raise ValueError("name a folder of pictures or a database")
            url = db.url_of_file(folder.absolute() / DATABASE_FILE)
        return cls(Database(url, create=create), folder)

    @property
    def name(self) -> str:
        """The database, for messages."""
        return self._database.name

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def __enter__(self) -> Project:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Pictures

    def scan(self) -> Iterator[Picture | Skipped]:
        """Look through the folder; each picture is there for the other methods as soon as it has been given.

        New and changed files are read to know what they hold. Of files with the same content the first counts.

        Raises:
            RuntimeError: the project has no folder.
        """
        if self.folder is None:
            raise RuntimeError("this project has no folder to scan")
        paths, others = picture_files(self.folder)
        with self._database.reading() as connection:
            known = {row.name: row for row in connection.execute(sa.select(db.files))}
        found: dict[str, str] = {}
        for path in paths:
            name = path.relative_to(self.folder).as_posix()
            try:
                status = path.stat()
                row = known.get(name)
                if row is None or (row.bytes, row.modified) != (status.st_size, status.st_mtime_ns):
                    picture = self._add_file(name, path, status.st_size, status.st_mtime_ns)
                else:
                    picture = row.picture
            except (OSError, PictureError, ValueError) as error:
                yield Skipped(name, str(error))
                continue
            if picture not in found:
                found[picture] = name
                with self._lock:
                    self._found[picture] = self._known[picture] = name
                yield self.picture(picture)
        with self._lock:
            self._found = found
        for path, reason in others:
            if path.name.partition(".sqlite3")[0] != DATABASE_FILE.partition(".")[0]:
                yield Skipped(path.relative_to(self.folder).as_posix(), reason)

    def _add_file(self, name: str, path: Path, size: int, modified: int) -> str:
        """Note a file and its picture."""
        name.encode()  # ValueError where the name is no text: no database takes it
        height, width = picture_size(path)
        picture = content_hash(path)
        with self._database.writing() as connection:
            values = {"id": picture, "name": name, "height": height, "width": width}
            connection.execute(db.insert(connection, db.pictures).values(values).on_conflict_do_nothing())
            values = {"bytes": size, "modified": modified, "picture": picture}
            noted = db.insert(connection, db.files).values(values | {"name": name})
            connection.execute(noted.on_conflict_do_update(index_elements=["name"], set_=values))
        return picture

    def reread(self, name: str) -> None:
        """Have the next `scan` read a file again, though its size and time are those of the picture that it was."""
        with self._database.writing() as connection:
            connection.execute(db.files.delete().where(db.files.c.name == name))

    def pictures(self) -> list[Picture]:
        """The pictures that `scan` has found, in the order of their names; all of the database without a folder."""
        current = _current(db.objects.c.picture, db.objects.c.deleted).subquery()
        counts = (
            sa.select(current.c.picture, sa.func.count().label("objects"))
            .where(current.c.deleted.is_(False))
            .group_by(current.c.picture)
            .subquery()
        )
        statement = sa.select(db.pictures, sa.func.coalesce(counts.c.objects, 0).label("objects")).outerjoin(
            counts, counts.c.picture == db.pictures.c.id
        )
        with self._database.reading() as connection:
            rows = connection.execute(statement).all()
        with self._lock:
            names = dict(self._found)
        if self.folder is None:
            names = {row.id: row.name for row in rows}
        listed = [Picture(row.id, names[row.id], row.height, row.width, row.objects) for row in rows if row.id in names]
        return sorted(listed, key=lambda picture: picture.name)

    def picture(self, picture: str) -> Picture:
        """One picture.

        Raises:
            LookupError: there is none of this id.
        """
        current = _current(db.objects.c.deleted).where(db.objects.c.picture == picture).subquery()
        count = sa.select(sa.func.count()).select_from(current).where(current.c.deleted.is_(False)).scalar_subquery()
        with self._database.reading() as connection:
            row = connection.execute(
                sa.select(db.pictures, count.label("objects")).where(db.pictures.c.id == picture)
            ).first()
        with self._lock:
            name = self._known.get(picture)
        if row is None or (name is None and self.folder is not None):
            raise LookupError(f"there is no picture {picture!r:.80}")
        return Picture(row.id, name or row.name, row.height, row.width, row.objects)

    def path(self, picture: str) -> Path:
        """The file of a picture.

        Raises:
            LookupError: there is none of this id in the folder.
        """
        with self._lock:
            name = self._found.get(picture)
        if name is None or self.folder is None:
            raise LookupError(f"there is no picture {picture!r:.80}")
        return self.folder / name

    # Objects

    def objects(self, picture: str) -> list[Object]:
        """The objects on a picture, in their order; without those that were deleted."""
        statement = _current(db.objects, db.pictures.c.height, db.pictures.c.width).join(db.pictures)
        statement = statement.where(db.objects.c.picture == picture, db.objects.c.deleted.is_(False))
        with self._database.reading() as connection:
            rows = connection.execute(statement.order_by(db.objects.c.order, db.objects.c.id)).mappings().all()
        return [_object(row) for row in rows]

    def history(self, picture: str, object_id: str) -> list[Object]:
        """The last versions of an object, the oldest first; deletions are versions, too."""
        with self._database.reading() as connection:
            return self._versions(connection, picture, object_id)

    def _versions(self, connection: sa.Connection, picture: str, object_id: str, last: int = 0) -> list[Object]:
        """Versions of an object, the oldest first; only the last few if a number is given."""
        statement = sa.select(db.objects, db.pictures.c.height, db.pictures.c.width).join(db.pictures)
        statement = statement.where(db.objects.c.id == object_id).order_by(db.objects.c.version.desc())
        rows = connection.execute(statement.limit(last) if last else statement).mappings().all()
        found = [_object(row) for row in reversed(rows)]
        if found and found[-1].picture != picture:
            raise ValueError(f"the object {object_id} is on another picture")
        return found

    def put_object(self, picture: str, object_id: str, draft: Draft, version: int) -> Object:
        """Write an object. What was deleted comes back so, with the next version.

        Writing the same once more, because the first answer was lost, gives the same answer.

        Args:
            picture: id of the picture.
            object_id: UUID that the client made.
            draft: what is to be kept; its mask is of the picture's size.
            version: that the client has seen; 0 for a new object.

        Raises:
            ConflictError: there is another version; `current` is what is there, an `Object`, which may be `deleted`;
                None where there is nothing.
            LookupError: there is no such picture.
            ValueError: the id is no UUID or of an object on another picture, or the draft does not fit the picture.
        """
        object_id = _checked_uuid(object_id)
        there = self.picture(picture)
        _check_size(draft, there)
        return self._write(picture, object_id, draft, version, deleted=False)

    def add_objects(self, picture: str, drafts: Mapping[str, Draft]) -> list[Object]:
        """Write many new objects, all or none of them; those whose id is there already are left as they are.

        Args:
            picture: id of the picture.
            drafts: by UUID; their masks are of the picture's size.

        Raises:
            LookupError: there is no such picture.
            ValueError: an id is no UUID, or a draft does not fit the picture.
        """
        there = self.picture(picture)
        drafts = {_checked_uuid(key): draft for key, draft in drafts.items()}
        for draft in drafts.values():
            _check_size(draft, there)
        added = []
        with self._database.writing() as connection:
            for key, draft in drafts.items():
                row = _row(picture, key, draft, version=1, deleted=False)
                statement = db.insert(connection, db.objects).values(row).on_conflict_do_nothing()
                if not self._versions(connection, picture, key, last=1) and connection.execute(statement).rowcount:
                    added.append(_object(row | {"height": there.height, "width": there.width}))
        return added

    def delete_object(self, picture: str, object_id: str, version: int, author: str = "") -> Object:
        """Delete an object; it is kept as deleted, with the next version.

        Raises:
            ConflictError, ValueError: as in `put_object`.
            LookupError: there is no such object.
        """
        object_id = _checked_uuid(object_id)
        return self._write(picture, object_id, None, version, deleted=True, author=author)

    def restore_object(self, picture: str, object_id: str, version: int, author: str = "") -> Object:
        """Take a deletion back: what was there before it, with the next version.

        Raises:
            ConflictError, ValueError: as in `put_object`.
            LookupError: there is no such object.
        """
        object_id = _checked_uuid(object_id)
        return self._write(picture, object_id, None, version, deleted=False, author=author)

    def _write(
        self, picture: str, object_id: str, draft: Draft | None, version: int, *, deleted: bool, author: str = ""
    ) -> Object:
        """Write the next version of an object; without a draft what is there, deleted or not."""
        try:
            with self._database.writing() as connection:
                versions = self._versions(connection, picture, object_id, last=1)
                current = versions[0] if versions else None
                if draft is None:
                    if current is None:
                        raise LookupError(f"there is no object {object_id}")
                    draft = replace(current.draft, author=_checked_name(author, "author"))
                seen = 0 if current is None else current.version
                if current is not None and seen == version + 1 and (current.draft, current.deleted) == (draft, deleted):
                    return current
                if seen != version or (current is not None and deleted and current.deleted):
                    raise _conflict(object_id, version, current)
                row = _row(picture, object_id, draft, version=version + 1, deleted=deleted)
                connection.execute(db.objects.insert().values(row))
                connection.execute(
                    db.objects.delete().where(
                        db.objects.c.id == object_id, db.objects.c.version <= version + 1 - KEPT_VERSIONS
                    )
                )
            return _object(row | {"height": draft.mask.height, "width": draft.mask.width})
        except IntegrityError:  # of PostgreSQL, where two write at the same time
            versions = self.history(picture, object_id)
            raise _conflict(object_id, version, versions[-1] if versions else None) from None

    # Classes

    def classes(self) -> Classes:
        """The classes."""
        statement = sa.select(db.classes).order_by(db.classes.c.version.desc()).limit(1)
        with self._database.reading() as connection:
            row = connection.execute(statement).first()
        return Classes() if row is None else Classes(row.version, tuple(Class(**entry) for entry in row.classes))

    def class_names(self) -> list[str]:
        """The classes that objects have, listed or not, in the order of the alphabet."""
        statement = _current(db.objects.c["class"]).where(db.objects.c.deleted.is_(False)).distinct()
        with self._database.reading() as connection:
            return sorted(connection.scalars(statement))

    def put_classes(self, classes: Sequence[Class], version: int, author: str = "") -> Classes:
        """Write the list of classes; objects keep the class that they have, listed or not.

        Args:
            classes: all of them, in order.
            version: that the client has seen; 0 where there was none.
            author: who.

        Raises:
            ConflictError: there is another version; `current` are the `Classes` that are there.
            ValueError: two have the same name, or there are too many.
        """
        if len({entry.name for entry in classes}) != len(classes):
            raise ValueError("two classes have the same name")
        if len(classes) > MOST_CLASSES:
            raise ValueError(f"there may be {MOST_CLASSES} classes at most, got {len(classes)}")
        wanted = Classes(version + 1, tuple(classes))
        author = _checked_name(author, "author")
        current = self.classes()
        if current == wanted:  # the first answer was lost
            return current
        try:
            if current.version != version:
                raise ConflictError(f"somebody else has changed the classes (version {current.version})", current)
            with self._database.writing() as connection:
                self._insert_classes(connection, classes, wanted.version, author)
        except IntegrityError:
            current = self.classes()
            raise ConflictError(f"somebody else has changed the classes (version {current.version})", current) from None
        return wanted

    def rename_class(self, name: str, new_name: str, version: int, author: str = "") -> Renamed:
        """Give a class another name, in the list and on every object that has it: all or nothing.

        Args:
            name: of a class of the list.
            new_name: that no class of the list has.
            version: of the list that the client has seen.
            author: who.

        Raises:
            ConflictError: somebody else has changed the classes, or one of the objects at the same moment.
            LookupError: the list has no such class.
            ValueError: the list has a class of the new name, or that is no name.
        """
        wanted = Class.from_json({"name": new_name, "colour": "#000000"}).name
        author = _checked_name(author, "author")
        current = self.classes()
        if current.version != version:
            raise ConflictError(f"somebody else has changed the classes (version {current.version})", current)
        names = [entry.name for entry in current.classes]
        if name not in names:
            raise LookupError(f"there is no class {name!r:.80}")
        if wanted in names:
            raise ValueError(f"there is a class {wanted!r:.80} already: choose it for the objects instead")
        classes = [replace(entry, name=wanted) if entry.name == name else entry for entry in current.classes]
        changes = {
            "version": db.objects.c.version + 1,
            "class": sa.literal(wanted),
            "author": sa.literal(author),
            "changed": sa.literal(_now()),
        }
        columns = [changes.get(column.name, column) for column in db.objects.c]
        theirs = _current(*columns).where(db.objects.c["class"] == name)
        rewritten = db.objects.insert().from_select([column.name for column in db.objects.c], theirs)
        rewritten = rewritten.returning(db.objects.c.id, db.objects.c.version)
        try:
            with self._database.writing() as connection:
                objects = {row.id: row.version for row in connection.execute(rewritten)}
                for key, last in objects.items():
                    if last > KEPT_VERSIONS:
                        old = db.objects.c.version <= last - KEPT_VERSIONS
                        connection.execute(db.objects.delete().where(db.objects.c.id == key, old))
                self._insert_classes(connection, classes, version + 1, author)
        except IntegrityError:  # of PostgreSQL, where two write at the same time
            raise ConflictError("somebody else has changed classes or objects at this moment", self.classes()) from None
        return Renamed(Classes(version + 1, tuple(classes)), objects)

    def _insert_classes(self, connection: sa.Connection, classes: Sequence[Class], version: int, author: str) -> None:
        listed = [entry.to_json() for entry in classes]
        row = {"version": version, "classes": listed, "author": author, "changed": _now()}
        connection.execute(db.classes.insert().values(row))
        connection.execute(db.classes.delete().where(db.classes.c.version <= version - KEPT_VERSIONS))


def content_hash(source: Path | bytes) -> str:
    """What tells files apart whatever they are called: 32 hexadecimal digits of a SHA-256 of the content."""
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()[:32]
    digest = hashlib.sha256()
    with source.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:32]


def checked_prompts(value: object, region: Region) -> tuple[Json, ...]:
    """Prompts from anywhere, in order, as they are kept: those of `runtime.state`, and paint.

    Paint is `{"paint": [[x, y], ...], "radius": r, "erase": false}`: the pixels whose centre lies within r of the line.

    Args:
        value: JSON.
        region: in which all but paint must lie.

    Raises:
        TypeError, ValueError: an entry is wrong; the message says which.
    """
    if not isinstance(value, list):
        raise ValueError(f"prompts must be a list, got {type(value).__name__}")
    height, width = region.picture_height, region.picture_width
    checked: list[Json] = []
    points = 0
    for number, entry in enumerate(value):
        lists = (entry.get("stroke"), entry.get("paint")) if isinstance(entry, dict) else ()
        points += max([1, *(len(line) for line in lists if isinstance(line, list))])
        if points > MOST_PROMPTS:
            raise ValueError(f"prompts are more than {MOST_PROMPTS}")
        try:
            if isinstance(entry, dict) and "paint" in entry:
                checked.append(_checked_paint(entry))
            elif isinstance(entry, dict) and "mask" in entry:  # of a large picture it need not be decoded
                runs = Runs.from_json(entry["mask"], height, width)
                if not runs.area:
                    raise ValueError("the start mask holds no object")
                checked.append({"mask": runs.to_json()})
            else:
                prompt = prompt_from_json(entry, height, width)
                region.to_window(prompt)  # raises ValueError where it lies outside
                checked.append(prompt_to_json(prompt))
        except (TypeError, ValueError) as error:
            raise ValueError(f"prompts[{number}]: {error}") from error
    return tuple(checked)


def _checked_paint(entry: Json) -> Json:
    if missing := [key for key in ("radius", "erase") if key not in entry]:
        raise ValueError(f"paint lacks {', '.join(missing)}")
    radius, erase = entry["radius"], entry["erase"]
    if type(radius) not in (int, float) or not 0 < radius <= 1e6:
        raise ValueError(f"radius must be a number of pixels above 0, got {radius!r:.80}")
    if type(erase) is not bool:
        raise ValueError(f"erase must be true or false, got {erase!r:.80}")
    line = check_stroke(entry["paint"], not erase)
    return {"paint": [list(point) for point in line.points], "radius": radius, "erase": erase}


def _current(*columns: Any) -> sa.Select[Any]:
    """Of each object the last version."""
    other = db.objects.alias()
    last = sa.select(sa.func.max(other.c.version)).where(other.c.id == db.objects.c.id).scalar_subquery()
    return sa.select(*columns).select_from(db.objects).where(db.objects.c.version == last)


def _object(row: Any) -> Object:
    return Object(
        id=row["id"],
        picture=row["picture"],
        version=row["version"],
        deleted=row["deleted"],
        changed=row["changed"],
        class_name=row["class"],
        order=row["order"],
        hidden=row["hidden"],
        locked=row["locked"],
        author=row["author"],
        region=None if row["region"] is None else tuple(row["region"]),
        prompts=tuple(row["prompts"]),
        mask=Runs(row["height"], row["width"], tuple(row["counts"])),
    )


def _row(picture: str, object_id: str, draft: Draft, *, version: int, deleted: bool) -> Json:
    return {
        "id": object_id,
        "version": version,
        "picture": picture,
        "deleted": deleted,
        "changed": _now(),
        "class": draft.class_name,
        "order": draft.order,
        "hidden": draft.hidden,
        "locked": draft.locked,
        "author": draft.author,
        "region": None if draft.region is None else list(draft.region),
        "prompts": list(draft.prompts),
        "counts": list(draft.mask.counts),
    }


def _check_size(draft: Draft, picture: Picture) -> None:
    if (draft.mask.height, draft.mask.width) != (picture.height, picture.width):
        raise ValueError(
            f"the mask is of {draft.mask.width} x {draft.mask.height} pixels, the picture of {picture.width} x "
            f"{picture.height}"
        )


def _values(draft: Draft) -> Json:
    return {field.name: getattr(draft, field.name) for field in fields(Draft)}


def _conflict(object_id: str, version: int, current: Object | None) -> ConflictError:
    if current is None:
        return ConflictError(f"there is no object {object_id}, whose version {version} was to be replaced")
    what = "deleted" if current.deleted else "changed"
    return ConflictError(
        f"{current.author or 'somebody'} has {what} the object {object_id} (version {current.version}, not {version})",
        current,
    )


def _checked_uuid(value: object) -> str:
    try:
        return str(uuid.UUID(value))  # type: ignore[arg-type]
    except (ValueError, AttributeError, TypeError):
        raise ValueError(f"the id of an object must be a UUID, got {value!r:.80}") from None


def _checked_name(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{what} must be a text, got {type(value).__name__}")
    if len(value) > LONGEST_NAME:
        raise ValueError(f"{what} must be at most {LONGEST_NAME} characters, got {len(value)}")
    if any(ord(character) < 32 or 0xD800 <= ord(character) < 0xE000 for character in value):
        raise ValueError(f"{what} must not hold control characters, got {value!r:.80}")
    return value


def _checked_bool(value: Json, key: str) -> bool:
    found = value.get(key, False)
    if type(found) is not bool:
        raise ValueError(f"{key} must be true or false, got {found!r:.80}")
    return found


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
