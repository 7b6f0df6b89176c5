"""`i2f ablate`: variants of a model, trained alike and scored side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from inter2former_deploy.apps.cli.evaluate import Splits
from inter2former_deploy.apps.cli.options import Threads
from inter2former_deploy.apps.cli.train import Ema, LearningRate, RampShare, Stages, Targets, Warmup, train_config
from inter2former_deploy.core.clicks import MAX_CLICKS
from inter2former_deploy.core.files import check_new_folder
from inter2former_deploy.core.packages import PHOTO_MODULES, TORCH_MODULES, require
from inter2former_deploy.core.threads import available_cpus
from inter2former_deploy.families.config import load_config


def ablate(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of runs, JSON and plots; unfinished runs go on.")
    ] = Path("ablate"),
    config: Annotated[str, typer.Option(help="Model: a preset or a JSON file.")] = "demo",
    initial: Annotated[
        Path | None,
        typer.Option(
            "--init", help="Checkpoint that every variant starts from, instead of nothing.", show_default=False
        ),
    ] = None,
    steps: Annotated[int, typer.Option(help="Optimiser steps of each variant.")] = 3000,
    stage: Stages = None,
    targets: Targets = 2,
    learning_rate: LearningRate = 1e-3,
    warmup: Warmup = 300,
    ema: Ema = 0.999,
    ramp_share: RampShare = 0.4,
    dataset: Annotated[str, typer.Option(help="What to score on, as for i2f eval.")] = "synthetic",
    split: Splits = None,
    size: Annotated[int, typer.Option(help="Model resolution of the scores.")] = 1024,
    length: Annotated[int, typer.Option(min=1, help="Number of synthetic pictures.")] = 100,
    clicks: Annotated[int, typer.Option(min=1, help="Clicks a session.")] = MAX_CLICKS,
    workers: Annotated[int, typer.Option(min=0, help="Processes that prepare training pictures.")] = 1,
    threads: Threads = None,
) -> None:
    """Train and score the papers' ablations.

    Of Inter2Former: attention, prompt, upsampling, edge rule; of HRSAM: with and without its state-space modules.

    Example: i2f ablate --steps 3000 -o ablate
    """
    given = dict(locals())
    require(*TORCH_MODULES, *PHOTO_MODULES, extra="train", needed_by="i2f ablate")  # it trains on synthetic scenes
    check_new_folder(output, "--output")
    import torch

    from inter2former_deploy.apps.evaluation import plot_mean_iou, table
    from inter2former_deploy.apps.evaluation.ablation import (
        evaluate_variants,
        load_variants,
        plot_speed_and_accuracy,
        train_variants,
    )
    from inter2former_deploy.data import FolderDataset, open_dataset

    torch.set_num_threads(threads or available_cpus())
    samples = open_dataset(dataset, splits=split or (), length=length, size=size)
    if isinstance(samples, FolderDataset) and len(samples.splits) > 1:
        raise ValueError(f"{dataset} has the splits {', '.join(samples.splits)}: choose with --split")
    numbers = train_config(given)
    weights = train_variants(load_config(config), numbers, output, report=typer.echo, workers=workers, initial=initial)

    def progress(done: int, total: int, _: str) -> None:
        typer.echo(f"scored {done}/{total}", err=True)

    results = evaluate_variants(load_variants(weights, size), samples, clicks=clicks, progress=progress)
    rows = {name: result.scores()["all"] for name, result in results.items() if result.results}
    (output / "ablate.json").write_text(json.dumps({name: r.to_dict() for name, r in results.items()}))
    if rows:
        plot_speed_and_accuracy(rows, output / "ablate.png")
        plot_mean_iou(rows, output / "ablate-iou.png")
        typer.echo(table(rows))
    problems = sorted({p for r in results.values() for p in r.problems})
    for problem in problems:
        typer.echo(f"not scored: {problem}", err=True)
    if problems:
        raise typer.Exit(1)
