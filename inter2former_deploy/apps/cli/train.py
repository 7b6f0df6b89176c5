"""`i2f train`: pictures with masks in, weights out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inter2former_deploy.apps.cli.evaluate import ConvertColours, Crowds, EachId, Splits, Strict
from inter2former_deploy.apps.cli.options import Threads
from inter2former_deploy.core.files import check_new_folder
from inter2former_deploy.core.packages import PHOTO_MODULES, PLOT_MODULES, TORCH_MODULES, require
from inter2former_deploy.core.threads import available_cpus
from inter2former_deploy.families.config import load_config

if TYPE_CHECKING:
    from inter2former_deploy.data import Dataset
    from inter2former_deploy.training import TrainConfig

STOPPED = 4  # exit code: before the last step
_LISTED = 50  # broken samples that are named; the others are counted

# Options that i2f ablate has, too.
Stages = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SHARE:SIZE:BATCH",
        help="A part of the run: its share of the steps, side of the pictures in pixels, pictures a step; "
        "':encoder' behind them trains the encoder alone, HRSAM's by a --teacher. "
        "Repeat it; small pictures first make cheap steps. [default: 1:256:6]",
        show_default=False,
    ),
]
Targets = Annotated[int, typer.Option(help="Objects trained on in each picture.")]
LearningRate = Annotated[float, typer.Option(help="Highest learning rate.")]
Warmup = Annotated[int, typer.Option(help="Steps to reach it.")]
Ema = Annotated[float, typer.Option(help="Decay of the averaged weights.")]
RampShare = Annotated[
    float, typer.Option(help="First share of the steps in which synthetic scenes go from easy to hard.")
]


def train_config(given: Mapping[str, Any]) -> TrainConfig:
    """The numbers of a run from a command's options by name; what they do not name keeps its default."""
    from inter2former_deploy.training import Stage, TrainConfig
    from inter2former_deploy.training.fast import bf16_is_faster

    numbers = TrainConfig(**{f.name: given[f.name] for f in fields(TrainConfig) if given.get(f.name) is not None})
    if given.get("bf16") is None and given.get("device", "cpu") == "cpu":
        numbers = replace(numbers, bf16=bf16_is_faster())
    stages = tuple(Stage.parse(text) for text in given["stage"] or ())
    return replace(numbers, stages=stages) if stages else numbers


