"""`i2f encode`: pictures in, encoded images out, for whoever segments them later."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from inter2former_deploy.apps.cli.many import Ray, Workers, check_ray, outcomes_of, some
from inter2former_deploy.apps.cli.options import ConvertColours, CustomOps, MaxPixels, Threads
from inter2former_deploy.apps.cli.prompts import region_of
from inter2former_deploy.apps.cli.segment import note
from inter2former_deploy.core.files import check_space

FAILED = 1
TOGETHER = 16  # pictures that a worker of Ray takes at a time


def encode(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGES...",
            help="Pictures, and folders: of these, and of the folders in them, all files with a picture's suffix; "
            "hidden files are ignored. Those of an object store as URLs, folders with a / at the end.",
            show_default=False,
        ),
    ],
    output: Annotated[
        str,
        typer.Option("--output", "-o", metavar="CACHE", help="Folder of encoded images, or URL.", show_default=False),
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
    ray: Ray = None,
    workers: Workers = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print which picture lies in which file, as JSON.")] = False,
) -> None:
    """Encode pictures ahead of time: i2f segment --cache CACHE then begins at once.

    Encodings that are there already are kept, so that a run that was stopped goes on where it was. Those of another
    encoder and those cut off are made again. They serve all decoders of a bundle, those that are added later, too.
    Pictures that cannot be read are named, and the exit code is 1 then; so it is where the disk is full. Of an
    animation the first frame is taken. docs/many-pictures.md tells of object stores and of Ray.

    \b
    Examples:
      i2f encode photos/ more/cat.jpg -o encoded --bundle bundle
      i2f encode s3://photos/2026/ -o s3://encoded --bundle bundle --ray --workers 2 --threads 4
    """  # noqa: D301 - the backspace keeps the examples on their lines
    check_ray(ray, workers, "i2f encode")
    from inter2former_deploy.apps.batch.encoding import EncodeJob
    from inter2former_deploy.apps.batch.places import is_url, open_folder
    from inter2former_deploy.apps.batch.work import chunks_of
    from inter2former_deploy.core.pictures import MAX_PIXELS, NO_PICTURE
    from inter2former_deploy.runtime.bundle import read_bundle
    from inter2former_deploy.runtime.encoded import SUFFIX

    folder = open_folder(output, "--output")
    pictures, skipped = _pictures(images, output)
    job = EncodeJob(
        bundle=bundle,
        output=output,
        sides=None if region is None else region_of(region),
        custom_ops=custom_ops,
        convert_colours=convert_colours,
        max_pixels=max_pixels or MAX_PIXELS,
    )
    needed = read_bundle(bundle).encoded_nbytes
    if not is_url(output):
        there = sum(1 for name in folder.names() if name.endswith(SUFFIX))  # each may be one of those to be made
        check_space(Path(output), (len(pictures) - there) * needed, f"encoding {len(pictures)} pictures")
    files: dict[str, str] = {}
    broken: dict[str, str] = {name: reason for name, reason in skipped if reason != NO_PICTURE}
    for name, reason in broken.items():
        typer.echo(f"skipped: {name}: {reason}", err=True)
    counts = Counter[str]()
    chunks = chunks_of(pictures, TOGETHER)
    with outcomes_of(job, chunks, threads, ray, workers) as outcomes:
        for number, done in enumerate(outcomes, 1):
            counts[done.state] += 1
            for line in done.notes:
                note(line)
            if done.reason:
                broken[done.name] = done.reason
                typer.echo(f"{number}/{len(pictures)}  skipped: {done.reason}", err=True)
                continue
            files[done.name] = done.file
            did = "is there already" if done.state == "found" else f"encoded in {done.seconds:.1f} s"
            typer.echo(f"{number}/{len(pictures)}  {done.name} {did}", err=True)
    others = [name for name, reason in skipped if reason == NO_PICTURE]
    made, unwritten = counts["made"], counts["unwritten"]
    if as_json:
        report = {"files": files, "encoded": made, "unwritten": unwritten, "broken": broken, "others": others}
        typer.echo(json.dumps(report, indent=2))
    else:
        typer.echo(
            f"{output}: {made} encoded, {len(files) - made} there already"
            + (f", {len(broken)} broken: {some(list(broken))}" if len(broken) > unwritten else "")
        )
        if unwritten:
            typer.echo(f"not written: {unwritten}; make room, then the same command does what is left")
        if others:
            typer.echo(f"not pictures by their suffix: {len(others)}: {some(others)}")
    if broken:
        raise typer.Exit(FAILED)


def _pictures(images: list[str], output: str) -> tuple[list[str], list[tuple[str, str]]]:
    """Files as they are given, folders as the pictures in them, by name; and what else is in these, with reasons.

    Raises:
        ValueError: there is no picture in a folder.
    """
    from inter2former_deploy.apps.batch.places import is_url, pictures_below
    from inter2former_deploy.core.pictures import NO_PICTURE, SUFFIXES, picture_files

    pictures: dict[str, None] = {}  # each once
    skipped: dict[str, str] = {}
    for image in images:
        if is_url(image):
            found, others = pictures_below(image) if image.endswith("/") else ([image], [])
            pictures |= dict.fromkeys(found)
            skipped |= dict.fromkeys(
                (name for name in others if not name.startswith(f"{output.rstrip('/')}/")), NO_PICTURE
            )
        elif not Path(image).is_dir():
            pictures[str(Path(image))] = None  # one that is not there will be named like those that cannot be read
        else:
            files, passed_over = picture_files(image)
            if not files:
                reasons = "".join(
                    f"; {count} files: {why}" for why, count in Counter(why for _, why in passed_over).items()
                )
                raise ValueError(f"there is no picture in {image}, of {', '.join(SUFFIXES)}{reasons}")
            pictures |= dict.fromkeys(map(str, files))
            inside = None if is_url(output) else Path(output).resolve()
            skipped |= {str(file): why for file, why in passed_over if inside not in file.resolve().parents}
    return list(pictures), list(skipped.items())
