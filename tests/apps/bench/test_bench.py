"""The benchmarks measure what they say: every variant computes the same, floors and comparisons are right."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from inter2former_deploy.apps.bench import clicks, hrsam_clicks, images, operators, plots, report, scene
from inter2former_deploy.apps.bench.machine import Ceilings
from inter2former_deploy.apps.bench.workers import Workload, alternate
from inter2former_deploy.apps.cli import app
from inter2former_deploy.families.hrsam.config import HRSAM_VIT_B, HRSAMPP_PROBE, HRSAMPP_VIT_B
from inter2former_deploy.operators.registry import OPERATORS

SMALL = {
    "hybrid_attention": {"side": 8, "share": 0.2},
    "bf16_hybrid_attention": {"side": 8, "share": 0.2},
    "hybrid_experts": {"side": 8, "share": 0.2, "experts": 4},
    "bf16_hybrid_experts": {"side": 8, "share": 0.2, "experts": 4},
    "norm_linear": {"side": 8},
    "linear_add": {"side": 8},
    "low_rank_linear": {"side": 8, "share": 0.2},
    "low_rank_add": {"side": 8, "share": 0.2},
    "label_box": {"side": 8, "share": 0.2},
    "mask_upscaling": {"side": 3},
    "image_to_token_attention": {"side": 3, "clicks": 2},
    "token_to_image_attention": {"side": 3, "clicks": 2},
    "edge_tokens": {"side": 8, "share": 0.2},
    "prompt_embedding": {"side": 8, "share": 0.2},
    "token_box": {"side": 8, "share": 0.2},
    "local_upsample": {"side": 8, "share": 0.2, "stage": 1},
    "bf16_local_upsample": {"side": 8, "share": 0.2, "stage": 1},
    "full_attention": {"side": 8},
    "window_attention": {"side": 6},
    "bf16_window_attention": {"side": 6},
    "cycle_scan": {"side": 2, "apart": True},
    "int8_linear": {"side": 2},
    "bf16_linear": {"side": 2},
    "int8_norm_linear": {"side": 2},
    "bf16_norm_linear": {"side": 2},
    "int8_linear_add": {"side": 2},
    "bf16_linear_add": {"side": 2},
    "int8_mlp": {"side": 2},
    "bf16_mlp": {"side": 2},
    "canny_maps": {"side": 4},
    "edge_stem": {"side": 4},
    "edge_block": {"side": 4, "stage": 2},
    "bf16_edge_block": {"side": 4, "stage": 2},
    "edge_downsample": {"side": 4, "stage": 1},
    "edge_projection": {"side": 8, "stage": 1},
    "bf16_edge_downsample": {"side": 4, "stage": 1},
    "bf16_edge_projection": {"side": 8, "stage": 1},
}


ROUNDED = (
    "bf16_edge_block",
    "bf16_edge_downsample",
    "bf16_edge_projection",
    "bf16_hybrid_attention",
    "bf16_hybrid_experts",
    "bf16_local_upsample",
    "bf16_window_attention",
)


@pytest.mark.parametrize("case", operators.CASES)
def test_variants_of_an_operator_compute_the_same(case):
    results = []
    for variant in operators.VARIANTS:
        out = operators.build(case, variant, SMALL[case])()
        results.append([np.asarray(x.numpy()) for x in (out if isinstance(out, list | tuple) else (out,))])
    assert len(results[0]) == len(operators.CASES[case](**SMALL[case]).outputs)
    for result in results[1:]:
        for actual, expected in zip(result, results[0], strict=True):
            # Where a tier has a matrix unit, this one rounds what others do not.
            limit = 2.0**-7 if case in ROUNDED else 1e-4
            close = np.isclose(actual, expected, rtol=limit, atol=limit * np.abs(expected).max())
            # Rounding decides the direction of a Canny pixel here and there, and what a hidden number rounds to.
            assert close.mean() >= {"canny_maps": 0.998, "int8_mlp": 0.99, "bf16_mlp": 0.99}.get(case, 1)


def documented_operators():
    """Those of the contract, but for the one that is in no graph and for those that end in a GELU or a gate.

    An operator and the one of its inputs that ends so are one formula, and one case.
    """
    text = Path(__file__).parents[3].joinpath("custom_ops", "OPERATORS.md").read_text()
    headings = re.findall(r"^## (.+?): ", text, re.MULTILINE)
    names = {name for heading in headings for name in re.split(", | and ", heading)} - {"OperatorInfo"}
    return {name for name in names if not name.endswith(("Gelu", "Gated"))}


def test_every_operator_is_measured():
    cases = {name: make(**SMALL[name]).operator for name, make in operators.CASES.items()}
    assert cases == {operator.formula: name for name, operator in OPERATORS.items()}
    assert set(cases.values()) == documented_operators()
    swept = list(operators.sweep([256]))
    assert {name for name, _ in swept} == cases.keys()
    for name, arguments in swept:
        assert operators.CASES[name](**arguments).operator == cases[name]


def test_work_of_the_encoder_s_operators_adds_up_to_that_of_opening_an_image():
    """Once an image: the operators' floors, and what plain ONNX computes, are `encoder_flop` but for activations."""
    size, side = 512, 32
    encoder, decoder = operators.ENCODER, operators.DECODER
    flop = {
        (name, *arguments.values()): operators.CASES[name](**arguments).flop
        for name, arguments in operators.sweep([size])
        if name.startswith(("bf16_linear", "window", "edge_", "full")) and name != "edge_tokens"
    }
    tokens = side**2 + 16**2
    exponentials = tokens * encoder.window**2 * 12 * encoder.heads
    gelu = tokens * 4 * encoder.dim * 26
    layers = sum(flop["bf16_linear", side, layer] for layer in operators.LAYERS) - gelu
    total = encoder.depth * (layers + flop["window_attention", side] - exponentials)
    total += 2 * tokens * 3 * 16**2 * encoder.dim + 4 * 2 * side**2 * 2 * encoder.dim * decoder.dim  # patches, fusion
    for stage, channels in enumerate(operators.FEATURES):
        pixels = (size >> stage) ** 2
        block = flop["edge_block", side, stage] - 2 * 15 * pixels * channels  # without SiLU
        total += 4 * block + 2 * pixels * channels**2  # a lateral convolution: folded into the projection's taps
        total += flop["edge_downsample", side, stage] if stage < 3 else 0
        total += flop["edge_projection", side, stage]
    full = flop["full_attention", side] - side**4 * 12
    total += full + 2 * 3 * side**2 * decoder.dim * decoder.attention_dim
    assert total == pytest.approx(images.encoder_flop(size), rel=1e-12)


