"""Label Studio's ML backend: `/setup`, `/predict`, `/health`, `/webhook`.

Label Studio names a task's picture by its address; the server fetches it from the one Label Studio that it was told of
at its start, and from nowhere else. The page of Label Studio shows no errors: they are written to the log here.
"""

from __future__ import annotations

import json
import logging
import time
import xml.etree.ElementTree as ET
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException as ClientError
from threading import Lock
from typing import Annotated, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urljoin, urlsplit
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field

import inter2former_deploy
from inter2former_deploy.annotations.formats.label_studio import region
from inter2former_deploy.annotations.masks import outlines
from inter2former_deploy.apps.server.errors import ApiError, bad_request
from inter2former_deploy.apps.server.routes.tools import box_near, click_near, smooth_ring, source_of
from inter2former_deploy.apps.server.service import Service, Source
from inter2former_deploy.apps.server.settings import LabelStudio
from inter2former_deploy.core.prompts import Box, Click
from inter2former_deploy.core.runs import Runs

_log = logging.getLogger(__name__)

PATHS = ("/setup", "/predict", "/health", "/webhook", "/versions")
FETCH_SECONDS = 20
ACCESS_SECONDS = 240  # an access token is valid for 300
KNOWN = 1000  # pictures whose addresses are remembered
KNOWN_SECONDS = 600
LONGEST_CONFIG = 1 << 20  # characters
BRUSHES, POLYGONS = ("BrushLabels", "Brush"), ("PolygonLabels", "Polygon")  # tags that an answer may belong to
VERSION = f"inter2former-deploy {inter2former_deploy.__version__}"


class Task(BaseModel):
    """A task: its data names the picture."""

    data: dict[str, Any]


class Context(BaseModel):
    """The clicks and rectangles that wait for an answer."""

    result: Annotated[list[dict[str, Any]], Field(max_length=1000)] = []


class Params(BaseModel):
    """Null where tasks are only read."""

    context: Context | None = None


class Predict(BaseModel):
    """A prediction that is asked for."""

    tasks: Annotated[list[Task], Field(max_length=10_000)] = []
    label_config: str = ""
    params: Params = Params()


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["label-studio"])
    told = service.settings.label_studio
    pictures = None if told is None else Pictures(told, service.settings.limits.upload)

    @routes.get("/health")
    async def health() -> dict[str, Any]:
        """Whether the server answers; X-AnyLabeling asks here, too."""
        return {"status": "healthy", "models_loaded": 1, "timestamp": time.time()}

    @routes.post("/setup")
    async def setup() -> dict[str, str]:
        """A project uses this backend. Nothing that it says is needed: the token comes from this server's start."""
        return {"model_version": VERSION}

    @routes.get("/versions")
    async def versions() -> dict[str, list[str]]:
        """What Label Studio's settings show."""
        return {"versions": [VERSION]}

    @routes.post("/webhook")
    async def webhook() -> dict[str, str]:
        """An annotation was made or changed: nothing is learned from it."""
        return {"status": "ok"}

    @routes.post("/predict")
    async def predict(asked: Predict) -> dict[str, Any]:
        """The object that the clicks and rectangles of a task are of, as a brush or a polygon."""
        marks = asked.params.context.result if asked.params.context else []
        if not marks or not asked.tasks:
            return {"results": []}  # a task is read, or many are: there is nothing to predict without clicks
        try:
            control = control_for(asked.label_config, marks)
            source = await _source(service, pictures, picture_address(asked.tasks[0].data, control))
            prompts = [prompt_of(mark, source.width, source.height) for mark in marks]
            runs = await service.runs(source, prompts)
        except (TypeError, ValueError, KeyError) as error:
            _log.warning("Label Studio: %s", error)
            raise bad_request(str(error)) from error
        except ApiError as error:
            _log.warning("Label Studio: %s", error.detail)
            raise
        return {"results": [{"result": regions(runs, control), "score": 1.0, "model_version": VERSION}]}

    return routes


