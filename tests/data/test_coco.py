"""COCO and LVIS files: masks as pycocotools makes them, and every kind of fault counted, named or refused."""

from __future__ import annotations

import builtins
import json
import re

import cv2
import numpy as np
import pytest
from pycocotools import mask as coder

from inter2former_deploy.data import CocoDataset, DataError, check, open_dataset
from inter2former_deploy.data.coco import BOXES, CROWDS, NO_MASK, STRAY_RINGS, decode_segmentation, decompress_runs
from inter2former_deploy.data.sample import EMPTY, UNREADABLE_ANNOTATIONS

IMAGE = np.zeros((12, 16, 3), np.uint8)
SQUARE = [[2, 2, 8, 2, 8, 8, 2, 8]]


def write(path, array=IMAGE):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), array)


def image(id_, name="a.png", **more):
    return {"id": id_, "file_name": name, "height": 12, "width": 16} | more


def thing(id_, segmentation, image_id=1, **more):
    return {"id": id_, "image_id": image_id, "segmentation": segmentation, "iscrowd": 0} | more


@pytest.fixture
def coco(tmp_path):
    """`coco(annotations)` is the path of a file whose image 1, a.png, lies beside it."""
    write(tmp_path / "a.png")

    def save(annotations, images=None, name="coco.json", **more):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"images": images or [image(1)], "annotations": annotations} | more))
        return path

    return save


def test_polygons_are_filled_as_pycocotools_fills_them():
    assert decode_segmentation(SQUARE, 12, 12).sum() == 36  # pixels 2 to 7, not 2 to 8
    angles = np.linspace(0, 2 * np.pi, 360, endpoint=False)
    circle = np.stack([50 + 30 * np.cos(angles), 50 + 30 * np.sin(angles)], 1).ravel().tolist()
    assert decode_segmentation([circle], 100, 100).sum() == 2835
    quarter = decode_segmentation([[10.25, 2, 20.25, 2, 20.25, 4, 10.25, 4]], 8, 30)
    assert np.flatnonzero(quarter[2]).tolist() == list(range(10, 20))
    half = decode_segmentation([[10.5, 2, 20.5, 2, 20.5, 4, 10.5, 4]], 8, 30)
    assert np.flatnonzero(half[2]).tolist() == list(range(11, 21))


@pytest.mark.parametrize("seed", range(10))
def test_any_polygons_and_run_lengths_give_pycocotools_masks(seed):
    rng = np.random.default_rng(seed)
    height, width = (int(v) for v in rng.integers(3, 60, 2))
    rings = [(rng.random(2 * int(rng.integers(3, 9))) * 70 - 5).tolist() for _ in range(int(rng.integers(1, 4)))]
    expected = coder.decode(coder.merge(coder.frPyObjects(rings, height, width)))
    assert (decode_segmentation(rings, height, width) == expected).all()
    assert (decode_segmentation([*rings, [1, 2], [], [3, 4, 5, 6]], height, width) == expected).all()
    compressed = coder.encode(np.asfortranarray(expected))
    flat = expected.T.ravel()
    changes = np.flatnonzero(np.diff(np.concatenate([[0], flat]))).tolist()
    plain = np.diff([0, *changes, flat.size]).tolist()
    assert decompress_runs(compressed["counts"]) == plain
    for counts in (plain, compressed["counts"], compressed["counts"].decode()):
        found = decode_segmentation({"size": [height, width], "counts": counts}, height, width)
        assert (found == expected).all()


def test_run_lengths_that_pycocotools_would_take_or_read_beyond_are_refused():
    assert decompress_runs("9220003") == [9, 2, 2, 2, 2, 2, 5]
    for counts, text in (
        ("o", "end within a number"),
        ("9220003o", "end within a number"),
        (" ", "character"),
        ("é", "character"),
        ("ooooooooooooo0", "35 bits"),
        ([3, 4], "add up to 7 pixels, the image has 24"),
        ([30, -6], "add up"),
        ([12.0, 12.0], "whole numbers"),
        (7, "neither text nor a list"),
    ):
        with pytest.raises(ValueError, match=text):
            decode_segmentation({"size": [4, 6], "counts": counts}, 4, 6)
    with pytest.raises(ValueError, match="for an image of"):
        decode_segmentation({"size": [3, 4], "counts": [12]}, 4, 3)


