"""The parity gate itself: right graphs pass, wrong ones are refused by the tensor in which they show."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from graphs import exported, some_prepared
from mutants import Trial, mutants
from onnx import numpy_helper

from inter2former_deploy.exporters import tolerances
from inter2former_deploy.exporters.bundle import load_weights
from inter2former_deploy.exporters.exact import Float64Convolutions
from inter2former_deploy.exporters.judgement import Check, Exact, judged, mask_difference
from inter2former_deploy.exporters.parity import OPERATORS, PLAIN, Graph, Graphs, ParityReport, load_photograph
from inter2former_deploy.exporters.precision import reduce_click, reduce_precision, reduce_preparation
from inter2former_deploy.exporters.tolerances import REDUCED_MEAN
from inter2former_deploy.families.exact_embedding import ExactEmbedding
from inter2former_deploy.families.hrsam.interface import LOGITS
from inter2former_deploy.families.inter2former.config import DEMO, PATCH, PROBE
from inter2former_deploy.families.inter2former.decisions import Decisions, Watch, compare_decisions
from inter2former_deploy.families.inter2former.exact import (
    PART,
    ExactCannyMaps,
    ExactPreparation,
    _moments_of_norms,
    _Part,
)
from inter2former_deploy.families.inter2former.gate import Gate, check_parity
from inter2former_deploy.families.inter2former.graphs import DenseClick, PrepareGraph
from inter2former_deploy.families.inter2former.interface import EDGE_INPUTS, EMBEDDING, LABELS, PREPARED
from inter2former_deploy.families.inter2former.modules.model import ImageFeatures, Inter2Former

Array = np.ndarray


def export(model: Inter2Former, folder: Path, size: int) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{graph}.onnx" for graph in ("encoder", "prepare", "click")]
    for path in paths:
        onnx.save(exported(model, path.stem, size=size), path)  # type: ignore[arg-type]
    return paths


# ---- Whole graphs.


@pytest.mark.parametrize(
    ("seed", "rule", "size"), [(3, "exact", 128), (11, "released", 112), (None, "exact", 128), (5, "released", 176)]
)
def test_right_graphs_pass(seed: int | None, rule: Any, size: int, tmp_path: Path) -> None:
    """Seeds of synthetic weights, and the bundled ones, with the library and without."""
    model, _ = load_weights(None, config=None if seed is None else PROBE, seed=seed or 0, edge_rule=rule)
    assert (model.config.name == DEMO.name) == (seed is None)
    report = check_parity(model, *export(model, tmp_path, size), size=size, num_threads=2)
    assert report.passed, report.table()
    assert report.backends == (PLAIN, OPERATORS)
    assert all(all(decode.tight.values()) or decode.decisions.on_tie for decode in report.decodes)


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    return Trial(tmp_path_factory.mktemp("mutants"))


def test_wrong_graphs_are_refused(trial: Trial) -> None:
    """Every seventh mutant here; `scripts/gate wrong` tries them all."""
    found = {mutant: trial.judge(mutant) for mutant in list(mutants(trial.graphs))[::7]}
    verdicts = Counter(verdict for verdict, _ in found.values())
    accepted = [f"{mutant.graph}: {mutant.name}" for mutant, (verdict, _) in found.items() if verdict == "accepted"]
    assert not accepted
    assert verdicts["refused"] >= 60, verdicts
    # The gate's inputs reach nearly everything: of the whole list 0.16. A share of so small a sample varies by 0.05.
    assert verdicts["without effect"] <= 0.3 * verdicts["refused"], verdicts


def test_wrong_graphs_of_hrsam_are_refused(tmp_path: Path) -> None:
    """Some of its mutants: those of the encoder take seconds each."""
    trial = Trial(tmp_path, "hrsam")
    sample = [m for i, m in enumerate(mutants(trial.graphs)) if i % (13 if m.graph == "click" else 53) == 0]
    found = [(mutant, *trial.judge(mutant)) for mutant in sample]
    assert not [f"{mutant.graph}: {mutant.name}" for mutant, verdict, _ in found if verdict == "accepted"]
    refused = [(mutant.graph, tensors) for mutant, verdict, tensors in found if verdict == "refused"]
    assert len(refused) >= 9
    assert {graph for graph, _ in refused} >= {"encoder", "click"}
    assert all({"encoder": EMBEDDING, "click": LOGITS}.get(graph, tensors[0]) in tensors for graph, tensors in refused)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("1e-3 of its size added: backbone.patch_embed.proj.bias", "image_embedding"),
        ("WindowAttention: windows shifted otherwise", "image_embedding"),
        ("Resize: nearest for linear", "image_embedding"),
        ("1e-3 of its size added: edge_detector.block_list.3.0.norm2.bias", "edge_0"),
        ("EdgeBlock: epsilon ten times larger", "edge_0"),
        ("rounded to float16: neck.blocks.0.qkv_proj.weight", "blank_qkv"),
        ("LocalUpsample: epsilon ten times larger", "box_logits"),
        ("HybridExperts: epsilon ten times larger", "tokens"),
        ("TokenBox: threshold lower by a tenth", "box"),
        ("first two output channels swapped: neck.blocks.1.bsq_attn.code_proj.weight", "tokens"),
    ],
)
def test_a_wrong_graph_shows_where_it_is_wrong(trial: Trial, name: str, tensor: str) -> None:
    (mutant,) = {mutant.name: mutant for mutant in mutants(trial.graphs) if mutant.name == name}.values()
    verdict, failures = trial.judge(mutant)
    assert verdict == "refused"
    assert tensor in failures


@pytest.fixture(scope="module")
def reduced(probe_model: Inter2Former, tmp_path_factory: pytest.TempPathFactory) -> tuple[Graphs, dict[str, Any]]:
    """The graphs in float32, and what they are in bf16."""
    folder = tmp_path_factory.mktemp("reduced")
    encoder, prepare, click = export(probe_model, folder, 128)
    graphs = {
        "encoder": reduce_precision(onnx.load(encoder), "bf16"),
        "prepare": reduce_preparation(onnx.load(prepare)),
        "click": reduce_click(onnx.load(click)),
    }
    return Graphs(encoder=encoder, prepare=prepare, click=click), graphs


@pytest.mark.parametrize(
    ("graph", "operator", "number", "tensor", "backend"),
    [
        ("", "", 0, "", ""),
        ("encoder", "Bf16NormLinear", 4, "image_embedding in bf16", PLAIN),
        ("encoder", "Bf16Mlp", 2, "image_embedding in bf16", OPERATORS),
        ("prepare", "Bf16EdgeBlock", 3, "edge_0", PLAIN),
        ("prepare", "Bf16EdgeBlock", 8, "edge_0 in bf16", OPERATORS),
        ("prepare", "Bf16EdgeDownsample", 1, "edge_0 in bf16", OPERATORS),
        ("prepare", "Bf16EdgeProjection", 1, "edge_border_0 in bf16", OPERATORS),
        ("click", "Bf16LocalUpsample", 4, "box_logits", f"{PLAIN}, bf16"),
        ("click", "Bf16HybridExperts", 7, "tokens", f"{PLAIN}, bf16"),
    ],
)
def test_reduced_graphs_are_judged_each_by_itself(
    graph: str, operator: str, number: int, tensor: str, backend: str, reduced: Any, probe_model: Any, tmp_path: Path
) -> None:
    """Right ones pass; another weight, input `number` of the first node of an operator, is found where it shows."""
    reference, protos = reduced
    files = {name: tmp_path / f"{name}.onnx" for name in protos}
    for name, proto in protos.items():
        changed = onnx.ModelProto()
        changed.CopyFrom(proto)
        if name == graph:
            node = next(node for node in changed.graph.node if node.op_type == operator)
            (weight,) = (x for x in changed.graph.initializer if x.name == node.input[number])
            weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) + np.float32(0.05), weight.name))
        onnx.save(changed, files[name])
    report = check_parity(
        probe_model,
        reference.encoder,
        reference.prepare,
        reference.click,
        size=128,
        reduced=Graphs(**files),
        precision="bf16",
        num_threads=2,
    )
    assert report.passed == (graph == ""), report.table()
    if graph:
        assert (tensor, backend) in {(check.tensor, check.backend) for check in report.failures}, report.table()


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_reduced_precision_is_judged_by_modules_rounded_alike(
    precision: Any, probe_model: Inter2Former, tmp_path: Path
) -> None:
    """In the embedding they are as far from float64 as the graph is."""
    encoder, prepare, _ = export(probe_model, tmp_path, 128)
    onnx.save(reduce_precision(onnx.load(encoder), precision), encoder)
    with torch.inference_mode():
        gate = Gate(probe_model, 128)
        features = {PLAIN: gate.check_encoder(*export(probe_model, tmp_path / "fp32", 128)[:2], PLAIN)}
        gate.check_reduced(encoder, prepare, precision, features, 2)
    checks = {check.measure: check for check in gate.checks if check.tensor == f"image_embedding in {precision}"}
    assert checks.keys() == {"largest error", "mean error"}
    assert 0.5 < checks["mean error"].value / checks["mean error"].limit * REDUCED_MEAN < 1.2


# ---- Masks.


def test_pixels_that_differ_count_by_the_larger_object() -> None:
    empty, object_ = np.zeros((100, 200), bool), np.zeros((100, 200), bool)
    object_[:50] = True
    assert mask_difference(object_, object_) == mask_difference(empty, empty) == 0
    shrunk = object_.copy()
    shrunk[49] = False
    assert mask_difference(object_, shrunk) == mask_difference(shrunk, object_) == pytest.approx(1 - 49 / 50)
    assert mask_difference(object_, ~object_) == 1
    dot = empty.copy()
    dot[3, 4:6] = True  # an object of two pixels is judged as one of a twentieth of the picture
    assert mask_difference(dot, empty) == pytest.approx(2 / 1000)
    assert mask_difference(object_, dot) > 0.9


class PyTorchGraph(Graph):
    """The modules in the place of click.onnx; where it is told to, the first mask has a few more pixels."""

    def __init__(self, gate: Gate, moved: Array | None) -> None:
        self.gate, self.moved, self.seen = gate, moved, []

    def __call__(self, feeds: Any) -> dict[str, Array]:
        labels = feeds[LABELS]
        own = ImageFeatures(self.gate.own_embedding, self.gate.own_edges)
        logits = self.gate.model.decode(own, torch.from_numpy(labels)[None])[0, 0].numpy().copy()
        if self.moved is not None and not self.seen:
            logits[self.moved] *= -1
        self.seen.append(labels.copy())
        return {"logits": logits}


def test_masks_are_compared_at_the_label_map_of_each_side(
    probe_model: Inter2Former, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pixel on the threshold changes all label maps after it; the same modules make the same masks of them."""
    size = 96
    encoder, prepare, _ = export(probe_model, tmp_path, size)
    monkeypatch.setattr(Gate, "_check_decode", lambda *_: {})
    monkeypatch.setattr(Gate, "_run_noise", lambda *_: None)
    moved = np.zeros((size, size), bool)
    moved[:12, 4:8] = True
    with torch.inference_mode():
        gate = Gate(probe_model, size)
        features = gate.check_encoder(encoder, prepare, PLAIN)
        same, other = PyTorchGraph(gate, None), PyTorchGraph(gate, moved)
        gate._run_session({PLAIN: same, OPERATORS: other}, {PLAIN: features, OPERATORS: features})
    assert len(same.seen) == len(other.seen) > 2
    assert all((one != another).any() for one, another in zip(same.seen[1:], other.seen[1:], strict=True))
    masks = {check.backend: check for check in gate.worst.values()}
    assert masks[PLAIN].value == 0
    assert masks[OPERATORS].note == "click 1"
    assert 0 < masks[OPERATORS].value < 1


