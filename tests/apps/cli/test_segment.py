from __future__ import annotations

import json
import os
import resource
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import icc
import numpy as np
import pytest
from PIL import Image, ImageOps

from inter2former_deploy.core.pictures import read_image
from inter2former_deploy.runtime import Segmenter


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8))
    return path


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever begins to work fails."""

    def fail(*arguments: Any, **options: Any) -> None:
        raise AssertionError("the work began")

    monkeypatch.setattr(Segmenter, "__init__", fail)


def test_mask_and_overlay(i2f: Callable[..., Any], toy_bundle: Path, photo: Path, tmp_path: Path) -> None:
    mask, overlay = tmp_path / "mask.png", tmp_path / "overlay.jpg"
    done = i2f("segment", toy_bundle, photo, "--fg", "30,40", "-o", mask, "--overlay", overlay, "--no-custom-ops")
    assert done.code == 0, done.err
    session = Segmenter(toy_bundle, custom_ops=False).open(cv2.imread(str(photo))[..., ::-1])
    expected = session.click(30, 40)
    np.testing.assert_array_equal(cv2.imread(str(mask), cv2.IMREAD_UNCHANGED), np.where(expected, 255, 0))
    assert cv2.imread(str(overlay)).shape == (60, 90, 3)
    for word in ("90 x 60", "encode", "prompt 1", f"wrote {mask} and {overlay}"):
        assert word in done.out


@pytest.mark.parametrize(
    "arguments",
    [
        ["--fg", "1,2", "--bg", "3,4", "--fg", "5,6"],
        ["--bg=3,4", "--fg", "5,6.5", "--fg=1,2", "--bg", "0,0", "--bg", "7,7"],
        ["--stroke", "1,2 30,2", "--box", "5,6,70,50", "--bg-stroke=9,9", "--start", "START", "--box=1,2,3,4.5"],
        ["--box", "1,2,3,4", "--fg", "1,2", "--start=START", "--bg", "3,4", "--stroke", "1,2  3,4 5,6.5"],
    ],
)
def test_prompts_keep_the_order_of_the_command_line(
    i2f: Callable[..., Any],
    toy_bundle: Path,
    photo: Path,
    tmp_path: Path,
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = np.zeros((60, 90), np.uint8)
    start[10:50, 20:70] = 255
    (tmp_path / "START").write_bytes(cv2.imencode(".png", start)[1].tobytes())
    monkeypatch.chdir(tmp_path)
    done = i2f("segment", *arguments, toy_bundle, photo, "-o", tmp_path / "m.png", "--no-custom-ops", "--json")
    assert done.code == 0, done.err
    words = [word for argument in arguments for word in argument.split("=")]
    typed = list(zip(words[::2], words[1::2], strict=True))
    assert [prompt["prompt"] for prompt in json.loads(done.out)["prompts"]] == [f"{o} {text}" for o, text in typed]

    session = Segmenter(toy_bundle, custom_ops=False).open(cv2.imread(str(photo))[..., ::-1])
    mask = session.mask
    for option, text in typed:
        points = [] if option == "--start" else [tuple(map(float, group.split(","))) for group in text.split()]
        if option == "--start":
            mask = session.start(start > 0)
        elif option == "--box":
            mask = session.box(*points[0])
        elif "stroke" in option:
            mask = session.stroke(points, option == "--stroke")
        else:
            mask = session.click(*points[0], option == "--fg")
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "m.png"), cv2.IMREAD_UNCHANGED), np.where(mask, 255, 0))


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give at least one prompt, such as --fg 320,240 or --box 100,80,420,300"),
        (["--fg", "30"], "--fg: a click is X,Y in pixels, such as 320,240, not '30'"),
        (["--fg", "30,40,50"], "not '30,40,50'"),
        (["--fg", "90,0"], "--fg 90,0: click (90.0, 0.0) lies outside the image: x must be in [0, 90), y in [0, 60)"),
        (["--fg", "90,0"], "({photo} is 90 x 60 pixels)"),
        (["--bg", "0,-1"], "--bg 0,-1: click (0.0, -1.0) lies outside"),
        (["--fg", "nan,1"], "--fg nan,1: click coordinate x must be finite"),
        (["--box", "1,2,3"], "--box: a box is X0,Y0,X1,Y1 in pixels, such as 100,80,420,300, not '1,2,3'"),
        (["--box", "1,2,3,4 5,6,7,8"], "--box: a box is"),
        (["--box", "5,2,3,4"], "--box 5,2,3,4: box (5.0, 2.0, 3.0, 4.0) is empty"),
        (["--box", "5,2,91,4"], "--box 5,2,91,4: box (5.0, 2.0, 91.0, 4.0) reaches outside the image"),
        (["--stroke", ""], '--stroke: a stroke is "X,Y X,Y ..." in pixels, such as "100,80 150,90 180,120", not \'\''),
        (["--bg-stroke", "1,2 3"], "--bg-stroke: a stroke is"),
        (["--stroke", "1,2 3,60"], "--stroke 1,2 3,60: click (3.0, 60.0) lies outside the image"),
        (["--start", "none.png"], "none.png: no such file"),
        (["--start", "small.png"], "the mask has 89 x 60 pixels, {photo} has 90 x 60: they must be of one size"),
        (["--start", "empty.png"], "empty.png: the mask holds no object"),
        (["--region", "1,2,3"], "--region is X0,Y0,X1,Y1 in whole pixels, such as 1000,800,2024,1824, not '1,2,3'"),
        (["--region", "1,2,3,4.5"], "not '1,2,3,4.5'"),
        (["--region", "0,0,91,60"], "region (0, 0, 91, 60) must have 0 <= x0 < x1 <= 90 and 0 <= y0 < y1 <= 60"),
        (["--region", "2,0,90,60"], "--fg 1,1: click (1.0, 1.0) lies outside the region: x must be in [2, 90)"),
        (["--state-in", "none.json"], "--state-in none.json: there is no such file"),
        (["--state-in", "empty.png"], "--state-in empty.png is no JSON file"),
        (["--state-in", "list.json"], "--state-in list.json: this is no state of a session: the state must be a JSON"),
        (["--state-out", "state.txt"], "--state-out state.txt must end in one of .json"),
        (["-o", "mask.jpg"], "--output mask.jpg must end in one of .png"),
        (["-o", "nowhere/mask.png"], "--output nowhere/mask.png: there is no folder nowhere"),
        (["-o", "small.png", "--start", "small.png"], "--output small.png is the same file as --start small.png"),
        (["--overlay", "o.txt"], "--overlay o.txt must end in one of"),
    ],
)
def test_bad_input_is_one_line(
    i2f: Callable[..., Any],
    toy_bundle: Path,
    photo: Path,
    tmp_path: Path,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("small.png", np.full((60, 89), 255, np.uint8))
    cv2.imwrite("empty.png", np.zeros((60, 90), np.uint8))
    Path("list.json").write_text("[]")
    target = [] if "-o" in arguments else ["-o", tmp_path / "m.png"]
    names = ("--fg", "--bg", "--box", "--stroke", "--bg-stroke", "--start")
    click = [] if not arguments or arguments[0] in names else ["--fg", "1,1"]
    done = i2f("segment", toy_bundle, photo, *target, *click, *arguments, "--no-custom-ops")
    assert done.code == 2
    assert message.format(photo=photo) in done.err
    assert done.err.startswith("i2f: ")
    assert done.err.count("\n") == 1
    assert not list(tmp_path.glob("m*.png"))


def test_files_that_are_not_there(i2f: Callable[..., Any], toy_bundle: Path, photo: Path, tmp_path: Path) -> None:
    click = ("--fg", "1,1", "-o", tmp_path / "m.png")
    assert i2f("segment", tmp_path / "none", photo, *click).err.startswith(f"i2f: there is no bundle {tmp_path}/none")
    assert i2f("segment", toy_bundle, tmp_path / "no.png", *click).err == f"i2f: there is no image {tmp_path}/no.png\n"
    text = tmp_path / "text.png"
    text.write_text("no picture")
    done = i2f("segment", toy_bundle, text, *click)
    assert (done.code, done.err) == (
        2,
        f"i2f: {text} is no picture that can be read: it must be JPEG, PNG, WebP, TIFF, BMP, GIF, PNM, JPEG 2000, AVIF "
        "or HEIC\n",
    )


@pytest.mark.parametrize("orientation", range(1, 9))
def test_masks_lie_on_the_picture_as_it_is_shown(
    i2f: Callable[..., Any], toy_bundle: Path, tmp_path: Path, orientation: int
) -> None:
    """Bright at the upper right, as people see it, whatever way the camera was held."""
    upright = np.full((60, 90), 20, np.uint8)
    upright[5:30, 66:88] = 235
    shown = Image.fromarray(upright)
    exif = Image.Exif()
    exif[0x112] = orientation
    method = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}.get(orientation)  # of Image.transpose, what undoes the turning
    stored = shown if method is None else shown.transpose(Image.Transpose(method))
    photo, mask, overlay = tmp_path / "photo.jpg", tmp_path / "mask.png", tmp_path / "overlay.png"
    stored.save(photo, quality=95, exif=exif)
    with Image.open(photo) as image:
        assert np.abs(np.asarray(ImageOps.exif_transpose(image)).astype(int) - upright).mean() < 5  # built as meant
    done = i2f(
        *("segment", toy_bundle, photo, "--fg", "78,15", "-o", mask, "--overlay", overlay, "--no-custom-ops"),
    )
    assert done.code == 0, done.err
    found = cv2.imread(str(mask), cv2.IMREAD_UNCHANGED)
    assert found.shape == upright.shape
    assert (found[10:25, 70:84] == 255).all()
    assert (found[45:] == 0).all()
    drawn = cv2.imread(str(overlay))
    assert drawn[45:].max() < 60
    assert drawn[8:27, 70:84].mean() > 100


def test_outputs_are_never_the_picture_or_each_other(
    i2f: Callable[..., Any], toy_bundle: Path, photo: Path, tmp_path: Path
) -> None:
    before = photo.read_bytes()
    (tmp_path / "link.png").symlink_to(photo)
    (tmp_path / "hard.png").hardlink_to(photo)
    other = tmp_path / "other.png"
    click = ("segment", toy_bundle, photo, "--fg", "30,40", "--no-custom-ops")
    for outputs, message in [
        (["-o", photo], f"--output {photo} is the same file as IMAGE"),
        (["-o", tmp_path / "link.png"], "link.png is the same file as IMAGE"),
        (["-o", tmp_path / "hard.png"], "hard.png is the same file as IMAGE"),
        (["-o", other, "--overlay", photo], f"--overlay {photo} is the same file as IMAGE"),
        (["-o", other, "--overlay", other], f"--overlay {other} is the same file as --output"),
        (["-o", other, "--overlay", tmp_path / "x" / ".." / "other.png"], "there is no folder"),
        (["-o", other, "--overlay", toy_bundle / ".." / other], "other.png is the same file as --output"),
    ]:
        done = i2f(*click, *outputs)
        assert (done.code, done.err.count("\n")) == (2, 1)
        assert message in done.err
    assert photo.read_bytes() == before
    assert not other.exists()


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(
    ("size", "name", "message"),
    [
        ((65501, 1), "o.jpg", "65501 x 1 pixels, .jpg holds at most 65500 a side: name a .tif"),
        ((1, 16384), "o.webp", "1 x 16384 pixels, .webp holds at most 16383 a side"),
    ],
)
def test_formats_that_cannot_hold_the_size_are_refused_first(
    i2f: Callable[..., Any], toy_bundle: Path, tmp_path: Path, size: tuple[int, int], name: str, message: str
) -> None:
    Image.new("L", size).save(tmp_path / "long.png")
    output = ("-o", tmp_path / "m.png", "--overlay", tmp_path / name)
    done = i2f("segment", toy_bundle, tmp_path / "long.png", "--fg", "0,0", *output)
    assert done.code == 2
    assert message in done.err


@pytest.mark.parametrize(("size", "name"), [((65500, 1), "o.jpg"), ((16383, 1), "o.webp"), ((70000, 1), "o.tif")])
def test_formats_hold_what_is_said(
    i2f: Callable[..., Any], toy_bundle: Path, tmp_path: Path, size: tuple[int, int], name: str
) -> None:
    Image.new("L", size).save(tmp_path / "long.png")
    output = ("-o", tmp_path / "m.png", "--overlay", tmp_path / name)
    done = i2f("segment", toy_bundle, tmp_path / "long.png", "--fg", "0,0", *output, "--no-custom-ops")
    assert done.code == 0, done.err
    with Image.open(tmp_path / name) as written:
        assert written.size == size


@pytest.mark.usefixtures("no_work")
def test_outputs_that_cannot_be_written_are_refused_first(
    i2f: Callable[..., Any], toy_bundle: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder.png").mkdir()
    click = ("segment", toy_bundle, photo, "--fg", "30,40")
    done = i2f(*click, "-o", tmp_path / "folder.png")
    assert (done.code, done.err) == (2, f"i2f: --output {tmp_path}/folder.png is a folder: name a file\n")
    done = i2f(*click, "-o", tmp_path / "m.png", "--cache", photo)
    assert (done.code, done.err) == (2, f"i2f: --cache {photo}: {photo} is a file, not a folder\n")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)  # as for a user who is not root
    done = i2f(*click, "-o", tmp_path / "m.png")
    assert (done.code, done.err) == (
        2,
        f"i2f: --output {tmp_path}/m.png: the folder {tmp_path} may not be written to\n",
    )


def test_a_cache_that_cannot_be_written_costs_no_mask(
    i2f: Callable[..., Any], toy_bundle: Path, photo: Path, tmp_path: Path
) -> None:
    click = ("segment", toy_bundle, photo, "--fg", "30,40", "--no-custom-ops")
    assert i2f(*click, "-o", tmp_path / "expected.png").code == 0
    done = i2f(*click, "-o", tmp_path / "mask.png", "--cache", "/proc/cache")  # like a disk that is read-only
    assert done.code == 0, done.err
    assert done.err.startswith("i2f: note: the encoding is not kept in /proc/cache: ")
    assert (tmp_path / "mask.png").read_bytes() == (tmp_path / "expected.png").read_bytes()

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (4000, hard)
    )  # enough for the mask; files beyond it fail as on a full disk
    try:
        done = i2f(*click, "-o", tmp_path / "again.png", "--cache", tmp_path / "cache", "--json")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert done.code == 0, done.err
    assert f"the encoding is not kept in {tmp_path / 'cache'}: " in done.err
    assert json.loads(done.out)["encoding_found"] is False
    assert list((tmp_path / "cache").iterdir()) == []
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "expected.png").read_bytes()


def test_what_is_read_in_one_of_several_ways_is_said(i2f: Callable[..., Any], toy_bundle: Path, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 4096, (60, 90), np.uint16)
    cv2.imwrite(str(tmp_path / "deep.png"), values)
    click = ("segment", toy_bundle, tmp_path / "deep.png", "--fg", "30,40", "--no-custom-ops")
    done = i2f(*click, "-o", tmp_path / "m.png")
    assert done.code == 0, done.err
    assert done.err == (
        f"i2f: note: {tmp_path}/deep.png holds values up to {values.max()} in files of 16 bits: read as 12 bits\n"
    )


def test_options_of_reading(
    i2f: Callable[..., Any], toy_bundle: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[np.ndarray] = []
    open_image = Segmenter.open
    monkeypatch.setattr(
        Segmenter, "open", lambda self, image, region: (opened.append(image), open_image(self, image, region))[1]
    )
    profile = icc.rgb_profile(icc.DISPLAY_P3, icc.SRGB_CURVE)
    with Image.open(photo) as image:
        image.save(tmp_path / "wide.png", icc_profile=profile)
    click = ("segment", toy_bundle, tmp_path / "wide.png", "--fg", "30,40", "-o", tmp_path / "m.png", "--no-custom-ops")
    assert i2f(*click).code == 0
    assert i2f(*click, "--no-convert-colours").code == 0
    np.testing.assert_array_equal(opened[0], read_image(tmp_path / "wide.png"))
    np.testing.assert_array_equal(opened[1], cv2.imread(str(photo))[..., ::-1])
    assert (opened[0] != opened[1]).mean() > 0.5
    done = i2f(*click, "--max-pixels", 60 * 90 - 1)
    assert done.code == 2
    assert "has 90 x 60 pixels, more than 5,399: make it smaller, or raise max_pixels" in done.err


def test_a_picture_that_is_cut_off_is_refused(i2f: Callable[..., Any], toy_bundle: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "photo.jpg"), pixels)
    cut = tmp_path / "cut.jpg"
    cut.write_bytes((tmp_path / "photo.jpg").read_bytes()[:9000])
    done = i2f("segment", toy_bundle, cut, "--fg", "3,4", "-o", tmp_path / "m.png")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert done.err.startswith(f"i2f: {cut} is cut off or damaged")
    assert not (tmp_path / "m.png").exists()


@pytest.mark.parametrize(
    "pixels",
    [
        np.full((4, 5), 77, np.uint8),
        np.full((4, 5, 4), 77, np.uint8),
        np.full((4, 5), 77 * 257, np.uint16),
        np.full((4, 5, 3), 77 * 257, np.uint16),
    ],
)
def test_grey_alpha_and_16_bit_files_become_rgb(tmp_path: Path, pixels: np.ndarray) -> None:
    cv2.imwrite(str(tmp_path / "image.png"), pixels)
    image = read_image(tmp_path / "image.png")
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, np.full((4, 5, 3), 77))


def test_pictures_are_turned_as_their_orientation_tag_says(tmp_path: Path) -> None:
    upright = np.zeros((8, 16, 3), np.uint8)
    upright[:, :8] = 255  # white on the left
    jpeg = cv2.imencode(".jpg", upright)[1].tobytes()
    # a TIFF header and one entry: orientation (0x112), a short (3), one value: 6, to be turned to the right
    exif = b"Exif\0\0" + b"II" + struct.pack("<HIHHHIII", 42, 8, 1, 0x112, 3, 1, 6, 0)
    path = tmp_path / "turned.jpg"
    path.write_bytes(jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:])
    image = read_image(path)
    assert image.shape == (16, 8, 3)
    assert image[:6].min() > 200  # white on top
    assert image[-6:].max() < 50


def test_files_are_read_as_rgb(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "image.png"), np.full((2, 2, 3), (1, 2, 3), np.uint8))  # BGR
    assert read_image(tmp_path / "image.png")[0, 0].tolist() == [3, 2, 1]


def test_a_region_and_a_session_to_go_on_with(
    i2f: Callable[..., Any], toy_bundle: Path, photo: Path, tmp_path: Path
) -> None:
    image = cv2.imread(str(photo))[..., ::-1]
    region = (20, 5, 84, 55)
    session = Segmenter(toy_bundle, custom_ops=False).open(image, region=region)
    first = session.box(25, 10, 80, 50)
    second = session.click(40, 30, False)
    base = ("segment", toy_bundle, photo, "--no-custom-ops")
    one, two, state = tmp_path / "one.png", tmp_path / "two.png", tmp_path / "state.json"
    cache = ("--cache", tmp_path / "cache")

    done = i2f(*base, "--box", "25,10,80,50", "--region", "20,5,84,55", "-o", one, "--state-out", state, *cache)
    assert done.code == 0, done.err
    assert f"wrote {one} and {state}" in done.out
    np.testing.assert_array_equal(cv2.imread(str(one), 0) > 0, first)
    assert json.loads(state.read_text()) | {"prompts": []} == session.state() | {"prompts": []}

    done = i2f(*base, "--bg", "40,30", "--state-in", state, "-o", two, "--state-out", state, *cache, "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert (report["restored"], report["region"], report["encoding_found"]) == (1, list(region), True)
    np.testing.assert_array_equal(cv2.imread(str(two), 0) > 0, second)
    assert json.loads(state.read_text()) == session.state()

    done = i2f(*base, "--state-in", state, "-o", one, "--overlay", tmp_path / "o.png")  # no prompt of its own
    assert done.code == 0, done.err
    assert one.read_bytes() == two.read_bytes()
    frame = cv2.imread(str(tmp_path / "o.png"))[54, 45:80]
    assert (frame > 200).mean() > 0.9  # the region's white frame
    done = i2f(*base, "--state-in", state, "--region", "20,5,84,54", "-o", one)
    assert "--region 20,5,84,54 is not that of" in done.err
    (encoded,) = (tmp_path / "cache").iterdir()
    for more, message in [
        (("--region", "20,5,84,54"), "holds the region (20, 5, 84, 55), not (20, 5, 84, 54)"),
        (("--fg", "1,1"), "lies outside the region"),
    ]:
        done = i2f("segment", toy_bundle, encoded, "--fg", "30,30", *more, "-o", one, "--no-custom-ops")
        assert (done.code, done.err.count("\n")) == (2, 1)
        assert message in done.err
    done = i2f("segment", toy_bundle, encoded, "--state-in", state, "-o", one, "--no-custom-ops")
    assert done.code == 0, done.err
    assert one.read_bytes() == two.read_bytes()

    cv2.imwrite(str(tmp_path / "other.png"), image[::-1])
    done = i2f("segment", toy_bundle, tmp_path / "other.png", "--state-in", state, "-o", one, "--no-custom-ops")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "this state is of another image" in done.err