def test_coco_and_lvis_files(tmp_path):
    write(tmp_path / "images/a.png")
    write(tmp_path / "images/val2017/b.png")
    data = {
        "images": [image(1), {"id": 2, "coco_url": "http://host/val2017/b.png", "height": 12, "width": 16}],
        "annotations": [
            thing(7, {"size": [12, 16], "counts": [50, 9, 133]}, 2),
            thing(5, SQUARE),
            thing(8, {"size": [12, 16], "counts": [192]}, 2),
        ],
    }
    path = tmp_path / "lvis.json"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        path.write_text(json.dumps(data), encoding=encoding)
        dataset = open_dataset(path)
        assert [dataset[i].name for i in (0, 2)] == ["b.png#7", "a.png#5"]  # picture by picture
        assert [dataset[i].mask.sum() for i in (0, 2)] == [9, 36]
        result = check(dataset)
        assert (result.usable, result.problems, result.passed_over.names) == ([0, 2], [], {EMPTY: ["b.png#8"]})


def test_boxes_crowds_and_stray_rings_are_counted_and_named(coco):
    runs = {"size": [12, 16], "counts": [50, 9, 133]}
    path = coco(
        [
            thing(1, SQUARE, iscrowd="0"),
            thing(2, [], bbox=[1, 1, 3, 3]),
            {"id": 3, "image_id": 1, "bbox": [1, 1, 3, 3]},
            thing(4, None),
            thing(5, runs, iscrowd=1),
            thing(6, runs, iscrowd="1"),
            thing(7, [*SQUARE, [3.0, 4.0]]),
            thing(8, [[1, 2, 3, 4]]),
            thing(9, [[]]),
        ]
    )
    dataset = CocoDataset(path)
    assert [s.name for s in dataset] == ["a.png#1", "a.png#7"]
    assert [int(s.mask.sum()) for s in dataset] == [36, 36]
    assert dataset.passed_over.names == {
        BOXES: ["annotation 2", "annotation 3"],
        NO_MASK: ["annotation 4", "annotation 8", "annotation 9"],
        CROWDS: ["annotation 5", "annotation 6"],
        STRAY_RINGS: ["annotation 7"],
    }
    assert f"passed over: 2 {CROWDS}: annotation 5, annotation 6" in dataset.remarks()
    assert "--crowds" in CROWDS
    crowds = CocoDataset(path, crowds=True)
    assert [s.name for s in crowds] == ["a.png#1", "a.png#5", "a.png#6", "a.png#7"]
    with pytest.raises(DataError, match=r"strictly:(.|\n)*2 annotations with a box but no mask: annotation 2, annot"):
        CocoDataset(path, strict=True)
    path = coco([thing(i, runs, iscrowd=1) for i in range(30)])
    with pytest.raises(
        DataError, match=r"no annotated objects; there are only\n  30 crowds .*annotation 19 and 10 more"
    ):
        CocoDataset(path)


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (thing(3, {"counts": [192]}), "segmentation: run lengths without their size"),
        (thing(3, {"size": [12, 16]}), "segmentation: an object with size but no counts"),
        (thing(3, {"size": [16, 12], "counts": [192]}), r"segmentation: it is for an image of \[16, 12\]"),
        (thing(3, {"size": ["12", 16], "counts": [192]}), "segmentation: the size of run lengths"),
        (thing(3, [[0.1, 0.1, 0.8, 0.1, 0.8, 0.9]]), "segmentation: coordinates from 0 to 1"),
        (
            thing(3, [[1, 1, float("nan"), 2, 3, 3]]),
            "segmentation: polygon number 0 has a coordinate that is not finite",
        ),
        (thing(3, [[1, 1, 2, float("inf"), 3, 3]]), "not finite"),
        (thing(3, [[1, 1, 2, "2", 3, 3]]), "segmentation: polygon number 0 is no list of numbers"),
        (thing(3, [[1, 1, 2, 2, 3, 3, 4]]), "segmentation: polygon number 0 is no list of numbers, two for a point"),
        (thing(3, [1, 1, 2, 2, 3, 3]), "segmentation: .*not a flat list"),
        (thing(3, [[1e9, 1, 2, 2, 3, 3]]), r"segmentation: coordinate 1e\+09 .*outside 16 x 12"),
        (thing(3, "eNpzLA"), "segmentation: neither polygons nor run lengths but str"),
        (thing(3, SQUARE, iscrowd="yes"), "iscrowd is 0 or 1, not 'yes'"),
    ],
)
def test_the_annotation_and_its_field_are_named(coco, annotation, text):
    dataset = CocoDataset(coco([thing(1, SQUARE), annotation]))
    assert [s.name for s in dataset] == ["a.png#1"]
    (named,) = dataset.passed_over.names[UNREADABLE_ANNOTATIONS]
    assert re.match(f"annotation 3: {text}", named) or re.match(f"annotation 3: .*{text}", named)


