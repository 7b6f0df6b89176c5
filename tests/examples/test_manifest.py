"""What manifest.json tells callers in other languages is what the graphs and this package's own runtime do."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from inter2former_deploy.core.prompts import Click
from inter2former_deploy.families.inter2former.labels import add_clicks
from inter2former_deploy.families.inter2former.masks import Box, BoxLogits
from inter2former_deploy.families.inter2former.pictures import Frame
from inter2former_deploy.runtime import Segmenter

Manifest = dict[str, Any]


@pytest.fixture(scope="module")
def manifest(demo_bundle: Path) -> Manifest:
    data: Manifest = json.loads((demo_bundle / "manifest.json").read_text())
    return data


def declared(value: onnx.ValueInfoProto) -> tuple[str, list[int | str]]:
    kind = value.type.tensor_type
    sizes = [d.dim_param or d.dim_value for d in kind.shape.dim]
    return str(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)), sizes


def graphs_of(manifest: Manifest) -> dict[str, Any]:
    decoder = manifest["decoders"]["demo"]
    return {"encoder": manifest["encoder"]["graph"], "prepare": decoder["prepare"], "click": decoder["click"]}


def test_tensors_are_those_of_the_graphs(demo_bundle: Path, manifest: Manifest) -> None:
    for stated in graphs_of(manifest).values():
        graph = onnx.load(demo_bundle / stated["file"]).graph
        for side, values in (("inputs", graph.input), ("outputs", graph.output)):
            told = {tensor: (entry["type"], entry["sizes"]) for tensor, entry in stated[side].items()}
            assert told == {value.name: declared(value) for value in values}
            assert all(entry["meaning"] for entry in stated[side].values())


def test_shapes_are_formulas_of_the_resolution(manifest: Manifest) -> None:
    size = manifest["size"]
    for graph in graphs_of(manifest).values():
        for entry in (*graph["inputs"].values(), *graph["outputs"].values()):
            for formula, number in zip(entry["shape"], entry["sizes"], strict=True):
                if formula in ("box_height", "box_width"):  # differ from click to click
                    assert number == formula
                else:
                    assert number == eval(str(formula).replace("^", "**"), {"S": size})


def test_a_graph_takes_what_those_before_it_give(manifest: Manifest) -> None:
    graphs = graphs_of(manifest)
    encoder = graphs["encoder"]["inputs"] | graphs["encoder"]["outputs"]
    assert manifest["encoder"]["kept"] == list(encoder)
    assert graphs["prepare"]["inputs"] == encoder
    given = encoder | graphs["prepare"]["outputs"]
    assert graphs["click"]["inputs"].keys() - given.keys() == {"labels"}
    assert all(given[name] == tensor for name, tensor in graphs["click"]["inputs"].items() if name != "labels")


def by_the_manifest(manifest: Manifest, picture: Any, steps: list[tuple[int, int, bool]]) -> list[NDArray[np.uint8]]:
    """The label maps of a session, by nothing but what the manifest says; predictions are those of `picture`."""
    rules, size = manifest["prompts"]["labels"], manifest["size"]
    yy, xx = np.mgrid[:size, :size]
    labels = np.full((size, size), rules["start"], np.uint8)
    maps = []
    for i, (x, y, positive) in enumerate(steps):
        if i:
            tables = np.array([rules["prediction"]["background"], rules["prediction"]["foreground"]], np.uint8)
            labels = tables[picture.astype(int), labels]
        side = max(picture.shape)
        column, row = (min(int(size / side * v), size - 1) for v in (x, y))
        disc = np.hypot(yy - row, xx - column) <= rules["click"]["radius"]
        labels = np.where(disc, rules["click"]["positive" if positive else "negative"], labels).astype(np.uint8)
        maps.append(labels)
    return maps


def test_label_maps_by_the_manifest_are_those_of_the_runtime(demo_bundle: Path, manifest: Manifest) -> None:
    """Of a session whose every prediction is the left half of the square; discs at borders, discs over discs."""
    size = manifest["size"]
    steps = [(100, 90, True), (0, 255, False), (103, 93, False), (250, 3, True)]
    prediction = np.zeros((size, size), bool)
    prediction[:, : size // 2] = True
    segmenter = Segmenter(demo_bundle, custom_ops=False, num_threads=1)
    session = segmenter.open(np.zeros((size, size, 3), np.uint8))
    whole = (0, 0, size, size)

    def decode(prompts: Mapping[str, NDArray[np.uint8]]) -> BoxLogits:
        return BoxLogits(Box(*whole), np.where(prediction, 1, -1).astype(np.float32))

    session._decode = decode
    for (x, y, positive), expected in zip(steps, by_the_manifest(manifest, prediction, steps), strict=True):
        session.click(x, y, positive)
        np.testing.assert_array_equal(session.inputs["labels"], expected)
    assert set(np.unique(session.inputs["labels"])) == {0, 1, 3, 4}


def test_boxes_strokes_and_masks_by_the_manifest_are_those_of_the_runtime(
    demo_bundle: Path, manifest: Manifest
) -> None:
    """By nothing but what the manifest says, on a picture of 300 x 200 in a square of 512."""
    rules, size = manifest["prompts"]["labels"], manifest["size"]
    scale, (yy, xx) = size / 512, np.mgrid[:size, :size]
    session = Segmenter(demo_bundle, custom_ops=False, num_threads=1).open(np.zeros((200, 300, 3), np.uint8))
    x0, y0, x1, y1 = 40.5, 30, 201.25, 180
    session.box(x0, y0, x1, y1)
    left, top = (int(scale * v) for v in (x0, y0))
    right, bottom = (math.ceil(scale * v) for v in (x1, y1))
    inside = (yy >= top) & (yy < bottom) & (xx >= left) & (xx < right)
    axes = (rules["box"]["core_share"] * n / 2 for n in (right - left, bottom - top))
    u, v = (
        (n + 0.5 - (a + b) / 2) / axis
        for n, a, b, axis in zip((xx, yy), (left, top), (right, bottom), axes, strict=True)
    )
    names = np.where(inside, np.where(u**2 + v**2 <= 1, "core", "inside"), "outside")
    np.testing.assert_array_equal(session.inputs["labels"], np.vectorize(rules["box"].get)(names))
    session.reset()

    corners = [(20, 30), (150.5, 90), (150.5, 20)]
    session.stroke(corners, positive=False)
    labels = np.full((size, size), rules["start"], np.uint8)
    placed = [(int(scale * x), int(scale * y)) for x, y in corners]
    points = placed[:1]
    for a, b in pairwise(placed):
        steps = math.ceil(math.dist(a, b) / rules["stroke"]["spacing"])
        points += [tuple(int(p + (q - p) * i / steps) for p, q in zip(a, b, strict=True)) for i in range(1, steps + 1)]
    for x, y in points:
        labels[np.hypot(yy - y, xx - x) <= rules["click"]["radius"]] = rules["click"]["negative"]
    np.testing.assert_array_equal(session.inputs["labels"], labels)
    line = labels == rules["click"]["negative"]

    mask = np.zeros((200, 300), bool)
    mask[40:140, 60:260] = True
    mask[100:, 200:] = False
    session.start(mask)
    at = [int((i + 0.5) * 512 / size) for i in range(size)]
    sampled = np.array([[y < 200 and x < 300 and mask[y, x] for x in at] for y in at])
    outside = np.argwhere(~np.pad(sampled, 1)) - 1
    distance = np.array(
        [[np.hypot(*(outside - (y, x)).T).min() if sampled[y, x] else 0 for x in range(size)] for y in range(size)]
    )
    names = np.where(
        sampled, np.where(distance > distance.max() / rules["mask"]["core_divisor"], "core", "foreground"), "background"
    )
    expected = np.vectorize(rules["mask"].get)(names)
    expected[line] = rules["click"]["negative"]
    np.testing.assert_array_equal(session.inputs["labels"], expected)
    assert set(np.unique(expected)) == {0, 1, 3, 4}


def test_clicks_land_where_the_manifest_says(manifest: Manifest) -> None:
    assert manifest["prompts"]["coordinates"]["scale"] == "size / side"
    frame = Frame(400, 600, manifest["size"])
    for x, y in ((0, 0), (599, 399), (299.9, 3.01), (599.9999999, 0)):
        scale = manifest["size"] / 768
        expected = [min(int(scale * v), manifest["size"] - 1) for v in (x, y)]
        click = frame.to_model(Click(x, y, True))
        assert [click.x, click.y] == expected


def test_overlaps_within_a_batch_follow_the_manifest(manifest: Manifest) -> None:
    rules = manifest["prompts"]["labels"]["click"]
    labels = np.full((20, 20), 2, np.uint8)
    add_clicks(labels, [Click(8, 8, True), Click(10, 8, False), Click(9, 8, True)])
    assert labels[8, 9] == rules["negative"]  # its first click comes later than the positives' first
    assert labels[8, 3] == rules["positive"]


def test_labels_above_four_are_refused(demo_bundle: Path, manifest: Manifest) -> None:
    """The library refuses them, and so does this runtime without it; plain onnxruntime computes something."""
    largest = manifest["prompts"]["labels"]["largest"]
    for custom_ops in (False, True):
        segmenter = Segmenter(demo_bundle, custom_ops=custom_ops, num_threads=1)
        session = segmenter.open(np.zeros((8, 8, 3), np.uint8))
        labels = np.full((manifest["size"],) * 2, largest, np.uint8)
        session._decode({"labels": labels})
        labels[3, 4] = largest + 1
        with pytest.raises(ValueError, match="labels must be 0 to 4, got 5"):
            session._decode({"labels": labels})