# ---- Tensors.


def test_a_tensor_may_be_off_a_multiple_of_what_float32_is() -> None:
    rng = np.random.default_rng(0)
    exact = rng.standard_normal(10000)
    own = exact + 1e-5 * rng.standard_normal(10000)
    yardstick = Exact.of(torch.from_numpy(exact), torch.from_numpy(own))

    def failures(actual: Array) -> list[str]:
        return [check.measure for check in judged("x", "y", actual, yardstick) if not check.passed]

    again = exact + 2e-5 * rng.standard_normal(10000)  # as good as another order of sums
    assert failures(again) == []
    outlier = again.copy()
    outlier[7] += 1e-3  # the mean hides it
    assert failures(outlier) == ["largest error"]
    assert failures(exact + 5e-5) == ["mean error"]  # the largest hides it
    missing = again.copy()
    missing[3] = np.nan
    assert failures(missing) == ["largest error", "mean error"]
    assert failures(again[:-1]) == ["count"]


def test_units_in_the_last_place_are_no_difference() -> None:
    exact = torch.linspace(-3, 3, 100, dtype=torch.float64)
    yardstick = Exact.of(exact, exact)  # PyTorch happens to be exact
    rounded = np.nextafter(exact.numpy().astype(np.float32), np.float32(9))
    assert all(check.passed for check in judged("x", "y", rounded, yardstick))
    assert not all(check.passed for check in judged("x", "y", exact.numpy() * (1 + 1e-5), yardstick))


