"""Every operator of custom_ops/OPERATORS.md: the one list that all parts of the repository read.

A line here is all that an operator needs outside its own files (CONTRIBUTING.md); tests compare the list with what the
library holds, and ask every other part for its share. Loads no package but the standard library.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Operator:
    """A formula, and the operators that compute it."""

    name: str  # of the formula, in capitals
    module: str  # of the formula
    outputs: int = 1
    # An argument of the formula that sets operators apart, and what each of its values adds to the operator's name: no
    # function body has to choose then, and none needs strings. Its first value counts where it is not given.
    choice: tuple[str, dict[str, str]] | None = None
    takes_known: bool = False  # whether there is a form that takes what is known of another call
    reduced_precision: bool = False  # whether every tier has a kernel of its own

    @property
    def formula(self) -> str:
        """Name of the PyTorch formula, of the body's and the kernel's test, and of the benchmark's case."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", self.name).lower()

    def load(self) -> Callable[..., Any]:
        """The PyTorch formula; its module needs torch."""
        formula: Callable[..., Any] = getattr(importlib.import_module(self.module), self.formula)
        return formula

    @property
    def operators(self) -> list[str]:
        """Names of its operators in the library."""
        suffixes = self.choice[1].values() if self.choice else ("",)
        return [f"{self.name}{suffix}{known}" for suffix in suffixes for known in ("", "Known")[: 1 + self.takes_known]]


_FORMULAS = "inter2former_deploy.operators.formulas"
_EDGES = "inter2former_deploy.operators.edge_formulas"
_LOW_RANK = "inter2former_deploy.operators.low_rank"
_GELU = ("activation", {"none": "", "gelu": "Gelu"})
_SILU = ("activation", {"silu": "", "none": "Linear"})
_QUANTIZER = ("quantizer", {"bsq": "", "vq": "Vq"})
OPERATORS: dict[str, Operator] = {
    operator.name: operator
    for operator in (
        Operator("Bf16EdgeBlock", _EDGES, reduced_precision=True),
        Operator("Bf16EdgeDownsample", _EDGES, reduced_precision=True),
        Operator("Bf16EdgeProjection", _EDGES, outputs=3, reduced_precision=True),
        Operator("Bf16HybridAttention", _FORMULAS, choice=_QUANTIZER, takes_known=True, reduced_precision=True),
        Operator("Bf16HybridExperts", _FORMULAS, reduced_precision=True),
        Operator("Bf16Linear", _FORMULAS, choice=_GELU, reduced_precision=True),
        Operator("Bf16LinearAdd", _FORMULAS, reduced_precision=True),
        Operator("Bf16Mlp", _FORMULAS, reduced_precision=True),
        Operator("Bf16NormLinear", _FORMULAS, choice=_GELU, reduced_precision=True),
        Operator("Bf16WindowAttention", _FORMULAS, reduced_precision=True),
        Operator("Bf16LocalUpsample", _FORMULAS, choice=_SILU, reduced_precision=True),
        Operator("CannyMaps", _EDGES),
        Operator("CycleScan", "inter2former_deploy.operators.scan"),
        Operator("EdgeBlock", _EDGES),
        Operator("EdgeDownsample", _EDGES),
        Operator("EdgeProjection", _EDGES, outputs=3),
        Operator("EdgeStem", _EDGES),
        Operator("EdgeTokens", _FORMULAS, choice=("rule", {"released": "", "exact": "Exact"})),
        Operator("FullAttention", _FORMULAS, outputs=2),
        Operator("HybridAttention", _FORMULAS, choice=_QUANTIZER, takes_known=True),
        Operator("HybridExperts", _FORMULAS),
        Operator("ImageToTokenAttention", _FORMULAS),
        Operator("Int8Linear", _FORMULAS, choice=_GELU, reduced_precision=True),
        Operator("Int8LinearAdd", _FORMULAS, reduced_precision=True),
        Operator("Int8Mlp", _FORMULAS, reduced_precision=True),
        Operator("Int8NormLinear", _FORMULAS, choice=_GELU, reduced_precision=True),
        Operator("LabelBox", _FORMULAS),
        Operator("LinearAdd", _FORMULAS),
        Operator("LocalUpsample", _FORMULAS, choice=_SILU),
        Operator("LowRankAdd", _LOW_RANK),
        Operator("LowRankLinear", _LOW_RANK, choice=("activation", {"none": "", "gated": "Gated"})),
        Operator("MaskUpscaling", _FORMULAS),
        Operator("NormLinear", _FORMULAS, choice=_GELU),
        Operator("PromptEmbedding", _FORMULAS),
        Operator("TokenBox", _FORMULAS),
        Operator("TokenToImageAttention", _FORMULAS),
        Operator("WindowAttention", _FORMULAS),
    )
}


def operator_name(formula: str, settings: dict[str, Any], *, known: bool = False) -> str:
    """The operator that computes a formula; takes the setting that its name says out of `settings`.

    Args:
        formula: Name of the formula, in capitals: "NormLinear".
        settings: Arguments of the formula that are no tensors; without its `Operator.choice` the first value counts.
        known: Whether the operator takes what is known of another call.

    Raises:
        ValueError: A setting has a value that no operator serves.
    """
    name = formula
    choice = OPERATORS[formula].choice if formula in OPERATORS else None
    if choice is not None:
        argument, suffixes = choice
        value = settings.pop(argument, next(iter(suffixes)))
        if value not in suffixes:
            raise ValueError(f"{argument} must be {' or '.join(suffixes)}, got {value!r}")
        name += suffixes[value]
    return name + ("Known" if known else "")
