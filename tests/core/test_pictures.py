from __future__ import annotations

import io
import struct
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import icc
import numpy as np
import pytest
from PIL import Image, ImageOps

from inter2former_deploy.core import pictures
from inter2former_deploy.core.pictures import PictureError, PictureWarning, picture_files, picture_size

try:
    import pillow_heif
except ImportError:
    HEIF: list[str] = []
else:
    pillow_heif.register_heif_opener()
    HEIF = ["HEIF"]


def read_image(source: str | Path | bytes, **options: Any) -> np.ndarray:
    """The picture; that its size is known without its pixels holds for every picture of these tests."""
    pixels = pictures.read_image(source, **options)
    assert picture_size(source) == pixels.shape[:2]
    return pixels


FORMATS = ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", *HEIF]


def smooth_picture(height: int = 38, width: int = 61, channels: int = 3) -> np.ndarray:
    """A random walk, uint8: no two rows, columns or channels alike, and easy on lossy formats."""
    walk = np.cumsum(np.random.default_rng(7).integers(-9, 10, (height, width, channels)), 1)
    walk += np.arange(0, 3 * height, 3)[:, None, None]
    return ((walk - walk.min()) * (255 / np.ptp(walk))).round().astype(np.uint8)


def encoded(pixels: np.ndarray | Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(buffer, kind, **options)
    return buffer.getvalue()


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x112] = orientation
    return tags


def tiff(
    pixels: np.ndarray,
    orientation: int = 1,
    *,
    order: str = "<",
    big: bool = False,
    inverted: bool = False,
    **more: int,
) -> bytes:
    """A TIFF file of one uncompressed strip, by the specification; `more` are further tags, t270=... and so on."""
    height, width, channels = pixels.shape if pixels.ndim == 3 else (*pixels.shape, 1)
    kind = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    data = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    tags = {256: width, 257: height, 258: [8 * pixels.itemsize] * channels, 259: 1}
    tags |= {262: 2 if channels > 1 else int(not inverted), 273: 0, 274: orientation, 277: channels, 278: height}
    tags |= {279: len(data), 284: 1, 339: [kind] * channels} | {int(key[1:]): value for key, value in more.items()}
    offset, each, head = ("Q", 8, 16) if big else ("I", 4, 8)
    count, width_of_entry = (8, 20) if big else (2, 12)
    extra_at = head + count + width_of_entry * len(tags) + each
    entries, extra = b"", b""
    for tag, value in sorted(tags.items()):
        values = value if isinstance(value, list) else [value]
        short = tag not in (273, 279)
        packed = struct.pack(order + ("H" if short else offset) * len(values), *values)
        if tag == 273:
            packed = b"here"
        elif len(packed) > each:
            extra, packed = extra + packed, struct.pack(order + offset, extra_at + len(extra))
        entries += struct.pack(order + "HH" + offset, tag, 3 if short else (16 if big else 4), len(values))
        entries += packed.ljust(each, b"\0")
    entries = entries.replace(b"here".ljust(each, b"\0"), struct.pack(order + offset, extra_at + len(extra)))
    mark = b"II" if order == "<" else b"MM"
    start = mark + (struct.pack(order + "HHHQ", 43, 8, 0, 16) if big else struct.pack(order + "HI", 42, 8))
    return start + struct.pack(order + ("Q" if big else "H"), len(tags)) + entries + bytes(each) + extra + data


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def not_told(line: str) -> None:
    raise AssertionError(line)


# Upright


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_upright_as_pillow_shows_them(tmp_path: Path, kind: str, orientation: int) -> None:
    path = tmp_path / f"picture.{kind.lower()}"
    path.write_bytes(encoded(smooth_picture(), kind, exif=exif(orientation)))
    with Image.open(path) as image:
        image.load()
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    turned = expected.shape == (61, 38, 3)
    assert turned == (orientation > 4) or kind == "HEIF"  # pillow-heif writes its own way of turning
    np.testing.assert_array_equal(read_image(path), expected)
    np.testing.assert_array_equal(read_image(path.read_bytes()), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True)])
