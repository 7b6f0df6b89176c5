"""A session of 20 clicks on a photograph: 20-SPC and Online SPC, in seconds a click as the paper counts them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from inter2former_deploy.apps.bench.workers import TUNED_MALLOC, Timing, Workload, threads_here

CLICKS = 20


def workloads(bundle: Path, decoder: str | None, checkpoint: Path | None) -> dict[str, Workload]:
    """Opening the photograph, and 20 clicks on it, under each variant; PyTorch needs the bundle's checkpoint."""
    loads = {}
    for part in ("open", "clicks"):
        for variant, custom_ops in (("library", True), ("plain", False)):
            arguments = {
                "bundle": str(bundle.resolve()),
                "decoder": decoder,
                "custom_ops": custom_ops,
                "part": part,
            }
            loads[f"{variant} {part}"] = Workload(builder=f"{__name__}:runtime", arguments=arguments)
        of_modules: dict[str, Any] = {
            "bundle": str(bundle.resolve()),
            "decoder": decoder,
            "checkpoint": checkpoint and str(checkpoint.resolve()),
            "part": part,
        }
        loads[f"torch {part}"] = Workload(builder=f"{__name__}:torch", arguments=of_modules, environment=TUNED_MALLOC)
    return loads


def seconds_per_click(timings: dict[str, Timing]) -> dict[str, dict[str, float]]:
    """20-SPC (opening shared by 20 clicks) and Online SPC of each variant."""
    result = {}
    for variant in ("library", "plain", "torch"):
        opening, clicks = (timings[f"{variant} {part}"].median / 1e3 for part in ("open", "clicks"))
        result[variant] = {"20-SPC": (opening + clicks) / CLICKS, "Online SPC": clicks / CLICKS}
    return result


def runtime(bundle: str, decoder: str | None, custom_ops: bool, part: str) -> Callable[[], object]:
    """Workload: a session of the runtime."""
    from inter2former_deploy.runtime import Segmenter

    return _session(Segmenter(bundle, decoder=decoder, num_threads=threads_here(), custom_ops=custom_ops), part)


def torch(bundle: str, decoder: str | None, checkpoint: str | None, part: str) -> Callable[[], object]:
    """Workload: a session of the reference modules."""
    import torch

    from inter2former_deploy.apps.evaluation import ReferenceSegmenter
    from inter2former_deploy.core.manifest import Manifest
    from inter2former_deploy.exporters.bundle import load_exported

    torch.set_num_threads(threads_here())
    manifest = Manifest.read(Path(bundle))
    return _session(ReferenceSegmenter(load_exported(manifest.decoder(decoder), checkpoint), manifest.size), part)


def _session(segmenter: Any, part: str) -> Callable[[], object]:
    from inter2former_deploy.exporters.parity import load_photograph

    photograph = load_photograph()
    if part == "open":
        return lambda: segmenter.open(photograph)
    session = segmenter.open(photograph)
    height, width = photograph.shape[:2]
    rng = np.random.default_rng(8)
    points = [
        (int(x), int(y)) for x, y in zip(rng.integers(0, width, CLICKS), rng.integers(0, height, CLICKS), strict=True)
    ]

    def clicks() -> None:
        session.reset()
        for i, (x, y) in enumerate(points):
            session.click(x, y, i % 3 != 2)

    return clicks
