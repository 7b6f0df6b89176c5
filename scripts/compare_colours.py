"""Compare the colours of `read_image` with those that Chromium shows: python scripts/compare_colours.py [CHROMIUM].

Builds small files with profiles and with colours described by numbers, shows them in a page, reads its canvas back, and
prints how far apart the two are, in levels of 0 to 255, and how far the unconverted values are from the browser's.
"""

from __future__ import annotations

import base64
import html
import io
import json
import re
import struct
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.append(str(Path(__file__).parent.parent / "tests"))
import icc

from inter2former_deploy.core.pictures import read_image

LIMIT = 1  # level
STEPS = np.linspace(0, 255, 16).round().astype(np.uint8)
COLOURS = np.stack(np.meshgrid(STEPS, STEPS, STEPS, indexing="ij"), -1).reshape(64, 64, 3)
GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)
SRGB_XY = (0.3127, 0.329, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
P3_XY = (0.3127, 0.329, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)

PAGE = """<html><body>IMAGES<pre id=out>nothing</pre><script>window.onload = () => {
  const all = [...document.images].map(image => {
    const canvas = document.createElement('canvas');
    canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
    const context = canvas.getContext('2d', {willReadFrequently: true});
    context.drawImage(image, 0, 0);
    const data = context.getImageData(0, 0, canvas.width, canvas.height).data;
    return [canvas.width, canvas.height, btoa(Array.from(data, v => String.fromCharCode(v)).join(''))];
  });
  document.getElementById('out').textContent = JSON.stringify(all);
};</script></body></html>"""


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def with_chunks(data: bytes, **chunks: bytes) -> bytes:
    added = b""
    for name, content in chunks.items():
        tagged = name.encode() + content
        added += struct.pack(">I", len(content)) + tagged + struct.pack(">I", zlib.crc32(tagged))
    return data[:33] + added + data[33:]


def gamma(value: float) -> bytes:
    return struct.pack(">I", round(1e5 * value))


def chromaticities(values: tuple[float, ...]) -> bytes:
    return struct.pack(">8I", *(round(1e5 * value) for value in values))


def files() -> dict[str, bytes]:
    p3 = icc.rgb_profile(icc.DISPLAY_P3, icc.SRGB_CURVE)
    adobe = icc.rgb_profile(icc.ADOBE_RGB, 563 / 256)
    plain, grey = encoded(COLOURS), encoded(GREY)
    in_adobe = encoded(COLOURS, icc_profile=adobe)
    found = {
        "PNG Display P3": encoded(COLOURS, icc_profile=p3),
        "PNG Adobe RGB": in_adobe,
        "PNG sRGB": encoded(COLOURS, icc_profile=icc.rgb_profile(icc.SRGB, icc.SRGB_CURVE)),
        "PNG linear": encoded(COLOURS, icc_profile=icc.rgb_profile(icc.SRGB, 1.0)),
        "PNG gamma 2.2": encoded(COLOURS, icc_profile=icc.rgb_profile(icc.SRGB, 2.2)),
        "PNG grey 2.2": encoded(GREY, icc_profile=icc.grey_profile(2.2)),
        "PNG grey 1.8": encoded(GREY, icc_profile=icc.grey_profile(1.8)),
        "PNG grey, profile for colours": encoded(GREY, icc_profile=icc.rgb_profile(icc.DISPLAY_P3, 1.8)),
        "PNG colours, profile for grey": encoded(COLOURS, icc_profile=icc.grey_profile(1.8)),
        "PNG broken profile": encoded(COLOURS, icc_profile=b"abc" * 100),
        "JPEG Display P3": encoded(COLOURS, "JPEG", quality=95, icc_profile=p3),
        "WebP Display P3": encoded(COLOURS, "WEBP", lossless=True, icc_profile=p3),
        "AVIF Display P3": encoded(COLOURS, "AVIF", quality=100, subsampling="4:4:4", icc_profile=p3),
        "PNG gAMA 0.45455": with_chunks(plain, gAMA=gamma(0.45455)),
        "PNG gAMA 1": with_chunks(plain, gAMA=gamma(1.0)),
        "PNG gAMA 1, grey": with_chunks(grey, gAMA=gamma(1.0)),
        "PNG gAMA 0.45455, cHRM sRGB": with_chunks(plain, gAMA=gamma(0.45455), cHRM=chromaticities(SRGB_XY)),
        "PNG gAMA 0.45455, cHRM P3": with_chunks(plain, gAMA=gamma(0.45455), cHRM=chromaticities(P3_XY)),
        "PNG gAMA 0.5, white D50": with_chunks(
            plain, gAMA=gamma(0.5), cHRM=chromaticities((0.3457, 0.3585, *SRGB_XY[2:]))
        ),
        "PNG cHRM P3": with_chunks(plain, cHRM=chromaticities(P3_XY)),
        "PNG sRGB, gAMA 1": with_chunks(plain, sRGB=b"\0", gAMA=gamma(1.0)),
        "PNG Adobe RGB, gAMA 1": with_chunks(in_adobe, gAMA=gamma(1.0)),
        "PNG Adobe RGB, cICP P3": with_chunks(in_adobe, cICP=bytes([12, 13, 0, 1])),
    }
    for points in ((1, 1), (1, 4), (1, 8), (1, 15), (2, 2), (6, 6), (9, 13), (12, 1), (12, 2), (12, 8), (12, 13)):
        found[f"PNG cICP {points}"] = with_chunks(plain, cICP=bytes([*points, 0, 1]))
    avif = encoded(COLOURS, "AVIF", quality=100, subsampling="4:4:4")
    at = avif.index(b"colrnclx") + 8
    for points in (
        (1, 1),
        (1, 2),
        (1, 6),
        (1, 8),
        (1, 13),
        (2, 2),
        (2, 13),
        (5, 6),
        (6, 6),
        (9, 13),
        (12, 1),
        (12, 2),
        (12, 13),
    ):
        found[f"AVIF nclx {points}"] = avif[:at] + struct.pack(">HH", *points) + avif[at + 4 :]
    return found


def shown_by(chromium: str, pictures: list[bytes]) -> list[np.ndarray]:
    images = "".join(f'<img src="data:image/any;base64,{base64.b64encode(data).decode()}">' for data in pictures)
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder, "page.html")
        page.write_text(PAGE.replace("IMAGES", images))
        command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", page.as_uri()]
        text = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout
    found = re.search('<pre id="out">(.*?)</pre>', text, re.DOTALL)
    if found is None:
        raise RuntimeError("the browser showed no page")
    return [
        np.frombuffer(base64.b64decode(data), np.uint8).reshape(height, width, 4)[..., :3].astype(int)
        for width, height, data in json.loads(html.unescape(found[1]))
    ]


def main() -> None:
    pictures = files()
    worst = 0
    print(f"{'':32}ours: max, mean   unconverted: max, mean")
    for (name, data), browser in zip(
        pictures.items(), shown_by(sys.argv[1] if len(sys.argv) > 1 else "chromium", [*pictures.values()]), strict=True
    ):
        ours = np.abs(read_image(data, tell=lambda line: None) - browser)
        plain = np.abs(read_image(data, convert_colours=False) - browser)
        worst = max(worst, int(ours.max()))
        print(f"{name:32}{ours.max():9} {ours.mean():6.3f}   {plain.max():16} {plain.mean():6.2f}")
    print(f"{len(pictures)} files, at most {worst} apart (limit {LIMIT})")
    sys.exit(worst > LIMIT)


if __name__ == "__main__":
    main()
