"""`i2f info`: what is in a bundle?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from inter2former_deploy.core.manifest import DecoderEntry


def info(
    bundle: Annotated[Path, typer.Argument(metavar="DIR", help="Bundle that i2f export wrote.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole manifest as JSON.")] = False,
) -> None:
    """Show what a bundle holds. Its files are checked first."""
    from inter2former_deploy.families.config import read_config
    from inter2former_deploy.runtime.bundle import open_bundle

    opened = open_bundle(bundle, failed=True)
    manifest = opened.manifest
    if as_json:
        typer.echo(json.dumps(manifest.to_dict(), indent=2))
        return
    config = read_config(manifest.decoder().config)
    encoder = manifest.encoder
    lines = [
        ("bundle", f"{bundle}, {manifest.family}, images scaled into {manifest.size} x {manifest.size}"),
        ("encoder", f"{config.name}, {encoder.precision}, {manifest.encoder_id}"),
        *((file, _size(bundle / file)) for file in encoder.graph.files),
        (
            "operators",
            f"domain {manifest.operator_domain['name']} {manifest.operator_domain['version']}, "
            f"standard opset {encoder.graph.opset or 'not stated'}",
        ),
    ]
    for name, decoder in manifest.decoders.items():
        lines += [
            ("decoder", name if decoder.precision == "fp32" else f"{name}, {decoder.precision}"),
            *_decoder(bundle, read_config(decoder.config), decoder),
        ]
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        typer.echo(f"{name:<{width}}  {value}")


def _decoder(bundle: Path, config: Any, decoder: DecoderEntry) -> Iterator[tuple[str, str]]:
    for graph in (decoder.prepare, decoder.click):
        yield from ((file, _size(bundle / file)) for file in graph.files)
    told = {name: value for name, value in asdict(config.decoder).items() if isinstance(value, str)}
    model = config.description.replace("'", "")
    yield "model", ", ".join([model, *(f"{name.replace('_', ' ')} {value}" for name, value in told.items())])
    stated = (f"{key} {value}" for key, value in decoder.weights.items() if key != "notes")
    yield "weights", ", ".join(stated) or "not stated"
    yield from (("weights", note) for note in decoder.weights.get("notes", ()))
    yield "exported with", ", ".join(f"{name} {number}" for name, number in decoder.tools.items()) or "not stated"
    yield "parity", _parity(decoder.parity)
    if decoder.agreement is not None:
        yield "precision", _agreement(decoder.agreement)
    yield from (("differs", difference) for difference in decoder.differences)


def _size(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f} MB"


def _agreement(agreement: dict[str, Any]) -> str:
    return (
        f"{agreement['precision']}, masks agree with fp32 to a mean IoU of {agreement['mean_iou']:.4f} over "
        f"{agreement['clicks']} clicks ({agreement['min_iou']:g} was asked for)"
    )


def _parity(report: dict[str, Any] | None) -> str:
    if report is None:
        return "not checked"
    verdict = "passed" if report.get("passed") else "FAILED"
    return (
        f"{verdict}, {len(report.get('checks', []))} comparisons with PyTorch ({', '.join(report.get('backends', []))})"
    )
