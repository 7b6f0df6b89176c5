"""Folders of images and masks, in the layouts in which data sets are published, built small."""

from __future__ import annotations

import pickle
import re
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

import inter2former_deploy.data.sample as sample_module
from inter2former_deploy.data import DataError, FolderDataset, PassedOverError, check, open_dataset
from inter2former_deploy.data.folders import BROKEN_LINKS, NO_MASK, NO_PICTURE, TWO_FILES
from inter2former_deploy.data.sample import EMPTY, IGNORED, Sample, unique

IMAGE = np.zeros((12, 16, 3), np.uint8)
MASK = np.zeros((12, 16), np.uint8)
MASK[3:7, 5:9] = 255


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), array)


def pairs(root, images, masks, *keys, mask=MASK, suffix=".jpg"):
    for key in keys:
        write(root / images / f"{key}{suffix}", IMAGE + 9)
        write(root / masks / f"{key}.png", mask)


def groups(dataset):
    """Number of samples by split and group."""
    counts = {}
    for index in range(len(dataset)):
        sample = dataset[index]
        counts[sample.split, sample.group] = counts.get((sample.split, sample.group), 0) + 1
    return counts


def test_pairs_of_every_known_layout_are_found(tmp_path):
    for images, masks in (
        ("plain/images", "plain/masks"),
        ("DAVIS/img", "DAVIS/gt"),
        ("DAVIS17/JPEGImages", "DAVIS17/Annotations"),
        ("DIS5K/im", "DIS5K/gt"),
        ("HRSOD/images", "HRSOD/masks_max255"),
        ("GrabCut/data_GT", "GrabCut/boundary_GT"),
    ):
        pairs(tmp_path, images, masks, "480p/bear/00000")
    dataset = open_dataset(tmp_path)
    assert len(dataset) == 6
    assert len({dataset[i].name for i in range(6)}) == 6
    assert dataset[0].mask.sum() == 16
    assert check(dataset).problems == []


