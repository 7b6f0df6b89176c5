"""The paper's ablations (Table 2) on our data: what each part of the decoder brings and costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inter2former_deploy.data import Dataset, Part, Tally
from inter2former_deploy.families.checkpoint import build_model, load_checkpoint
from inter2former_deploy.families.inter2former.config import ModelConfig
from inter2former_deploy.training import TrainConfig, train

from .reference import ReferenceSegmenter
from .sessions import Evaluation, evaluate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BASE = "hybrid, dynamic prompt, local upsampling, exact edges"
VARIANTS: dict[str, dict[str, Any]] = {
    BASE: {"attention": "hybrid", "prompt": "dynamic", "upsampling": "local", "edge_rule": "exact"},
    "all full attention": {"attention": "full"},
    "all BSQ attention": {"attention": "bsq"},
    "all VQ attention": {"attention": "vq"},
    "dense prompt": {"prompt": "dense"},
    "full upsampling": {"upsampling": "full"},
    "edge rule as released": {"edge_rule": "released"},
}
SHARES_BASE = ("full upsampling",)  # training upsamples the whole map anyway: these weights are the base's


def train_variants(
    base: ModelConfig, config: TrainConfig, out: Path, *, report: Callable[[str], None] = print, **options: Any
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
    weights: dict[str, Path] = {}
    for name, changes in VARIANTS.items():
        if name in SHARES_BASE:
            continue
        report(f"--- {name}")
        model = base.with_decoder(**{**VARIANTS[BASE], **changes})
        done = train(model, config, out / name.replace(" ", "-").replace(",", ""), report=report, **options)
        if done is None:
            raise RuntimeError(f"the training of {name!r} was stopped; the same command goes on")
        weights[name] = done
    return {name: weights.get(name, weights[BASE]) for name in VARIANTS}


def load_variants(weights: Mapping[str, Path], size: int) -> dict[str, ReferenceSegmenter]:
    """The reference modules of each variant at a model resolution."""
    models = {}
    for name, path in weights.items():
        checkpoint = load_checkpoint(path, family="inter2former")
        config = checkpoint.config.with_decoder(**{**VARIANTS[BASE], **VARIANTS[name]})
        model = build_model(config, checkpoint.state_dict)
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
    for part in parts:
        passed_over.add_all(part.passed_over)
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
