"""What a run leaves behind: a resumable state that no kill can tear, and a log of one JSON object a line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from inter2former_deploy.core.files import replacing

STATE_FILE = "state.pt"
LOG_FILE = "log.jsonl"
PLOT_FILE = "log.png"
LOSSES = ("full", "low", "jaccard", "quantization", "straight", "border", "likeness", "distillation")  # of the log


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Writes the state beside the old one and then takes its place, so that one of them is always whole."""
    with replacing(folder / STATE_FILE) as new, new.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())


def load_state(folder: Path) -> dict[str, Any] | None:
    """The last saved state, or `None` if there is none."""
    path = folder / STATE_FILE
    if not path.is_file():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


class Log:
    """A log of JSON lines; on resuming, what was written after the state is dropped."""

    def __init__(self, path: Path, *, from_step: int) -> None:
        self.path = path
        kept = [line for line in read_log(path) if line["step"] <= from_step]
        path.write_text("".join(json.dumps(line) + "\n" for line in kept))

    def write(self, **entry: Any) -> None:
        """Appends one line."""
        with self.path.open("a") as file:
            file.write(json.dumps(entry) + "\n")


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; a last line that a kill cut short is left out."""
    lines = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines


def plot_log(path: Path, out: Path) -> None:
    """Losses, IoU and expert load over the steps, as a picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    lines = read_log(path)
    if not lines:
        return
    steps = [line["step"] for line in lines]
    figure, axes = plt.subplots(1, 3, figsize=(15, 4), layout="constrained")
    for name in LOSSES:
        if any(line.get(name) for line in lines):
            axes[0].plot(steps, [line.get(name) for line in lines], label=name)
    axes[0].set(title="losses", yscale="log")
    axes[0].legend()
    axes[1].plot(steps, [line.get("iou") for line in lines])
    axes[1].set(title="IoU of the training step", ylim=(0, 1))
    loads = {line["step"]: line["load"] for line in lines if "load" in line}
    for e, share in enumerate(zip(*loads.values(), strict=True)):
        axes[2].plot(list(loads), share, label=str(e))
    axes[2].set(title="share of edge tokens by expert", ylim=(0, None))
    for axis in axes:
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
    figure.savefig(out)
    plt.close(figure)


class Average:
    """Exponential moving average of a model's weights; buffers that no gradient moves are copied.

    Args:
        model: whose weights.
        decay: of a step, once the average has warmed up.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights: dict[str, Tensor] = {k: v.detach().clone() for k, v in model.state_dict().items()}
        self.learned = [k for k, _ in model.named_parameters()]

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Takes in the weights after a step (counted from 1); the first steps count more."""
        state = model.state_dict()
        decay = min(self.decay, (1 + step) / (10 + step))
        learned = set(self.learned)
        torch._foreach_lerp_(
            [self.weights[k] for k in self.learned], [state[k].detach() for k in self.learned], 1 - decay
        )
        for name, value in state.items():
            if name not in learned:
                self.weights[name].copy_(value)
