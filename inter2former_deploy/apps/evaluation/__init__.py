"""Scores of click sessions: with an exported bundle (no torch), with the reference modules, or both side by side."""

from .reference import ReferenceSegmenter
from .report import overlay_worst, plot_mean_iou, table
from .sessions import Evaluation, SampleResult, evaluate

__all__ = [
    "Evaluation",
    "ReferenceSegmenter",
    "SampleResult",
    "evaluate",
    "overlay_worst",
    "plot_mean_iou",
    "table",
]
