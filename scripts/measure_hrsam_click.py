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
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from inter2former_deploy.core import library
from inter2former_deploy.exporters.graphs import export_graph
from inter2former_deploy.families.hrsam.config import HRSAM_PROBE
from inter2former_deploy.families.hrsam.graphs import ClickGraph, PrepareGraph
from inter2former_deploy.families.hrsam.interface import EMBEDDING, LOGITS, PROMPTS, graph_tensors
from inter2former_deploy.families.hrsam.model import HRSAM

CLICKS = (1, 5, 10, 20)
Arrays = dict[str, NDArray[Any]]


class SamDecoder(nn.Module):
    """The prompts and the image embedding -> all masks and their estimated IoUs, with nothing computed beforehand."""

    def __init__(self, model: HRSAM) -> None:
        super().__init__()
        self.neck, self.decode_head = model.neck, model.decode_head
        self.prompts = ClickGraph(model)

    def forward(
        self, point_coords: Tensor, point_labels: Tensor, mask_input: Tensor, has_mask_input: Tensor, embedding: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The prompts as `ClickGraph` takes them, embedding [h, w, C] -> masks [4, 4*h, 4*w], IoUs [4]."""
        height, width, _ = embedding.shape
        sparse = self.prompts.sparse(point_coords, point_labels, (16 * height, 16 * width))[None]
        given = self.neck.dense(mask_input[None, None], (height, width))
        dense = torch.where(has_mask_input > 0, given, self.neck.no_mask_embed.weight[..., None, None])
        image = embedding.permute(2, 0, 1)[None]
        masks, iou = self.decode_head(image, self.neck.position_map((height, width)), sparse, dense)
        return masks[0], iou[0]


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
    torch.manual_seed(0)
    model = HRSAM(HRSAM_PROBE).eval()
    tensors = graph_tensors(model.config, arguments.size)
    stated = tensors["click"]["inputs"]
    shapes = {name: [3 if isinstance(n, str) else n for n in tensor["sizes"]] for name, tensor in stated.items()}
    examples = {name: torch.zeros(shapes[name], dtype=getattr(torch, stated[name]["type"])) for name in stated}
    rng = np.random.default_rng(0)
    embedding = rng.standard_normal(shapes[EMBEDDING], np.float32)
    with torch.no_grad():
        prepared = PrepareGraph(model)(torch.from_numpy(embedding))
    arrays: Arrays = {name: x.numpy() for name, x in zip(tensors["prepare"]["outputs"], prepared, strict=True)}
    arrays |= {EMBEDDING: embedding, "mask_input": rng.standard_normal(shapes["mask_input"], np.float32)}
    arrays |= {"has_mask_input": np.ones(1, np.float32)}

    sizes = {name: stated[name]["sizes"] for name in stated}
    ours = export_graph(ClickGraph(model), tuple(examples.values()), inputs=sizes, outputs=[LOGITS])
    taken = {name: sizes[name] for name in (*PROMPTS, EMBEDDING)}
    theirs = export_graph(
        SamDecoder(model), tuple(examples[name] for name in taken), inputs=taken, outputs=["masks", "iou"]
    )
    sessions = {
        "ours": _session(ours, arguments.threads, operators=not arguments.plain),
        "one graph": _session(theirs, arguments.threads, operators=False),
    }
    print("clicks  ours ms  one graph ms  ratio  largest difference")
    for clicks in CLICKS:
        arrays["point_coords"] = rng.uniform(0, arguments.size, (clicks + 1, 2)).astype(np.float32)
        arrays["point_labels"] = np.array([*rng.integers(0, 2, clicks), -1])
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
