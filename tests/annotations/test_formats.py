"""Formats of other tools: what is written comes back pixel by pixel, through the tools' own code where it is light."""

from __future__ import annotations

import base64
import io
import json
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from brushes import decode_brush
from masks_of_all_kinds import filled, random_masks
from PIL import Image, ImageDraw

from inter2former_deploy.annotations import formats
from inter2former_deploy.annotations.masks import outlines
from inter2former_deploy.annotations.project import Class, Draft, Picture, Project
from inter2former_deploy.apps.cli import main
from inter2former_deploy.core.runs import Runs
from inter2former_deploy.data.folders import FolderDataset
from inter2former_deploy.data.sample import DataError

H, W = 20, 27
MASKS = random_masks(200, H, W)
STEMS = {"a.jpg": "a", "a.png": "a.png", "inside/b & <c>.png": "inside/b & <c>", "none.png": "none"}
SOME = [mask for mask in MASKS if mask.any()]


def shoelace(ring: np.ndarray) -> float:
    x, y = ring.T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) / 2


@pytest.mark.parametrize("part", range(4))
def test_outlines_enclose_the_same_pixels(part: int) -> None:
    for mask in MASKS[part::4]:
        found = outlines(Runs.of(mask))
        rings = [ring for outline in found for ring in (outline.ring, *outline.holes)]
        np.testing.assert_array_equal(filled(rings, H, W), mask)
        count, _ = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
        assert len(found) == count - 1
        assert all(shoelace(outline.ring) > 0 for outline in found)  # clockwise, y down
        assert all(shoelace(hole) < 0 for outline in found for hole in outline.holes)
        assert sum(map(shoelace, rings)) == mask.sum()
        for ring in rings:  # each point turns, each edge is along an axis
            steps = np.roll(ring, -1, 0) - ring
            assert ((steps == 0).sum(1) == 1).all()
            assert ((steps != 0) != (np.roll(steps, -1, 0) != 0)).all()


def test_the_outline_of_a_pixel() -> None:
    mask = np.zeros((3, 4), bool)
    mask[1, 2] = True
    (outline,) = outlines(Runs.of(mask))
    assert outline.ring.tolist() == [[2, 1], [3, 1], [3, 2], [2, 2]]


def picture_file(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (H, W, 3), np.uint8)).save(path)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    for number, name in enumerate(("a.jpg", "a.png", "inside/b & <c>.png", "none.png")):
        picture_file(tmp_path / "photos" / name, number)
    with Project.open(folder=tmp_path / "photos") as opened:
        list(opened.scan())
        opened.put_classes([Class("cat", "#ff0000"), Class('dog "big" & small', "#00ff00")], 0)
        yield opened


def fill(project: Project, masks: list[np.ndarray]) -> dict[str, list[np.ndarray]]:
    """Objects on the first three pictures, and which they are by the pictures' names."""
    there: dict[str, list[np.ndarray]] = {}
    labels = ("cat", 'dog "big" & small', "", "not listed")
    for number, picture in enumerate(project.pictures()[:3]):
        mine = masks[number::3]
        drafts = {
            str(uuid.uuid4()): Draft(class_name=labels[i % 4], mask=Runs.of(mask), order=i)
            for i, mask in enumerate(mine)
        }
        project.add_objects(picture.id, drafts)
        there[picture.name] = mine
    return there


def same(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.astype(bool), other)


@pytest.mark.parametrize("polygons", [False, True])
def test_coco(project: Project, tmp_path: Path, polygons: bool) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    there = fill(project, MASKS)
    assert formats.export(project, "coco", tmp_path / "out", polygons=polygons) == []
    data = coco.COCO(tmp_path / "out" / "annotations.json")
    assert [entry["name"] for entry in data.cats.values()] == ["cat", 'dog "big" & small', "object", "not listed"]
    assert [entry["file_name"] for entry in data.imgs.values()] == [picture.name for picture in project.pictures()]
    for key, image in data.imgs.items():
        entries = data.loadAnns(data.getAnnIds(imgIds=key))
        expected = there.get(image["file_name"], [])
        same([data.annToMask(entry) for entry in entries], expected)
        for entry, mask in zip(entries, expected, strict=True):
            assert entry["area"] == mask.sum()
            assert entry["iscrowd"] == 0
            if polygons and mask.any():
                assert isinstance(entry["segmentation"], list)
            x, y, width, height = entry["bbox"]
            inside = mask[y : y + height, x : x + width]
            assert inside.sum() == mask.sum()
            assert not mask.any() or (inside.any(0)[[0, -1]].all() and inside.any(1)[[0, -1]].all())


