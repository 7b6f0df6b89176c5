"""Colours that a file describes by numbers instead of a profile: gAMA, cHRM and cICP of PNG, nclx of AVIF and HEIC."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

Curve = float | Literal["srgb"]  # light is the value to this power, or by sRGB's curve

_D65 = (0.3127, 0.3290)
_SRGB_PRIMARIES = (*_D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
_PRIMARIES = {  # by the code points of ITU-T H.273: x and y of white, red, green and blue
    1: _SRGB_PRIMARIES,
    5: (*_D65, 0.640, 0.330, 0.290, 0.600, 0.150, 0.060),  # BT.601, 625 lines
    6: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),  # 525 lines
    9: (*_D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),  # BT.2020
    12: (*_D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),  # Display P3
}
_CURVES: dict[int, Curve] = {13: "srgb", 8: 1.0, 4: 2.2, 5: 2.8}  # likewise
_VIDEO = (1, 6, 14, 15)  # curves of cameras; screens show them by BT.1886, which is a power of 2.4
_UNSPECIFIED = 2
_ROWS = 256  # at a time, so that floating-point values take little memory


@dataclass(frozen=True)
class Colours:
    """What red, green and blue of a file mean.

    Raises:
        ValueError: The primaries do not make a colour space.
    """

    primaries: tuple[float, ...] = _SRGB_PRIMARIES  # x and y of white, red, green and blue
    curve: Curve = "srgb"

    def __post_init__(self) -> None:
        _to_xyz(self.primaries)  # or they make no colour space

    @property
    def are_srgb(self) -> bool:
        """Whether there is nothing to convert."""
        return self == Colours()


def colours_of_png(data: bytes) -> Colours | None:
    """The colours that chunks describe, as browsers take them: cICP before sRGB before gAMA, which cHRM completes.

    A profile in the file counts more than all of them but cICP.

    Args:
        data: The beginning of the file, up to its pixels.

    Returns:
        None if nothing describes them, or only an ICC profile does.

    Raises:
        ValueError: They are described as something that is not converted here.
    """
    chunks: dict[bytes, bytes] = {}
    at = 8
    while at + 8 <= len(data) and data[at + 4 : at + 8] != b"IDAT":
        length = int.from_bytes(data[at : at + 4], "big")
        chunks.setdefault(data[at + 4 : at + 8], data[at + 8 : at + 8 + length])
        at += 12 + length
    if len(chunks.get(b"cICP", b"")) == 4:
        return _of_code_points(*chunks[b"cICP"][:2], video=2.4)
    if b"iCCP" in chunks or len(chunks.get(b"gAMA", b"")) != 4:
        return None
    gamma = int.from_bytes(chunks[b"gAMA"], "big")
    if b"sRGB" in chunks or not gamma:
        return None
    if len(chunks.get(b"cHRM", b"")) == 32:
        return Colours(tuple(value / 1e5 for value in struct.unpack(">8I", chunks[b"cHRM"])), 1e5 / gamma)
    if abs(2.2 * gamma / 1e5 - 1) < 0.05:  # alone, what is about sRGB's is meant to be sRGB
        return None
    return Colours(curve=1e5 / gamma)


def colours_of_heif(data: bytes) -> Colours | None:
    """The colours that an nclx box describes, as browsers take them: the curves of video, and none, count as sRGB's.

    Args:
        data: The beginning of an AVIF or HEIC file.

    Raises:
        ValueError: They are described as something that is not converted here.
    """
    at = data.find(b"colrnclx")
    if at < 0 or at + 12 > len(data):
        return None
    return _of_code_points(*struct.unpack_from(">HH", data, at + 8), video="srgb")


def _of_code_points(primaries: int, transfer: int, *, video: Curve) -> Colours | None:
    if primaries == _UNSPECIFIED or (transfer == _UNSPECIFIED and video != "srgb"):
        return None
    curve = video if transfer in (*_VIDEO, _UNSPECIFIED) else _CURVES.get(transfer)
    if primaries not in _PRIMARIES or curve is None:
        raise ValueError(f"primaries {primaries} with transfer {transfer} of ITU-T H.273")
    return Colours(_PRIMARIES[primaries], curve)


def to_srgb(pixels: Pixels, colours: Colours) -> Pixels:
    """Colours as sRGB; those that it does not have become the nearest in each channel.

    Args:
        pixels: RGB, `[H, W, 3]`.
        colours: What they mean.
    """
    values = np.arange(256) / 255
    if colours.curve == "srgb":
        light = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    else:
        light = values**colours.curve
    matrix = np.linalg.inv(_to_xyz(_SRGB_PRIMARIES)) @ _to_xyz(colours.primaries)
    steps = np.arange(65536) / 65535
    srgb = np.where(steps <= 0.0031308, 12.92 * steps, 1.055 * steps ** (1 / 2.4) - 0.055)
    table = (255 * srgb + 0.5).astype(np.uint8)
    light, matrix = light.astype(np.float32), matrix.astype(np.float32)
    result = np.empty_like(pixels)
    for start in range(0, len(pixels), _ROWS):
        mixed = light[pixels[start : start + _ROWS]] @ matrix.T
        result[start : start + _ROWS] = table[np.rint(np.clip(mixed, 0, 1) * 65535).astype(np.uint16)]
    return result


def _to_xyz(primaries: tuple[float, ...]) -> NDArray[np.float64]:
    """From linear red, green, blue to XYZ under D65, `[3, 3]`."""
    x, y = np.array(primaries, np.float64).reshape(4, 2).T
    if not (np.isfinite(x).all() and (y > 0).all()):
        raise ValueError(f"primaries {primaries}")
    white, *columns = np.stack([x / y, np.ones(4), (1 - x - y) / y], -1)
    matrix = np.stack(columns, -1)
    if abs(np.linalg.det(matrix)) < 1e-6:
        raise ValueError(f"primaries {primaries}")
    return np.asarray(_adapted(white) @ (matrix * np.linalg.solve(matrix, white)))


def _adapted(white: NDArray[np.float64]) -> NDArray[np.float64]:
    """From XYZ under a white to XYZ under D65, by Bradford's cones, `[3, 3]`."""
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    d65 = np.array([_D65[0] / _D65[1], 1, (1 - sum(_D65)) / _D65[1]])
    return np.asarray(np.linalg.inv(bradford) @ np.diag(bradford @ d65 / (bradford @ white)) @ bradford)
