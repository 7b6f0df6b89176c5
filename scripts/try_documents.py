"""Runs the commands of the documents that take too long for their test, on small stand-ins for what they name.

    python scripts/try_documents.py [PATTERN]     # only those in which the pattern is found; --list prints them

Sizes and times are cut down; CHECKPOINT and OTHER are the bundled weights, the data sets two drawn pictures each in the
layout of the real one. A server is asked for its health and ended. tests/documents.py says which commands these are,
and what runs all others. Ends with 1 if one fails.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from documents import DOCUMENTS, RUN_BY, SLOW, Command, commands  # noqa: E402

SECONDS = 900  # that a command may take on a slow machine
DATA_SETS = {  # folders of pictures and of masks
    "HQSeg44K/thin_object_detection/COIFT": ("images", "masks"),
    "HQSeg44K/DIS5K/DIS-TE1": ("im", "gt"),
    "DAVIS": ("JPEGImages/480p/bear", "Annotations/480p/bear"),
    "VOC2012": ("JPEGImages", "SegmentationObject"),
    "labels": ("images", "masks"),
    "photos": ("", ""),
    "data/scans": ("", ""),
}
LISTS = {"DAVIS/ImageSets/2017/val.txt": "bear\n", "VOC2012/ImageSets/Segmentation/val.txt": "0\n1\n"}
SHORTER = (  # what commands say, and what is run
    (r"--size \d+( --size \d+)*", "--size 128"),
    (r"--seconds \S+", "--seconds 0.1"),
    (r"--port \d+", ""),
    (r"/data/scans", "data/scans"),
    (r"run/weights\.safetensors|CHECKPOINT|OTHER", str(ROOT / "inter2former_deploy" / "weights" / "demo.safetensors")),
    (r"'?\$\(python .*\)'?", str(ROOT / "inter2former_deploy" / "weights" / "demo")),
)
ADDED = (  # options that make a command short, where it has them not
    (r"i2f export (?!.*--into)", "--force --size 128"),
    (r"i2f eval", "--clicks 2"),
    (r"i2f eval synthetic", "--length 2"),
    (r"i2f bench (click|encode|figure|ops)", "--seconds 0.1"),
    (r"i2f bench (click|encode)", "--size 256 --config demo"),
    (r"i2f bench figure", "--size 128"),
    (r"i2f bench ops", "--size 128 --only hybrid_attention"),
    (r"i2f (serve|annotate)", "--port 0"),
    (r"i2f annotate", "--no-browser"),
)


def stand_ins(folder: Path) -> None:
    """What the commands name: pictures, masks, lists, annotations."""
    random = np.random.default_rng(0)
    for name, (pictures, masks) in DATA_SETS.items():
        for number in range(2):
            image = random.integers(0, 120, (90, 120, 3), np.uint8)
            mask = np.zeros((90, 120), np.uint8)
            mask[20 : 60 + number, 30:80] = 1
            image[mask == 1] += 130
            for kind, content, suffix in ((pictures, image, "jpg"), (masks, mask, "png")):
                if content is mask and not masks:
                    continue
                path = folder / name / kind / f"{number}.{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), content)
    for name, text in LISTS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    prompts = [{"click": [50, 40], "positive": True}]
    (folder / "photos/clicks.jsonl").write_text(json.dumps({"image": "0.jpg", "prompts": prompts}) + "\n")
    instances = {
        "images": [{"id": 1, "file_name": "0.jpg", "height": 90, "width": 120}],
        "categories": [{"id": 1, "name": "square"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[30, 20, 80, 20, 80, 60, 30, 60]],
             "area": 2000, "bbox": [30, 20, 50, 40], "iscrowd": 0},
        ],
    }  # fmt: skip
    (folder / "instances.json").write_text(json.dumps(instances))


def slow_commands() -> list[Command]:
    """Those that this script runs, exports first: the others use what they leave. One of those that it runs alike."""
    found: dict[str, Command] = {}
    for document in DOCUMENTS:
        for command in commands(document):
            if command.whole and next((by for to, by in RUN_BY if re.match(to, str(command))), "") == SLOW:
                found.setdefault(shortened(command), command)
    order = ("i2f export -o", "i2f export", "i2f annotations import")
    rank = [next((at for at, begin in enumerate(order) if text.startswith(begin)), len(order)) for text in found]
    return [command for _, command in sorted(zip(rank, found.values(), strict=True), key=lambda pair: pair[0])]


def shortened(command: Command) -> str:
    """A command line that does the same in less time."""
    text = " ".join(command.words)
    for pattern, instead in SHORTER:
        text = re.sub(pattern, instead, text)
    for pattern, options in ADDED:
        if re.match(pattern, text):
            for option in re.findall(r"--[a-z-]+(?: [\w.]+)?", options):
                text += "" if option.split()[0] in text.split() else f" {option}"
    return text


def serves(process: subprocess.Popen[str]) -> str:
    """What is wrong with a server that has been started; it is ended."""
    assert process.stderr is not None
    told, begun = "", time.monotonic()
    try:
        while (found := re.search(r"http://[\w.:\[\]]+", told)) is None and time.monotonic() - begun < SECONDS:
            line = process.stderr.readline()
            if not line:
                return told
            told += line
        if found is None:
            return "it named no address"
        with urllib.request.urlopen(f"{found[0]}/v1/health", timeout=60) as answer:
            return "" if answer.status == 200 else f"it answered {answer.status}"
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def run(text: str, folder: Path) -> str:
    """Runs a command line; what went wrong, or nothing."""
    words = [sys.executable, "-m", "inter2former_deploy", *text.split()[1:]]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    if re.match("i2f (serve|annotate) ", text):
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        return serves(subprocess.Popen(words, cwd=folder, text=True, env=environment, **pipes))
    try:
        done = subprocess.run(
            words, cwd=folder, text=True, capture_output=True, env=environment, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"not done after {SECONDS} s"
    return "" if done.returncode == 0 else f"exit code {done.returncode}\n{done.stdout[-500:]}{done.stderr[-1500:]}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pattern", nargs="?", default="")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    chosen = [command for command in slow_commands() if re.search(options.pattern, str(command))]
    failed = 0
    with tempfile.TemporaryDirectory() as temporary:
        stand_ins(Path(temporary))
        tiny = shutil.ignore_patterns("expected.npz")  # of i2f doctor; bundles hold nothing else than their own
        shutil.copytree(ROOT / "runtime" / "tiny", Path(temporary, "bundle"), ignore=tiny)  # until one is exported
        for command in chosen:
            print(command, f"  [{shortened(command)}]", flush=True)
            if options.list:
                continue
            begun = time.perf_counter()
            problem = run(shortened(command).replace("'", ""), Path(temporary))
            print(f"  {problem or 'well'}, {time.perf_counter() - begun:.0f} s", flush=True)
            failed += bool(problem)
    print(f"{len(chosen)} commands, {failed} of them failed")
    sys.exit(failed > 0)