def test_work_of_what_only_images_need():
    pixels = 64 * 64
    assert operators.edge_stem(4).flop == pixels * 5 * (18 * 4 + 2)
    assert operators.edge_stem(4).nbytes == 4 * pixels * (5 + 4)
    assert operators.canny_maps(4).nbytes == 4 * pixels * (3 + 5)
    projection = operators.edge_projection(8, 0)  # 2 pixels a token, 256 to 64 channels
    border, corner = 4 * 8 * 16 * 64, 4 * 8 * 8 * 64
    assert projection.nbytes == 4 * (16 * 16 * (256 + 64) + border + corner)
    for linear, width in ((operators.int8_linear, 1), (operators.bf16_linear, 2)):
        layer = linear(2, "fc2")
        assert layer.nbytes == 4 * (4 + 256) * (3072 + 768) + width * 3072 * 768


def test_work_of_attention_experts_and_upsampling():
    length, edge, dim, hidden, c = 64, 13, 32, 64, 256  # 8 x 8 tokens, 20 % of them edge tokens
    exp, silu = 12, 15
    full = edge * length * (4 * dim + exp)
    weights = 8 * (2 * dim + exp) + 256  # of a token for all codes: what their bits give, and one product each
    coded = (length - edge) * (2 * dim * 256 + weights) + 2 * length * dim * 8
    assert operators.hybrid_attention(8, 0.2).flop == full + coded
    experts = operators.hybrid_experts(8, 0.2)
    assert experts.flop == (length + edge) * hidden * (6 * c + silu) + 2 * edge * c * 9
    products = 9 * 16 + 4 * 16  # of a pixel and output channel: of nine taps, and to resize four sums of them
    assert operators.local_upsample(8, 1.0, 2).flop == 32 * 32 * 4 * (2 * products + 4 * silu)
    assert operators.local_upsample(8, 1.0, 3).flop == 64 * 64 * 2 * (9 * 4 + 4 * 16)


def test_mixed_places_of_the_prompt_network_are_the_windows_with_two_labels():
    labels = np.ones((64, 64), np.uint8)
    assert operators._mixed_flop(labels, (5, 32, 64)) == 0
    labels[:, 33:] = 3
    first = 32 * 18 * 32  # of the windows 2k - 1 .. 2k + 1 only that around column 32 holds 32 and 33; at 32 rows
    second = 16 * 18 * 32 * 64  # of the windows 4k - 3 .. 4k + 3 only that around column 32, too; at 16 rows
    assert operators._mixed_flop(labels, (5, 32, 64)) == first + second