@pytest.mark.parametrize(
    ("value", "passed"), [(0.0, True), (1.0, True), (1.1, False), (np.nan, False), (np.inf, False)]
)
def test_a_check_fails_above_its_limit_and_without_a_number(value: float, passed: bool) -> None:
    check = Check(tensor="x", backend="y", measure="largest error", value=value, limit=1.0)
    assert check.passed is passed
    assert (check.excess > 1) is not passed
    assert Check(tensor="x", backend="y", measure="count", value=1.0, limit=0.0).excess == np.inf


# ---- Canny maps.


@pytest.fixture(scope="module")
def canny(probe_model: Inter2Former) -> tuple[Any, torch.Tensor, Array]:
    """The module, a picture with flat padding, and its maps."""
    picture = torch.zeros(96, 96, 3)
    picture[:64] = torch.from_numpy(load_photograph()[100:164, 200:296].astype(np.float32))
    with torch.inference_mode():
        maps = probe_model.edge_detector.canny.encode(picture).numpy()
    return probe_model.edge_detector.canny, picture, maps


def canny_failures(canny: tuple[Any, torch.Tensor, Array], maps: Array) -> list[str]:
    module, picture, _ = canny
    with torch.inference_mode():
        checks = list(ExactCannyMaps(module, picture).judge("x", maps))
    assert len(checks) == 6
    return [check.tensor.split("/")[1] for check in checks if not check.passed]


