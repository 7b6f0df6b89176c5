"""Pictures, objects and classes of a project, in both databases."""

from __future__ import annotations

import re
import sqlite3
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from PIL import Image
from postgres import OTHERS_LEAVE

from inter2former_deploy.annotations import database as db
from inter2former_deploy.annotations.database import SCHEMA, Database
from inter2former_deploy.annotations.project import (
    DATABASE_FILE,
    Class,
    Classes,
    Draft,
    Object,
    Picture,
    Project,
    Skipped,
    content_hash,
)
from inter2former_deploy.core.errors import ConflictError, DatabaseError, DatabaseFullError, DatabaseLostError
from inter2former_deploy.core.runs import Runs

H, W = 12, 20
MASK = np.zeros((H, W), bool)
MASK[3:9, 5:15] = True
PROMPTS = [
    {"box": [1, 2, 15.5, 9]},
    {"click": [3.25, 4], "positive": True},
    {"stroke": [[1, 2], [5, 6.5]], "positive": False},
    {"mask": Runs.of(MASK).to_json()},
    {"paint": [[-3.5, 2], [7, 8]], "radius": 2.5, "erase": True},
]


def draft(**changes: Any) -> Draft:
    return replace(
        Draft.from_json({"class": "cat", "mask": Runs.of(MASK).to_json(), "prompts": PROMPTS, "author": "ada"}, H, W),
        **changes,
    )


def new_id() -> str:
    return str(uuid.uuid4())


def picture_file(path: Path, seed: int = 0, height: int = H, width: int = W, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)).save(path, **options)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "photos"
    for number, name in enumerate(("b.png", "a.jpg", "inside/c.png")):
        picture_file(place / name, number)
    return place


@pytest.fixture
def project(url: str, folder: Path) -> Iterator[Project]:
    with Project.open(url, folder) as opened:
        list(opened.scan())
        yield opened


@pytest.fixture
def picture(project: Project) -> Picture:
    return project.pictures()[0]


def test_what_is_written_is_there_for_whoever_opens_the_project_next(
    url: str, folder: Path, project: Project, picture: Picture
) -> None:
    identity = new_id()
    written = draft(order=2.5, hidden=True, locked=True, region=(0, 0, 20, 10), class_name="Käse 奶酪")
    stored = project.put_object(picture.id, identity, written, 0)
    assert (stored.id, stored.version, stored.deleted, stored.picture) == (identity, 1, False, picture.id)
    assert stored.draft == written
    with Project.open(url, folder) as again:
        assert again.objects(picture.id) == [stored]
        assert next(entry for entry in again.scan() if isinstance(entry, Picture)).objects == 1
    told = stored.to_json()
    assert told["prompts"] == PROMPTS
    assert Draft.from_json(told, H, W) == written
    assert list(told) == [
        *("id", "version", "class", "order", "hidden", "locked", "region", "prompts", "mask", "author", "changed")
    ]


def test_objects_are_listed_in_their_order(project: Project, picture: Picture) -> None:
    for order in (3, 1, 2):
        project.put_object(picture.id, new_id(), draft(order=order), 0)
    assert [entry.order for entry in project.objects(picture.id)] == [1, 2, 3]
    assert [entry.objects for entry in project.pictures()] == [3, 0, 0]


def test_nobody_overwrites_silently(project: Project, picture: Picture) -> None:
    identity = new_id()
    project.put_object(picture.id, identity, draft(), 0)
    second = project.put_object(picture.id, identity, draft(author="bob"), 1)
    for version in (0, 1, 3):
        with pytest.raises(ConflictError, match="bob has changed the object") as caught:
            project.put_object(picture.id, identity, draft(author="eve"), version)
        assert caught.value.current == second
        with pytest.raises(ConflictError):
            project.delete_object(picture.id, identity, version)
    with pytest.raises(ConflictError, match="there is no object") as caught:
        project.put_object(picture.id, new_id(), draft(), 1)
    assert caught.value.current is None
    assert project.objects(picture.id) == [second]


