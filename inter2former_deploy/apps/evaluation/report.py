"""Evaluations to read and to look at."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import cv2
import numpy as np

from inter2former_deploy.core.overlay import draw_overlay
from inter2former_deploy.data import Dataset

from .sessions import THRESHOLDS, Evaluation, Opens

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from inter2former_deploy.apps.batch.places import Folder

_COLUMNS = ("samples", *(f"NoC@{t * 100:.0f}" for t in THRESHOLDS), "failures@90", "1-mIoU", "3-mIoU", "5-mIoU")


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Scores as Markdown, one row each.

    Args:
        rows: by name, the numbers that `Evaluation.scores` gives for all samples or a group.
    """
    lines = [" | ".join(["", *_COLUMNS, "SPC", "online SPC"]), " | ".join(["---"] * (len(_COLUMNS) + 3))]
    for name, row in rows.items():
        values = [f"{row[c]:.3f}" if isinstance(row.get(c), float) else str(row.get(c, "")) for c in _COLUMNS]
        times = [f"{1000 * row[c]:.0f} ms" for c in ("SPC", "online SPC")]
        lines.append(" | ".join([name, *values, *times]))
    return "\n".join(f"| {line} |" for line in lines)


def plot_mean_iou(curves: Mapping[str, Mapping[str, Any]], out: Path | IO[bytes]) -> None:
    """Writes a PNG of the mean IoU against clicks, one line for each entry of scores; needs matplotlib."""
    mean_iou_figure(curves).savefig(out)


def mean_iou_figure(curves: Mapping[str, Mapping[str, Any]]) -> Figure:
    """The figure that `plot_mean_iou` writes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    for name, row in curves.items():
        means = row["mIoU by click"]
        axis.plot(range(1, len(means) + 1), means, marker=".", label=f"{name} ({row['samples']})")
    most = max(len(row["mIoU by click"]) for row in curves.values())
    axis.set(xlabel="clicks", ylabel="mean IoU", ylim=(None, 1))
    axis.set_xticks(range(1, most + 1) if most <= 10 else [1, *range(5, most + 1, 5)])  # clicks are whole
    axis.grid(alpha=0.3)
    axis.legend()
    return figure


def overlay_worst(evaluation: Evaluation, model: Opens, dataset: Dataset, folder: Folder, count: int) -> list[str]:
    """Draws the worst samples, the prediction with its clicks beside the truth, and returns the names of the files."""
    worst = {r.name: (rank, r) for rank, r in enumerate(evaluation.worst(count), start=1)}
    names: list[str] = []
    for index in range(len(dataset)):
        if len(names) == len(worst):
            break
        try:
            sample = dataset[index]
        except Exception:  # named among the evaluation's problems already
            continue
        if sample.name not in worst:
            continue
        rank, result = worst[sample.name]
        session = model.open(sample.image)
        mask = np.zeros(sample.mask.shape, bool)
        for click in result.clicks:
            mask = session.click(click.x, click.y, click.positive)
        both = [draw_overlay(sample.image, mask, result.clicks), draw_overlay(sample.image, sample.mask == 1)]
        names.append(f"{rank:03d}-{sample.name.replace('/', '_')}.jpg")
        folder.write(names[-1], cv2.imencode(".jpg", np.concatenate(both, 1)[..., ::-1])[1].tobytes())
    return sorted(names)