def test_labelme(project: Project, tmp_path: Path) -> None:
    there = fill(project, MASKS)
    (note,) = formats.export(project, "labelme", tmp_path / "out")
    assert note == "1 objects without a pixel, which the format cannot hold, are left out: a.jpg"
    names = {
        "a.jpg": "a.json",
        "a.png": "a.png.json",
        "inside/b & <c>.png": "inside/b & <c>.json",
        "none.png": "none.json",
    }
    for picture, name in names.items():
        content = json.loads((tmp_path / "out" / name).read_text())
        assert (content["imagePath"], content["imageData"]) == (Path(picture).name, None)
        assert (content["imageHeight"], content["imageWidth"]) == (H, W)
        masks = []
        for shape in content["shapes"]:
            (x0, y0), (x1, y1) = shape["points"]
            mask = np.zeros((H, W), bool)
            mask[y0 : y1 + 1, x0 : x1 + 1] = np.asarray(Image.open(io.BytesIO(base64.b64decode(shape["mask"]))))
            masks.append(mask)
        same(masks, [mask for mask in there.get(picture, []) if mask.any()])


def test_labelme_polygons_are_filled_with_their_border(project: Project, tmp_path: Path) -> None:
    there = fill(project, MASKS)
    notes = formats.export(project, "labelme", tmp_path / "out", polygons=True)
    holes = 0
    content = json.loads((tmp_path / "out" / "a.json").read_text())
    shapes = iter(content["shapes"])
    shape = next(shapes)
    for mask in (mask for mask in there["a.jpg"] if mask.any()):
        canvas = Image.new("L", (W, H))
        group = shape["group_id"]
        while True:
            ImageDraw.Draw(canvas).polygon([tuple(point) for point in shape["points"]], outline=1, fill=1)
            shape = next(shapes, {"group_id": None})
            if group is None or shape["group_id"] != group:
                break
        outer, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        without_holes = cv2.drawContours(np.zeros((H, W), np.uint8), outer, -1, 1, cv2.FILLED) > 0
        holes += bool((without_holes & ~mask).any())
        np.testing.assert_array_equal(np.asarray(canvas) == 1, without_holes)
    assert holes
    assert any(note.endswith("a.jpg") or "holes" in note for note in notes)


def test_cvat(project: Project, tmp_path: Path) -> None:
    there = fill(project, MASKS)
    assert len(formats.export(project, "cvat", tmp_path / "out")) == 1
    root = ElementTree.parse(tmp_path / "out" / "annotations.xml").getroot()
    assert [entry.findtext("name") for entry in root.findall("meta/task/labels/label")][:2] == [
        "cat",
        'dog "big" & small',
    ]
    for image in root.findall("image"):
        assert (image.get("width"), image.get("height")) == (str(W), str(H))
        masks = []
        for entry in image.findall("mask"):
            left, top, width, height = (int(entry.attrib[name]) for name in ("left", "top", "width", "height"))
            counts = [int(count) for count in entry.attrib["rle"].split(",")]
            values = np.repeat(np.arange(len(counts)) % 2, counts).reshape(height, width)
            mask = np.zeros((H, W), bool)
            mask[top : top + height, left : left + width] = values
            masks.append(mask)
        same(masks, [mask for mask in there.get(image.attrib["name"], []) if mask.any()])