def test_of_many_writers_at_once_one_wins(project: Project, picture: Picture) -> None:
    identity = new_id()
    project.put_object(picture.id, identity, draft(), 0)
    start = threading.Barrier(8)

    def write(number: int) -> Object | ConflictError:
        start.wait()
        try:
            return project.put_object(picture.id, identity, draft(author=f"writer {number}"), 1)
        except ConflictError as error:
            return error

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(write, range(8)))
    (won,) = project.objects(picture.id)
    lost = [answer for answer in answers if isinstance(answer, ConflictError)]
    assert (answers.count(won), len(lost)) == (1, 7)
    assert all(error.current == won for error in lost)


def test_writing_the_same_again_is_no_conflict(project: Project, picture: Picture) -> None:
    """The answer may have been lost on its way."""
    identity = new_id()
    stored = project.put_object(picture.id, identity, draft(), 0)
    assert project.put_object(picture.id, identity, draft(), 0) == stored
    gone = project.delete_object(picture.id, identity, 1, "ada")
    assert project.delete_object(picture.id, identity, 1, "ada") == gone
    classes = project.put_classes([Class("cat", "#ff0000")], 0)
    assert project.put_classes([Class("cat", "#ff0000")], 0) == classes


def test_a_deletion_is_undone(project: Project, picture: Picture) -> None:
    identity = new_id()
    project.put_object(picture.id, identity, draft(), 0)
    gone = project.delete_object(picture.id, identity, 1, "bob")
    assert (gone.version, gone.deleted, gone.author) == (2, True, "bob")
    assert project.objects(picture.id) == []
    assert project.picture(picture.id).objects == 0
    with pytest.raises(ConflictError, match="bob has deleted") as caught:
        project.put_object(picture.id, identity, draft(author="eve"), 1)
    assert caught.value.current == gone
    back = project.restore_object(picture.id, identity, 2, "bob")
    assert (back.version, back.deleted, back.draft) == (3, False, draft(author="bob"))
    project.delete_object(picture.id, identity, 3)
    assert project.put_object(picture.id, identity, draft(), 4).version == 5
    assert [entry.deleted for entry in project.history(picture.id, identity)] == [False, True, False, True, False]


