"""Hold the parity gate to account, outside CI: right graphs must pass, wrong ones must be refused.

Usage: python scripts/gate.py right [--models probe,demo,vit_b] [--seeds 1-12] [--sizes 512] [--rules exact,released]
                                    [--tiers portable,avx2]
       python scripts/gate.py wrong [--every 1] [--family hrsam] [--of LowRank,encoder]
       python scripts/gate.py part [--models vit_b] [--seeds 3] [--sizes 1024]

`right` exports and verifies each combination, with the operator library and without, and prints how near the worst
tensor came to its limit. ONEDNN_MAX_CPU_ISA=AVX2, OMP_NUM_THREADS=1, INTER2FORMER_OPS_LIBRARY and the tiers choose
other arithmetic. PyTorch traces a model once: graphs of further seeds are the first one's with other weights, which
are folded anew; those of the second seed are compared with what tracing it gives. Seconds are of all cores together.
`wrong` judges every mutant of tests/mutants.py, or those whose graph or name holds one of some words.
`part` compares the part of the image embedding that the gate computes in float64 with float64 over the whole map.
What they printed is kept in docs/measured/.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import onnx
import onnx_ir

from inter2former_deploy.core.contract import GraphName
from inter2former_deploy.core.library import library_path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

VARIABLES = ("ONEDNN_MAX_CPU_ISA", "OMP_NUM_THREADS")
GRAPHS: tuple[GraphName, ...] = ("encoder", "prepare", "click")
LIBRARY = library_path()


def right(models: list[str], seeds: list[int], sizes: list[int], rules: list[str], tiers: list[str]) -> int:
    """Verify right graphs; returns how many were refused."""
    import torch

    from inter2former_deploy.exporters.bundle import load_weights
    from inter2former_deploy.exporters.parity import OPERATORS, PLAIN
    from inter2former_deploy.families.inter2former.config import PRESETS
    from inter2former_deploy.families.inter2former.gate import Gate

    tried = refused = 0
    for name, size, rule in product(models, sizes, rules):
        exporter = Exporter(size)
        for seed in seeds[:1] if name == "demo" else seeds:  # the bundled weights have no seed
            config = None if name == "demo" else PRESETS[name]
            start = time.process_time()
            model, _ = load_weights(None, config=config, seed=seed, edge_rule=rule)  # type: ignore[arg-type]
            with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
                paths = {graph: Path(folder) / f"{graph}.onnx" for graph in GRAPHS}
                for graph, path in paths.items():
                    onnx.save(exporter.export(model, graph), path)
                exported = time.process_time()
                gate = Gate(model, size)
                plain = gate.check_encoder(paths["encoder"], paths["prepare"], PLAIN)
                of_plain = gate.checks
                for tier in tiers:
                    choose_tier(tier, Path(folder))
                    gate.checks, gate.decodes, gate.worst = [], [], {}
                    ours = gate.check_encoder(paths["encoder"], paths["prepare"], OPERATORS)
                    gate.check_click(paths["click"], {PLAIN: plain, OPERATORS: ours})
                    gate.checks += of_plain
                    report = gate.report()
                    tried, refused = tried + 1, refused + (not report.passed)
                    errors = (check for check in report.checks if "error" in check.measure)
                    worst = max(errors, key=lambda check: check.excess)
                    tight = sum(all(decode.tight.values()) for decode in report.decodes)
                    print(
                        f"{name} seed {seed if config else '-'} size {size} {rule} {tier}: "
                        f"{'passed' if report.passed else 'REFUSED'}, worst {worst.tensor} ({worst.backend}) "
                        f"{worst.measure} at {worst.excess:.2f} of its limit, {tight} of {len(report.decodes)} decodes "
                        f"tight, gate {time.process_time() - exported:.0f} s of {time.process_time() - start:.0f} s",
                        flush=True,
                    )
                    for check in report.failures:
                        print(
                            f"  {check.tensor} ({check.backend}): {check.measure} {check.value:.3g} > {check.limit:.3g}"
                        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"right graphs: {tried - refused} passed of {tried} tried, at most {peak:.1f} GB; {arithmetic()}")
    return refused


class Exporter:
    """Exports models that differ in their weights alone.

    Args:
        size: S.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._traced: dict[GraphName, onnx_ir.Model] = {}
        self._compared: set[GraphName] = set()

    def export(self, model: Any, graph: GraphName) -> onnx.ModelProto:
        """A graph of a model.

        Raises:
            RuntimeError: The second model's graph is not what tracing it gives.
        """
        from inter2former_deploy.exporters.graphs import export_model

        known = graph in self._traced
        with mock.patch("torch.onnx.export", self._with_weights(graph) if known else self._traces(graph)):
            made = export_model(model, graph, size=self._size)
        if known and graph not in self._compared:
            self._compared.add(graph)
            both = [made, export_model(model, graph, size=self._size)]
            for node in (node for proto in both for node in proto.graph.node):
                node.name = ""  # the exporter counts them from model to model
            if len({proto.SerializeToString(deterministic=True) for proto in both}) > 1:
                raise RuntimeError(f"{graph} with other weights is not what the exporter makes of them")
        return made

    def _traces(self, graph: GraphName) -> Callable[..., Any]:
        import torch

        trace = torch.onnx.export

        def export(*args: Any, **settings: Any) -> Any:
            program = trace(*args, **settings)
            self._traced[graph] = program.model.clone()
            return program

        return export

    def _with_weights(self, graph: GraphName) -> Callable[..., Any]:
        def export(module: Any, *_: Any, **__: Any) -> Any:
            model = self._traced[graph].clone()
            weights = module.state_dict()
            for name, value in model.graph.initializers.items():
                if name in weights:
                    value.const_value = onnx_ir.tensor(weights[name].contiguous().numpy(), name=name)
            return SimpleNamespace(model=model)

        return export


