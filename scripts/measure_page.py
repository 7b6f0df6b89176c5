#!/usr/bin/env python3
"""What the page costs over the model: clicks, hover previews and panning in Chromium, beside the decode alone.

    python scripts/measure_page.py BUNDLE [--picture FILE] [--objects 12] [--seconds 6]

A server is started on a folder with one picture and a headless Chromium opens its page. Prompts are given to the page
and to the runtime in turn, so that both see the same machine. "Click to mask" is from the moment when a finger leaves
the picture, as Chromium states it, to the end of the frame in which the mask is painted. A finger does not hover: a tap
ends as soon as it begins, so that nothing is known before; a press lasts as long as stated. "Hovered" is the same with
a mouse that rested until the preview was there. The decode is `Session.click` of the runtime, in this process, with as
many threads. "An empty frame" is from a call to the end of a frame in which nothing changed: what Chromium takes to
paint, here without a GPU, and no page can save.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import sync_playwright

from inter2former_deploy.apps.server.run import Server
from inter2former_deploy.apps.server.service import Service
from inter2former_deploy.apps.server.settings import Settings
from inter2former_deploy.core.pictures import read_image
from inter2former_deploy.runtime import Segmenter

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import driven  # noqa: E402

CLICKS = 4  # of an object
PRESSED = 80  # milliseconds
PATIENCE = 120  # seconds

# `measured` resolves at the end of the frame that shows one prompt more, with the milliseconds from the next pointerup
# to the page's hearing of it, to the answer, and to there. Nothing is looked at in between: whoever polls takes time
# from what is measured.
WAIT_FOR_MASK = """() => {
    const { workspace, viewer } = i2f;
    const { scene } = viewer.host;
    const { say } = workspace.tell;
    let [released, heard, answered] = [0, 0, 0];
    addEventListener("pointerup", ({ timeStamp }) => {
        [released, heard] = [timeStamp, performance.now()];
    }, { once: true, capture: true });
    workspace.tell.say = (text) => {
        workspace.tell.say = say;
        answered = performance.now();
        say(text);
    };
    window.measured = new Promise((done) => {
        viewer.host.scene = () => {
            if (answered) {
                viewer.host.scene = scene;
                setTimeout(() => done([heard, answered, performance.now()].map((when) => when - released)));
            }
            return scene();
        };
    });
}"""

# Milliseconds until a frame is painted in which nothing is new: what the browser itself needs.
EMPTY_FRAME = """() => new Promise((done) => {
    const { viewer } = i2f;
    const { scene } = viewer.host;
    const begun = performance.now();
    viewer.host.scene = () => {
        viewer.host.scene = scene;
        setTimeout(() => done(performance.now() - begun));
        return scene();
    };
    viewer.repaint();
})"""

# Moves the pointer in every frame and counts answers; the path never stays at a place.
HOVER = """async ([seconds, width, height]) => {
    const { workspace, viewer } = i2f;
    const { canvas, view } = viewer;
    const box = canvas.getBoundingClientRect();
    const [begun, answered, painted] = [performance.now(), workspace.preview.answered, viewer.painted];
    for (let i = 0; performance.now() - begun < 1000 * seconds; i++) {
        const [x, y] = view.toCanvas([width * (0.5 + 0.4 * Math.sin(i / 37)), height * (0.5 + 0.4 * Math.cos(i / 23))]);
        canvas.dispatchEvent(new PointerEvent("pointermove", {
            pointerId: 1, pointerType: "mouse", bubbles: true,
            clientX: box.left + x / view.ratio, clientY: box.top + y / view.ratio,
        }));
        await new Promise(requestAnimationFrame);
    }
    const passed = (performance.now() - begun) / 1000;
    return [(workspace.preview.answered - answered) / passed, (viewer.painted - painted) / passed];
}"""

# Pans in every frame, once the tiles around have come, at three device pixels for five of the picture; counts frames.
PAN = """async (seconds) => {
    const { viewer } = i2f;
    const { view } = viewer;
    const pan = async (x, y) => {
        view.pan(x, y);
        viewer.repaint();
        await new Promise(requestAnimationFrame);
    };
    view.scale = 0.6;
    view.centre([view.picture.width / 2, view.picture.height / 2]);
    const turn = async (i) => pan(Math.round(6 * Math.cos(i / 20)), Math.round(4 * Math.sin(i / 20)));
    for (let i = 0; i < 126; i++) await turn(i);
    const [begun, painted] = [performance.now(), viewer.painted];
    for (let i = 0; performance.now() - begun < 1000 * seconds; i++) await turn(i);
    return ((viewer.painted - painted) * 1000) / (performance.now() - begun);
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--picture", type=Path, default=ROOT / "exporters" / "photograph.jpg")
    parser.add_argument("--objects", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=6, help="of hovering")
    parser.add_argument("--threads", type=int, default=None)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        shutil.copy(arguments.picture, work)
        server = Server(
            Service(Settings(bundle=arguments.bundle, pictures=Path(work), port=0, threads=arguments.threads))
        )
        started = threading.Event()
        thread = threading.Thread(target=server.serve_until_stopped, args=(started.set,))
        thread.start()
        try:
            started.wait(PATIENCE)
            measure(arguments, server.address)
        finally:
            server.stop()
            thread.join()


def measure(arguments: argparse.Namespace, address: str) -> None:
    """Drive the page, print the figures."""
    image = read_image(arguments.picture)
    height, width = image.shape[:2]
    segmenter = Segmenter(arguments.bundle, num_threads=arguments.threads)
    generator = np.random.default_rng(0)

    def place() -> tuple[float, float]:
        x, y = generator.uniform(0.1, 0.9, 2) * (width, height)
        return float(x), float(y)

    with sync_playwright() as playwright:
        chromium = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_context(viewport={"width": 1280, "height": 800}, has_touch=True).new_page()
        page.goto(address)
        wait(page, "i2f.workspace.opened?.encoding(null)?.state === 'ready'")
        session = segmenter.open(image)

        figures = {
            way: {name: list[float]() for name in ("decode", "heard", "answer", "mask", "over", "frame")}
            for way in ("tap", "press", "hovered")
        }
        fingers = driven.Fingers(page)
        # The mouse comes last: where it rests it has previews made, and those take time from what is measured.
        for way, number in itertools.product(figures, range(arguments.objects + 1)):
            page.keyboard.press("n")
            session.reset()
            for click in range(CLICKS):
                x, y = place()
                where = driven.place(page, x, y)
                if way == "hovered":
                    page.mouse.move(*where)
                    wait(page, f"JSON.parse(i2f.workspace.preview.shown?.key ?? '[0,0,[]]')[2].length === {click + 1}")
                    page.evaluate(WAIT_FOR_MASK)
                    page.mouse.down()
                    page.mouse.up()
                else:
                    page.evaluate(WAIT_FOR_MASK)
                    fingers.send("touchStart", where)
                    if way == "press":
                        time.sleep(PRESSED / 1000)
                    fingers.send("touchEnd")
                heard, answered, mask = page.evaluate("window.measured")
                wait(page, "i2f.workspace.saver.unsaved === 0")
                begun = time.perf_counter()
                session.click(x, y, positive=True)
                decode = 1000 * (time.perf_counter() - begun)
                frame = page.evaluate(EMPTY_FRAME)
                if number:  # the first object is to warm up
                    for name, value in {
                        "decode": decode,
                        "heard": heard,
                        "answer": answered - decode,
                        "mask": mask,
                        "over": mask - decode,
                        "frame": frame,
                    }.items():
                        figures[way][name].append(value)

        page.keyboard.press("n")
        session.reset()
        x, y = place()
        page.touchscreen.tap(*driven.place(page, x, y))
        wait(page, "i2f.workspace.opened.waiting.length === 0 && i2f.workspace.saver.unsaved === 0")
        session.click(x, y)
        previews, frames, decodes = [], [], []
        for _ in range(3):
            answers, painted = page.evaluate(HOVER, [arguments.seconds / 3, width, height])
            previews.append(answers)
            frames.append(painted)
            for _ in range(8):
                begun = time.perf_counter()
                session.click(*place())
                decodes.append(1000 * (time.perf_counter() - begun))
                session.undo()
        panned = page.evaluate(PAN, arguments.seconds / 3)
        browser.close()

    tap, press, hovered = (
        {name: statistics.median(values) for name, values in figures[way].items()} for way in figures
    )
    decode = statistics.median(decodes)
    rate = statistics.median(previews)
    print(
        f"picture {width} x {height}, model at {segmenter.size}, {len(figures['tap']['mask'])} clicks each way; medians"
    )
    print(f"decode alone            {tap['decode']:7.1f} ms")
    print(f"an empty frame          {tap['frame']:7.1f} ms")
    print(f"click to mask           {tap['mask']:7.1f} ms; {tap['over']:.1f} ms over its decode")
    print(f"  until the page hears  {tap['heard']:7.1f} ms; until the answer {tap['answer']:.1f} ms over the decode")
    print(f"  pressed for {PRESSED} ms     {press['mask']:7.1f} ms; the decode {press['decode']:.1f} ms")
    print(f"click to mask, hovered  {hovered['mask']:7.1f} ms")
    print(f"decode of a preview     {decode:7.1f} ms, {1000 / decode:.1f} a second")
    print(f"hover previews          {rate:7.1f} a second, {rate * decode / 1000:.2f} of what decoding allows")
    print(f"frames while hovering   {statistics.median(frames):7.1f} a second")
    print(f"frames while panning    {panned:7.1f} a second")


def wait(page: Any, expression: str) -> None:
    """Until a JavaScript expression is true."""
    driven.wait(lambda: driven.look(page, expression), expression, patience=PATIENCE, pause=0.01)


if __name__ == "__main__":
    main()
