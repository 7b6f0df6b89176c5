"""`i2f encode`: pictures in, encoded images out, for whoever segments them later."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from inter2former_deploy.apps.cli.options import ConvertColours, CustomOps, MaxPixels, Threads
from inter2former_deploy.apps.cli.prompts import region_of
from inter2former_deploy.apps.cli.segment import note
from inter2former_deploy.core.files import check_new_folder, check_space

FAILED = 1
NAMED = 20  # of many files; --json names all


def encode(
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGES...",
            help="Pictures, and folders: of these, and of the folders in them, all files with a picture's suffix; "
            "hidden files are ignored.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="CACHE", help="Folder of encoded images.", show_default=False)
    ],
    bundle: Annotated[Path, typer.Option(metavar="DIR", help="Bundle that i2f export wrote.", show_default=False)],
    region: Annotated[
        str | None,
        typer.Option(
            metavar="X0,Y0,X1,Y1",
            help="Encode this window of every picture, for i2f segment --region with the same numbers.",
            show_default=False,
        ),
    ] = None,
    threads: Threads = None,
    custom_ops: CustomOps = True,
    convert_colours: ConvertColours = True,
    max_pixels: MaxPixels = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print which picture lies in which file, as JSON.")] = False,
) -> None:
    """Encode pictures ahead of time: i2f segment --cache CACHE then begins at once.

    Encodings that are there already are kept, so that a run that was stopped goes on where it was. Those of another
    encoder and damaged ones are made again. They serve all decoders of a bundle, those that are added later, too.
    Pictures that cannot be read are named, and the exit code is 1 then. Of an animation the first frame is taken.

    \b
    Example:
      i2f encode photos/ more/cat.jpg -o encoded --bundle bundle
    """  # noqa: D301 - the backspace keeps the example on its lines
    from inter2former_deploy.core.pictures import MAX_PIXELS, NO_PICTURE, read_image
    from inter2former_deploy.runtime import EncodedImages, Segmenter
    from inter2former_deploy.runtime.encoded import SUFFIX
    from inter2former_deploy.runtime.region import Region

    sides = None if region is None else region_of(region)
    check_new_folder(output, "--output")
    paths, skipped = _pictures(images, output)
    segmenter = Segmenter(bundle, num_threads=threads, custom_ops=custom_ops)
    cache = EncodedImages(output)
    there = sum(1 for _ in output.glob(f"*{SUFFIX}")) if output.is_dir() else 0  # each may be one of those to be made
    check_space(output, (len(paths) - there) * segmenter.encoded_nbytes, f"encoding {len(paths)} pictures")
    files: dict[str, str] = {}
    broken: dict[str, str] = {str(path): reason for path, reason in skipped if reason != NO_PICTURE}
    for name, reason in broken.items():
        typer.echo(f"skipped: {name}: {reason}", err=True)
    made = 0
    for number, path in enumerate(paths, 1):
        start = time.perf_counter()
        try:
            pixels = read_image(path, convert_colours=convert_colours, max_pixels=max_pixels or MAX_PIXELS, tell=note)
            window = None if sides is None else Region.of(sides, *pixels.shape[:2])
        except (ValueError, OSError) as error:
            reason = str(error) if str(path) in str(error) else f"{path}: {error}"
            broken[str(path)] = reason
            typer.echo(f"{number}/{len(paths)}  skipped: {reason}", err=True)
            continue
        encoded, found = cache.find_or_encode(segmenter, pixels, window)
        made += not found
        files[str(path)] = str(cache.path(encoded.picture))
        did = "is there already" if found else f"encoded in {time.perf_counter() - start:.1f} s"
        typer.echo(f"{number}/{len(paths)}  {path} {did}", err=True)
    others = [str(path) for path, reason in skipped if reason == NO_PICTURE]
    if as_json:
        typer.echo(json.dumps({"files": files, "encoded": made, "broken": broken, "others": others}, indent=2))
    else:
        typer.echo(
            f"{output}: {made} encoded, {len(files) - made} there already"
            + (f", {len(broken)} broken: {_some(list(broken))}" if broken else "")
        )
        if others:
            typer.echo(f"not pictures by their suffix: {len(others)}: {_some(others)}")
    if broken:
        raise typer.Exit(FAILED)


def _pictures(images: list[Path], output: Path) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Files as they are given, folders as the pictures in them, by name; and what else is in these, with reasons.

    Raises:
        ValueError: there is no picture in a folder.
    """
    from inter2former_deploy.core.pictures import SUFFIXES, picture_files

    paths: dict[Path, None] = {}  # each once
    skipped: dict[Path, str] = {}
    for path in images:
        if not path.is_dir():
            paths[path] = None  # one that is not there will be named like those that cannot be read
            continue
        found, passed_over = picture_files(path)
        if not found:
            reasons = "".join(
                f"; {count} files: {why}" for why, count in Counter(why for _, why in passed_over).items()
            )
            raise ValueError(f"there is no picture in {path}, of {', '.join(SUFFIXES)}{reasons}")
        paths |= dict.fromkeys(found)
        skipped |= {file: why for file, why in passed_over if output.resolve() not in file.resolve().parents}
    return list(paths), list(skipped.items())


def _some(names: list[str]) -> str:
    """The first of many names."""
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