def test_a_small_object_in_the_first_pixel_is_no_mistake(coco):
    (sample,) = CocoDataset(coco([thing(1, [[0, 0, 1, 0, 1, 1, 0, 1]])]))
    assert np.argwhere(sample.mask).tolist() == [[0, 0]]


def test_run_lengths_that_turn_out_broken_are_passed_over(coco):
    dataset = CocoDataset(coco([thing(1, SQUARE), thing(2, {"size": [12, 16], "counts": "o"})]))
    result = check(dataset)
    assert result.usable == [0]
    assert result.passed_over.counts() == {UNREADABLE_ANNOTATIONS: 1}
    assert "a.png#2: segmentation: compressed run lengths end" in result.passed_over.lines()[0]


def test_ids_of_images(coco):
    both = [image(1), image("x-7", "b.png")]
    write(coco([]).parent / "b.png")
    dataset = CocoDataset(coco([thing(1, SQUARE, "1"), thing(2, SQUARE, "x-7"), thing(3, SQUARE, 1.0)], both))
    assert [s.name for s in dataset] == ["a.png#1", "a.png#3", "b.png#2"]
    dataset = CocoDataset(coco([thing(1, SQUARE), thing(2, SQUARE, 9), thing(3, SQUARE, None)], both))
    assert dataset.passed_over.names == {
        "annotations of images that the file does not list": ["annotation 2: image_id 9", "annotation 3: image_id None"]
    }
    for second in (1, "1"):
        with pytest.raises(DataError, match=r"1 ids belong to two images each: id 1: a.png and b.png"):
            CocoDataset(coco([thing(1, SQUARE)], [image(1), image(second, "b.png")]))
    with pytest.raises(DataError, match="images number 1 has no id"):
        CocoDataset(coco([thing(1, SQUARE)], [image(1), {"file_name": "b.png"}]))
    with pytest.raises(DataError, match="image 2 has neither file_name nor coco_url"):
        CocoDataset(coco([thing(1, SQUARE)], [image(1), {"id": 2}]))


def test_sizes_that_are_no_numbers_are_named_and_may_be_missing(coco):
    write(coco([]).parent / "b.png")
    images = [image(1, width="n/a"), image(2, "b.png", width=16.0)]
    dataset = CocoDataset(coco([thing(1, SQUARE), thing(2, SQUARE, 2)], images))
    assert dataset.passed_over.names == {
        UNREADABLE_ANNOTATIONS: ["annotation 1: its image 1: width is a number of pixels, not 'n/a'"]
    }
    assert [s.name for s in dataset] == ["b.png#2"]
    (sample,) = CocoDataset(coco([thing(1, SQUARE)], [{"id": 1, "file_name": "a.png"}]))
    assert sample.mask.sum() == 36


def test_a_picture_of_another_size_is_a_problem_with_a_hint_at_its_orientation(coco):
    path = coco([thing(1, SQUARE)], [image(1, width=12, height=16)])
    (problem,) = check(CocoDataset(path)).problems
    assert "lying on its side" in problem
    path = coco([thing(1, SQUARE)], [image(1, width=20)])
    (problem,) = check(CocoDataset(path)).problems
    assert "a.png#1: the image is 16 x 12 but the mask 20 x 12" in problem


def test_samples_of_equal_names_are_told_apart(coco, tmp_path):
    for name in ("a/x.png", "b/x.png"):
        write(tmp_path / name)
    images = [image(1, "a/x.png"), image(2, "b\\x.png")]
    dataset = CocoDataset(coco([thing(5, SQUARE), thing(5, SQUARE, 2), thing(5, SQUARE, 2)], images))
    assert [s.name for s in dataset] == ["a/x.png#5", "b/x.png#5", "b/x.png#5 (2)"]


