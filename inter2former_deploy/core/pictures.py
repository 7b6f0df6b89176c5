"""Read pictures, and find them in folders: the one place where a file becomes pixels, for commands and for users.

Pillow reads all files of 8 bits; for them it gives the same values as OpenCV, with which the release was evaluated.
OpenCV reads what Pillow would cut to 8 bits: PNG, TIFF and PNM of 16 bits, and TIFF of float.
docs/pictures.md says what is done with every kind of file.
"""

from __future__ import annotations

import io
import os
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, TiffImagePlugin, features

from inter2former_deploy.core.colours import Colours, colours_of_heif, colours_of_png, to_srgb
from inter2former_deploy.core.errors import PictureError, PictureWarning

__all__ = ["MAX_PIXELS", "SUFFIXES", "PictureError", "PictureWarning", "picture_files", "picture_size", "read_image"]

Tell = Callable[[str], None]

MAX_PIXELS = 1 << 29  # 536,870,912, such as 23170 x 23170: 1.6 GB as RGB, 3.8 GB while it is decoded

SUFFIXES = (  # of the files that are taken from a folder
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".tif", ".tiff", ".bmp", ".dib", ".gif"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".avif", ".heic", ".heif", ".hif"),
)
HEIF_SUFFIXES = (".heic", ".heif", ".hif")
RAW_SUFFIXES = (".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw")

_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF", "HEIF")  # Pillow's names
_NAMED = "JPEG, PNG, WebP, TIFF, BMP, GIF, PNM, JPEG 2000, AVIF or HEIC"
NO_PICTURE = "not a picture by its suffix"  # the reason that is no fault; the others are of pictures
_NO_HEIF = "HEIC is read where pillow-heif is installed: pip install pillow-heif"
_NO_AVIF = "AVIF is read where Pillow has it: pip install --upgrade pillow"
_RAW = "raw files of cameras are not read: develop it to JPEG, PNG or TIFF"

_UNSIGNED, _SIGNED, _UNDEFINED = 1, 2, 4  # SampleFormat of TIFF
_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _ORIENTATION, _SAMPLE_FORMAT = 256, 257, 258, 262, 274, 339
_OFFSETS_AND_COUNTS = ((273, 279), (324, 325))  # of strips, of tiles
_TIFF = (b"II*\0", b"MM\0*", b"II+\0")
_TURNED = (5, 6, 7, 8)  # orientations in which rows lie as columns
_NEW_SUBFILE_TYPE, _DNG_VERSION, _ICC = 254, 50706, 34675
_HEAD = 1 << 22  # bytes of a file before its pixels, at most; profiles lie there
_LIMIT = Lock()  # on changing Pillow's limit


@dataclass(frozen=True)
class _Deep:
    """Values of more than 8 bits, as they lie in a file."""

    values: NDArray[Any]  # [H, W] or [H, W, 3], red first
    largest: int | None = None  # what stands for white, where the file says it
    inverted: bool = False  # 0 is white


def read_image(
    source: str | os.PathLike[str] | bytes,
    *,
    convert_colours: bool = True,
    max_pixels: int = MAX_PIXELS,
    tell: Tell | None = None,
) -> NDArray[np.uint8]:
    """A picture as `Segmenter.open` takes it: uint8 RGB `[H, W, 3]`, upright.

    It is turned and mirrored as its orientation tag says, like Pillow's `ImageOps.exif_transpose`. Grey becomes RGB,
    alpha is dropped. Of an animation the first frame is taken. Values of 16 bits are scaled to 0 to 255 as numbers of
    8, 10, 12, 14 or 16 bits: as many as the picture's largest value needs. TIFF of float must lie in 0 to 1.

    Args:
        source: A path, or the content of a file.
        convert_colours: Convert colours to sRGB by the profile in the file, as browsers do. False: take the numbers as
            they are, as OpenCV and the evaluation of the release do.
        max_pixels: Refuse what has more pixels, before it is decoded.
        tell: Told in one line if a picture could be meant in several ways; a `PictureWarning` when None.

    Raises:
        FileNotFoundError: There is no such file.
        PictureError: It is no picture that can be read, is cut off or damaged, or has too many pixels.
        OSError: The file cannot be opened.
    """
    with _opened(source) as (file, name):
        return _read(file, name, convert_colours, max_pixels, tell or _warn)