def test_scenes_have_the_area_they_promise():
    labels = scene.disc_labels(512, 0.1)
    assert np.mean(labels >= 3) == pytest.approx(0.1, rel=0.01)
    assert len(scene.disc_tokens(64, 0.03)) == round(0.03 * 4096)
    left, top, right, bottom = scene.disc_token_box(64, 0.1)
    assert (right - left) * (bottom - top) == 400  # 20 x 20 of 64 x 64 tokens
    assert np.all(scene.disc_labels(64, 1.0) >= 2)  # unknown, but for the click


def test_encoder_work_is_that_of_its_matrix_products():
    # the linear layers of vit_b on 64 x 64 + 16 x 16 tokens are most of it
    linear = 12 * 2 * 4352 * 768 * 768 * 12
    assert linear == pytest.approx(739e9, rel=1e-3)
    assert linear < images.encoder_flop(1024) < 1.45 * linear


@pytest.mark.parametrize(
    ("config", "encoder", "updates"),
    [(HRSAM_VIT_B, 696 + 39 + 11 + 79, 0.403), (HRSAMPP_VIT_B, 870 + 48 + 19 + 197, 1.007)],
)
def test_work_of_hrsam_is_what_docs_state(config, encoder, updates):
    """docs/HRSAM.md, section 12: GFLOP of the layers, 1e9 state updates of one pass; and six projections of tokens."""
    prepared = 6 * 2 * 4096 * 256 * 128 / 1e9
    total = encoder + updates * images.SCAN_FLOP + prepared
    assert images.opening_flop(1024, config) == pytest.approx(total * 1e9, rel=2e-3)


def call_all(loads):
    """What a call of each workload gives, in this process."""
    return {name: load.function(**load.arguments)() for name, load in loads.items()}


def test_variants_of_a_click_of_hrsam_give_the_same_mask(tmp_path):
    for count in (1, 20):
        masks = call_all(hrsam_clicks.workloads(tmp_path, 64, count, HRSAMPP_PROBE))
        assert masks["one graph"].shape == (64, 96)
        assert 0 < masks["one graph"].mean() < 1
        for name, mask in masks.items():
            assert np.array_equal(mask, masks["one graph"]), name


def test_variants_of_opening_an_image_with_hrsam_give_the_same_embedding(tmp_path):
    results = call_all(images.workloads(tmp_path, 64, HRSAMPP_PROBE))
    expected = results.pop("torch").features[0].permute(1, 2, 0).numpy()
    for name, (known, prepared) in results.items():
        error = np.abs(known["image_embedding"] - expected).mean() / np.abs(expected).mean()
        assert error < (1e-5 if name in ("library", "plain") else 0.5), name
        assert len(prepared) == 6


def test_floor_is_the_longer_of_work_and_traffic():
    ceilings = Ceilings(gflops=100, gbytes=10, threads=2)
    assert ceilings.floor_ms(1e9) == pytest.approx(10)
    assert ceilings.floor_ms(1e9, 1e9) == pytest.approx(100)


def test_workers_run_in_turn_and_report_memory():
    loads = {
        name: Workload(
            builder="inter2former_deploy.apps.bench.machine:matmul",
            arguments=dict.fromkeys(("rows", "inner", "columns"), n),
        )
        for name, n in (("small", 64), ("large", 512))
    }
    timings = alternate(loads, threads=1, seconds=0.0, least=3)
    assert [t.runs for t in timings.values()] == [3, 3]
    for timing in timings.values():
        assert 0 < timing.best <= timing.low <= timing.median <= timing.high
        assert timing.peak_mib > 10


def test_a_worker_that_fails_is_named():
    with pytest.raises(RuntimeError, match="no_such_workload"):
        alternate(
            {"x": Workload(builder="inter2former_deploy.apps.bench.machine:no_such_workload", arguments={})}, threads=1
        )


def test_comparison_pairs_equal_cases(tmp_path):
    def result(median):
        return {"rows": [{"what": {"case": "click", "size": 64}, "variants": {"library": {"median": median}}}]}

    text = report.compare(result(10.0), result(5.0))
    assert "10.00 ->      5.00 ms   0.50 x" in text
    with pytest.raises(ValueError, match="no row in common"):
        report.compare(result(1.0), {"rows": [{"what": {"case": "other"}, "variants": {}}]})
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"rows": []}))
    with pytest.raises(ValueError, match="no result of i2f bench"):
        report.read(path)


