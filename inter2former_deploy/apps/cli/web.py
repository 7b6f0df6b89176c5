"""`i2f web`: a bundle as a static page that runs in the visitor's browser alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from inter2former_deploy.apps.cli.options import Decoder
from inter2former_deploy.core.files import check_new_folder, check_space


def web(
    bundle: Annotated[Path, typer.Argument(metavar="DIR", help="Bundle that i2f export wrote.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="SITE", help="Folder to make.", show_default=False)],
    decoder: Decoder = None,
    onnxruntime: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The npm package of onnxruntime-web, where npm cannot fetch it: what npm pack onnxruntime-web@1.30.0 "
            "gives.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write a page that segments pictures in the visitor's browser: nothing is sent anywhere.

    The folder is static: any web server can hand it out. onnxruntime-web comes from npm while it is written.

    \b
    Example:
      i2f web bundle -o site
      python -m http.server --bind 127.0.0.1 -d site
    """  # noqa: D301 - the backspace keeps the example on its lines
    check_new_folder(output, "--output")
    if output.exists() and any(output.iterdir()):
        raise ValueError(f"--output {output} exists and is not empty: name another folder, or remove it")

    from inter2former_deploy.apps.web.site import write_site

    check_space(output, 20_000_000 + _nbytes(bundle), "the site")
    write_site(bundle, output, decoder=decoder, archive=onnxruntime)
    look = f"python -m http.server --directory {output} --bind 127.0.0.1"
    typer.echo(f"{output}: {_nbytes(output) / 1e6:.1f} MB. To look at it: {look}")


def _nbytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
