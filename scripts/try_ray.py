"""Many pictures and many annotators with Ray on this machine, and what must be so. Outside CI: it takes minutes.

    python scripts/try_ray.py encode BUNDLE   # 2000 pictures: one process, 2 workers, 2 of which one is killed
    python scripts/try_ray.py eval BUNDLE     # scores of 96 samples: one process, 2 workers, 2 of which one is killed
    python scripts/try_ray.py store BUNDLE    # pictures, lists and results in an object store (moto's server)
    python scripts/try_ray.py serve BUNDLE    # 32 annotators, 2 and 4 replicas, of which one is killed
    python scripts/try_ray.py scale BUNDLE    # 32 annotators, one replica, which becomes two

Needs the extra "ray", for `store` moto[server]. A bundle of a small size keeps it short: i2f export -o BUNDLE --size
128. Each ends with 1 where something is not as it must be.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

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
I2F = [sys.executable, "-m", "inter2former_deploy"]


def write_pictures(folder: Path, count: int, height: int = 200, width: int = 300) -> None:
    """Windows of the photograph, each another one."""
    folder.mkdir()
    image, random = read_image(PHOTOGRAPH)[..., ::-1], np.random.default_rng(0)
    for number in range(count):
        top, left = (int(random.integers(most)) for most in (image.shape[0] - height, image.shape[1] - width))
        window = image[top : top + height, left : left + width].copy()
        window[0, 0] = number % 256, number // 256, 0
        cv2.imwrite(str(folder / f"{number:05d}.png"), window)


def workers_of(parent: int, what: str) -> list[int]:
    """Processes of Ray below one whose command line says what they are."""
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            above = int(process.name)
            while above > 1 and above != parent:
                above = int(Path(f"/proc/{above}/stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):  # it has ended meanwhile
            continue
        if what in line and above == parent:
            found.append(int(process.name))
    return sorted(found)


class Run:
    """A command of i2f, with the time at which each line of progress came."""

    def __init__(self, arguments: Sequence[object], at: int = 0, then: Callable[[int], None] = lambda _: None) -> None:
        begun = time.perf_counter()
        process = subprocess.Popen(
            [*I2F, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.times: list[float] = []
        self.lines: list[str] = []
        assert process.stderr is not None
        assert process.stdout is not None
        for line in process.stderr:
            self.lines.append(line.rstrip())
            if re.match(r"\d+/\d+ ", line):
                self.times.append(time.perf_counter() - begun)
                if len(self.times) == at:
                    then(process.pid)
        self.out = process.stdout.read()
        self.code = process.wait()
        self.seconds = time.perf_counter() - begun

    @property
    def rate(self) -> float:
        """Pictures a second between a tenth and the whole of them, without start and end."""
        first = len(self.times) // 10
        return (len(self.times) - first) / (self.times[-1] - self.times[first])


def same_files(one: Path, other: Path) -> bool:
    """Whether two folders hold the same files with the same content."""
    names = sorted(path.name for path in one.iterdir())
    return names == sorted(path.name for path in other.iterdir()) and all(
        (one / name).read_bytes() == (other / name).read_bytes() for name in names
    )


def encode(bundle: Path, count: int) -> bool:
    killed: list[int] = []

    def kill_one(process: int) -> None:
        workers = workers_of(process, "ray::MapWorker") or workers_of(process, "ray::")
        os.kill(workers[0], signal.SIGKILL)
        killed.append(workers[0])

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_pictures(folder / "pictures", count)
        common = ["encode", folder / "pictures", "--bundle", bundle, "-o"]
        one = Run([*common, folder / "one", "--threads", 2])
        print(f"one process of 2 threads: {one.rate:.1f} pictures/s, {one.seconds:.1f} s in all")
        two = Run([*common, folder / "two", "--ray", "--workers", 2])
        print(f"2 workers of 1 thread:    {two.rate:.1f} pictures/s, {two.seconds:.1f} s in all with the start of Ray")
        print(f"rate of the workers over that of the process: {two.rate / one.rate:.2f}")
        part = count // 4
        for path in sorted((folder / "pictures").iterdir())[part:]:
            path.unlink()
        lost = Run([*common, folder / "lost", "--ray", "--workers", 2], part // 3, kill_one)
        names = Counter(line.split()[1] for line in lost.lines if re.match(r"\d+/\d+ ", line))
        made = sum("encoded in" in line for line in lost.lines)
        found = sum("is there already" in line for line in lost.lines)
        print(
            f"one of 2 workers killed (process {killed[0]}) after {part // 3} of {part} pictures, {lost.seconds:.1f} s:"
        )
        print(f"  {len(names)} pictures, each told of {max(names.values())} time; {made} encoded, {found} of the lost")
        print(f"  piece were there already and not done again; {lost.out.splitlines()[0]}")
        whole = {path.name: path.read_bytes() for path in (folder / "one").iterdir()}
        same = same_files(folder / "one", folder / "two")
        kept = {path.name: path.read_bytes() for path in (folder / "lost").iterdir()}
        print(f"files: {len(whole)} of the process, {'the same' if same else 'OTHERS'} of the workers")
        well = kept.items() <= whole.items() and len(kept) == len(names) == part and max(names.values()) == 1
        print(f"after the kill: {len(kept)} files, {'all the same' if well else 'NOT as they must be'}")
        return same and well and one.code == two.code == lost.code == 0


def write_data_set(folder: Path, count: int) -> None:
    """Windows of the photograph, and as masks a rectangle in each."""
    folder.mkdir()
    write_pictures(folder / "images", count)
    (folder / "masks").mkdir()
    random = np.random.default_rng(1)
    for path in (folder / "images").iterdir():
        mask = np.zeros((200, 300), np.uint8)
        top, left = (int(random.integers(most)) for most in (100, 150))
        mask[top : top + int(random.integers(30, 100)), left : left + int(random.integers(30, 150))] = 255
        cv2.imwrite(str(folder / "masks" / path.name), mask)


def sessions(report: bytes) -> list[tuple[object, ...]]:
    """What an evaluation's report says of each sample, but for times."""
    (scored,) = (value for name, value in json.loads(report).items() if name != "dataset")
    return [(result["name"], result["clicks"], result["ious"]) for result in scored["results"]]


