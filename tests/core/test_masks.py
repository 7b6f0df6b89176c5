"""Mask files: what each kind of them is read as. Objects are compared with the drawing that the file was made of."""

from __future__ import annotations

from io import BytesIO

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from inter2former_deploy.core.masks import IGNORED, MaskError, iou, read_mask, read_objects

DISC = cv2.circle(np.zeros((90, 120), np.uint8), (50, 40), 25, 1, -1)
OTHER = cv2.rectangle(np.zeros_like(DISC), (85, 50), (110, 80), 1, -1)
BOTH = DISC | OTHER
VOID = cv2.dilate(DISC, np.ones((5, 5), np.uint8)) - DISC
GREEN, RED = (0, 128, 0), (128, 0, 0)  # of VOC's palette: 2 and 1


def file_of(array, format_="PNG", **options):
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    buffer = BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def with_palette(indices, palette):
    image = Image.fromarray(indices).convert("L")
    image.putpalette([v for colour in palette for v in colour])
    assert image.mode == "P"
    return image


def voc_palette():
    """Bits of the index, three at a time, from the high bits of red, green and blue down."""
    palette = np.zeros((256, 3), np.uint8)
    for index in range(256):
        for bit in range(8):
            palette[index, bit % 3] |= (index >> bit & 1) << 7 - bit // 3
    return palette.tolist()


def test_binary_masks_in_any_value_and_depth():
    for value in (1, 2, 38, 128, 200, 255):
        assert (read_mask(file_of(DISC * np.uint8(value))) == DISC).all(), value
    for value in (1, 255, 4095, 65535):
        assert (read_mask(file_of(DISC.astype(np.uint16) * np.uint16(value))) == DISC).all(), value
    assert (read_mask(file_of(DISC * 255, "BMP")) == DISC).all()
    assert (read_mask(file_of(Image.fromarray(DISC * 255).convert("1"))) == DISC).all()
    assert (read_mask(file_of(DISC.astype(np.float32), "TIFF")) == DISC).all()
    assert (read_mask(file_of(np.dstack([DISC * 255] * 3))) == DISC).all()
    assert (read_mask(file_of(np.ones((9, 9), np.uint8) * 255)) == 1).all()
    assert not read_mask(file_of(DISC * 0)).any()


@pytest.mark.parametrize("quality", [50, 75, 90, 100])
@pytest.mark.parametrize("value", [1.0, 0.5])
def test_masks_that_went_through_jpeg(quality, value):
    white = file_of((DISC * 255 * value).astype(np.uint8), "JPEG", quality=quality)
    red = np.zeros((*DISC.shape, 3), np.uint8)
    red[..., 0] = DISC * 255 * value
    values = np.unique(np.asarray(Image.open(BytesIO(white))))
    assert quality == 100 or len(values) > 3  # it is noisy indeed
    assert iou(read_mask(white), DISC) > (0.99 if quality > 50 else 0.97)
    assert iou(read_mask(file_of(red, "JPEG", quality=quality)), DISC) > (0.96 if quality > 50 else 0.93)
    assert not (read_mask(white) == IGNORED).any()
    again = file_of(np.asarray(Image.open(BytesIO(white))))  # and was saved as PNG then
    assert iou(read_mask(again), DISC) > 0.97
    assert not (read_mask(again) == IGNORED).any()


def test_jpeg_of_quality_100_has_0_1_and_255_and_is_no_mask_with_ignored_pixels():
    drawn = DISC * 255
    drawn[2:9, 2:9] = 1  # noise may fill areas
    content = file_of(drawn, "JPEG", quality=100)
    assert {0, 1, 255} <= set(np.unique(np.asarray(Image.open(BytesIO(content)))).tolist())
    assert (read_mask(content) == DISC).all()


def test_a_stray_value_does_not_turn_the_object_into_ignored_pixels():
    drawn = DISC * 255
    drawn[3, 3] = drawn[70, 4:6] = 1
    assert (read_mask(file_of(drawn)) == DISC).all()
    drawn[3:6, 3:6] = 254
    assert (read_mask(file_of(drawn))[10:] == DISC[10:]).all()