@pytest.mark.parametrize(
    ("annotations", "pictures"),
    [
        ("annotations/instances_val2017.json", "val2017"),
        ("annotations/instances_default.json", "images/default"),
        ("annotations/result.json", "images"),
        ("result.json", "images/upload"),
    ],
)
def test_pictures_are_found_where_tools_put_them(coco, tmp_path, annotations, pictures):
    path = coco([thing(1, SQUARE)], [image(1, "p.png")], name=f"set/{annotations}")
    write(tmp_path / "set" / pictures / "p.png")
    write(tmp_path / "set" / pictures / "../other/q.png")
    dataset = CocoDataset(path)
    assert dataset[0].mask.sum() == 36
    assert any("pictures found in" in note for note in dataset.notes) == (
        pictures != "images" or "annot" in annotations
    )


def test_the_split_in_the_name_of_the_file_decides_between_folders_with_the_same_names(coco, tmp_path):
    for split in ("train", "val"):
        write(tmp_path / f"set/{split}/0001.png", IMAGE + (200 if split == "val" else 0))
    path = coco([thing(1, SQUARE)], [image(1, "0001.png")], name="set/annotations/instances_val.json")
    assert CocoDataset(path)[0].image.max() == 200
    path = coco([thing(1, SQUARE)], [image(1, "0001.png")], name="set/annotations/all.json")
    with pytest.raises(DataError, match=r"pictures of these names are in .*set/train, .*set/val: choose with --images"):
        CocoDataset(path)
    assert CocoDataset(path, tmp_path / "set/train")[0].image.max() == 0


def test_missing_pictures_are_counted_and_unused_ones_do_not_matter(coco):
    images = [image(1), *(image(i, f"gone{i}.png") for i in range(2, 60))]
    used = [thing(i, SQUARE, i) for i in range(1, 31)]
    dataset = CocoDataset(coco(used, images))
    assert [s.name for s in dataset] == ["a.png#1"]
    assert dataset.passed_over.names == {}
    (problem,) = dataset.problems
    assert re.match(
        r"29 of 30 annotated pictures are missing \(--images .*gone2.png, .*gone21.png and 9 more$", problem
    )
    assert CocoDataset(coco(used[:1], images)).problems == []
    with pytest.raises(
        DataError, match=r"none of its 29 annotated pictures is in (.|\n)*say with --images FOLDER"
    ) as error:
        CocoDataset(coco(used[1:], images))
    assert len(str(error.value)) < 1500
    with pytest.raises(DataError, match="29 of 30 annotated pictures"):
        CocoDataset(coco(used, images), strict=True)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"images": [], "annotations": [{"image_id": 1, "file_name": "x.png", "segments_info": []}]}, "panoptic"),
        ({"image": {"image_id": 1, "file_name": "sa_1.jpg"}, "annotations": [{"segmentation": {}}]}, "SA-1B"),
        ({"version": "5", "shapes": [], "imagePath": "a.jpg", "imageData": None}, "LabelMe"),
        ([{"image_id": 1, "category_id": 1, "segmentation": {}, "score": 0.5}], "results in COCO's form"),
        ([{"data": {"image": "x"}, "annotations": []}], "Label Studio"),
        ({"_via_img_metadata": {}}, "VIA"),
        ({"images": [], "annotations": [{"id": 1, "image_id": 1, "caption": "a cat"}]}, "captions"),
        ({"images": []}, "not a COCO annotation file: it has no list 'annotations'"),
        ({"images": {}, "annotations": []}, "it has no list 'images'"),
        ({"images": [], "annotations": []}, "no annotated objects"),
        ([], "not a COCO annotation file: a list"),
        (3, "not a COCO annotation file: int"),
    ],
)
def test_other_formats_are_recognised_and_named(tmp_path, data, text):
    path = tmp_path / "file.json"
    path.write_text(json.dumps(data))
    with pytest.raises(DataError, match=text) as error:
        open_dataset(path)
    assert "\n" not in str(error.value)


def test_without_pycocotools_the_message_says_what_to_install(coco, monkeypatch):
    path = coco([thing(1, SQUARE)])
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name.startswith("pycocotools"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DataError, match=r"pip install 'inter2former-deploy\[eval\]'"):
        open_dataset(path)