def test_label_studio(project: Project, tmp_path: Path) -> None:
    there = fill(project, MASKS)
    assert formats.export(project, "label-studio", tmp_path / "out", image_root="/data/") == []
    tasks = json.loads((tmp_path / "out" / "tasks.json").read_text())
    assert "annotations" not in tasks[-1]
    for task in tasks[:3]:
        picture = task["data"]["image"].removeprefix("/data/")
        (annotation,) = task["annotations"]
        masks = []
        for region in annotation["result"]:
            assert (region["original_width"], region["original_height"], region["type"]) == (W, H, "brushlabels")
            channels = decode_brush(region["value"]["rle"]).reshape(H, W, 4)
            assert (channels == channels[..., :1]).all()
            assert set(np.unique(channels)) <= {0, 255}
            masks.append(channels[..., 3] > 0)
        same(masks, there[picture])
    config = ElementTree.parse(tmp_path / "out" / "config.xml").getroot()
    labels = {label.get("value") for label in config.findall("BrushLabels/Label")}
    used = {
        label for task in tasks[:3] for r in task["annotations"][0]["result"] for label in r["value"]["brushlabels"]
    }
    assert used == labels
    brushes = {(r["from_name"], r["to_name"]) for task in tasks[:3] for r in task["annotations"][0]["result"]}
    assert brushes == {(config.find("BrushLabels").get("name"), config.find("Image").get("name"))}  # type: ignore[union-attr]


def test_the_example_of_label_studio_s_code() -> None:
    """Made by Label Studio's own encoder."""
    from inter2former_deploy.annotations.formats.label_studio import brush_code

    mask = np.zeros((2, 3), bool)
    mask[:, 1] = True
    theirs = [0, 0, 0, 24, 57, 27, 252, 96, 17, 255, 206, 1, 31, 252, 96, 0]
    np.testing.assert_array_equal(decode_brush(theirs), decode_brush(brush_code(Runs.of(mask))))


def test_yolo(project: Project, tmp_path: Path) -> None:
    there = fill(project, MASKS)
    assert len(formats.export(project, "yolo", tmp_path / "out")) == 1
    for picture, name in {
        "a.jpg": "a",
        "a.png": "a.png",
        "inside/b & <c>.png": "inside/b & <c>",
        "none.png": "none",
    }.items():
        masks, numbers = [], []
        for line in (tmp_path / "out" / "labels" / f"{name}.txt").read_text().splitlines():
            number, *shares = line.split()
            points = np.array(shares, float).reshape(-1, 2) * (W, H)
            assert np.abs(points - points.round()).max() < 1e-6
            masks.append(filled([points.round().astype(np.int64)], H, W))
            numbers.append(int(number))
        expected = [(i % 4, mask) for i, mask in enumerate(there.get(picture, [])) if mask.any()]
        same(masks, [mask for _, mask in expected])
        assert numbers == [[0, 1, 2, 3][i] for i, _ in expected]
    assert '  1: "dog \\"big\\" & small"\n' in (tmp_path / "out" / "data.yaml").read_text()


def test_png(project: Project, tmp_path: Path) -> None:
    there = fill(project, MASKS)
    assert formats.export(project, "png", tmp_path / "out") == []
    listed = json.loads((tmp_path / "out" / "objects.json").read_text())
    assert [entry["picture"] for entry in listed] == [name for name, masks in there.items() for _ in masks]
    read = [np.asarray(Image.open(tmp_path / "out" / entry["mask"])) for entry in listed]
    assert all(set(np.unique(values)) <= {0, 255} for values in read)
    same(read, [mask for masks in there.values() for mask in masks])