def test_soft_masks_are_cut_at_half_in_8_and_16_bits_and_float():
    soft = cv2.GaussianBlur(DISC.astype(np.float32), (0, 0), 3)
    expected = (soft >= 0.5).astype(np.uint8)
    assert (read_mask(file_of(np.rint(soft * 255).astype(np.uint8))) == expected).all()
    assert (read_mask(file_of(np.rint(soft * 65535).astype(np.uint16))) == expected).all()
    assert (read_mask(file_of(np.rint(soft * 4095).astype(np.uint16))) == expected).all()
    assert (read_mask(file_of(soft, "TIFF")) == expected).all()
    small = np.array([[0, 127, 128, 255]], np.uint8)
    assert read_mask(file_of(small)).tolist() == [[0, 0, 1, 1]]


def test_grey_label_maps_hold_ids_and_255_beside_them_is_ignored():
    ids = DISC * np.uint8(3) + OTHER * np.uint8(20)
    assert (read_mask(file_of(ids)) == BOTH).all()
    expected = BOTH.copy()
    expected[VOID == 1] = IGNORED
    assert (read_mask(file_of(ids + VOID * 255)) == expected).all()
    assert (read_mask(file_of(DISC + VOID * 255)) == DISC + VOID * 255).all()
    line = cv2.line(np.zeros_like(DISC), (5, 5), (100, 60), 1, 1)  # thin, and not stray
    around = cv2.dilate(line, np.ones((3, 3), np.uint8)) - line
    assert (read_mask(file_of(line + around * 255)) == line + around * 255).all()
    many = DISC.astype(np.uint16) * np.uint16(300) + OTHER.astype(np.uint16) * np.uint16(7)
    assert (read_mask(file_of(many)) == BOTH).all()
    objects = read_objects(file_of(many))
    assert list(objects) == [7, 300]
    assert (objects[7] == OTHER).all()
    shades = read_objects(file_of(DISC * np.uint8(100) + OTHER * np.uint8(200)))
    assert {k: int(v.sum()) for k, v in shades.items()} == {100: int(DISC.sum()), 200: int(OTHER.sum())}


def test_a_see_through_area_of_a_soft_mask_is_no_id():
    matte = DISC * np.uint8(255) + OTHER * np.uint8(100)
    assert (read_mask(file_of(matte)) == DISC).all()


def test_trimaps_as_grabcut_has_them():
    expected = DISC + VOID * np.uint8(IGNORED)
    assert (read_mask(file_of(DISC * np.uint8(255) + VOID * np.uint8(128), "BMP")) == expected).all()


def test_palettes_of_voc_and_davis():
    ids = DISC * np.uint8(1) + OTHER * np.uint8(2)
    content = file_of(with_palette(ids + VOID * np.uint8(255), voc_palette()))
    expected = BOTH.copy()
    expected[VOID == 1] = IGNORED
    assert (read_mask(content) == expected).all()
    objects = read_objects(content)
    assert list(objects) == [1, 2]
    assert (objects[1] == DISC + VOID * np.uint8(IGNORED)).all()
    assert (objects[2] == OTHER + VOID * np.uint8(IGNORED)).all()
    assert (read_mask(file_of(with_palette(DISC * np.uint8(255), voc_palette()))) == DISC).all()  # no void alone
    seven = file_of(with_palette(DISC * np.uint8(7), voc_palette()))  # entry 7 of the palette is grey
    assert (read_mask(seven) == DISC).all()
    # palettes that hold no ids: greys, and colours in any order
    assert (read_mask(file_of(with_palette(1 - DISC, [(255, 255, 255), (0, 0, 0)]))) == DISC).all()
    assert (read_mask(file_of(with_palette(1 - DISC, [(255, 0, 0), (0, 0, 0)]))) == DISC).all()
    assert (read_mask(file_of(Image.fromarray(DISC * 255).convert("P"))) == DISC).all()
    assert (read_mask(file_of(Image.fromarray(DISC * 255), "GIF")) == DISC).all()


