"""Whole sessions of the release, through a real bundle."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pytest
from tolerances import TOLERANCES

from inter2former_deploy.families.inter2former.interface import (
    BLANK_INPUTS,
    EDGE_INPUTS,
    EMBEDDING,
    OUTSIDE_INPUTS,
    graph_tensors,
)
from inter2former_deploy.families.inter2former.pictures import Frame
from inter2former_deploy.families.inter2former.prompts import LabelMapPrompts
from inter2former_deploy.runtime import Segmenter, Session
from inter2former_deploy.runtime.encoded import PreparedImage
from inter2former_deploy.runtime.segmenter import _Decode

if TYPE_CHECKING:
    from inter2former_deploy.families.inter2former.modules.model import Inter2Former

SIZE = 256
BIAS = 0.42  # added to the last convolution of these sessions (golden/README.md)


@pytest.fixture(scope="module")
def model(probe_model: Inter2Former) -> Inter2Former:
    import torch

    changed = copy.deepcopy(probe_model)
    with torch.no_grad():
        changed.decode_head.upsamplers[3].conv.bias += BIAS
    return changed


@pytest.fixture(scope="module")
def bundle(model: Inter2Former, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from inter2former_deploy.exporters.bundle import write_bundle

    folder = tmp_path_factory.mktemp("golden")
    write_bundle(folder, model, size=SIZE)
    return folder


def with_prepared(segmenter: Segmenter, prepared: PreparedImage) -> Session:
    """A session on what a prepare graph gave."""
    session = segmenter.open(prepared.encoded)
    session._decode = _Decode(segmenter, prepared.encoded, prepared)
    return session


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "custom-ops"])
def segmenter(bundle: Path, request: pytest.FixtureRequest) -> Segmenter:
    return Segmenter(bundle, num_threads=2, custom_ops=request.param)


def blank_shapes(model: Inter2Former) -> dict[str, tuple[int, ...]]:
    stated = graph_tensors(model.config, SIZE)["prepare"]["outputs"]
    return {name: tuple(stated[name]["sizes"]) for name in BLANK_INPUTS}


def steps(arrays: dict[str, Any], session: Session) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Click as the release did: number of the click, our mask and the release's."""
    height, width = arrays["image_bgr"].shape[:2]
    for i, (y, x, positive) in enumerate(arrays["clicks_yxp"]):
        mask = session.click(int(x), int(y), bool(positive))
        expected = np.unpackbits(arrays[f"mask_{i}"], count=height * width).reshape(height, width).astype(bool)
        yield i, mask, expected


def test_session_on_the_release_s_features(
    segmenter: Segmenter,
    model: Inter2Former,
    golden: Callable[[str], dict[str, Any]],
    assert_close: Callable[..., None],
) -> None:
    """With the stored embedding and edge features, labels and masks are the release's, pixel for pixel.

    But for pixels whose logit the release has at 0 but for rounding: there a CPU's own rounding decides. So that such a
    pixel has no consequences, every decode starts from the release's label map.
    """
    import torch

    from inter2former_deploy.families.inter2former.graphs import PrepareGraph

    arrays = golden("session")
    height, width = arrays["image_bgr"].shape[:2]
    frame = Frame(height, width, SIZE)
    embedding = torch.from_numpy(arrays["image_embedding"][0].transpose(1, 2, 0).copy())
    with torch.no_grad():
        edges = model.decode_head.project_edges([torch.from_numpy(arrays[f"edge_{i}"]) for i in range(4)])
        outside = PrepareGraph(model).known_outside(embedding)
    names = (EMBEDDING, *EDGE_INPUTS, *OUTSIDE_INPUTS)
    features = {name: x.numpy() for name, x in zip(names, (embedding, *edges, *outside), strict=True)}
    features |= {name: np.zeros(shape, np.float32) for name, shape in blank_shapes(model).items()}
    values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(x)) for name, x in features.items()}
    tolerance = TOLERANCES["session logits of a bundle", "float32"]
    near_zero = np.zeros((SIZE, SIZE), bool)  # pixels that rounding may have decided, in any step until now
    decoded = 0

    def decode(prompts: Mapping[str, np.ndarray]) -> Any:
        nonlocal decoded
        labels = prompts["labels"]
        expected = arrays[f"label_{decoded}"]
        np.testing.assert_array_equal(labels[~near_zero], expected[~near_zero])
        decoded += 1
        return segmenter._decode(values, {"labels": expected})

    session = Session(frame, LabelMapPrompts(SIZE), decode)
    for i, mask, expected in steps(arrays, session):
        logits = arrays[f"logits_{i}"]
        assert_close(session.logits, logits, "session logits of a bundle")
        limit = tolerance.atol + tolerance.rtol * np.abs(logits).max()
        near_zero |= np.abs(logits) <= limit
        whole = torch.nn.functional.interpolate(
            torch.from_numpy(logits)[None, None], size=(frame.side, frame.side), mode="bilinear", align_corners=False
        )
        sure = np.abs(whole[0, 0, :height, :width].numpy()) > limit
        np.testing.assert_array_equal(mask[sure], expected[sure])
        assert near_zero.mean() < 1e-3
        assert sure.mean() > 0.999
    assert decoded == len(arrays["clicks_yxp"])


