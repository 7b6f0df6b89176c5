"""Run the application with uvicorn: one process, stopped cleanly, nothing of requests in its log."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from inter2former_deploy.apps.server.app import create_app
from inter2former_deploy.apps.server.security import HEADER_BYTES
from inter2former_deploy.apps.server.service import Service

HEADER_SECONDS = 10  # from the first byte of a request, or of a connection, to the end of its headers


class _Protocol(H11Protocol):
    """HTTP/1.1, where headers come in time or not at all."""

    _due: Any = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._due = self._due and self._due.cancel()

    def _watch(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._due = self._due and self._due.cancel()
        elif self._due is None:
            self._due = self.loop.call_later(HEADER_SECONDS, self.transport.close)


class Server(uvicorn.Server):
    """Serves until a signal ends it; streams of events end at once then.

    Args:
        service: what it serves; closed at the end.
        certificate: PEM file with the chain of certificates, for TLS.
        key: PEM file of its private key.

    Raises:
        OSError: the address cannot be had.
        ssl.SSLError: certificate or key are none.
    """

    def __init__(self, service: Service, *, certificate: Path | None = None, key: Path | None = None) -> None:
        settings = service.settings
        try:
            self._socket = _listen(settings.host, settings.port)
        except OSError:
            service.close()
            raise
        super().__init__(
            uvicorn.Config(
                create_app(service),
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                http=_Protocol,
                ws="none",
                loop="asyncio",
                h11_max_incomplete_event_size=HEADER_BYTES,
                limit_concurrency=settings.limits.connections,
                timeout_keep_alive=20,
                timeout_graceful_shutdown=5,
                ssl_certfile=certificate,
                ssl_keyfile=key,
            )
        )
        self._service = service
        scheme = "http" if certificate is None else "https"
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        self.address = f"{scheme}://{host}:{self._socket.getsockname()[1]}/"

    def serve_until_stopped(self, ready: Callable[[], None] = lambda: None) -> None:
        """Serve; returns when SIGINT, SIGTERM or SIGHUP have come, in the main thread, or `stop` was called.

        Args:
            ready: called when requests are answered.
        """
        self._ready = ready
        if threading.current_thread() is not threading.main_thread():  # where Python takes no signals
            self.run(sockets=[self._socket])
            return
        before = signal.signal(signal.SIGHUP, self.handle_exit)
        try:
            self.run(sockets=[self._socket])
        except KeyboardInterrupt:  # which uvicorn raises again when it is done
            pass
        finally:
            signal.signal(signal.SIGHUP, before)

    def stop(self) -> None:
        """End, as a signal does; from any thread."""
        self._service.events.close()
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer."""
        await super().startup(sockets)
        self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End; uvicorn waits for answers that are on their way."""
        self._service.events.close()
        super().handle_exit(sig, frame)


def _listen(host: str, port: int) -> socket.socket:
    found = None
    try:
        (family, kind, protocol, _, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        # Only where the protocol is named asyncio sends what it has at once; else an answer's body waits 40 ms for the
        # client to acknowledge the head (findings/asyncio_own_socket_waits.sh).
        found = socket.socket(family, kind, protocol)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen()  # another server that has the port is noticed here, not later
    except OSError as error:
        if found is not None:
            found.close()
        raise OSError(f"{host}, port {port}: {error.strerror}: name another with --host and --port") from error
    return found
