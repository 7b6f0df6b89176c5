"""What the page works with: pictures of a folder, tiles, encodings, predictions, objects, classes, events."""

from __future__ import annotations

import json
import uuid
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from apps.server.conftest import MakeClient
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
    given = {
        "version": 0,
        "class": "cat",
        "order": 1,
        "hidden": False,
        "locked": False,
        "region": None,
        "prompts": [{"click": [10, 10], "positive": True}],
        "mask": {"size": [HEIGHT, WIDTH], "counts": [700, 70, HEIGHT * WIDTH - 770]},
        "author": "ann",
    }
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


def test_a_file_that_changed_is_not_taken_for_the_picture(page: httpx.Client, folder: Path):
    key = pictures(page)[0]["id"]
    (folder / "a.png").write_bytes(png(scene(HEIGHT, WIDTH, 7)))
    answer = page.get(f"/v1/pictures/{key}/tiles/0/0/0")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "changed")
    assert page.post(f"/v1/pictures/{key}/predict", json={"prompts": []}).status_code == 409


def test_objects_go_out_and_come_back(make_client: MakeClient, folder: Path, tmp_path: Path):
    first = make_client(pictures=folder)
    key = pictures(first)[0]["id"]
    counts = [700, 70, HEIGHT * WIDTH - 770]
    given = {
        "version": 0,
        "class": "cat",
        "order": 1,
        "hidden": False,
        "locked": False,
        "region": None,
        "author": "ann",
    }
    given |= {"prompts": [], "mask": {"size": [HEIGHT, WIDTH], "counts": counts}}
    assert first.put(f"/v1/pictures/{key}/objects/{uuid.uuid4()}", json=given).status_code == 200
    archive = first.get("/v1/export", params={"format": "coco", "pictures": "all"})
    assert archive.headers["content-type"] == "application/zip"
    assert first.get("/v1/export", params={"format": "exe"}).status_code == 400
    second = make_client(pictures=folder, database=f"sqlite:///{tmp_path / 'other.sqlite3'}")
    files = {"file": ("../../coco.zip", archive.content, "application/zip")}
    assert second.post("/v1/import", data={"format": "coco"}, files=files).json() == {"objects": 1, "notes": []}
    (found,) = second.get(f"/v1/pictures/{key}").json()["objects"]
    assert (found["class"], found["mask"]["counts"]) == ("cat", counts)
    broken = {"file": ("coco.json", b"{", "application/json")}
    refused = second.post("/v1/import", data={"format": "coco"}, files=broken)
    assert refused.status_code == 400
    assert "coco.json" in refused.json()["error"]["message"]
    assert "/" not in refused.json()["error"]["message"]