def test_tiff_of_16_bits_is_turned_alike(orientation: int, order: str, big: bool) -> None:
    """Its values come from OpenCV, which turns some by itself and refuses others."""
    pixels = smooth_picture()
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(tiff(pixels, orientation)))))
    deep = pixels.astype(np.uint16) * 257
    np.testing.assert_array_equal(read_image(tiff(deep, orientation, order=order, big=big)), expected)
    grey = tiff(np.ascontiguousarray(deep[..., 0]), orientation, order=order, big=big)
    np.testing.assert_array_equal(read_image(grey), np.repeat(expected[..., :1], 3, -1))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_png_of_16_bits_is_turned_alike(orientation: int) -> None:
    pixels = smooth_picture()
    deep = cv2.imencode(".png", pixels[..., ::-1].astype(np.uint16) * 257)[1].tobytes()
    deep = deep[:33] + png_chunk(b"eXIf", exif(orientation).tobytes().removeprefix(b"Exif\0\0")) + deep[33:]
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded(pixels, "PNG", exif=exif(orientation)))))
    np.testing.assert_array_equal(read_image(deep), np.asarray(expected))


def test_orientation_in_xmp_counts() -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    picture = smooth_picture()
    np.testing.assert_array_equal(read_image(encoded(picture, "WEBP", lossless=True, xmp=xmp)), np.rot90(picture, -1))


@pytest.mark.parametrize("tag", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_upright(tag: int) -> None:
    np.testing.assert_array_equal(read_image(encoded(smooth_picture(), "PNG", exif=exif(tag))), smooth_picture())


def test_broken_exif_is_upright_and_said() -> None:
    lines: list[str] = []
    data = encoded(smooth_picture(), "PNG", exif=b"Exif\0\0garbage")
    np.testing.assert_array_equal(read_image(data, tell=lines.append), smooth_picture())
    assert len(lines) == 1
    assert lines[0].startswith("the picture: its Exif tags are not readable")


# The same values as OpenCV, with which the release was evaluated


@pytest.mark.parametrize(
    ("mode", "kind", "options"),
    [
        ("RGB", "JPEG", {"quality": 90, "subsampling": 0}),
        ("RGB", "JPEG", {"quality": 75, "subsampling": 1}),
        ("RGB", "JPEG", {"quality": 60, "subsampling": 2}),
        ("RGB", "JPEG", {"progressive": True}),
        ("L", "JPEG", {}),
        ("RGB", "PNG", {}),
        ("L", "PNG", {}),
        ("LA", "PNG", {}),
        ("RGBA", "PNG", {}),
        ("1", "PNG", {}),
        ("P", "PNG", {}),
        ("P", "PNG", {"bits": 4}),
        ("RGB", "WEBP", {}),
        ("RGBA", "WEBP", {"lossless": True, "exact": True}),
        ("RGB", "BMP", {}),
        ("P", "BMP", {}),
        ("RGB", "PPM", {}),
        ("L", "PPM", {}),
        ("RGB", "TIFF", {}),
        ("RGB", "TIFF", {"compression": "tiff_lzw"}),
        ("L", "TIFF", {}),
        ("1", "TIFF", {}),
        ("RGB", "GIF", {}),
    ],
)
def test_plain_files_have_opencv_s_values(mode: str, kind: str, options: dict[str, Any]) -> None:
    colours = Image.fromarray(smooth_picture())
    image = colours.convert(mode) if mode != "P" else colours.quantize(14)
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.fromarray(smooth_picture()[..., 1]))
    data = encoded(image, kind, **options)
    by_opencv = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if by_opencv is None:
        assert kind == "GIF"
        pytest.skip("this OpenCV does not read GIF")
    expected = by_opencv[..., ::-1]
    for convert_colours in (True, False):
        actual = read_image(data, convert_colours=convert_colours, tell=not_told)
        assert actual.dtype == np.uint8
        assert actual.flags["C_CONTIGUOUS"]
        np.testing.assert_array_equal(actual, expected)


