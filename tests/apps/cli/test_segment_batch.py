from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from inter2former_deploy.core.pictures import read_image
from inter2former_deploy.core.runs import Runs
from inter2former_deploy.runtime import Segmenter

CLICKS = [{"click": [30, 40], "positive": True}, {"click": [60.5, 20], "positive": False}]
REGION = [10, 5, 80, 50]


def write_picture(path: Path, seed: int) -> Path:
    cv2.imwrite(str(path), np.random.default_rng(seed).integers(0, 256, (60, 90, 3), np.uint8))
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of four pictures and a list of seven objects in them."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(4):
        write_picture(folder / f"{number}.png", number)
    rows = [
        {"image": "0.png", "prompts": CLICKS},
        {"image": "1.png", "prompts": [{"box": [20, 10, 70, 50]}], "id": "cat"},
        {"image": "2.png", "prompts": CLICKS, "id": 7},
        {"image": "0.png", "prompts": CLICKS[:1]},
        {"image": "0.png", "prompts": CLICKS, "region": REGION},
        {"image": "3.png", "prompts": [{"mask": Runs.of(np.eye(60, 90, dtype=bool)).to_json()}]},
        {"image": "1.png", "prompts": [{"stroke": [[20, 10], [50, 30]], "positive": True}]},
    ]
    (folder / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def run(i2f: Callable[..., Any], toy_bundle: Path, photos: Path, tmp_path: Path) -> Callable[..., Any]:
    """`run(...)` segments the list with further options."""

    def batch(*options: object, prompts: Path | str = photos / "list.jsonl") -> Any:
        given = ("--part", "2", "--no-custom-ops", *options)
        return i2f("segment-batch", toy_bundle, prompts, "-o", tmp_path / "masks", *given)

    return batch


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for file in sorted(folder.iterdir()) for line in file.read_text().splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_masks_are_those_of_the_runtime(
    run: Callable[..., Any], toy_bundle: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, encoded = Segmenter.encode, list[str]()

    def counted(self: Segmenter, image: Any) -> Any:
        encoded.append(image.key)
        return encode(self, image)

    with monkeypatch.context() as patched:
        patched.setattr(Segmenter, "encode", counted)
        done = run()
    assert (done.code, done.out) == (0, f"{tmp_path}/masks: 7 objects segmented, 0 there already\n")
    assert len(encoded) == len(set(encoded)) == 5  # four pictures and a region
    lines = lines_of(tmp_path / "masks")
    assert [(line["row"], line["image"], line.get("id")) for line in lines] == [
        (0, "0.png", None), (3, "0.png", None), (1, "1.png", "cat"), (6, "1.png", None), (2, "2.png", 7),
        (4, "0.png", None), (5, "3.png", None),
    ]  # fmt: skip
    segmenter, by_row = Segmenter(toy_bundle, custom_ops=False), {line["row"]: line for line in lines}

    def session(number: int, region: Any = None) -> Any:
        return segmenter.open(read_image(photos / f"{number}.png"), region)

    first, box, region, start, stroke = session(0), session(1), session(0, REGION), session(3), session(1)
    expected = {3: first.click(30, 40), 0: first.click(60.5, 20, False), 1: box.box(20, 10, 70, 50)}
    region.click(30, 40)
    expected[4] = region.click(60.5, 20, False)
    expected[5] = start.start(np.eye(60, 90, dtype=bool))
    expected[6] = stroke.stroke([(20, 10), (50, 30)])
    for row, mask in expected.items():
        runs = Runs.of(mask)
        assert 0 < runs.area < 60 * 90
        assert by_row[row]["mask"] == runs.to_json()
        assert (by_row[row]["area"], by_row[row]["box"]) == (runs.area, list(runs.box or ()))
    assert by_row[4]["region"] == REGION


def test_a_second_run_does_what_is_left(
    run: Callable[..., Any], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, calls = Segmenter.encode, [0]

    def counted(self: Segmenter, image: Any) -> Any:
        calls[0] += 1
        if calls[0] == 4:
            raise KeyboardInterrupt
        return encode(self, image)

    monkeypatch.setattr(Segmenter, "encode", counted)
    assert run().code != 0
    stopped = contents(tmp_path / "masks")
    assert len(stopped) == 1  # of three parts; in the second the last picture was missing
    assert "3 objects segmented, 4 there already" in run().out
    assert calls[0] == 4 + 3
    whole = contents(tmp_path / "masks")
    assert (len(whole), stopped.items() <= whole.items()) == (3, True)
    done = run("--json")
    report = json.loads(done.out)
    assert (report["objects"], report["found"], report["files"], calls[0]) == (0, 7, [], 7)
    assert contents(tmp_path / "masks") == whole
    with (photos / "list.jsonl").open("a") as file:
        file.write(json.dumps({"image": "3.png", "prompts": CLICKS}) + "\n")
    assert "2 objects segmented, 6 there already" in run().out  # the last part has become another


def test_what_is_broken_is_named_and_tried_again(run: Callable[..., Any], photos: Path, tmp_path: Path) -> None:
    (photos / "2.png").write_text("no picture")
    with (photos / "list.jsonl").open("a") as file:
        file.write(json.dumps({"image": "3.png", "prompts": [CLICKS[0], {"click": [90, 0], "positive": True}]}) + "\n")
        file.write(json.dumps({"image": "3.png", "prompts": [{"dot": 1}]}) + "\n")
    done = run()
    assert done.code == 1
    assert f"skipped: {photos}/2.png is no picture that can be read: it must be JPEG" in done.err
    assert "skipped: 3.png: prompts[1]: click (90, 0) lies outside" in done.err
    assert "skipped: 3.png: prompts[0]: a prompt must be a JSON object with one of click" in done.err
    assert "masks: 6 objects segmented, 0 there already, 3 broken: " in done.out
    files = contents(tmp_path / "masks")
    assert [name.partition("-")[0] + name[23:] for name in sorted(files)] == [
        "000000.jsonl", "000001-1-broken.jsonl", "000002-2-broken.jsonl",
    ]  # fmt: skip
    assert [line["row"] for line in lines_of(tmp_path / "masks") if "error" in line] == [2, 7, 8]
    write_picture(photos / "2.png", 2)
    done = run()
    assert "masks: 3 objects segmented, 4 there already, 2 broken: " in done.out  # row 2 and its part, row 5
    assert [name.partition("-")[0] + name[23:] for name in sorted(contents(tmp_path / "masks"))] == [
        "000000.jsonl", "000001.jsonl", "000002-2-broken.jsonl",
    ]  # fmt: skip


def test_a_full_disk_costs_its_own_part(run: Callable[..., Any], tmp_path: Path, disk_full_at: Any) -> None:
    with disk_full_at(2):
        done = run()
    assert done.code == 1
    assert "cannot be written: No space left on device" in done.err
    assert "masks: 5 objects segmented, 0 there already\nnot written: 2 objects; make room" in done.out
    assert len(contents(tmp_path / "masks")) == 2
    assert "masks: 2 objects segmented, 5 there already" in run().out
    assert len(contents(tmp_path / "masks")) == 3


def test_parquet_holds_the_same(run: Callable[..., Any], photos: Path, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [json.loads(line) for line in (photos / "list.jsonl").read_text().splitlines()]
    for row in rows:
        row |= {"id": str(row["id"]) if "id" in row else None, "region": row.get("region")}
    texts = [row | {"prompts": json.dumps(row["prompts"])} for row in rows]
    parquet.write_table(pyarrow.Table.from_pylist(texts), photos / "texts.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(rows), photos / "rows.parquet")
    run()
    expected = [line | ({"id": str(line["id"])} if "id" in line else {}) for line in lines_of(tmp_path / "masks")]
    assert len(expected) == 7
    for name in ("texts.parquet", "rows.parquet"):
        for file in (tmp_path / "masks").iterdir():
            file.unlink()
        assert run(prompts=photos / name).code == 0
        assert lines_of(tmp_path / "masks") == expected
    (photos / "rows.parquet").write_bytes((photos / "rows.parquet").read_bytes()[:-9])
    assert "rows.parquet is no parquet file that can be read" in run(prompts=photos / "rows.parquet").err


def test_lists_and_results_may_lie_in_an_object_store(
    run: Callable[..., Any], i2f: Callable[..., Any], toy_bundle: Path, photos: Path, tmp_path: Path
) -> None:
    fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")
    system = fsspec.filesystem("memory")
    system.store.clear()
    for path in photos.iterdir():
        system.pipe_file(f"/bucket/{path.name}", path.read_bytes())
    run()
    arguments = ("segment-batch", toy_bundle, "memory://bucket/list.jsonl", "--part", "2", "--no-custom-ops", "-o")
    done = i2f(*arguments, "memory://bucket/masks")
    assert "memory://bucket/masks: 7 objects segmented" in done.out
    assert {Path(name).name: system.cat_file(name) for name in system.ls("/bucket/masks", detail=False)} == contents(
        tmp_path / "masks"
    )
    assert "0 objects segmented, 7 there already" in i2f(*arguments, "memory://bucket/masks").out
    encoded = ("encode", "memory://bucket/", "--bundle", toy_bundle, "--no-custom-ops", "-o")
    i2f("encode", photos, "--bundle", toy_bundle, "--no-custom-ops", "-o", tmp_path / "encoded")
    assert "memory://bucket/encoded: 4 encoded, 0 there already" in i2f(*encoded, "memory://bucket/encoded").out
    there = system.ls("/bucket/encoded", detail=False)
    assert {Path(name).name: system.cat_file(name) for name in there} == contents(tmp_path / "encoded")
    system.pipe_file(there[0], system.cat_file(there[0])[:-1])
    assert "memory://bucket/encoded: 1 encoded, 3 there already" in i2f(*encoded, "memory://bucket/encoded").out
    system.store.clear()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: each line must be a JSON object"),
        ("[" * 100_000, "line 2: each line must be a JSON object"),
        ("[1]", "line 2: each row must be a JSON object"),
        ('{"image": 1, "prompts": [1]}', "line 2: image must be the name of a picture"),
        ('{"image": "0.png"}', "line 2: prompts must be a list of at least one prompt"),
        ('{"image": "0.png", "prompts": "[["}', "line 2: prompts must be a list, or a text that holds one"),
        ('{"image": "0.png", "prompts": [1], "region": [1, 2, 3]}', "line 2: region must be four whole numbers"),
        ('{"image": "0.png", "prompts": [1], "id": [1]}', "line 2: id must be a text or a whole number"),
        ('{"image": "../0.png", "prompts": [1]}', "row 2 of the list: '../0.png' does not lie in"),
        ('{"image": "http://127.0.0.1/a.png", "prompts": [1]}', "row 2 of the list: 'http://127.0.0.1/a.png' does not"),
    ],
)
def test_a_wrong_list_is_refused_before_any_work(
    run: Callable[..., Any], photos: Path, tmp_path: Path, line: str, message: str
) -> None:
    (photos / "list.jsonl").write_text(json.dumps({"image": "0.png", "prompts": CLICKS}) + f"\n{line}\n")
    done = run()
    assert done.code == 2
    assert message in done.err
    assert not (tmp_path / "masks").exists()


def test_a_list_may_lie_apart_from_its_pictures(run: Callable[..., Any], photos: Path, tmp_path: Path) -> None:
    apart = (photos / "list.jsonl").rename(tmp_path / "list.jsonl")
    done = run(prompts=apart)
    assert (done.code, "7 broken" in done.out) == (1, True)
    assert f"there is no image {tmp_path}/0.png" in done.err
    assert run("--images", photos, prompts=apart).code == 0


def test_workers_are_for_ray(run: Callable[..., Any]) -> None:
    done = run("--workers", "2")
    assert (done.code, done.err) == (2, "i2f: --workers is for --ray: without it, one process does all\n")