def test_the_history_is_bounded(project: Project, picture: Picture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inter2former_deploy.annotations.project.KEPT_VERSIONS", 4)
    identity = new_id()
    for version in range(6):
        project.put_object(picture.id, identity, draft(order=version), version)
    versions = [entry.version for entry in project.history(picture.id, identity)]
    assert versions == [3, 4, 5, 6]


def test_an_object_stays_on_its_picture(project: Project) -> None:
    one, two, _ = project.pictures()
    identity = new_id()
    project.put_object(one.id, identity, draft(), 0)
    with pytest.raises(ValueError, match="is on another picture"):
        project.put_object(two.id, identity, draft(), 1)
    with pytest.raises(ValueError, match="is on another picture"):
        project.delete_object(two.id, identity, 1)
    with pytest.raises(ValueError, match="is on another picture"):
        project.history(two.id, identity)


def test_what_is_not_there(project: Project, picture: Picture) -> None:
    for act in (project.picture, project.path):
        with pytest.raises(LookupError, match="there is no picture '0'"):
            act("0")
    with pytest.raises(LookupError, match="there is no picture"):
        project.put_object("0", new_id(), draft(), 0)
    with pytest.raises(LookupError, match="there is no object"):
        project.delete_object(picture.id, new_id(), 1)
    with pytest.raises(ValueError, match=r"must be a UUID, got '\.\./\.\./etc'"):
        project.put_object(picture.id, "../../etc", draft(), 0)
    with pytest.raises(ValueError, match="the mask is of 3 x 2 pixels, the picture of 20 x 12"):
        project.put_object(picture.id, new_id(), Draft(class_name="", mask=Runs.of(np.ones((2, 3), bool))), 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask": None}, "run lengths must be a JSON object"),
        ({"mask": {"size": [H, W], "counts": [1]}}, "counts must add up to 240 pixels"),
        ({"class": 3}, "class must be a text, got int"),
        ({"class": "x" * 201}, "class must be at most 200 characters, got 201"),
        ({"class": "a\0b"}, "class must not hold control characters"),
        ({"author": "\ud800"}, "author must not hold control characters"),
        ({"order": "1"}, "order must be a finite number"),
        ({"order": float("nan")}, "order must be a finite number"),
        ({"order": 10**400}, "order must be a finite number"),
        ({"hidden": 1}, "hidden must be true or false, got 1"),
        ({"region": [0, 0, 21, 12]}, "region .* must have"),
        ({"region": [0, 0, 1]}, "a region must be four whole numbers"),
        ({"prompts": {}}, "prompts must be a list"),
        ({"prompts": [{"click": [3, 4], "positive": 1}]}, r"prompts\[0\]: positive must be True or False"),
        ({"prompts": [{"click": [20, 4], "positive": True}]}, r"prompts\[0\]: click \(20, 4\) lies outside the image"),
        ({"prompts": [{"mask": {"size": [H, W], "counts": [H * W]}}]}, r"prompts\[0\]: the start mask holds no object"),
        ({"prompts": [{"paint": [[1, 2]], "radius": 0, "erase": False}]}, "radius must be a number of pixels above 0"),
        ({"prompts": [{"paint": [], "radius": 1, "erase": False}]}, "needs at least one point"),
        ({"prompts": [{"paint": [[1, 2]], "radius": 1, "erase": 0}]}, "erase must be true or false, got 0"),
        ({"prompts": [{"paint": [[1, 2]], "radius": 1}]}, "paint lacks erase"),
        ({"prompts": [{"paint": [[0, 0]] * 100_001, "radius": 1, "erase": True}]}, "prompts are more than 100000"),
        ({"prompts": [7]}, r"prompts\[0\]: a prompt must be a JSON object with one of"),
    ],
)
def test_drafts_that_are_refused(changes: dict[str, Any], message: str) -> None:
    sound = {"class": "cat", "mask": Runs.of(MASK).to_json()}
    Draft.from_json(sound, H, W)
    with pytest.raises(ValueError, match=message):
        Draft.from_json(sound | changes, H, W)


def test_classes(project: Project) -> None:
    assert project.classes() == Classes()
    cat, dog = Class("cat", "#ff0000"), Class.from_json({"name": "dog", "colour": "#00FF7f"})
    assert project.put_classes([dog, cat], 0) == Classes(1, (dog, cat))
    assert project.classes() == Classes(1, (Class("dog", "#00ff7f"), cat))
    with pytest.raises(ConflictError, match="somebody else has changed the classes") as caught:
        project.put_classes([], 0)
    assert caught.value.current == Classes(1, (dog, cat))
    with pytest.raises(ConflictError):
        project.put_classes([], 2)
    assert project.put_classes([cat], 1) == project.classes() == Classes(2, (cat,))
    with pytest.raises(ValueError, match="two classes have the same name"):
        project.put_classes([cat, Class("cat", "#000000")], 2)
    for value, message in (
        ({"name": "x"}, "with name and colour"),
        ({"name": "", "colour": "#000000"}, "must not be empty"),
        ({"name": "x", "colour": "red"}, "must be #rrggbb, got 'red'"),
        ({"name": "x", "colour": "#00ff0g"}, "must be #rrggbb"),
    ):
        with pytest.raises(ValueError, match=message):
            Class.from_json(value)


