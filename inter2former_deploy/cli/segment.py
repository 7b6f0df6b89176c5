"""`i2f segment`: an image and clicks in, a mask out."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from inter2former_deploy.labels import Click

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

LOSSLESS = (".png", ".bmp", ".tif", ".tiff", ".pgm")  # a mask must come back as it was written
PICTURES = (*LOSSLESS, ".jpg", ".jpeg", ".webp", ".ppm")

# Options that i2f encode has, too.
Threads = Annotated[
    int | None,
    typer.Option(min=1, help="Threads to use; as many as usable CPUs if not given.", show_default=False),
]
CustomOps = Annotated[
    bool, typer.Option(help="Use the fast operator library, or plain onnxruntime: same masks, slower.")
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
            help="Any picture OpenCV reads. It is turned as its orientation tag says; "
            "grey becomes RGB, alpha is dropped, 16 bits become 8. Or a file that i2f encode wrote.",
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

    import numpy as np

    from inter2former_deploy.overlay import draw_overlay
    from inter2former_deploy.runtime import EncodedImage, EncodedImages, Segmenter
    from inter2former_deploy.runtime.encoded import SUFFIX

    encoded = EncodedImage.load(image) if image.suffix == SUFFIX else None
    if encoded is None:
        pixels = read_image(image)
        height, width = pixels.shape[:2]
    elif overlay is None:
        height, width = encoded.frame.height, encoded.frame.width
    else:
        raise ValueError(f"--overlay needs the picture; {image} holds only what the encoder made of it")
    for click in clicks:  # before the work begins; NaN is outside, too
        if not (0 <= click.x < width and 0 <= click.y < height):
            raise ValueError(f"click {click.x:g},{click.y:g} lies outside {image}, which is {width} x {height} pixels")

    start = time.perf_counter()
    segmenter = Segmenter(bundle, num_threads=threads, custom_ops=custom_ops)
    loaded = time.perf_counter()
    found = encoded is not None
    if encoded is None and cache is not None:
        encoded, found = EncodedImages(cache).find_or_encode(segmenter, pixels)
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


def read_image(path: Path) -> npt.NDArray[np.uint8]:
    """A picture as `Segmenter.open` takes it: uint8 RGB, `[H, W, 3]`, upright.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no picture that OpenCV reads.
    """
    import cv2
    import numpy as np

    if not path.is_file():
        raise FileNotFoundError(f"there is no image {path}")
    try:
        pixels = cv2.imread(str(path), cv2.IMREAD_COLOR)
    except cv2.error as error:  # of a picture beyond OpenCV's limits
        raise ValueError(f"OpenCV does not read {path}: {error.err}") from error
    if pixels is None:
        raise ValueError(f"{path} is no picture that OpenCV reads")
    return np.ascontiguousarray(pixels[..., ::-1])


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
    if not path.parent.is_dir():
        raise ValueError(f"{option} {path}: there is no folder {path.parent}")


def _write(path: Path, pixels: npt.NDArray[np.uint8]) -> None:
    import cv2

    if not cv2.imwrite(str(path), pixels):
        raise OSError(f"could not write {path}")
