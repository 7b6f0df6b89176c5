"""The release's weights as inputs of the operators (tests/golden/README.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Weights = Mapping[str, Array]  # by their names in a released checkpoint

KINDS = ("weight", "bias")


def expert_parameters(weights: Weights, layer: int = 0) -> dict[str, Array]:
    """`gate_weight` to `b3` of HybridExperts."""
    prefix = f"neck.blocks.{layer}.ffn."
    ffn = {name.removeprefix(prefix): x for name, x in weights.items() if name.startswith(prefix)}

    def stacked(name: str, kind: str) -> Array:
        return np.concatenate([ffn[f"shared_ffn.{name}.{kind}"][None], ffn[f"select_ffn_{kind[0]}{name[1:]}"]])

    gates, norms = ("shared_gate.0", "expert_gate.0"), ("shared_ln", "select_ln")
    return {
        **{f"gate_{kind}": np.concatenate([ffn[f"{gate}.{kind}"] for gate in gates]) for kind in KINDS},
        "expert_bias": ffn["exp_bias"],
        **{f"{kind[0]}{name[1:]}": stacked(name, kind) for name in ("w1", "w2") for kind in KINDS},
        **{f"norm_{kind}": np.stack([ffn[f"{norm}.{kind}"] for norm in norms]) for kind in KINDS},
        **{f"{kind[0]}3": stacked("w3", kind) for kind in KINDS},
    }


def upsample_parameters(weights: Weights, stage: int) -> dict[str, Array]:
    """`norm_weight` to `conv_bias` of LocalUpsample for one of the four stages."""
    prefix = f"decode_head.upsamplers.{stage}"
    return {f"{part}_{kind}": weights[f"{prefix}.{part}.{kind}"] for part in ("norm", "conv") for kind in KINDS}
