"""The widget: a points layer's points become objects of a labels layer, as they are set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from magicgui.widgets import CheckBox, Container, FileEdit, Label, PushButton, SpinBox, create_widget
from napari.qt.threading import create_worker

from inter2former_deploy.apps.napari_plugin.layers import click_at, follow, picture_of, write_object
from inter2former_deploy.core.prompts import Click, Image, Mask
from inter2former_deploy.runtime import Segmenter, Session, ready_bundle

CACHE_BYTES = 1 << 30  # for encoded pictures
COLOURS = {"yes": "lime", "no": "red"}  # of points, by their feature "positive"
POINT_EVENTS = ("data", "features")
IMAGE_EVENTS = ("data", "contrast_limits")
OBJECTS_OF = "objects of"  # in the labels layer's metadata: the name of the image layer
MOST_OBJECTS = 65_535  # labels are uint16


class SegmentByClicks(Container):  # type: ignore[misc]  # magicgui need not be installed
    """Choose a picture, add clicks, click: the object appears in the labels layer "NAME objects".

    Every point has the features "object", the number that its object gets as label, and "positive", "yes" or "no". The
    picture is encoded once; adding, moving and removing points segments again. Work is done beside the window; what has
    changed meanwhile is done next.

    Args:
        napari_viewer: given by napari.
    """

    def __init__(self, napari_viewer: Any) -> None:
        self._viewer = napari_viewer
        self._picture = create_widget(label="picture", annotation="napari.layers.Image")
        self._begin = PushButton(text="New points layer for clicks")
        self._points = create_widget(label="clicks", annotation="napari.layers.Points", options={"nullable": True})
        self._object = SpinBox(label="object", min=1, max=MOST_OBJECTS, value=1)
        self._positive = CheckBox(text="the next clicks are on the object (T)", value=True)
        self._bundle = FileEdit(label="bundle", mode="d", value=ready_bundle())
        self._told = Label(value="")
        widgets = [self._picture, self._begin, self._points, self._object, self._positive, self._bundle, self._told]
        super().__init__(widgets=widgets)
        self._image: Any = None  # the layer that is watched
        self._pixels: Image | None = None  # of the image layer, when it is first needed
        self._sessions: dict[int, Session] = {}  # of those pixels, by the objects' numbers
        self._watched: Any = None  # the points layer
        self._worker: Any = None  # while it works
        self._again = False  # something has changed meanwhile
        self._begin.changed.connect(self._add_points)
        self._picture.changed.connect(self._change_picture)
        self._points.changed.connect(self._watch)
        self._object.changed.connect(self._set_defaults)
        self._positive.changed.connect(self._set_defaults)
        self._bundle.changed.connect(self._begin_anew)
        self.native.destroyed.connect(lambda: self._stop())  # with the window
        self.native_parent_changed.connect(self._stop_without)
        self._change_picture()

    def _add_points(self) -> None:
        image = self._picture.value
        if image is None:
            self._told.value = "open a picture first"
            return
        layer = self._viewer.add_points(
            ndim=2,
            name=f"{image.name} clicks",
            size=max(6.0, max(image.data.shape[:2]) / 80),
            **_place_of(image),
        )
        layer.mode = "add"
        self._points.value = layer

    def _watch(self) -> None:
        """Follow the chosen points layer, and no other."""
        layer = self._points.value
        if layer is not None:
            self._prepare(layer)
        self._watched = _moved(self._watched, layer, POINT_EVENTS, self._update)
        self._update()

    def _prepare(self, layer: Any) -> None:
        """Give points their features, colours and key."""
        features = {"object": self._object.value, "positive": "yes"} | dict(layer.features)
        layer.features = {name: np.broadcast_to(np.asarray(told), len(layer.data)) for name, told in features.items()}
        layer.feature_defaults = self._defaults
        layer.face_color_cycle = COLOURS
        layer.face_color = "positive"
        layer.bind_key("t", self._toggle, overwrite=True)

    def _toggle(self, _: object) -> None:
        self._positive.value = not self._positive.value

    @property
    def _defaults(self) -> dict[str, Any]:
        """The features of the next points."""
        return {"object": self._object.value, "positive": "yes" if self._positive.value else "no"}

    def _set_defaults(self) -> None:
        if self._watched is not None:
            self._watched.feature_defaults = self._defaults

    def _change_picture(self) -> None:
        """Follow the chosen image layer, and no other."""
        self._image = _moved(self._image, self._picture.value, IMAGE_EVENTS, self._begin_anew)
        self._begin_anew()

    def _begin_anew(self) -> None:
        """The picture, what is seen of it, or the model is another one."""
        self._pixels, self._sessions = None, {}
        self._update()

    def _update(self) -> None:
        """Segment what the points say; where that is being done, once more after it."""
        image, points = self._image, self._watched
        if self._worker is not None:
            self._again = True
        elif image is not None and points is not None:
            try:
                if self._pixels is None:
                    pixels = image.data[0] if image.multiscale else image.data
                    self._pixels = picture_of(pixels, image.rgb, image.contrast_limits)
                clicks = _clicks(image, points, *self._pixels.shape[:2])
            except ValueError as error:
                self._told.value = str(error)
                return
            self._told.value = "working"
            sessions = self._sessions
            self._worker = create_worker(_segment, self._bundle.value, self._pixels, sessions, clicks)
            self._worker.returned.connect(lambda masks: self._show(image, sessions, masks))
            self._worker.errored.connect(self._fail)
            self._worker.finished.connect(self._finish)
            self._worker.start()

    def _show(self, image: Any, sessions: dict[int, Session], masks: Mapping[int, Mask]) -> None:
        self._told.value = ""
        if sessions is not self._sessions or not masks:
            return  # another picture has been chosen meanwhile, or nothing has changed
        shape = next(iter(masks.values())).shape
        labels = next((layer for layer in self._viewer.layers if layer.metadata.get(OBJECTS_OF) == image.name), None)
        if labels is None or labels.data.shape != shape:
            active = self._viewer.layers.selection.active
            name, empty = f"{image.name} objects", np.zeros(shape, np.uint16)
            labels = self._viewer.add_labels(empty, name=name, metadata={OBJECTS_OF: image.name}, **_place_of(image))
            self._viewer.layers.move(len(self._viewer.layers) - 1, self._viewer.layers.index(image) + 1)  # below points
            self._viewer.layers.selection.active = active  # so that the next click is a point, too
        for number, mask in sorted(masks.items()):
            write_object(labels.data, number, mask)
        labels.refresh()

    def _fail(self, error: Exception) -> None:
        self._told.value = str(error)
        self._sessions = {}

    def _finish(self) -> None:
        self._worker = None
        if self._again:
            self._again = False
            self._update()

    def _stop_without(self, parent: object) -> None:
        """Stop when the dock is closed: napari takes the widget out of it."""
        if parent is None:
            self._stop()

    def _stop(self) -> None:
        """The widget is closed: nothing is followed any more, nor shown."""
        self._watched = _moved(self._watched, None, POINT_EVENTS, self._update)
        self._image = _moved(self._image, None, IMAGE_EVENTS, self._begin_anew)
        if self._worker is not None:
            for signal in (self._worker.returned, self._worker.errored, self._worker.finished):
                signal.disconnect()
            self._worker = None


def _moved(old: Any, new: Any, names: Sequence[str], follow_up: Callable[[], None]) -> Any:
    """Take a callback from events of a layer and give it to another's; either may be None. Gives the new layer."""
    for name in names:
        if old is not None:
            getattr(old.events, name).disconnect(follow_up)
        if new is not None:
            getattr(new.events, name).connect(follow_up)
    return new