def test_index(project: Project, tmp_path: Path) -> None:
    masks = [np.zeros((H, W), bool) for _ in range(6)]
    for number, mask in enumerate(masks):
        mask[2:12, 3 * number : 3 * number + 5] = True  # on each picture two apart from each other
    there = fill(project, masks)
    picture = project.pictures()[0]
    project.add_objects(picture.id, {str(uuid.uuid4()): Draft(class_name="cat", mask=Runs.of(masks[1]), order=9)})
    (note,) = formats.export(project, "index", tmp_path / "out")
    assert note == "1 objects partly hidden by others that lie above them: a.jpg#1"
    ids = Image.open(tmp_path / "out" / "SegmentationObject" / "a.png")
    assert ids.mode == "P"
    assert ids.getpalette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]  # type: ignore[index]
    expected = np.zeros((H, W), int)
    for number, mask in enumerate([*there["a.jpg"], masks[1]], 1):
        expected[mask] = number
    np.testing.assert_array_equal(np.asarray(ids), expected)
    kinds = Image.open(tmp_path / "out" / "SegmentationClass" / "a.png")
    np.testing.assert_array_equal(np.asarray(kinds), np.array([0, 1, 2, 1])[expected])
    assert kinds.getpalette()[3:9] == [255, 0, 0, 0, 255, 0]  # type: ignore[index]
    assert (tmp_path / "out" / "labels.txt").read_text().splitlines()[:2] == ["background", "cat"]
    # our own readers of datasets take it
    photos = tmp_path / "out" / "JPEGImages"
    for entry in project.pictures():
        target = photos / entry.name if entry.name != "a.png" else photos / "a.png.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(project.path(entry.id)).save(target)
    dataset = FolderDataset(tmp_path / "out")
    assert [sample.name for sample in (dataset[i] for i in range(3))] == [
        "JPEGImages/a.jpg#1",
        "JPEGImages/a.jpg#2",
        "JPEGImages/a.jpg#3",
    ]


@pytest.mark.parametrize(("name", "polygons"), [("coco", False), ("coco", True), ("labelme", False), ("png", False)])
@pytest.mark.parametrize("packed", [False, True])
def test_what_was_exported_is_imported(
    project: Project, tmp_path: Path, name: str, polygons: bool, packed: bool
) -> None:
    there = fill(project, [*SOME[:30], MASKS[0]])
    formats.export(project, name, tmp_path / "out", polygons=polygons)
    source = tmp_path / "out"
    if packed:
        source = tmp_path / "out.zip"
        with zipfile.ZipFile(source, "w") as archive:
            for path in sorted((tmp_path / "out").rglob("*.*")):
                if path.is_file():
                    archive.write(path, path.relative_to(tmp_path / "out"))
    with Project.open(f"sqlite:///{tmp_path}/other.sqlite3", tmp_path / "photos") as other:
        list(other.scan())
        done = formats.import_objects(other, name, source)
        again = formats.import_objects(other, name, source)
        assert again.objects == 0
        pictures = {picture.name: picture for picture in other.pictures()}
        keeps_empty = name != "labelme"
        count = 0
        for picture, masks in there.items():
            expected = {Runs.of(mask) for mask in masks if keeps_empty or mask.any()}
            objects = other.objects(pictures[picture].id)
            assert {entry.mask for entry in objects} == expected
            for entry in objects:
                assert entry.prompts == (({"mask": entry.mask.to_json()},) if entry.mask.area else ())
                assert entry.author == "import"
            count += len(objects)
        assert done.objects == count
        names = {entry.name for entry in other.classes().classes}
        assert names == {"cat", 'dog "big" & small', "object", "not listed"}


