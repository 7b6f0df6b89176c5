"""`i2f export`: a checkpoint in, a bundle out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from inter2former_deploy.apps.cli.options import CompareCustomOps, Threads
from inter2former_deploy.apps.cli.progress import Steps
from inter2former_deploy.core.errors import ExportMismatchError
from inter2former_deploy.core.files import check_new_bundle
from inter2former_deploy.core.packages import EXPORT_MODULES, require
from inter2former_deploy.families.config import load_config
from inter2former_deploy.families.inter2former.config import PRESETS


def export(
    checkpoint: Annotated[
        Path | None,
        typer.Argument(
            metavar="CHECKPOINT",
            help="A released checkpoint, or safetensors that i2f train wrote. Without one: the small bundled model, "
            "or with --config synthetic weights, good for tests and timing, not for pictures.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Folder to make.", show_default=False)
    ] = None,
    into: Annotated[
        Path | None,
        typer.Option(
            metavar="BUNDLE",
            help="In place of -o: add the decoder to a bundle that has the same encoder, or replace one of its name.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="Of the decoder in the bundle; the configuration's if not given.", show_default=False),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(help="Model resolution in pixels, a multiple of 16.", show_default="1024, or that of --into"),
    ] = None,
    edge_rule: Annotated[
        Literal["released", "exact"] | None,
        typer.Option(
            help="Which tokens get full attention: as the release computes it, or the paper's Eq. 4 (faster). "
            "The configuration's own if not given.",
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(
            help=f"Configuration, if the checkpoint does not tell: {', '.join(PRESETS)}, or a JSON file.",
            show_default=False,
        ),
    ] = None,
    opset: Annotated[
        int | None, typer.Option(help="Version of the standard ONNX operators.", show_default=False)
    ] = None,
    precision: Annotated[
        Literal["fp32", "bf16", "int8"] | None,
        typer.Option(
            help="Of the encoder's linear layers and of the edge network. Masks are compared with those of fp32, "
            "see --min-iou.",
            show_default="fp32, or that of --into",
        ),
    ] = None,
    decoder_precision: Annotated[
        Literal["fp32", "bf16"],
        typer.Option(help="Of a click's attention, experts and upsampling. Masks are compared likewise."),
    ] = "fp32",
    min_iou: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Least mean IoU of masks with those of fp32; 0.998 for bf16 and 0.99 for int8 if not given.",
            show_default=False,
        ),
    ] = None,
    inline: Annotated[
        bool,
        typer.Option("--inline", help="Write the graphs without functions, too, for OpenVINO and others like it."),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle that is there.")] = False,
    keep_failed: Annotated[
        bool,
        typer.Option(
            "--keep-failed", help="If the graphs differ from PyTorch, leave them in DIR.failed, for i2f verify."
        ),
    ] = False,
    threads: Threads = None,
    custom_ops: CompareCustomOps = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Export a model and compare it with PyTorch. The folder appears, or changes, only when they agree.

    Exits with 1 if they do not. Progress goes to standard error.
    """
    require(*EXPORT_MODULES, extra="export", needed_by="i2f export")
    if (output is None) == (into is None):
        raise ValueError("name a folder to make with -o DIR, or a bundle to add the decoder to with --into BUNDLE")
    if into is not None and (size is not None or precision is not None or force):
        raise ValueError("--size, --precision and --force are not for --into: the bundle's encoder stays as it is")
    if output is not None:
        check_new_bundle(output, force=force, keep_failed=keep_failed)
    if checkpoint is not None and not checkpoint.is_file():
        raise FileNotFoundError(f"there is no checkpoint {checkpoint}")
    configuration = load_config(config) if config else None
    steps = Steps()
    steps("load PyTorch")
    from inter2former_deploy.exporters.agreement import AgreementReport
    from inter2former_deploy.exporters.bundle import DEFAULT_SIZE, add_decoder, export_bundle
    from inter2former_deploy.exporters.graphs import DEFAULT_OPSET
    from inter2former_deploy.exporters.parity import ParityReport

    if checkpoint is None and config:
        typer.echo("no checkpoint is given: the weights are synthetic, the masks will mean nothing", err=True)
    settings: dict[str, Any] = {
        "name": name,
        "config": configuration,
        "edge_rule": edge_rule,
        "opset": opset or DEFAULT_OPSET,
        "decoder_precision": decoder_precision,
        "min_iou": min_iou,
        "custom_ops": custom_ops,
        "inline": inline,
        "keep_failed": keep_failed,
        "num_threads": threads,
        "progress": steps,
    }
    try:
        if output is not None:
            report = export_bundle(
                checkpoint,
                output,
                size=DEFAULT_SIZE if size is None else size,
                precision=precision or "fp32",
                force=force,
                **settings,
            )
        elif into is not None:
            report = add_decoder(checkpoint, into, **settings)
    except ExportMismatchError as error:
        if isinstance(error.report, ParityReport | AgreementReport):
            typer.echo(json.dumps(error.report.to_dict(), indent=2) if as_json else error.report.table())
        typer.echo(f"i2f: {error}", err=True)
        raise typer.Exit(1) from error
    if as_json:
        typer.echo(json.dumps(report.manifest.to_dict(), indent=2))
    else:
        typer.echo(
            f"{report.folder}: decoder {report.decoder}: {len(report.parity.checks)} comparisons with PyTorch passed, "
            f"{steps.seconds:.0f} s in all"
        )
        if report.agreement is not None:
            typer.echo(report.agreement.table())
        typer.echo(f"next: i2f segment {report.folder} IMAGE --fg X,Y -o mask.png --overlay overlay.png")