def evaluate(bundle: Path, count: int) -> bool:
    lost: list[int] = []

    def kill_one(process: int) -> None:
        lost.append((workers_of(process, "ray::MapWorker") or workers_of(process, "ray::"))[0])
        os.kill(lost[0], signal.SIGKILL)

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_data_set(folder / "data", count)
        common = ["eval", folder / "data", "--bundle", bundle, "--clicks", 5, "-o"]
        ways: tuple[tuple[str, tuple[object, ...]], ...] = (
            ("one process", ()),
            ("2 workers", ("--ray", "--workers", 2)),
            ("2 workers, one killed", ("--ray", "--workers", 2)),
        )
        right, well = None, True
        for name, options in ways:
            run = Run([*common, folder / name, *options], 1 if "killed" in name else 0, kill_one)
            if run.code != 0:
                print(f"{name}: ended with {run.code}", *run.lines[-5:], sep="\n  ")
                return False
            scored = sessions((folder / name / "eval.json").read_bytes())
            right = right or scored
            same = scored == right and len(scored) == count
            told = "the same scores" if same else "OTHER scores"
            print(f"{name}: {len(scored)} samples in {run.seconds:.1f} s, {told}", flush=True)
            well &= same and not (folder / name / "unfinished").exists()
        print(f"killed: process {lost[0]}")
        return well and len(lost) == 1


