"""The paper's Figure 3 on this machine: latency over object area, and the experts' speed-up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from inter2former_deploy.apps.bench import operators
from inter2former_deploy.apps.bench.report import CALLS, Say
from inter2former_deploy.apps.bench.scene import disc_labels
from inter2former_deploy.apps.bench.workers import Workload, alternate
from inter2former_deploy.families.inter2former.config import PATCH

AREAS = (0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)


def measure_areas(threads: int, seconds: float, say: Say, side: int) -> dict[str, Any]:
    """Milliseconds of prompt embedding, attention and upsampling over the share of the map that the object takes.

    Args:
        threads: Of every variant.
        seconds: For each variant of each case.
        say: Takes a line for each area.
        side: Tokens in a row of the map, which is a square.
    """

    def times(area: float) -> dict[str, Workload]:
        def of(case: str, **arguments: Any) -> Workload:
            return operators.workload(case, "library", {"side": side, **arguments})

        loads = {
            "prompt dynamic": of("prompt_embedding", share=area),
            "prompt dense": of("prompt_embedding", share=area, dense=True),
            "attention hybrid": of("hybrid_attention", share=edge_share(area, side)),
            "attention full": of("hybrid_attention", share=1.0),
            "attention bsq": of("hybrid_attention", share=0.0),
        }
        for stage in range(4):
            loads[f"upsampling local {stage}"] = of("local_upsample", share=area, stage=stage)
            loads[f"upsampling full {stage}"] = of("local_upsample", share=1.0, stage=stage)
        return loads

    rows = []
    for area in AREAS:
        medians = {
            name: t.median for name, t in alternate(times(area), threads=threads, seconds=seconds, calls=CALLS).items()
        }
        for kind in ("local", "full"):
            medians[f"upsampling {kind}"] = sum(medians.pop(f"upsampling {kind} {stage}") for stage in range(4))
        rows.append({"area": area, "milliseconds": medians})
        say(f"area {area:.2f}: " + ", ".join(f"{name} {ms:.2f} ms" for name, ms in medians.items()))
    return {"threads": threads, "tokens": side * side, "rows": rows}


def edge_share(area: float, side: int) -> float:
    """Share of side x side tokens on the boundary of a disc of some area (edge rule `exact`); 1 for the first click."""
    import torch

    from inter2former_deploy.operators.formulas import edge_tokens

    labels = torch.from_numpy(disc_labels(side * PATCH, area))
    return len(edge_tokens(labels, "exact")) / side**2


def check_picture(path: Path) -> None:
    """Tells before the measurements what would fail after them.

    Raises:
        ValueError: a picture of this name cannot be written.
        ModuleNotFoundError: there is no matplotlib.
    """
    from matplotlib.backend_bases import FigureCanvasBase

    kinds = FigureCanvasBase.get_supported_filetypes()
    if path.suffix.lower().lstrip(".") not in kinds:
        raise ValueError(f"{path}: the picture's name must end in one of {', '.join(kinds)}; the JSON is put beside it")


def draw(areas: Mapping[str, Any], experts: Mapping[str, Any], path: Path) -> None:
    """One picture of four panels, written to a file.

    Args:
        areas: of `measure_areas`.
        experts: of `report.measure_experts`.
        path: of the picture.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    panels(areas, experts).savefig(path, dpi=120)


def panels(areas: Mapping[str, Any], experts: Mapping[str, Any]) -> Any:
    """The picture as matplotlib's Figure: prompt, attention and upsampling over the area, and the experts.

    Args:
        areas: of `measure_areas`.
        experts: of `report.measure_experts`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 3.4), layout="constrained")
    prompt, attention, upsampling, last = figure.subplots(1, 4)
    shares = [100 * row["area"] for row in areas["rows"]]
    for axes, part, variants in (
        (prompt, "prompt", ("dynamic", "dense")),
        (attention, "attention", ("hybrid", "full", "bsq")),
        (upsampling, "upsampling", ("local", "full")),
    ):
        for variant in variants:
            axes.plot(
                shares, [row["milliseconds"][f"{part} {variant}"] for row in areas["rows"]], "o-", label=variant, ms=3
            )
        axes.set(title=f"{part}, {areas['tokens']} tokens", xlabel="object area, % of the image", ylabel="ms")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False)
    _draw_experts(last, experts["rows"])
    return figure


def _draw_experts(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    numbers = [row["what"]["experts"] for row in rows]
    for variant, label in (("torch", "loop over experts (PyTorch)"), ("library", "HybridExperts")):
        axes.plot(numbers, [row["variants"][variant]["median"] for row in rows], "o-", label=label, ms=3)
    axes.set(title="experts, all tokens routed", xlabel="routed experts", ylabel="ms", xscale="log", xticks=numbers)
    axes.set_xticklabels([str(n) for n in numbers])
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, loc="center right")
