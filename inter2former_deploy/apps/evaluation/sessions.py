"""Simulated click sessions and their scores."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from inter2former_deploy.apps.batch.pipeline import pipeline
from inter2former_deploy.core.clicks import IGNORED, MAX_CLICKS, mean_iou, next_click, number_of_clicks
from inter2former_deploy.core.masks import iou
from inter2former_deploy.core.prompts import Click
from inter2former_deploy.data import Dataset, PassedOverError, Sample, Tally

THRESHOLDS = (0.85, 0.90, 0.95)  # of NoC
REPORTED = (1, 2, 3, 5, 10, 20)  # n of n-mIoU
AGREEMENT = 0.999  # least IoU of the masks of two models that count as the same


class ClickSession(Protocol):
    """What a session offers: `runtime.Session` does."""

    def click(self, x: float, y: float, positive: bool = True) -> NDArray[np.bool_]:
        """Adds a click and returns the mask, `[H, W]`."""


class Opens(Protocol):
    """What opens images: `runtime.Segmenter` and `ReferenceSegmenter` do.

    It may have a method `encode(image)`, too, whose result `open` takes instead of the image: then a picture is encoded
    once for all its objects.
    """

    def open(self, image: Any) -> ClickSession:
        """A session on an image, uint8 RGB `[H, W, 3]`."""


@dataclass(frozen=True)
class SampleResult:
    """One session."""

    name: str
    group: str
    clicks: list[Click]  # made; fewer than the budget when the mask became perfect
    ious: list[float]  # after each click of the budget; a perfect mask stays
    open_seconds: float  # pre-processing and encoder; the same for all objects of a picture, which is encoded once
    click_seconds: list[float]
    agreement: list[float] | None = None  # IoU with the other model's mask after each click
    split: str = ""


@dataclass(frozen=True)
class Scored:
    """What became of a sample."""

    name: str
    result: SampleResult | None = None  # of its session; None where there is none, and `problem` says why
    problem: str = ""
    kind: str = ""  # of a sample without an object

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Scored:
        """From what `to_dict` gave."""
        told = data["result"]
        result = (
            None if told is None else SampleResult(**told | {"clicks": [Click(*click) for click in told["clicks"]]})
        )
        return cls(data["name"], result, data["problem"], data["kind"])


@dataclass(frozen=True)
class Evaluation:
    """All sessions of a dataset."""

    results: list[SampleResult]
    problems: list[str] = field(default_factory=list)  # samples that could not be run, and why
    passed_over: Tally = field(default_factory=Tally)  # samples without an object

    def add(self, sample: Scored, strict: bool) -> None:
        """Count a sample.

        Args:
            sample: what became of it.
            strict: one without an object is a problem.
        """
        if sample.result is not None:
            self.results.append(sample.result)
        elif sample.kind and not strict:
            self.passed_over.add(sample.kind, sample.name)
        else:
            self.problems.append(sample.problem)

    def scores(self) -> dict[str, Any]:
        """Scores of all samples and of every group, as plain numbers; empty without results.

        Where the samples are of several splits, there are no scores of all, but those of each split and of its groups.
        """
        rows: dict[str, list[SampleResult]] = {}
        splits = sorted({r.split for r in self.results})
        for split in splits:
            of_split = [r for r in self.results if r.split == split]
            several = len(splits) > 1
            rows[(split or "no split") if several else "all"] = of_split
            groups = sorted({r.group for r in of_split})
            for group in groups if len(groups) > 1 else ():
                rows[f"{group} {split}".strip() if several else group] = [r for r in of_split if r.group == group]
        return {name: _scores(results) for name, results in rows.items()}

    def worst(self, count: int) -> list[SampleResult]:
        """The samples of the lowest mean IoU over all clicks, the worst first."""
        return sorted(self.results, key=lambda r: (float(np.mean(r.ious)), r.name))[:count]

    def differing(self) -> list[str]:
        """Samples on which the two models' masks agreed less than `AGREEMENT` after some click."""
        return [r.name for r in self.results if r.agreement is not None and min(r.agreement) < AGREEMENT]

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers."""
        results = [{**asdict(r), "clicks": [list(c) for c in r.clicks]} for r in self.results]
        return {
            "scores": self.scores(),
            "problems": self.problems,
            "passed over": self.passed_over.names,
            "differing": self.differing(),
            "results": results,
        }


def _scores(results: list[SampleResult]) -> dict[str, Any]:
    ious = np.array([r.ious for r in results])
    clicks = np.concatenate([r.click_seconds for r in results])
    budget = ious.shape[1]
    return {
        "samples": len(results),
        **{f"NoC@{t * 100:.0f}": number_of_clicks(ious, t) for t in THRESHOLDS},
        **{f"failures@{t * 100:.0f}": int((ious < t).all(1).sum()) for t in THRESHOLDS},
        **{f"{n}-mIoU": mean_iou(ious, n) for n in REPORTED if n <= budget},
        "mIoU by click": ious.mean(0).tolist(),
        "SPC": float(np.mean([(r.open_seconds + sum(r.click_seconds)) / len(r.click_seconds) for r in results])),
        "online SPC": float(clicks.mean()),
        "agreement": min((min(r.agreement) for r in results if r.agreement), default=None),
    }


def evaluate(
    model: Opens,
    dataset: Dataset,
    *,
    clicks: int = MAX_CLICKS,
    seed: int | None = None,
    against: Opens | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Evaluation:
    """Runs a simulated session on every sample; a picture is encoded once for the samples of it that follow each other.

    A sample without an object is counted, one that cannot be run is named among the problems, and the others go on.

    Args:
        model: what is scored.
        dataset: samples.
        clicks: budget of a session.
        seed: of clicks drawn at random among the candidates; `None` takes the first candidate.
        against: another model that gets the same clicks; its masks are compared.
        progress: told the number of samples done, their total, and the name of the last.
    """
    strict = bool(getattr(dataset, "strict", False))
    result = Evaluation([])
    indices = range(len(dataset))
    scored = pipeline(
        indices,
        *scoring(model, dataset, clicks=clicks, seed=seed, against=against),
        lambda _, made: made,
        readers=1,  # which reads a picture once for all its objects
    )
    for number, sample in enumerate(scored, 1):
        result.add(sample, strict)
        if progress:
            progress(number, len(dataset), sample.name)
    return result


def scoring(
    model: Opens, dataset: Dataset, *, clicks: int, seed: int | None, against: Opens | None = None
) -> tuple[Callable[[int], Sample | Exception], Callable[[int, Sample | Exception], Scored]]:
    """The steps that score a sample of a dataset by its index, for `pipeline`: reading it, and its session.

    Args:
        model: what is scored.
        dataset: samples.
        clicks: budget of a session.
        seed: as in `evaluate`.
        against: as in `evaluate`.
    """
    opener, other = _Opener(model), _Opener(against) if against else None

    def read(index: int) -> Sample | Exception:
        try:
            return dataset[index]
        except Exception as error:  # whatever is wrong with one sample, the others count
            return error

    def compute(index: int, sample: Sample | Exception) -> Scored:
        name = f"sample {index}"
        try:
            if isinstance(sample, Exception):
                raise sample
            name = sample.name
            rng = None if seed is None else np.random.default_rng([seed, index])
            return Scored(name, _run(opener, other, sample, clicks, rng))
        except PassedOverError as nothing:
            return Scored(nothing.name, problem=str(nothing), kind=nothing.kind)
        except Exception as error:
            return Scored(name, problem=f"{name}: {error}" if name not in str(error) else str(error))

    return read, compute


class _Opener:
    """Opens sessions with a model and keeps the last picture's encoding."""

    def __init__(self, model: Opens) -> None:
        self._model = model
        self._encode: Callable[[NDArray[np.uint8]], Any] = getattr(model, "encode", lambda image: image)
        self._picture = ""
        self._encoded: Any = None
        self._encode_seconds = 0.0

    def open(self, sample: Sample) -> tuple[ClickSession, float]:
        """A session, and the seconds that it took to open, encoding included."""
        start = time.perf_counter()
        if not sample.picture or sample.picture != self._picture:
            self._picture, self._encoded = "", None  # let go of the last first
            self._encoded = self._encode(sample.image)
            self._picture = sample.picture
            self._encode_seconds = time.perf_counter() - start
            start = time.perf_counter()
        session = self._model.open(self._encoded)
        return session, self._encode_seconds + time.perf_counter() - start


def _run(
    opener: _Opener, other: _Opener | None, sample: Sample, budget: int, rng: np.random.Generator | None
) -> SampleResult:
    target, foreground = sample.mask, sample.mask == 1
    valid = sample.mask != IGNORED if (sample.mask == IGNORED).any() else None
    session, open_seconds = opener.open(sample)
    theirs = other.open(sample)[0] if other else None
    mask = np.zeros(target.shape, bool)
    made: list[Click] = []
    ious: list[float] = []
    seconds: list[float] = []
    agreement: list[float] = []
    for _ in range(budget):
        click = next_click(mask, target, made, rng=rng)
        if click is None:
            break
        start = time.perf_counter()
        mask = session.click(click.x, click.y, click.positive)
        seconds.append(time.perf_counter() - start)
        made.append(click)
        ious.append(iou(mask, foreground, valid))
        if theirs:
            agreement.append(iou(mask, theirs.click(click.x, click.y, click.positive)))
    ious += [ious[-1]] * (budget - len(ious))
    return SampleResult(
        sample.name, sample.group, made, ious, open_seconds, seconds, agreement if other else None, sample.split
    )
