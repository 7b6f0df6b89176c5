"""The simulated user while training: clicks that correct what the model gets wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from inter2former_deploy.core.clicks import TRAINING_FACTOR, next_click
from inter2former_deploy.core.prompts import Click
from inter2former_deploy.families.inter2former.labels import add_clicks, fold_prediction, unknown_labels

from .config import TrainConfig

Predict = Callable[[NDArray[np.uint8], list[int]], NDArray[np.bool_]]
"""Label maps uint8 [n, S, S] and the samples they belong to -> foreground bool [n, S, S]."""


def draw_rounds(rng: np.random.Generator, config: TrainConfig) -> int:
    """Rounds of predictions before a training step, k with probability proportional to `round_decay` to the k."""
    weights = config.round_decay ** np.arange(config.max_rounds + 1)
    return int(rng.choice(len(weights), p=weights / weights.sum()))


def simulate(
    masks: NDArray[np.uint8], predict: Predict, rngs: Sequence[np.random.Generator], config: TrainConfig
) -> NDArray[np.uint8]:
    """Reference labels after a random number of clicks on each sample.

    Args:
        masks: uint8 `[N, S, S]`, 1 object, 0 background, 255 ignored.
        predict: the model as it stands.
        rngs: of the clicks on each sample.
        config: of the run.

    Returns:
        uint8 `[N, S, S]`.
    """
    labels = np.stack([unknown_labels(mask.shape[0]) for mask in masks])
    rounds = [draw_rounds(rng, config) for rng in rngs]
    clicked: list[list[Click]] = [[] for _ in masks]

    def click(i: int, foreground: NDArray[np.bool_], factor: float) -> None:
        new = next_click(foreground, masks[i], clicked[i], factor=factor, rng=rngs[i])
        if new is not None:
            clicked[i].append(new)
            add_clicks(labels[i], [new])

    for i, mask in enumerate(masks):
        click(i, np.zeros(mask.shape, bool), 1.0)
    for done in range(max(rounds)):
        active = [i for i, k in enumerate(rounds) if k > done]
        for i, foreground in zip(active, predict(labels[active], active), strict=True):
            fold_prediction(labels[i], foreground)
            click(i, foreground, TRAINING_FACTOR)
    return labels