def train(
    data: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[DATA]...",
            help="Folders of images and masks, COCO/LVIS JSON files, 'composites:FOLDER' with a folder of cut-outs and "
            "backgrounds, or 'synthetic', which is also what is used without any.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of state, log, plot and weights; an unfinished run goes on.")
    ] = Path("train"),
    config: Annotated[str, typer.Option(help="Model: a preset or a JSON file.")] = "demo",
    images: Annotated[
        Path | None, typer.Option(help="Folder of the images that JSON files name.", show_default=False)
    ] = None,
    split: Splits = None,
    each_id: EachId = None,
    crowds: Crowds = False,
    strict: Strict = False,
    convert_colours: ConvertColours = False,
    synthetic: Annotated[
        float, typer.Option(min=0, max=1, help="Share of synthetic pictures when others are given, too.")
    ] = 0.5,
    composites: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of composites among these others when real pictures are given, too."),
    ] = 0.5,
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 20_000,
    stage: Stages = None,
    targets: Targets = 2,
    optimizer: Annotated[str, typer.Option(help="adamw, or muon: Muon for the matrices of linear layers.")] = "adamw",
    learning_rate: LearningRate = 1e-3,
    warmup: Warmup = 300,
    decay_share: Annotated[float, typer.Option(help="Last share of the steps in which it falls.")] = 1.0,
    ema: Ema = 0.999,
    round_decay: Annotated[
        float, typer.Option(help="Rounds of clicks before a step: k are as likely as this to the power of k.")
    ] = 0.6,
    seed: Annotated[int, typer.Option(help="Of weights, pictures and clicks.")] = 0,
    bf16: Annotated[
        bool | None,
        typer.Option(
            help="Encoder, edge network and upsampling in bfloat16.",
            show_default="where it is faster than float32 here",
        ),
    ] = None,
    auxiliary: Annotated[float, typer.Option(help="Weight of losses on short ways to encoder and neck.")] = 1.0,
    jaccard: Annotated[float, typer.Option(help="Weight of a Jaccard loss of the logits, beside the paper's.")] = 0.0,
    ramp_share: RampShare = 0.4,
    initial: Annotated[
        Path | None,
        typer.Option(
            "--init",
            help="Checkpoint to start from, instead of nothing; for HRSAM also SAM's, whose prompt encoder and "
            "mask decoder are taken.",
            show_default=False,
        ),
    ] = None,
    teacher: Annotated[
        Path | None,
        typer.Option(help="Folder of a teacher's features, <sample>.npy [C, h, w], to imitate.", show_default=False),
    ] = None,
    distillation: Annotated[float, typer.Option(help="Weight of the teacher's term.")] = 1.0,
    drop_path: Annotated[
        float, typer.Option(help="Of HRSAM's encoder in stages of the encoder alone: share of skipped branches.")
    ] = 0.2,
    layer_decay: Annotated[
        float, typer.Option(help="Block i of the encoder's n learns at this to the power of n - i of the rate.")
    ] = 1.0,
    device: Annotated[str, typer.Option(help="Of torch: cpu, cuda.")] = "cpu",
    threads: Threads = None,
    processes: Annotated[
        int, typer.Option(min=1, help="Processes that share the pictures of every step, and the threads.")
    ] = 1,
    workers: Annotated[int, typer.Option(min=0, help="Processes that prepare pictures, for each of them.")] = 1,
    save_every: Annotated[float, typer.Option(help="Seconds between saved states.")] = 180.0,
    log_every: Annotated[int, typer.Option(min=1, help="Steps between lines of progress.")] = 20,
    minutes: Annotated[
        float | None, typer.Option(help="Stop after this time, to go on later.", show_default=False)
    ] = None,
) -> None:
    """Train a model; the same command goes on where it was stopped, also after a kill.

    Example: i2f train photos/ --config demo --steps 20000 -o run
    """
    given = dict(locals())
    sources = data or ["synthetic"]
    if "photographs" in sources:
        raise typer.BadParameter("the photographs are there to judge by, not to train on", param_hint="DATA")
    require(
        *TORCH_MODULES,
        *(PHOTO_MODULES if "synthetic" in sources else PLOT_MODULES),
        extra="train",
        needed_by="i2f train",
    )
    check_new_folder(output, "--output")
    import torch

    from inter2former_deploy.data import open_dataset
    from inter2former_deploy.training import train as run

    numbers = train_config(given)
    datasets: list[Dataset] = []
    for source in sources:
        if source == "synthetic":
            continue
        found = open_dataset(
            source,
            images=images if Path(source).is_file() else None,
            splits=(split or ()) if Path(source).is_dir() else (),
            each=each_id if Path(source).is_dir() else None,
            crowds=crowds,
            strict=strict,
            convert_colours=convert_colours,
        )
        datasets.append(_usable(source, found, bool(split)))
    torch.set_num_threads(threads or available_cpus())
    weights = run(
        load_config(config),
        numbers,
        output,
        datasets=datasets,
        synthetic=synthetic if "synthetic" in sources else 0.0,
        composites=composites,
        teacher=teacher,
        initial=initial,
        device=device,
        processes=processes,
        workers=workers,
        save_every=save_every,
        log_every=log_every,
        minutes=math.inf if minutes is None else minutes,
        report=typer.echo,
    )
    if not weights:
        raise typer.Exit(STOPPED)
    typer.echo(f"weights: {weights}  ({weights.stat().st_size / 1e6:.1f} MB)")


def _usable(source: str, dataset: Dataset, split_chosen: bool) -> Dataset:
    """The samples to train on: everything is read once before the first step.

    Raises:
        DataError: the data set has several splits of which none was chosen, samples are broken, or none is left.
    """
    from inter2former_deploy.data import CompositeDataset, DataError, FileDataset, FolderDataset, Part, check

    if isinstance(dataset, CompositeDataset):
        dataset.composites.check()
        typer.echo(
            f"{source}: {len(dataset.composites.cutouts)} cut-outs, {len(dataset.composites.backgrounds)} photographs"
        )
        return dataset
    missing: list[str] = []
    if isinstance(dataset, FileDataset):
        for line in dataset.remarks():
            typer.echo(f"{source}: {line}")
        missing = dataset.problems
    if isinstance(dataset, FolderDataset) and len(dataset.splits) > 1 and not split_chosen:
        names = ", ".join(split or "none" for split in dataset.splits)
        raise DataError(f"{source} has the splits {names}: choose with --split NAME; --split all trains on all of them")
    result = check(dataset, _checked)
    if problems := [*missing, *result.problems]:
        lines = "\n".join(f"  {problem}" for problem in problems[:_LISTED])
        more = f"\n  and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
        raise DataError(f"{source}: {len(problems)} samples cannot be used:\n{lines}{more}")
    for line in result.passed_over.lines():
        typer.echo(f"{source}: passed over: {line}")
    if not result.usable:
        raise DataError(f"{source}: no sample has an object")
    return dataset if len(result.usable) == len(dataset) else Part(dataset, result.usable)


def _checked(done: int, total: int) -> None:
    if done % 500 == 0 or done == total:
        typer.echo(f"checked {done}/{total} samples")