@dataclass(frozen=True)
class Control:
    """The tag of the labelling configuration that an answer belongs to."""

    tag: str  # one of BRUSHES or POLYGONS
    name: str
    image: str  # name of the image's tag
    variable: str  # of the task's data
    labels: tuple[str, ...]  # those of the marks that the tag knows


def control_for(config: str, marks: list[dict[str, Any]]) -> Control:
    """The brush or else the polygon of the configuration that draws on the marks' picture.

    Raises:
        ValueError: there is none; the message says what to add.
    """
    if len(config) > LONGEST_CONFIG or "<!" in config.replace("<!--", ""):
        raise ValueError("the labelling configuration is too long, or has a document type")
    try:
        tags = list(ET.fromstring(config).iter())
    except ET.ParseError as error:
        raise ValueError(f"the labelling configuration cannot be read: {error}") from None
    image = next((tag for tag in tags if tag.tag == "Image" and tag.get("name") == marks[-1].get("to_name")), None)
    if image is None:
        raise ValueError("the labelling configuration has no Image of the marks' to_name")
    value = marks[-1].get("value", {})
    chosen = [label for key in (marks[-1].get("type"), "labels") for label in value.get(key) or [] if key]
    for kind in (*BRUSHES, *POLYGONS):
        for tag in tags:
            if tag.tag == kind and tag.get("toName") == image.get("name"):
                known = [label.get("value") for label in tag.iter("Label")]
                labels = tuple(dict.fromkeys(str(label) for label in chosen if label in known))
                variable = str(image.get("value", "")).removeprefix("$")
                return Control(kind, str(tag.get("name")), str(image.get("name")), variable, labels)
    raise ValueError("the labelling configuration has no BrushLabels, Brush, PolygonLabels or Polygon for the picture")


def picture_address(data: Mapping[str, Any], control: Control) -> str:
    """Where the task says that its picture is.

    Raises:
        ValueError: it does not.
    """
    address = data.get(control.variable)
    if not isinstance(address, str) or not address:
        raise ValueError(f"the task's data has no text {control.variable!r}, which Image names")
    return address


def prompt_of(mark: Mapping[str, Any], width: int, height: int) -> Click | Box:
    """A keypoint or a rectangle, whose coordinates are percent of the picture.

    Raises:
        TypeError, ValueError: it is neither, is of a picture of another size, or is turned.
    """
    value, kind = mark.get("value"), str(mark.get("type"))
    if not isinstance(value, Mapping):
        raise ValueError("a mark has no value")
    shown = mark.get("original_width"), mark.get("original_height")
    if shown != (width, height):
        raise ValueError(f"Label Studio shows the picture as {shown[0]} x {shown[1]}, its file has {width} x {height}")
    if mark.get("image_rotation") or value.get("rotation"):
        raise ValueError("the picture or the rectangle is rotated: turn it back")
    x, y = (_percent(value.get(key), length) for key, length in (("x", width), ("y", height)))
    if kind.startswith("keypoint"):
        return click_near(x, y, mark.get("is_positive", True) is not False, width, height)
    if kind.startswith("rectangle"):
        across, down = (_percent(value.get(key), n) for key, n in (("width", width), ("height", height)))
        return box_near((x, y), (x + across, y + down), width, height)
    raise ValueError(f"a smart {kind} is not known: use keypoints and rectangles")


def _percent(value: Any, length: int) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"a coordinate must be a number, got {value!r:.40}")
    return value * length / 100


def regions(runs: Runs, control: Control) -> list[dict[str, Any]]:
    """A mask as one brush region, or as a polygon for each of its parts, without holes."""
    if not runs.area:
        return []
    if control.tag in BRUSHES:
        found = region(runs, "", control.name, control.image)
        found["value"].pop("brushlabels")
        kind = "brushlabels" if control.tag == "BrushLabels" else "brush"
        return [_labelled(found, kind, control)]
    kind = "polygonlabels" if control.tag == "PolygonLabels" else "polygon"
    found_all = []
    for part in outlines(runs):
        points = [[100 * x / runs.width, 100 * y / runs.height] for x, y in smooth_ring(part.ring)]
        found_all.append(
            _labelled(
                {
                    "from_name": control.name,
                    "to_name": control.image,
                    "original_width": runs.width,
                    "original_height": runs.height,
                    "image_rotation": 0,
                    "value": {"points": points, "closed": True},
                },
                kind,
                control,
            )
        )
    return found_all