def test_cmyk_without_a_profile() -> None:
    inks = [Image.fromarray(np.ascontiguousarray(ink)) for ink in smooth_picture(channels=4).transpose(2, 0, 1)]
    data = encoded(Image.merge("CMYK", inks), "JPEG", quality=95)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(read_image(data), expected)
    assert np.abs(cv2.imdecode(np.frombuffer(data, np.uint8), 1)[..., ::-1].astype(int) - expected).max() <= 2


def test_lab_becomes_rgb() -> None:
    lab = Image.new("LAB", (3, 2), (136, 81 + 128, 70 + 128))  # about sRGB 255, 0, 0: L 53.2, a 80, b 67
    pixels = read_image(encoded(lab, "TIFF"))
    assert pixels.shape == (2, 3, 3)
    assert np.abs(pixels.astype(int) - (255, 0, 0)).max() <= 12


# Colours


def decoded(values: np.ndarray, curve: icc.Curve) -> np.ndarray:
    if not isinstance(curve, tuple):
        return values**curve
    gamma, a, b, c, d = curve
    return np.where(values >= d, (a * np.maximum(values, d) + b) ** gamma, c * values)


def as_srgb(pixels: np.ndarray, primaries: Any, curve: icc.Curve) -> np.ndarray:
    """Colours by the profile, as sRGB, in float64."""
    linear = decoded(pixels / 255, curve) @ np.array(primaries) @ np.linalg.inv(np.array(icc.SRGB))
    linear = np.clip(linear, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize(
    ("primaries", "curve"),
    [(icc.DISPLAY_P3, icc.SRGB_CURVE), (icc.ADOBE_RGB, 563 / 256), (icc.SRGB, 1.0)],
    ids=["Display P3", "Adobe RGB", "linear"],
)
def test_colours_are_converted_to_srgb(kind: str, primaries: Any, curve: icc.Curve) -> None:
    pixels = smooth_picture()
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(pixels, kind, icc_profile=icc.rgb_profile(primaries, curve), **options)
    expected = as_srgb(pixels, primaries, curve)
    assert np.abs(expected - pixels).mean() > 3  # else the profile would not matter here
    assert np.abs(read_image(data) - expected).max() <= 1.5  # half a level of rounding, one of littlecms' tables
    np.testing.assert_array_equal(read_image(data, convert_colours=False), pixels)


def test_16_bits_keep_their_profile() -> None:
    pixels = smooth_picture()
    image = cv2.imencode(".png", pixels[..., ::-1].astype(np.uint16) * 257)[1].tobytes()
    profile = png_chunk(b"iCCP", b"p3\0\0" + zlib.compress(icc.rgb_profile(icc.DISPLAY_P3, icc.SRGB_CURVE)))
    expected = as_srgb(pixels, icc.DISPLAY_P3, icc.SRGB_CURVE)
    assert np.abs(read_image(image[:33] + profile + image[33:]) - expected).max() <= 1.5


def test_grey_is_converted_by_a_grey_and_by_a_colour_profile() -> None:
    grey = smooth_picture()[..., 0]
    expected = as_srgb(np.repeat(grey[..., None], 3, -1), icc.SRGB, 1.8)
    for profile in (icc.grey_profile(1.8), icc.rgb_profile(icc.SRGB, 1.8)):
        data = encoded(np.ascontiguousarray(grey), "PNG", icc_profile=profile)
        assert np.abs(read_image(data, tell=not_told) - expected).max() <= 1.5


def test_an_srgb_profile_changes_nothing() -> None:
    pixels = smooth_picture()
    data = encoded(pixels, "PNG", icc_profile=icc.rgb_profile(icc.SRGB, icc.SRGB_CURVE))
    np.testing.assert_array_equal(read_image(data, tell=not_told), pixels)


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        (b"no profile" * 20, "not readable"),
        (icc.rgb_profile(icc.DISPLAY_P3, 1.8)[:200], "not readable"),
        (icc.grey_profile(1.8), "it is for GRAY, the picture is RGB"),
    ],
)
def test_a_profile_that_does_not_fit_is_not_used_and_said(tmp_path: Path, profile: bytes, message: str) -> None:
    path = tmp_path / "odd.png"
    path.write_bytes(encoded(smooth_picture(), "PNG", icc_profile=profile))
    with pytest.warns(PictureWarning, match=f"odd.png: its colour profile.*{message}"):
        pixels = read_image(path)
    np.testing.assert_array_equal(pixels, smooth_picture())
    np.testing.assert_array_equal(read_image(path, convert_colours=False, tell=not_told), smooth_picture())


