"""Drives napari's real window: the plugin's widget, clicks on an object and beside it, a second object.

    pip install '.[napari]'
    python scripts/try_tools/napari_window.py SHOT.png

Prints what came, and writes a picture of the window. The picture that is segmented is skimage.data.coffee. Without a
screen: under xvfb-run, as napari needs OpenGL.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import napari
from qtpy.QtWidgets import QApplication
from skimage import data

(shot,) = sys.argv[1:]
viewer = napari.Viewer()
viewer.window.resize(1240, 760)
viewer.add_image(data.coffee(), name="coffee")
_, widget = viewer.window.add_plugin_dock_widget("inter2former-deploy", "Segment by clicks")
widget._begin.native.click()
points = viewer.layers["coffee clicks"]


def click(row: float, column: float, number: int, positive: bool) -> None:
    widget._object.value, widget._positive.value = number, positive
    points.add([row, column])
    while widget._worker is not None:
        QApplication.processEvents()
        time.sleep(0.01)
    labels: Any = viewer.layers["coffee objects"].data
    areas = {n: int((labels == n).sum()) for n in range(1, labels.max() + 1)}
    print(f"click {'on' if positive else 'beside'} object {number}: pixels {areas}", widget._told.value)


for row, column, positive in ((112, 295, True), (12, 380, False), (116, 193, True), (140, 377, True), (40, 370, True)):
    click(row, column, 1, positive)
for row, column, positive in (
    (274, 367, True),
    (327, 324, False),
    (347, 423, False),
    (214, 423, False),
    (307, 350, True),
):
    click(row, column, 2, positive)
viewer.layers.selection.active = points
for _ in range(50):
    QApplication.processEvents()
    time.sleep(0.02)
viewer.window.screenshot(shot, canvas_only=False, flash=False)
viewer.close()
