"""One server on a toy bundle and one Chromium for all tests of the page; each test has a tab of its own."""

from __future__ import annotations

import base64
import json
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import driven
import numpy as np
import numpy.typing as npt
import pytest
from driven import wait
from PIL import Image
from toy_bundle import write_toy_bundle

VIEWPORT = {"width": 1280, "height": 800}
PATIENCE = 20  # seconds

Workspace = dict[str, Any]


def noise(height: int, width: int, seed: int) -> npt.NDArray[np.uint8]:
    """Soft spots, so that the toy model's masks have holes and islands."""
    grains = np.random.default_rng(seed).integers(0, 256, (height // 6 + 2, width // 6 + 2, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(grains).resize((width, height), Image.Resampling.BICUBIC))


PICTURES = {"a.png": (150, 180), "b.png": (192, 144), "c.png": (600, 1100)}  # height, width


class Server:
    """`i2f annotate` in a thread."""

    def __init__(self, bundle: Path, folder: Path) -> None:
        from inter2former_deploy.apps.server import run
        from inter2former_deploy.apps.server.service import Service
        from inter2former_deploy.apps.server.settings import Settings

        self.folder = folder
        self._server = run.Server(Service(Settings(bundle=bundle, pictures=folder, port=0)))
        self._thread = threading.Thread(target=self._server.serve_until_stopped)
        self._thread.start()
        wait(lambda: self._server.started)
        self.address = self._server.address.rstrip("/")

    def stop(self) -> None:
        self._server.stop()
        self._thread.join()

    def send(self, method: str, path: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"X-I2F": "1", "Content-Type": "application/json"}
        request = urllib.request.Request(self.address + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.load(answer)

    def picture(self, name: str) -> Any:
        found = next(p for p in self.send("GET", "/v1/pictures")["pictures"] if p["name"] == name)
        return self.send("GET", f"/v1/pictures/{found['id']}")


@pytest.fixture(scope="session")
def the_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    work = tmp_path_factory.mktemp("page")
    folder = work / "photos"
    folder.mkdir()
    for seed, (name, (height, width)) in enumerate(PICTURES.items()):
        Image.fromarray(noise(height, width, seed)).save(folder / name)
    started = Server(write_toy_bundle(work / "toy", gain=1 / 6), folder)
    yield started
    started.stop()


@pytest.fixture
def server(the_server: Server) -> Iterator[Server]:
    """Without objects, and with the classes of the beginning."""
    yield the_server
    listing = the_server.send("GET", "/v1/pictures")
    for picture in (summary["id"] for summary in listing["pictures"]):
        for one in the_server.send("GET", f"/v1/pictures/{picture}")["objects"]:
            the_server.send("DELETE", f"/v1/pictures/{picture}/objects/{one['id']}?version={one['version']}")
    if len(listing["classes"]) != 1:
        classes = {"version": listing["classes_version"], "classes": listing["classes"][:1]}
        the_server.send("PUT", "/v1/classes", classes)


class Tab:
    """The page in a browser, driven as a person would."""

    def __init__(self, page: Any, server: Server) -> None:
        self.page = page
        self.server = server
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda m: self.errors.append(m.text) if "Security Policy" in m.text else None)

    def open(self) -> None:
        self.page.goto(self.server.address)
        self.wait("i2f.workspace.opened?.encoding(null)?.state === 'ready'")
        self.wait("i2f.viewer.painted > 0")

    def look(self, expression: str) -> Any:
        return driven.look(self.page, expression)

    def wait(self, expression: str) -> Any:
        """Until a JavaScript expression is true; the page's policy forbids playwright's own way."""
        return wait(lambda: self.look(expression), expression)

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where a pixel of the picture is in the window."""
        return driven.place(self.page, x, y)

    def hover(self, x: float, y: float) -> None:
        self.page.mouse.move(*self.place(x, y))

    def click(self, x: float, y: float, *, button: str = "left") -> None:
        """A click, and its mask."""
        self.page.mouse.click(*self.place(x, y), button=button)
        self.settle()

    def drag(self, *points: tuple[float, float]) -> None:
        self.hover(*points[0])
        self.page.mouse.down()
        for point in points[1:]:
            self.page.mouse.move(*self.place(*point), steps=4)
        self.page.mouse.up()
        self.settle()

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)
            self.settle()

    def settle(self) -> None:
        """Until nothing waits, and everything is saved and painted."""
        self.wait("i2f.workspace.opened.waiting.length === 0 && i2f.workspace.saver.unsaved === 0")
        self.page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    @property
    def entries(self) -> list[Any]:
        """The objects of the picture, as the page has them."""
        return self.look("i2f.workspace.opened.sorted")

    @property
    def stored(self) -> list[Any]:
        """The same, as the server has them."""
        objects = self.server.send("GET", f"/v1/pictures/{self.look('i2f.workspace.opened.picture.id')}")["objects"]
        return sorted(objects, key=lambda one: one["order"])

    def canvas(self) -> npt.NDArray[np.uint8]:
        """The canvas, RGB."""
        width, height, data = self.page.evaluate(
            """() => {
                const { canvas, context } = i2f.viewer;
                const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
                let text = "";
                for (let i = 0; i < data.length; i += 8192) text += String.fromCharCode(...data.subarray(i, i + 8192));
                return [canvas.width, canvas.height, btoa(text)];
            }"""
        )
        return np.frombuffer(base64.b64decode(data), np.uint8).reshape(height, width, 4)[..., :3]

    def painted(self) -> tuple[npt.NDArray[np.uint8], tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]]:
        """What the canvas shows in the middle of each visible pixel of the picture, RGB, and which pixels these are."""
        scale, x0, y0, width, height = self.look(
            "(({ view }) => [view.scale, view.x, view.y, view.picture.width, view.picture.height])(i2f.viewer)"
        )
        canvas = self.canvas()
        x = np.floor(x0 + (np.arange(width) + 0.5) * scale).astype(int)
        y = np.floor(y0 + (np.arange(height) + 0.5) * scale).astype(int)
        columns = np.flatnonzero((x >= 0) & (x < canvas.shape[1]))
        rows = np.flatnonzero((y >= 0) & (y < canvas.shape[0]))
        return canvas[np.ix_(y[rows], x[columns])], np.ix_(rows, columns)


def pixels(runs: dict[str, Any]) -> npt.NDArray[np.bool_]:
    """A mask of run lengths, by numpy alone."""
    height, width = runs["size"]
    values = np.arange(len(runs["counts"])) % 2 == 1
    return np.repeat(values, runs["counts"]).reshape(width, height).T


@pytest.fixture
def tabs(chromium: Any, server: Server) -> Iterator[Callable[..., Tab]]:
    """`tabs()` opens the page in a browser of its own."""
    contexts = []
    made = []

    def make(**options: Any) -> Tab:
        context = chromium.new_context(viewport=VIEWPORT, **options)
        contexts.append(context)
        tab = Tab(context.new_page(), server)
        made.append(tab)
        tab.open()
        return tab

    yield make
    for context in contexts:
        context.close()
    for tab in made:
        assert tab.errors == []


@pytest.fixture
def tab(tabs: Callable[..., Tab]) -> Tab:
    return tabs()


@contextmanager
def offline(tab: Tab) -> Iterator[None]:
    """Without the server for a while."""
    tab.page.context.set_offline(True)
    yield
    tab.page.context.set_offline(False)
