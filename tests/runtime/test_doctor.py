from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from operators import twins

from inter2former_deploy.core.library import LIBRARY_VARIABLE, library_path
from inter2former_deploy.core.manifest import Manifest, sha256
from inter2former_deploy.core.threads import CpuLimits
from inter2former_deploy.operators.registry import OPERATORS
from inter2former_deploy.runtime import doctor
from inter2former_deploy.runtime.onnx_bytes import one_node_model

# Operators that no graph of the tiny bundle has.
OF_HRSAM = ("CycleScan", "MaskUpscaling", "ImageToTokenAttention", "TokenToImageAttention")
TWINS = {
    "EdgeTokensExact": partial(twins.edge_tokens, rule="exact"),
    "PromptEmbedding": twins.prompt_embedding,
    "HybridAttention": twins.hybrid_attention,
    "Bf16HybridAttention": partial(twins.hybrid_attention, bf16=True),
    "FullAttention": lambda qkv, **kw: (twins.full_attention(qkv, **kw), twins.attention_logsum(qkv, **kw)),
    "HybridExperts": twins.hybrid_experts,
    "Bf16HybridExperts": partial(twins.hybrid_experts, bfloat16=True),
    "NormLinear": twins.norm_linear,
    "LinearAdd": twins.linear_add,
    "LabelBox": twins.token_label_box,
    "LowRankLinear": twins.low_rank_linear,
    "LowRankAdd": twins.low_rank_add,
    "MaskUpscaling": twins.mask_upscaling,
    "ImageToTokenAttention": twins.image_to_token_attention,
    "TokenToImageAttention": twins.token_to_image_attention,
    "Int8Linear": twins.int8_linear,
    "Bf16Linear": twins.bf16_linear,
    "Int8NormLinear": twins.int8_norm_linear,
    "Int8LinearAdd": twins.int8_linear_add,
    "Bf16NormLinear": twins.bf16_norm_linear,
    "Bf16LinearAdd": twins.bf16_linear_add,
    "Int8Mlp": twins.int8_mlp,
    "Bf16Mlp": twins.bf16_mlp,
    "WindowAttention": twins.window_attention,
    "Bf16WindowAttention": partial(twins.window_attention, bf16=True),
    "CycleScan": twins.cycle_scan,
    "CannyMaps": twins.canny_maps,
    "EdgeStem": twins.edge_stem,
    "EdgeBlock": twins.edge_block,
    "Bf16EdgeBlock": twins.edge_block,
    "EdgeDownsample": twins.edge_downsample,
    "EdgeProjection": twins.edge_projection,
    "Bf16EdgeDownsample": twins.edge_downsample,
    "Bf16EdgeProjection": twins.edge_projection,
    "TokenBox": twins.token_box,
    "LocalUpsampleLinear": partial(twins.local_upsample, activation="none"),
    "Bf16LocalUpsampleLinear": partial(twins.local_upsample, activation="none"),
}
CASES = {case.operator: case for case in doctor.known_answers()}


def test_a_tier_that_is_not_used_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processor has it, and it does not run."""
    run = doctor._run
    reason = "the operating system does not grant this process AMX tiles"

    def without_tiles(options: Any, operator: str, *arguments: Any) -> list[Any]:
        results = list(run(options, operator, *arguments))
        return [*results[:-1], np.array(["amx", reason])] if operator == "OperatorInfo" else results

    assert not [finding for finding in doctor._operators() if finding.name.startswith("tier ")]
    monkeypatch.setattr(doctor, "_run", without_tiles)
    (finding,) = (finding for finding in doctor._operators() if finding.name.startswith("tier "))
    assert finding.name == "tier amx"
    assert finding.detail == f"not used: {reason}"
    assert finding.ok


def test_every_operator_has_a_known_answer() -> None:
    """At least one of its forms."""
    assert len(CASES) == len(OPERATORS)
    for operator in OPERATORS.values():
        assert CASES.keys() & operator.operators, operator.name


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
    assert {*(f"operator {name}" for name in TWINS), WITH, WITHOUT} <= {finding.name for finding in findings}
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
    ("bf16", "int8", "words"),
    [
        (6.0, 4.0, "here bf16 is faster (1.7x) and int8 is faster (2.5x)"),
        (14.0, 10.5, "here bf16 is slower (1.4x) and int8 is about as fast as fp32"),
        (9.5, 20.0, "here bf16 is about as fast as fp32 and int8 is slower (2.0x)"),
    ],
)
def test_times_of_reduced_precision_are_compared(bf16: float, int8: float, words: str) -> None:
    assert doctor._compared({"fp32": 10.0, "bf16": bf16, "int8": int8}) == words


def test_reduced_precision_is_measured_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LINEAR_LAYER", (16, 32))
    clock = iter(range(10**6))
    monkeypatch.setattr(doctor.time, "perf_counter", lambda: next(clock) / 1e3)
    (found,) = (finding for finding in doctor.examine() if finding.name == "reduced precision")
    times = "took fp32 1.0 ms, bf16 1.0 ms, int8 1.0 ms"
    verdict = "here bf16 is about as fast as fp32 and int8 is about as fast as fp32"
    assert found.detail == f"a linear layer of 16 x 32 x 32 {times}; {verdict}"


def test_models_carry_constants() -> None:
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((5, 4), np.float32), rng.standard_normal((4, 3), np.float32)
    weight[0, 0] = 1 + 2**-7 + 2**-12  # its upper half is 1 + 2**-7
    for bfloat16 in ([], ["weight"]):
        data = one_node_model(
            "MatMul", {"x": x, "weight": weight}, {"y": 1}, {}, bfloat16, constants=["weight"], domain=""
        )
        model = onnx.load_model_from_string(data)
        assert [value.name for value in model.graph.input] == ["x"]
        (constant,) = model.graph.initializer
        carried = onnx.numpy_helper.to_array(constant)
        assert str(carried.dtype) == ("bfloat16" if bfloat16 else "float32")
        if bfloat16:
            assert carried[0, 0] == 1 + 2**-7
            np.testing.assert_allclose(carried.astype(np.float32), weight, rtol=2**-7)
        else:
            np.testing.assert_array_equal(carried, weight)
            session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
            np.testing.assert_allclose(session.run(None, {"x": x})[0], x @ weight, rtol=1e-5)


@pytest.mark.parametrize(
    ("limits", "detail"),
    [
        (CpuLimits(8, 8), "8 if no number is given: 8 logical cores"),
        (CpuLimits(8, 2), "2 if no number is given: 8 logical cores, 2 of them for this process (CPU affinity)"),
        (
            CpuLimits(8, 8, 1.5, Path("/sys/fs/cgroup/cpu.max")),
            "1 if no number is given: 8 logical cores, 1.5 cores' worth of time (/sys/fs/cgroup/cpu.max)",
        ),
    ],
)
def test_threads_and_why(monkeypatch: pytest.MonkeyPatch, limits: CpuLimits, detail: str) -> None:
    monkeypatch.setattr(doctor, "cpu_limits", lambda: limits)
    assert doctor._threads().detail == detail


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the tiny model, which doctor runs instead."""
    folder = Path(shutil.copytree(doctor.TINY_BUNDLE, tmp_path / "tiny"))
    monkeypatch.setattr(doctor, "TINY_BUNDLE", folder)
    return folder


