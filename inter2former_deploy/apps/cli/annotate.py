"""`i2f annotate`: a page to draw masks on the pictures of a folder."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from inter2former_deploy.apps.cli.options import CustomOps, Decoder, Threads
from inter2former_deploy.apps.cli.serve import (
    Cache,
    Certificate,
    Host,
    Key,
    Names,
    Port,
    TokenFile,
    WithoutTls,
    server_of,
    settings_of,
)


def annotate(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of pictures.", show_default=False)],
    bundle: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Bundle that i2f export wrote; the small model of this package if not given.",
            show_default=False,
        ),
    ] = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
    database: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Where masks are kept, such as postgresql://user@host/name; a file of SQLite beside the pictures if "
            "not given.",
            show_default=False,
        ),
    ] = None,
    token_file: TokenFile = None,
    certificate: Certificate = None,
    key: Key = None,
    without_tls: WithoutTls = False,
    names: Names = None,
    cache: Cache = None,
    decoder: Decoder = None,
    threads: Threads = None,
    custom_ops: CustomOps = True,
) -> None:
    """Open a page in which the pictures of a folder are annotated. Masks are kept beside the pictures.

    \b
    Example:
      i2f annotate photos/
    """  # noqa: D301 - the backspace keeps the example on its lines
    from inter2former_deploy.runtime import ready_bundle

    settings = settings_of(
        "i2f annotate",
        bundle=ready_bundle() if bundle is None else bundle,
        host=host,
        port=port,
        token_file=token_file,
        certificate=certificate,
        key=key,
        without_tls=without_tls,
        names=tuple(names or ()),
        cache=cache,
        decoder=decoder,
        threads=threads,
        custom_ops=custom_ops,
        pictures=folder,
        database=database,
    )
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")

    server = server_of(settings, certificate, key)

    def ready() -> None:
        typer.echo(f"i2f annotate: {server.address} (Ctrl-C ends it)", err=True)
        if browser:
            webbrowser.open(server.address)

    server.serve_until_stopped(ready)
