"""The page in a real browser: what a person does, and what is then on the canvas and on the server."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from driven import Fingers, wait
from PIL import Image

from inter2former_deploy.apps.server import catalogue

from .conftest import Server, Tab, noise, offline, pixels


def test_the_pictures_pixels_are_on_the_canvas(tab: Tab, server: Server) -> None:
    with Image.open(server.folder / "a.png") as image:
        np.testing.assert_array_equal(tab.painted()[0], np.asarray(image))


def test_hover_shows_the_mask_before_the_click(tab: Tab) -> None:
    tab.hover(90, 60)
    tab.wait("i2f.workspace.preview.shown")
    assert tab.entries == []
    shown = pixels(tab.look("i2f.workspace.preview.shown.answer.mask"))
    assert shown.any()
    tab.click(90, 60)
    np.testing.assert_array_equal(pixels(tab.entries[0]["mask"]), shown)
    tab.page.mouse.move(5, 5)  # away from the picture
    tab.wait("!i2f.workspace.preview.shown")


def test_prompts_undo_and_redo(tab: Tab) -> None:
    steps = [0]

    def stored() -> Any:
        return [(one["prompts"], pixels(one["mask"]).sum()) for one in tab.stored]

    history = [stored()]
    for step in (
        lambda: tab.click(90, 60),
        lambda: tab.click(120, 90, button="right"),
        lambda: tab.drag((60, 30), (150, 120)),
        lambda: (tab.press("b"), tab.drag((15, 15), (150, 24))),
        lambda: (tab.press("e"), tab.drag((60, 60), (90, 90))),
        lambda: (tab.press("l"), tab.drag((60, 120), (120, 135))),
    ):
        step()
        steps.append(steps[-1] + 1)
        history.append(stored())
    prompts = tab.stored[0]["prompts"]
    assert [next(iter(prompt)) for prompt in prompts] == ["click", "click", "box", "paint", "paint", "stroke"]
    assert prompts[0]["click"] == pytest.approx([90, 60], abs=0.5)
    assert [prompts[i]["positive"] for i in (0, 1, 5)] == [True, False, True]
    assert [prompts[i]["erase"] for i in (3, 4)] == [False, True]
    assert prompts[2]["box"] == pytest.approx([60, 30, 150, 120], abs=0.5)

    for expected in reversed(history[:-1]):
        tab.press("Control+z")
        assert stored() == expected
    for expected in history[1:]:
        tab.press("Control+Shift+z")
        assert stored() == expected
    tab.press("Control+z", "p")
    tab.click(90, 90)
    tab.press("Control+Shift+z")  # there is nothing to do again after something new
    assert stored()[0][0][:5] == history[-2][0][0]
    assert "click" in stored()[0][0][5]


def test_the_canvas_shows_exactly_the_servers_mask(tab: Tab) -> None:
    tab.click(90, 60)
    tab.click(120, 90, button="right")
    tab.press("b")
    tab.drag((9.9, 135.6), (167.1, 120.3))
    tab.press("a", "p")
    mask = pixels(tab.stored[0]["mask"])
    assert 0 < mask.mean() < 1

    def check() -> None:
        shown, at = tab.painted()
        np.testing.assert_array_equal(shown.any(axis=2), mask[at])

    check()
    tab.hover(90, 75)
    for _ in range(6):
        tab.page.mouse.wheel(0, -120)
    tab.wait("i2f.viewer.view.scale > 12")
    tab.settle()
    check()
    tab.page.mouse.wheel(3, 50)  # two fingers on a trackpad
    tab.settle()
    check()


def test_several_objects(tab: Tab) -> None:
    tab.click(90, 60)
    tab.page.fill("#class-name", "cup")
    tab.page.keyboard.press("Enter")
    tab.wait("i2f.workspace.class === 'cup' && i2f.workspace.classSaver.unsaved === 0")
    assert tab.stored[0]["class"] == "cup"  # the chosen class is that of the active object
    tab.page.click("#new-object")
    tab.press("1")
    tab.click(120, 90)
    first, second = tab.stored
    assert (first["class"], second["class"]) == ("cup", "object")
    assert len(second["prompts"]) == 1

    tab.press("x", "k")
    hidden = tab.stored[1]
    assert (hidden["hidden"], hidden["locked"]) == (True, True)
    tab.click(60, 60)
    assert len(tab.stored[1]["prompts"]) == 1  # locked
    assert "locked" in tab.page.inner_text("#notice")
    tab.press("Delete")
    assert len(tab.stored) == 2
    tab.press("Control+z", "Control+z", "Control+ArrowDown")
    assert [one["class"] for one in tab.stored] == ["object", "cup"]
    tab.press("Delete")
    assert [one["class"] for one in tab.stored] == ["cup"]
    tab.press("Control+z")
    assert [one["class"] for one in tab.stored] == ["object", "cup"]
    names = tab.page.locator("#object-list .pick").all_inner_texts()
    assert names == ["cup 1", "object 1"]  # the highest first


def test_a_class_is_renamed(tabs: Callable[..., Tab]) -> None:
    """On all objects, in every page that is open, and it can be undone, as what was done before it."""
    tab, other = tabs(), tabs()
    tab.click(90, 60)
    other.wait("i2f.workspace.opened.entries.size === 1")
    tab.press("x")
    tab.page.dblclick("#class-list .pick")
    tab.page.keyboard.type("cup")
    tab.page.keyboard.press("Enter")
    for one in (tab, other):
        one.wait("i2f.workspace.classes[0].name === 'cup' && i2f.workspace.opened.sorted[0].class === 'cup'")
    assert tab.stored[0]["class"] == "cup"
    assert tab.page.locator("#object-list .pick").all_inner_texts() == ["cup 1"]
    tab.press("x")
    tab.press("Control+z", "Control+z")
    for one in (tab, other):
        one.wait("i2f.workspace.classes[0].name === 'object' && i2f.workspace.opened.sorted[0].class === 'object'")
    assert tab.stored[0]["hidden"] is True
    tab.press("Control+z")
    assert (tab.stored[0]["hidden"], tab.stored[0]["class"]) == (False, "object")
    tab.press("Control+Shift+z", "Control+Shift+z")
    other.wait("i2f.workspace.opened.sorted[0].class === 'cup'")
    tab.wait("i2f.workspace.classes[0].name === 'cup'")
    tab.press("Control+z")
    tab.wait("i2f.workspace.classes[0].name === 'object'")


def test_a_file_that_is_replaced_is_shown_as_another_picture(
    tab: Tab, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "LOOK_SECONDS", 0)
    tab.click(90, 60)
    former = (server.folder / "a.png").read_bytes()
    back = "document.dispatchEvent(new Event('visibilitychange'))"  # from another program
    try:
        Image.fromarray(noise(140, 170, 8)).save(server.folder / "a.png")
        tab.page.evaluate(back)
        tab.wait("i2f.workspace.opened.picture.width === 170")
        assert "holds another picture now" in tab.page.inner_text("#notice")
        assert tab.entries == []
        with Image.open(server.folder / "a.png") as image:
            wait(lambda: np.array_equal(tab.painted()[0], np.asarray(image)), "the new picture")
    finally:
        (server.folder / "a.png").write_bytes(former)
    tab.page.evaluate(back)
    tab.wait("i2f.workspace.opened.picture.width === 180")
    assert len(tab.stored) == 1


def test_pictures_turn_and_come_back(tab: Tab, server: Server) -> None:
    tab.click(90, 60)
    tab.press("PageDown")
    tab.wait("i2f.workspace.opened.picture.name === 'b.png' && i2f.workspace.opened.encoding(null)?.state === 'ready'")
    assert tab.entries == []
    tab.click(72, 90)
    tab.page.click("#picture-list button >> nth=0")
    tab.wait("i2f.workspace.opened.picture.name === 'a.png'")
    assert len(tab.entries) == 1
    tab.page.reload()
    tab.wait("i2f.workspace.opened?.entries.size === 1")
    assert [len(server.picture(name)["objects"]) for name in ("a.png", "b.png", "c.png")] == [1, 1, 0]
    assert tab.page.locator("#picture-list .count").all_inner_texts() == ["1", "1", ""]


def test_what_one_looks_at_is_the_region(tab: Tab, server: Server) -> None:
    """A picture larger than the model: a new object is segmented in the window of the view."""
    tab.press("PageUp", "PageDown", "PageDown")  # the first does nothing
    tab.wait("i2f.workspace.opened.picture.name === 'c.png' && i2f.workspace.opened.encoding(null)?.state === 'ready'")
    tab.hover(900, 450)
    for _ in range(4):
        tab.page.mouse.wheel(0, -240)
    tab.hover(900, 450)
    tab.wait(
        "i2f.workspace.opened.region && i2f.workspace.opened.encoding(i2f.workspace.opened.region)?.state === 'ready'"
    )
    tab.click(900, 450)
    (one,) = tab.stored
    x0, y0, x1, y1 = one["region"]
    visible = tab.look("i2f.viewer.view.visible()")
    assert (np.array([x0, y0]) <= np.array(visible[:2]) + 1).all()
    assert (np.array([x1, y1]) >= np.array(visible[2:]) - 1).all()
    assert x1 - x0 < 1100
    inside = np.zeros((600, 1100), bool)
    inside[y0:y1, x0:x1] = True
    mask = pixels(one["mask"])
    assert mask.any()
    assert not (mask & ~inside).any()
    tab.press("f")
    tab.click(100, 100)  # outside the window of this object
    assert len(tab.stored[0]["prompts"]) == 1
    assert "dashed frame" in tab.page.inner_text("#notice")


def test_tiles_of_all_levels_are_the_picture(tab: Tab, server: Server) -> None:
    tab.press("PageDown", "PageDown")
    tab.wait("i2f.workspace.opened.picture.name === 'c.png'")
    tab.press("z")
    tab.wait("i2f.viewer.view.scale === 1")
    with Image.open(server.folder / "c.png") as image:
        expected = np.asarray(image)

    def shown() -> bool:
        found, at = tab.painted()
        return bool((found == expected[at]).all())

    wait(shown, "the tiles of the full resolution")


def test_first_prompts_wait_for_the_encoding(tab: Tab) -> None:
    """They are accepted before the server knows the picture, and all answered."""
    held: list[Any] = []
    holding = True
    tab.page.route("**/open", lambda route: held.append(route) if holding else route.continue_())
    tab.page.keyboard.press("PageDown")
    tab.wait("i2f.workspace.opened.picture.name === 'b.png' && i2f.viewer.view.picture.width === 144")
    tab.page.evaluate("i2f.workspace.opened.encodings.clear()")
    for x in (60, 90):
        tab.page.mouse.click(*tab.place(x, 90))
    tab.wait("i2f.workspace.opened.waiting.length === 2")
    holding = False
    for route in held:
        route.continue_()
    tab.settle()
    assert [prompt["click"][0] for prompt in tab.stored[0]["prompts"]] == pytest.approx([60, 90], abs=0.5)


def test_nothing_is_lost_without_the_server(tab: Tab) -> None:
    tab.click(90, 60)
    with offline(tab):
        tab.page.keyboard.press("x")
        tab.wait("document.getElementById('saving').dataset.state === 'failed'")
        assert "Not saved (1 change)" in tab.page.inner_text("#saving")
        assert tab.stored[0]["hidden"] is False
    tab.settle()
    assert tab.stored[0]["hidden"] is True
    tab.wait("document.getElementById('saving').dataset.state === 'saved'")


@pytest.mark.parametrize("keep", ["mine", "theirs"])
def test_two_people_at_one_object(tab: Tab, server: Server, keep: str) -> None:
    tab.click(90, 60)
    (one,) = tab.stored
    picture = tab.look("i2f.workspace.opened.picture.id")
    path = f"/v1/pictures/{picture}/objects/{one['id']}"

    def write(version: int, **change: object) -> Any:
        names = ("class", "order", "hidden", "locked", "region", "prompts", "mask", "author")
        return server.send("PUT", path, {name: one[name] for name in names} | {"version": version} | change)

    # what others do is seen at once, and what was done here before can no longer be undone over it
    two = write(one["version"], author="Ada", locked=True)
    tab.wait("i2f.workspace.opened.sorted[0].locked")
    tab.press("Control+z")
    assert len(tab.stored) == 1
    with offline(tab):
        tab.page.keyboard.press(".")
        tab.page.keyboard.press("x")
        three = write(two["version"], author="Ada", order=7)
    tab.page.locator("#conflict").wait_for()
    assert "By Ada" in tab.page.inner_text("#conflict")
    assert tab.stored[0]["version"] == three["version"]
    tab.page.click(f"#keep-{keep}")
    tab.settle()
    (stored,) = tab.stored
    assert (stored["hidden"], stored["order"]) == ((True, 0) if keep == "mine" else (False, 7))
    assert tab.entries[0]["hidden"] == stored["hidden"]


def test_two_tabs_see_each_other(tabs: Callable[..., Tab]) -> None:
    first, second = tabs(), tabs()
    first.click(90, 60)
    second.wait("i2f.workspace.opened.entries.size === 1")
    assert second.entries[0]["mask"] == first.entries[0]["mask"]
    first.press("Control+z")
    second.wait("i2f.workspace.opened.entries.size === 0")

    # classes: what the first did can no longer be undone over what the second did after it
    for tab, name in ((first, "cup"), (second, "spoon")):
        tab.page.fill("#class-name", name)
        tab.page.keyboard.press("Enter")
        for other in (first, second):
            other.wait(f"i2f.workspace.classes.some(({{ name }}) => name === '{name}')")
    undo = 'button[aria-label^="Undo"]'
    assert first.page.is_disabled(undo)
    second.page.click(undo)
    first.wait("i2f.workspace.classes.length === 2")
    assert first.look("i2f.workspace.classes[1].name") == "cup"


def test_sizes_are_compared_before_the_first_click(tab: Tab, server: Server) -> None:
    """A server that turned the picture otherwise would segment something else than what is seen."""
    answer = {"id": server.picture("b.png")["id"], "width": 192, "height": 144, "state": "ready", "position": 0}
    tab.page.route("**/open", lambda route: route.fulfill(json=answer | {"error": None}))
    tab.press("PageDown")
    tab.wait("i2f.workspace.opened.picture.name === 'b.png' && i2f.workspace.opened.broken")
    tab.click(72, 90)
    assert tab.stored == []
    assert "segments 192 x 144 pixels, but this page shows 144 x 192" in tab.page.inner_text("#notice")


def test_the_keyboard_alone(tab: Tab) -> None:
    tab.press("ArrowRight", "Shift+ArrowDown", "Enter")
    (one,) = tab.stored
    x, y = one["prompts"][0]["click"]
    step = 12 / tab.look("i2f.viewer.view.scale")  # pixels of the screen
    assert (x, y) == pytest.approx((90 + step, 75 + 1), abs=0.5)
    tab.press("ArrowLeft", "ArrowLeft", "Shift+Enter")
    assert tab.stored[0]["prompts"][1]["positive"] is False
    tab.press("n", "d", *["ArrowUp"] * 8, *["ArrowLeft"] * 8, "d")
    assert list(tab.stored[1]["prompts"][0]) == ["box"]
    x0, y0, x1, y1 = tab.stored[1]["prompts"][0]["box"]
    assert (x1 - x0, y1 - y0) == pytest.approx((8 * step, 8 * step), abs=0.1)
    tab.press("b", "ArrowRight", "Enter")
    assert "paint" in tab.stored[1]["prompts"][1]
    tab.press("?")
    opened = tab.page.inner_text("#help")
    for label in ("Click and box", "Brush", "Undo", "Next picture", "Masks alone", "New object", "These keys"):
        assert label in opened
    tab.page.keyboard.press("Delete")  # a dialog is open: keys do nothing
    tab.page.keyboard.press("Escape")
    assert tab.page.locator("#help").is_hidden()
    assert len(tab.stored) == 2
    tab.press(",", "Delete", "u")
    assert len(tab.stored) == 2
    names = tab.page.evaluate(
        "[...document.querySelectorAll('button, input, select, canvas')].filter((e) => e.offsetParent !== null)"
        ".map((e) => [e.id, e.ariaLabel || e.innerText || e.closest('label')?.innerText || ''])"
    )
    assert [name for name, label in names if not label.strip()] == []


def test_touch_pinches_and_taps(tabs: Callable[..., Tab]) -> None:
    tab = tabs(has_touch=True)
    tab.page.touchscreen.tap(*tab.place(90, 60))
    tab.wait("i2f.workspace.opened.entries.size === 1")
    tab.settle()
    scale = tab.look("i2f.viewer.view.scale")
    fingers = Fingers(tab.page)
    (x0, y0), (x1, y1) = tab.place(75, 60), tab.place(105, 60)
    fingers.send("touchStart", (x0, y0))
    fingers.send("touchStart", (x0, y0), (x1, y1))
    fingers.send("touchMove", (x0 - 40, y0), (x1 + 40, y1))
    fingers.send("touchEnd")
    tab.wait(f"i2f.viewer.view.scale > {scale} * 1.5")
    assert not tab.look("i2f.workspace.preview.shown")
    assert len(tab.entries[0]["prompts"]) == 1  # two fingers draw nothing


def test_the_mask_is_there_before_a_finger_is_lifted(tabs: Callable[..., Tab]) -> None:
    tab = tabs(has_touch=True)
    asked: list[str] = []
    tab.page.on("request", lambda request: asked.append(request.url))
    fingers = Fingers(tab.page)
    fingers.send("touchStart", tab.place(90, 60))
    tab.wait("i2f.workspace.preview.shown")
    shown = tab.look("i2f.workspace.preview.shown.answer.mask")
    assert not tab.entries
    fingers.send("touchEnd")
    tab.wait("i2f.workspace.opened.entries.size === 1")
    tab.settle()
    assert tab.stored[0]["mask"] == shown
    assert len([url for url in asked if url.endswith("/predict")]) == 1


def test_export_and_import(tab: Tab, tmp_path: Path) -> None:
    tab.click(90, 60)
    tab.press("Control+e")
    tab.page.select_option("#export-format", "coco")
    with tab.page.expect_download() as downloading:
        tab.page.click("#export-form button[type=submit]")
    archived = tmp_path / "annotations.zip"
    downloading.value.save_as(archived)
    with zipfile.ZipFile(archived) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".json"))
        written = json.loads(archive.read(name))
    (one,) = written["annotations"]
    mask = pixels(tab.stored[0]["mask"])
    assert one["area"] == mask.sum()

    # and in again, as an object to go on from
    tab.page.keyboard.press("Escape")
    tab.press("Delete", "Control+i")
    tab.page.select_option("#import-format", "coco")
    tab.page.set_input_files("#import-files", archived)
    tab.page.click("#import-form button[type=submit]")
    tab.wait("i2f.workspace.opened.entries.size === 1")
    np.testing.assert_array_equal(pixels(tab.entries[0]["mask"]), mask)
    assert list(tab.stored[0]["prompts"][0]) == ["mask"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_themes(tabs: Callable[..., Tab], scheme: str) -> None:
    tab = tabs(color_scheme=scheme)
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = sum(int(part) for part in tab.look(ground)[4:-1].split(",")) < 200
    assert dark == (scheme == "dark")
    tab.press("t")
    assert (sum(int(part) for part in tab.look(ground)[4:-1].split(",")) < 200) != dark
    tab.page.reload()
    assert tab.wait("document.documentElement.dataset.theme") == ("light" if dark else "dark")
