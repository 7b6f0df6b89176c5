"""Small colour profiles, built by hand from the ICC specification (version 2 and its parametric curves)."""

from __future__ import annotations

import struct

SRGB_CURVE = (
    2.4,
    1 / 1.055,
    0.055 / 1.055,
    1 / 12.92,
    0.04045,
)  # gamma, a, b, c, d: (a x + b)^gamma from d on, else c x

# Primaries as XYZ under D50, as the profiles of Apple and Adobe state them; red, green, blue.
DISPLAY_P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
BT2020 = ((0.67348, 0.27904, -0.00193), (0.16567, 0.67535, 0.02998), (0.12505, 0.04561, 0.79686))
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))
D50 = (0.9642, 1.0, 0.8249)

Curve = float | tuple[float, ...]


def rgb_profile(primaries: tuple[tuple[float, ...], ...], curve: Curve) -> bytes:
    """A display with these primaries, `[3][3]`, and one curve for all three."""
    tags = {name: _xyz(xyz) for name, xyz in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True)}
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _curve(curve))
    return _profile(b"RGB ", tags)


def grey_profile(curve: Curve) -> bytes:
    """A grey display."""
    return _profile(b"GRAY", {b"kTRC": _curve(curve)})


def _profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    text = b"made for a test\0"
    desc = b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(78)
    tags = {b"desc": desc, b"cprt": b"text\0\0\0\0" + text, b"wtpt": _xyz(D50)} | tags
    table, data = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    size = start + len(data)
    header = struct.pack(">I4sI4s4s4s", size, b"none", 0x02400000, b"mntr", space, b"XYZ ")
    header += struct.pack(">6H4s4s", 2026, 1, 1, 0, 0, 0, b"acsp", b"APPL") + bytes(20)
    header += struct.pack(">I3i", 0, *(round(65536 * x) for x in D50))
    return header.ljust(128, b"\0") + table + data


def _xyz(values: tuple[float, ...]) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(65536 * x) for x in values))


def _curve(curve: Curve) -> bytes:
    if isinstance(curve, tuple):
        return b"para\0\0\0\0" + struct.pack(">HH5i", 3, 0, *(round(65536 * x) for x in curve))
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(256 * curve)) + bytes(2)