def test_hqseg_44k(tmp_path):
    thin = "thin_object_detection"
    pairs(tmp_path, "DIS5K/DIS-TR/im", "DIS5K/DIS-TR/gt", "1", "2", "3")
    pairs(tmp_path, "DIS5K/DIS-VD/im", "DIS5K/DIS-VD/gt", "4", "5")
    pairs(tmp_path, "DIS5K/DIS-TE1/im", "DIS5K/DIS-TE1/gt", "6")
    pairs(tmp_path, f"{thin}/COIFT/images", f"{thin}/COIFT/masks", "a", "b")
    pairs(tmp_path, f"{thin}/HRSOD/images", f"{thin}/HRSOD/masks_max255", "c")
    pairs(tmp_path, f"{thin}/HRSOD/images", f"{thin}/HRSOD/masks", "c", mask=MASK // 255)
    pairs(tmp_path, f"{thin}/ThinObject5K/images_train", f"{thin}/ThinObject5K/masks_train", "d", "e")
    pairs(tmp_path, f"{thin}/ThinObject5K/images_test", f"{thin}/ThinObject5K/masks_test", "f")
    for part in ("DUTS-TE", "DUTS-TR", "ecssd", "fss_all", "MSRA_10K"):
        pairs(tmp_path, f"cascade_psp/{part}", f"cascade_psp/{part}", "g", "h")
    (tmp_path / "cascade_psp/cascade_psp.zip").write_bytes(b"")
    validation = {
        ("val", "DIS5K/DIS-VD"): 2,
        ("val", f"{thin}/COIFT"): 2,
        ("val", f"{thin}/HRSOD"): 1,
        ("val", f"{thin}/ThinObject5K"): 1,
    }
    training = {("train", f"cascade_psp/{p}"): 2 for p in ("DUTS-TE", "DUTS-TR", "ecssd", "fss_all", "MSRA_10K")}
    training |= {("train", "DIS5K/DIS-TR"): 3, ("train", f"{thin}/ThinObject5K"): 2}
    dataset = FolderDataset(tmp_path)
    assert groups(dataset) == validation | training | {("test", "DIS5K/DIS-TE1"): 1}
    assert (
        "ignored: 1 folders of other masks of the same pictures: thin_object_detection/HRSOD/masks" in dataset.remarks()
    )
    assert "splits, of which no score mixes two (--split takes one): test (1), train (15), val (6)" in dataset.remarks()
    assert dataset[0].mask.sum() == 16  # of cascade_psp, where picture and mask lie side by side
    assert groups(FolderDataset(tmp_path, splits=["val"])) == validation
    assert groups(FolderDataset(tmp_path, splits=["train"])) == training
    some = FolderDataset(tmp_path, groups=["COIFT", "DIS-T*"], splits=["all"])
    assert {group for _, group in groups(some)} == {f"{thin}/COIFT", "DIS5K/DIS-TR", "DIS5K/DIS-TE1"}
    one = FolderDataset(tmp_path / thin / "ThinObject5K", splits=["test"])
    assert groups(one) == {("test", "."): 1}
    with pytest.raises(DataError, match=r"no samples of the split dev; there are: test \(2\), train \(15\), val \(6\)"):
        FolderDataset(tmp_path, splits=["dev"])
    with pytest.raises(
        DataError, match=r"no samples of the group HRSD; there are: .*thin_object_detection/HRSOD \(1\)"
    ):
        FolderDataset(tmp_path, groups=["HRSD"])


def test_thinobject_5k_as_published_has_its_splits_in_lists(tmp_path):
    pairs(tmp_path, "images", "masks", "a", "b", "c", "d")
    for name, text in (("train", "a.png\nb.png\n"), ("val", "c.png\n"), ("test", "d.png\n")):
        (tmp_path / "list").mkdir(exist_ok=True)
        (tmp_path / f"list/{name}.txt").write_text(text)
    assert groups(FolderDataset(tmp_path)) == {("train", "."): 2, ("val", "."): 1, ("test", "."): 1}
    only = FolderDataset(tmp_path, splits=["test"])
    assert [only[i].name for i in range(len(only))] == ["images/d.jpg"]
    assert "taken: 1 of 4 samples, by --split and --group" in only.remarks()


def test_davis_as_published_in_two_resolutions(tmp_path):
    for resolution in ("480p", "Full-Resolution"):
        names = [f"{resolution}/{frame}" for frame in ("bear/00000", "bear/00001", "camel/00000")]
        pairs(tmp_path, "JPEGImages", "Annotations", *names)
        write(tmp_path / "Annotations" / resolution / "bear/00001.png", MASK * 0)  # the object has left the picture
    (tmp_path / "ImageSets/2017").mkdir(parents=True)
    (tmp_path / "ImageSets/2017/train.txt").write_text("bear\n")
    (tmp_path / "ImageSets/2017/val.txt").write_text("camel\n")
    (tmp_path / "ImageSets/480p").mkdir()
    line = "/JPEGImages/480p/{0}.jpg /Annotations/480p/{0}.png\n"
    (tmp_path / "ImageSets/480p/train.txt").write_text(line.format("bear/00000") + line.format("bear/00001"))
    (tmp_path / "ImageSets/480p/val.txt").write_text(line.format("camel/00000"))
    dataset = FolderDataset(tmp_path)
    result = check(dataset)
    assert result.passed_over.names == {EMPTY: [f"JPEGImages/{r}/bear/00001.jpg" for r in ("480p", "Full-Resolution")]}
    assert result.problems == []
    some = sample_module.Part(dataset, result.usable)
    assert groups(some) == {
        (f"{resolution} {split}", resolution): 1
        for resolution in ("480p", "Full-Resolution")
        for split in ("train", "val")
    }
    assert groups(FolderDataset(tmp_path, splits=["480p", "val"])) == {("val", "480p"): 1}
    assert groups(FolderDataset(tmp_path, splits=["2017/val"], groups=["Full*"])) == {
        ("2017/val", "Full-Resolution"): 1
    }
    assert check(FolderDataset(tmp_path, strict=True)).problems == [
        str(PassedOverError(*e))
        for e in ((EMPTY, "JPEGImages/480p/bear/00001.jpg"), (EMPTY, "JPEGImages/Full-Resolution/bear/00001.jpg"))
    ]


def test_voc_and_sbd_have_an_object_for_every_instance(tmp_path):
    ids = MASK // 255
    ids[9:12, 1:5] = 2
    ids[0:1, 0:9] = 255
    palette = Image.fromarray(ids).convert("P")
    palette.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0] + [0] * 756 + [224, 224, 192])
    voc = tmp_path / "VOC2012"
    for name in ("2007_000032", "2007_000033", "unlabelled"):
        write(voc / f"JPEGImages/{name}.jpg", IMAGE)
    for name in ("2007_000032", "2007_000033"):
        (voc / "SegmentationObject").mkdir(exist_ok=True)
        palette.save(voc / f"SegmentationObject/{name}.png")
    for place, text in (("Segmentation/train", "2007_000032"), ("Segmentation/val", "2007_000033"), ("Main/val", "x")):
        (voc / "ImageSets" / place).parent.mkdir(parents=True, exist_ok=True)
        (voc / f"ImageSets/{place}.txt").write_text(text + "\n")
    dataset = FolderDataset(voc)
    assert [s.name for s in dataset] == [f"JPEGImages/2007_00003{n}.jpg#{i}" for n in (2, 3) for i in (1, 2)]
    assert [int((s.mask == 1).sum()) for s in dataset] == [16, 12, 16, 12]
    assert [int((s.mask == IGNORED).sum()) for s in dataset] == [9] * 4
    assert groups(dataset) == {("train", "."): 2, ("val", "."): 2}
    assert dataset.passed_over.names == {NO_MASK: ["JPEGImages/unlabelled.jpg"]}
    assert [int((s.mask == 1).sum()) for s in FolderDataset(voc, each=False, splits=["val"])] == [28]
    sbd = tmp_path / "SBD"
    write(sbd / "img/2008_000002.jpg", IMAGE)
    (sbd / "inst").mkdir()
    savemat(sbd / "inst/2008_000002.mat", {"GTinst": {"Segmentation": np.where(ids == 255, 0, ids)}})
    (sbd / "train.txt").write_text("2008_000002\n")
    assert [int(s.mask.sum()) for s in FolderDataset(sbd, splits=["train"])] == [16, 12]


