#!/usr/bin/env python
"""A decode of the release-sized decoder in float32 and in bfloat16, in turn in one process.

scripts/measure_click_precision.py --threads 1
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import onnx

from inter2former_deploy.apps.bench import clicks
from inter2former_deploy.exporters.precision import reduce_click

CASES = (
    (1024, 1.0),
    (1024, 0.1),
    (2048, 1.0),
    (2048, 0.1),
)  # size, and the object's share of it; 1: everything unknown
PAUSE = 0.02  # seconds before a decode, as between clicks


def main() -> None:
    """Measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=15)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        for size, share in CASES:
            fp32 = clicks.export_pinned(Path(work), size, share, "exact")
            bf16 = fp32.with_name(f"{fp32.stem}-bf16.onnx")
            onnx.save(reduce_click(onnx.load(fp32)), bf16)
            graphs = [clicks._Graph(path, True, arguments.threads) for path in (fp32, bf16)]
            labels = clicks._Scene(size, share).labels
            times: list[list[float]] = [[], []]
            for _ in range(1 + arguments.runs):
                for graph, of_graph in zip(graphs, times, strict=True):
                    time.sleep(PAUSE)
                    start = time.perf_counter()
                    graph(labels)
                    of_graph.append(1e3 * (time.perf_counter() - start))
            medians, best = ([measure(of_graph[1:]) for of_graph in times] for measure in (statistics.median, min))
            faster, least = (of_fp32 / of_bf16 for of_fp32, of_bf16 in (medians, best))
            print(
                f"{size}, {share:.0%}: fp32 {medians[0]:.1f} ms, bf16 {medians[1]:.1f} ms: {faster:.2f} times as fast "
                f"(least times {best[0]:.1f} and {best[1]:.1f}: {least:.2f})"
            )


if __name__ == "__main__":
    main()
