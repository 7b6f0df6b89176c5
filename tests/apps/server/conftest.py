"""Servers on the toy bundle, in threads of this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import httpx
import pytest
from toy_bundle import write_toy_bundle

from inter2former_deploy.apps.server.run import Server
from inter2former_deploy.apps.server.service import Service
from inter2former_deploy.apps.server.settings import Limits, Settings

MakeClient = Callable[..., httpx.Client]


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_bundle(tmp_path_factory.mktemp("server") / "bundle")


@contextmanager
def running(
    bundle: Path, limits: dict[str, Any] | None = None, tls: dict[str, Path] | None = None, **settings: Any
) -> Iterator[Server]:
    """Within, this server answers."""
    service = Service(Settings(bundle=bundle, threads=1, port=0, limits=Limits(**(limits or {})), **settings))
    server, ready = Server(service, **(tls or {})), Event()
    thread = Thread(target=server.serve_until_stopped, args=(ready.set,))
    thread.start()
    assert ready.wait(30)
    try:
        yield server
    finally:
        server.stop()
        thread.join()


@contextmanager
def serving(bundle: Path, limits: dict[str, Any] | None = None, **settings: Any) -> Iterator[httpx.Client]:
    """Within, a server answers this client."""
    with (
        running(bundle, limits, **settings) as server,
        httpx.Client(base_url=server.address, headers={"X-I2F": "1"}, timeout=60) as client,
    ):
        yield client


@pytest.fixture
def make_client(bundle: Path) -> Iterator[MakeClient]:
    """`make_client(limits={...}, **settings)`: a client of a server of its own."""
    with ExitStack() as stack:
        yield lambda limits=None, **settings: stack.enter_context(serving(bundle, limits, **settings))


@pytest.fixture
def client(make_client: MakeClient) -> httpx.Client:
    return make_client()
