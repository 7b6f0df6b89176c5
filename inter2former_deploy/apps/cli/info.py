"""`i2f info`: what is in a bundle?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer


def info(
    bundle: Annotated[Path, typer.Argument(metavar="DIR", help="Bundle that i2f export wrote.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole manifest as JSON.")] = False,
) -> None:
    """Show what a bundle holds. Its files are checked first."""
    from inter2former_deploy.runtime.bundle import open_bundle

    opened = open_bundle(bundle, failed=True)
    manifest = opened.manifest
    if as_json:
        typer.echo(json.dumps(manifest.to_dict(), indent=2))
        return
    config = manifest.model_config
    decoder = config.decoder
    lines = {
        "bundle": f"{bundle} {manifest.bundle_id}".strip(),
        "model": f"{config.name}, images scaled into {manifest.size} x {manifest.size}",
        "weights": ", ".join(f"{key} {value}" for key, value in manifest.weights.items() if key != "notes")
        or "not stated",
        "precision": _precision(manifest.precision, manifest.agreement),
        "edge rule": manifest.edge_rule,
        "attention": f"{decoder.attention}, prompt {decoder.prompt}, upsampling {decoder.upsampling}",
        "operators": f"domain {manifest.operator_domain['name']} {manifest.operator_domain['version']}, "
        f"standard opset {manifest.opset or 'not stated'}",
        "exported with": ", ".join(f"{name} {number}" for name, number in manifest.tools.items()) or "not stated",
        "parity": _parity(manifest.parity),
        **{path.name: f"{path.stat().st_size / 1e6:.1f} MB" for path in (opened.encoder, opened.decoder)},
    }
    width = max(map(len, lines))
    for name, value in lines.items():
        typer.echo(f"{name:<{width}}  {value}")
    for note in manifest.weights.get("notes", ()):
        typer.echo(f"{'weights':<{width}}  {note}")
    for difference in manifest.differences:
        typer.echo(f"{'differs':<{width}}  {difference}")


def _precision(precision: str, agreement: dict[str, Any] | None) -> str:
    if agreement is None:
        return precision
    return (
        f"{precision}, masks agree with fp32 to a mean IoU of {agreement['mean_iou']:.4f} over {agreement['clicks']} "
        f"clicks ({agreement['min_iou']:g} was asked for)"
    )


def _parity(report: dict[str, Any] | None) -> str:
    if report is None:
        return "not checked"
    verdict = "passed" if report.get("passed") else "FAILED"
    return (
        f"{verdict}, {len(report.get('checks', []))} comparisons with PyTorch ({', '.join(report.get('backends', []))})"
    )
