"""`i2f annotate`: a page to draw masks on the pictures of a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from inter2former_deploy.apps.cli.packages import SERVE_MODULES, require
from inter2former_deploy.apps.cli.segment import CustomOps, Decoder, Threads


def annotate(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of pictures.", show_default=False)],
    bundle: Annotated[Path, typer.Option(metavar="DIR", help="Bundle that i2f export wrote.", show_default=False)],
    host: Annotated[str, typer.Option(help="Address to answer at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    decoder: Decoder = None,
    threads: Threads = None,
    custom_ops: CustomOps = True,
) -> None:
    """Open a page in which the pictures of a folder are annotated."""
    require(*SERVE_MODULES, extra="serve", needed_by="i2f annotate")

    from inter2former_deploy.apps.server.run import run
    from inter2former_deploy.apps.server.settings import Settings

    settings = Settings(
        bundle=bundle,
        decoder=decoder,
        threads=threads,
        custom_ops=custom_ops,
        host=host,
        port=port,
        pictures=folder,
    )
    run(settings).run()
