"""Who may ask, and with how much: checked before anything of a request is read. Plain ASGI, around the application.

* The Host header must be one of the server's own names, so that a name of somebody else's that leads here (DNS
  rebinding) reaches nothing.
* A request that another page makes is refused: by its Origin, and by what browsers say of themselves (Sec-Fetch-Site).
* Whatever changes something needs the header `X-I2F: 1`, which no page of another origin can send without leave, and
  nobody gives it.
* Where there is a token, every request carries it, but for the page's own files and `/v1/health`.
* Bodies are bounded in bytes and in time.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import ipaddress
import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, TypeAlias

from inter2former_deploy.apps.server.errors import ApiError, busy
from inter2former_deploy.apps.server.settings import Limits

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]

HEADER = b"x-i2f"
POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
ALWAYS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)
SAFE = ("GET", "HEAD", "OPTIONS")
HEADER_BYTES = 16 << 10
HEADER_COST = 32  # of one, beside its bytes
GRACE_SECONDS = 30  # of a body, before its speed counts


class Guard:
    """Lets through what may pass.

    Args:
        app: that is guarded.
        limits: of bodies.
        names: by which clients may call this host, without port.
        by_address: they may call it by any IP address, too: no name can be made to lead there.
        token: that they must carry.
        open_paths: that need no token: beginnings of paths that end with "/", others whole.
        tool_paths: of tools that cannot send `X-I2F`: whole paths, or beginnings that end with "/". They must not be
            called from a page, and may carry the token in `Authorization: Basic` (as password) or in `Token`, too.
        upload_paths: whose bodies may be as large as a picture.
        refused: called for every request that is refused here.
    """

    def __init__(
        self,
        app: App,
        *,
        limits: Limits,
        names: Iterable[str],
        by_address: bool,
        token: str | None,
        open_paths: tuple[str, ...],
        tool_paths: tuple[str, ...] = (),
        upload_paths: tuple[str, ...] = (),
        refused: Callable[[], None] = lambda: None,
    ) -> None:
        self._app, self._limits, self._refused = app, limits, refused
        self._names, self._by_address = {name.lower() for name in names}, by_address
        self.in_flight = 0  # bytes of bodies
        self._token = None if token is None else token.encode()
        self._open, self._tools, self._uploads = open_paths, tool_paths, upload_paths

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request, or let it through."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # there are no web sockets here
            await send({"type": "websocket.close", "code": 1008})
            return

        async def reply(message: Message) -> None:
            if message["type"] == "http.response.start":
                there = {name for name, _ in message["headers"]}
                message["headers"] = [
                    *((name, value) for name, value in message["headers"] if name != b"server"),
                    *(pair for pair in ALWAYS if pair[0] not in there),
                    *([] if b"cache-control" in there else [(b"cache-control", b"no-store")]),
                ]
            await send(message)

        try:
            self._check(scope)
        except ApiError as error:
            self._refused()
            await _refuse(error, reply)
            return
        body = _Body(receive, self._most(scope["path"]), self._limits, self)
        try:
            await self._app(scope, body, reply)
        finally:
            self.in_flight -= body.received

    def _check(self, scope: Message) -> None:
        headers = _Headers(scope["headers"])
        path, method = scope["path"], scope["method"]
        if headers.nbytes + len(scope["query_string"]) + len(scope["raw_path"]) > HEADER_BYTES:
            raise ApiError(431, "header", f"address and headers may have at most {HEADER_BYTES} bytes")
        host = headers.one(b"host")
        if _name(host) not in self._names and not (self._by_address and _is_address(_name(host))):
            raise ApiError(421, "host", "the Host header is none of this server's names: see --name")
        origin = headers.one(b"origin")
        if origin and origin not in (f"http://{host}", f"https://{host}"):
            raise ApiError(403, "origin", "requests from pages of other origins are refused")
        site = headers.one(b"sec-fetch-site")
        if site not in ("", "same-origin", "none") and not (path == "/" and method == "GET"):
            raise ApiError(403, "origin", "requests from pages of other origins are refused")
        tool = _among(path, self._tools)
        if tool and (origin or site):
            raise ApiError(403, "origin", "this address is for tools, not for pages")
        if method not in SAFE and not tool and headers.one(HEADER) != "1":
            raise ApiError(403, "header", "requests that change something need the header X-I2F: 1")
        if self._token is not None and not _among(path, self._open):
            self._check_token(headers, tool)
        length = headers.one(b"content-length")
        if length and (not length.isdecimal() or int(length[:20]) > self._most(path)):
            raise _too_large(self._most(path))

    def _check_token(self, headers: _Headers, tool: bool) -> None:
        scheme, _, value = headers.one(b"authorization").partition(" ")
        found = [value.strip().encode()] if scheme.lower() == "bearer" else []
        if tool:
            found.append(headers.one(b"token").encode())
            if scheme.lower() == "basic":
                try:
                    found.append(base64.b64decode(value, validate=True).partition(b":")[2])
                except (binascii.Error, ValueError):
                    found.append(b"")
        token = self._token or b""
        if not any(hmac.compare_digest(one, token) for one in found):
            raise ApiError(401, "token", "the token is missing or wrong", headers={"WWW-Authenticate": "Bearer"})

    def _most(self, path: str) -> int:
        return self._limits.upload if _among(path, self._uploads) else self._limits.body


class _Body:
    """`receive` of a request whose body is of bounded size and comes in time."""

    def __init__(self, receive: Receive, most: int, limits: Limits, guard: Guard) -> None:
        self._receive, self._most, self._limits, self._guard = receive, most, limits, guard
        self._begun = asyncio.get_running_loop().time()
        self._complete = False
        self.received = 0  # bytes

    async def __call__(self) -> Message:
        if self._complete:
            return await self._receive()  # waits until the client leaves
        try:
            message = await asyncio.wait_for(self._receive(), self._limits.idle_seconds)
        except asyncio.TimeoutError:
            raise _slow() from None
        size = len(message.get("body", b""))
        self.received += size
        self._guard.in_flight += size
        self._complete = not message.get("more_body", False)
        if self.received > self._most:
            raise _too_large(self._most)
        if self._guard.in_flight > self._limits.in_flight:
            raise busy("too much is being sent at once", 5)
        took = asyncio.get_running_loop().time() - self._begun
        if not self._complete and took > GRACE_SECONDS + self.received / self._limits.slowest:
            raise _slow()
        return message


def _slow() -> ApiError:
    return ApiError(408, "slow", "the body did not come in time", headers={"Connection": "close"})


def _too_large(most: int) -> ApiError:
    return ApiError(413, "too_large", f"the body may have at most {most} bytes", headers={"Connection": "close"})


class _Headers:
    """Headers of a request by name; one that comes twice is refused."""

    def __init__(self, raw: Iterable[tuple[bytes, bytes]]) -> None:
        self._raw = list(raw)

    @property
    def nbytes(self) -> int:
        return sum(len(name) + len(value) + HEADER_COST for name, value in self._raw)

    def one(self, name: bytes) -> str:
        found = [value for key, value in self._raw if key.lower() == name]
        if len(found) > 1:
            raise ApiError(400, "header", f"the header {name.decode()} came twice")
        return found[0].decode("latin-1") if found else ""


def _name(host: str) -> str:
    """The name in a Host header, without port."""
    if host.startswith("["):
        return host.partition("]")[0].lower() + "]"
    return host.partition(":")[0].lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def _among(path: str, paths: tuple[str, ...]) -> bool:
    return any(path.startswith(one) if one.endswith("/") and one != "/" else path == one for one in paths)


async def _refuse(error: ApiError, send: Send) -> None:
    body = json.dumps(error.body()).encode()
    headers = [(name.lower().encode(), value.encode()) for name, value in (error.headers or {}).items()]
    headers += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": error.status_code, "headers": headers})
    await send({"type": "http.response.body", "body": body})
