"""Run the application with uvicorn: one process, stopped cleanly, nothing of requests in its log but their kind."""

from __future__ import annotations

import uvicorn

from inter2former_deploy.apps.server.app import create_app
from inter2former_deploy.apps.server.settings import Settings


def run(settings: Settings, *, certificate: str | None = None, key: str | None = None) -> uvicorn.Server:
    """A server that is ready to serve: call `run()` of it.

    Args:
        settings: of the application; port 0 takes a free one.
        certificate: PEM file, for TLS.
        key: PEM file.
    """
    config = uvicorn.Config(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_level="warning",
        access_log=False,
        server_header=False,
        http="h11",
        ws="none",
        loop="asyncio",
        limit_concurrency=settings.limits.connections,
        timeout_keep_alive=20,
        timeout_graceful_shutdown=5,
        ssl_certfile=certificate,
        ssl_keyfile=key,
        proxy_headers=False,
    )
    return uvicorn.Server(config)
