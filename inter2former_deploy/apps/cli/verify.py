"""`i2f verify`: does a bundle compute what PyTorch computes?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from inter2former_deploy.apps.cli.options import CompareCustomOps, Decoder, Threads
from inter2former_deploy.apps.cli.progress import Steps
from inter2former_deploy.core.packages import EXPORT_MODULES, require


def verify(
    bundle: Annotated[Path, typer.Argument(metavar="DIR", help="Bundle that i2f export wrote.", show_default=False)],
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="What the bundle was exported from; not needed for bundled or synthetic weights.",
            show_default=False,
        ),
    ] = None,
    decoder: Decoder = None,
    threads: Threads = None,
    custom_ops: CompareCustomOps = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Compare a bundle with PyTorch again. Prints every tensor's error and limit, and how masks agree.

    Exits with 1 if something is beyond its limit. Progress goes to standard error.
    """
    require(*EXPORT_MODULES, extra="export", needed_by="i2f verify")
    steps = Steps()
    steps("load PyTorch")
    from inter2former_deploy.exporters.bundle import verify_bundle

    report = verify_bundle(
        bundle, checkpoint, decoder=decoder, custom_ops=custom_ops, num_threads=threads, progress=steps
    )
    typer.echo(json.dumps(report.to_dict(), indent=2) if as_json else report.table())
    raise typer.Exit(int(not report.passed))