def test_right_canny_maps_pass(canny: Any) -> None:
    assert canny_failures(canny, canny[2]) == []


def test_noise_of_flat_pixels_is_free(canny: Any) -> None:
    """Where the gradient is rounding noise any direction is right, and where there is none it is 180 degrees."""
    maps = canny[2].copy()
    assert (maps[0, 70:] == 0).all()
    maps[1, 70:] = np.random.default_rng(0).integers(0, 9, (26, 96)) * 45
    assert canny_failures(canny, maps) == ["grad_ori"]
    maps[0, 70:] = 1e-8
    assert set(canny_failures(canny, maps)) <= {"thin"}  # the border of the noise is a maximum now


def test_wrong_canny_maps_are_refused(canny: Any) -> None:
    _, _, right = canny
    strong = np.unravel_index(np.argmax(right[2]), right[2].shape)  # a maximum across an edge
    edits: dict[str, list[str]] = {"direction": ["grad_ori"], "thin": ["thin"], "early": ["early"]}
    for edit, expected in edits.items():
        maps = right.copy()
        if edit == "direction":
            maps[1][strong] = (maps[1][strong] + 90) % 360
        elif edit == "thin":
            maps[2][strong] = 0
        else:
            maps[4][strong] = 0
        assert set(expected) <= set(canny_failures(canny, maps)), edit
    shifted = right.copy()
    shifted[0] += 2e-4
    assert "grad_mag" in canny_failures(canny, shifted)
    assert "grad_ori" in canny_failures(canny, np.where(np.arange(5)[:, None, None] == 1, right + 1, right))


# ---- Parts of large maps.


