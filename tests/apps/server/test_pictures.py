"""What the page works with: pictures of a folder, tiles, encodings, predictions, objects, classes, events."""

from __future__ import annotations

import io
import json
import os
import subprocess
import uuid
import zipfile
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import postgres
import pytest
from apps.server.conftest import MakeClient, serving
from served import png, scene

from inter2former_deploy.core.runs import Runs
from inter2former_deploy.runtime import Segmenter

HEIGHT, WIDTH = 700, 1100


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, name in enumerate(("a.png", "b.png", "c.png")):
        (folder / name).write_bytes(png(scene(HEIGHT, WIDTH, number)))
    return folder


@pytest.fixture
def page(make_client: MakeClient, folder: Path) -> httpx.Client:
    return make_client(pictures=folder)


def an_object(**more: Any) -> dict[str, Any]:
    """What is put of an object, ten pixels of the second column."""
    given = {"version": 0, "class": "cat", "order": 1, "hidden": False, "locked": False, "region": None}
    mask = {"size": [HEIGHT, WIDTH], "counts": [700, 70, HEIGHT * WIDTH - 770]}
    return {**given, "prompts": [], "mask": mask, "author": "ann", **more}


def pictures(page: httpx.Client) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = page.get("/v1/pictures").json()["pictures"]
    return found


def test_the_list_says_which_formats_can_be_read(page: httpx.Client):
    listing = page.get("/v1/pictures").json()
    modules = {
        name: import_module(f"inter2former_deploy.annotations.formats.{name.replace('-', '_')}")
        for name in listing["format_names"]
    }
    assert listing["import_names"] == [name for name, module in modules.items() if hasattr(module, "read")]


