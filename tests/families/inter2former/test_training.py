"""The training form: golden gradients, agreement with inference, straight-through codes, balanced experts."""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from inter2former_deploy.families.inter2former.config import PROBE
from inter2former_deploy.families.inter2former.modules.attention import COMMITMENT, BSQAttention, VQAttention
from inter2former_deploy.families.inter2former.modules.experts import BIAS_RATE, BIAS_STEPS, HybridExperts
from inter2former_deploy.families.inter2former.modules.neck import DecoderNeck
from inter2former_deploy.operators import formulas


@pytest.fixture
def neck(probe_weights: dict[str, Any]) -> DecoderNeck:
    neck = DecoderNeck(config=PROBE.decoder)
    prefix = "neck."
    neck.load_state_dict({k.removeprefix(prefix): v for k, v in probe_weights.items() if k.startswith(prefix)})
    return neck


@pytest.fixture(scope="module")
def arrays(golden: Any) -> dict[str, Any]:
    return {name: torch.from_numpy(array) for name, array in golden("train_neck").items()}


def test_golden(neck: DecoderNeck, arrays: dict[str, Any], assert_close: Any) -> None:
    embedding = arrays["image_embedding"].requires_grad_()
    tokens, loss = neck.training_forward(embedding, arrays["labels"])
    assert_close(tokens, arrays["tokens"], "training")
    assert_close(loss, arrays["vq_loss"], "training")

    weight = np.random.default_rng(arrays["cotangent_seed"].tolist()).standard_normal(tuple(tokens.shape))
    ((tokens * torch.from_numpy(weight.astype(np.float32))).mean() + loss).backward()
    assert_close(embedding.grad, arrays["grad_image_embedding"], "training")
    names = [name for name in arrays if name.startswith("grad__")]
    assert len(names) == 54
    for name in names:
        parameter = neck.get_parameter(name.removeprefix("grad__").replace("__", "."))
        assert_close(parameter.grad, arrays[name], "training")
    bias = torch.stack([block.get_buffer("ffn.exp_bias") for block in neck.blocks])
    assert_close(bias, arrays["exp_bias"], "training")
    assert [int(block.get_buffer("ffn.steps")) for block in neck.blocks] == [1, 1]


@pytest.mark.parametrize("attention", ["hybrid", "full", "bsq", "vq"])
@pytest.mark.parametrize("rule", ["released", "exact"])
@torch.no_grad()
def test_training_computes_what_inference_computes(
    arrays: dict[str, Any], assert_close: Any, attention: Any, rule: Any
) -> None:
    torch.manual_seed(0)
    neck = DecoderNeck(config=PROBE.with_decoder(attention=attention, edge_rule=rule).decoder)
    expected, _ = neck(arrays["image_embedding"], arrays["labels"])
    tokens, _ = neck.training_forward(arrays["image_embedding"], arrays["labels"])
    assert_close(tokens, expected, "training")


@pytest.mark.parametrize("rule", ["released", "exact"])
def test_every_parameter_learns(arrays: dict[str, Any], rule: Any) -> None:
    torch.manual_seed(0)
    neck = DecoderNeck(config=PROBE.with_decoder(edge_rule=rule).decoder)
    tokens, loss = neck.training_forward(arrays["image_embedding"], arrays["labels"])
    (tokens.square().mean() + loss).backward()
    for name, parameter in neck.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_reduced_precision_trains(neck: DecoderNeck, arrays: dict[str, Any]) -> None:
    """Under bf16 autocast tokens stay near; single ones may take another expert."""
    expected, _ = neck(arrays["image_embedding"], arrays["labels"])
    with torch.autocast("cpu", torch.bfloat16):
        tokens, loss = neck.training_forward(arrays["image_embedding"], arrays["labels"])
        inferred, _ = neck(arrays["image_embedding"], arrays["labels"])
    (tokens.float().mean() + loss).backward()
    for result in (tokens, inferred):
        assert (result - expected).square().mean().sqrt() < 0.1 * expected.std()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in neck.parameters())


def test_bsq_passes_gradients_straight_through() -> None:
    """Backward, bits are the coordinates of the projected key on the unit sphere, scaled to the cube."""
    torch.manual_seed(0)
    attention = BSQAttention(dim=16, heads=1, code_bits=4).double()
    key = torch.randn(2, 7, 16, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 7, 16, dtype=torch.float64)
    codeword, loss = attention.quantize(key)

    code_weight, code_bias, codewords = attention.pack()
    code = formulas.assign_codes(key.flatten(0, 1), code_weight, code_bias, "bsq")
    torch.testing.assert_close(codeword.flatten(0, 1), codewords[code])

    u = torch.nn.functional.normalize(attention.code_proj(key), dim=-1)
    bits = u * sqrt(4) / 2 + 0.5
    soft = torch.cat((bits, 1 - bits), -1) @ attention.codebook
    grad, expected = (torch.autograd.grad((x * weight).sum(), key, retain_graph=True)[0] for x in (codeword, soft))
    torch.testing.assert_close(grad, expected)
    torch.testing.assert_close(loss, COMMITMENT * (u - torch.sign(u) / 2).square().mean())