def choose_tier(tier: str, folder: Path) -> None:
    """Let the sessions from now on use a copy of the library, which reads its tier when it is first used."""
    copy = folder / tier / "libinter2former_ops.so"
    copy.parent.mkdir()
    shutil.copy(LIBRARY, copy)
    os.environ["INTER2FORMER_OPS_LIBRARY"] = str(copy)
    os.environ.pop("INTER2FORMER_TIER", None)
    if tier != "best":
        os.environ["INTER2FORMER_TIER"] = tier


def wrong(every: int, family: Any, words: list[str]) -> int:
    """Judge mutants; returns how many were accepted."""
    from mutants import Trial, mutants

    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(Path(folder), family)
        verdicts: Counter[str] = Counter()
        for mutant in list(mutants(trial.graphs))[::every]:
            if not any(word in f"{mutant.graph}, {mutant.name}" for word in words):
                continue
            verdict, tensors = trial.judge(mutant)
            verdicts[verdict] += 1
            shows = f" [{', '.join(tensors[:3])}]" if tensors else ""
            print(f"{verdict}: {mutant.graph}, {mutant.name}{shows}", flush=True)
    effective = verdicts["refused"] + verdicts["accepted"]
    print(
        f"wrong graphs of {family}: {verdicts['refused']} refused of {effective} whose results differ; "
        f"{verdicts['without effect']} changed no result, {verdicts['does not run']} do not run; {arithmetic()}"
    )
    return verdicts["accepted"]


def part(models: list[str], seeds: list[int], sizes: list[int]) -> int:
    """Show how far the part of the embedding is from float64 over the whole map, over what PyTorch's float32 is."""
    import numpy as np
    import torch

    from inter2former_deploy.exporters.bundle import load_weights
    from inter2former_deploy.families.exact_embedding import ExactEmbedding
    from inter2former_deploy.families.inter2former.config import PRESETS
    from inter2former_deploy.families.inter2former.gate import Gate

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
    command.add_argument("--tiers", default="best", type=lambda text: text.split(","))
    command = commands.add_parser("wrong")
    command.add_argument("--every", default=1, type=int)
    command.add_argument("--family", default="inter2former", choices=["inter2former", "hrsam"])
    command.add_argument("--of", dest="words", default="", type=lambda text: text.split(","))
    command = commands.add_parser("part")
    command.add_argument("--models", default="vit_b", type=lambda text: text.split(","))
    command.add_argument("--seeds", default="3", type=numbers)
    command.add_argument("--sizes", default="1024", type=numbers)
    arguments = vars(parser.parse_args())
    mistakes = {"right": right, "wrong": wrong, "part": part}[arguments.pop("command")](**arguments)
    sys.exit(mistakes > 0)


if __name__ == "__main__":
    main()
