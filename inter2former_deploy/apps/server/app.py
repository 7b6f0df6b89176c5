"""The application: routes, errors, the guard around them."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

import inter2former_deploy
from inter2former_deploy.apps.server.errors import ApiError, not_found
from inter2former_deploy.apps.server.routes import model
from inter2former_deploy.apps.server.security import Guard
from inter2former_deploy.apps.server.service import Service
from inter2former_deploy.apps.server.settings import Settings

_log = logging.getLogger(__name__)

PAGE = Path(inter2former_deploy.__file__).parent / "apps" / "page"
LOCAL = ("127.0.0.1", "localhost", "[::1]")
OPEN = ("/", "/static/", "/v1/health", "/favicon.ico")
UPLOADS = ("/v1/images",)


def create_app(settings: Settings) -> Guard:
    """The server as an ASGI application. Loads the bundle.

    Raises:
        BundleError, OperatorLibraryError, ValueError: as `runtime.Segmenter`.
    """
    service = Service(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(
        title="inter2former-deploy",
        version=inter2former_deploy.__version__,
        description="Interactive segmentation: pictures and prompts in, masks out.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    _answer_errors(app, service)
    app.include_router(model.router(service))
    if settings.pictures is not None:
        from inter2former_deploy.apps.server.routes import pictures
        from inter2former_deploy.apps.server.standin import Project

        app.include_router(pictures.router(service, Project(settings.database, settings.pictures)))
        _serve_page(app)
    return Guard(
        app,
        limits=settings.limits,
        names=(*LOCAL, settings.host, *settings.names),
        token=settings.token,
        open_paths=OPEN,
        upload_paths=UPLOADS,
        refused=service.metrics.refused.add,
    )


def _serve_page(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        if not (PAGE / "index.html").is_file():
            raise not_found("page")
        return FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})

    app.mount("/static", StaticFiles(directory=PAGE, check_dir=False))


def _answer_errors(app: FastAPI, service: Service) -> None:
    """All errors in one form, without paths and traces."""

    @app.exception_handler(ApiError)
    async def refused(_: Request, error: ApiError) -> Response:
        return JSONResponse(error.body(), error.status_code, error.headers)

    @app.exception_handler(HTTPException)
    async def of_starlette(_: Request, error: HTTPException) -> Response:
        body = {"error": {"code": "http", "message": error.detail}}
        return JSONResponse(body, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        return JSONResponse({"error": {"code": "bad_request", "message": _first(error.errors())}}, 400)

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:
        service.metrics.failures.add()
        _log.error("a request failed: %s", type(error).__name__)
        return JSONResponse({"error": {"code": "internal", "message": "the server failed at this request"}}, 500)


def _first(found: Any) -> str:
    """The first of what pydantic found, without what was sent."""
    first = found[0]
    place = ".".join(str(part) for part in first["loc"][1:] if len(str(part)) < 80)
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return f"{place}: {first['msg']}{more}" if place else f"{first['msg']}{more}"
