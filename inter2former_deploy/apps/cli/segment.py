"""`i2f segment`: an image and prompts in, a mask out."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inter2former_deploy.apps.cli.options import ConvertColours, CustomOps, Decoder, MaxPixels, Threads
from inter2former_deploy.apps.cli.prompts import read_prompts, region_of, typed_prompts
from inter2former_deploy.core.files import check_apart, check_new_file, nearest_folder, replacing

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from inter2former_deploy.runtime import EncodedImage, Segmenter
    from inter2former_deploy.runtime.region import Region

LOSSLESS = (".png", ".bmp", ".tif", ".tiff", ".pgm")  # a mask must come back as it was written
PICTURES = (".png", ".bmp", ".tif", ".tiff", ".ppm", ".jpg", ".jpeg", ".webp")
LONGEST_SIDE = {".jpg": 65500, ".jpeg": 65500, ".webp": 16383, ".png": 1_000_000}  # pixels; of the encoders


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
        typer.Option("--fg", metavar="X,Y", help="Click on the object: pixels to the right and down."),
    ] = None,
    bg: Annotated[list[str] | None, typer.Option("--bg", metavar="X,Y", help="Click on what is not.")] = None,
    box: Annotated[
        list[str] | None, typer.Option("--box", metavar="X0,Y0,X1,Y1", help="Box around the object: its sides.")
    ] = None,
    stroke: Annotated[
        list[str] | None,
        typer.Option("--stroke", metavar='"X,Y X,Y ..."', help="Line on the object, from corner to corner."),
    ] = None,
    bg_stroke: Annotated[
        list[str] | None,
        typer.Option("--bg-stroke", metavar='"X,Y X,Y ..."', help="Line on what is not the object."),
    ] = None,
    start: Annotated[
        list[str] | None,
        typer.Option("--start", metavar="MASK", help="Mask to go on from, of the image's size."),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", metavar="JSON", help="File of points and rectangles, as samexporter has them."),
    ] = None,
    region: Annotated[
        str | None,
        typer.Option(
            metavar="X0,Y0,X1,Y1",
            help="Segment this window of the image at full resolution, for small objects. All coordinates stay those "
            "of the image, and so does the mask.",
            show_default=False,
        ),
    ] = None,
    state_in: Annotated[
        Path | None,
        typer.Option(help="Session to go on with, of --state-out: its prompts come first.", show_default=False),
    ] = None,
    state_out: Annotated[
        Path | None, typer.Option(help="JSON file to write: all prompts, to go on with.", show_default=False)
    ] = None,
    overlay: Annotated[
        Path | None, typer.Option(help="Picture to write: the image with mask, boundary and numbered prompts.")
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="CACHE",
            help="Folder of i2f encode: the image's encoding is read from there, or made and kept there.",
            show_default=False,
        ),
    ] = None,
    decoder: Decoder = None,
    convert_colours: ConvertColours = True,
    max_pixels: MaxPixels = None,
    threads: Threads = None,
    custom_ops: CustomOps = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print times and areas as JSON.")] = False,
) -> None:
    """Segment an image with prompts: clicks, boxes, strokes and masks, each as often as you like.

    They take effect in the order of the command line.

    \b
    Examples:
      i2f segment bundle photo.jpg --fg 320,240 --bg 40,60 -o mask.png --overlay overlay.png
      i2f segment bundle photo.jpg --box 100,80,420,300 --bg-stroke "90,90 95,200" -o mask.png
    """  # noqa: D301 - the backspace keeps the examples on their lines
    typed = typed_prompts(ctx)
    if not typed and state_in is None:
        raise ValueError("give at least one prompt, such as --fg 320,240 or --box 100,80,420,300")
    sides = None if region is None else region_of(region)
    _check_target(output, LOSSLESS, "--output")
    outputs = {"--output": output}
    if overlay is not None:
        _check_target(overlay, PICTURES, "--overlay")
        outputs["--overlay"] = overlay
    pictures = dict(outputs)
    if state_out is not None:
        _check_target(state_out, (".json",), "--state-out")
        outputs["--state-out"] = state_out
    inputs = {f"--start {prompt.text}": Path(prompt.text) for prompt in typed if prompt.parameter == "start"}
    check_apart({"IMAGE": image} | inputs | outputs)
    if cache is not None and not nearest_folder(cache).is_dir():
        raise ValueError(f"--cache {cache}: {nearest_folder(cache)} is a file, not a folder")

    from inter2former_deploy.core.overlay import draw_overlay
    from inter2former_deploy.core.pictures import MAX_PIXELS, read_image
    from inter2former_deploy.runtime import EncodedImage, Segmenter
    from inter2former_deploy.runtime.bundle import read_bundle
    from inter2former_deploy.runtime.encoded import SUFFIX
    from inter2former_deploy.runtime.region import Region
    from inter2former_deploy.runtime.state import SessionState

    read_bundle(bundle, decoder)
    encoded = EncodedImage.load(image) if image.suffix == SUFFIX else None
    if encoded is None:
        pixels = read_image(image, convert_colours=convert_colours, max_pixels=max_pixels or MAX_PIXELS, tell=note)
        window = Region.whole(*pixels.shape[:2])
    elif overlay is None:
        window = encoded.window
    else:
        raise ValueError(f"--overlay needs the picture; {image} holds only what the model makes of it")
    height, width = window.picture_height, window.picture_width
    for option, path in pictures.items():
        longest = LONGEST_SIDE.get(path.suffix.lower())
        if longest is not None and max(width, height) > longest:
            raise ValueError(
                f"{option} {path}: {image} is {width} x {height} pixels, {path.suffix} holds at most {longest} a side: "
                "name a .tif"
            )
    state = None if state_in is None else _read_json(state_in)
    wanted = None if sides is None else Region.of(sides, height, width)
    if state is not None:
        try:
            stated = SessionState.from_dict(state, height, width)
        except ValueError as error:
            raise ValueError(f"--state-in {state_in}: {error}") from error
        wanted = stated.region if wanted is None else wanted
        if wanted != stated.region:
            raise ValueError(f"--region {region} is not that of {state_in}, {stated.region.sides}: leave it out")
    if encoded is not None and wanted not in (None, window):
        raise ValueError(f"{image} holds the region {window.sides}, not {wanted.sides}: name the picture itself")
    window = window if wanted is None else wanted
    prompts = read_prompts(typed, image, window)

    begun = time.perf_counter()
    segmenter = Segmenter(bundle, decoder=decoder, num_threads=threads, custom_ops=custom_ops)
    if state is not None:
        segmenter.check_state(pixels if encoded is None else encoded, stated)
    loaded = time.perf_counter()
    found = encoded is not None
    if encoded is None and cache is not None:
        encoded, found = _find_or_encode(cache, segmenter, pixels, window)
    session = segmenter.open(pixels if encoded is None else encoded, window.sides)
    opened = time.perf_counter()
    report: dict[str, Any] = {
        "image": {"file": str(image), "width": width, "height": height},
        "region": None if window.is_whole else list(window.sides),
        "size": segmenter.size,
        "load_ms": 1e3 * (loaded - begun),
        "encode_ms": 1e3 * (opened - loaded),
        "encoding_found": found,
        "prompts": [],
    }
    if not as_json:
        typer.echo(f"{image}: {width} x {height}, model at {segmenter.size} x {segmenter.size}")
        typer.echo(f"load bundle {report['load_ms']:8.1f} ms")
        typer.echo(f"{'encoding' if found else 'encode':<11} {report['encode_ms']:8.1f} ms{'   made before' * found}")
    if state is not None:
        for given in stated.prompts:
            session.add(given)
        report["restored"] = len(stated.prompts)
        if not as_json:
            typer.echo(f"{state_in}: {len(stated.prompts)} prompts")
    mask = session.mask
    for number, (as_typed, given) in enumerate(zip(typed, prompts, strict=True), len(session.prompts) + 1):
        begun = time.perf_counter()
        mask = session.add(given)
        prompt_ms = 1e3 * (time.perf_counter() - begun)
        report["prompts"].append({"prompt": str(as_typed), "ms": prompt_ms, "area": int(mask.sum())})
        if not as_json:
            typer.echo(f"prompt {number:<4} {prompt_ms:8.1f} ms   {as_typed}: {mask.mean():.1%} of the image")

    _write(output, mask.astype("uint8") * 255)
    report["mask"] = str(output)
    if overlay is not None:
        outline = None if window.is_whole else window.sides
        _write(overlay, draw_overlay(pixels, mask, session.prompts, outline)[..., ::-1])
        report["overlay"] = str(overlay)
    if state_out is not None:
        with replacing(state_out.resolve()) as unfinished:
            unfinished.write_text(json.dumps(session.state()) + "\n", encoding="utf-8")
        report["state"] = str(state_out)
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    else:
        typer.echo(f"wrote {' and '.join(str(path) for path in outputs.values())}")


def note(line: str) -> None:
    """Say on standard error how something was understood, or what was not done; the work goes on."""
    typer.echo(f"i2f: note: {line}", err=True)


def _find_or_encode(
    cache: Path, segmenter: Segmenter, pixels: npt.NDArray[np.uint8], region: Region
) -> tuple[EncodedImage, bool]:
    """The picture's encoding and whether it was in the cache; a cache that fails costs time, not the mask."""
    from inter2former_deploy.runtime.encoded import EncodedImages, picture_key

    images = EncodedImages(cache)
    try:
        found = images.find(picture_key(pixels, region), segmenter.bundle.manifest.encoder_id)
    except OSError as error:
        note(f"the cache {cache} is not readable: {error}")
        found = None
    if found is not None:
        return found, True
    encoded = segmenter.encode(pixels, region.sides)
    try:
        images.add(encoded)
    except OSError as error:
        note(f"the encoding is not kept in {cache}: {error}")
    return encoded, False


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"--state-in {path}: there is no such file") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"--state-in {path} is no JSON file: {error}") from None


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
