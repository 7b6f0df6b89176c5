"""What the page works with: the pictures of a folder, their tiles, objects and classes, and what others change."""

from __future__ import annotations

import functools
from dataclasses import asdict
from typing import Annotated, Any, TypeAlias
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, StrictBool

from inter2former_deploy.annotations.formats import FORMATS
from inter2former_deploy.annotations.project import Class, Classes, Draft, Object, Picture, Project
from inter2former_deploy.apps.server.answers import runs_json
from inter2former_deploy.apps.server.catalogue import Catalogue
from inter2former_deploy.apps.server.encodings import Status
from inter2former_deploy.apps.server.errors import ApiError, bad_request, not_found
from inter2former_deploy.apps.server.pixels import TILE, level_sizes
from inter2former_deploy.apps.server.routes import json_bytes
from inter2former_deploy.apps.server.service import Service
from inter2former_deploy.apps.server.wire import (
    NAME,
    Coordinate,
    ImageAnswer,
    MaskAnswer,
    Prompts,
    RunLengths,
    Sides,
    Whole,
    image_json,
    prompts_of,
)
from inter2former_deploy.core.errors import ConflictError


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Open(_Model):
    """What is going to be segmented."""

    region: Sides | None = None
    ahead: Annotated[list[str], Field(max_length=16)] = []


class Predict(_Model):
    """All prompts of an object, in order."""

    prompts: Prompts
    region: Sides | None = None
    client: Annotated[str, Field(max_length=64)] = ""
    sequence: Whole | None = None
    preview: StrictBool = False


class ObjectJson(_Model):
    """An object as it is put."""

    version: Whole
    class_: Annotated[str, Field(alias="class", pattern=NAME)]
    order: Coordinate
    hidden: StrictBool
    locked: StrictBool
    region: Sides | None
    prompts: Prompts
    mask: RunLengths
    author: Annotated[str, Field(pattern=NAME)]


class ClassJson(_Model):
    """A class of objects."""

    name: Annotated[str, Field(pattern=NAME, min_length=1)]
    colour: Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")]


class ClassesJson(_Model):
    """All classes."""

    version: Whole
    classes: Annotated[list[ClassJson], Field(max_length=1000)]


class Rename(_Model):
    """Another name for a class."""

    version: Whole
    name: Annotated[str, Field(pattern=NAME, min_length=1)]
    new_name: Annotated[str, Field(pattern=NAME, min_length=1)]
    author: Annotated[str, Field(pattern=NAME)] = ""


class Renamed(ClassesJson):
    """All classes after one was renamed, and the version that each of its objects has now."""

    name: str
    new_name: str
    objects: dict[str, int]


class ObjectAnswer(_Model):
    """An object as it is stored."""

    id: str
    version: int
    class_: Annotated[str, Field(alias="class")]
    order: float
    hidden: bool
    locked: bool
    region: Sides | None
    prompts: list[dict[str, Any]]
    mask: RunLengths
    author: str
    changed: str
    deleted: bool


class PictureListed(_Model):
    """A picture of the folder."""

    id: str
    name: str
    width: int
    height: int
    state: str
    objects: int = Field(description="How many there are on it.")


class Pictures(_Model):
    """All pictures, and what objects may be."""

    pictures: list[PictureListed]
    classes: list[ClassJson]
    classes_version: int
    format_names: list[str]
    import_names: list[str]


class Level(_Model):
    """A picture at one of its sizes."""

    width: int
    height: int


class PictureAnswer(_Model):
    """A picture, its sizes and objects."""

    id: str
    name: str
    width: int
    height: int
    state: str
    tile: int = Field(description="Side of a tile, pixels.")
    levels: list[Level] = Field(description="0 is the full size, each next one half of it.")
    region_size: int = Field(description="The model's resolution: a region of this size keeps every pixel.")
    objects: list[ObjectAnswer]


Place: TypeAlias = Annotated[int, Path(ge=0, lt=1 << 20)]
Version: TypeAlias = Annotated[int, Query(ge=1, le=1 << 53)]
Name: TypeAlias = Annotated[str, Query(pattern=NAME)]