def _labelled(found: dict[str, Any], kind: str, control: Control) -> dict[str, Any]:
    labels = {kind: list(control.labels)} if kind.endswith("labels") else {}
    return {**found, "type": kind, "value": {**found["value"], **labels}}


async def _source(service: Service, pictures: Pictures | None, address: str) -> Source:
    if address.startswith("data:"):
        return await source_of(service, address)
    if pictures is None:
        raise ApiError(422, "picture", "start the server with --label-studio and --label-studio-token-file")
    return await run_in_threadpool(pictures.source, service, address)


class _NoRedirects(HTTPRedirectHandler):
    """Another address is another place, whoever names it."""

    def redirect_request(self, *_: Any) -> None:
        """Follow none."""
        return


class Pictures:
    """Pictures of one Label Studio.

    Args:
        told: its address, and the token of a user.
        limit: bytes of a picture's file.
    """

    def __init__(self, told: LabelStudio, limit: int) -> None:
        self._address, self._token, self._limit = told.address.rstrip("/") + "/", told.token, limit
        self._open = build_opener(_NoRedirects, ProxyHandler({})).open
        self._access = ("", 0.0)  # the header, and until when it is valid
        self._known: OrderedDict[str, tuple[str, float]] = OrderedDict()  # ids of sources by address
        self._lock = Lock()

    def source(self, service: Service, address: str) -> Source:
        """The picture at an address, fetched unless it was lately.

        Raises:
            ApiError: it is elsewhere, cannot be fetched, or is no picture (422).
        """
        url = self.url(address)
        with self._lock:
            key, until = self._known.get(url, ("", 0.0))
        if time.monotonic() < until:
            try:
                return service.uploads.get(key)
            except ApiError:
                pass  # it was sent long ago
        source = service.add(self._fetch(Request(url, headers={"Authorization": self._authorization()})))
        with self._lock:
            self._known[url] = source.id, time.monotonic() + KNOWN_SECONDS
            self._known.move_to_end(url)
            while len(self._known) > KNOWN:
                self._known.popitem(last=False)
        return source

    def url(self, address: str) -> str:
        """The whole address of a picture.

        Raises:
            ApiError: it is not of the one Label Studio.
        """
        url, own = urlsplit(urljoin(self._address, address)), urlsplit(self._address)
        if (url.scheme, url.netloc) != (own.scheme, own.netloc):
            raise ApiError(422, "picture", "the picture is not at the Label Studio that this server was told of")
        return url.geturl()

    def _authorization(self) -> str:
        """The header that Label Studio wants; of a personal access token it gives another one for some minutes."""
        if self._token.count(".") != 2:  # of the older kind, which is no JWT
            return f"Token {self._token}"
        with self._lock:
            header, until = self._access
            if time.monotonic() >= until:
                body = json.dumps({"refresh": self._token}).encode()
                where = urljoin(self._address, "api/token/refresh/")
                answer = self._fetch(Request(where, body, {"Content-Type": "application/json"}))
                try:
                    header = f"Bearer {json.loads(answer)['access']}"
                except (ValueError, KeyError, TypeError):
                    raise ApiError(422, "picture", "Label Studio gave no access for the token") from None
                self._access = header, time.monotonic() + ACCESS_SECONDS
            return header

    def _fetch(self, request: Request) -> bytes:
        try:
            with self._open(request, timeout=FETCH_SECONDS) as answer:
                content: bytes = answer.read(self._limit + 1)
        except HTTPError as error:
            why = "refuses the token" if error.code in (401, 403) else f"answers {error.code}"
            raise ApiError(422, "picture", f"Label Studio {why} when its picture is fetched") from error
        except (URLError, OSError, ClientError, ValueError) as error:
            raise ApiError(422, "picture", "Label Studio cannot be reached for its picture") from error
        if len(content) > self._limit:
            raise ApiError(413, "too_large", f"the picture has more than {self._limit} bytes")
        return content
