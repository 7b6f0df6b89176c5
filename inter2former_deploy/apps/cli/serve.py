"""`i2f serve`: masks for programs, over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inter2former_deploy.apps.cli.many import Ray
from inter2former_deploy.apps.cli.options import CustomOps, Decoder, Threads
from inter2former_deploy.core.files import check_new_folder
from inter2former_deploy.core.packages import SERVE_MODULES, require
from inter2former_deploy.core.threads import available_cpus

if TYPE_CHECKING:
    from inter2former_deploy.apps.server.run import Server
    from inter2former_deploy.apps.server.settings import Settings

# Options that i2f annotate has, too.
Host = Annotated[
    str, typer.Option(help="Address to answer at. Any but this machine's own needs --token-file, and --certificate.")
]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to answer at; 0 takes a free one.")]
TokenFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="File with the word that every request must carry.", show_default=False),
]
Certificate = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Certificate for TLS, PEM; with --key.", show_default=False),
]
Key = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Private key of the certificate, PEM.", show_default=False)
]
WithoutTls = Annotated[
    bool,
    typer.Option(
        "--without-tls",
        help="Answer other machines without TLS: whoever is on the way reads pictures, masks and the token.",
    ),
]
Names = Annotated[
    list[str] | None,
    typer.Option("--name", metavar="NAME", help="Further name of this machine that clients use; repeatable."),
]
Replicas = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Processes of Ray that have the model, with --threads each, 1 if not given; as many as the CPUs allow if "
        "not given.",
        show_default=False,
    ),
]
MaxReplicas = Annotated[
    int | None,
    typer.Option(min=1, help="Of them, at most: more are started while many requests wait.", show_default=False),
]
Cache = Annotated[
    Path | None,
    typer.Option(
        metavar="CACHE",
        help="Folder in which encodings are kept when the server ends, as those of i2f encode.",
        show_default=False,
    ),
]


def serve(
    bundle: Annotated[Path, typer.Argument(metavar="DIR", help="Bundle that i2f export wrote.", show_default=False)],
    host: Host = "127.0.0.1",
    port: Port = 8000,
    token_file: TokenFile = None,
    certificate: Certificate = None,
    key: Key = None,
    without_tls: WithoutTls = False,
    names: Names = None,
    folders: Annotated[
        list[Path] | None,
        typer.Option("--folder", metavar="DIR", help="Clients may name the files below it; repeatable."),
    ] = None,
    cache: Cache = None,
    label_studio: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Label Studio, whose pictures are fetched as its tasks name them; with --label-studio-token-file.",
            show_default=False,
        ),
    ] = None,
    label_studio_token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File with a user's access token of Label Studio.", show_default=False),
    ] = None,
    decoder: Decoder = None,
    threads: Threads = None,
    custom_ops: CustomOps = True,
    ray: Ray = None,
    replicas: Replicas = None,
    max_replicas: MaxReplicas = None,
) -> None:
    """Segment pictures for programs: POST /v1/images, then prompts. docs/serve.md has the interface.

    \b
    Example:
      i2f serve bundle
      curl -H "X-I2F: 1" -F file=@photo.jpg http://127.0.0.1:8000/v1/images
    """  # noqa: D301 - the backspace keeps the example on its lines
    check_replicas(ray, replicas, max_replicas, "i2f serve")
    settings = settings_of(
        "i2f serve",
        bundle=bundle,
        host=host,
        port=port,
        token_file=token_file,
        certificate=certificate,
        key=key,
        without_tls=without_tls,
        names=tuple(names or ()),
        folders=tuple(folders or ()),
        cache=cache,
        label_studio=(label_studio, label_studio_token_file),
        decoder=decoder,
        threads=threads,
        custom_ops=custom_ops,
    )
    server = server_of(settings, certificate, key, ray, replicas, max_replicas)
    typer.echo(f"i2f serve: {server.address} (Ctrl-C ends it)", err=True)
    server.serve_until_stopped()


def server_of(
    settings: Settings,
    certificate: Path | None,
    key: Path | None,
    ray: str | None = None,
    replicas: int | None = None,
    max_replicas: int | None = None,
) -> Server:
    """The server of both commands, with the model loaded, here or in replicas of Ray, and the port taken."""
    from inter2former_deploy.apps.server.run import Server
    from inter2former_deploy.apps.server.service import Service

    if ray is None:
        return Server(Service(settings), certificate=certificate, key=key)
    from inter2former_deploy.apps.server.on_ray import Replicas

    least = replicas or max(1, available_cpus() // (settings.threads or 1))
    return Server(Service(settings, Replicas(settings, ray, least, max_replicas)), certificate=certificate, key=key)


def check_replicas(ray: str | None, replicas: int | None, max_replicas: int | None, command: str) -> None:
    """Refuse, before any work, what cannot be served with Ray.

    Raises:
        MissingPackageError: it is not installed.
        ValueError: there are replicas without it, or fewer at most than at least.
    """
    if ray is None and (replicas, max_replicas) != (None, None):
        raise ValueError("--replicas and --max-replicas are for --ray: without it, one process does all")
    if max_replicas is not None and max_replicas < (replicas or 1):
        raise ValueError(f"--max-replicas {max_replicas} is less than --replicas {replicas}")
    if ray is not None:
        require("ray", extra="ray", needed_by=f"{command} --ray")


def settings_of(
    command: str,
    *,
    token_file: Path | None,
    certificate: Path | None,
    key: Path | None,
    without_tls: bool,
    label_studio: tuple[str | None, Path | None] = (None, None),
    **options: Any,
) -> Settings:
    """What both commands tell a server, checked before anything is loaded.

    Args:
        command: for messages.
        token_file: with the token.
        certificate: for TLS.
        key: of the certificate.
        without_tls: other machines may come without TLS.
        label_studio: its address, and the file with a token of it.
        options: fields of `Settings`.

    Raises:
        MissingPackageError: a package of the extra "serve" is not installed.
        ValueError: the server would be open to whom it must not be, or a file or folder is wrong.
        OSError: a file cannot be read.
    """
    require(*SERVE_MODULES, extra="serve", needed_by=command)

    from inter2former_deploy.apps.server.settings import LabelStudio, Settings, check_certificate, read_token

    if (certificate is None) != (key is None):
        raise ValueError("--certificate and --key go together")
    for option, path in (("--certificate", certificate), ("--key", key)):
        if path is not None and not path.is_file():
            raise ValueError(f"{option} {path}: there is no such file")
    if certificate is not None and key is not None:
        check_certificate(certificate, key)
    for folder in options.get("folders", ()):
        if not folder.is_dir():
            raise ValueError(f"--folder {folder}: there is no such folder")
    if options["cache"] is not None:
        check_new_folder(options["cache"], "--cache")
    token = None if token_file is None else read_token(token_file)
    address, access = label_studio
    if (address is None) != (access is None):
        raise ValueError("--label-studio and --label-studio-token-file go together")
    known = None if address is None or access is None else LabelStudio(address, read_token(access))
    settings = Settings(token=token, label_studio=known, **options)
    if not settings.is_local:
        reached = f"--host {settings.host} lets other machines in"
        if token is None:
            raise ValueError(f"{reached}: give --token-file, so that not everybody is")
        if certificate is None and not without_tls:
            raise ValueError(
                f"{reached}: give --certificate and --key for TLS, or --without-tls if all may be read on the way"
            )
    return settings