def test_grabcut_ignores_what_its_trimaps_leave_open_and_berkeley_numbers_its_masks(tmp_path):
    trimap = MASK.copy()
    trimap[3] = np.where(MASK[3], 128, 0)
    write(tmp_path / "GrabCut/data_GT/banana1.jpg", IMAGE)
    write(tmp_path / "GrabCut/boundary_GT/banana1.bmp", trimap)
    (sample,) = FolderDataset(tmp_path / "GrabCut")
    assert ((sample.mask == 1).sum(), (sample.mask == IGNORED).sum()) == (12, 4)
    write(tmp_path / "Berkeley/images/3063.jpg", IMAGE)
    for number in (1, 2, 10):
        write(tmp_path / f"Berkeley/masks/3063#{number}.png", MASK)
    assert [s.name for s in FolderDataset(tmp_path / "Berkeley")] == [f"images/3063.jpg#{n}" for n in (1, 2, 10)]


def test_label_maps_have_an_object_an_id_if_asked_for(tmp_path):
    ids = np.zeros((40, 40), np.uint8)
    ids[2:8, 2:9], ids[20:30, 20:25] = 4, 9
    write(tmp_path / "images/a.png", np.zeros((40, 40, 3), np.uint8))
    write(tmp_path / "masks/a.png", ids)
    write(tmp_path / "images/empty.png", np.zeros((40, 40, 3), np.uint8))
    write(tmp_path / "masks/empty.png", ids * 0)
    assert int(open_dataset(tmp_path)[0].mask.sum()) == 92
    dataset = open_dataset(tmp_path, each=True)
    assert [(s.name, int(s.mask.sum()), s.picture) for s in dataset] == [
        ("images/a.png#4", 42, str(tmp_path / "images/a.png")),
        ("images/a.png#9", 50, str(tmp_path / "images/a.png")),
    ]
    assert dataset.passed_over.names == {EMPTY: ["images/empty.png"]}