def store(bundle: Path, count: int) -> bool:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    os.environ |= {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    server = subprocess.Popen(
        [str(Path(sys.executable).with_name("moto_server")), "-p", str(port)], stderr=subprocess.DEVNULL
    )
    try:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            write_pictures(folder / "pictures", count)
            prompts = [{"click": [150, 100], "positive": True}, {"box": [20, 30, 250, 180]}]
            rows = [{"image": f"{number:05d}.png", "prompts": prompts} for number in range(count)]
            (folder / "pictures" / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            import fsspec

            system = fsspec.filesystem("s3")
            while True:
                try:
                    system.mkdir("bucket")
                    break
                except Exception:  # it has not begun to answer
                    time.sleep(0.2)
            for path in (folder / "pictures").iterdir():
                system.pipe_file(f"bucket/pictures/{path.name}", path.read_bytes())
            system.pipe_file("bucket/pictures/broken.png", b"no picture")
            write_data_set(folder / "data", count)
            system.put(str(folder / "data"), "bucket/data", recursive=True)
            scores = Run(["eval", folder / "data", "--bundle", bundle, "--clicks", 3, "-o", folder / "scores"])
            local = Run(["encode", folder / "pictures", "--bundle", bundle, "-o", folder / "encoded"])
            listed = Run(
                ["segment-batch", bundle, folder / "pictures/list.jsonl", "-o", folder / "masks", "--part", 16]
            )
            well = local.code == listed.code == scores.code == 0
            for ray in ((), ("--ray", "--workers", "2")):
                place = f"s3://bucket/{'ray' if ray else 'alone'}"
                common = ["encode", "s3://bucket/pictures/", "--bundle", bundle, "-o", f"{place}/encoded", *ray]
                first, second = Run(common), Run(common)
                masks = ["segment-batch", bundle, "s3://bucket/pictures/list.jsonl", "--part", 16, *ray]
                segmented = Run([*masks, "-o", f"{place}/masks"])
                for name in ("encoded", "masks"):
                    system.invalidate_cache()
                    there = {
                        Path(path).name: system.cat_file(path)
                        for path in system.ls(f"bucket/{place.rpartition('/')[2]}/{name}", detail=False)
                    }
                    equal = there == {path.name: path.read_bytes() for path in (folder / name).iterdir()}
                    print(f"{place}/{name}: {len(there)} files, {'the same' if equal else 'OTHERS'} as in a folder")
                    well &= equal
                scored = Run(
                    ["eval", "s3://bucket/data/", "--bundle", bundle, "--clicks", 3, "-o", f"{place}/scores", *ray]
                )
                system.invalidate_cache()
                reports = (folder / "scores" / "eval.json").read_bytes(), system.cat_file(f"{place}/scores/eval.json")
                equal = scored.code == 0 and sessions(reports[0]) == sessions(reports[1])
                print(f"{place}/scores: {'the same' if equal else 'OTHER'} scores as in a folder")
                well &= equal
                for done in (first, second, segmented):
                    print(f"  {done.out.splitlines()[0]}")
                well &= (first.code, second.code, segmented.code) == (1, 1, 0)
                well &= f"{count} encoded, 0 there already, 1 broken: s3://bucket/pictures/broken.png" in first.out
                well &= f"0 encoded, {count} there already" in second.out
            return well
    finally:
        server.terminate()
        server.wait(30)


def serve(bundle: Path, annotators: int, clicks: int, scale: bool) -> bool:
    """Annotators, each with a session on one of some pictures; the masks are those of the runtime, computed before."""
    well = True
    with tempfile.TemporaryDirectory() as temporary:
        write_pictures(Path(temporary, "pictures"), annotators // 4)
        pictures = sorted(Path(temporary, "pictures").iterdir())
        segmenter = Segmenter(bundle)
        scripts: list[list[dict[str, Any]]] = []
        expected: list[list[dict[str, Any]]] = []
        for number in range(annotators):
            image, random = read_image(pictures[number % len(pictures)]), np.random.default_rng(number)
            session, height, width = segmenter.open(image), *image.shape[:2]
            places = [
                (random.uniform(0, width), random.uniform(0, height), bool(random.integers(3))) for _ in range(clicks)
            ]
            scripts.append([{"click": [x, y], "positive": positive} for x, y, positive in places])
            expected.append([Runs.of(session.click(*place)).to_json() for place in places])
        for least, most in ((1, 2),) if scale else ((2, 2), (4, 4)):
            well &= _serve(bundle, pictures, scripts, expected, least, most)
    return well


def _serve(
    bundle: Path,
    pictures: Sequence[Path],
    scripts: Sequence[Sequence[dict[str, Any]]],
    expected: Sequence[Sequence[dict[str, Any]]],
    least: int,
    most: int,
) -> bool:
    arguments = [*I2F, "serve", str(bundle), "--port", "0", "--ray", "--replicas", str(least)]
    arguments += ["--max-replicas", str(most)]
    begun = time.perf_counter()
    server = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    try:
        while (found := re.search(r"http\S+?(?=/ )", line := server.stderr.readline())) is None:
            if not line:
                print("the server did not begin")
                return False
        threading.Thread(target=server.stderr.read, daemon=True).start()
        print(f"{least} to {most} replicas: answers after {time.perf_counter() - begun:.1f} s")
        ids: dict[Path, str] = {}
        with httpx.Client(base_url=found[0], headers={"X-I2F": "1"}, timeout=120) as client:
            for path in pictures:
                sent = client.post("/v1/images", content=path.read_bytes(), headers={"Content-Type": "image/png"})
                ids[path] = sent.json()["id"]
        done, half = threading.Semaphore(0), len(scripts) * len(scripts[0]) // 2

        def annotate(number: int) -> list[tuple[float, bool]]:
            answers = []
            with httpx.Client(base_url=found[0], headers={"X-I2F": "1"}, timeout=120) as client:
                picture = ids[pictures[number % len(pictures)]]
                session = client.post(f"/v1/images/{picture}/sessions").json()["id"]
                for prompt, right in zip(scripts[number], expected[number], strict=True):
                    asked = time.perf_counter()
                    answer = client.post(f"/v1/sessions/{session}/prompts", json=prompt)
                    seconds = time.perf_counter() - asked
                    answers.append((seconds, answer.status_code == 200 and answer.json()["mask"] == right))
                    done.release()
                prompts = client.get(f"/v1/sessions/{session}").json()["prompts"]
                answers.append((0.0, len(prompts) == len(scripts[number])))
            return answers

        def kill_one() -> str:
            for _ in range(half):
                done.acquire()
            there = workers_of(server.pid, "ray::ServeReplica")
            if most > least:
                return f"{len(there)} replicas after {half} clicks"
            os.kill(there[0], signal.SIGKILL)
            return f"one of {len(there)} replicas killed (process {there[0]}) after {half} clicks"

        begun = time.perf_counter()
        with ThreadPoolExecutor(len(scripts) + 1) as threads:
            killing = threads.submit(kill_one)
            answers = [answer for of_one in threads.map(annotate, range(len(scripts))) for answer in of_one]
            print(f"  {killing.result()}")
        seconds = time.perf_counter() - begun
        times = sorted(1e3 * took for took, _ in answers if took)
        wrong = sum(not right for _, right in answers)
        print(f"  {len(scripts)} annotators, {len(times)} clicks in {seconds:.1f} s, as each waits for them:")
        middle, high = times[len(times) // 2], times[int(0.95 * len(times))]
        print(f"  median {middle:.0f} ms, p95 {high:.0f} ms, longest {times[-1]:.0f} ms")
        metrics = httpx.get(f"{found[0]}/metrics").text
        again = re.search(r"\ni2f_lost_total (\S+)", metrics)
        encoded = re.search(r"\ni2f_encoded_total (\S+)", metrics)
        print(
            f"  requests made anew: {again and again[1]}; pictures encoded: {encoded and encoded[1]} of {len(pictures)}"
        )
        deadline = time.monotonic() + 60
        while (there := len(workers_of(server.pid, "ray::ServeReplica"))) < most and time.monotonic() < deadline:
            time.sleep(0.5)
        print(f"  {wrong} of {len(answers)} masks and sessions wrong or lost; replicas now: {there}")
        return wrong == 0 and there == most
    finally:
        server.terminate()
        server.wait(60)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("encode", "eval", "store", "serve", "scale"))
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--clicks", type=int, default=10, help="of each annotator")
    parser.add_argument("--pictures", type=int, help="2000 of encode, 96 of eval, 48 of store, if not given")
    options = parser.parse_args()
    print(describe(available_cpus()))
    if options.what == "encode":
        passed = encode(options.bundle, options.pictures or 2000)
    elif options.what == "eval":
        passed = evaluate(options.bundle, options.pictures or 96)
    elif options.what in ("serve", "scale"):
        passed = serve(options.bundle, 32, options.clicks, options.what == "scale")
    else:
        passed = store(options.bundle, options.pictures or 48)
    sys.exit(not passed)
