"""`i2f bench`: what everything costs on this machine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from inter2former_deploy.apps.cli.options import Decoder
from inter2former_deploy.core.files import check_new_folder, replacing
from inter2former_deploy.core.packages import EXPORT_MODULES, PLOT_MODULES, require

app = typer.Typer(
    help="Measure operators, clicks and encoding against PyTorch, plain onnxruntime and the machine's limits.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Threads = Annotated[int, typer.Option(min=1, help="Threads of every variant.")]
Seconds = Annotated[float, typer.Option(min=0.1, help="Time for each variant of each case.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="JSON file to write.", show_default=False)]
Sizes = Annotated[list[int], typer.Option("--size", help="Model resolution. May be repeated.")]
Model = Annotated[str, typer.Option("--config", help="Model: a preset of any family, or a JSON file.")]
BOTH = [1024, 2048]


@app.command("ops")
def ops(
    threads: Threads = 2,
    seconds: Seconds = 1.0,
    output: Output = None,
    size: Sizes = BOTH,
    only: Annotated[
        list[str] | None, typer.Option(help="One operator, such as hybrid_attention. May be repeated.")
    ] = None,
    alone: Annotated[
        bool, typer.Option("--alone", help="The library alone, without what it is compared with.")
    ] = False,
) -> None:
    """Each operator over tokens, edge share and area; with its floor."""
    require(*EXPORT_MODULES, extra="export", needed_by="i2f bench ops")
    _check_output(output)
    from inter2former_deploy.apps.bench import operators, report

    wanted = only or tuple(operators.CASES)
    keep = _keep(output)
    _write(report.measure_operators(threads, seconds, typer.echo, keep, only=wanted, sizes=size, alone=alone), output)


@app.command("click")
def click(
    threads: Threads = 2, seconds: Seconds = 4.0, output: Output = None, size: Sizes = BOTH, config: Model = "vit_b"
) -> None:
    """Whole clicks: prompts, decoder and mask; of HRSAM beside the decoder as SAM exports it."""
    require(*EXPORT_MODULES, extra="export", needed_by="i2f bench click")
    _check_output(output)
    from inter2former_deploy.apps.bench import report
    from inter2former_deploy.families.config import load_config

    model = load_config(config)
    if model.family == "hrsam":
        result = report.measure_hrsam_clicks(model, threads, seconds, typer.echo, _keep(output), size)
    else:
        result = report.measure_clicks(threads, seconds, typer.echo, _keep(output), size)
    _write(result, output)


@app.command("encode")
def encode(
    threads: Threads = 2, seconds: Seconds = 4.0, output: Output = None, size: Sizes = BOTH, config: Model = "vit_b"
) -> None:
    """Opening an image: preprocessing, encoder and what the decoder prepares, the encoder in every precision."""
    require(*EXPORT_MODULES, extra="export", needed_by="i2f bench encode")
    _check_output(output)
    from inter2former_deploy.apps.bench import report
    from inter2former_deploy.families.config import load_config

    model = load_config(config)
    _write(report.measure_encoding(threads, seconds, typer.echo, _keep(output), size, model), output)


@app.command("session")
def session(
    bundle: Annotated[Path, typer.Argument(metavar="DIR", help="Bundle that i2f export wrote.", show_default=False)],
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="What it was exported from; not needed for bundled or synthetic weights.", show_default=False
        ),
    ] = None,
    decoder: Decoder = None,
    threads: Threads = 2,
    seconds: Seconds = 10.0,
    output: Output = None,
) -> None:
    """20 clicks on a photograph: 20-SPC and Online SPC."""
    require(*EXPORT_MODULES, extra="export", needed_by="i2f bench session")
    _check_output(output)
    from inter2former_deploy.apps.bench import report

    _write(report.measure_session(bundle, decoder, checkpoint, threads, seconds, typer.echo), output)


@app.command("figure")
def figure(
    output: Annotated[Path, typer.Option("--output", "-o", help="Picture to write; a JSON file is put beside it.")],
    threads: Threads = 2,
    seconds: Seconds = 1.0,
    size: Annotated[int, typer.Option("--size", min=16, help="Model resolution, a multiple of 16.")] = 1024,
) -> None:
    """Latency over object area, and experts from 1 to 64, as a picture like the paper's Figure 3."""
    require(*EXPORT_MODULES, *PLOT_MODULES, extra="train", needed_by="i2f bench figure")
    _check_output(output)
    from inter2former_deploy.apps.bench import plots, report
    from inter2former_deploy.families.inter2former.config import PATCH

    if size % PATCH != 0:
        raise ValueError(f"--size must be a multiple of {PATCH}, got {size}")
    plots.check_picture(output)
    areas = plots.measure_areas(threads, seconds, typer.echo, size // PATCH)
    experts = report.measure_experts(threads, seconds, typer.echo, size // PATCH)
    _write({"areas": areas, "experts": experts}, output.with_suffix(".json"))
    plots.draw(areas, experts, output)


@app.command("compare")
def compare(before: Path, after: Path) -> None:
    """Medians of two result files side by side."""
    from inter2former_deploy.apps.bench import report

    typer.echo(report.compare(report.read(before), report.read(after)))


def _check_output(output: Path | None) -> None:
    """Before the measuring begins, not after it."""
    if output is not None:
        if output.is_dir():
            raise ValueError(f"--output {output} is a folder: name a file")
        check_new_folder(output.parent, "--output")


def _keep(output: Path | None) -> Callable[[object], None]:
    """Puts a result, whole or not yet, into the file in one step: a reader never meets half of one."""

    def keep(result: object) -> None:
        if output is not None:
            output.parent.mkdir(parents=True, exist_ok=True)
            with replacing(output) as unfinished:
                unfinished.write_text(json.dumps(result, indent=1) + "\n")

    return keep


def _write(result: object, output: Path | None) -> None:
    _keep(output)(result)
    if output is not None:
        typer.echo(f"wrote {output}")
