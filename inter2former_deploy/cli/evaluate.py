"""`i2f eval`: simulated click sessions on a dataset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from inter2former_deploy.clicks import MAX_CLICKS

FAILED = 1


def evaluate(
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="DATASET",
            help="'synthetic', a folder of images and masks (plain, DAVIS, HQSeg-44K), or a COCO/LVIS JSON file.",
        ),
    ],
    bundle: Annotated[
        Path | None, typer.Option(help="Score this exported bundle; needs no torch.", show_default=False)
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="Score this checkpoint with the reference modules, or compare the bundle with it. Without either: "
            "the bundled weights.",
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        str | None, typer.Option(help="Configuration of the checkpoint: a preset or a JSON file.", show_default=False)
    ] = None,
    edge_rule: Annotated[
        str | None, typer.Option(help="released or exact, instead of the checkpoint's.", show_default=False)
    ] = None,
    size: Annotated[
        list[int] | None,
        typer.Option(
            help="Model resolution of the checkpoint, and side of synthetic pictures; several are scored side by side.",
            show_default="the bundle's, or 1024",
        ),
    ] = None,
    clicks: Annotated[int, typer.Option(min=1, help="Clicks a session.")] = MAX_CLICKS,
    seed: Annotated[
        int | None,
        typer.Option(help="Draw each click among the candidates; without it, the first.", show_default=False),
    ] = None,
    length: Annotated[int, typer.Option(min=1, help="Number of synthetic pictures.")] = 200,
    images: Annotated[Path | None, typer.Option(help="Folder of a JSON file's images.", show_default=False)] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of JSON, plot and overlays.")] = Path("eval"),
    save_worst: Annotated[int, typer.Option(min=0, help="Overlays of the worst samples to write.")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads to use.", show_default=False)] = None,
    custom_ops: Annotated[bool, typer.Option(help="The operator library, or plain onnxruntime.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
) -> None:
    """Score a model: NoC, mean IoU after n clicks, failures, and time a click.

    Broken samples are named and counted, and the exit code is 1 then; so it is when bundle and checkpoint differ.

    Example: i2f eval DAVIS/ --bundle bundle --save-worst 10
    """
    if bundle is not None and size:
        raise typer.BadParameter("a bundle has one resolution; --size is for a checkpoint alone", param_hint="--size")
    from inter2former_deploy.data import open_dataset
    from inter2former_deploy.evaluation import ReferenceSegmenter, overlay_worst, plot_mean_iou, table
    from inter2former_deploy.evaluation import evaluate as run
    from inter2former_deploy.evaluation.models import open_bundle_model, open_reference_models

    if bundle is None and checkpoint is None:
        from inter2former_deploy.checkpoint import bundled_weights

        checkpoint = bundled_weights()
    models = [open_bundle_model(bundle, threads, custom_ops)] if bundle else []
    references = open_reference_models(
        checkpoint,
        config,
        edge_rule,
        [models[0].size] if models else size or [1024],
        threads,
        report=lambda note: typer.echo(note, err=True),
    )
    pairs = [(models[0], references[0] if references else None)] if models else [(r, None) for r in references]
    output.mkdir(parents=True, exist_ok=True)
    rows, report, failed = {}, {}, False

    def progress(done: int, total: int, name: str) -> None:
        if not as_json and (done % 10 == 0 or done == total):
            typer.echo(f"{done}/{total}  {name}", err=True)

    for model, against in pairs:
        samples = open_dataset(dataset, images=images, length=length, size=model.size)
        if isinstance(model, ReferenceSegmenter):
            model.experts.take()  # forget what the same weights counted at another size
        result = run(model, samples, clicks=clicks, seed=seed, against=against, progress=progress)
        for group, row in result.scores().items():
            rows[f"{group} at {model.size}"] = row
        report[str(model.size)] = result.to_dict()
        if isinstance(model, ReferenceSegmenter):
            shares = report[str(model.size)]["expert shares"] = model.experts.take()
            typer.echo(f"edge tokens by expert at {model.size}: " + ", ".join(f"{s:.1%}" for s in shares), err=True)
        failed |= bool(result.problems or result.differing())
        for problem in result.problems:
            typer.echo(f"not scored: {problem}", err=True)
        for name in result.differing():
            typer.echo(f"bundle and checkpoint differ: {name}", err=True)
        if save_worst:
            overlay_worst(result, model, samples, output / f"worst-{model.size}", save_worst)
    (output / "eval.json").write_text(json.dumps(report))
    if rows:
        plot_mean_iou(rows, output / "eval.png")
        typer.echo(json.dumps(rows) if as_json else table(rows))
    if failed:
        raise typer.Exit(FAILED)