def picture_size(source: str | os.PathLike[str] | bytes, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Height and width that `read_image` will give a picture. Only a PNG with text behind its pixels is decoded.

    Args:
        source: A path, or the content of a file.
        max_pixels: Refuse what has more pixels.

    Raises:
        FileNotFoundError, PictureError, OSError: As in `read_image`, as far as the beginning of the file tells.
    """
    with _opened(source) as (file, name):
        prefix = _prefix(file, name)
        with _refusing(name, max_pixels):
            if prefix[:4] in _TIFF:
                directory = _tiff_directory(file)
                _check_tiff(directory, file, name, max_pixels)
                height, width = int(directory[_HEIGHT]), int(directory[_WIDTH])
                orientation = int(directory.get(_ORIENTATION, 1))
            else:
                image = _identified(file, prefix, name, max_pixels)
                height, width = image.height, image.width
                with _pillow_allows(height * width):  # a PNG may be decoded for its tags
                    orientation = _orientation(image, name, lambda _: None) if _may_be_turned(file, image) else 1
    return (width, height) if orientation in _TURNED else (height, width)


@contextmanager
def _opened(source: str | os.PathLike[str] | bytes) -> Iterator[tuple[IO[bytes], str]]:
    """A picture's file, and what messages call it."""
    if isinstance(source, bytes | bytearray | memoryview):
        yield io.BytesIO(source), "the picture"
        return
    path = Path(source)
    if path.is_dir():
        raise PictureError(f"{path} is a folder, not a picture")
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no image {path}") from None
    with file:
        yield file, str(path)


def picture_files(folder: str | os.PathLike[str]) -> tuple[list[Path], list[tuple[Path, str]]]:
    """The pictures in a folder and in the folders in it, by their suffixes, in the order of their names.

    Hidden files and folders (whose names begin with a dot) and `__MACOSX` are ignored. Links are followed, each folder
    is searched once.

    Returns:
        The pictures, and all other files with the reason why each is not read.
    """
    pictures: list[Path] = []
    skipped: list[tuple[Path, str]] = []
    seen = set()
    for at, folders, files in os.walk(folder, followlinks=True):
        status = Path(at).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__MACOSX"]
        for name in files:
            if name.startswith("."):
                continue
            reason = _why_not(Path(at, name))
            if reason is None:
                pictures.append(Path(at, name))
            else:
                skipped.append((Path(at, name), reason))
    return sorted(pictures), sorted(skipped)


def _why_not(path: Path) -> str | None:
    """Why a file of a folder is not read; None if it is."""
    suffix = path.suffix.lower()
    if suffix in HEIF_SUFFIXES and not _heif_is_there():
        return _NO_HEIF
    if suffix == ".avif" and not features.check("avif"):
        return _NO_AVIF
    if suffix in RAW_SUFFIXES:
        return _RAW
    if suffix not in SUFFIXES:
        return NO_PICTURE
    return None if path.is_file() else "not a file, or a link to nothing"


def _heif_is_there() -> bool:
    """Whether Pillow reads HEIC; registers pillow-heif where it is installed."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def _warn(line: str) -> None:
    warnings.warn(line, PictureWarning, stacklevel=4)


def _read(file: IO[bytes], name: str, convert_colours: bool, max_pixels: int, tell: Tell) -> NDArray[np.uint8]:
    """`read_image` of an open file."""
    prefix = _prefix(file, name)
    with _refusing(name, max_pixels):
        if prefix[:4] in _TIFF:
            directory = _tiff_directory(file)
            _check_tiff(directory, file, name, max_pixels)
            if _tiff_is_deep(directory):
                if directory.next:
                    tell(f"{name} has several pages: the first is taken")
                pixels = _to_8_bits(_read_deep_tiff(file.read(), directory, name), name, tell)
                profile = directory.get(_ICC) if convert_colours else None
                return _finish(Image.fromarray(pixels), profile, int(directory.get(_ORIENTATION, 1)), name, tell)
        image = _identified(file, prefix, name, max_pixels)
        _tell_of_frames(image, name, tell)
        deep = None
        if image.format == "PPM" and prefix[:2] in (b"P5", b"P6") and (largest := _pnm_largest(image)) != 255:
            file.seek(0)
            deep = _read_deep(file.read(), name, largest=None if largest == 65535 else largest)
        else:
            with _pillow_allows(image.width * image.height):
                image.load()
            if image.format == "PNG" and prefix[24] == 16:
                file.seek(0)
                deep = _read_deep(file.read(), name)
            elif image.mode.startswith("I") or image.mode == "F":
                deep = _Deep(np.asarray(image))
        orientation = _orientation(image, name, tell)
        profile = image.info.get("icc_profile") if convert_colours else None
        described = _described(file, image, bool(profile), name, tell) if convert_colours else None
        if deep is not None:
            image = Image.fromarray(_to_8_bits(deep, name, tell))
        return _finish(image, None if described else profile, orientation, name, tell, described)


def _prefix(file: IO[bytes], name: str) -> bytes:
    """The first 32 bytes of a file; those that it lacks are 0."""
    prefix = file.read(32)
    file.seek(0)
    if not prefix:
        raise PictureError(f"{name} is empty")
    if prefix[:4] == b"MM\0+":
        raise PictureError(f"{name} is a BigTIFF file of big-endian byte order, which is not read: write it again")
    return prefix.ljust(32, b"\0")


@contextmanager
def _refusing(name: str, max_pixels: int) -> Iterator[None]:
    """Within, whatever a broken file leads to becomes a `PictureError`."""
    try:
        yield
    except (PictureError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise PictureError(
            f"{name} has more than {max_pixels:,} pixels: make it smaller, or raise max_pixels"
        ) from error
    except Exception as error:  # of Pillow's readers, which raise whatever a broken file leads to
        why = " ".join(str(error).split())[:200]
        raise PictureError(f"{name} is cut off or damaged ({why}): get the file again") from error


def _identified(file: IO[bytes], prefix: bytes, name: str, max_pixels: int) -> Image.Image:
    """The picture, not yet decoded, of a size that is allowed."""
    try:
        image = _identify(file, prefix)
    except Image.DecompressionBombError:  # of WebP, which asks for Pillow's limit before its size is known here
        with _pillow_allows(max_pixels):
            image = _identify(file, prefix)
    if image is None:
        raise PictureError(_unknown(prefix, name))
    _check_size(*image.size, name, max_pixels)
    return image


def _may_be_turned(file: IO[bytes], image: Image.Image) -> bool:
    """False where a PNG has no chunk that could hold its orientation: Pillow decodes it to find out."""
    if image.format != "PNG":
        return True
    at = file.tell()
    file.seek(0)
    content = file.read()
    file.seek(at)  # where Pillow reads on
    return any(chunk in content for chunk in (b"eXIf", b"iTXt", b"tEXt", b"zTXt"))


@contextmanager
def _pillow_allows(pixels: int) -> Iterator[None]:
    """Within, Pillow takes so many pixels without a word; its limit, one for the process, changes only if it must."""
    if Image.MAX_IMAGE_PIXELS is None or pixels <= Image.MAX_IMAGE_PIXELS:
        yield
        return
    with _LIMIT:
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _identify(file: IO[bytes], prefix: bytes) -> Image.Image | None:
    """The picture with its size and tags, not yet decoded; None if it is of no format that is read.

    `Image.open` without its limit on pixels, which is one for the whole process; ours is checked next.
    """
    Image.init()
    if prefix[4:8] == b"ftyp":
        _heif_is_there()
    for name in _FORMATS:
        factory, accept = Image.OPEN.get(name, (None, None))
        if factory is not None and accept is not None and accept(prefix) is True:
            file.seek(0)
            return factory(file, "")
    return None


def _unknown(prefix: bytes, name: str) -> str:
    brand = prefix[8:12] if prefix[4:8] == b"ftyp" else b""
    if brand in (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"):
        return f"{name} is a HEIC picture; {_NO_HEIF}"
    if brand in (b"avif", b"avis"):
        return f"{name} is an AVIF picture; {_NO_AVIF}"
    return f"{name} is no picture that can be read: it must be {_NAMED}"


def _check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise PictureError(
            f"{name} has {width} x {height} pixels, more than {max_pixels:,}: make it smaller, or raise max_pixels"
        )
    if width * height == 0:
        raise PictureError(f"{name} is empty: {width} x {height} pixels")


def _tell_of_frames(image: Image.Image, name: str, tell: Tell) -> None:
    frames = int(getattr(image, "n_frames", 1))
    if frames > 1 and image.format not in (
        "MPO",
        "HEIF",
    ):  # whose others are previews, depth or brightness of the first
        pages = "pages" if image.format == "TIFF" else "frames"
        tell(f"{name} has {frames} {pages}: the first is taken")


def _orientation(image: Image.Image, name: str, tell: Tell) -> int:
    """1 to 8 as in Exif; of a loaded picture."""
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception as error:  # whatever broken tags lead to
        tell(f"{name}: its Exif tags are not readable ({error}); it is taken to be upright")
        return 1
    return found if isinstance(found, int) else 1


def _described(file: IO[bytes], image: Image.Image, has_profile: bool, name: str, tell: Tell) -> Colours | None:
    """The colours that a file describes otherwise than by a profile, if they count."""
    file.seek(0)
    try:
        if image.format == "PNG":
            return colours_of_png(file.read(_HEAD))
        if image.format in ("AVIF", "HEIF") and not has_profile:
            return colours_of_heif(file.read(_HEAD))
    except ValueError as error:
        tell(f"{name}: its colours are not converted ({error}); they are taken as sRGB")
    return None


def _finish(
    image: Image.Image, profile: bytes | None, orientation: int, name: str, tell: Tell, described: Colours | None = None
) -> NDArray[np.uint8]:
    """RGB, sRGB and upright."""
    if image.mode in ("1", "LA", "La"):
        image = image.convert("L")
    elif image.mode not in ("L", "RGB", "CMYK", "LAB"):
        image = image.convert("RGBA").convert("RGB") if image.mode == "RGBa" else image.convert("RGB")
    if profile:
        image = _to_srgb(image, profile, name, tell)
    if image.mode == "LAB":
        lab = ImageCms.createProfile("LAB")
        image = ImageCms.profileToProfile(image, lab, ImageCms.createProfile("sRGB"), outputMode="RGB")  # type: ignore[assignment]
    pixels = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    if described is not None and not described.are_srgb:
        pixels = to_srgb(pixels, described)
    return np.ascontiguousarray(_upright(pixels, orientation))


def _upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turned and mirrored as Exif's orientation tells, 1 to 8; other values mean nothing."""
    if orientation in _TURNED:
        pixels = pixels.swapaxes(0, 1)  # rows lie as columns
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _to_srgb(image: Image.Image, profile: bytes, name: str, tell: Tell) -> Image.Image:
    """Colours converted by the file's profile, as RGB; unchanged where the profile is sRGB, or not to be used.

    Args:
        image: of mode L, RGB, CMYK or LAB.
        profile: ICC.
        name: of the file.
        tell: told about a profile that is not used.
    """
    if not features.check("littlecms2"):
        tell(f"{name}: its colour profile is not used, as this Pillow is built without littlecms")
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        if image.mode == "L" and space == "RGB":
            image = image.convert("RGB")
        if {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK", "Lab": "LAB"}.get(space) != image.mode:
            tell(f"{name}: its colour profile is not used: it is for {space}, the picture is {image.mode}")
            return image
        # browsers take the perceptual table of a profile that has several, and ignore the picture's own wish
        transform = ImageCms.buildTransform(
            source, ImageCms.createProfile("sRGB"), image.mode, "RGB", ImageCms.Intent.PERCEPTUAL
        )
        if image.mode == "RGB" and _changes_nothing(transform):
            return image
        converted = ImageCms.applyTransform(image, transform)
    except (ImageCms.PyCMSError, OSError) as error:
        tell(f"{name}: its colour profile is not readable ({error}); the colours are taken as sRGB")
        return image
    return image if converted is None else converted


def _changes_nothing(transform: ImageCms.ImageCmsTransform) -> bool:
    """Whether a profile is sRGB but for rounding: no colour of a coarse grid moves by more than one level."""
    steps = np.linspace(0, 255, 18).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(1, -1, 3)
    moved = np.asarray(ImageCms.applyTransform(Image.fromarray(grid), transform))
    return int(np.abs(moved.astype(np.int16) - grid).max()) <= 1


def _to_8_bits(deep: _Deep, name: str, tell: Tell) -> NDArray[np.uint8]:
    """Values of more than 8 bits as 0 to 255, rounded to the nearest.

    Raises:
        PictureError: they have no meaning as brightness.
    """
    values = deep.values
    low, high = values.min(), values.max()  # NaN makes both NaN
    if values.dtype.kind == "f":
        if not (low >= 0 and high <= 1):
            raise PictureError(
                f"{name} holds floating-point values from {low:g} to {high:g}, only 0 to 1 has a meaning as "
                "brightness: scale it to 8 bits first"
            )
        result = np.floor(values * np.float32(255) + np.float32(0.5)).astype(np.uint8)
    else:
        if low < 0 or high > 65535:
            raise PictureError(
                f"{name} holds values from {low} to {high}, only 0 to 65535 has a meaning as brightness: "
                "scale it to 8 bits first"
            )
        white = deep.largest
        if white is None:
            bits = next(bits for bits in (8, 10, 12, 14, 16) if high < 1 << bits)
            white = (1 << bits) - 1
            if bits < 16:
                tell(f"{name} holds values up to {high} in files of 16 bits: read as {bits} bits")
        table = np.minimum(np.floor(np.arange(65536) * (255 / white) + 0.5), 255).astype(np.uint8)
        result = table[values]
    return np.asarray(255 - result if deep.inverted else result, np.uint8)


def _read_deep(data: bytes, name: str, *, largest: int | None = None, inverted: bool = False) -> _Deep:
    """The values of a file as they are, by OpenCV; of TIFF it must be upright."""
    import cv2

    flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    values: Any = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if values is None:
        raise PictureError(f"{name} is cut off or damaged, or of a kind that OpenCV does not read")
    if values.ndim == 3:  # BGR, BGRA, or one or two channels
        values = values[..., 2::-1] if values.shape[2] > 2 else values[..., 0]
    return _Deep(values, largest, inverted)


def _pnm_largest(image: Image.Image) -> int:
    """What stands for white in a PNM file; 255 also where no values are in it that Pillow would scale slowly."""
    (_, _, _, arguments), *_ = image.tile  # type: ignore[attr-defined]
    if isinstance(arguments, tuple):
        return int(arguments[-1])
    return 65535 if arguments == "I;16B" else 255


def _tiff_directory(file: IO[bytes]) -> TiffImagePlugin.ImageFileDirectory_v2:
    """The tags of a TIFF file's first picture, whatever its pixels are."""
    header = file.read(8)
    if header[2] == 43:  # BigTIFF
        header += file.read(8)
    directory = TiffImagePlugin.ImageFileDirectory_v2(header)
    file.seek(directory.next)
    directory.load(file)
    return directory


def _check_tiff(directory: TiffImagePlugin.ImageFileDirectory_v2, file: IO[bytes], name: str, max_pixels: int) -> None:
    """Refuse what is no photograph, too large or cut off."""
    if int(directory.get(_NEW_SUBFILE_TYPE, 0)) & 1 or _DNG_VERSION in directory:
        raise PictureError(f"{name} holds a preview in the place of the picture; {_RAW}")
    _check_size(int(directory[_WIDTH]), int(directory[_HEIGHT]), name, max_pixels)
    end = file.seek(0, os.SEEK_END)
    for offsets, counts in _OFFSETS_AND_COUNTS:
        parts = zip(_numbers(directory, offsets), _numbers(directory, counts), strict=False)
        if any(offset + count > end for offset, count in parts):
            raise PictureError(f"{name} is cut off: its pixels end after the file's {end:,} bytes; get the file again")
    file.seek(0)


def _numbers(directory: TiffImagePlugin.ImageFileDirectory_v2, tag: int) -> tuple[int, ...]:
    found = directory.get(tag, ())
    return tuple(found) if isinstance(found, tuple) else (found,)


def _tiff_is_deep(directory: TiffImagePlugin.ImageFileDirectory_v2) -> bool:
    bits, formats = _numbers(directory, _BITS), _numbers(directory, _SAMPLE_FORMAT)
    return max(bits, default=1) > 8 or any(one not in (_UNSIGNED, _UNDEFINED) for one in formats)


def _read_deep_tiff(data: bytes, directory: TiffImagePlugin.ImageFileDirectory_v2, name: str) -> _Deep:
    deep = _read_deep(_without_orientation(data), name, inverted=directory.get(_PHOTOMETRIC) == 0)
    if _SIGNED in _numbers(directory, _SAMPLE_FORMAT) and deep.values.dtype.kind == "u":  # OpenCV takes the sign away
        deep = replace(deep, values=deep.values.view(deep.values.dtype.str.replace("u", "i")))
    return deep


def _without_orientation(data: bytes) -> bytes:
    """A TIFF file that says it is upright: OpenCV refuses those that are to be turned by 90 degrees."""
    order = "<" if data[:2] == b"II" else ">"
    if data[2] == 43:  # BigTIFF
        (start,) = struct.unpack_from(order + "Q", data, 8)
        (entries,) = struct.unpack_from(order + "Q", data, start)
        first, each, value = start + 8, 20, 12
    else:
        (start,) = struct.unpack_from(order + "I", data, 4)
        (entries,) = struct.unpack_from(order + "H", data, start)
        first, each, value = start + 2, 12, 8
    for at in range(first, min(first + each * entries, len(data) - each + 1), each):
        if struct.unpack_from(order + "H", data, at) == (_ORIENTATION,):
            changed = bytearray(data)
            struct.pack_into(order + "H", changed, at + value, 1)
            return bytes(changed)
    return data
