"""The command `i2f`: thin commands over library functions. Each loads what it needs when it runs."""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer

import inter2former_deploy
from inter2former_deploy.apps.cli import (
    ablate,
    annotate,
    bench,
    doctor,
    encode,
    evaluate,
    export,
    info,
    segment,
    segment_batch,
    serve,
    train,
    verify,
    web,
)
from inter2former_deploy.apps.cli.annotations import app as annotations_app
from inter2former_deploy.apps.cli.many import RayCommand
from inter2former_deploy.apps.cli.prompts import OrderedPrompts
from inter2former_deploy.apps.cli.stopping import Stopped, stopped_by_signals
from inter2former_deploy.core.errors import (
    BundleError,
    DatabaseError,
    MissingPackageError,
    OperatorLibraryError,
    PictureWarning,
)

# Exit codes beside 0; Typer itself exits with 2 on wrong usage.
FAILED, BAD_INPUT, UNEXPECTED = 1, 2, 3
EXIT_CODES = (
    "Exit codes: 0 all well; 1 a comparison failed or a problem was found; 2 wrong usage or bad input; "
    "3 an unexpected error; 4 training stopped before its last step, and can go on; 128 and the signal's number when "
    "a signal stopped it, such as 143 for SIGTERM."
)
# Of bad input and what is not installed; all others are defects.
EXPECTED_ERRORS = (ValueError, OSError, BundleError, DatabaseError, OperatorLibraryError, MissingPackageError)

app = typer.Typer(
    name="i2f",
    help="Inter2Former on CPUs: export a model, check it, segment images with clicks, boxes, strokes.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain text: quick, and the same in a log
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("export")(export.export)
app.command("verify")(verify.verify)
app.command("segment", cls=OrderedPrompts)(segment.segment)
app.command("encode", cls=RayCommand)(encode.encode)
app.command("segment-batch", cls=RayCommand)(segment_batch.segment_batch)
app.command("annotate")(annotate.annotate)
app.command("serve", cls=RayCommand)(serve.serve)
app.add_typer(annotations_app, name="annotations")
app.command("web")(web.web)
app.command("train")(train.train)
app.command("eval", cls=RayCommand)(evaluate.evaluate)
app.command("ablate")(ablate.ablate)
app.add_typer(bench.app, name="bench")
app.command("info")(info.info)
app.command("doctor")(doctor.doctor)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(inter2former_deploy.__version__)
        raise typer.Exit


@app.callback()
def _common(
    debug: Annotated[bool, typer.Option("--debug", help="On an error, show where it comes from.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    _Options.debug = debug


class _Options:
    debug = False


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `i2f`: errors become one line on standard error and an exit code.

    Args:
        arguments: of the command line, this process's if None.

    Raises:
        SystemExit: always, with one of the exit codes.
    """
    _Options.debug = False
    try:
        with stopped_by_signals(), _notes():
            app(args=arguments, prog_name="i2f")
    except Stopped as stop:
        typer.echo(f"i2f: {stop}", err=True)
        sys.exit(stop.code)
    except EXPECTED_ERRORS as error:
        _fail(error, str(error), BAD_INPUT)
    except Exception as error:
        _fail(error, f"unexpected {type(error).__name__}: {error} (i2f --debug ... shows where)", UNEXPECTED)


@contextmanager
def _notes() -> Iterator[None]:
    """Within, warnings about pictures are lines like the others; also those of reading threads."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")  # about tags; what matters becomes an error
        warnings.filterwarnings("always", category=PictureWarning)
        show = warnings.showwarning

        def note(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, PictureWarning):
                typer.echo(f"i2f: note: {message}", err=True)
            else:
                show(message, category, *where, **more)

        warnings.showwarning = note
        yield


def _fail(error: Exception, message: str, code: int) -> None:
    if _Options.debug:
        traceback.print_exception(error)
    typer.echo(f"i2f: {message}", err=True)
    sys.exit(code)