def test_operators_are_kept_one_by_one(monkeypatch):
    monkeypatch.setattr(report.machine, "measure", lambda threads: Ceilings(gflops=100, gbytes=10, threads=threads))
    kept: list[list[dict]] = []

    def keep(result):
        kept.append(json.loads(json.dumps(result))["rows"])

    options = {"only": ["token_box"], "sizes": [128], "alone": True}
    result = report.measure_operators(1, 0.0, lambda _: None, keep, **options)
    assert [len(rows) for rows in kept] == [1, 2, 3, 4]  # a share at a time
    assert kept[-1] == result["rows"]
    for row in result["rows"]:
        assert row["what"].items() >= {"case": "token_box", "side": 8}.items()
        assert row["variants"].keys() == {"library"}
    with pytest.raises(ValueError, match="unknown operator no_such; expected some of hybrid_attention, "):
        report.measure_operators(1, 0.0, lambda _: None, keep, only=["no_such"])


def test_a_pinned_click_upsamples_the_disc_s_box(tmp_path):
    click = clicks.graph(256, 0.1, str(clicks.export_pinned(tmp_path, 256, 0.1, "exact")), custom_ops=True)
    mask = click()
    frame = clicks.photograph_frame("inter2former", 256)
    assert mask.shape == (frame.height, frame.width)
    parts = clicks.components(tmp_path, 256, 0.1, "exact", threads=1, calls=2)
    operators = {"HybridAttention", "HybridExperts", "LocalUpsample", "PromptEmbedding", "EdgeTokensExact", "TokenBox"}
    assert operators <= parts.keys()


def test_a_picture_that_cannot_be_written_is_refused_before_it_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "measure_areas", lambda *_: pytest.fail("measured"))
    result = CliRunner().invoke(app, ["bench", "figure", "-o", str(tmp_path / "figure.json")])
    assert isinstance(result.exception, ValueError)
    assert "png" in str(result.exception)
    plots.check_picture(tmp_path / "figure.PNG")


def test_the_figure_shows_what_was_measured(tmp_path):
    kinds = {"prompt": ("dynamic", "dense"), "attention": ("hybrid", "full", "bsq"), "upsampling": ("local", "full")}
    names = [f"{part} {variant}" for part, variants in kinds.items() for variant in variants]
    measured = {name: [10.0 * i + j for j in range(3)] for i, name in enumerate(names)}
    rows = [
        {"area": area, "milliseconds": {name: times[j] for name, times in measured.items()}}
        for j, area in enumerate((0.01, 0.2, 1.0))
    ]
    experts = [
        {"what": {"experts": n}, "variants": {"torch": {"median": 5.0 * n}, "library": {"median": 1.0 + n}}}
        for n in (1, 8, 64)
    ]
    figure = plots.panels({"tokens": 4096, "rows": rows}, {"rows": experts})
    panels = figure.axes
    assert [axes.get_title() for axes in panels[:3]] == [f"{part}, 4096 tokens" for part in kinds]
    for axes, (part, variants) in zip(panels, kinds.items(), strict=False):
        assert axes.get_xlabel() == "object area, % of the image"
        assert [line.get_label() for line in axes.lines] == list(variants)
        for line, variant in zip(axes.lines, variants, strict=True):
            assert list(line.get_xdata()) == pytest.approx([1, 20, 100])
            assert list(line.get_ydata()) == measured[f"{part} {variant}"]
        assert [text.get_text() for text in axes.get_legend().get_texts()] == list(variants)
    loop, ours = panels[3].lines
    assert [loop.get_label(), ours.get_label()] == ["loop over experts (PyTorch)", "HybridExperts"]
    assert list(loop.get_xdata()) == list(ours.get_xdata()) == [1, 8, 64]
    assert (list(loop.get_ydata()), list(ours.get_ydata())) == ([5, 40, 320], [2, 9, 65])
    for axes in panels:
        assert axes.get_ylabel() == "ms"
        assert axes.get_ylim()[0] == 0

    plots.draw({"tokens": 4096, "rows": rows}, {"rows": experts}, tmp_path / "new" / "figure.png")
    picture = cv2.imread(str(tmp_path / "new" / "figure.png"))
    assert picture.shape == (408, 1560, 3)  # 13 x 3.4 inches at 120 dots
    quarters = np.split(picture, 4, axis=1)
    assert all(len(np.unique(quarter.reshape(-1, 3), axis=0)) > 50 for quarter in quarters)  # lines in each panel
