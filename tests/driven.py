"""The page of `i2f annotate` in a browser: what is true in it, and where a pixel of the picture is."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def wait(ready: Callable[[], object], what: str = "", *, patience: float = 20, pause: float = 0.02) -> Any:
    """What `ready` gives, as soon as it is true; asked again after `pause` seconds, and for `patience` seconds."""
    end = time.monotonic() + patience
    while not (found := ready()):
        assert time.monotonic() < end, f"waited in vain: {what or ready}"
        time.sleep(pause)
    return found


def look(page: Any, expression: str) -> Any:
    """The value of a JavaScript expression, None while the page begins."""
    return page.evaluate(f"typeof i2f === 'undefined' ? null : {expression}")


def place(page: Any, x: float, y: float) -> tuple[float, float]:
    """Where a pixel of the picture is in the window."""
    left, top = page.evaluate(
        """([x, y]) => {
            const { view, canvas } = i2f.viewer;
            const box = canvas.getBoundingClientRect();
            const [a, b] = view.toCanvas([x, y]);
            return [a / view.ratio + box.left, b / view.ratio + box.top];
        }""",
        [x, y],
    )
    return left, top


class Fingers:
    """Fingers on a page, each down for as long as one wants."""

    def __init__(self, page: Any) -> None:
        self._client = page.context.new_cdp_session(page)

    def send(self, kind: str, *places: tuple[float, float]) -> None:
        """A touch event ("touchStart", "touchMove", "touchEnd"), with where the fingers are in the window."""
        points = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(places)]
        self._client.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
