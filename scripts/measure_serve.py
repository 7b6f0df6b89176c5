"""What `i2f serve` costs and stands: clicks over HTTP beside the decode alone, sessions at once, hostile requests.

    python scripts/measure_serve.py click BUNDLE         # one click after the other, HTTP and runtime in turn
    python scripts/measure_serve.py sessions BUNDLE      # 8 sessions x 200 clicks at once; every mask is compared
    python scripts/measure_serve.py large BUNDLE         # a picture of 100 megapixels: tiles, a region
    python scripts/measure_serve.py hostile BUNDLE       # schemathesis, then 500 requests that must be refused

Each starts a server of its own and ends with 1 where something is not as it must be. Schemathesis must be installed.
"""

from __future__ import annotations

import argparse
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cv2
import httpx
import numpy as np

from inter2former_deploy.apps.bench.machine import describe
from inter2former_deploy.core.pictures import read_image
from inter2former_deploy.core.runs import Runs
from inter2former_deploy.core.threads import available_cpus
from inter2former_deploy.runtime import Segmenter

ROOT = Path(__file__).parent.parent
PHOTOGRAPH = ROOT / "exporters" / "photograph.jpg"


class Served:
    """A server in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], address: str, log: Path) -> None:
        self.process, self.address, self.log = process, address, log

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.address, headers={"X-I2F": "1"}, timeout=120)

    @property
    def memory(self) -> float:
        """Resident memory, MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+)", status)
        return int(found[1]) / 1024 if found else 0.0

    @property
    def seconds(self) -> float:
        """CPU time so far, of all threads."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def serving(bundle: Path, *options: str, command: Sequence[str] = ("serve",)) -> Iterator[Served]:
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        program = [sys.executable, "-m", "inter2former_deploy", *command, str(bundle), "--port", "0", *options]
        with log.open("w") as file:
            process = subprocess.Popen(program, stderr=file, text=True)
        try:
            while (found := re.search(r"http\S+", log.read_text())) is None:
                if process.poll() is not None:
                    sys.exit(log.read_text())
                time.sleep(0.05)
            yield Served(process, found[0].rstrip("/"), log)
        finally:
            process.terminate()
            process.wait(30)


def send(client: httpx.Client, content: bytes) -> str:
    answer = client.post("/v1/images", content=content, headers={"Content-Type": "image/jpeg"})
    answer.raise_for_status()
    key: str = answer.json()["id"]
    client.post(f"/v1/images/{key}/predict", json={"prompts": []}).raise_for_status()  # waits for the encoding
    return key


def random_click(random: np.random.Generator, width: int, height: int) -> dict[str, Any]:
    x, y = random.uniform(0, width), random.uniform(0, height)
    return {"click": [x, y], "positive": bool(random.integers(3))}


def told(what: str, values: list[float]) -> None:
    ms = sorted(1e3 * value for value in values)
    print(f"{what:<34} median {statistics.median(ms):7.1f} ms   p95 {ms[int(0.95 * len(ms))]:7.1f} ms")


def click(bundle: Path, clicks: int) -> bool:
    """One more click on an object, by the runtime and over HTTP, in turn, on the same machine, by one thread each.

    More threads would look for work for a while after a click, which is CPU time that nobody waits for.
    """
    image = read_image(PHOTOGRAPH)
    height, width = image.shape[:2]
    segmenter, random = Segmenter(bundle, num_threads=1), np.random.default_rng(0)
    alone: list[float] = []
    served: list[float] = []
    equal, here, there = True, 0.0, 0.0  # CPU seconds
    with serving(bundle, "--threads", "1") as server, server.client() as client:
        key = send(client, PHOTOGRAPH.read_bytes())
        began = server.seconds
        for _ in range(clicks // 10):
            session, prompts = segmenter.open(image), []
            for _ in range(10):
                prompts.append(random_click(random, width, height))
                (x, y), positive = prompts[-1]["click"], prompts[-1]["positive"]
                begun, used = time.perf_counter(), time.process_time()
                mask = session.click(x, y, positive)
                alone.append(time.perf_counter() - begun)
                here += time.process_time() - used
                begun = time.perf_counter()
                answer = client.post(f"/v1/images/{key}/predict", json={"prompts": prompts}).json()
                served.append(time.perf_counter() - begun)
                equal &= answer["mask"] == Runs.of(mask).to_json()
        there = server.seconds - began
    told("runtime alone", alone)
    told("over HTTP, mask as run lengths", served)
    told("HTTP more than the runtime", [one - other for one, other in zip(served, alone, strict=True)])
    print(f"CPU time a click: runtime {1e3 * here / len(alone):.1f} ms, server {1e3 * there / len(served):.1f} ms")
    print("all masks equal" if equal else "masks differ")
    return equal


def sessions(bundle: Path, count: int, clicks: int) -> bool:
    """Sessions at once; the masks are those of the runtime, computed before."""
    image = read_image(PHOTOGRAPH)
    height, width = image.shape[:2]
    segmenter = Segmenter(bundle)
    scripts: list[list[dict[str, Any]]] = []
    expected: list[list[int]] = []
    for number in range(count):
        random, session = np.random.default_rng(number), segmenter.open(image)
        scripts.append([random_click(random, width, height) for _ in range(clicks)])
        masks = (session.click(*prompt["click"], prompt["positive"]) for prompt in scripts[-1])
        expected.append([hash(Runs.of(mask).counts) for mask in masks])
    single: list[float] = []
    several: list[float] = []
    memory: list[float] = []
    with serving(bundle) as server:
        with server.client() as client:
            key = send(client, PHOTOGRAPH.read_bytes())

        def play(number: int, times: list[float]) -> int:
            wrong = 0
            with server.client() as client:
                made = client.post(f"/v1/images/{key}/sessions").json()["id"]
                for prompt, right in zip(scripts[number], expected[number], strict=True):
                    begun = time.perf_counter()
                    answer = client.post(f"/v1/sessions/{made}/prompts", json=prompt).json()
                    times.append(time.perf_counter() - begun)
                    wrong += hash(tuple(answer["mask"]["counts"])) != right
                client.delete(f"/v1/sessions/{made}").raise_for_status()
            return wrong

        wrong = play(0, single)
        for _ in range(2):  # the memory after the first time is what the second must not exceed
            with ThreadPoolExecutor(count) as threads:
                wrong += sum(threads.map(lambda number: play(number, several), range(count)))
            memory.append(server.memory)
    told("one session", single)
    told(f"{count} sessions at once, twice", several)
    p95 = sorted(several)[int(0.95 * len(several))]
    ratio = p95 / statistics.median(single)
    print(f"p95 of {count} at once over the median of one: {ratio:.1f}")
    print("memory after each time:", ", ".join(f"{one:.0f} MB" for one in memory))
    print(f"{wrong} of {len(single) + len(several)} masks differ")
    return wrong == 0 and ratio <= 10 and memory[-1] <= 1.05 * memory[0]


def large(bundle: Path, side: int) -> bool:
    """A picture of side x side pixels in the page: its tiles, and a click in a region of the model's size."""
    with tempfile.TemporaryDirectory() as folder:
        rough = np.random.default_rng(0).integers(0, 256, (side // 50, side // 50, 3), np.uint8)
        image = cv2.resize(rough, (side, side), interpolation=cv2.INTER_LINEAR)
        cv2.imwrite(f"{folder}/large.jpg", image[..., ::-1])
        with (
            serving(bundle, command=("annotate", folder, "--no-browser", "--bundle")) as server,
            server.client() as client,
        ):
            before = server.memory
            (picture,) = client.get("/v1/pictures").json()["pictures"]
            address = f"/v1/pictures/{picture['id']}"
            told_of = client.get(address).json()
            begun = time.perf_counter()
            client.get(f"{address}/tiles/0/0/0").raise_for_status()
            print(f"{side} x {side} pixels, first tile: {time.perf_counter() - begun:.1f} s")
            times: list[float] = []
            for place in range(40):
                level = place % len(told_of["levels"])
                begun = time.perf_counter()
                client.get(f"{address}/tiles/{level}/0/0").raise_for_status()
                times.append(time.perf_counter() - begun)
            told("a tile", times)
            size, clicks = told_of["region_size"], []
            prompts: list[dict[str, Any]] = []
            corner = side // 2
            region = [corner, corner, corner + size, corner + size]
            client.post(f"{address}/predict", json={"prompts": [], "region": region}).raise_for_status()
            random = np.random.default_rng(1)
            for _ in range(20):
                prompts.append(random_click(random, size, size))
                prompts[-1]["click"] = [at + corner for at in prompts[-1]["click"]]
                begun = time.perf_counter()
                client.post(f"{address}/predict", json={"prompts": prompts, "region": region}).raise_for_status()
                clicks.append(time.perf_counter() - begun)
            told("a click in a region", clicks)
            pixels = side**2 * 3 / 1e6
            print(f"memory: {before:.0f} MB before, {server.memory:.0f} MB after; the pixels are {pixels:.0f} MB")
    return True


def hostile(bundle: Path, requests: int) -> bool:
    """Schemathesis, then a list of what must be refused."""
    with tempfile.TemporaryDirectory() as allowed, serving(bundle, "--folder", allowed) as server:
        with server.client() as client:
            key = send(client, PHOTOGRAPH.read_bytes())
            session = client.post(f"/v1/images/{key}/sessions").json()["id"]
        config = Path(allowed, "schemathesis.toml")
        config.write_text(f'[parameters]\n"path.image" = "{key}"\n"path.session" = "{session}"\n')
        command = [str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(config), "run"]
        command += [f"{server.address}/openapi.json", "-H", "X-I2F: 1", "--max-examples", "20", "--seed", "1"]
        # A schema cannot say which bytes are a picture, nor that a click lies in it.
        command += ["--exclude-checks", "positive_data_acceptance"]
        ran = subprocess.run(command, capture_output=True, text=True)
        print(ran.stdout if ran.returncode else "\n".join(ran.stdout.splitlines()[-12:]))
        before, found = server.memory, Counter[int]()
        wrong = []
        with server.client() as client:
            makers = list(_hostile(client, key, server.address))
            for number in range(requests):
                name, make = makers[number % len(makers)]
                status = make(np.random.default_rng(number))
                found[status] += 1
                if not 400 <= status < 500:
                    wrong.append(f"{name}: {status}")
            late = slow(server.address)
            alive = client.get("/v1/health").status_code == 200
            failures = re.search(r"i2f_failures_total (\d+)", client.get("/metrics").text)
        log, after = server.log.read_text(), server.memory
        print(f"{requests} hostile requests:", ", ".join(f"{n} x {status}" for status, n in sorted(found.items())))
        print(f"memory before and after: {before:.0f} and {after:.0f} MB; tracebacks: {log.count('Traceback')}")
        print("not refused:", ", ".join(wrong) or "none")
        quiet = "Traceback" not in log and failures is not None and failures[1] == "0"
        print(f"{len(late)} slow bodies: {sorted(set(late))}")
        return (
            ran.returncode == 0 and late == [408] * 20 and alive and quiet and not wrong and after <= 1.1 * before + 50
        )


def _hostile(
    client: httpx.Client, key: str, address: str
) -> Iterator[tuple[str, Callable[[np.random.Generator], int]]]:
    """Requests by name; each gives the status that it was answered with."""
    predict = f"/v1/images/{key}/predict"
    photo = PHOTOGRAPH.read_bytes()

    def post(path: str, kind: str = "application/json", **more: Any) -> int:
        headers = {"Content-Type": kind, **more.pop("headers", {})}
        try:
            return client.post(path, headers=headers, **more).status_code
        except httpx.TransportError:  # the server has closed while the body was still being sent
            return 413

    def of(*choices: Any) -> Callable[[np.random.Generator], Any]:
        return lambda random: choices[int(random.integers(len(choices)))]

    paths = of("../../etc/passwd", "/etc/passwd", "a/../../b", "\0", "..\\x", "%2e%2e/etc/passwd", "~/.ssh/id", "C:\\x")
    yield "path of a file", lambda r: post("/v1/images", json={"path": paths(r)})
    urls = of(
        "/static/../../x.toml", "/v1/images/../../x", "/%2e%2e/%2e%2e/etc/passwd", "/v1/images/%00", "//etc/passwd"
    )
    yield "address", lambda r: client.get(urls(r)).status_code
    hosts = of("evil.example", "localhost.evil.example", "[::2]", "127.0.0.1@evil.example", "")
    yield "host", lambda r: client.get("/v1/model", headers={"Host": hosts(r)}).status_code
    origins = of("null", "http://evil.example", "https://127.0.0.1", address + "0", "file://")
    yield "origin", lambda r: post(predict, json={"prompts": []}, headers={"Origin": origins(r)})
    yield "no header", lambda r: post(predict, json={"prompts": []}, headers={"X-I2F": ""})
    kinds = of("text/plain", "application/x-www-form-urlencoded", "application/xml", "image", "application/x-pickle")
    yield "type", lambda r: post("/v1/images", kinds(r), content=photo)
    end = len(photo) - 100
    yield "picture cut off", lambda r: post("/v1/images", "image/jpeg", content=photo[: int(r.integers(1, end))])
    yield "noise", lambda r: post("/v1/images", "image/png", content=r.bytes(5000))
    yield "bomb", lambda r: post("/v1/images", "image/png", content=_bomb(int(r.integers(20_000, 65_000))))
    yield "deep JSON", lambda r: post(predict, content=b'{"prompts":' + b"[" * int(r.integers(1_000, 900_000)))
    one = {"click": [1, 1], "positive": True}
    yield "many prompts", lambda r: post(predict, json={"prompts": [one] * int(r.integers(10_001, 20_000))})
    number = b'{"prompts":[{"click":[%s,1],"positive":true}]}'
    yield "large numbers", lambda r: post(predict, content=number % (b"9" * int(r.integers(20, 9000))))

    def runs(random: np.random.Generator) -> dict[str, Any]:
        counts = random.integers(-5, 1 << 40, int(random.integers(1, 50_000))).tolist()
        return {"prompts": [{"mask": {"size": [400, 600], "counts": counts}}]}

    yield "runs", lambda r: post(predict, json=runs(r))
    regions = of([0, 0, 0, 0], [-1, 0, 5, 5], [0, 0, 601, 400], [5, 5, 4, 4], [0.5, 0, 3, 3], "x", [1 << 40] * 4)
    yield "region", lambda r: post(predict, json={"prompts": [], "region": regions(r)})
    yield "large body", lambda r: post(predict, content=b" " * (17 << 20))
    raws = of(
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nA: " + b"x" * 60_000 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-I2F: 1\r\nContent-Length: 99999999999\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"\x16\x03\x01 no HTTP\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"".join(b"H%d: x\r\n" % n for n in range(3000)) + b"\r\n",
    )
    yield "raw", lambda r: _raw(address, raws(r))
    ids = of("x" * 5000, "0" * 32, "../x", "%00", "é")
    yield "id", lambda r: client.get(f"/v1/images/{ids(r)}").status_code


def _bomb(side: int) -> bytes:
    """A PNG of a few bytes that says it has side x side pixels."""
    data = bytearray(cv2.imencode(".png", np.zeros((1, 1, 3), np.uint8))[1].tobytes())
    data[16:24] = side.to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


def _raw(address: str, data: bytes) -> int:
    parts = urlsplit(address)
    with socket.create_connection((parts.hostname, parts.port), 30) as connection:
        connection.sendall(data)
        answer = connection.recv(4096)
    return int(answer[9:12] or 0)


def slow(address: str) -> list[int]:
    """Statuses of 20 bodies at once that do not come."""
    head = b"POST /v1/images HTTP/1.1\r\nHost: 127.0.0.1\r\nX-I2F: 1\r\nContent-Type: image/png\r\n"
    with ThreadPoolExecutor(20) as threads:
        return list(threads.map(lambda _: _raw(address, head + b"Content-Length: 900\r\n\r\nx"), range(20)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("click", "sessions", "large", "hostile"))
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--clicks", type=int, default=200)
    parser.add_argument("--sessions", type=int, default=8)
    parser.add_argument("--requests", type=int, default=500)
    options = parser.parse_args()
    print(describe(available_cpus()))
    if options.what == "click":
        well = click(options.bundle, options.clicks)
    elif options.what == "sessions":
        well = sessions(options.bundle, options.sessions, options.clicks)
    elif options.what == "large":
        well = large(options.bundle, 10_000)
    else:
        well = hostile(options.bundle, options.requests)
    sys.exit(not well)
