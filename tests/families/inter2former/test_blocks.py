"""Attention and experts on their own, against the golden arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from inter2former_deploy.families.inter2former.modules.attention import BSQAttention
from inter2former_deploy.families.inter2former.modules.experts import HybridExperts
from inter2former_deploy.operators import formulas


@pytest.fixture(scope="module")
def arrays(golden: Any) -> dict[str, Any]:
    return {name: torch.from_numpy(array) for name, array in golden("blocks").items()}


@pytest.mark.parametrize(("heads", "dim"), [(1, 32), (2, 64)])
@torch.inference_mode()
def test_attention(arrays: dict[str, Any], assert_close: Any, heads: int, dim: int) -> None:
    case = {name[3:]: array for name, array in arrays.items() if name.startswith(f"h{heads}_")}
    attention = BSQAttention(dim=dim, heads=heads, code_bits=8)
    entries = ("codebook", "code_proj_weight", "code_proj_bias")
    attention.load_state_dict({name.replace("proj_", "proj."): case[name] for name in entries})

    code = formulas.assign_codes(case["k"], *attention.pack()[:2], "bsq")
    np.testing.assert_array_equal(np.packbits(_bits(code), axis=1), case["key_bits"])

    out = attention(torch.cat((case["q"], case["k"], case["v"]), dim=1), case["edge"], 16)
    others = torch.ones(len(out), dtype=torch.bool).index_fill(0, case["edge"], False)
    assert_close(out[case["edge"]], case["full_out"], "blocks")
    assert_close(out[others], case["bsq_out"], "blocks")


def _bits(code: torch.Tensor) -> Any:
    """Bits of each code, the highest first."""
    return (code[:, None] >> torch.arange(7, -1, -1) & 1).numpy().astype(bool)


@torch.inference_mode()
def test_experts(arrays: dict[str, Any], probe_weights: dict[str, Any], assert_close: Any) -> None:
    ffn = HybridExperts(dim=256, hidden=64, experts=8)
    prefix = "neck.blocks.0.ffn."
    ffn.load_state_dict({k.removeprefix(prefix): v for k, v in probe_weights.items() if k.startswith(prefix)})
    x, edge = arrays["moe_x"], arrays["moe_edge"]
    chosen = formulas.route(ffn.expert_gate(x[edge]), ffn.exp_bias)
    np.testing.assert_array_equal(chosen, arrays["moe_expert"])
    assert len(chosen.unique()) == 8
    epsilon = ffn.shared_ln.eps
    assert_close(formulas.mix_experts(x, edge, *ffn.pack(), epsilon), arrays["moe_out"], "blocks")
    assert_close(formulas.mix_experts(x, edge[:0], *ffn.pack(), epsilon), arrays["moe_out_no_edge"], "blocks")


@torch.inference_mode()
def test_expert_bias_takes_part_in_the_choice_only(assert_close: Any) -> None:
    torch.manual_seed(0)
    ffn, norm = HybridExperts(dim=16, hidden=8, experts=4), torch.nn.LayerNorm(16)
    x, edge = torch.randn(10, 16), torch.arange(10)
    ffn.exp_bias += 0.5  # the same for all: no other choice
    raised = ffn(x, edge, norm)
    ffn.exp_bias.zero_()
    assert_close(ffn(x, edge, norm), raised, "blocks")
    ffn.exp_bias[2] = 100
    assert ffn.choose(x, edge, norm).tolist() == [2] * 10
    assert (ffn(x, edge, norm) - raised).abs().max() > 1e-3