def test_hidden_files_links_and_foreign_files(tmp_path):
    elsewhere = tmp_path / "disk"
    pairs(elsewhere, "im", "gt", "a", "b")
    root = tmp_path / "data"
    root.mkdir()
    (root / "im").symlink_to(elsewhere / "im")
    (root / "gt").symlink_to(elsewhere / "gt")
    (elsewhere / "im/again").symlink_to(root)  # a loop
    (elsewhere / "im/gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    for name in ("im/._a.jpg", "__MACOSX/im/x.jpg", "gt/.ipynb_checkpoints/a-checkpoint.png", "im/Thumbs.db"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"\0\5\x16\7")
    (elsewhere / "im/readme.txt").write_text("hello")
    dataset = FolderDataset(root)
    assert [s.name for s in dataset] == ["im/a.jpg", "im/b.jpg"]
    assert dataset.passed_over.names == {BROKEN_LINKS: ["im/gone.jpg"]}
    ignored = [line for line in dataset.remarks() if line.startswith("ignored")]
    assert "4 hidden files and folders" in ignored[0]
    assert all(n in ignored[0] for n in ("im/._a.jpg", "__MACOSX", "gt/.ipynb_checkpoints", "im/Thumbs.db"))
    assert ignored[1] == "ignored: 1 files that are no pictures: im/readme.txt"
    assert check(dataset).problems == []


def test_files_without_a_partner_are_counted_and_never_silent(tmp_path):
    pairs(tmp_path, "images", "masks", "good")
    for index in range(25):
        write(tmp_path / f"images/lonely{index:02}.png", IMAGE)
    write(tmp_path / "masks/widow.png", MASK)
    write(tmp_path / "images/good.png", IMAGE)
    dataset = FolderDataset(tmp_path)
    assert len(dataset) == 1
    assert dataset.passed_over.counts() == {NO_MASK: 25, NO_PICTURE: 1, TWO_FILES: 1}
    (line,) = [line for line in dataset.remarks() if NO_MASK in line]
    assert line.startswith("passed over: 25 pictures without a mask: images/lonely00.png, ")
    assert line.endswith("images/lonely19.png and 5 more")
    with pytest.raises(DataError, match=r"asked for strictly:(.|\n)*masks/widow.png(.|\n)*25 pictures"):
        FolderDataset(tmp_path, strict=True)
    shutil.rmtree(tmp_path / "masks")
    write(tmp_path / "masks/good_mask.png", MASK)
    with pytest.raises(
        DataError, match=r"no picture has a mask of its name(.|\n)*1 masks without a picture: masks/good_"
    ):
        FolderDataset(tmp_path)
    with pytest.raises(DataError, match="no folders of images"):
        FolderDataset(tmp_path / "images")


def test_broken_pairs_are_named(tmp_path):
    pairs(tmp_path, "images", "masks", "good", "small", "empty", "torn", "text", suffix=".png")
    write(tmp_path / "masks/small.png", MASK[:10])
    write(tmp_path / "masks/empty.png", MASK * 0)
    (tmp_path / "images/torn.png").write_bytes((tmp_path / "images/good.png").read_bytes()[:60])
    (tmp_path / "masks/text.png").write_bytes(b"no picture")
    dataset = FolderDataset(tmp_path)
    result = check(dataset)
    assert len(result.problems) == 3
    for name, text in (("small", "16 x 12 but the mask 16 x 10"), ("text", "not a readable image"), ("torn", "")):
        assert any(f"{name}.png" in p and text in p for p in result.problems), result.problems
    assert result.passed_over.names == {EMPTY: ["images/empty.png"]}
    assert [dataset[i].name for i in result.usable] == ["images/good.png"]


def test_pictures_are_upright_and_their_colours_as_stored_unless_asked_for(tmp_path):
    rng = np.random.default_rng(0)
    stored = cv2.resize(rng.integers(0, 255, (3, 4, 3), dtype=np.uint8), (16, 12), interpolation=cv2.INTER_NEAREST)
    exif = Image.Exif()
    exif[274] = 6
    (tmp_path / "images").mkdir()
    Image.fromarray(stored).save(tmp_path / "images/a.png", exif=exif)
    write(tmp_path / "masks/a.png", np.rot90(MASK, -1).copy())
    (sample,) = FolderDataset(tmp_path)
    assert (sample.image == np.rot90(stored, -1)).all()
    assert sample.mask.sum() == 16


def test_a_picture_is_read_once_for_the_objects_of_it_also_in_other_processes(tmp_path, monkeypatch):
    ids = np.zeros((40, 40), np.uint8)
    for i in range(5):
        ids[8 * i : 8 * i + 5, 3:30] = i + 1
    for name in ("a", "b"):
        write(tmp_path / f"images/{name}.png", np.zeros((40, 40, 3), np.uint8))
        write(tmp_path / f"masks/{name}.png", ids)
    dataset = pickle.loads(pickle.dumps(open_dataset(tmp_path, each=True)))
    read = []
    monkeypatch.setattr(
        sample_module, "read_picture", lambda path, **_: read.append(path.name) or np.zeros((40, 40, 3), "u1")
    )
    assert len(check(dataset).usable) == 10
    assert sorted(read) == ["a.png", "b.png"]


def test_names_are_unique():
    assert list(unique(["a", "a", "a (2)", "b", "a"])) == ["a", "a (2)", "a (2) (2)", "b", "a (3)"]


def test_what_is_no_data_set_is_refused_in_a_line(tmp_path):
    write(tmp_path / "photo.jpg", IMAGE)
    write(tmp_path / "photo.png", IMAGE)
    (tmp_path / "labels.xml").write_text("<annotations/>")
    (tmp_path / "notes.json").write_bytes(b"\x80\x81 anything")
    for name, text in (
        ("photo.jpg", "a picture"),
        ("photo.png", "a picture"),
        ("labels.xml", "XML"),
        ("notes.json", "not JSON"),
    ):
        with pytest.raises(DataError, match=text) as error:
            open_dataset(tmp_path / name)
        assert re.fullmatch(r".{1,300}", str(error.value)), "one short line"
    with pytest.raises(DataError, match="and neither a folder nor a JSON file"):
        open_dataset(tmp_path / "nothing")
    with pytest.raises(DataError, match=r"--split is for folders"):
        open_dataset(tmp_path / "photo.jpg", splits=["val"])
    with pytest.raises(PassedOverError, match="only ignored: masks without an object"):
        Sample("only ignored", IMAGE, np.full((12, 16), IGNORED, np.uint8))
