"""Who may ask what: hosts, origins, tokens, sizes, paths, slow and broken requests. Nothing is told of files."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import ssl
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from apps.server.conftest import MakeClient, running
from served import png, scene, send

from inter2former_deploy.apps.server.settings import check_certificate

TOKEN = "a-token-that-is-long-enough"


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Host": "evil.example"}, (421, "host")),
        ({"Host": "127.0.0.1.evil.example"}, (421, "host")),
        ({"Host": "127.0.0.2"}, (421, "host")),  # addresses that are not its own, as far as only this machine may come
        ({"Origin": "http://evil.example"}, (403, "origin")),
        ({"Origin": "null"}, (403, "origin")),
        ({"Origin": "http://localhost:1"}, (403, "origin")),  # another port is another origin
        ({"Sec-Fetch-Site": "cross-site"}, (403, "origin")),
        ({"Sec-Fetch-Site": "same-site"}, (403, "origin")),
        ({"X-I2F": "0"}, (403, "header")),
    ],
)
def test_other_pages_and_names_are_refused(client: httpx.Client, headers: dict[str, str], expected: tuple[int, str]):
    assert code(client.post("/v1/images/x/predict", json={"prompts": []}, headers=headers)) == expected


def test_pages_of_others_read_nothing(client: httpx.Client):
    assert code(client.get("/v1/model", headers={"Origin": "http://evil.example"})) == (403, "origin")
    answer = client.get("/v1/model", headers={"Origin": str(client.base_url).rstrip("/")})
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert "unsafe" not in answer.headers["content-security-policy"]
    preflight = client.options("/v1/images", headers={"Origin": "http://evil.example"})
    assert preflight.status_code == 403


def test_a_token_is_needed_everywhere_but_for_the_page(make_client: MakeClient, tmp_path: Path):
    client = make_client(token=TOKEN, pictures=tmp_path)
    for path in ("/v1/model", "/metrics", "/openapi.json", "/v1/pictures", "/v1/events", "/nothing", "/v1/health/x"):
        assert code(client.get(path)) == (401, "token")
        for wrong in ("x", TOKEN[:-1], TOKEN + "x", TOKEN.upper()):
            assert code(client.get(path, headers={"Authorization": f"Bearer {wrong}"})) == (401, "token")
        assert code(client.get(path, headers={"Token": TOKEN})) == (401, "token")
    assert client.get("/v1/model", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
    basic = base64.b64encode(f"user:{TOKEN}".encode()).decode()
    assert client.get("/v1/model", headers={"Authorization": f"Basic {basic}"}).status_code == 401
    assert client.get("/v1/health").status_code == 200
    assert client.get("/static/..%2f..%2fpyproject.toml").status_code in (401, 404)


def test_files_outside_are_not_read(make_client: MakeClient, tmp_path: Path):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    picture = png(scene())
    (inside / "deep").mkdir()
    (inside / "deep" / "a.png").write_bytes(picture)
    (outside / "b.png").write_bytes(png(scene(seed=1)))
    (inside / "link.png").symlink_to(outside / "b.png")
    (inside / "folder").symlink_to(outside)
    (inside / "loop.png").symlink_to("loop.png")
    client = make_client(folders=(inside,))
    assert client.post("/v1/images", json={"path": "deep/a.png"}).status_code == 201
    refused: set[str] = set()
    for path in (
        *("../outside/b.png", "deep/../../outside/b.png", "link.png", "folder/b.png", "loop.png", "deep", "."),
        *(str(outside / "b.png"), str(inside / "deep" / "a.png"), "nothing.png", "deep/a.png/x", "a\0b", "x" * 900),
        *("..\\outside\\b.png", "%2e%2e/outside/b.png", "//etc/passwd", "file:///etc/passwd", "http://127.0.0.1/a.png"),
    ):
        answer = client.post("/v1/images", json={"path": path})
        assert code(answer) == (404, "not_found"), path
        refused.add(answer.text)
    assert len(refused) == 1  # nothing is told about what lies elsewhere
    assert str(tmp_path) not in refused.pop()
    assert make_client().post("/v1/images", json={"path": "deep/a.png"}).status_code == 404


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"", "image/png", 422),
        (b"no picture", "image/png", 422),
        (png(scene())[:200], "image/png", 422),
        (png(scene(300, 300)), "image/png", 422),  # too many pixels
        (b"x" * 300_000, "image/png", 413),
        (png(scene()), "text/plain", 415),
        (png(scene()), "application/x-www-form-urlencoded", 415),
        (b"{", "application/json", 400),
        (b'{"path": 1}', "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b"", "multipart/form-data; boundary=x", 400),
        (b"--x\r\n", "multipart/form-data", 400),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml", 422),
        (b"cos\nsystem\n(S'true'\ntR.", "application/octet-stream", 422),
    ],
)
def test_what_is_no_picture_is_refused(make_client: MakeClient, content: bytes, kind: str, status: int):
    client = make_client({"upload": 250_000, "pixels": 50_000})
    answer = client.post("/v1/images", content=content, headers={"Content-Type": kind})
    assert answer.status_code == status, answer.text
    assert set(answer.json()["error"]) == {"code", "message"}
    assert "/" not in answer.json()["error"]["message"].replace("image/*", "")


CLICK = {"click": [5, 5], "positive": True}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"prompts": None},
        {"prompts": [[]]},
        {"prompts": [{}]},
        {"prompts": [{"click": [1, 2]}]},
        {"prompts": [CLICK | {"more": 1}]},
        {"prompts": [CLICK | {"box": [0, 0, 1, 1]}]},
        {"prompts": [{"click": [1, 2, 3], "positive": True}]},
        {"prompts": [{"click": ["1", 2], "positive": True}]},
        {"prompts": [{"click": [1, 2], "positive": 1}]},
        {"prompts": [{"click": [1e300, 2], "positive": True}]},
        {"prompts": [{"click": [-1, 2], "positive": True}]},
        {"prompts": [{"click": [80, 2], "positive": True}]},
        {"prompts": [{"box": [5, 5, 5, 9]}]},
        {"prompts": [{"box": [5, 5, 50, 90]}]},
        {"prompts": [{"stroke": [], "positive": True}]},
        {"prompts": [{"stroke": [[1, 1]] * 101, "positive": True}]},
        {"prompts": [CLICK] * 101},
        {"prompts": [{"mask": {"size": [60, 80], "counts": []}}]},
        {"prompts": [{"mask": {"size": [60, 80], "counts": [4800]}}]},
        {"prompts": [{"mask": {"size": [80, 60], "counts": [0, 4800]}}]},
        {"prompts": [{"mask": {"size": [60, 80], "counts": [0, 4801]}}]},
        {"prompts": [{"mask": {"size": [60, 80], "counts": [-1, 4801]}}]},
        {"prompts": [{"mask": {"size": [1 << 40, 80], "counts": [1]}}]},
        {"prompts": [{"paint": [[1, 1]], "radius": 0, "erase": False}]},
        {"prompts": [{"paint": [[1, 1]], "radius": 1e9, "erase": False}]},
        {"prompts": [CLICK], "region": [0, 0, 0, 10]},
        {"prompts": [CLICK], "region": [0, 0, 81, 10]},
        {"prompts": [CLICK], "region": [10, 10, 20, 20]},
        {"prompts": [CLICK], "region": [0, 0, 10]},
        {"prompts": [CLICK], "answer": "exe"},
    ],
)
def test_prompts_that_cannot_be_are_refused(limited: httpx.Client, body: dict[str, Any]):
    key = limited.headers["X-Image"]
    answer = limited.post(f"/v1/images/{key}/predict", json=body)
    assert code(answer) == (400, "bad_request"), answer.text
    assert len(answer.text) < 500


@pytest.mark.parametrize(
    "text", ['{"prompts": [{"click": [NaN, 1], "positive": true}]}', "[" * 50_000, "", "\xff", "1e"]
)
def test_json_that_is_none_is_refused(limited: httpx.Client, text: str):
    key = limited.headers["X-Image"]
    headers = {"Content-Type": "application/json"}
    answer = limited.post(f"/v1/images/{key}/predict", content=text.encode("latin-1"), headers=headers)
    assert answer.status_code == 400
    form = limited.post(f"/v1/images/{key}/predict", content=b'{"prompts": []}', headers={"Content-Type": "text/plain"})
    assert form.status_code == 400


@pytest.fixture(scope="module")
def limited(bundle: Path) -> Any:
    """A client that has sent a picture, whose id is in its header X-Image."""
    from apps.server.conftest import serving

    with serving(bundle, {"prompts": 100}) as client:
        client.headers["X-Image"] = send(client, scene())
        yield client


def test_sessions_are_bounded_and_end(make_client: MakeClient):
    client = make_client({"sessions": 2, "session_seconds": 1.0})
    key = send(client, scene())
    first = client.post(f"/v1/images/{key}/sessions").json()["id"]
    second = client.post(f"/v1/images/{key}/sessions").json()["id"]
    full = client.post(f"/v1/images/{key}/sessions")
    assert code(full) == (503, "busy")
    assert int(full.headers["Retry-After"]) >= 1
    assert client.delete(f"/v1/sessions/{second}").status_code == 204
    assert client.post(f"/v1/images/{key}/sessions").status_code == 201
    time.sleep(1.2)
    assert client.get(f"/v1/sessions/{first}").status_code == 404


def raw(client: httpx.Client, data: bytes, seconds: float = 30) -> bytes:
    """What comes back for bytes as they are, until the server closes; it must not keep the connection."""
    with socket.create_connection((client.base_url.host, client.base_url.port or 0), seconds) as connection:
        answer = b""
        try:
            connection.sendall(data)
            while piece := connection.recv(65536):
                answer += piece
        except ConnectionResetError:
            pass
        return answer


HOST = b"Host: 127.0.0.1\r\nX-I2F: 1\r\nConnection: close\r\n"


def test_requests_that_are_no_http_are_refused(make_client: MakeClient):
    client = make_client({"idle_seconds": 0.5, "body": 10_000})
    post = b"POST /v1/images/x/predict HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"
    for request, status in (
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 100, b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),  # no host
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n" + HOST + b"A: " + b"x" * 20_000 + b"\r\n\r\n", b"431"),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", b"431"),
        (b"GET / HTTP/1.1\r\n" + HOST + b"".join(b"H%d: x\r\n" % n for n in range(1000)) + b"\r\n", b"431"),
        (b"GET / HTTP/1.1\r\n" + HOST + b"A: " + b"x" * 2_000_000, b"400"),
        (post + b"Content-Length: -5\r\n\r\n", b"400"),
        (post + b"Content-Length: 99999999999999999999999\r\n\r\n", b"400"),
        (post + b"Content-Length: 10001\r\n\r\n", b"413"),
        (post + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n", b"400"),
        (post + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"400"),
        (post + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", b"400"),
        (
            post
            + b"Transfer-Encoding: chunked\r\n\r\n"
            + b"1000\r\n"
            + b" " * 4096
            + b"\r\n"
            + b"2000\r\n"
            + b" " * 8192,
            b"413",
        ),
        (post + b"Content-Length: 50\r\n\r\n{", b"408"),  # the rest never comes
    ):
        answer = raw(client, request)
        assert answer[9:12] == status, (request[:80], answer[:200])
        assert b"Traceback" not in answer
    assert client.get("/v1/health").status_code == 200


def test_connections_without_requests_are_closed(make_client: MakeClient, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("inter2former_deploy.apps.server.run.HEADER_SECONDS", 0.3)
    client = make_client()
    assert raw(client, b"") == b""
    assert raw(client, b"GET / HTTP/1.1\r\nHost: 127") == b""


def test_a_failure_tells_nothing(make_client: MakeClient, monkeypatch: pytest.MonkeyPatch):
    client = make_client()
    key = send(client, scene())

    def fail(*_: object) -> None:
        raise RuntimeError("/secret/path")

    monkeypatch.setattr("inter2former_deploy.apps.server.pool.Work.predict", fail)
    answer = client.post(f"/v1/images/{key}/predict", json={"prompts": [CLICK]})
    assert code(answer) == (500, "internal")
    assert "secret" not in answer.text
    assert "i2f_failures_total 1" in client.get("/metrics").text
    assert json.loads(answer.text)["error"]["message"] == "the server failed at this request"


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority of one's own, `ca.pem`, and what it issued: `server.pem` and `server.key`, for localhost."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificates")
    folder = tmp_path_factory.mktemp("tls")
    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl(folder, "req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=own")
    openssl(folder, "req", *new, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost")
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names")
    openssl(folder, "x509", "-req", "-in", "server.csr", *signed, "-out", "server.pem")
    openssl(folder, "pkey", "-in", "server.key", "-aes128", "-passout", "pass:word", "-out", "encrypted.key")
    return folder


def test_tls_with_an_authority_of_one_s_own(bundle: Path, authority: Path):
    """Who trusts the authority is answered; others, and those without TLS, are not."""
    tls = {"certificate": authority / "server.pem", "key": authority / "server.key"}
    with running(bundle, tls=tls) as server:
        assert server.address.startswith("https://")
        trusted = ssl.create_default_context(cafile=authority / "ca.pem")
        assert httpx.get(f"{server.address}v1/health", verify=trusted).status_code == 200
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(f"{server.address}v1/health")
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.get(f"{server.address}v1/health".replace("https", "http"))


@pytest.mark.parametrize(
    ("certificate", "key", "message"),
    [
        ("server.pem", "ca.key", "ca.key is not the key of the first certificate in .*server.pem"),
        ("server.pem", "names", "expected a certificate and its private key, both in PEM"),
        ("server.key", "server.key", "expected a certificate and its private key, both in PEM"),
        ("server.pem", "encrypted.key", "the key is encrypted"),
    ],
)
def test_files_that_are_no_certificate_and_key_are_named(authority: Path, certificate: str, key: str, message: str):
    with pytest.raises(ValueError, match=message):
        check_certificate(authority / certificate, authority / key)
