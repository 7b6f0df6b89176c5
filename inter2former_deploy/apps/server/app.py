"""The application: routes, errors, the guard around them."""

from __future__ import annotations

import logging
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from socket import getfqdn, gethostname
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

import inter2former_deploy
from inter2former_deploy.apps.server.errors import ApiError
from inter2former_deploy.apps.server.routes import cvat, images, label_studio, model, x_anylabeling
from inter2former_deploy.apps.server.security import App, Guard, Message, Receive, Send
from inter2former_deploy.apps.server.service import Service
from inter2former_deploy.apps.server.wire import ErrorAnswer
from inter2former_deploy.core.errors import ConflictError, DatabaseError, DatabaseFullError

_log = logging.getLogger(__name__)

PAGE = Path(inter2former_deploy.__file__).parent / "apps" / "page"
PATIENCE = 2  # seconds that a start waits for the pictures of a folder; the others are told of
FIRST_COLOUR = "#2f7dff"  # of the class that a new project has
LATER = {"Retry-After": "5"}
LOCAL = ("127.0.0.1", "localhost", "[::1]")
OPEN = ("/", "/static/", "/v1/health", "/favicon.ico")
UPLOADS = ("/v1/images", "/v1/import", x_anylabeling.PREDICT, cvat.INVOKE)
TOOLS = (*label_studio.PATHS, *x_anylabeling.PATHS, *cvat.PATHS)


def create_app(service: Service) -> App:
    """The server as an ASGI application. It closes the service when it ends."""
    settings = service.settings
    closing: list[Callable[[], None]] = []

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()
        for close in closing:
            close()

    app = FastAPI(
        title="inter2former-deploy",
        version=inter2former_deploy.__version__,
        description="Interactive segmentation: pictures and prompts in, masks out.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        responses={"4XX": {"model": ErrorAnswer}, 503: {"model": ErrorAnswer, "description": "Come again later."}},
    )
    _answer_errors(app, service)
    app.include_router(model.router(service))
    app.include_router(images.router(service))
    for tool in (label_studio, x_anylabeling, cvat):
        app.include_router(tool.router(service))
    if settings.pictures is not None:
        _annotate(app, service, settings.pictures, closing)
        if PAGE.is_dir():
            _serve_page(app)
    guard = Guard(
        app,
        limits=settings.limits,
        names=(*LOCAL, settings.host, *settings.names, *(() if settings.is_local else (gethostname(), getfqdn()))),
        by_address=not settings.is_local,
        token=settings.token,
        open_paths=OPEN,
        tool_paths=TOOLS,
        upload_paths=UPLOADS,
        refused=service.metrics.refused.add,
    )
    return x_anylabeling.KeepShapes(guard)


def _annotate(app: FastAPI, service: Service, folder: Path, closing: list[Callable[[], None]]) -> None:
    """The page, and the routes that it works with."""
    from inter2former_deploy.annotations.project import Class, Project
    from inter2former_deploy.apps.server.catalogue import Catalogue
    from inter2former_deploy.apps.server.routes import exchange, pictures

    project = Project.open(service.settings.database, folder)
    if project.classes().version == 0:
        with suppress(ConflictError):  # another server on the same database was quicker
            project.put_classes([Class("object", FIRST_COLOUR)], 0)
    catalogue = Catalogue(
        project,
        service.settings.limits.upload,
        tell=lambda: service.events.send({"type": "pictures"}),
        note=lambda line: _log.warning("not annotated: %s", line),
    )
    catalogue.done.wait(PATIENCE)
    closing += [catalogue.close, project.close]
    app.include_router(pictures.router(service, project, catalogue))
    app.include_router(exchange.router(service, project, catalogue))

    @app.exception_handler(ConflictError)
    async def conflict(_: Request, error: ConflictError) -> Response:
        refusal = pictures.conflict(error)
        return JSONResponse(refusal.body(), refusal.status_code)

    @app.exception_handler(DatabaseError)
    async def lost(_: Request, error: DatabaseError) -> Response:
        _log.error("the database: %s", error)
        if isinstance(error, DatabaseFullError):
            refusal = ApiError(507, "full", "the disk of the database is full, nothing was stored: make room")
        else:
            refusal = ApiError(503, "database", "the database does not answer, nothing was stored", headers=LATER)
        return JSONResponse(refusal.body(), refusal.status_code, refusal.headers)


def _serve_page(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})

    app.mount("/static", StaticFiles(directory=PAGE))


def _answer_errors(app: FastAPI, service: Service) -> None:
    """All errors in one form, without paths and traces."""

    @app.exception_handler(ApiError)
    async def refused(_: Request, error: ApiError) -> Response:
        return JSONResponse(error.body(), error.status_code, error.headers)

    @app.exception_handler(HTTPException)
    async def of_starlette(request: Request, error: HTTPException) -> Response:
        headers = {"Allow": ", ".join(_methods(app, request.url.path))} if error.status_code == 405 else error.headers
        body = {"error": {"code": "http", "message": error.detail}}
        return JSONResponse(body, error.status_code, headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        return JSONResponse({"error": {"code": "bad_request", "message": _first(error.errors())}}, 400)

    app.add_middleware(_Failures, told=service.metrics.failures.add)


def _methods(app: FastAPI, path: str) -> list[str]:
    """What can be done with an address; Starlette knows of the first route alone."""
    found = (known for form, known in app.openapi()["paths"].items() if compile_path(form)[0].match(path))
    return sorted({method.upper() for known in found for method in known})


class _Failures:
    """Answers with 500 where the server itself fails. The log has the place, not what was worked on."""

    def __init__(self, app: App, told: Callable[[], None]) -> None:
        self._app, self._told = app, told

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:
            self._told()
            place = "".join(traceback.format_tb(error.__traceback__)[-3:])
            _log.error("a request failed: %s, at\n%s", type(error).__name__, place)
            if not begun:
                body = {"error": {"code": "internal", "message": "the server failed at this request"}}
                await JSONResponse(body, 500)(scope, receive, send)


def _first(found: Any) -> str:
    """The first of what pydantic found, without what was sent."""
    first = found[0]
    place = ".".join(str(part) for part in first["loc"][1:] if len(str(part)) < 80)
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return f"{place}: {first['msg']}{more}" if place else f"{first['msg']}{more}"
