"""Drives X-AnyLabeling's own window against a server: two clicks on an object, one beside it, then errors.

    i2f serve BUNDLE --port 8765
    python3 -m venv any && any/bin/pip install x-anylabeling-cvhub==4.2.1
    QT_QPA_PLATFORM=offscreen any/bin/python scripts/try_tools/x_anylabeling.py http://127.0.0.1:8765 PICTURE SHOT.png

Prints what the window holds after each step, and writes a picture of the window.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

address, picture, shot = sys.argv[1:]
home = tempfile.mkdtemp()
os.environ.update(HOME=home, XANYLABELING_SERVER_URL=address)
folder = Path(tempfile.mkdtemp())
shutil.copy(picture, folder)

import anylabeling.config as configuration  # noqa: E402
import anylabeling.resources.resources  # noqa: E402, F401 - icons
from anylabeling.services.auto_labeling.types import AutoLabelingMode  # noqa: E402
from anylabeling.views.mainwindow import MainWindow  # noqa: E402
from PyQt6 import QtCore, QtWidgets  # noqa: E402
from PyQt6.QtTest import QTest  # noqa: E402

SECONDS = 60
configuration.current_config_file = str(Path(home) / ".xanylabelingrc")
Path(configuration.current_config_file).write_text(f"remote_server_settings:\n  server_url: {address}\n")
settings = configuration.get_config()
app: Any = QtWidgets.QApplication(sys.argv[:1])
window = MainWindow(app, config=settings, filename=str(folder / Path(picture).name))
window.resize(1280, 800)
window.show()
view = window.labeling_widget.view
tools = view.auto_labeling_widget
canvas = view.canvas


def wait(until: Any, what: str) -> None:
    end = time.monotonic() + SECONDS
    while not until():
        app.processEvents()
        time.sleep(0.02)
        if time.monotonic() > end:
            raise SystemExit(f"{what} did not happen within {SECONDS} s")


def tell(what: str) -> None:
    told = [(shape.label, shape.shape_type, len(shape.points)) for shape in canvas.shapes]
    print(f"{what}: {told}", flush=True)


def click(x: float, y: float, mode: str) -> None:
    """A click of the mouse at a pixel of the picture."""
    tools.set_auto_labeling_mode(mode, AutoLabelingMode.POINT)
    offset = canvas.offset_to_center()
    at = QtCore.QPoint(round((x + offset.x()) * canvas.scale), round((y + offset.y()) * canvas.scale))
    results.clear()
    QTest.mouseMove(canvas, at)
    QTest.mouseClick(canvas, QtCore.Qt.MouseButton.LeftButton, QtCore.Qt.KeyboardModifier.NoModifier, at)
    wait(lambda: bool(results), "an answer")
    app.processEvents()


wait(lambda: canvas.pixmap is not None and not canvas.pixmap.isNull(), "the picture")
config = folder / "remote.yaml"
config.write_text("type: remote_server\nname: remote\nprovider: CVHub\ndisplay_name: Remote-Server\n")
tools.show()
results: list[Any] = []
tools.model_manager.new_auto_labeling_result.connect(results.append)
tools.model_manager.load_custom_model(str(config))
wait(lambda: tools.remote_server_select_combobox.count() > 0, "the list of models")
print(
    "models:",
    [tools.remote_server_select_combobox.itemText(i) for i in range(tools.remote_server_select_combobox.count())],
)
view.fit_window_action.trigger() if hasattr(view, "fit_window_action") else None
app.processEvents()
click(295, 112, AutoLabelingMode.ADD)
tell("a click on the object")
click(193, 116, AutoLabelingMode.ADD)
tell("another")
click(380, 14, AutoLabelingMode.REMOVE)
tell("a click beside it")
window.grab().save(shot)
for shape in canvas.shapes:
    if shape.label == AutoLabelingMode.OBJECT:
        shape.label = "cup"  # as the dialog at the end of an object does
tools.model_manager.set_auto_labeling_marks([])
tell("the object has its label")
model = tools.model_manager.loaded_model_config["model"]
model.current_model_id, model.predict_url = "other", f"{address}/v1/predict"
model.headers["Origin"] = "http://elsewhere.example"  # refused before the request is read
click(120, 300, AutoLabelingMode.ADD)
tell("a click that the server refuses")
assert [shape.label for shape in canvas.shapes].count("cup") >= 1, "the user's shape is gone"
os._exit(0)
