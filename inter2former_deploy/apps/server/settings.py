"""What a server is told at its start: where it answers, whom, and how much of everything it takes."""

from __future__ import annotations

import ipaddress
import re
import ssl
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
SHORTEST_TOKEN = 16


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much one request, one client and all together may take. What is beyond is refused, with a 4xx or 503."""

    upload: int = 256 * MIB  # bytes of a picture's file
    body: int = 16 * MIB  # bytes of any other body: start masks are the largest
    pixels: int = 1 << 28  # of a picture, known before it is decoded
    prompts: int = 10_000  # of one object; corners of lines count
    images: int = 1 << 30  # bytes of uploaded files that are kept; the oldest go
    decoded: int = 3 << 29  # bytes of pictures' pixels that are kept for tiles and regions
    encodings: int = 2 << 30  # bytes of encodings that are kept
    sessions: int = 256  # with an id of their own
    session_seconds: float = 1800  # after the last use of one
    kept_bytes: int = 1 << 30  # for what was predicted last, so that one more prompt is one decode
    queue: int = 32  # encodings that wait
    streams: int = 64  # clients that listen to events
    in_flight: int = 1 << 29  # bytes of all bodies that are on their way
    connections: int = 256
    idle_seconds: float = 15  # between two pieces of a body
    slowest: int = 50_000  # bytes a second that a body must come at, after the first 30 seconds


def is_loopback(host: str) -> bool:
    """Whether an address reaches nobody but this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_certificate(certificate: Path, key: Path) -> None:
    """Refuse what TLS cannot be spoken with, before a model is loaded.

    Args:
        certificate: PEM file with the server's certificate, and those between it and one that clients trust.
        key: PEM file of its private key.

    Raises:
        ValueError: there is no certificate or key in these files, the key is another's, or it is encrypted.
    """

    def password() -> str:
        raise ValueError(
            f"--key {key}: the key is encrypted, and nobody is there to be asked; decrypt it first: "
            "openssl pkey -in KEY -out PLAIN_KEY"
        )

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ValueError(f"--key {key} is not the key of the first certificate in {certificate}") from error
        raise ValueError(
            f"--certificate {certificate} and --key {key}: expected a certificate and its private key, both in PEM"
        ) from error


def read_token(path: Path) -> str:
    """The token in a file: one line.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no token, or one that can be guessed.
    """
    token = path.read_text(encoding="ascii", errors="replace").strip()
    if len(token) < SHORTEST_TOKEN or not token.isprintable() or not token.isascii() or " " in token:
        raise ValueError(
            f"--token-file {path} must hold one word of at least {SHORTEST_TOKEN} letters and digits: "
            "make one with python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )
    return token


@dataclass(frozen=True)
class LabelStudio:
    """The one Label Studio whose pictures are fetched."""

    address: str  # http or https, with the path below which it answers, if any
    token: str  # of a user: personal access token, or one of the older kind

    def __post_init__(self) -> None:
        if not re.fullmatch(r"https?://[^/?#@\s]+(/[^?#\s]*)?", self.address):
            raise ValueError(f"the address of Label Studio must be like http://127.0.0.1:8080, got {self.address!r}")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All that a server is told."""

    bundle: Path
    decoder: str | None = None
    threads: int | None = None  # as many as usable CPUs
    custom_ops: bool = True
    host: str = "127.0.0.1"
    port: int = 8000
    names: tuple[str, ...] = ()  # further names by which clients may call the host
    token: str | None = None  # that every request must carry
    folders: tuple[Path, ...] = ()  # below which `POST /v1/images` may name files
    cache: Path | None = None  # folder of encodings, to be kept when the server ends
    pictures: Path | None = None  # folder that is annotated; a server without the page's routes where None
    database: str | None = None  # URL; SQLite beside the pictures where None
    label_studio: LabelStudio | None = None  # whose pictures are fetched; of none where None
    limits: Limits = Limits()

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches the server."""
        return is_loopback(self.host)
