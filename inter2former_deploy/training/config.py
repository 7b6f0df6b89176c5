"""The numbers of a training run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run; with the data and the model's configuration it determines the result."""

    steps: int = 20_000  # optimiser steps
    batch: int = 6  # pictures a step
    targets: int = 2  # objects trained on in each picture; they share its encoding
    size: int = 256  # side of the training pictures, pixels
    late_size: int = 256  # the same for the last part of the run: finer, dearer
    late_batch: int = 6
    late_share: float = 0.0  # share of the steps that the last part takes
    learning_rate: float = 1e-3  # highest, of AdamW
    warmup: int = 300  # steps to reach it
    decay_share: float = 1.0  # last share of the steps in which it falls to `final_rate` of itself along half a cosine
    final_rate: float = 0.01
    weight_decay: float = 0.05  # of matrices and convolutions; vectors are not decayed
    clip_norm: float = 1.0  # largest gradient norm
    ema: float = 0.999  # decay of the averaged weights, which are the result
    seed: int = 0  # of weights, pictures and clicks
    round_decay: float = (
        0.6  # k rounds of clicks before a step have probability proportional to this to the k (the release's training)
    )
    max_rounds: int = 20
    distillation: float = 1.0  # weight of the teacher's term, if there is a teacher
    bf16: bool = True  # autocast of encoder, edge network and upsampling

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be {bound}, got {getattr(self, name)}"
            for name, bound, ok in (
                ("steps", "positive", self.steps > 0),
                ("batch", "positive", self.batch > 0),
                ("targets", "positive", self.targets > 0),
                ("late_batch", "positive", self.late_batch > 0),
                ("size", "a positive multiple of 16", self.size > 0 and self.size % 16 == 0),
                ("late_size", "a positive multiple of 16", self.late_size > 0 and self.late_size % 16 == 0),
                ("decay_share", "0 to 1", 0 <= self.decay_share <= 1),
                ("late_share", "0 to 1", 0 <= self.late_share <= 1),
                ("learning_rate", "positive", self.learning_rate > 0),
                ("warmup", "0 or more", self.warmup >= 0),
                ("ema", "0 to below 1", 0 <= self.ema < 1),
                ("seed", "0 or more", self.seed >= 0),
                ("max_rounds", "0 or more", self.max_rounds >= 0),
                ("clip_norm", "positive", self.clip_norm > 0),
            )
            if not ok
        ]
        if problems:
            raise ValueError("; ".join(problems))

    def shape(self, step: int) -> tuple[int, int]:
        """Side and number of the pictures of a step, counted from 0."""
        late = step >= round(self.steps * (1 - self.late_share))
        return (self.late_size, self.late_batch) if late else (self.size, self.batch)