def chromaticities(*values: float) -> bytes:
    return png_chunk(b"cHRM", struct.pack(">8I", *(round(1e5 * value) for value in values)))


def gamma(value: float) -> bytes:
    return png_chunk(b"gAMA", struct.pack(">I", round(1e5 * value)))


D65 = (0.3127, 0.329)
P3_CHUNK = chromaticities(*D65, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)
SRGB_CHUNK = chromaticities(*D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
ADOBE_CHUNK = png_chunk(b"iCCP", b"adobe\0\0" + zlib.compress(icc.rgb_profile(icc.ADOBE_RGB, 563 / 256)))


def code_points(primaries: int, transfer: int) -> bytes:
    return png_chunk(b"cICP", bytes([primaries, transfer, 0, 1]))


@pytest.mark.parametrize(
    ("chunks", "primaries", "curve"),
    [
        (gamma(1.0), icc.SRGB, 1.0),
        (gamma(0.5), icc.SRGB, 2.0),
        (gamma(0.45455), None, None),
        (gamma(1.0) + SRGB_CHUNK, icc.SRGB, 1.0),
        (gamma(0.45455) + SRGB_CHUNK, icc.SRGB, 2.2),
        (gamma(0.45455) + P3_CHUNK, icc.DISPLAY_P3, 2.2),
        (P3_CHUNK, None, None),  # alone it counts for nothing
        (png_chunk(b"sRGB", b"\0") + gamma(1.0), None, None),
        (gamma(0.0), None, None),
        (code_points(12, 13), icc.DISPLAY_P3, icc.SRGB_CURVE),
        (code_points(9, 8), icc.BT2020, 1.0),
        (code_points(12, 1), icc.DISPLAY_P3, 2.4),  # a camera's curve, as a screen shows it
        (code_points(2, 2), None, None),
        (ADOBE_CHUNK + gamma(1.0), icc.ADOBE_RGB, 563 / 256),
        (ADOBE_CHUNK + code_points(12, 13), icc.DISPLAY_P3, icc.SRGB_CURVE),
    ],
)
def test_png_colours_by_numbers(chunks: bytes, primaries: Any, curve: Any) -> None:
    """What counts was compared with Chromium 156, for each of these and more: at most 1 level apart."""
    pixels = smooth_picture()
    data = encoded(pixels, "PNG")
    data = data[:33] + chunks + data[33:]
    if primaries is None:
        np.testing.assert_array_equal(read_image(data, tell=not_told), pixels)
    else:
        expected = as_srgb(pixels, primaries, curve)
        assert np.abs(expected - pixels).mean() > 1
        assert np.abs(read_image(data, tell=not_told) - expected).max() <= 1.5
    np.testing.assert_array_equal(read_image(data, convert_colours=False), pixels)


def test_png_colours_by_numbers_of_16_bits_and_grey() -> None:
    grey = smooth_picture()[..., 0]
    expected = as_srgb(np.repeat(grey[..., None], 3, -1), icc.SRGB, 1.0)
    for depth, factor in ((np.uint8, 1), (np.uint16, 257)):
        data = cv2.imencode(".png", grey.astype(depth) * depth(factor))[1].tobytes()
        assert np.abs(read_image(data[:33] + gamma(1.0) + data[33:]) - expected).max() <= 0.75


def test_white_stays_white_under_another_white() -> None:
    pixels = np.full((2, 2, 3), 255, np.uint8)
    data = encoded(pixels, "PNG")
    d50 = chromaticities(0.3457, 0.3585, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
    np.testing.assert_array_equal(read_image(data[:33] + gamma(0.5) + d50 + data[33:]), pixels)


@pytest.mark.parametrize(
    ("points", "primaries", "curve"),
    [
        ((12, 13), icc.DISPLAY_P3, icc.SRGB_CURVE),
        ((12, 1), icc.DISPLAY_P3, icc.SRGB_CURVE),
        ((9, 2), icc.BT2020, icc.SRGB_CURVE),
        ((1, 8), icc.SRGB, 1.0),
        ((1, 1), None, None),
        ((2, 2), None, None),
    ],
)
def test_avif_colours_by_numbers(points: tuple[int, int], primaries: Any, curve: Any) -> None:
    data = encoded(smooth_picture(), "AVIF", quality=100, subsampling="4:4:4")
    at = data.index(b"colrnclx") + 8
    plain = read_image(data)
    data = data[:at] + struct.pack(">HH", *points) + data[at + 4 :]
    actual = read_image(data, tell=not_told)
    if primaries is None:
        np.testing.assert_array_equal(actual, plain)
    else:
        assert np.abs(actual - as_srgb(plain, primaries, curve)).max() <= 1.5
        assert np.abs(actual.astype(int) - plain).mean() > 3


@pytest.mark.parametrize(
    ("chunks", "why"),
    [(code_points(9, 16), "primaries 9 with transfer 16"), (gamma(1.0) + chromaticities(*[0.0] * 8), "primaries")],
)
def test_colours_that_are_not_converted_are_said(chunks: bytes, why: str) -> None:
    lines: list[str] = []
    data = encoded(smooth_picture(), "PNG")
    np.testing.assert_array_equal(read_image(data[:33] + chunks + data[33:], tell=lines.append), smooth_picture())
    assert len(lines) == 1
    assert f"the picture: its colours are not converted ({why}" in lines[0]


# More than 8 bits


def deep_file(kind: str, values: np.ndarray) -> bytes:
    if kind == "tiff":
        return tiff(values)
    return cv2.imencode(kind, values[..., ::-1] if values.ndim == 3 else values)[1].tobytes()


@pytest.mark.parametrize("kind", [".png", "tiff", ".ppm"])
@pytest.mark.parametrize(
    ("largest", "bits"),
    [(200, 8), (255, 8), (256, 10), (1023, 10), (4000, 12), (4095, 12), (16383, 14), (16384, 16), (65535, 16)],
)
def test_values_are_scaled_by_the_bits_they_need(kind: str, largest: int, bits: int) -> None:
    values = np.random.default_rng(1).integers(0, largest + 1, (9, 11, 3)).astype(np.uint16)
    values[4, 5, 1] = largest
    expected = np.floor(values * (255 / (2**bits - 1)) + 0.5)
    lines: list[str] = []
    np.testing.assert_array_equal(read_image(deep_file(kind, values), tell=lines.append), expected)
    assert lines == (
        [f"the picture holds values up to {largest} in files of 16 bits: read as {bits} bits"] * (bits < 16)
    )


@pytest.mark.parametrize("largest", [15, 100, 1000, 4095, 20000])
def test_pnm_says_what_is_white(largest: int) -> None:
    values = np.random.default_rng(1).integers(0, largest // 3, (9, 11, 3))
    order = ">u1" if largest < 256 else ">u2"
    data = f"P6\n# a comment\n11 9 {largest}\n".encode() + values.astype(order).tobytes()
    np.testing.assert_array_equal(read_image(data, tell=not_told), np.floor(values * (255 / largest) + 0.5))


def test_alpha_of_16_bits_is_dropped() -> None:
    values = np.random.default_rng(1).integers(0, 65536, (9, 11, 4)).astype(np.uint16)
    data = cv2.imencode(".png", values[..., [2, 1, 0, 3]])[1].tobytes()
    np.testing.assert_array_equal(read_image(data), np.floor(values[..., :3] * (255 / 65535) + 0.5))


def test_grey_tiff_whose_zero_is_white() -> None:
    values = np.random.default_rng(1).integers(0, 65536, (9, 11)).astype(np.uint16)
    expected = np.repeat(255 - np.floor(values * (255 / 65535) + 0.5)[..., None], 3, -1)
    np.testing.assert_array_equal(read_image(tiff(values, inverted=True)), expected)


def test_signed_values_are_read_while_none_is_negative() -> None:
    values = np.random.default_rng(1).integers(0, 32768, (9, 11)).astype(np.int16)
    values[0, 0] = 32767
    expected = np.floor(values * (255 / 65535) + 0.5)
    np.testing.assert_array_equal(read_image(tiff(values))[..., 1], expected)
    values[3, 3] = -1000
    with pytest.raises(PictureError, match="the picture holds values from -1000 to 32767, only 0 to 65535"):
        read_image(tiff(values))


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_floats_from_0_to_1_are_read(kind: type) -> None:
    values = np.random.default_rng(1).random((9, 11, 3)).astype(kind)
    assert np.abs(read_image(tiff(values)) - 255.0 * values).max() <= 0.5 + 1e-4
    for wrong in (1.01, -0.01, np.nan, np.inf):
        values[2, 3, 1] = wrong
        with pytest.raises(PictureError, match="the picture holds floating-point values from"):
            read_image(tiff(values))


# Cut off, too large, no picture


def whole_files() -> dict[str, bytes]:
    pixels = smooth_picture(90, 120)
    deep = pixels.astype(np.uint16) * 257
    files = {
        "jpeg": encoded(pixels, "JPEG"),
        "jpeg progressive": encoded(pixels, "JPEG", progressive=True),
        "jpeg with Exif": encoded(pixels, "JPEG", exif=exif(6)),
        "png": encoded(pixels, "PNG"),
        "png 16": deep_file(".png", deep),
        "tiff 16": tiff(deep),
        "tiff 16 lzw": cv2.imencode(".tif", deep)[1].tobytes(),
        "ppm 16": deep_file(".ppm", deep),
        "webp": encoded(pixels, "WEBP"),
        "webp lossless": encoded(pixels, "WEBP", lossless=True),
        "tiff": encoded(pixels, "TIFF"),
        "tiff lzw": encoded(pixels, "TIFF", compression="tiff_lzw"),
        "tiff by hand": tiff(pixels),
        "bmp": encoded(pixels, "BMP"),
        "gif": encoded(pixels, "GIF"),
        "ppm": encoded(pixels, "PPM"),
        "jpeg 2000": encoded(pixels, "JPEG2000"),
        "avif": encoded(pixels, "AVIF"),
    }
    return files | ({"heic": encoded(pixels, "HEIF")} if HEIF else {})


@pytest.mark.parametrize("kind", whole_files())
@pytest.mark.filterwarnings("default::UserWarning")  # of Pillow, about tags
def test_files_that_are_cut_off_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    data = whole_files()[kind]
    whole = read_image(data)
    path = tmp_path / "cut.bin"
    for end in sorted({*(len(data) - k for k in range(1, 14)), *(len(data) * k // 20 for k in range(1, 20))}):
        path.write_bytes(data[:end])
        try:
            pixels, refusal = read_image(path), ""
        except PictureError as error:
            pixels, refusal = whole, str(error)
        if refusal:
            assert refusal.startswith(f"{path} ")
            assert "\n" not in refusal
        else:  # nothing but an end mark may lack
            assert end > len(data) - 14
        np.testing.assert_array_equal(pixels, whole)


def png_of(width: int, height: int) -> bytes:
    """A PNG file that has nothing but its size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(b""))


def large_files() -> dict[str, bytes]:
    small = encoded(smooth_picture(), "JPEG")
    at = small.index(b"\xff\xc0") + 5
    gif = encoded(smooth_picture(), "GIF")
    bmp = encoded(smooth_picture(), "BMP")
    size = struct.pack("<ii", 40000, 40000)
    large_tiff = tiff(np.zeros((40, 40), np.uint8)).replace(struct.pack("<HHIHH", 257, 3, 1, 40, 0), b"", 0)
    for tag in (256, 257):
        old, new = (struct.pack("<HHIHH", tag, 3, 1, side, 0) for side in (40, 40000))
        assert old in large_tiff
        large_tiff = large_tiff.replace(old, new)
    return {
        "png": png_of(40000, 40000),
        "png beyond OpenCV": png_of(1 << 20, 1 << 20),
        "jpeg": small[:at] + struct.pack(">HH", 40000, 40000) + small[at + 4 :],
        "gif": gif[:6] + struct.pack("<HH", 40000, 40000) + gif[10:],
        "bmp": bmp[:18] + size + bmp[26:],
        "tiff": large_tiff,
        "ppm": b"P6 40000 40000 255\n" + bytes(100),
        "ppm 16": b"P6 40000 40000 65535\n" + bytes(100),
    }


@pytest.mark.parametrize("kind", large_files())
def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "large.bin"
    path.write_bytes(large_files()[kind])
    tracemalloc.start()
    try:
        with pytest.raises(PictureError, match=r"large.bin has \d+ x \d+ pixels, more than 536,870,912"):
            read_image(path)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", FORMATS)
def test_the_limit_is_the_caller_s_and_not_pillow_s(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    data = encoded(smooth_picture(), kind)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # beyond twice that Pillow itself refuses, below it warns
    assert read_image(data, max_pixels=38 * 61).shape == (38, 61, 3)
    with pytest.raises(
        PictureError, match=r"the picture has .* more than 2,317.*: make it smaller, or raise max_pixels"
    ):
        read_image(data, max_pixels=38 * 61 - 1)
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"a", "is no picture that can be read"),
        (tiff(smooth_picture(), order=">", big=True), "is a BigTIFF file of big-endian byte order"),
        (b"just a text, no picture at all, but a long one", "is no picture that can be read: it must be JPEG, PNG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is no picture that can be read"),
        (b"II*\0" + bytes(60), "is cut off or damaged"),
        (b"\x89PNG\r\n\x1a\n", "is cut off or damaged"),
        (b"\xff\xd8\xff", "is cut off or damaged"),
        (b"BM" + bytes(60), "is cut off or damaged"),
        (tiff(smooth_picture(), t254=1), "holds a preview in the place of the picture; raw files of cameras are not"),
        (tiff(smooth_picture(), t50706=1), "holds a preview"),
    ],
)
@pytest.mark.filterwarnings("default::UserWarning")
def test_what_is_no_picture_is_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "file.jpg"
    path.write_bytes(content)
    with pytest.raises(PictureError) as caught:
        read_image(path)
    assert str(caught.value).startswith(f"{path} {message}")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_folders_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="is a folder"):
        read_image(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"there is no image .*no\.png$"):
        read_image(str(tmp_path / "no.png"))


HEIC = b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf" + bytes(100)


@pytest.fixture
def without_heif(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)


@pytest.mark.usefixtures("without_heif")
def test_heic_without_its_library_says_what_to_install() -> None:
    with pytest.raises(PictureError, match=r"the picture is a HEIC picture; .*pip install pillow-heif"):
        read_image(HEIC)


@pytest.mark.skipif(not HEIF, reason="needs pillow-heif")
def test_heic_is_read_where_its_library_is() -> None:
    picture = cv2.resize(
        smooth_picture(8, 8), (64, 64), interpolation=cv2.INTER_CUBIC
    )  # without colours at single pixels
    data = encoded(picture, "HEIF", quality=95)
    assert np.abs(read_image(data).astype(int) - picture).mean() < 3


# Animations and pages


@pytest.mark.parametrize(
    ("kind", "what"), [("GIF", "frames"), ("WEBP", "frames"), ("PNG", "frames"), ("TIFF", "pages"), ("AVIF", "frames")]
)
def test_of_several_frames_the_first_is_taken_and_it_is_said(tmp_path: Path, kind: str, what: str) -> None:
    first = Image.fromarray(smooth_picture())
    options = {"lossless": True} if kind == "WEBP" else {}
    others = [Image.new("RGB", first.size), Image.new("RGB", first.size, "white")]
    path = tmp_path / "several"
    path.write_bytes(encoded(first, kind, save_all=True, append_images=others, **options))
    with pytest.warns(PictureWarning, match=f"several has 3 {what}: the first is taken"):
        pixels = read_image(path)
    alone = read_image(encoded(first, kind, **options))
    assert np.abs(pixels.astype(int) - alone).mean() < 4  # AVIF codes frames of an animation a little differently


def test_of_several_pages_of_16_bits_the_first_is_taken_and_it_is_said() -> None:
    first, second = (np.full((9, 11), value, np.uint16) for value in (65535, 0))
    data = encoded(Image.fromarray(first), "TIFF", save_all=True, append_images=[Image.fromarray(second)])
    lines: list[str] = []
    assert (read_image(data, tell=lines.append) == 255).all()
    assert lines == ["the picture has several pages: the first is taken"]


def test_previews_behind_a_photograph_are_not_spoken_of() -> None:
    first = Image.fromarray(smooth_picture())
    data = encoded(first, "MPO", save_all=True, append_images=[Image.new("RGB", (30, 20))])
    np.testing.assert_array_equal(read_image(data, tell=not_told), np.asarray(Image.open(io.BytesIO(data))))


# Folders


def test_pictures_of_a_folder(tmp_path: Path, without_heif: None) -> None:
    for name in (
        *("b.JPG", "a.png", "deep/c.jfif", "deep/er/d.avif", "e.gif", "._a.jpg", ".hidden/x.png", "__MACOSX/a.png"),
        *("notes.txt", "f.HEIC", "raw.NEF", "README"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "deep" / "round").symlink_to(tmp_path)
    pictures, skipped = picture_files(tmp_path)
    names = [str(path.relative_to(tmp_path)) for path in pictures]
    assert names == sorted(["b.JPG", "a.png", "deep/c.jfif", "deep/er/d.avif", "e.gif"])
    reasons = {str(path.relative_to(tmp_path)): why for path, why in skipped}
    assert reasons.keys() == {"notes.txt", "f.HEIC", "raw.NEF", "README", "gone.png"}
    assert "pip install pillow-heif" in reasons["f.HEIC"]
    assert "raw files of cameras" in reasons["raw.NEF"]
    assert reasons["notes.txt"] == reasons["README"] == "not a picture by its suffix"
    assert "link to nothing" in reasons["gone.png"]


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.png").touch()
    (tmp_path / "album").mkdir()
    (tmp_path / "album" / "link").symlink_to(tmp_path / "real")
    assert picture_files(tmp_path / "album")[0] == [tmp_path / "album" / "link" / "a.png"]


def test_reading_is_possible_from_several_threads(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    data = encoded(smooth_picture(), "PNG", icc_profile=icc.rgb_profile(icc.DISPLAY_P3, icc.SRGB_CURVE))
    expected = read_image(data)
    read: Callable[[int], np.ndarray] = lambda _: read_image(data)  # noqa: E731
    with ThreadPoolExecutor(8) as pool:
        for pixels in pool.map(read, range(64)):
            np.testing.assert_array_equal(pixels, expected)
