"""`i2f segment`: an image and clicks in, a mask out."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from inter2former_deploy.core.files import check_apart, check_new_file, nearest_folder, replacing
from inter2former_deploy.core.prompts import Click

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from inter2former_deploy.runtime import EncodedImage, Segmenter

LOSSLESS = (".png", ".bmp", ".tif", ".tiff", ".pgm")  # a mask must come back as it was written
PICTURES = (".png", ".bmp", ".tif", ".tiff", ".ppm", ".jpg", ".jpeg", ".webp")
LONGEST_SIDE = {".jpg": 65500, ".jpeg": 65500, ".webp": 16383, ".png": 1_000_000}  # pixels; of the encoders

# Options that i2f encode has, too.
Threads = Annotated[
    int | None,
    typer.Option(min=1, help="Threads to use; as many as usable CPUs if not given.", show_default=False),
]
CustomOps = Annotated[
    bool, typer.Option(help="Use the fast operator library, or plain onnxruntime: same masks, slower.")
]
ConvertColours = Annotated[
    bool,
    typer.Option(
        help="Convert colours to sRGB by the picture's profile, as browsers do, or take them as they are, as the "
        "evaluation of the release does."
    ),
]
MaxPixels = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="N", help="Refuse pictures of more pixels; 536,870,912 if not given.", show_default=False
    ),
]


class OrderedClicks(TyperCommand):
    """Remembers in which order --fg and --bg were given; their values alone do not say it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse once for the order, then as usual."""
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        ctx.meta[__name__] = [parameter.name for parameter in order if parameter.name in ("fg", "bg")]
        return super().parse_args(ctx, args)


def segment(
    ctx: typer.Context,
    bundle: Annotated[Path, typer.Argument(metavar="DIR", help="Bundle that i2f export wrote.", show_default=False)],
    image: Annotated[
        Path,
        typer.Argument(
            metavar="IMAGE",
            help="A picture: JPEG, PNG, WebP, TIFF, BMP, GIF, PNM, JPEG 2000, AVIF; HEIC with pillow-heif. It is "
            "turned as its orientation tag says; grey becomes RGB, alpha is dropped, 16 bits become 8. Or a file that "
            "i2f encode wrote.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Mask to write: 255 inside, 0 outside; .png, .bmp, .tif or .pgm.")
    ],
    fg: Annotated[
        list[str] | None,
        typer.Option("--fg", metavar="X,Y", help="Click on the object: pixels to the right and down. May be repeated."),
    ] = None,
    bg: Annotated[
        list[str] | None,
        typer.Option("--bg", metavar="X,Y", help="Click on what is not the object. May be repeated."),
    ] = None,
    overlay: Annotated[
        Path | None, typer.Option(help="Picture to write: the image with mask, boundary and numbered clicks.")
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="CACHE",
            help="Folder of i2f encode: the image's encoding is read from there, or made and kept there.",
            show_default=False,
        ),
    ] = None,
    convert_colours: ConvertColours = True,
    max_pixels: MaxPixels = None,
    threads: Threads = None,
    custom_ops: CustomOps = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print times and areas as JSON.")] = False,
) -> None:
    """Segment an image with clicks. They take effect in the order of the command line.

    \b
    Example:
      i2f segment bundle photo.jpg --fg 320,240 --bg 40,60 -o mask.png --overlay overlay.png
    """  # noqa: D301 - the backspace keeps the example on its lines
    clicks = _ordered(ctx.meta[__name__], [_point(text) for text in fg or []], [_point(text) for text in bg or []])
    if not clicks:
        raise ValueError("give at least one click on the object, such as --fg 320,240")
    _check_target(output, LOSSLESS, "--output")
    if overlay is not None:
        _check_target(overlay, PICTURES, "--overlay")
    outputs = {"--output": output} | ({} if overlay is None else {"--overlay": overlay})
    check_apart({"IMAGE": image} | outputs)
    if cache is not None and not nearest_folder(cache).is_dir():
        raise ValueError(f"--cache {cache}: {nearest_folder(cache)} is a file, not a folder")

    import numpy as np

    from inter2former_deploy.core.overlay import draw_overlay
    from inter2former_deploy.core.pictures import MAX_PIXELS, read_image
    from inter2former_deploy.runtime import EncodedImage, Segmenter
    from inter2former_deploy.runtime.bundle import read_bundle
    from inter2former_deploy.runtime.encoded import SUFFIX

    read_bundle(bundle)
    encoded = EncodedImage.load(image) if image.suffix == SUFFIX else None
    if encoded is None:
        pixels = read_image(image, convert_colours=convert_colours, max_pixels=max_pixels or MAX_PIXELS, tell=note)
        height, width = pixels.shape[:2]
    elif overlay is None:
        height, width = encoded.frame.height, encoded.frame.width
    else:
        raise ValueError(f"--overlay needs the picture; {image} holds only what the encoder made of it")
    for option, path in outputs.items():
        longest = LONGEST_SIDE.get(path.suffix.lower())
        if longest is not None and max(width, height) > longest:
            raise ValueError(
                f"{option} {path}: {image} is {width} x {height} pixels, {path.suffix} holds at most {longest} a side: "
                "name a .tif"
            )
    for click in clicks:  # before the work begins; NaN is outside, too
        if not (0 <= click.x < width and 0 <= click.y < height):
            raise ValueError(f"click {click.x:g},{click.y:g} lies outside {image}, which is {width} x {height} pixels")

    start = time.perf_counter()
    segmenter = Segmenter(bundle, num_threads=threads, custom_ops=custom_ops)
    loaded = time.perf_counter()
    found = encoded is not None
    if encoded is None and cache is not None:
        encoded, found = _find_or_encode(cache, segmenter, pixels)
    session = segmenter.open(pixels if encoded is None else encoded)
    opened = time.perf_counter()
    report: dict[str, Any] = {
        "image": {"file": str(image), "width": width, "height": height},
        "size": segmenter.size,
        "load_ms": 1e3 * (loaded - start),
        "encode_ms": 1e3 * (opened - loaded),
        "encoding_found": found,
        "clicks": [],
    }
    if not as_json:
        typer.echo(f"{image}: {width} x {height}, model at {segmenter.size} x {segmenter.size}")
        typer.echo(f"load bundle {report['load_ms']:8.1f} ms")
        typer.echo(f"{'encoding' if found else 'encode':<11} {report['encode_ms']:8.1f} ms{'   made before' * found}")
    mask = np.zeros((height, width), bool)
    for number, click in enumerate(clicks, 1):
        start = time.perf_counter()
        mask = session.click(*click)
        click_ms = 1e3 * (time.perf_counter() - start)
        report["clicks"].append({**click._asdict(), "ms": click_ms, "area": int(mask.sum())})
        if not as_json:
            sign = "--fg" if click.positive else "--bg"
            typer.echo(
                f"click {number:<5} {click_ms:8.1f} ms   {sign} {click.x:g},{click.y:g}: {mask.mean():.1%} of the image"
            )

    _write(output, mask.astype(np.uint8) * np.uint8(255))
    report["mask"] = str(output)
    if overlay is not None:
        _write(overlay, draw_overlay(pixels, mask, clicks)[..., ::-1])
        report["overlay"] = str(overlay)
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    else:
        typer.echo(f"wrote {output}" + (f" and {overlay}" if overlay else ""))


def note(line: str) -> None:
    """Say on standard error how something was understood, or what was not done; the work goes on."""
    typer.echo(f"i2f: note: {line}", err=True)


def _find_or_encode(cache: Path, segmenter: Segmenter, pixels: npt.NDArray[np.uint8]) -> tuple[EncodedImage, bool]:
    """The picture's encoding and whether it was in the cache; a cache that fails costs time, not the mask."""
    from inter2former_deploy.runtime.encoded import EncodedImages, picture_key

    images = EncodedImages(cache)
    try:
        found = images.find(picture_key(pixels), segmenter.bundle.fingerprint)
    except OSError as error:
        note(f"the cache {cache} is not readable: {error}")
        found = None
    if found is not None:
        return found, True
    encoded = segmenter.encode(pixels)
    try:
        images.add(encoded)
    except OSError as error:
        note(f"the encoding is not kept in {cache}: {error}")
    return encoded, False


def _point(text: str) -> tuple[float, float]:
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"a click is X,Y in pixels, such as 320,240, not {text!r}") from None
    return x, y


def _ordered(signs: list[str], fg: list[tuple[float, float]], bg: list[tuple[float, float]]) -> list[Click]:
    """The clicks of both options in the order of their names on the command line."""
    points = {"fg": iter(fg), "bg": iter(bg)}
    return [Click(*next(points[sign]), sign == "fg") for sign in signs]


def _check_target(path: Path, suffixes: tuple[str, ...], option: str) -> None:
    """Before the work begins, not after it."""
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{option} {path} must end in one of {', '.join(suffixes)}")
    check_new_file(path, option)


def _write(path: Path, pixels: npt.NDArray[np.uint8]) -> None:
    import cv2

    written, code = cv2.imencode(path.suffix, pixels)
    if not written:
        raise OSError(f"could not write {path}")
    with replacing(path.resolve()) as unfinished:  # what a link leads to, not the link
        unfinished.write_bytes(code.data)