def test_colours():
    colours = np.zeros((*DISC.shape, 3), np.uint8)
    colours[DISC == 1], colours[OTHER == 1], colours[VOID == 1] = (64, 0, 0), (0, 0, 128), (224, 224, 192)
    expected = BOTH.copy()
    expected[VOID == 1] = IGNORED
    assert (read_mask(file_of(colours)) == expected).all()
    assert [int((m == 1).sum()) for m in read_objects(file_of(colours)).values()] == [OTHER.sum(), DISC.sum()]
    small = np.array([[[0, 0, 0], [64, 0, 0], [0, 0, 128]]], np.uint8)
    assert read_mask(file_of(small)).tolist() == [[0, 1, 1]]
    soft = cv2.GaussianBlur(DISC.astype(np.float32), (0, 0), 4)
    red = np.zeros((*DISC.shape, 3), np.uint8)
    red[..., 0] = np.rint(soft * 255)
    assert (read_mask(file_of(red)) == (soft >= 0.5)).all()


def test_transparency_is_the_mask_whatever_the_colours():
    rng = np.random.default_rng(0)
    for colours in (np.zeros((*DISC.shape, 3)), np.full((*DISC.shape, 3), 255), rng.integers(0, 255, (*DISC.shape, 3))):
        assert (read_mask(file_of(np.dstack([colours, DISC * 255]).astype(np.uint8))) == DISC).all()
    assert (read_mask(file_of(np.dstack([DISC * 0, DISC * 255]))) == DISC).all()  # grey and alpha
    opaque = np.dstack([DISC * 255] * 3 + [np.full_like(DISC, 255)])
    assert (read_mask(file_of(opaque)) == DISC).all()  # the same everywhere: no mask
    colours = np.dstack([DISC * 128, OTHER * 128, DISC * 0, BOTH * 255])
    assert [int(m.sum()) for m in read_objects(file_of(colours)).values()] == [OTHER.sum(), DISC.sum()]
    assert list(read_objects(file_of(np.dstack([DISC * 0] * 3 + [DISC * 255])))) == [1]


def test_instances_of_sbd(tmp_path):
    ids = DISC + OTHER * np.uint8(2)
    path = tmp_path / "2008_000002.mat"
    savemat(path, {"GTinst": {"Segmentation": ids, "Categories": np.array([[1], [2]])}})
    assert [int(m.sum()) for m in read_objects(path).values()] == [DISC.sum(), OTHER.sum()]
    assert (read_mask(path) == BOTH).all()
    savemat(path, {"other": ids})
    with pytest.raises(MaskError, match="no instances of SBD"):
        read_mask(path)


def test_masks_are_turned_as_their_tag_says():
    exif = Image.Exif()
    exif[274] = 6
    content = file_of(Image.fromarray(DISC * 255), "PNG", exif=exif)
    assert (read_mask(content) == np.rot90(DISC, -1)).all()


def test_files_that_are_no_masks_are_named(tmp_path):
    path = tmp_path / "mask.png"
    with pytest.raises(MaskError, match=r"mask.png: no such file"):
        read_mask(path)
    path.write_bytes(file_of(DISC * 255)[:120])
    with pytest.raises(MaskError, match=r"mask.png: not a readable image"):
        read_mask(path)
    path.write_bytes(b"text")
    with pytest.raises(MaskError, match=r"mask.png: not a readable image"):
        read_mask(path)
    path.write_bytes(file_of(DISC * 255))
    with pytest.raises(MaskError, match=r"120 x 90 pixels are more than the limit of 1000"):
        read_mask(path, max_pixels=1000)
    with pytest.raises(MaskError, match="not finite"):
        read_mask(file_of(np.where(DISC, np.nan, 0).astype(np.float32), "TIFF"))


def test_iou_of_masks():
    assert iou(DISC, BOTH) == pytest.approx(DISC.sum() / BOTH.sum())
    assert iou(DISC == 1, DISC * 255) == 1
    assert iou(DISC * 0, OTHER * 0) == 1
    assert iou(DISC * 0, OTHER) == 0
    assert iou(DISC, BOTH, OTHER == 0) == 1