def router(service: Service, project: Project, catalogue: Catalogue) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["pictures"])
    limits = service.settings.limits

    def listed(picture: Picture) -> dict[str, Any]:
        source = catalogue.source(picture.id)
        state = service.status(source, source.region(None)).state
        return {**asdict(picture), "state": state}

    def tell(key: str, status: Status) -> None:
        picture, _, sides = key.partition("/")
        try:
            source = catalogue.source(picture)
        except ApiError:
            return  # it was sent by a program
        image = image_json(source.id, source.height, source.width, status)
        region = [int(side) for side in sides.split(",")] if sides else None
        service.events.send({"type": "image", **image, "picture": picture, "region": region})

    service.on_encoding = tell

    @routes.get("/v1/pictures", response_model=Pictures)
    def pictures() -> dict[str, Any]:
        """All pictures of the folder that were found so far, and the classes of objects."""
        return {
            "pictures": [listed(picture) for picture in catalogue.pictures()],
            **_classes_json(project.classes(), "classes_version"),
            "format_names": list(FORMATS),
            "import_names": [name for name, entry in FORMATS.items() if entry.reads],
        }

    @routes.get("/v1/pictures/{picture}", response_model=PictureAnswer)
    def one(picture: str) -> dict[str, Any]:
        """A picture, its sizes and its objects."""
        source = catalogue.source(picture)
        levels = [{"width": width, "height": height} for height, width in level_sizes(source.height, source.width)]
        sizes = {"tile": TILE, "levels": levels, "region_size": service.bundle.manifest.size}
        objects = [_object_json(found) for found in project.objects(picture)]
        return {**listed(project.picture(picture)), **sizes, "objects": objects}

    @routes.get(
        "/v1/pictures/{picture}/tiles/{level}/{column}/{row}",
        response_class=Response,
        responses={200: {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}}},
    )
    def tile(picture: str, level: Place, column: Place, row: Place) -> Response:
        """A piece of the picture as PNG: level 0 has exactly the pixels that are segmented."""
        source = catalogue.source(picture)
        data = service.pyramid(source).tile(level, column, row)
        headers = {"Cache-Control": "private, max-age=31536000, immutable"}
        return Response(data, media_type="image/png", headers=headers)

    @routes.post("/v1/pictures/{picture}/open", response_model=ImageAnswer)
    def open_picture(picture: str, body: Open) -> dict[str, Any]:
        """Begin to encode a picture, or a region of it; then those that come next, if there is room."""
        source = catalogue.source(picture)
        following = [catalogue.source(key) for key in body.ahead]
        status = service.open(source, source.region(body.region))
        for later in following:
            try:
                service.open(later, later.region(None), ahead=True)
            except ApiError:
                break  # the queue is full: they are encoded when they are opened
        return image_json(picture, source.height, source.width, status)

    @routes.post("/v1/pictures/{picture}/predict", response_model=MaskAnswer)
    async def predict(picture: str, body: Predict, request: Request) -> Response:
        """The mask of all prompts together. Waits until the picture is encoded.

        A request is answered with 409 "stale" when a click of the same client with a greater number has come, a preview
        also when another preview has.
        """
        source = catalogue.source(picture)
        region = source.region(body.region)
        prompts = prompts_of(body.prompts, source.height, source.width, limits.prompts)
        answer = runs_json if body.sequence is None else functools.partial(runs_json, sequence=body.sequence)
        return json_bytes(
            await service.predict(
                source,
                prompts,
                region,
                client=body.client,
                sequence=body.sequence,
                preview=body.preview,
                gone=request.is_disconnected,
                answer=answer,
            )
        )

    def changed(picture: str, stored: Object) -> dict[str, Any]:
        answer = _object_json(stored)
        service.events.send({"type": "object", "picture": picture, "object": answer})
        return answer

    @routes.put("/v1/pictures/{picture}/objects/{key}", response_model=ObjectAnswer)
    def put(picture: str, key: UUID, body: ObjectJson) -> dict[str, Any]:
        """Store an object: new with version 0, else with the version that is stored, deleted or not."""
        source = catalogue.source(picture)
        try:
            draft = Draft.from_json(body.model_dump(by_alias=True), source.height, source.width)
            return changed(picture, project.put_object(picture, str(key), draft, body.version))
        except ValueError as error:
            raise bad_request(str(error)) from error

    @routes.delete("/v1/pictures/{picture}/objects/{key}", response_model=ObjectAnswer)
    def delete(picture: str, key: UUID, version: Version, author: Name = "") -> dict[str, Any]:
        """Delete an object. It is kept as deleted, and can be put again with the version that is answered."""
        catalogue.source(picture)
        try:
            return changed(picture, project.delete_object(picture, str(key), version, author))
        except LookupError:
            raise not_found("object") from None
        except ValueError as error:
            raise bad_request(str(error)) from error

    @routes.put("/v1/classes", response_model=ClassesJson)
    def put_classes(body: ClassesJson) -> dict[str, Any]:
        """Store all classes, with the version of those that they replace."""
        try:
            classes = [Class.from_json(entry.model_dump()) for entry in body.classes]
            stored = _classes_json(project.put_classes(classes, body.version))
        except ValueError as error:
            raise bad_request(str(error)) from error
        service.events.send({"type": "classes", **stored})
        return stored

    @routes.post("/v1/classes/rename", response_model=Renamed)
    def rename_class(body: Rename) -> dict[str, Any]:
        """Give a class another name, in the list and on all objects that have it."""
        try:
            renamed = project.rename_class(body.name, body.new_name, body.version, body.author)
        except LookupError:
            raise not_found("class") from None
        except ValueError as error:
            raise bad_request(str(error)) from error
        names = {"name": body.name, "new_name": body.new_name}
        answer = {**_classes_json(renamed.classes), **names, "objects": dict(renamed.objects)}
        service.events.send({"type": "renamed", **answer})
        return answer

    @routes.get(
        "/v1/events",
        response_class=StreamingResponse,
        responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
    )
    async def events() -> StreamingResponse:
        """What changes from now on, as server-sent events: image, object, classes, renamed, pictures (the list)."""
        return StreamingResponse(service.events.listen(), media_type="text/event-stream")

    return routes


def conflict(error: ConflictError) -> ApiError:
    """Somebody else wrote."""
    current = error.current
    if isinstance(current, Classes):
        return ApiError(409, "conflict", str(error), more=_classes_json(current))
    now = _object_json(current) if isinstance(current, Object) else None
    return ApiError(409, "conflict", str(error), more={"object": now})


def _object_json(stored: Object) -> dict[str, Any]:
    return {**stored.to_json(), "deleted": stored.deleted}


def _classes_json(stored: Classes, version: str = "version") -> dict[str, Any]:
    return {version: stored.version, "classes": [entry.to_json() for entry in stored.classes]}
