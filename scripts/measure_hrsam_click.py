#!/usr/bin/env python
"""A click of HRSAM against the same decoder as SAM exports it: one graph in plain onnxruntime, everything a click.

Prints, for some numbers of clicks, the median time of both and their ratio; the two take turns in one process. With one
thread that is the time on the CPU, which other processes hardly change. The decoder is the same in every preset, and
its time does not depend on the weights.

    scripts/measure_hrsam_click.py --size 1024
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from inter2former_deploy.apps.bench.clicks import model_of
from inter2former_deploy.apps.bench.hrsam_clicks import export_one_graph, scene_arrays
from inter2former_deploy.core import library
from inter2former_deploy.exporters.graphs import export_model
from inter2former_deploy.families.hrsam.config import HRSAM_PROBE

CLICKS = (1, 5, 10, 20)
Arrays = dict[str, NDArray[Any]]


def _session(graph: onnx.ModelProto, threads: int, *, operators: bool) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if operators:
        library.register(options)
    return onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _feeds(session: onnxruntime.InferenceSession, arrays: Mapping[str, NDArray[Any]]) -> Arrays:
    return {value.name: arrays[value.name] for value in session.get_inputs()}


def main() -> None:
    """Measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1024, help="S, pixels")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=21, help="of each graph, for each number of clicks")
    parser.add_argument("--plain", action="store_true", help="without the operator library on our side, too")
    arguments = parser.parse_args()
    clock = time.process_time if arguments.threads == 1 else time.perf_counter
    model = model_of(HRSAM_PROBE)
    ours, theirs = export_model(model, "click", size=arguments.size), export_one_graph(model, arguments.size)
    sessions = {
        "ours": _session(ours, arguments.threads, operators=not arguments.plain),
        "one graph": _session(theirs, arguments.threads, operators=False),
    }
    print("clicks  ours ms  one graph ms  ratio  largest difference")
    for clicks in CLICKS:
        arrays = scene_arrays(HRSAM_PROBE.to_dict(), arguments.size, clicks)
        times: dict[str, list[float]] = {name: [] for name in sessions}
        logits: Arrays = {}
        for run in range(arguments.runs + 2):
            for name, session in sessions.items():
                feeds = _feeds(session, arrays)
                start = clock()
                result = session.run(None, feeds)[0]
                if run >= 2:
                    times[name].append(1000 * (clock() - start))
                logits[name] = result if result.ndim == 2 else result[0]
        ours_ms, theirs_ms = (float(np.median(times[name])) for name in sessions)
        apart = float(np.abs(logits["ours"] - logits["one graph"]).max())
        print(f"{clicks:6}  {ours_ms:7.1f}  {theirs_ms:12.1f}  {ours_ms / theirs_ms:5.2f}  {apart:.1e}")


if __name__ == "__main__":
    main()
