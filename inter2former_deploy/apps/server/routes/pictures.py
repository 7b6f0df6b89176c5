"""What the page works with: the pictures of a folder, their tiles, objects and classes, and what others change."""

from __future__ import annotations

import functools
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt

from inter2former_deploy.apps.server.answers import runs_json
from inter2former_deploy.apps.server.encodings import Status
from inter2former_deploy.apps.server.errors import ApiError, not_found
from inter2former_deploy.apps.server.pixels import TILE, level_sizes
from inter2former_deploy.apps.server.routes import errors, gone, json_bytes
from inter2former_deploy.apps.server.service import Service, Source, find_below
from inter2former_deploy.apps.server.standin import ConflictError, Project
from inter2former_deploy.apps.server.wire import (
    NAME,
    ImageAnswer,
    MaskAnswer,
    Prompts,
    RunLengths,
    Sides,
    image_json,
    prompts_of,
)


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
    sequence: Annotated[StrictInt, Field(ge=0, le=1 << 53)] | None = None
    preview: StrictBool = False


class ObjectJson(_Model):
    """An object as it is put."""

    version: Annotated[StrictInt, Field(ge=0, le=1 << 53)]
    class_: Annotated[str, Field(alias="class", pattern=NAME)]
    order: Annotated[StrictInt, Field(ge=-(1 << 31), lt=1 << 31)]
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


class Classes(_Model):
    """All classes."""

    version: Annotated[StrictInt, Field(ge=0, le=1 << 53)]
    classes: Annotated[list[ClassJson], Field(max_length=1000)]


def router(service: Service, project: Project) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["pictures"])
    limits = service.settings.limits

    def source(key: str) -> Source:
        found = project.pictures_by_id.get(key)
        if found is None:
            raise not_found("picture")

        def load() -> bytes:
            return find_below([project.folder], found["name"]).read_bytes()

        return Source(key, found["height"], found["width"], load)

    def listed(key: str) -> dict[str, Any]:
        found = project.pictures_by_id[key]
        whole = source(key).region(None)
        state = service.status(source(key), whole).state
        return {"id": key, **found, "state": state, "objects": len(project.of(key))}

    def tell(key: str, status: Status) -> None:
        picture = key.partition("/")[0]
        found = project.pictures_by_id.get(picture)
        if found is not None:
            image = image_json(picture, found["height"], found["width"], status)
            region = key.partition("/")[2]
            sides = [int(side) for side in region.split(",")] if region else None
            service.events.send({"type": "image", **image, "picture": picture, "region": sides})

    service.on_encoding = tell

    @routes.get("/v1/pictures")
    def pictures() -> dict[str, Any]:
        """All pictures of the folder, and the classes of objects."""
        keys = project.pictures_by_id
        return {
            "pictures": [listed(key) for key in keys],
            "classes": project.classes["classes"],
            "classes_version": project.classes["version"],
            "format_names": [],
        }

    @routes.get("/v1/pictures/{picture}", responses=errors(404))
    def one(picture: str) -> dict[str, Any]:
        """A picture, its sizes and its objects."""
        found = source(picture)
        levels = [{"width": width, "height": height} for height, width in level_sizes(found.height, found.width)]
        sizes = {"tile": TILE, "levels": levels, "region_size": service.segmenter.size}
        return {**listed(picture), **sizes, "objects": project.of(picture)}

    @routes.get("/v1/pictures/{picture}/tiles/{level}/{column}/{row}", responses=errors(404, 422))
    async def tile(picture: str, level: int, column: int, row: int) -> Response:
        """A piece of the picture as PNG: level 0 has exactly the pixels that are segmented."""
        found = source(picture)

        def make() -> bytes:
            return service.pyramid(found).tile(level, column, row)

        data = await run_in_threadpool(make)
        headers = {"Cache-Control": "private, max-age=31536000, immutable"}
        return Response(data, media_type="image/png", headers=headers)

    @routes.post("/v1/pictures/{picture}/open", response_model=ImageAnswer, responses=errors(400, 404, 503))
    def open_picture(picture: str, body: Open) -> dict[str, Any]:
        """Begin to encode a picture, or a region of it; then those that come next, if there is room."""
        found = source(picture)
        region = found.region(body.region)
        status = service.open(found, region)
        for key in body.ahead:
            following = source(key)
            try:
                service.open(following, following.region(None), ahead=True)
            except ApiError:
                break  # the queue is full: they are encoded when they are opened
        return image_json(picture, found.height, found.width, status)

    @routes.post("/v1/pictures/{picture}/predict", response_model=MaskAnswer, responses=errors(400, 404, 409, 422, 503))
    async def predict(picture: str, body: Predict, request: Request) -> Response:
        """The mask of all prompts together. Waits until the picture is encoded."""
        found = source(picture)
        region = found.region(body.region)
        prompts = prompts_of(body.prompts, found.height, found.width, limits.prompts)
        more = {} if body.sequence is None else {"sequence": body.sequence}
        answer = functools.partial(runs_json, **more)
        return json_bytes(
            await service.predict(
                found,
                prompts,
                region,
                client=body.client,
                sequence=body.sequence,
                gone=gone(request),
                answer=answer,
            )
        )

    @routes.put("/v1/pictures/{picture}/objects/{key}", responses=errors(400, 404, 409))
    def put(picture: str, key: UUID, body: ObjectJson) -> dict[str, Any]:
        """Store an object: new with version 0, else with the version that is stored."""
        source(picture)
        try:
            stored = project.put(picture, str(key), body.model_dump(by_alias=True))
        except ConflictError as error:
            raise conflict(error) from error
        service.events.send({"type": "object", "picture": picture, "object": stored})
        return stored

    @routes.delete("/v1/pictures/{picture}/objects/{key}", responses=errors(404, 409))
    def delete(picture: str, key: UUID, version: Annotated[int, Query(ge=1)]) -> dict[str, Any]:
        """Delete an object. It is kept as deleted, and can be put again with the version that is answered."""
        source(picture)
        try:
            stored = project.delete(picture, str(key), version)
        except ConflictError as error:
            raise conflict(error) from error
        service.events.send({"type": "object", "picture": picture, "object": stored})
        return stored

    @routes.put("/v1/classes", responses=errors(400, 409))
    def put_classes(body: Classes) -> dict[str, Any]:
        """Store all classes."""
        try:
            stored = project.put_classes(body.version, body.model_dump()["classes"])
        except ConflictError as error:
            raise conflict(error) from error
        service.events.send({"type": "classes", **stored})
        return stored

    @routes.get("/v1/events", responses=errors(503))
    async def events() -> StreamingResponse:
        """What changes, from now on, as server-sent events."""
        return StreamingResponse(service.events.listen(), media_type="text/event-stream")

    return routes


def conflict(error: ConflictError) -> ApiError:
    """Somebody else wrote."""
    return ApiError(409, "conflict", str(error), more={"object": error.now})