@pytest.mark.parametrize("name", ["session", "session_third"])
def test_session_from_the_image(segmenter: Segmenter, golden: Callable[[str], dict[str, Any]], name: str) -> None:
    """Edge maps are ill-conditioned, so pixels near the boundary may differ; the first label map may not.

    Later label maps are compared inside the image: in the flat padding gradients are rounding noise.
    """
    arrays = golden(name)
    height, width = arrays["image_bgr"].shape[:2]
    scale = Frame(height, width, SIZE).scale
    rows, columns = int(scale * height), int(scale * width)
    session = segmenter.open(arrays["image_bgr"][..., ::-1])
    allowed = TOLERANCES["session pixels", "bool"].atol
    for i, mask, expected in steps(arrays, session):
        if i == 0:
            np.testing.assert_array_equal(session.inputs["labels"], arrays["label_0"])
        assert 0.2 < expected.mean() < 0.8  # neither empty nor full: the comparison means something
        assert (mask != expected).mean() <= allowed
        assert (session.inputs["labels"] != arrays[f"label_{i}"])[:rows, :columns].mean() <= allowed


def test_plain_onnxruntime_and_the_library_give_the_same_masks(
    bundle: Path, golden: Callable[[str], dict[str, Any]]
) -> None:
    """Pixel for pixel with the same prepared tensors; from the image on, as near as each comes to the release's."""
    arrays = golden("session")
    plain, fast = (Segmenter(bundle, num_threads=2, custom_ops=c) for c in (False, True))
    encoded = plain.encode(arrays["image_bgr"])
    prepared = plain._prepared(encoded)
    sessions = [steps(arrays, with_prepared(segmenter, prepared)) for segmenter in (plain, fast)]
    for (_, a, _), (_, b, _) in zip(*sessions, strict=True):
        np.testing.assert_array_equal(a, b)
    sessions = (steps(arrays, plain.open(encoded)), steps(arrays, fast.open(arrays["image_bgr"])))
    for (_, a, _), (_, b, _) in zip(*sessions, strict=True):
        assert (a != b).mean() <= TOLERANCES["session pixels", "bool"].atol


@pytest.mark.parametrize("threads", [1, 2])
def test_the_first_click_starts_from_the_attention_before_any_click(
    bundle: Path, golden: Callable[[str], dict[str, Any]], assert_close: Callable[..., None], threads: int
) -> None:
    """That of the prepare graph saves the operators time and changes nothing; it is used: a wrong one is seen."""
    arrays = golden("session")
    y, x, positive = (int(v) for v in arrays["clicks_yxp"][0])
    plain, fast = (Segmenter(bundle, num_threads=threads, custom_ops=c) for c in (False, True))
    encoded = fast.encode(arrays["image_bgr"][..., ::-1])
    prepared = fast._prepared(encoded)
    nothing = {name: np.zeros_like(prepared.tensors[name]) for name in BLANK_INPUTS}
    wrong = {"blank_attention": prepared.tensors["blank_attention"] + 1}

    def first_logits(segmenter: Segmenter, changes: dict[str, np.ndarray]) -> np.ndarray:
        session = with_prepared(segmenter, replace(prepared, tensors={**prepared.tensors, **changes}))
        session.click(x, y, bool(positive))
        return session.logits

    assert_close(first_logits(fast, {}), first_logits(fast, nothing), "session logits of a bundle")
    assert np.abs(first_logits(fast, wrong) - first_logits(fast, nothing)).max() > 0.01
    for changes in (nothing, wrong):  # the graph without our library does not look at it
        np.testing.assert_array_equal(first_logits(plain, changes), first_logits(plain, {}))


def test_sessions_in_several_threads_at_once(segmenter: Segmenter, golden: Callable[[str], dict[str, Any]]) -> None:
    arrays = golden("session")
    sessions = [segmenter.open(arrays["image_bgr"][..., ::-1]) for _ in range(4)]
    with ThreadPoolExecutor(len(sessions)) as pool:
        runs = list(pool.map(lambda session: [mask for _, mask, _ in steps(arrays, session)], sessions))
    alone = [mask for _, mask, _ in steps(arrays, segmenter.open(arrays["image_bgr"][..., ::-1]))]
    for masks in runs:
        np.testing.assert_array_equal(masks, alone)


def test_undo_gives_back_the_release_s_state(segmenter: Segmenter, golden: Callable[[str], dict[str, Any]]) -> None:
    arrays = golden("session")
    session = segmenter.open(arrays["image_bgr"][..., ::-1])
    states = [(mask, session.inputs["labels"], session.logits) for _, mask, _ in steps(arrays, session)]
    session.undo()
    mask = session.undo()
    for actual, expected in zip((mask, session.inputs["labels"], session.logits), states[-3], strict=True):
        np.testing.assert_array_equal(actual, expected)
    y, x, positive = (int(v) for v in arrays["clicks_yxp"][-2])
    for actual, expected in zip(
        (session.click(x, y, bool(positive)), session.inputs["labels"]), states[-2][:2], strict=True
    ):
        np.testing.assert_array_equal(actual, expected)
