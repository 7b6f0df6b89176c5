"""Masks: how mask files are read, and how two masks are compared. Without torch; the rules of reading stand here.

Masks come in many forms, and a file does not say which one it is. What is read, in this order:

1. **Lossy files** (JPEG, lossy WebP, AVIF, HEIF, JPEG 2000): compression changes values, so that single values mean
   nothing. The brightest channel of a pixel is cut at half of the file's largest value. There is one object, and
   nothing is ignored.
2. **Transparency** that varies over the picture is the mask, cut at half; colours do not matter then.
3. **Palettes** with colours hold ids (VOC, DAVIS): 0 is background, 255 is ignored where there are other ids, all else
   is object. A palette of greys is read as grey, one whose entry 0 is not black as colours.
4. **Grey**, 8 or 16 bits, 1 bit, or floating point: with one value beside 0, that value is object, whatever it is.
   The values 0, 128 and 255 alone are a trimap (GrabCut): 128 is ignored. Values of the lower half of the range that
   fill areas (a block of 3 x 3 pixels; a few stray pixels do not count) are **ids of a label map**: all but 0 are
   object, and in 8 bits 255 beside ids of at most 63 is ignored. So it is beside 1 alone, too, where at least an
   eighth of what is not 0 is 1. Everything else is a soft mask, cut at half of its largest value.
5. **Colours**: black is background; the pale yellow of VOC's void, (224, 224, 192), is ignored where there are other
   colours; all else is object. Where more than a tenth of what is not black are colours that fill no areas (soft
   borders), the brightest channel is cut as in 1.
6. MATLAB files of SBD (`inst/*.mat`) hold ids.

`read_objects` gives the ids of 3 to 6 one by one (and any grey values that fill areas, not only those below half of the
range), `read_mask` gives them together.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

IGNORED = 255  # of a mask that was read: pixels that are neither clicked nor scored
MAX_PIXELS = 1 << 29  # of a mask file, as of a picture

Mask = NDArray[np.uint8]

_LOSSY = {"JPEG", "MPO", "WEBP", "AVIF", "HEIF", "JPEG2000"}  # as Pillow names formats
_TRIMAP = [0, 128, 255]
_VOC_VOID = 224 << 16 | 224 << 8 | 192
_LARGEST_ID_BESIDE_VOID = 63  # of a grey label map; a larger value beside 255 is a shade of a soft mask
_FILLED = 0.9  # least share of the pixels of a label map whose values fill areas


class MaskError(ValueError):
    """A mask file is missing, unreadable or no mask; the message names it."""


def iou(one: NDArray[Any], other: NDArray[Any], valid: NDArray[np.bool_] | None = None) -> float:
    """Intersection over union of two masks; 1 where both are empty, since they agree.

    Args:
        one: foreground where not 0, any shape.
        other: likewise, of the same shape.
        valid: true where pixels count; everywhere if not given.

    Raises:
        ValueError: the masks differ in shape.
    """
    if one.shape != other.shape:
        raise ValueError(f"expected two masks of one shape, got {one.shape} and {other.shape}")
    a, b = (mask if mask.dtype == bool else mask != 0 for mask in (one, other))
    if valid is not None:
        a, b = a & valid, b & valid
    both = int(np.count_nonzero(a & b))
    union = int(np.count_nonzero(a)) + int(np.count_nonzero(b)) - both
    return both / union if union else 1.0


def read_mask(source: str | Path | bytes, *, max_pixels: int = MAX_PIXELS) -> Mask:
    """A mask file by the rules of this module, upright: uint8 `[H, W]`, 1 object, 0 background, `IGNORED` neither.

    Args:
        source: file, or its content.
        max_pixels: of what is decoded at most.

    Raises:
        MaskError: the file is missing, no picture, cut off, or too large.
    """
    found = _read(source, max_pixels)
    mask: Mask = (found.ids != 0).astype(np.uint8)
    mask[found.ids == found.void] = IGNORED
    return mask


def read_objects(source: str | Path | bytes, *, max_pixels: int = MAX_PIXELS) -> dict[int, Mask]:
    """The objects of a label map, one for each id: uint8 `[H, W]`, 1 object, 0 all else, `IGNORED` neither.

    A file that is no label map holds one object, with the id 1. Ids of colours are 65536 red + 256 green + blue.

    Args:
        source: file, or its content.
        max_pixels: of what is decoded at most.

    Raises:
        MaskError: as in `read_mask`.
    """
    found = _read(source, max_pixels, each=True)
    masks = {}
    for value in _present(found.ids).tolist():
        if value not in (0, found.void):
            mask = (found.ids == value).astype(np.uint8)
            mask[found.ids == found.void] = IGNORED
            masks[value] = mask
    return masks


@dataclass(frozen=True)
class _Ids:
    ids: NDArray[Any]  # integers [H, W], 0 background
    void: int = -1  # the id that is ignored


def _read(source: str | Path | bytes, max_pixels: int, each: bool = False) -> _Ids:
    name = "mask" if isinstance(source, bytes) else str(source)
    if isinstance(source, bytes):
        content = source
    else:
        try:
            content = Path(source).read_bytes()
        except FileNotFoundError:
            raise MaskError(f"{name}: no such file") from None
        except OSError as error:
            raise MaskError(f"{name}: not readable: {error.strerror}") from error
        if name.lower().endswith(".mat"):
            return _read_sbd(name, content)
    picture, lossy = _decode(name, content, max_pixels)
    if picture.mode == "P":
        palette = np.zeros((256, 3), np.uint8)
        entries = np.asarray(picture.getpalette(), np.uint8).reshape(-1, 3)
        palette[: len(entries)] = entries
        indices = np.asarray(picture)
        used = palette[_present(indices)]
        if (used != used[:, :1]).any() and not palette[0].any():
            return _with_void(indices)
        picture = picture.convert("RGB")
    alpha = np.asarray(picture.getchannel("A")) if "A" in picture.getbands() else None
    if alpha is not None and alpha.min() != alpha.max():
        opaque = alpha >= 128
        if not each:
            return _Ids(opaque.astype(np.uint8))
        colours = _Ids(_colour_ids(np.asarray(picture.convert("RGB")))[0] * opaque)
        return colours if colours.ids.any() else _Ids(opaque.astype(np.uint8))  # black on nothing
    if picture.mode in ("1", "L", "I", "F", "LA") or picture.mode.startswith("I;16"):
        values = np.asarray(picture.getchannel("L") if picture.mode == "LA" else picture)
        values = values * np.uint8(255) if picture.mode == "1" else values
    else:
        rgb = np.asarray(picture.convert("RGB"))
        if not lossy and (rgb != rgb[..., :1]).any():
            ids, filled = _colour_ids(rgb)
            if filled:
                return _with_void(ids, _VOC_VOID)
            return _cut(rgb.max(-1))
        values = rgb.max(-1)
    if not np.isfinite(values).all():
        raise MaskError(f"{name}: a mask with values that are not finite")
    return _cut(values) if lossy else _grey(values, each)


def _decode(name: str, content: bytes, max_pixels: int) -> tuple[Image.Image, bool]:
    """The picture, upright, and whether its format is lossy."""
    import warnings

    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # we have a limit of our own
            picture = Image.open(BytesIO(content))
            width, height = picture.size
            if width * height > max_pixels:
                raise MaskError(f"{name}: {width} x {height} pixels are more than the limit of {max_pixels}")
            lossy = picture.format in _LOSSY and content[12:16] != b"VP8L"  # WebP's lossless form
            picture.load()
            return ImageOps.exif_transpose(picture), lossy
    except UnidentifiedImageError:
        raise MaskError(f"{name}: not a readable image") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, MaskError):
            raise
        raise MaskError(f"{name}: not a readable image: {error}") from error


def _grey(values: NDArray[Any], each: bool) -> _Ids:
    present = _present(values)
    if len(present) - (present[0] == 0) <= 1:  # one value beside 0, or none
        return _Ids((values != 0).astype(np.uint8))
    if present.tolist() == _TRIMAP:
        return _Ids((values != 0) + (values == 128).astype(np.uint8), void=2)
    if values.dtype.kind not in "iu" or present[0] < 0:
        return _cut(values)
    top = 255 if values.dtype == np.uint8 else 65535
    ids = present[(present != 0) & (present != top)]
    void = top == 255 and present[-1] == top
    if not each and ids[-1] > (_LARGEST_ID_BESIDE_VOID if void else top // 2):
        return _cut(values)
    counted = (values != 0) & (values != top)
    thin = ids.tolist() == [1] and 8 * np.count_nonzero(counted) >= np.count_nonzero(values)
    if thin or _fill_areas(values, present, counted):
        return _Ids(values, 255 if void else -1)
    return _cut(values)


def _present(values: NDArray[Any]) -> NDArray[Any]:
    """The values that occur, in order."""
    if values.dtype in (np.uint8, np.uint16):  # much faster than to sort
        return np.flatnonzero(np.bincount(values.ravel())).astype(values.dtype)
    return np.unique(values)


def _cut(values: NDArray[Any]) -> _Ids:
    """A soft mask: object from half of the largest value on."""
    peak = float(values.max())
    return _Ids((values >= peak / 2).astype(np.uint8) if peak > 0 else np.zeros(values.shape, np.uint8))


def _with_void(ids: NDArray[Any], void: int = 255) -> _Ids:
    others = ((ids != 0) & (ids != void)).any()
    return _Ids(ids, void if others else -1)


def _colour_ids(rgb: Mask) -> tuple[NDArray[np.int32], bool]:
    """Colours as numbers, and whether they fill areas, as those of label maps do."""
    ids = rgb.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
    return ids, _fill_areas(ids, np.unique(ids), (ids != 0) & (ids != _VOC_VOID))


def _fill_areas(values: NDArray[Any], present: NDArray[Any], counted: NDArray[np.bool_]) -> bool:
    """Whether nearly all counted pixels have a value that fills a block of 3 x 3 pixels somewhere."""
    if min(values.shape) < 3:  # too small to tell: few values are ids
        return len(present) <= 8
    same = np.ones((values.shape[0] - 2, values.shape[1] - 2), bool)
    centre = values[1:-1, 1:-1]
    for dy in range(3):
        for dx in range(3):
            same &= values[dy : dy + same.shape[0], dx : dx + same.shape[1]] == centre
    filling = np.isin(values, _present(centre[same]))
    return bool(np.count_nonzero(filling & counted) >= _FILLED * np.count_nonzero(counted))


def _read_sbd(name: str, content: bytes) -> _Ids:
    """Instances of the Semantic Boundaries Dataset: the ids of `GTinst.Segmentation`."""
    try:
        from scipy.io import loadmat
    except ImportError:
        raise MaskError(f"{name}: MATLAB files need scipy: pip install 'inter2former-deploy[eval]'") from None
    try:
        ids = np.asarray(loadmat(BytesIO(content))["GTinst"]["Segmentation"][0, 0])
    except Exception as error:  # whatever scipy makes of a file that is something else
        raise MaskError(f"{name}: no instances of SBD (GTinst.Segmentation): {error}") from error
    if ids.ndim != 2 or ids.dtype.kind not in "iu":
        raise MaskError(f"{name}: GTinst.Segmentation is no label map but {ids.dtype} of shape {ids.shape}")
    return _with_void(ids)
