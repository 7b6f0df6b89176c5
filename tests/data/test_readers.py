from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from inter2former_deploy.data import CocoDataset, DataError, FolderDataset, check, open_dataset
from inter2former_deploy.data.coco import decode_runs, decode_segmentation, decompress_runs
from inter2former_deploy.data.sample import IGNORED, Sample, read_mask


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), array)


IMAGE = np.zeros((12, 16, 3), np.uint8)
MASK = np.zeros((12, 16), np.uint8)
MASK[3:7, 5:9] = 255


def test_pairs_of_every_known_layout_are_found(tmp_path):
    for images, masks in (
        ("plain/images", "plain/masks"),
        ("DAVIS/img", "DAVIS/gt"),
        ("DAVIS17/JPEGImages", "DAVIS17/Annotations"),
        ("DIS5K/DIS-VD/im", "DIS5K/DIS-VD/gt"),
        ("HRSOD/images", "HRSOD/masks_max255"),
    ):
        write(tmp_path / images / "480p/bear/00000.png", IMAGE + 9)
        write(tmp_path / masks / "480p/bear/00000.png", MASK)
    dataset = open_dataset(tmp_path)
    assert len(dataset) == 5
    assert len({dataset[i].name for i in range(5)}) == 5
    assert dataset[0].mask.sum() == 16
    assert check(dataset) == []


def test_broken_pairs_are_named(tmp_path):
    for name in ("good", "small", "empty", "torn"):
        write(tmp_path / f"images/{name}.png", IMAGE)
        write(tmp_path / f"masks/{name}.png", MASK)
    write(tmp_path / "masks/small.png", MASK[:10])
    write(tmp_path / "masks/empty.png", MASK * 0)
    (tmp_path / "images/torn.png").write_bytes(b"\x89PNG no more")
    problems = check(FolderDataset(tmp_path))
    assert len(problems) == 3
    for name, text in (("small", "16 x 12 but the mask 16 x 10"), ("empty", "is empty"), ("torn", "not a readable")):
        assert any(name in p and text in p for p in problems)
    write(tmp_path / "images/lonely.png", IMAGE)
    write(tmp_path / "masks/widow.png", MASK)
    with pytest.raises(DataError, match=r"2 files have no partner(.|\n)*lonely(.|\n)*widow"):
        FolderDataset(tmp_path)
    with pytest.raises(DataError, match="no folders of images"):
        FolderDataset(tmp_path / "images")


def test_values_of_masks(tmp_path):
    def values(array):
        write(tmp_path / "mask.png", array)
        return read_mask(tmp_path / "mask.png")

    soft = np.array([[0, 127, 128, 255]], np.uint8)
    assert values(soft).tolist() == [[0, 0, 1, 1]]
    assert values(np.array([[0, 3, 0, 1]], np.uint8)).tolist() == [[0, 1, 0, 1]]
    assert values(np.array([[0, 1, 255]], np.uint8)).tolist() == [[0, 1, IGNORED]]
    palette = np.array([[[0, 0, 0], [0, 0, 64], [128, 0, 0]]], np.uint8)
    assert values(palette).tolist() == [[0, 1, 1]]
    with pytest.raises(DataError, match="empty"):
        Sample("only ignored", IMAGE, np.full((12, 16), IGNORED, np.uint8))


def compress(counts):
    """The inverse of `decompress_runs`, from its format alone."""
    text = ""
    for i, count in enumerate(counts):
        value = count - counts[i - 2] if i > 2 else count
        while True:
            group, value = value & 31, value >> 5
            done = (value == 0 and not group & 16) or (value == -1 and bool(group & 16))
            text += chr(48 + group + (0 if done else 32))
            if done:
                break
    return text


def test_run_lengths_in_both_forms_give_the_mask():
    rng = np.random.default_rng(0)
    mask = cv2.resize((rng.random((6, 5)) < 0.5).astype(np.uint8), (70, 90), interpolation=cv2.INTER_NEAREST)
    flat = mask.T.ravel()
    change = np.flatnonzero(np.diff(np.concatenate([[0], flat]))).tolist()
    counts = np.diff([0, *change, flat.size]).tolist()
    assert (decode_runs(counts, 90, 70) == mask).all()
    assert decompress_runs(compress(counts)) == counts
    for form in (counts, compress(counts), compress(counts).encode()):
        assert (decode_segmentation({"size": [90, 70], "counts": form}, 90, 70) == mask).all()
    # a known string: 3 background, 2 object, 4 background pixels, then 70 object
    assert decompress_runs("324T2") == [3, 2, 4, 70]
    for bad in ("o", "\x20"):
        with pytest.raises(ValueError, match="run lengths"):
            decompress_runs(bad)
    with pytest.raises(ValueError, match="add up"):
        decode_runs([3, 4], 2, 2)
    with pytest.raises(ValueError, match="for an image of"):
        decode_segmentation({"size": [3, 4], "counts": [12]}, 4, 3)


def test_polygons_are_filled_between_pixel_borders():
    mask = decode_segmentation([[2, 1, 6, 1, 6, 4, 2, 4], [8.0, 8.0, 9.0, 8.0, 8.5, 9.0]], 10, 10)
    assert mask[1:4, 2:6].all()
    assert mask[:8].sum() <= 5 * 4  # OpenCV paints pixels whose centre lies on the outline's right and bottom, too
    assert not mask[:, :1].any()
    with pytest.raises(ValueError, match="at least six"):
        decode_segmentation([[1, 2, 3, 4]], 10, 10)


def test_coco_and_lvis_files(tmp_path):
    write(tmp_path / "images/a.png", IMAGE)
    write(tmp_path / "images/val2017/b.png", IMAGE)
    square = [[2, 2, 8, 2, 8, 8, 2, 8]]
    data = {
        "images": [
            {"id": 1, "file_name": "a.png", "height": 12, "width": 16},
            {"id": 2, "coco_url": "http://host/val2017/b.png", "height": 12, "width": 16},
        ],
        "annotations": [
            {"id": 5, "image_id": 1, "segmentation": square, "iscrowd": 0},
            {"id": 6, "image_id": 1, "segmentation": {"size": [12, 16], "counts": [192]}, "iscrowd": 1},
            {"id": 7, "image_id": 2, "segmentation": {"size": [12, 16], "counts": [50, 9, 133]}},
            {"id": 8, "image_id": 2, "segmentation": {"size": [12, 16], "counts": [192]}},
        ],
    }
    path = tmp_path / "lvis.json"
    path.write_text(json.dumps(data))
    dataset = open_dataset(path)
    assert len(dataset) == 3
    assert dataset[1].name == "b.png#7"
    assert dataset[1].mask.sum() == 9
    assert check(dataset) == ["b.png#8: the mask is empty"]
    data["annotations"][0]["image_id"] = 9
    data["images"][0]["file_name"] = "gone.png"
    path.write_text(json.dumps(data))
    with pytest.raises(DataError, match=r"annotation 5: no image 9(.|\n)*gone.png: no such file"):
        CocoDataset(path)
    path.write_text("[]")
    with pytest.raises(DataError, match="not a COCO"):
        CocoDataset(path)
