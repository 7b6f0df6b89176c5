"""The widget in napari's window, where napari is installed."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # napari's own, of what it imports
    pytest.importorskip("napari")
pytest.importorskip("pytestqt")

from inter2former_deploy.runtime import Segmenter, ready_bundle

HEIGHT, WIDTH = 64, 96


def picture() -> np.ndarray:
    pixels = np.full((HEIGHT, WIDTH, 3), 30, np.uint8)
    pixels[16:48, 30:70] = (200, 180, 40)
    return pixels


def wait_for(qtbot: Any, widget: Any, condition: Any) -> None:
    qtbot.waitUntil(lambda: widget._worker is None and condition(), timeout=60_000)


@pytest.mark.filterwarnings("default")  # napari's own
def test_points_become_labels(make_napari_viewer: Any, qtbot: Any) -> None:
    """Found by npe2's manifest; masks are those of the runtime; layers lie where the picture does."""
    viewer = make_napari_viewer()
    image = viewer.add_image(picture(), rgb=True, name="plate", scale=(2, 2), translate=(10, -5))
    _, widget = viewer.window.add_plugin_dock_widget("inter2former-deploy", "Segment by clicks")
    widget._begin.changed.emit(True)
    points = viewer.layers["plate clicks"]
    assert viewer.layers.selection.active is points
    assert points.mode == "add"
    segmenter = Segmenter(ready_bundle())
    expected = segmenter.open(picture())

    points.add([30, 50])
    mask = expected.click(50.5, 30.5)
    wait_for(qtbot, widget, lambda: "plate objects" in viewer.layers)
    labels = viewer.layers["plate objects"]
    assert np.array_equal(labels.data, mask.astype(int))
    assert mask.any()
    assert np.array_equal(labels.data_to_world((3, 4)), image.data_to_world((3, 4)))
    assert viewer.layers.selection.active is points
    assert list(viewer.layers) == [image, labels, points]  # clicks are seen above what they made

    widget._positive.value = False
    points.add([40, 64])
    both = expected.click(64.5, 40.5, positive=False)
    assert not np.array_equal(both, mask)
    wait_for(qtbot, widget, lambda: np.array_equal(labels.data, both.astype(int)))
    assert points.face_color.tolist() == [[0, 1, 0, 1], [1, 0, 0, 1]]

    points.selected_data = {1}
    points.remove_selected()
    wait_for(qtbot, widget, lambda: np.array_equal(labels.data, mask.astype(int)))

    widget._positive.value = True
    widget._object.value = 7
    points.add([4.4, 90.4])
    other = segmenter.open(picture()).click(90.9, 4.9)
    wait_for(qtbot, widget, lambda: len(widget._sessions) == 2)
    assert np.array_equal(labels.data, np.where(mask, 1, np.where(other, 7, 0)))

    points.add([500, 500])
    wait_for(qtbot, widget, lambda: "outside the picture" in widget._told.value)
    assert set(np.unique(labels.data)) <= {0, 1, 7}


@pytest.mark.filterwarnings("default")
def test_a_plain_points_layer_is_taken(make_napari_viewer: Any, qtbot: Any) -> None:
    """All its points are on object 1; another contrast is another picture. It may be closed at any time."""
    viewer = make_napari_viewer()
    grey = picture()[..., 0].astype(np.uint16) * 10
    image = viewer.add_image(grey, contrast_limits=(0, 2550), name="slide")
    points = viewer.add_points([[30, 50], [20, 40]])
    dock, widget = viewer.window.add_plugin_dock_widget("inter2former-deploy", "Segment by clicks")
    widget._points.value = points
    segmenter = Segmenter(ready_bundle())

    def expected(shown: np.ndarray) -> np.ndarray:
        session = segmenter.open(np.repeat(shown[..., None], 3, axis=2))
        session.click(50.5, 30.5)
        return session.click(40.5, 20.5).astype(int)

    wait_for(qtbot, widget, lambda: "slide objects" in viewer.layers)
    labels = viewer.layers["slide objects"]
    assert np.array_equal(labels.data, expected(picture()[..., 0]))
    assert dict(points.features.iloc[0]) == {"object": 1, "positive": "yes"}

    image.contrast_limits = (300, 1000)
    shown = np.rint(((grey - 300.0) / 700).clip(0, 1) * 255).astype(np.uint8)
    wait_for(qtbot, widget, lambda: np.array_equal(labels.data, expected(shown)))

    points.add([40, 60])
    worker = widget._worker
    viewer.window.remove_dock_widget(dock)  # while it works: an error in the window's loop would fail this test
    qtbot.waitUntil(lambda: not worker.is_running, timeout=60_000)
    points.add([40, 62])
    qtbot.wait(50)