@lru_cache(maxsize=1)
def _segmenter(bundle: Path) -> Segmenter:
    return Segmenter(bundle, cache_bytes=CACHE_BYTES)


def _segment(
    bundle: Path, picture: Image, sessions: dict[int, Session], clicks: Mapping[int, Sequence[Click]]
) -> dict[int, Mask]:
    """The masks of the objects whose clicks have changed; sessions are made and go on. Runs in a thread."""
    masks = {}
    for number in {*sessions, *clicks}:
        session = sessions.get(number) or _segmenter(bundle).open(picture)
        if follow(session, clicks.get(number, ())):
            masks[number] = session.mask
        sessions[number] = session
    return masks


def _clicks(image: Any, points: Any, height: int, width: int) -> dict[int, list[Click]]:
    """The clicks of each object, in the order of the points.

    Raises:
        ValueError: a point lies outside the picture.
    """
    clicks: dict[int, list[Click]] = {}
    features = points.features
    for place, number, positive in zip(points.data, features["object"], features["positive"], strict=True):
        row, column = image.world_to_data(points.data_to_world(place))
        click = click_at(float(row), float(column), positive == "yes", height, width)
        clicks.setdefault(int(number), []).append(click)
    return clicks


def _place_of(image: Any) -> dict[str, Any]:
    """What puts another layer where an image layer is."""
    return {name: getattr(image, name) for name in ("scale", "translate", "rotate", "shear", "affine", "units")}
