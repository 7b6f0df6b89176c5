"""Hold the parity gate to account, outside CI: right graphs must pass, wrong ones must be refused.

Usage: python scripts/gate.py right [--models probe,demo,vit_b] [--seeds 1-12] [--sizes 512] [--rules exact,released]
       python scripts/gate.py wrong [--every 1]
       python scripts/gate.py part [--models vit_b] [--seeds 3] [--sizes 1024]

`right` exports and verifies each combination, with the operator library and without, and prints how near the worst
tensor came to its limit. ONEDNN_MAX_CPU_ISA=AVX2, OMP_NUM_THREADS=1 and INTER2FORMER_TIER choose other arithmetic.
Seconds are of all cores together. `wrong` judges every mutant of tests/mutants.py. `part` compares the part of the
image embedding that the gate computes in float64 with float64 over the whole map. What they printed is kept in
docs/measured/.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from collections import Counter
from itertools import product
from pathlib import Path

import onnx

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

VARIABLES = ("ONEDNN_MAX_CPU_ISA", "OMP_NUM_THREADS", "INTER2FORMER_TIER")


def right(models: list[str], seeds: list[int], sizes: list[int], rules: list[str]) -> int:
    """Verify right graphs; returns how many were refused."""
    from inter2former_deploy.exporters.bundle import load_weights
    from inter2former_deploy.exporters.graphs import export_model
    from inter2former_deploy.exporters.parity import check_parity
    from inter2former_deploy.families.inter2former.config import PRESETS

    tried = refused = 0
    for name, size, seed, rule in product(models, sizes, seeds, rules):
        config = None if name == "demo" else PRESETS[name]  # the bundled weights have no seed
        if config is None and seed != seeds[0]:
            continue
        start = time.process_time()
        model, _ = load_weights(None, config=config, seed=seed, edge_rule=rule)  # type: ignore[arg-type]
        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(folder) / f"{graph}.onnx" for graph in ("encoder", "prepare", "click")]
            for path in paths:
                onnx.save(export_model(model, path.stem, size=size), path)  # type: ignore[arg-type]
            exported = time.process_time()
            report = check_parity(model, *paths, size=size)
        verified = time.process_time()
        tried, refused = tried + 1, refused + (not report.passed)
        worst = max((check for check in report.checks if "error" in check.measure), key=lambda check: check.excess)
        tight = sum(all(decode.tight.values()) for decode in report.decodes)
        print(
            f"{name} seed {seed if config else '-'} size {size} {rule}: {'passed' if report.passed else 'REFUSED'}, "
            f"worst {worst.tensor} ({worst.backend}) {worst.measure} at {worst.excess:.2f} of its limit, "
            f"{tight} of {len(report.decodes)} decodes tight, gate {verified - exported:.0f} s of "
            f"{verified - start:.0f} s",
            flush=True,
        )
        for check in report.failures:
            print(f"  {check.tensor} ({check.backend}): {check.measure} {check.value:.3g} > {check.limit:.3g}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"right graphs: {tried - refused} passed of {tried} tried, at most {peak:.1f} GB; {arithmetic()}")
    return refused


def wrong(every: int) -> int:
    """Judge mutants; returns how many were accepted."""
    from mutants import Trial, mutants

    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(Path(folder))
        verdicts: Counter[str] = Counter()
        for mutant in list(mutants(trial.graphs))[::every]:
            verdict, tensors = trial.judge(mutant)
            verdicts[verdict] += 1
            print(f"{verdict}: {mutant.graph}, {mutant.name}" + (f" [{', '.join(tensors[:3])}]" if tensors else ""))
    effective = verdicts["refused"] + verdicts["accepted"]
    print(
        f"wrong graphs: {verdicts['refused']} refused of {effective} whose results differ; "
        f"{verdicts['without effect']} changed no result, {verdicts['does not run']} do not run; {arithmetic()}"
    )
    return verdicts["accepted"]


def part(models: list[str], seeds: list[int], sizes: list[int]) -> int:
    """Show how far the part of the embedding is from float64 over the whole map, over what PyTorch's float32 is."""
    import numpy as np
    import torch

    from inter2former_deploy.exporters.bundle import load_weights
    from inter2former_deploy.exporters.exact import ExactEmbedding
    from inter2former_deploy.exporters.parity import Gate
    from inter2former_deploy.families.inter2former.config import PRESETS

    for name, size, seed in product(models, sizes, seeds):
        config = None if name == "demo" else PRESETS[name]
        model, _ = load_weights(None, config=config, seed=seed)
        encoder = model.backbone
        with torch.inference_mode():
            picture = Gate(model, size).normalized
            for draw in range(3):
                exact = ExactEmbedding(encoder, size, np.random.default_rng(draw))
                own = exact.encode(picture)[0].permute(1, 2, 0)
                exact.encode_exactly(picture)
                if draw == 0:
                    whole = encoder.double()(picture.double())[0].permute(1, 2, 0)
                    encoder.float()
                off, theirs = ((x - exact.part.of(whole)).abs() for x in (exact.exact, exact.part.of(own)))
                print(
                    f"{name} seed {seed} size {size}, {exact.part}: off by {float(off.mean() / theirs.mean()):.1%} "
                    f"(mean) and {float(off.max() / theirs.max()):.1%} (largest) of what float32 is",
                    flush=True,
                )
    return 0


def arithmetic() -> str:
    """The CPU and what was asked of it."""
    from inter2former_deploy.apps.bench.machine import describe

    chosen = [f"{name}={os.environ[name]}" for name in VARIABLES if name in os.environ]
    return ", ".join([str(describe(1)["cpu"]), *chosen])


def numbers(text: str) -> list[int]:
    """`1-3,17` as 1, 2, 3, 17."""
    bounds = (part.split("-") for part in text.split(","))
    return [n for bound in bounds for n in range(int(bound[0]), int(bound[-1]) + 1)]


def main() -> None:
    """Run one of the three and fail where the gate was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("right")
    command.add_argument("--models", default="probe", type=lambda text: text.split(","))
    command.add_argument("--seeds", default="1-40", type=numbers)
    command.add_argument("--sizes", default="256", type=numbers)
    command.add_argument("--rules", default="exact,released", type=lambda text: text.split(","))
    command = commands.add_parser("wrong")
    command.add_argument("--every", default=1, type=int)
    command = commands.add_parser("part")
    command.add_argument("--models", default="vit_b", type=lambda text: text.split(","))
    command.add_argument("--seeds", default="3", type=numbers)
    command.add_argument("--sizes", default="1024", type=numbers)
    arguments = vars(parser.parse_args())
    mistakes = {"right": right, "wrong": wrong, "part": part}[arguments.pop("command")](**arguments)
    sys.exit(mistakes > 0)


if __name__ == "__main__":
    main()
