"""The numbers of a training run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from inter2former_deploy.families.inter2former.config import PATCH

Optimizer = Literal["adamw", "muon"]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of a run with pictures of one size."""

    share: float  # of the run's steps, over the sum of all shares
    size: int  # side of the pictures, pixels
    batch: int  # pictures a step
    encoder_only: bool = False  # the encoder alone, by the losses that need no clicks: many more pictures a second

    def __post_init__(self) -> None:
        if self.share <= 0 or self.batch < 1 or self.size < PATCH or self.size % PATCH:
            raise ValueError(
                f"a stage needs a positive share and batch, and a size that is a multiple of {PATCH}, got {self}"
            )

    @classmethod
    def parse(cls, text: str) -> Stage:
        """From `SHARE:SIZE:BATCH`, e.g. `0.4:128:8`, or `SHARE:SIZE:BATCH:encoder`.

        Raises:
            ValueError: the text has another form, or the numbers are out of range.
        """
        try:
            share, size, batch, *rest = text.split(":")
            if rest not in ([], ["encoder"]):
                raise ValueError("only 'encoder' may follow")
            return cls(share=float(share), size=int(size), batch=int(batch), encoder_only=bool(rest))
        except ValueError as error:
            raise ValueError(
                f"expected a stage SHARE:SIZE:BATCH[:encoder], e.g. 0.4:128:8, got {text!r} ({error})"
            ) from error


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run; with the data and the model's configuration it determines the result."""

    steps: int = 20_000  # optimiser steps
    stages: tuple[Stage, ...] = (Stage(share=1.0, size=256, batch=6),)  # small pictures first: cheaper steps
    targets: int = 2  # objects trained on in each picture; they share its encoding
    optimizer: Optimizer = "adamw"  # of all weights, or of those that Muon is not for (`optimizers.py`)
    learning_rate: float = 1e-3  # highest
    warmup: int = 300  # steps to reach it
    decay_share: float = 1.0  # last share of the steps in which it falls to `final_rate` of itself along half a cosine
    final_rate: float = 0.01
    weight_decay: float = 0.05  # of matrices and convolutions; vectors are not decayed
    clip_norm: float = 1.0  # largest gradient norm
    ema: float = 0.999  # decay of the averaged weights, which are the result
    seed: int = 0  # of weights, pictures and clicks
    round_decay: float = 0.6  # k rounds of clicks before a step are as likely as this to the k; as in the release
    max_rounds: int = 20
    auxiliary: float = 1.0  # weight of the losses on short ways (`auxiliary.py`)
    jaccard: float = 0.0  # weight of the Jaccard loss of the full-resolution logits, beside the paper's
    ramp_share: float = 0.4  # first share of the steps in which synthetic scenes go from easy to as hard as they get
    distillation: float = 1.0  # weight of the teacher's term, if there is a teacher
    drop_path: float = 0.2  # of HRSAM's encoder, in stages of the encoder alone
    layer_decay: float = 1.0  # block i of the encoder's n learns at this to the power of n - i of the rate
    bf16: bool = True  # autocast of encoder, edge network and upsampling

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be {bound}, got {getattr(self, name)}"
            for name, bound, ok in (
                ("steps", "positive", self.steps > 0),
                ("optimizer", f"one of {', '.join(get_args(Optimizer))}", self.optimizer in get_args(Optimizer)),
                ("stages", "one or more", bool(self.stages)),
                ("targets", "positive", self.targets > 0),
                ("ramp_share", "0 to 1", 0 <= self.ramp_share <= 1),
                ("decay_share", "0 to 1", 0 <= self.decay_share <= 1),
                ("learning_rate", "positive", self.learning_rate > 0),
                ("warmup", "0 or more", self.warmup >= 0),
                ("ema", "0 to below 1", 0 <= self.ema < 1),
                ("seed", "0 or more", self.seed >= 0),
                ("max_rounds", "0 or more", self.max_rounds >= 0),
                ("clip_norm", "positive", self.clip_norm > 0),
                ("drop_path", "0 to below 1", 0 <= self.drop_path < 1),
                ("layer_decay", "above 0 to 1", 0 < self.layer_decay <= 1),
            )
            if not ok
        ]
        if problems:
            raise ValueError("; ".join(problems))

    def difficulty(self, step: int) -> float:
        """Of the hardest synthetic scenes of a step, 0-1."""
        ramp = self.steps * self.ramp_share
        return min(1.0, (step + 1) / ramp) if ramp else 1.0

    def stage(self, step: int) -> Stage:
        """The stage of a step, counted from 0."""
        left = (step + 0.5) / self.steps * sum(stage.share for stage in self.stages)
        for stage in self.stages:
            left -= stage.share
            if left < 0:
                break
        return stage
