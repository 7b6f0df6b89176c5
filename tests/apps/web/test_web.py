"""`i2f web`: the page in a real browser gives the masks of this package's runtime, and needs nothing but its folder."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import hrsam_models
import numpy as np
import pytest
from PIL import Image

from inter2former_deploy.apps.web import onnxruntime
from inter2former_deploy.apps.web.site import write_site
from inter2former_deploy.core.errors import BundleError
from inter2former_deploy.core.pictures import read_image
from inter2former_deploy.exporters.bundle import export_bundle
from inter2former_deploy.exporters.parity import load_photograph
from inter2former_deploy.runtime import Segmenter, doctor

ISOLATION = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}
LEAST_IOU = 0.999
PATIENCE = 120_000  # ms; of a machine on which much else runs


@pytest.fixture(scope="module")
def bundle() -> Path:
    """The model of `i2f doctor`, 64 x 64 pixels: its masks mean nothing, but each prompt changes them."""
    return Path(doctor.__file__).parent / "tiny"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        return onnxruntime.fetch(tmp_path_factory.mktemp("npm"))
    except OSError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def site(bundle: Path, package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("www") / "site"
    write_site(bundle, folder, archive=package)
    return folder


@contextmanager
def served(folder: Path, headers: dict[str, str]) -> Iterator[str]:
    class Handler(SimpleHTTPRequestHandler):
        def end_headers(self) -> None:
            for name, value in headers.items():
                self.send_header(name, value)
            super().end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@contextmanager
def opened(chromium: Any, address: str) -> Iterator[Any]:
    """The page; at its end nothing went wrong, and nothing was fetched from elsewhere."""
    page = chromium.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(PATIENCE)
    problems: list[str] = []
    own = (address, "blob:")
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith(own) else problems.append(request.url))
    page.goto(address)
    yield page
    page.close()
    assert problems == []


def show(page: Any, path: Path) -> None:
    page.set_input_files("#file", path)
    page.locator("#status", has_text="Click on an object").wait_for()


def do(page: Any, step: tuple[Any, ...], width: int) -> None:
    """What a user does with the mouse: coordinates are pixels of the picture."""
    stage = page.locator("#stage").bounding_box()
    at = [(stage["x"] + x * stage["width"] / width, stage["y"] + y * stage["width"] / width) for x, y in step[1:]]
    if step[0] == "undo":
        page.keyboard.press("Control+z")
    elif step[0] == "box":
        page.mouse.move(*at[0])
        page.mouse.down()
        page.mouse.move(*at[1], steps=3)
        page.mouse.up()
    else:
        page.mouse.click(*at[0], button="left" if step[0] == "add" else "right")
    page.locator("body[aria-busy=false]").wait_for()


def marked(page: Any, names: tuple[str, ...], width: int, height: int) -> list[float]:
    """Where the page has put its last prompt, in pixels of the picture: a mouse goes by whole pixels of the screen."""
    mark = page.locator("#prompts > *").last
    texts = [mark.get_attribute(name) for name in names]
    return [float(text.rstrip("%")) * length / 100 for text, length in zip(texts, (width, height) * 2, strict=False)]


def saved_mask(page: Any) -> np.ndarray:
    with page.expect_download() as download:
        page.locator("#save").click()
    image = np.asarray(Image.open(io.BytesIO(Path(download.value.path()).read_bytes())).convert("RGB"))
    assert set(np.unique(image)) <= {0, 255}
    return image[..., 0] == 255


def iou(mask: np.ndarray, other: np.ndarray) -> float:
    return np.count_nonzero(mask & other) / np.count_nonzero(mask | other)


STEPS = [  # pixels away from where model pixels of 12 x 12 meet, as a mouse does not meet a pixel exactly
    ("add", (295, 112)),
    ("add", (193, 116)),
    ("take", (380, 14)),
    ("box", (40, 50), (415, 285)),
    ("undo",),
    ("add", (126, 200)),
]


@pytest.mark.parametrize("isolated", [True, False], ids=["threads", "one-thread"])
def test_masks_are_those_of_the_runtime(
    chromium: Any, site: Path, bundle: Path, tmp_path: Path, isolated: bool
) -> None:
    compare(chromium, site, bundle, tmp_path, isolated)


def test_masks_of_hrsam_are_those_of_the_runtime(chromium: Any, package: Path, tmp_path: Path) -> None:
    model = hrsam_models.model("hrsam_probe")
    model.decode_head.get_parameter("output_hypernetworks_mlps.0.layers.2.bias").data += 0.15  # neither empty nor full
    export_bundle(model, tmp_path / "bundle", size=64, num_threads=1)
    write_site(tmp_path / "bundle", tmp_path / "site", archive=package)
    compare(chromium, tmp_path / "site", tmp_path / "bundle", tmp_path, isolated=True)


def compare(chromium: Any, site: Path, bundle: Path, tmp_path: Path, isolated: bool) -> None:
    """What the page saves after each step with what a session gives."""
    picture = tmp_path / "cup.png"
    Image.fromarray(load_photograph()).save(picture)
    session = Segmenter(bundle, num_threads=1).open(read_image(picture))
    height, width = session.mask.shape
    areas = []
    with served(site, ISOLATION if isolated else {}) as address, opened(chromium, address) as page:
        show(page, picture)
        assert page.evaluate("crossOriginIsolated") == isolated
        for step in STEPS:
            do(page, step, width)
            if step[0] == "undo":
                expected = session.undo()
            elif step[0] == "box":
                left, top, wide, high = marked(page, ("x", "y", "width", "height"), width, height)
                expected = session.box(left, top, min(left + wide, width), min(top + high, height))
            else:
                expected = session.click(*marked(page, ("cx", "cy"), width, height), positive=step[0] == "add")
            mask = saved_mask(page)
            assert mask.shape == (height, width)
            assert iou(mask, expected) >= LEAST_IOU, step
            areas.append(int(mask.sum()))
    assert len(set(areas)) == len(STEPS) - 1  # each step does something, and undo goes back
    assert areas[4] == areas[2]


def test_turned_pictures_and_broken_files(chromium: Any, site: Path, bundle: Path, tmp_path: Path) -> None:
    turned, broken = tmp_path / "turned.jpg", tmp_path / "broken.jpg"
    image = Image.fromarray(load_photograph())
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(turned, exif=exif, quality=95)
    broken.write_bytes(turned.read_bytes()[:2000])
    session = Segmenter(bundle, num_threads=1).open(read_image(turned))
    with served(site, {}) as address, opened(chromium, address) as page:
        page.set_input_files("#file", broken)
        page.locator("#status.error", has_text="cannot read the file").wait_for()
        show(page, turned)
        do(page, ("add", (198, 300)), session.mask.shape[1])
        assert iou(saved_mask(page), session.click(198, 300)) >= LEAST_IOU
        page.locator("#clear").click()
        page.locator("#status", has_text="Click on an object").wait_for()
        assert page.locator("#save").is_disabled()


def test_a_folder_is_whole_or_not_there(bundle: Path, package: Path, tmp_path: Path) -> None:
    other = tmp_path / "onnxruntime-web-1.30.0.tgz"
    other.write_bytes(package.read_bytes()[:-1])
    with pytest.raises(ValueError, match="as it was published"):
        write_site(bundle, tmp_path / "site", archive=other)
    assert [path.name for path in tmp_path.iterdir()] == [other.name]
    changed = tmp_path / "changed"
    shutil.copytree(bundle, changed)
    (changed / "encoder.onnx").write_bytes(b"other")
    with pytest.raises(BundleError, match="is not the file that"):
        write_site(changed, tmp_path / "site", archive=package)
    assert not (tmp_path / "site").exists()


def test_npm_missing_is_told_with_what_to_do(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"npm pack onnxruntime-web@1\.30\.0"):
        write_site(bundle, tmp_path / "site")
