"""The papers' ablations on our data: what a part of the model brings and costs. Which parts, the family says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inter2former_deploy.data import Dataset, Part, Tally
from inter2former_deploy.families import part
from inter2former_deploy.families.checkpoint import build_model, load_checkpoint
from inter2former_deploy.families.config import Config
from inter2former_deploy.training import TrainConfig, train

from .reference import ReferenceSegmenter
from .sessions import Evaluation, evaluate

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def train_variants(
    base: Config, config: TrainConfig, out: Path, *, report: Callable[[str], None] = print, **options: Any
) -> dict[str, Path]:
    """Trains every variant alike, each in a folder of its own; what is done already is not done again.

    Args:
        base: the model that they are variants of.
        config: of every run.
        out: folder of the runs.
        report: takes lines of progress.
        options: of `train`.

    Returns:
        The weights' file of each variant.
    """
    family = part(base.family, "config")
    weights: dict[str, Path] = {}
    for name, change in family.VARIANTS.items():
        if name in family.TRAINED_AS_FIRST:
            continue
        report(f"--- {name}")
        done = train(change(base), config, out / name.replace(" ", "-").replace(",", ""), report=report, **options)
        if done is None:
            raise RuntimeError(f"the training of {name!r} was stopped; the same command goes on")
        weights[name] = done
    first = next(iter(weights.values()))
    return {name: weights.get(name, first) for name in family.VARIANTS}


def load_variants(weights: Mapping[str, Path], size: int) -> dict[str, ReferenceSegmenter]:
    """The reference modules of each variant at a model resolution."""
    models = {}
    for name, path in weights.items():
        checkpoint = load_checkpoint(path)
        change = part(checkpoint.config.family, "config").VARIANTS[name]
        model = build_model(change(checkpoint.config), checkpoint.state_dict)
        models[name] = ReferenceSegmenter(model, size)
    return models


def evaluate_variants(
    models: Mapping[str, ReferenceSegmenter],
    dataset: Dataset,
    *,
    clicks: int,
    progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, Evaluation]:
    """Sessions of all variants, in turn on each sample, so that a machine's moods touch all their times alike."""
    parts: dict[str, list[Evaluation]] = {name: [] for name in models}
    for index in range(len(dataset)):
        for name, model in models.items():
            parts[name].append(evaluate(model, Part(dataset, [index]), clicks=clicks))
        if progress:
            progress(index + 1, len(dataset), "")
    return {name: _joined(evaluations) for name, evaluations in parts.items()}


def _joined(parts: Sequence[Evaluation]) -> Evaluation:
    passed_over = Tally()
    for evaluation in parts:
        passed_over.add_all(evaluation.passed_over)
    return Evaluation([r for p in parts for r in p.results], [t for p in parts for t in p.problems], passed_over)


def plot_speed_and_accuracy(rows: Mapping[str, Mapping[str, Any]], out: Path) -> None:
    """Writes a picture of NoC@90 against the time of a click, one point for each variant (the paper's Figure 5)."""
    speed_and_accuracy_figure(rows).savefig(out)


def speed_and_accuracy_figure(rows: Mapping[str, Mapping[str, Any]]) -> Figure:
    """The figure that `plot_speed_and_accuracy` writes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axis = figure.subplots()
    for name, row in rows.items():
        axis.scatter(1000 * row["online SPC"], row["NoC@90"], label=name)
    axis.set(xlabel="milliseconds a click", ylabel="NoC@90 (lower is better)")
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small")
    return figure
