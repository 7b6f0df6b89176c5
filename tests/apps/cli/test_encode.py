from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from toy_bundle import write_toy_bundle

from inter2former_deploy.core.pictures import read_image
from inter2former_deploy.runtime import EncodedImage, Segmenter


def write_picture(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.random.default_rng(seed).integers(0, 256, (60, 90, 3), np.uint8))
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of two pictures, one of them in a folder, and a text."""
    folder = tmp_path / "photos"
    write_picture(folder / "a.png", 1)
    write_picture(folder / "deep" / "b.BMP", 2)
    (folder / "notes.txt").write_text("no picture")
    return folder


def test_folders_and_files_are_encoded(i2f: Callable[..., Any], toy_bundle: Path, photos: Path, tmp_path: Path) -> None:
    more, cache = write_picture(tmp_path / "more.png", 3), tmp_path / "cache"
    done = i2f("encode", photos, more, "-o", cache, "--bundle", toy_bundle, "--no-custom-ops", "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    pictures = [photos / "a.png", photos / "deep" / "b.BMP", more]
    assert list(report["files"]) == [str(path) for path in pictures]
    assert (report["encoded"], report["broken"]) == (3, {})
    assert sorted(report["files"].values()) == sorted(map(str, cache.iterdir()))
    segmenter = Segmenter(toy_bundle, custom_ops=False)
    for path, file in report["files"].items():
        expected = segmenter.encode(read_image(Path(path)))
        loaded = EncodedImage.load(file)
        assert (loaded.height, loaded.width, loaded.size) == (expected.height, expected.width, expected.size)
        np.testing.assert_array_equal(loaded.tensors["image_embedding"], expected.tensors["image_embedding"])
    assert [line.split()[0] for line in done.err.splitlines()] == ["1/3", "2/3", "3/3"]


def test_a_second_run_does_what_is_left(
    i2f: Callable[..., Any], toy_bundle: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("encode", photos, "-o", tmp_path / "cache", "--bundle", toy_bundle, "--no-custom-ops")
    encode, calls = Segmenter.encode, [0]

    def counted(self: Segmenter, image: np.ndarray, region: Any = None) -> EncodedImage:
        calls[0] += 1
        if calls[0] == 2:
            raise KeyboardInterrupt
        return encode(self, image, region)

    monkeypatch.setattr(Segmenter, "encode", counted)
    assert i2f(*arguments).code != 0
    done = i2f(*arguments)
    assert (done.code, calls[0]) == (0, 3)
    assert "a.png is there already" in done.err
    assert "1 encoded, 1 there already" in done.out

    one, _ = sorted((tmp_path / "cache").iterdir())
    one.write_bytes(one.read_bytes()[:-1])
    assert "1 encoded, 1 there already" in i2f(*arguments).out
    write_picture(photos / "a.png", 9)
    assert "1 encoded, 1 there already" in i2f(*arguments).out
    assert "0 encoded, 2 there already" in i2f(*arguments).out
    other = write_toy_bundle(tmp_path / "other", encoder=2)
    assert "2 encoded, 0 there already" in i2f(*arguments[:5], other, "--no-custom-ops").out


def test_broken_pictures_are_named_and_skipped(
    i2f: Callable[..., Any], toy_bundle: Path, photos: Path, tmp_path: Path
) -> None:
    (photos / "b.jpg").write_text("no picture")
    cache = tmp_path / "cache"
    done = i2f("encode", photos, tmp_path / "gone.png", "-o", cache, "--bundle", toy_bundle, "--no-custom-ops")
    assert done.code == 1
    assert f"2/4  skipped: {photos / 'b.jpg'} is no picture that can be read: it must be JPEG" in done.err
    assert f"4/4  skipped: there is no image {tmp_path / 'gone.png'}" in done.err
    assert f"2 broken: {photos / 'b.jpg'}, {tmp_path / 'gone.png'}" in done.out
    assert len(list(cache.iterdir())) == 2


def test_what_is_not_read_in_a_folder_is_named(
    i2f: Callable[..., Any], toy_bundle: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    write_picture(photos / "._a.png", 4)
    write_picture(photos / "c.jfif.png", 5).rename(photos / "c.jfif")
    cache = photos / "encoded"  # in the folder itself: what is in it is not spoken of
    arguments = ("encode", photos, photos / "a.png", "-o", cache, "--bundle", toy_bundle, "--no-custom-ops")
    assert i2f(*arguments).code == 0
    (photos / "deep" / "IMG_1.HEIC").write_bytes(b"\0\0\0\x1cftypheic" + bytes(100))
    (photos / "raw.dng").touch()
    done = i2f(*arguments)
    assert done.code == 1
    assert f"skipped: {photos}/deep/IMG_1.HEIC: HEIC is read where pillow-heif is installed: pip install" in done.err
    assert f"{cache}: 0 encoded, 3 there already, 2 broken: {photos}/deep/IMG_1.HEIC, {photos}/raw.dng\n" in done.out
    assert done.out.endswith(f"not pictures by their suffix: 1: {photos}/notes.txt\n")
    report = json.loads(i2f(*arguments, "--json").out)
    assert (len(report["files"]), list(report["broken"]), report["others"]) == (
        3,
        [f"{photos}/deep/IMG_1.HEIC", f"{photos}/raw.dng"],
        [f"{photos}/notes.txt"],
    )


def test_a_folder_of_pictures_that_nothing_reads_says_what_to_install(
    i2f: Callable[..., Any], toy_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for name in ("a.heic", "b.HEIC", "c.txt"):
        (tmp_path / name).touch()
    done = i2f("encode", tmp_path, "-o", tmp_path / "cache", "--bundle", toy_bundle)
    assert done.code == 2
    assert f"there is no picture in {tmp_path}, of .jpg" in done.err
    assert "; 2 files: HEIC is read where pillow-heif is installed: pip install pillow-heif; 1 files: not" in done.err


def test_the_cache_is_looked_at_first(
    i2f: Callable[..., Any], toy_bundle: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise AssertionError("the work began")

    monkeypatch.setattr(Segmenter, "encode", fail)
    arguments = ("encode", photos, "--bundle", toy_bundle, "--no-custom-ops", "-o")
    done = i2f(*arguments, photos / "a.png" / "cache")
    assert (done.code, done.err) == (
        2,
        f"i2f: --output {photos}/a.png/cache: {photos}/a.png is a file, not a folder\n",
    )
    one = Segmenter(toy_bundle, custom_ops=False).encoded_nbytes
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2 * one - 1))
    done = i2f(*arguments, tmp_path / "cache")
    assert done.code == 2
    assert f"i2f: encoding 2 pictures needs about {2 * one / 1e9:.2f} GB in {tmp_path}/cache" in done.err
    assert not (tmp_path / "cache").exists()


def test_what_is_there_already_needs_no_room(
    i2f: Callable[..., Any], toy_bundle: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("encode", photos, "-o", tmp_path / "cache", "--bundle", toy_bundle, "--no-custom-ops")
    assert i2f(*arguments).code == 0
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=0))
    assert "0 encoded, 2 there already" in i2f(*arguments).out


def test_a_folder_without_pictures_is_bad_input(i2f: Callable[..., Any], toy_bundle: Path, tmp_path: Path) -> None:
    done = i2f("encode", tmp_path, "-o", tmp_path / "cache", "--bundle", toy_bundle)
    assert done.code == 2
    assert f"there is no picture in {tmp_path}, of .jpg" in done.err


def test_the_size_of_an_encoding_is_known_before_it_is_made(toy_bundle: Path) -> None:
    segmenter = Segmenter(toy_bundle, custom_ops=False)
    assert segmenter.encoded_nbytes == segmenter.encode(np.zeros((9, 9, 3), np.uint8)).nbytes


def test_segment_takes_what_was_encoded(
    i2f: Callable[..., Any], toy_bundle: Path, photos: Path, tmp_path: Path
) -> None:
    image, cache = photos / "a.png", tmp_path / "cache"
    runs = [[image], [image, "--cache", cache], [image, "--cache", cache]]
    found, masks = [], []
    for number, run in enumerate(runs):
        mask = tmp_path / f"{number}.png"
        done = i2f("segment", toy_bundle, *run, "--fg", "30,40", "-o", mask, "--no-custom-ops", "--json")
        assert done.code == 0, done.err
        found.append(json.loads(done.out)["encoding_found"])
        masks.append(mask.read_bytes())
    (file,) = cache.iterdir()
    mask = tmp_path / "file.png"
    done = i2f("segment", toy_bundle, file, "--fg", "30,40", "-o", mask, "--no-custom-ops")
    assert done.code == 0, done.err
    assert f"{file}: 90 x 60" in done.out
    assert "made before" in done.out
    assert found == [False, False, True]
    assert {*masks, mask.read_bytes()} == {masks[0]}
    assert 0 < cv2.imread(str(mask), cv2.IMREAD_UNCHANGED).mean() < 255


def test_segment_says_what_an_encoding_lacks(
    i2f: Callable[..., Any], toy_bundle: Path, photos: Path, tmp_path: Path
) -> None:
    i2f("encode", photos / "a.png", "-o", tmp_path / "cache", "--bundle", toy_bundle, "--no-custom-ops")
    (file,) = (tmp_path / "cache").iterdir()
    clicks = ("--fg", "30,40", "-o", tmp_path / "m.png", "--no-custom-ops")
    done = i2f("segment", toy_bundle, file, *clicks, "--overlay", tmp_path / "o.png")
    assert (done.code, done.err) == (
        2,
        f"i2f: --overlay needs the picture; {file} holds only what the model makes of it\n",
    )
    assert (
        "--fg 90,0: click (90.0, 0.0) lies outside" in i2f("segment", toy_bundle, file, "--fg", "90,0", *clicks[2:]).err
    )
    other = write_toy_bundle(tmp_path / "other", encoder=2)
    done = i2f("segment", other, file, *clicks)
    assert done.code == 2
    assert f"another encoder than that of {other}" in done.err
    file.write_bytes(b"damaged")
    done = i2f("segment", toy_bundle, file, *clicks)
    assert done.code == 2
    assert "is no encoded image" in done.err


def test_a_region_of_every_picture(i2f: Callable[..., Any], toy_bundle: Path, photos: Path, tmp_path: Path) -> None:
    """Pictures that do not hold it are named."""
    small = photos / "small.png"
    cv2.imwrite(str(small), np.zeros((9, 9, 3), np.uint8))
    arguments = ("encode", photos / "a.png", small, "-o", tmp_path / "cache", "--bundle", toy_bundle)
    done = i2f(*arguments, "--region", "1,2,20,18", "--no-custom-ops", "--json")
    assert done.code == 1
    report = json.loads(done.out)
    assert list(report["broken"]) == [str(small)]
    assert "the image is 9 x 9 pixels" in report["broken"][str(small)]
    (file,) = report["files"].values()
    assert EncodedImage.load(file).window.sides == (1, 2, 20, 18)
    done = i2f(*arguments, "--region", "1,2,20", "--no-custom-ops")
    assert done.code == 2
    assert done.err.startswith("i2f: --region is X0,Y0,X1,Y1 in whole pixels")


def test_a_full_disk_costs_its_own_picture(
    i2f: Callable[..., Any],
    toy_bundle: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    disk_full_at: Any,
) -> None:
    arguments = ("encode", photos, "-o", tmp_path / "cache", "--bundle", toy_bundle, "--no-custom-ops")
    with disk_full_at(1):
        done = i2f(*arguments)
    assert done.code == 1
    assert f"1/2  skipped: {photos}/a.png: {tmp_path}/cache/" in done.err
    assert "cannot be written: No space left on device" in done.err
    assert "1 encoded, 0 there already\nnot written: 1; make room, then the same command does what is left" in done.out
    assert "1 encoded, 1 there already" in i2f(*arguments).out

    (tmp_path / "cache").rename(tmp_path / "other")
    usage, asked = shutil.disk_usage(tmp_path), [0]

    def full_after_the_first_look(_: Path) -> Any:
        asked[0] += 1
        return usage if asked[0] == 1 else usage._replace(free=9)

    encode = Segmenter.encode
    monkeypatch.setattr(shutil, "disk_usage", full_after_the_first_look)
    monkeypatch.setattr(Segmenter, "encode", lambda *_: pytest.fail("it is encoded although there is no room"))
    done = i2f(*arguments)
    assert done.code == 1
    assert f"2/2  skipped: {photos}/deep/b.BMP: {tmp_path}/cache has no room for it" in done.err
    monkeypatch.setattr(Segmenter, "encode", encode)


def test_two_files_of_one_picture_are_one_encoding(
    i2f: Callable[..., Any], toy_bundle: Path, photos: Path, tmp_path: Path
) -> None:
    shutil.copy(photos / "a.png", photos / "again.png")
    done = i2f("encode", photos, "-o", tmp_path / "cache", "--bundle", toy_bundle, "--no-custom-ops")
    assert "2 encoded, 1 there already" in done.out
    assert len(list((tmp_path / "cache").iterdir())) == 2


@pytest.mark.parametrize(
    ("given", "address"),
    [
        (["--ray"], "local"),
        (["--ray", "--threads", "1"], "local"),
        (["--ray", "auto"], "auto"),
        (["--ray", "10.0.0.1:6379"], "10.0.0.1:6379"),
        (["--ray", "ray://head:10001"], "ray://head:10001"),
        ([], None),
    ],
)
def test_ray_may_stand_without_an_address(
    i2f: Callable[..., Any], toy_bundle: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, given: Any, address: Any
) -> None:
    asked = []

    def outcomes(job: Any, chunks: Any, threads: Any, ray: str | None, workers: int | None) -> Any:
        asked.append((ray, chunks))
        return nullcontext(())

    monkeypatch.setattr("inter2former_deploy.apps.cli.encode.outcomes_of", outcomes)
    monkeypatch.setattr("inter2former_deploy.apps.cli.encode.check_ray", lambda *_: None)
    pictures = [[f"{photos}/a.png", f"{photos}/deep/b.BMP"]]
    for arguments in ([*given, "--bundle", toy_bundle], ["--bundle", toy_bundle, *given]):
        assert i2f("encode", photos, "-o", photos / "cache", *arguments).code == 0
    assert asked == [(address, pictures)] * 2
