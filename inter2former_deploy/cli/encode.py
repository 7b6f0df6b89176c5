"""`i2f encode`: pictures in, encoded images out, for whoever segments them later."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from inter2former_deploy.cli.segment import PICTURES, CustomOps, Threads, read_image

FAILED = 1


def encode(
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGES...",
            help=f"Pictures, and folders: of these, and of the folders in them, all {', '.join(PICTURES)}.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="CACHE", help="Folder of encoded images.", show_default=False)
    ],
    bundle: Annotated[Path, typer.Option(metavar="DIR", help="Bundle that i2f export wrote.", show_default=False)],
    threads: Threads = None,
    custom_ops: CustomOps = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print which picture lies in which file, as JSON.")] = False,
) -> None:
    """Encode pictures ahead of time: i2f segment --cache CACHE then begins at once.

    Encodings that are there already are kept, so that a run that was stopped goes on where it was. Those of another
    bundle and damaged ones are made again. Pictures that cannot be read are named, and the exit code is 1 then.

    \b
    Example:
      i2f encode photos/ more/cat.jpg -o encoded --bundle bundle
    """  # noqa: D301 - the backspace keeps the example on its lines
    paths = list(_pictures(images))
    from inter2former_deploy.runtime import EncodedImages, Segmenter

    segmenter = Segmenter(bundle, num_threads=threads, custom_ops=custom_ops)
    cache = EncodedImages(output)
    files: dict[str, str] = {}
    broken: dict[str, str] = {}
    made = 0
    for number, path in enumerate(paths, 1):
        start = time.perf_counter()
        try:
            pixels = read_image(path)
        except (ValueError, OSError) as error:
            broken[str(path)] = str(error)
            typer.echo(f"{number}/{len(paths)}  skipped: {error}", err=True)
            continue
        encoded, found = cache.find_or_encode(segmenter, pixels)
        made += not found
        files[str(path)] = str(cache.path(encoded.picture))
        did = "is there already" if found else f"encoded in {time.perf_counter() - start:.1f} s"
        typer.echo(f"{number}/{len(paths)}  {path} {did}", err=True)
    if as_json:
        typer.echo(json.dumps({"files": files, "encoded": made, "broken": broken}, indent=2))
    else:
        typer.echo(
            f"{output}: {made} encoded, {len(files) - made} there already"
            + (f", {len(broken)} broken: {', '.join(broken)}" if broken else "")
        )
    if broken:
        raise typer.Exit(FAILED)


def _pictures(images: list[Path]) -> Iterator[Path]:
    """Files as they are given, folders as the pictures in them, by name.

    Raises:
        ValueError: there is no picture in a folder.
    """
    for path in images:
        if not path.is_dir():
            yield path  # one that is not there will be named like those that cannot be read
            continue
        found = sorted(file for file in path.rglob("*") if file.suffix.lower() in PICTURES and file.is_file())
        if not found:
            raise ValueError(f"there is no picture in {path}, of {', '.join(PICTURES)}")
        yield from found