def test_labelme_shapes(project: Project, tmp_path: Path) -> None:
    square = {"label": "cat", "points": [[2, 3], [9, 3], [9, 8], [2, 8]], "shape_type": "polygon"}
    shapes = [
        square,
        {"label": "cat", "points": [[20, 2], [12, 9]], "shape_type": "rectangle"},
        {"label": "dog", "points": [[5, 12], [5, 15]], "shape_type": "circle", "group_id": 1},
        {"label": "dog", "points": [[15, 12], [18, 12], [15, 15]], "group_id": 1},
        {"label": "line", "points": [[1, 1], [2, 2]], "shape_type": "line"},
        {"label": "far", "points": [[1, 1], [2, 2], [1e6, 3]]},
        {"label": "nan", "points": [[1, 1], [2, 2], [float("nan"), 3]]},
        {"label": "outside", "points": [[20, 1], [27, 2]], "shape_type": "mask", "mask": ""},
        {"points": [[1, 1]]},
        7,
    ]
    (tmp_path / "a.json").write_text(
        json.dumps({"shapes": shapes, "imagePath": "..\\photos\\a.jpg", "imageData": None})
    )
    done = formats.import_objects(project, "labelme", tmp_path / "a.json")
    assert done.objects == 3
    notes = " ".join(done.notes)
    for words in ("'line' has no area", "far outside", "pairs of finite numbers", "reaches beyond", "has no label"):
        assert words in notes
    masks = {}
    for entry in project.objects(project.pictures()[0].id):
        masks.setdefault(entry.class_name, []).append(entry.mask.mask())
    expected = np.zeros((H, W), bool)
    expected[3:9, 2:10] = True
    assert any((mask == expected).all() for mask in masks["cat"])
    assert sorted(int(mask.sum()) for mask in masks["cat"]) == [48, 72]
    assert len(masks["dog"]) == 1
    assert masks["dog"][0][12, 2:9].all()
    assert masks["dog"][0][12, 15:19].all()


def test_masks_of_other_programs(project: Project, tmp_path: Path) -> None:
    """By their names; label maps become several objects."""
    ids = np.zeros((H, W), np.uint8)
    ids[2:8, 2:8], ids[10:18, 10:18] = 1, 2
    masks = tmp_path / "masks"
    (masks / "inside").mkdir(parents=True)
    Image.fromarray(ids).save(masks / "none.png")
    Image.fromarray((ids == 1).astype(np.uint8) * 255).save(masks / "inside" / "b & <c>_2.png")
    Image.fromarray(ids[:5]).save(masks / "none_2.png")
    Image.fromarray(ids).save(masks / "a.png")  # of a.jpg or of a.png?
    Image.fromarray(ids).save(masks / "stranger.png")
    (masks / "broken.png").write_bytes(b"no")
    done = formats.import_objects(project, "png", masks)
    assert done.objects == 3
    counts = {picture.name: picture.objects for picture in project.pictures()}
    assert counts == {"a.jpg": 0, "a.png": 0, "inside/b & <c>.png": 1, "none.png": 2}
    notes = " ".join(done.notes)
    for words in (
        "or has several of that name: a, a, stranger",
        "27 x 5 pixels, the picture 27 x 20",
        "broken.png",
    ):
        assert words in notes


