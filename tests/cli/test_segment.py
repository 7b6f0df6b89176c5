from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from inter2former_deploy.pictures import read_image
from inter2former_deploy.runtime import Segmenter


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8))
    return path


def test_mask_and_overlay(i2f: Callable[..., Any], toy_bundle: Path, photo: Path, tmp_path: Path) -> None:
    mask, overlay = tmp_path / "mask.png", tmp_path / "overlay.jpg"
    done = i2f("segment", toy_bundle, photo, "--fg", "30,40", "-o", mask, "--overlay", overlay, "--no-custom-ops")
    assert done.code == 0, done.err
    session = Segmenter(toy_bundle, custom_ops=False).open(cv2.imread(str(photo))[..., ::-1])
    expected = session.click(30, 40)
    np.testing.assert_array_equal(cv2.imread(str(mask), cv2.IMREAD_UNCHANGED), np.where(expected, 255, 0))
    assert cv2.imread(str(overlay)).shape == (60, 90, 3)
    for word in ("90 x 60", "encode", "click 1", f"wrote {mask} and {overlay}"):
        assert word in done.out


@pytest.mark.parametrize(
    "arguments",
    [
        ["--fg", "1,2", "--bg", "3,4", "--fg", "5,6"],
        ["--bg=3,4", "--fg", "5,6.5", "--fg=1,2", "--bg", "0,0", "--bg", "7,7"],
    ],
)
def test_clicks_keep_the_order_of_the_command_line(
    i2f: Callable[..., Any], toy_bundle: Path, photo: Path, tmp_path: Path, arguments: list[str]
) -> None:
    done = i2f("segment", *arguments, toy_bundle, photo, "-o", tmp_path / "m.png", "--no-custom-ops", "--json")
    assert done.code == 0, done.err
    words = [word for argument in arguments for word in argument.split("=")]
    expected = [
        (*map(float, point.split(",")), sign == "--fg") for sign, point in zip(words[::2], words[1::2], strict=True)
    ]
    assert [(c["x"], c["y"], c["positive"]) for c in json.loads(done.out)["clicks"]] == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give at least one click on the object, such as --fg 320,240"),
        (["--fg", "30"], "a click is X,Y in pixels, such as 320,240, not '30'"),
        (["--fg", "30,40,50"], "not '30,40,50'"),
        (["--fg", "90,0"], "click 90,0 lies outside {photo}, which is 90 x 60 pixels"),
        (["--bg", "0,-1"], "click 0,-1 lies outside"),
        (["--fg", "nan,1"], "click nan,1 lies outside"),
        (["--fg", "1,1", "-o", "mask.jpg"], "--output mask.jpg must end in one of .png"),
        (["--fg", "1,1", "-o", "nowhere/mask.png"], "--output nowhere/mask.png: there is no folder nowhere"),
        (["--fg", "1,1", "--overlay", "o.txt"], "--overlay o.txt must end in one of"),
    ],
)
def test_bad_input_is_one_line(
    i2f: Callable[..., Any], toy_bundle: Path, photo: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    target = [] if "-o" in arguments else ["-o", tmp_path / "m.png"]
    done = i2f("segment", toy_bundle, photo, *target, *arguments, "--no-custom-ops")
    assert done.code == 2
    assert message.format(photo=photo) in done.err
    assert done.err.startswith("i2f: ")
    assert done.err.count("\n") == 1
    assert not list(tmp_path.glob("*m*.png"))


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
