"""`i2f eval`: simulated click sessions on a dataset."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inter2former_deploy.apps.cli.many import Ray, Workers, check_ray, outcomes_of
from inter2former_deploy.apps.cli.options import CustomOps, Decoder, Threads
from inter2former_deploy.core.clicks import MAX_CLICKS
from inter2former_deploy.core.packages import PHOTO_MODULES, PLOT_MODULES, TORCH_MODULES, require

if TYPE_CHECKING:
    from inter2former_deploy.apps.batch.scoring import ScoreJob
    from inter2former_deploy.apps.evaluation import Evaluation
    from inter2former_deploy.data import Dataset, FileDataset

FAILED = 1
UNFINISHED = "unfinished"  # folder of what is scored already, while the rest is not

# Options that i2f train has, too.
Splits = Annotated[
    list[str] | None,
    typer.Option(
        "--split",
        metavar="NAME",
        help="Of a folder: only samples of this split, by names of folders (train, val, test), lists of the data set "
        "(2017/val) or resolution (480p). Repeated: samples that belong to all of them.",
        show_default=False,
    ),
]
Groups = Annotated[
    list[str] | None,
    typer.Option(
        "--group", metavar="NAME", help="Of a folder: only this part of it, such as DIS-VD; 'DIS-TE*' is a pattern."
    ),
]
EachId = Annotated[
    bool | None,
    typer.Option(
        "--each-id/--all-ids",
        help="Of label maps: every id is an object, or all ids together are one. Instances of VOC and SBD are objects "
        "each, other masks one, if not given.",
        show_default=False,
    ),
]
Crowds = Annotated[
    bool,
    typer.Option(
        "--crowds", help="Of a JSON file: take annotations with iscrowd 1 as objects; else they are left out."
    ),
]
Strict = Annotated[
    bool,
    typer.Option("--strict", help="Refuse what would be passed over: boxes, empty masks, files without a partner."),
]
ConvertColours = Annotated[
    bool,
    typer.Option(
        "--convert-colours",
        help="Convert pictures to sRGB by their colour profiles, as i2f segment does; else colours are taken as "
        "they are stored, as the authors' code does.",
    ),
]


def evaluate(
    ctx: typer.Context,
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="DATASET",
            help="'synthetic', 'composites:FOLDER' with a folder of cut-outs and backgrounds, 'photographs', a folder "
            "of images and masks (docs/datasets.md lists the layouts), or a COCO/LVIS JSON file; paths or URLs.",
        ),
    ],
    bundle: Annotated[
        Path | None, typer.Option(help="Score this exported bundle; needs no torch.", show_default=False)
    ] = None,
    decoder: Decoder = None,
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
            help="Model resolution of the checkpoint, and side of synthetic pictures and composites; several are "
            "scored side by side.",
            show_default="the bundle's, or 1024",
        ),
    ] = None,
    clicks: Annotated[int, typer.Option(min=1, help="Clicks a session.")] = MAX_CLICKS,
    seed: Annotated[
        int | None,
        typer.Option(help="Draw each click among the candidates; without it, the first.", show_default=False),
    ] = None,
    length: Annotated[int, typer.Option(min=1, help="Number of synthetic pictures or composites.")] = 200,
    images: Annotated[
        str | None, typer.Option(metavar="DIR", help="Folder of a JSON file's images, or URL.", show_default=False)
    ] = None,
    split: Splits = None,
    group: Groups = None,
    each_id: EachId = None,
    crowds: Crowds = False,
    strict: Strict = False,
    convert_colours: ConvertColours = False,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="DIR", help="Folder of JSON, plot and overlays, or URL.")
    ] = "eval",
    save_worst: Annotated[int, typer.Option(min=0, help="Overlays of the worst samples to write.")] = 0,
    threads: Threads = None,
    custom_ops: CustomOps = True,
    ray: Ray = None,
    workers: Workers = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
) -> None:
    """Score a model: NoC, mean IoU after n clicks, failures, and time a click.

    With a bundle alone, a run that was stopped goes on where it was, from what it left in the folder of --output, and
    workers of Ray may do it (docs/many-pictures.md); times are those of machines that do several things at once then.
    Samples without an object are counted and passed over. Broken samples are named and counted, and the exit code is 1
    then; so it is when bundle and checkpoint differ.

    Example: i2f eval DAVIS/ --bundle bundle --save-worst 10
    """
    if bundle is not None and size:
        raise typer.BadParameter("a bundle has one resolution; --size is for a checkpoint alone", param_hint="--size")
    check_ray(ray, workers, "i2f eval")
    if ray is not None and (bundle is None or checkpoint is not None):
        raise ValueError("--ray scores bundles: give --bundle, without --checkpoint")
    # What can be known is looked at first: packages, the output, the data; then come models and hours of clicks.
    if bundle is None or checkpoint is not None:
        what = "i2f eval of a checkpoint" if checkpoint else "i2f eval without --bundle"
        require(*TORCH_MODULES, extra="export", needed_by=what)
    if dataset in ("synthetic", "photographs"):
        require(*PHOTO_MODULES, extra="train", needed_by=f"the data set {dataset!r}")
    plot = all(find_spec(module) for module in PLOT_MODULES)
    if not plot:
        typer.echo("no plot will be made: pip install 'inter2former-deploy[eval]' brings matplotlib", err=True)
    _prepare(output)
    from inter2former_deploy.apps.batch.places import open_folder
    from inter2former_deploy.apps.batch.scoring import Samples, ScoreJob
    from inter2former_deploy.apps.evaluation import ReferenceSegmenter, overlay_worst, plot_mean_iou, table
    from inter2former_deploy.apps.evaluation import evaluate as run
    from inter2former_deploy.apps.evaluation.models import open_bundle_model, open_reference_models
    from inter2former_deploy.data import COMPOSITES, FileDataset

    folder = open_folder(output, "--output")
    options: dict[str, Any] = {
        "splits": split or (),
        "groups": group or (),
        "each": each_id,
        "crowds": crowds,
        "strict": strict,
        "convert_colours": convert_colours,
        "length": length,
    }

    source = Samples(dataset, images, options)
    ctx.call_on_close(source.copies.close)
    report: dict[str, Any] = {}
    drawn = dataset == "synthetic" or dataset.startswith(COMPOSITES)  # at the model's size
    files = None if drawn else source.open(0)
    failed = False
    if isinstance(files, FileDataset):
        report["dataset"] = _described(files, dataset, convert_colours, source.copies.named)
        failed = bool(files.problems)

    if bundle is None and checkpoint is None:
        from inter2former_deploy.families.checkpoint import bundled_weights

        checkpoint = bundled_weights()
    models = [open_bundle_model(bundle, decoder, threads, custom_ops)] if bundle else []
    references = open_reference_models(
        checkpoint,
        config,
        edge_rule,
        [models[0].size] if models else size or [1024],
        threads,
        report=lambda note: typer.echo(note, err=True),
    )
    pairs = [(models[0], references[0] if references else None)] if models else [(r, None) for r in references]
    rows: dict[str, Any] = {}

    def progress(done: int, total: int, name: str) -> None:
        if not as_json and (done % 10 == 0 or done == total):
            typer.echo(f"{done}/{total}  {name}", err=True)

    for model, against in pairs:
        samples = files or source.open(model.size)
        if isinstance(model, ReferenceSegmenter):
            model.experts.take()  # forget what the same weights counted at another size
        if bundle is not None and against is None:
            job = ScoreJob(
                bundle=bundle,
                decoder=decoder,
                samples=source,
                clicks=clicks,
                seed=seed,
                output=f"{output.rstrip('/')}/{UNFINISHED}",
                custom_ops=custom_ops,
            )
            result = _in_parts(job, samples, threads, ray, workers, progress)
        else:
            result = run(model, samples, clicks=clicks, seed=seed, against=against, progress=progress)
        for name, row in result.scores().items():
            rows[f"{name} at {model.size}"] = row
        report[str(model.size)] = result.to_dict()
        if isinstance(model, ReferenceSegmenter) and result.results:
            shares = report[str(model.size)]["expert shares"] = model.experts.take()
            if shares:
                typer.echo(f"edge tokens by expert at {model.size}: " + ", ".join(f"{s:.1%}" for s in shares), err=True)
        failed |= bool(result.problems or result.differing() or not result.results)
        for line in result.passed_over.lines():
            typer.echo(f"passed over: {line}", err=True)
        for problem in result.problems:
            typer.echo(f"not scored: {source.copies.named(problem)}", err=True)
        for name in result.differing():
            typer.echo(f"bundle and checkpoint differ: {name}", err=True)
        if save_worst:
            worst = open_folder(f"{output.rstrip('/')}/worst-{model.size}", "--output")
            overlay_worst(result, model, samples, worst, save_worst)
    folder.write("eval.json", json.dumps(report).encode())
    if rows:
        typer.echo(json.dumps(rows) if as_json else table(rows))
        if plot:
            plot_mean_iou(rows, drawing := io.BytesIO())
            folder.write("eval.png", drawing.getvalue())
    else:
        typer.echo("no sample could be scored", err=True)
    if failed:
        raise typer.Exit(FAILED)


def _in_parts(
    job: ScoreJob,
    samples: Dataset,
    threads: int | None,
    ray: str | None,
    workers: int | None,
    progress: Callable[[int, int, str], None],
) -> Evaluation:
    """The evaluation of a bundle, whose parts are kept until all of them are done.

    Raises:
        OSError: a part could not be written; those that were are not done again.
    """
    from inter2former_deploy.apps.batch.places import open_folder
    from inter2former_deploy.apps.batch.scoring import gather
    from inter2former_deploy.runtime.bundle import read_bundle

    manifest = read_bundle(job.bundle, job.decoder).manifest
    parts = job.parts(samples, manifest.model_id(manifest.decoder(job.decoder)))
    folder = open_folder(job.output, "--output")
    there = set(folder.names())
    left = [part for part in parts if part.name not in there]
    done, unwritten = len(samples) - sum(len(part.indices) for part in left), []
    if done:
        typer.echo(f"{done} of {len(samples)} samples were scored by a run that was stopped", err=True)
    with outcomes_of(job, [[part] for part in left], threads, ray, workers) as outcomes:
        for outcome in outcomes:
            done += outcome.count
            unwritten += [outcome.reason] if outcome.reason else []
            progress(done, len(samples), outcome.name)
    if unwritten:
        raise OSError(f"{len(unwritten)} parts are not written: make room, then the same goes on: {unwritten[0]}")
    evaluation = gather(parts, folder, bool(getattr(samples, "strict", False)))
    folder.clear()
    return evaluation


def _prepare(output: str) -> None:
    """The folder that results go to, before they are computed; one of an object store needs nothing.

    Raises:
        OSError: it cannot be made or written to.
    """
    from inter2former_deploy.apps.batch.places import is_url

    if is_url(output):
        return
    try:
        Path(output).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output):
            pass
    except OSError as error:
        raise OSError(f"--output {output}: cannot write there: {error.strerror}") from error


def _described(files: FileDataset, source: str, convert_colours: bool, named: Callable[[str], str]) -> dict[str, Any]:
    """Says how the files were understood, and returns it for the report."""
    colours = (
        "converted to sRGB by their profiles"
        if convert_colours
        else "as they are stored, as the authors' code reads them (--convert-colours: converted to sRGB)"
    )
    typer.echo(f"{source}: {len(files)} objects; colours {colours}", err=True)  # type: ignore[arg-type]
    for line in (*files.remarks(), *files.problems):
        typer.echo(named(line), err=True)
    return {
        "source": source,
        "colours": "sRGB" if convert_colours else "as stored",
        "notes": list(map(named, files.notes)),
        "passed over": files.passed_over.names,
        "problems": list(map(named, files.problems)),
    }
