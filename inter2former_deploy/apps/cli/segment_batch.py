"""`i2f segment-batch`: masks of a whole list of pictures and prompts."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from inter2former_deploy.apps.cli.many import Ray, Workers, check_ray, outcomes_of, some
from inter2former_deploy.apps.cli.options import ConvertColours, CustomOps, Decoder, MaxPixels, Threads
from inter2former_deploy.apps.cli.segment import note

FAILED = 1


def segment_batch(
    bundle: Annotated[Path, typer.Argument(metavar="DIR", help="Bundle that i2f export wrote.", show_default=False)],
    prompts: Annotated[
        str,
        typer.Argument(
            metavar="LIST",
            help='JSON lines such as {"image": "cat.jpg", "prompts": [{"click": [320, 240], "positive": true}]}, or a '
            "parquet file with these columns; path or URL.",
            show_default=False,
        ),
    ],
    output: Annotated[
        str,
        typer.Option("--output", "-o", metavar="DIR", help="Folder of the results, or URL.", show_default=False),
    ],
    images: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Folder, or URL, below which the list names pictures, and outside which none is read; that of the "
            "list if not given.",
            show_default=False,
        ),
    ] = None,
    decoder: Decoder = None,
    part: Annotated[int, typer.Option(min=1, metavar="N", help="Pictures whose results are one file.")] = 64,
    threads: Threads = None,
    custom_ops: CustomOps = True,
    convert_colours: ConvertColours = True,
    max_pixels: MaxPixels = None,
    ray: Ray = None,
    workers: Workers = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print which files there are, as JSON.")] = False,
) -> None:
    """Segment a list of pictures and prompts: each object's mask as COCO run lengths, a line of JSON each.

    The results are files of some pictures each, in the list's order; cat DIR/*.jsonl joins them. What is written is
    not done again, so that a run that was stopped goes on where it was; where pictures or prompts were broken, the file
    says so in its name and is tried again. They are named, and the exit code is 1 then; so it is where the disk is
    full.

    \b
    Example:
      i2f segment-batch bundle photos/clicks.jsonl -o masks
    """  # noqa: D301 - the backspace keeps the example on its lines
    check_ray(ray, workers, "i2f segment-batch")
    from inter2former_deploy.apps.batch.lists import parts_of, read_list
    from inter2former_deploy.apps.batch.places import open_folder
    from inter2former_deploy.apps.batch.segmenting import SegmentJob, left_of
    from inter2former_deploy.core.pictures import MAX_PIXELS
    from inter2former_deploy.runtime.bundle import read_bundle

    folder = open_folder(output, "--output")
    manifest = read_bundle(bundle, decoder).manifest
    rows = read_list(prompts)
    model = manifest.model_id(manifest.decoder(decoder))
    images = prompts.rpartition("/")[0] or "." if images is None else images
    parts = parts_of(rows, images, part, {"model": model, "convert colours": convert_colours})
    job = SegmentJob(
        bundle=bundle,
        decoder=decoder,
        output=output,
        custom_ops=custom_ops,
        convert_colours=convert_colours,
        max_pixels=max_pixels or MAX_PIXELS,
    )
    left = left_of(parts, folder)
    counts = Counter({"found": sum(of_part.rows for of_part in parts) - sum(of_part.rows for of_part in left)})
    broken: list[str] = []
    unwritten: list[str] = []
    files: list[str] = []
    done_rows = counts["found"]
    with outcomes_of(job, [[of_part] for of_part in left], threads, ray, workers) as outcomes:
        for done in outcomes:
            done_rows += done.count
            counts[done.state] += done.count - len(done.broken)
            broken += done.broken
            for line in done.notes:
                note(line)
            for line in (*done.broken, *([done.reason] if done.reason else [])):
                typer.echo(f"{done_rows}/{len(rows)}  skipped: {line}", err=True)
            if done.state == "unwritten":
                unwritten.append(done.name)
            else:
                files.append(done.file)
                typer.echo(
                    f"{done_rows}/{len(rows)}  {done.file}: {done.count} objects in {done.seconds:.1f} s", err=True
                )
    if as_json:
        report = {"objects": counts["made"], "found": counts["found"], "broken": broken}
        typer.echo(json.dumps(report | {"unwritten": counts["unwritten"], "files": files}, indent=2))
    else:
        typer.echo(
            f"{output}: {counts['made']} objects segmented, {counts['found']} there already"
            + (f", {len(broken)} broken: {some(broken)}" if broken else "")
        )
        if unwritten:
            typer.echo(
                f"not written: {counts['unwritten']} objects; make room, then the same command does what is left"
            )
    if broken or unwritten:
        raise typer.Exit(FAILED)