def test_crowds_and_boxes_of_coco(project: Project, tmp_path: Path) -> None:
    runs = Runs.of(SOME[0])
    entries = [
        {"image_id": "7", "category_id": 1, "segmentation": runs.to_json(), "iscrowd": 1},
        {"image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4]},
        {"image_id": 8, "category_id": 1, "segmentation": runs.to_json()},
        {"image_id": 7, "segmentation": {"size": [H, W + 1], "counts": [H * W + H]}},
        {"image_id": 7, "segmentation": [[1, 2, "x", 4, 5, 6]]},
        5,
    ]
    data = {
        "images": [{"id": 7, "file_name": "x/none.png"}],
        "annotations": entries,
        "categories": [{"id": 1, "name": "k"}],
    }
    (tmp_path / "c.json").write_text(json.dumps(data))
    done = formats.import_objects(project, "coco", tmp_path / "c.json")
    assert done.objects == 1
    (entry,) = project.objects(project.pictures()[3].id)
    assert (entry.mask, entry.class_name) == (runs, "k")
    notes = " ".join(done.notes)
    for words in (
        "1 annotations without a mask",
        "no image that the file lists",
        "it is for an image of",
        "no list of numbers",
    ):
        assert words in notes


def test_what_is_refused(project: Project, tmp_path: Path) -> None:
    fill(project, SOME[:3])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(ValueError, match="is not empty: name a new folder"):
        formats.export(project, "coco", tmp_path / "full")
    with pytest.raises(ValueError, match="there is no format 'psd': there are png, index, coco"):
        formats.export(project, "psd", tmp_path / "out")
    with pytest.raises(ValueError, match="cvat has no choice of polygons: only coco, labelme"):
        formats.export(project, "cvat", tmp_path / "out", polygons=True)
    with pytest.raises(LookupError):
        formats.export(project, "coco", tmp_path / "out", pictures=["0"])
    with pytest.raises(ValueError, match="written but not read: png, coco, labelme are read"):
        formats.import_objects(project, "yolo", tmp_path)
    with pytest.raises(DataError, match="there is no file"):
        formats.import_objects(project, "coco", tmp_path / "nothing")
    many = {str(uuid.uuid4()): Draft(class_name="cat", mask=Runs.of(SOME[0])) for _ in range(255)}
    project.add_objects(project.pictures()[3].id, many)
    with pytest.raises(ValueError, match=r"holds 254 objects, none\.png has 255: export png or coco"):
        formats.export(project, "index", tmp_path / "out2")


@pytest.mark.parametrize("name", ["../out.json", "/etc/out.json", "..\\out.json"])
def test_archives_that_lead_out_are_refused(project: Project, tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr(name, "{}")
    with pytest.raises(DataError, match="leads out of the archive"):
        formats.import_objects(project, "coco", tmp_path / "bad.zip")


def test_archives_with_links_or_too_much_are_refused(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        link = zipfile.ZipInfo("link.json")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match="leads out of the archive"):
        formats.import_objects(project, "coco", tmp_path / "link.zip")
    monkeypatch.setattr(formats, "MOST_BYTES", 10_000)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.json", " " * 20_000)
    with pytest.raises(DataError, match="its files are more than 10,000 bytes"):
        formats.import_objects(project, "coco", tmp_path / "bomb.zip")


def test_names_of_a_foreign_database_lead_nowhere(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("../x.png", "/x.png", "a/../../x.png", "..\\x.png"):
        monkeypatch.setattr(project, "pictures", lambda name=name: [Picture("0", name, H, W)])
        with pytest.raises(ValueError, match="a name that leads out of a folder"):
            formats.export(project, "labelme", tmp_path / "out" / "deep")


def test_the_command_line(project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def i2f(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main([*map(str, arguments)])
        return int(stop.value.code or 0), *capsys.readouterr()

    fill(project, [*SOME[:5], MASKS[0]])
    photos = tmp_path / "photos"
    code, out, err = i2f("annotations", "export", photos, "--format", "coco", "-o", tmp_path / "out")
    assert (code, out, err) == (0, f"{tmp_path / 'out'}: 6 objects on 4 pictures\n", "")
    code, out, err = i2f(
        "annotations", "export", photos / "annotations.sqlite3", "--format", "cvat", "-o", tmp_path / "xml"
    )
    assert (code, err.count("i2f: note: 1 objects without a pixel")) == (0, 1)
    for number, name in enumerate(("a.jpg", "a.png", "inside/b & <c>.png", "none.png")):
        picture_file(tmp_path / "others" / name, number)
    code, out, err = i2f("annotations", "import", tmp_path / "others", tmp_path / "out", "--format", "coco")
    assert (code, out, err) == (0, f"{tmp_path / 'others' / 'annotations.sqlite3'}: 6 new objects\n", "")
    code, out, err = i2f("annotations", "formats")
    assert [line.split()[0] for line in out.splitlines() if line[0] != " "] == list(formats.FORMATS)
    code, out, err = i2f("annotations", "export", tmp_path / "nothing", "--format", "coco", "-o", tmp_path / "x")
    assert (code, err) == (2, f"i2f: there is no folder or database {tmp_path / 'nothing'}\n")
    (tmp_path / "bare").mkdir()
    code, out, err = i2f("annotations", "export", tmp_path / "bare", "--format", "coco", "-o", tmp_path / "x")
    assert (code, err.startswith("i2f: there is no database of annotations")) == (2, True)
    assert list((tmp_path / "bare").iterdir()) == []