@pytest.mark.parametrize(("row", "column"), [(0, 0), (16 - PART, 16 - PART), (6, 5), (0, 12)])
def test_a_part_is_that_of_the_whole(row: int, column: int, probe_model: Inter2Former) -> None:
    """But for the statistics of norms, which are those of float32."""
    size = 256
    with torch.inference_mode():
        picture = torch.from_numpy(load_photograph()[:size, :size].astype(np.float32))
        maps = probe_model.edge_detector.canny.encode(picture)
        preparation = ExactPreparation(probe_model, size, np.random.default_rng(0))
        whole = dict(zip(EDGE_INPUTS, preparation._exact.edge_inputs(maps.double()), strict=True))
        with _moments_of_norms(preparation._own.edge_detector) as moments:
            preparation._own.edge_detector.features(maps[None])
        part = _Part(row, column)
        found = preparation._exact_part(maps, moments, part)
        for name in EDGE_INPUTS:
            expected = part.of(name, whole[name])
            assert found[name].shape == expected.shape
            assert (found[name] - expected).abs().max() <= 3e-7 * whole[name].abs().max(), name


def test_large_maps_are_judged_in_parts_and_as_a_whole(
    probe_model: Inter2Former, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 256
    monkeypatch.setattr(tolerances, "PARTS_ABOVE", 0)
    with torch.inference_mode():
        picture = torch.from_numpy(load_photograph()[:size, :size].astype(np.float32))
        embedding = torch.randn(size // PATCH, size // PATCH, PROBE.decoder.dim)
        outputs = embedding, *PrepareGraph(probe_model)(picture, embedding)
        names = (EMBEDDING, *PREPARED, "canny_maps")
        actual = {name: x.numpy() for name, x in zip(names, outputs, strict=True)}

        def failures() -> set[str]:
            preparation = ExactPreparation(probe_model, size, np.random.default_rng(1))
            checks, _ = preparation.judge("x", actual)
            return {check.tensor for check in checks if not check.passed}

        assert failures() == set()
        actual["edge_2"] = actual["edge_2"].copy()
        actual["edge_2"][-1, -1] += 1e-3 * np.abs(actual["edge_2"]).max()  # in neither part
        assert failures() == {"edge_2 (whole map)"}
        actual["edge_border_1"] = actual["edge_border_1"].copy()
        actual["edge_border_1"][0, 1] *= 1 + 1e-4  # in the corner part
        assert {"edge_border_1"} <= failures()


def test_the_embedding_of_a_large_map_is_judged_in_a_part_and_as_a_whole(
    probe_model: Inter2Former, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The part is that of the whole but for a fraction of float32's error, at a border, and elsewhere each time."""
    size, encoder = 256, probe_model.backbone
    picture = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 3, size, size)).astype(np.float32))
    monkeypatch.setattr(tolerances, "PARTS_ABOVE", 0)
    with torch.inference_mode():
        whole = copy.deepcopy(encoder).double()(picture.double())[0].permute(1, 2, 0)
        parts = set()
        for seed in range(6):
            exact = ExactEmbedding(encoder, size, np.random.default_rng(seed))
            own = exact.encode(picture)
            exact.encode_exactly(picture)
            area = exact.part
            expected, float32 = (area.of(x) for x in (whole, own[0].permute(1, 2, 0)))
            assert exact.exact.shape == expected.shape
            assert (exact.exact - expected).abs().mean() <= 0.1 * (float32 - expected).abs().mean()
            assert {area.top, area.left} & {0} or {area.bottom, area.right} & {size // PATCH}
            parts.add(area)

        def failures(row: int, error: float) -> set[str]:
            """With the first value of a row of tokens off by a share of the largest value."""
            actual = whole.float().numpy().copy()
            actual[row, area.left, 0] += error * np.abs(actual).max()
            found = exact.judge("x", "y", actual, own, tolerances.LARGEST, tolerances.MEAN)
            return {check.tensor for check in found if not check.passed}

        beyond = (area.top + size // PATCH // 2) % (size // PATCH)  # no row of the part
        assert failures(area.top, 0) == failures(beyond, 0) == set()
        off = float((float32 - expected).abs().max() / whole.abs().max())  # float32's largest error in the part
        assert failures(area.top, 16 * off) == {"x"}
        assert failures(beyond, 60 * off) == {"x (whole map)"}
    assert len(parts) > 2


@pytest.mark.parametrize(
    ("kernel", "settings"),
    [
        ((3, 3), {"padding": 1}),
        ((3, 3), {}),
        ((5, 3), {"padding": (2, 1)}),
        ((1, 1), {"bias": None}),
        ((3, 3), {"padding": (0, 2)}),
        ((3, 3), {"padding": 1, "stride": 2}),
        ((3, 3), {"padding": 2, "dilation": 2}),
        ((3, 3), {"padding": "same"}),
    ],
)
def test_convolutions_in_float64_are_those_of_pytorch(kernel: tuple[int, int], settings: dict[str, Any]) -> None:
    rng = torch.Generator().manual_seed(1)
    x, weight, bias = (
        torch.randn(shape, generator=rng, dtype=torch.float64) for shape in ((1, 3, 7, 9), (5, 3, *kernel), (5,))
    )
    settings = {"bias": bias} | settings
    expected = F.conv2d(x, weight, **settings)
    with Float64Convolutions():
        found = F.conv2d(x, weight, **settings)
        grouped = F.conv2d(x, weight[:3, :1], groups=3)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(grouped, F.conv2d(x, weight[:3, :1], groups=3))


# ---- Decisions.


def decisions_of(model: Inter2Former, size: int = 80) -> tuple[Decisions, int]:
    labels = np.ones((size, size), np.uint8)
    labels[20:40, 26:40] = 3
    labels[26, 26] = 4
    prepared = some_prepared(model.config, size)
    inputs = [torch.from_numpy(prepared[name]) for name in (EMBEDDING, *EDGE_INPUTS)]
    scores, low_res = [], []
    for dtype in (torch.float64, torch.float32):
        decoder = DenseClick(model).to(dtype)
        with torch.inference_mode(), Watch(decoder) as watch:
            *_, found, edge = decoder(torch.from_numpy(labels), *(x.to(dtype) for x in inputs))
        scores.append(watch.scores)
        low_res.append(found)
        assert not decoder.neck.blocks[0].ffn._forward_hooks
        if dtype == torch.float64:
            exact = DenseClick(Inter2Former(model.config)).double()
            exact.load_state_dict(decoder.state_dict())
    with torch.inference_mode():
        return compare_decisions(exact, *scores, *low_res), len(edge)


def test_margins_and_experts_of_a_decode() -> None:
    model, _ = load_weights(None, config=PROBE, edge_rule="exact")
    decisions, edge = decisions_of(model)
    assert [sum(layer) for layer in decisions.experts] == [edge] * 2
    assert set(decisions.margins) == {"code 0", "code 1", "expert 0", "expert 1", "box"}
    assert all(margin.smallest > margin.tie > 0 for margin in decisions.margins.values())
    assert decisions.same
    assert not decisions.on_tie


def test_equal_experts_are_a_tie() -> None:
    model, _ = load_weights(None, config=PROBE, edge_rule="exact")
    ffn = model.neck.blocks[0].ffn
    with torch.no_grad():
        ffn.exp_bias[:] = torch.tensor([5.0, 5.0, *[0.0] * 6])
        gate = ffn.expert_gate[0]
        gate.weight[1], gate.bias[1] = gate.weight[0], gate.bias[0]
    decisions, _ = decisions_of(model)
    assert decisions.margins["expert 0"].smallest < 1e-12
    assert decisions.on_tie
    assert decisions.nearest.startswith("expert 0")


def test_a_report_can_be_written_whatever_it_holds() -> None:
    checks = tuple(
        Check(tensor="x", backend="y", measure="largest error", value=value, limit=1.0, against="float64")
        for value in (np.nan, np.inf, 0.5)
    )
    report = ParityReport(size=16, backends=("y",), checks=checks, tools={})
    assert [entry["passed"] for entry in report.to_dict()["checks"]] == [False, False, True]
    assert [entry["value"] for entry in report.to_dict()["checks"]] == ["nan", "inf", 0.5]
