from __future__ import annotations

from functools import partial

import ml_dtypes
import numpy as np
import onnx
import pytest
from operators import twins

from inter2former_deploy.library import library_path
from inter2former_deploy.runtime import doctor
from inter2former_deploy.runtime.onnx_bytes import one_node_model

TWINS = {
    "EdgeTokensExact": partial(twins.edge_tokens, rule="exact"),
    "PromptEmbedding": twins.prompt_embedding,
    "HybridAttention": twins.hybrid_attention,
    "FullAttention": lambda qkv, **kw: (twins.full_attention(qkv, **kw), twins.attention_logsum(qkv, **kw)),
    "HybridExperts": twins.hybrid_experts,
    "NormLinear": twins.norm_linear,
    "LinearAdd": twins.linear_add,
    "Int8Linear": twins.int8_linear,
    "Bf16Linear": twins.bf16_linear,
    "WindowAttention": twins.window_attention,
    "CannyMaps": twins.canny_maps,
    "EdgeStem": twins.edge_stem,
    "EdgeBlock": twins.edge_block,
    "EdgeDownsample": twins.edge_downsample,
    "EdgeProjection": twins.edge_projection,
    "TokenBox": twins.token_box,
    "LocalUpsampleLinear": partial(twins.local_upsample, activation="none"),
}
CASES = {case.operator: case for case in doctor.known_answers()}


@pytest.mark.parametrize("operator", TWINS)
def test_known_answers_are_right(operator: str) -> None:
    case = CASES[operator]
    inputs = [x.astype(ml_dtypes.bfloat16) if name in case.bfloat16 else x for name, x in case.inputs.items()]
    answers = TWINS[operator](*inputs, **case.attributes)
    for answer, expected in zip(answers if len(case.expected) > 1 else (answers,), case.expected, strict=True):
        np.testing.assert_allclose(answer, expected.astype(np.asarray(answer).dtype), rtol=1e-7)


@pytest.mark.parametrize("operator", CASES)
def test_models_say_what_was_meant(operator: str) -> None:
    case = CASES[operator]
    model = onnx.load_model_from_string(
        one_node_model(operator, case.inputs, case.outputs, case.attributes, case.bfloat16)
    )
    *casts, node = model.graph.node
    assert [cast.input[0] for cast in casts] == list(case.bfloat16)
    cast_from = {cast.output[0]: cast.input[0] for cast in casts}
    assert [cast_from.get(name, name) for name in node.input] == list(case.inputs)
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    attributes = {name: a.decode() if isinstance(a, bytes) else a for name, a in attributes.items()}
    assert attributes == {name: pytest.approx(a) if isinstance(a, float) else a for name, a in case.attributes.items()}


def test_a_healthy_installation() -> None:
    findings = doctor.examine()
    assert [finding for finding in findings if not finding.ok] == []
    assert {f"operator {name}" for name in TWINS} <= {finding.name for finding in findings}
    (found,) = (finding for finding in findings if finding.name == "operator library")
    assert str(library_path()) in found.detail


def test_a_wrong_answer_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = [case for case in doctor.known_answers() if case.operator == "TokenBox"]
    monkeypatch.setattr(doctor, "known_answers", lambda: wrong)
    wrong[0].expected[0][0] += 1
    (problem,) = (finding for finding in doctor.examine() if not finding.ok)
    assert problem.name == "operator TokenBox"
    assert problem.detail == "expected [3, 1, 3, 2], got [2, 1, 3, 2]"


@pytest.mark.parametrize(
    ("tier", "words"),
    [
        ("avx512bf16", "int8 and bf16 have instructions"),
        ("avx512vnni", "bf16 has none"),
        ("avx512", "int8 is somewhat faster"),
        ("avx2", "they save memory, but no time"),
    ],
)
def test_what_to_expect_of_reduced_precision(tier: str, words: str) -> None:
    assert words in doctor._reduced_precision(tier)
    assert "reduced precision" in {finding.name for finding in doctor.examine()}