def test_a_class_is_renamed(project: Project, picture: Picture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inter2former_deploy.annotations.project.KEPT_VERSIONS", 2)
    cat, dog = Class("cat", "#ff0000"), Class("dog", "#00ff00")
    project.put_classes([cat, dog], 0)
    identity, other = new_id(), new_id()
    stored = [project.put_object(picture.id, identity, draft(class_name="cat", order=n), n) for n in range(2)]
    project.put_object(picture.id, other, draft(class_name="dog"), 0)
    renamed = project.rename_class("cat", "lynx", 1, "bob")
    assert renamed.classes == project.classes() == Classes(2, (Class("lynx", "#ff0000"), dog))
    assert renamed.objects == {identity: 3}
    kept = project.history(picture.id, identity)
    assert [(entry.version, entry.class_name) for entry in kept] == [(2, "cat"), (3, "lynx")]
    assert kept[1].draft == replace(stored[1].draft, class_name="lynx", author="bob")
    assert [entry.version for entry in project.history(picture.id, other)] == [1]
    with pytest.raises(ConflictError, match="somebody else has changed the classes"):
        project.rename_class("lynx", "cat", 1)
    with pytest.raises(LookupError, match="no class 'cat'"):
        project.rename_class("cat", "tom", 2)
    for name, message in (("dog", "a class 'dog' already"), ("", "must not be empty")):
        with pytest.raises(ValueError, match=message):
            project.rename_class("lynx", name, 2)
    assert project.classes().version == 2


def test_pictures_are_known_by_their_content(url: str, folder: Path) -> None:
    (folder / "copy.png").write_bytes((folder / "b.png").read_bytes())
    tags = Image.Exif()
    tags[0x112] = 6
    picture_file(folder / "turned.jpg", 9, exif=tags)
    (folder / "broken.png").write_bytes((folder / "b.png").read_bytes()[:20])
    (folder / "notes.txt").write_text("no picture")
    with Project.open(url, folder) as project:
        found = list(project.scan())
        names = [entry.name for entry in found if isinstance(entry, Picture)]
        assert names == ["a.jpg", "b.png", "inside/c.png", "turned.jpg"]
        assert {entry.name for entry in found if isinstance(entry, Skipped)} == {"broken.png", "notes.txt"}
        turned = project.pictures()[-1]
        assert (turned.height, turned.width) == (W, H)
        b = project.pictures()[1]
        assert b.id == content_hash(folder / "b.png") == content_hash((folder / "b.png").read_bytes())
        assert project.path(b.id) == folder / "b.png"
        stored = project.put_object(b.id, new_id(), draft(), 0)
        (folder / "b.png").rename(folder / "z.png")
        (folder / "copy.png").unlink()
        picture_file(folder / "a.jpg", 77)  # another picture under an old name
        list(project.scan())
        assert [entry.name for entry in project.pictures()] == ["a.jpg", "inside/c.png", "turned.jpg", "z.png"]
        assert project.objects(content_hash(folder / "z.png")) == [stored]
    with Project.open(url) as everything:
        assert len(everything.pictures()) == 5
        assert everything.objects(b.id) == [stored]
        with pytest.raises(RuntimeError, match="has no folder"):
            list(everything.scan())


def test_unchanged_files_are_not_read_again(
    url: str, folder: Path, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inter2former_deploy.annotations.project.content_hash", lambda path: pytest.fail(str(path)))
    with Project.open(url, folder) as again:
        assert len(list(again.scan())) == 3


def test_a_folder_keeps_its_own_database(folder: Path) -> None:
    with pytest.raises(DatabaseError, match="there is no database of annotations"):
        Project.open(folder=folder, create=False)
    with Project.open(folder=folder) as project:
        assert not [entry for entry in project.scan() if isinstance(entry, Skipped)]
        picture = project.pictures()[0]
        stored = project.put_object(picture.id, new_id(), draft(), 0)
    connection = sqlite3.connect(folder / DATABASE_FILE)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
    with Project.open(folder=folder, create=False) as project:
        assert project.objects(picture.id) == [stored]


def test_commits_wait_for_the_disk(project: Project, url: str) -> None:
    with project._database.writing() as connection:
        if url.startswith("sqlite"):
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        else:
            assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"


def test_the_migrations_lead_to_the_tables(url: str) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    database = Database(url)
    with database.reading() as connection:
        assert connection.scalar(sa.text("SELECT version_num FROM alembic_version")) == SCHEMA
        assert compare_metadata(MigrationContext.configure(connection), db.metadata) == []
    database.close()


def test_two_that_open_a_new_project_at_once(url: str, folder: Path) -> None:
    start = threading.Barrier(4)

    def begin(_: int) -> int:
        start.wait()
        with Project.open(url, folder) as project:
            return len(list(project.scan()))

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(begin, range(4))) == [3] * 4


def test_databases_that_are_refused(url: str, tmp_path: Path) -> None:
    database = Database(url)
    with database.writing() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    database.close()
    with pytest.raises(DatabaseError, match=r"written by a newer inter2former-deploy \(schema 9999, here"):
        Database(url)
    with pytest.raises(ValueError, match="not one of mysql"):
        Database("mysql://somebody@here/x")
    with pytest.raises(ValueError, match="a database is named as"):
        Database("annotations.sqlite3")
    for bad in ("sqlite://", "sqlite:///:memory:", "sqlite:///x?mode=memory"):
        with pytest.raises(ValueError, match="named as sqlite:///PATH"):
            Database(bad)
    other = tmp_path / "other.sqlite3"
    connection = sqlite3.connect(other)
    connection.execute("CREATE TABLE things (x)")
    connection.close()
    with pytest.raises(DatabaseError, match=r"other\.sqlite3 is no database of annotations"):
        Database(f"sqlite:///{other}")
    other.write_bytes(b"no database at all" * 100)
    with pytest.raises(DatabaseError, match=r"other\.sqlite3 is no database of annotations"):
        Database(f"sqlite:///{other}")
    with pytest.raises(DatabaseError, match="there is no folder"):
        Database(f"sqlite:///{tmp_path}/no/folder.sqlite3")
    with pytest.raises(DatabaseLostError, match=re.escape("x:***@127.0.0.1:1/none does not answer")):
        Database("postgresql://x:secret@127.0.0.1:1/none")


def test_a_file_that_was_taken_away_is_noticed(tmp_path: Path, folder: Path) -> None:
    with Project.open(folder=folder) as project:
        list(project.scan())
        picture = project.pictures()[0]
        stored = project.put_object(picture.id, new_id(), draft(), 0)
        (folder / DATABASE_FILE).rename(tmp_path / "kept")
        with pytest.raises(DatabaseLostError, match="was moved, deleted or replaced"):
            project.put_object(picture.id, new_id(), draft(), 0)
        (tmp_path / "kept").rename(folder / DATABASE_FILE)
        project.put_object(picture.id, new_id(), draft(order=1), 0)
        assert project.objects(picture.id)[0] == stored


def test_a_full_disk_loses_nothing_that_was_there(folder: Path) -> None:
    with Project.open(folder=folder) as project:
        list(project.scan())
        picture = project.pictures()[0]
        stored = project.put_object(picture.id, new_id(), draft(), 0)
        connections = {}

        def limit(connection: sa.Connection) -> None:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
            connections["limit"] = connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}").scalar()

        sa.event.listen(project._database._engine, "begin", limit)
        large = draft(prompts=tuple({"click": [1, 2], "positive": True} for _ in range(50_000)))
        with pytest.raises(DatabaseFullError, match="is full, nothing was written: make room"):
            project.put_object(picture.id, new_id(), large, 0)
        assert project.objects(picture.id) == [stored]
        sa.event.remove(project._database._engine, "begin", limit)
        with project._database.writing() as connection:
            connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
        assert project.put_object(picture.id, new_id(), large, 0).version == 1


def test_a_server_that_comes_back(project: Project, picture: Picture, url: str) -> None:
    """Connections that broke while nobody used them are made anew."""
    if url.startswith("sqlite"):
        pytest.skip("a file has no server")
    import psycopg

    stored = project.put_object(picture.id, new_id(), draft(), 0)
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(OTHERS_LEAVE)
        assert project.objects(picture.id) == [stored]

        def lose(connection: sa.Connection) -> None:
            admin.execute(OTHERS_LEAVE)

        sa.event.listen(project._database._engine, "begin", lose)
        with pytest.raises(DatabaseLostError, match="does not answer"):
            project.put_object(picture.id, new_id(), draft(), 0)
        sa.event.remove(project._database._engine, "begin", lose)
        assert project.objects(picture.id) == [stored]