def test_tiles_are_the_pictures_pixels(page: httpx.Client):
    listed = pictures(page)
    assert [one["name"] for one in listed] == ["a.png", "b.png", "c.png"]
    picture = page.get(f"/v1/pictures/{listed[1]['id']}").json()
    assert picture["levels"] == [
        {"width": 1100, "height": 700},
        {"width": 550, "height": 350},
        {"width": 275, "height": 175},
    ]
    for level, size in enumerate(picture["levels"]):
        rows = []
        for row in range(-(-size["height"] // picture["tile"])):
            tiles = []
            for column in range(-(-size["width"] // picture["tile"])):
                answer = page.get(f"/v1/pictures/{picture['id']}/tiles/{level}/{column}/{row}")
                assert answer.headers["content-type"] == "image/png"
                tiles.append(cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR)[..., ::-1])
            rows.append(np.concatenate(tiles, 1))
        whole = np.concatenate(rows)
        assert whole.shape == (size["height"], size["width"], 3)
        if level == 0:
            np.testing.assert_array_equal(whole, scene(HEIGHT, WIDTH, 1))
    assert page.get(f"/v1/pictures/{picture['id']}/tiles/0/3/0").status_code == 404
    assert page.get(f"/v1/pictures/{picture['id']}/tiles/3/0/0").status_code == 404


def test_a_region_is_segmented_as_by_the_runtime(page: httpx.Client, bundle: Path):
    key = pictures(page)[0]["id"]
    region = [300, 200, 700, 600]
    prompts = [{"click": [400, 300], "positive": True}, {"box": [350, 250, 600, 550]}]
    answer = page.post(f"/v1/pictures/{key}/predict", json={"prompts": prompts, "region": region, "sequence": 5}).json()
    session = Segmenter(bundle, num_threads=1).open(scene(HEIGHT, WIDTH, 0), region)
    session.click(400, 300)
    expected = Runs.of(session.box(350, 250, 600, 550))
    assert answer == {
        "mask": expected.to_json(),
        "box": list(expected.box or ()),
        "area": expected.area,
        "sequence": 5,
    }


def test_objects_have_versions(page: httpx.Client):
    key, name = pictures(page)[0]["id"], str(uuid.uuid4())
    address = f"/v1/pictures/{key}/objects/{name}"
    given = an_object(prompts=[{"click": [10, 10], "positive": True}])
    stored = page.put(address, json=given).json()
    assert stored["version"] == 1
    assert stored == given | {"id": name, "version": 1, "changed": stored["changed"], "deleted": False}
    assert page.get(f"/v1/pictures/{key}").json()["objects"] == [stored]
    refused = page.put(address, json=given | {"class": "dog"})
    assert refused.status_code == 409
    assert refused.json()["error"]["code"] == "conflict"
    assert refused.json()["object"] == stored
    deleted = page.delete(address, params={"version": 1}).json()
    assert (deleted["version"], deleted["deleted"]) == (2, True)
    assert page.get(f"/v1/pictures/{key}").json()["objects"] == []
    assert page.put(address, json=given | {"version": 2}).json()["version"] == 3
    assert pictures(page)[0]["objects"] == 1


def test_encodings_are_told_of(page: httpx.Client):
    first, second, _ = (picture["id"] for picture in pictures(page))
    with page.stream("GET", "/v1/events") as stream:
        lines = stream.iter_lines()
        next(lines)
        page.post(f"/v1/pictures/{first}/open", json={"region": None, "ahead": [second]})
        ready: list[str] = []
        while len(ready) < 2:
            line = next(lines)
            if line.startswith("data: ") and (event := json.loads(line[6:]))["state"] == "ready":
                assert (event["type"], event["picture"], event["width"]) == ("image", event["id"], WIDTH)
                ready.append(event["picture"])
    assert ready == [first, second]
    assert [picture["state"] for picture in pictures(page)] == ["ready", "ready", "none"]


def test_a_preview_leaves_the_clicks_alone(page: httpx.Client, monkeypatch: pytest.MonkeyPatch):
    counted: list[int] = []
    decode = Segmenter._decode
    monkeypatch.setattr(Segmenter, "_decode", lambda *arguments: counted.append(1) or decode(*arguments))
    key, sequence = pictures(page)[0]["id"], 0

    def decodes(*points: tuple[int, int], preview: bool) -> int:
        nonlocal sequence
        sequence += 1
        before = len(counted)
        body = {
            "prompts": [{"click": point, "positive": True} for point in points],
            "client": "tab",
            "sequence": sequence,
            "preview": preview,
        }
        assert page.post(f"/v1/pictures/{key}/predict", json=body).status_code == 200
        return len(counted) - before

    assert decodes((10, 10), (20, 20), preview=False) == 2
    assert [decodes((10, 10), (20, 20), (30 + x, 30), preview=True) for x in range(5)] == [1] * 5
    assert decodes((10, 10), (20, 20), (34, 30), preview=False) == 0  # where the pointer was
    assert decodes((10, 10), (20, 20), (34, 30), (50, 50), preview=True) == 1
    assert decodes((10, 10), (20, 20), (34, 30), (60, 60), preview=False) == 1
    assert decodes((10, 10), (20, 20), (34, 30), preview=False) == 0  # undo


def test_old_requests_are_dropped(page: httpx.Client):
    key = pictures(page)[0]["id"]

    def ask(sequence: int, preview: bool, client: str = "tab") -> int:
        prompts = [{"click": [sequence, 10], "positive": True}]
        body = {"prompts": prompts, "client": client, "sequence": sequence, "preview": preview}
        return page.post(f"/v1/pictures/{key}/predict", json=body).status_code

    assert ask(5, True) == 200
    assert ask(4, True) == 409
    assert ask(4, False) == 200  # a click is not dropped for a preview
    assert ask(6, False) == 200
    assert ask(5, True) == 409
    assert ask(5, False) == 409
    assert ask(1, False, "another") == 200


def test_links_that_leave_the_folder_are_not_followed(make_client: MakeClient, folder: Path, tmp_path: Path):
    outside = tmp_path / "secret.png"
    outside.write_bytes(png(scene(40, 40, 9)))
    (folder / "link.png").symlink_to(outside)
    (folder / "inside.png").symlink_to(folder / "a.png")  # the same picture
    (folder / "d.png").symlink_to("e.real")
    (folder / "e.real").write_bytes(png(scene(50, 50, 10)))
    assert [one["name"] for one in pictures(make_client(pictures=folder))] == ["a.png", "b.png", "c.png", "d.png"]


def test_a_file_that_changed_is_another_picture(page: httpx.Client, folder: Path):
    key = pictures(page)[0]["id"]
    with page.stream("GET", "/v1/events") as stream:
        lines = stream.iter_lines()
        next(lines)
        status = (folder / "a.png").stat()
        (folder / "a.png").write_bytes(png(scene(HEIGHT, WIDTH, 7)))
        (folder / "a.png").write_bytes((folder / "a.png").read_bytes().ljust(status.st_size, b"\0"))
        os.utime(folder / "a.png", ns=(status.st_atime_ns, status.st_mtime_ns))  # as some programs that copy files do
        answer = page.get(f"/v1/pictures/{key}/tiles/0/0/0")
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "changed")
        assert page.post(f"/v1/pictures/{key}/predict", json={"prompts": []}).status_code == 409
        assert any(line == 'data: {"type": "pictures"}' for line in lines)
    now = pictures(page)
    assert [one["name"] for one in now] == ["a.png", "b.png", "c.png"]
    assert now[0]["id"] != key
    tile = page.get(f"/v1/pictures/{now[0]['id']}/tiles/0/0/0").content
    shown = cv2.imdecode(np.frombuffer(tile, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(shown, scene(HEIGHT, WIDTH, 7)[:512, :512])
    # what somebody had drawn on the former one is not lost
    assert page.put(f"/v1/pictures/{key}/objects/{uuid.uuid4()}", json=an_object()).status_code == 200
    assert len(page.get(f"/v1/pictures/{key}").json()["objects"]) == 1


def test_a_class_is_renamed_on_its_objects(page: httpx.Client):
    first, second, _ = (one["id"] for one in pictures(page))
    colours = [{"name": "cat", "colour": "#ff0000"}, {"name": "dog", "colour": "#00ff00"}]
    assert page.put("/v1/classes", json={"version": 1, "classes": colours}).json()["version"] == 2
    names = [str(uuid.uuid4()) for _ in range(4)]
    for picture, name, kind in zip((first, first, second, second), names, ("cat", "dog", "cat", "cat"), strict=True):
        page.put(f"/v1/pictures/{picture}/objects/{name}", json=an_object(**{"class": kind}))
    page.delete(f"/v1/pictures/{second}/objects/{names[3]}", params={"version": 1})
    asked = {"version": 2, "name": "cat", "new_name": "lynx", "author": "bob"}
    for wrong, status in (({"version": 1}, 409), ({"name": "cow"}, 404), ({"new_name": "dog"}, 400)):
        assert page.post("/v1/classes/rename", json=asked | wrong).status_code == status
    answer = page.post("/v1/classes/rename", json=asked).json()
    assert answer == {
        "version": 3,
        "classes": [{"name": "lynx", "colour": "#ff0000"}, colours[1]],
        "name": "cat",
        "new_name": "lynx",
        "objects": {names[0]: 2, names[2]: 2, names[3]: 3},
    }
    found = {one["id"]: one for key in (first, second) for one in page.get(f"/v1/pictures/{key}").json()["objects"]}
    assert {name: found[name]["class"] for name in names[:3]} == dict(zip(names, ("lynx", "dog", "lynx"), strict=False))
    assert (found[names[0]]["author"], found[names[0]]["mask"]) == ("bob", an_object()["mask"])
    # whoever has not seen it overwrites nothing
    stale = page.put(f"/v1/pictures/{first}/objects/{names[0]}", json=an_object(version=1, order=5))
    assert (stale.status_code, stale.json()["object"]["class"]) == (409, "lynx")
    archive = page.get("/v1/export", params={"format": "coco", "pictures": "all"}).content
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        (written,) = (json.loads(opened.read(name)) for name in opened.namelist() if name.endswith(".json"))
    assert {one["name"] for one in written["categories"]} == {"lynx", "dog"}


def test_objects_go_out_and_come_back(make_client: MakeClient, folder: Path, tmp_path: Path):
    first = make_client(pictures=folder)
    key = pictures(first)[0]["id"]
    given = an_object()
    assert first.put(f"/v1/pictures/{key}/objects/{uuid.uuid4()}", json=given).status_code == 200
    archive = first.get("/v1/export", params={"format": "coco", "pictures": "all"})
    assert archive.headers["content-type"] == "application/zip"
    assert first.get("/v1/export", params={"format": "exe"}).status_code == 400
    second = make_client(pictures=folder, database=f"sqlite:///{tmp_path / 'other.sqlite3'}")
    files = {"file": ("../../coco.zip", archive.content, "application/zip")}
    assert second.post("/v1/import", data={"format": "coco"}, files=files).json() == {"objects": 1, "notes": []}
    (found,) = second.get(f"/v1/pictures/{key}").json()["objects"]
    assert (found["class"], found["mask"]) == ("cat", given["mask"])
    broken = {"file": ("coco.json", b"{", "application/json")}
    refused = second.post("/v1/import", data={"format": "coco"}, files=broken)
    assert refused.status_code == 400
    assert "coco.json" in refused.json()["error"]["message"]
    assert "/" not in refused.json()["error"]["message"]


def test_a_team_shares_one_postgresql(make_client: MakeClient, folder: Path):
    """Each has a server of their own: what one draws others see, nobody overwrites anybody, an outage is told."""
    pytest.importorskip("psycopg")
    try:
        with postgres.server() as database:
            ann, bob = (make_client(pictures=folder, database=database.url) for _ in range(2))
            key, name = pictures(ann)[0]["id"], str(uuid.uuid4())
            address = f"/v1/pictures/{key}/objects/{name}"
            stored = ann.put(address, json=an_object()).json()
            assert bob.get(f"/v1/pictures/{key}").json()["objects"] == [stored]
            assert bob.put(address, json=an_object(version=1, author="bob")).json()["version"] == 2
            assert ann.put(address, json=an_object(version=1, order=3)).json()["object"]["author"] == "bob"
            classes = [{"name": "cat", "colour": "#ff0000"}]
            version = ann.put("/v1/classes", json={"version": 1, "classes": classes}).json()["version"]
            asked = {"version": version, "name": "cat", "new_name": "lynx"}
            assert bob.post("/v1/classes/rename", json=asked).json()["objects"] == {name: 3}
            assert ann.post("/v1/classes/rename", json=asked | {"new_name": "tom"}).status_code == 409
            database.stop()
            refused = ann.put(address, json=an_object(version=3, order=4))
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "database")
            database.start()
            assert ann.put(address, json=an_object(version=3, order=4)).json()["version"] == 4
    except postgres.NotInstalledError as error:
        pytest.skip(str(error))


def test_a_full_disk_is_told_and_loses_nothing(bundle: Path, folder: Path, tmp_path: Path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "i2f", disk], check=False, capture_output=True)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        (disk / "other").write_bytes(bytes(400_000))
        counts = [1, 1] * 8000
        mask = {"size": [HEIGHT, WIDTH], "counts": [*counts, HEIGHT * WIDTH - sum(counts)]}
        with serving(bundle, pictures=folder, database=f"sqlite:///{disk / 'annotations.sqlite3'}") as page:
            key, stored = pictures(page)[0]["id"], []
            for _ in range(100):
                address = f"/v1/pictures/{key}/objects/{uuid.uuid4()}"
                answer = page.put(address, json=an_object(mask=mask))
                if answer.status_code != 200:
                    break
                stored.append(answer.json())
            assert (answer.status_code, answer.json()["error"]["code"]) == (507, "full")
            assert "make room" in answer.json()["error"]["message"]
            assert stored
            found = page.get(f"/v1/pictures/{key}").json()["objects"]
            assert {one["id"] for one in found} == {one["id"] for one in stored}
            (disk / "other").unlink()
            assert page.put(address, json=an_object(mask=mask)).status_code == 200
            assert len(page.get(f"/v1/pictures/{key}").json()["objects"]) == len(stored) + 1
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)