def test_vq_passes_gradients_to_keys_and_learns_codewords_from_the_loss() -> None:
    torch.manual_seed(0)
    attention = VQAttention(dim=8, heads=1, code_bits=3).double()
    key = torch.randn(2, 7, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 7, 8, dtype=torch.float64)
    codeword, loss = attention.quantize(key)
    code = torch.cdist(key, attention.codebook).argmin(-1)
    torch.testing.assert_close(codeword, attention.codebook[code])
    by_key, by_codebook = torch.autograd.grad(
        (codeword * weight).sum(), (key, attention.codebook), allow_unused=True, retain_graph=True
    )
    torch.testing.assert_close(by_key, weight)
    assert by_codebook is None
    by_key, by_codebook = torch.autograd.grad(loss, (key, attention.codebook))
    difference = (key - attention.codebook[code]).detach()
    torch.testing.assert_close(by_key, 2 * COMMITMENT * difference / key.numel())
    pull = torch.zeros_like(attention.codebook).index_add(0, code.flatten(), -2 * difference.flatten(0, 1))
    torch.testing.assert_close(by_codebook, pull / key.numel())


def test_expert_bias_moves_towards_equal_use() -> None:
    ffn = HybridExperts(dim=16, hidden=8, experts=4)
    ffn.balance(torch.tensor([8, 0, 4, 4]))  # 4 is the mean
    torch.testing.assert_close(ffn.exp_bias, BIAS_RATE * torch.tensor([-1.0, 1, 0, 0]))
    assert ffn.steps == 1
    ffn.steps.fill_(BIAS_STEPS - 1)
    ffn.balance(torch.tensor([4, 4, 8, 0]))
    torch.testing.assert_close(ffn.exp_bias, BIAS_RATE * torch.tensor([-1.0, 1, -1, 1]))
    assert ffn.steps == BIAS_STEPS
    kept = ffn.exp_bias.clone()
    ffn.balance(torch.tensor([1, 2, 3, 4]))
    assert torch.equal(ffn.exp_bias, kept)
    assert ffn.steps == BIAS_STEPS


def test_a_batch_is_routed_by_the_old_bias_and_counts_all_its_edge_tokens() -> None:
    torch.manual_seed(0)
    ffn, norm = HybridExperts(dim=16, hidden=8, experts=4), torch.nn.LayerNorm(16)
    x, edge = torch.randn(40, 16), torch.arange(5, 35)
    expected = ffn(x, edge, norm)
    count = formulas.route(ffn.expert_gate(norm(x)[edge]), ffn.exp_bias).bincount(minlength=4)
    assert torch.equal(ffn.training_forward(x, edge, norm), expected)
    torch.testing.assert_close(ffn.exp_bias, -BIAS_RATE * torch.sign(count - count.float().mean()))
    before = ffn.exp_bias.clone()
    assert torch.equal(ffn.training_forward(x, edge[:0], norm), ffn(x, edge[:0], norm))
    assert torch.equal(ffn.exp_bias, before)  # no edge tokens: every expert is used equally, not at all
    assert ffn.steps == 2


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("heads", [1, 2])
def test_gradients_of_hybrid_attention(heads: int) -> None:
    torch.manual_seed(0)
    edge, code = torch.tensor([0, 3, 4]), (torch.randn(3, 8).double(), torch.randn(3).double())

    def attend(qkv: torch.Tensor, codewords: torch.Tensor) -> torch.Tensor:
        return formulas.hybrid_attention(qkv, edge, *code, codewords, heads, 3, "bsq")

    assert gradcheck(attend, (randn(6, 24), randn(8, 8)), fast_mode=True)


def test_gradients_of_hybrid_experts() -> None:
    torch.manual_seed(0)
    dim, hidden = 4, 3
    inputs = [
        *(randn(6, dim), randn(dim), randn(dim)),
        *(randn(3, dim), randn(3), randn(3, hidden, dim), randn(3, hidden), randn(3, hidden, dim)),
        *(randn(3, hidden), randn(2, hidden), randn(2, hidden), randn(3, dim, hidden), randn(3, dim)),
    ]

    def mix(x: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        edge, expert_bias = torch.tensor([0, 2, 3, 5]), torch.zeros(2, dtype=torch.float64)
        return formulas.hybrid_experts(x, edge, *rest[:4], expert_bias, *rest[4:], 1e-5)  # type: ignore[arg-type, call-arg]

    assert gradcheck(mix, inputs, fast_mode=True)


def test_gradients_of_local_upsample() -> None:
    torch.manual_seed(0)
    grid, c_in, c_out = 3, 2, 2
    inputs = [
        *(randn(2, 1, c_in), randn(c_in), randn(c_in), randn(c_out, c_in, 3, 3), randn(c_out)),
        *(randn(2 * grid, 2 * grid, c_out), randn(4, grid, 2 * grid, c_out), randn(4, grid, grid, c_out)),
    ]

    def stage(x: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        return formulas.local_upsample(x, torch.tensor((1, 0, 2, 2)), *rest, "silu", 1e-5)  # type: ignore[arg-type]

    assert gradcheck(stage, inputs, fast_mode=True)


@pytest.mark.parametrize("dense", [False, True])
def test_gradients_of_prompt_embedding(dense: bool) -> None:
    torch.manual_seed(0)
    labels = torch.ones(80, 80, dtype=torch.uint8)
    labels[3:9, 4:12] = torch.randint(0, 5, (6, 8), dtype=torch.uint8)
    inputs = [randn(5, 5, 2), randn(5, 2)]
    for _ in range(4):
        inputs += [randn(2, 2, 3, 3), randn(2)]

    def embed(embedding: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        return formulas.prompt_embedding(labels, embedding, *rest, dense)  # type: ignore[arg-type]

    assert gradcheck(embed, inputs, fast_mode=True)