WITH, WITHOUT = "graphs with the library", "graphs without the library"


def problems() -> dict[str, doctor.Finding]:
    return {finding.name: finding for finding in doctor.examine() if not finding.ok}


def test_a_graph_that_only_the_library_runs_is_found(tiny: Path) -> None:
    """As onnxruntime 1.20 to 1.24 met it: a function body that this onnxruntime does not accept."""
    model = onnx.load(tiny / "tiny" / "click.onnx")
    (body,) = (function for function in model.functions if function.name == "TokenBox")
    body.node[0].op_type = "NoSuchOperator"
    onnx.save(model, tiny / "tiny" / "click.onnx")
    sign(tiny)
    found = problems()
    assert list(found) == [WITHOUT]
    assert "NoSuchOperator" in found[WITHOUT].detail
    assert len(found[WITHOUT].detail) <= doctor.LONGEST_DETAIL
    assert "install a newer onnxruntime" in found[WITHOUT].advice


def test_wrong_logits_are_found(tiny: Path) -> None:
    with np.load(tiny / doctor.EXPECTED_FILE) as file:
        expected = dict(file)
    expected["logits"][3, 4] += 0.01
    np.savez(tiny / doctor.EXPECTED_FILE, **expected)
    found = problems()
    assert list(found) == [WITH, WITHOUT]
    assert "off from PyTorch's" in found[WITH].detail
    expected["logits"][3, 4] -= 0.01
    expected["masks"][0, 5, 6] ^= True
    np.savez(tiny / doctor.EXPECTED_FILE, **expected)
    assert "masks differ from PyTorch's in 1 pixel" in problems()[WITHOUT].detail


def test_without_the_library_graphs_are_still_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIBRARY_VARIABLE, "/nowhere/lib.so")
    assert list(problems()) == ["operator library"]
    assert WITHOUT in {finding.name for finding in doctor.examine()}


def test_the_tiny_model_is_what_the_exporter_makes_now() -> None:
    """If this fails, run scripts/doctor_bundle.py and commit what it writes."""
    from graphs import assert_as_exported_now

    from inter2former_deploy.families.checkpoint import synthetic_state_dict
    from inter2former_deploy.families.inter2former.config import ModelConfig
    from inter2former_deploy.families.inter2former.modules.model import Inter2Former

    manifest = Manifest.read(doctor.TINY_BUNDLE)
    model = Inter2Former(config := ModelConfig.from_dict(manifest.decoder().config)).eval()
    model.load_state_dict(dict(synthetic_state_dict(config)))
    operators = assert_as_exported_now(doctor.TINY_BUNDLE, model, manifest.size)
    reduced = {name for name in TWINS if name.startswith(("Int8", "Bf16"))}
    assert operators >= TWINS.keys() - reduced - {*OF_HRSAM}


def sign(folder: Path) -> None:
    """Write the manifest for the click graph as it is now."""
    manifest = Manifest.read(folder)
    decoder = manifest.decoder()
    click = replace(decoder.click, sha256=sha256(folder / decoder.click.file))
    replace(manifest, decoders={"tiny": replace(decoder, click=click)}).write(folder)
