"""What `i2f encode` costs beside the encoder, and whether encodings may be kept in half precision.

    python scripts/measure_many.py rate BUNDLE     # pictures a second of files to files, and of the encoder alone
    python scripts/measure_many.py half BUNDLE     # masks of sessions on encodings that were rounded to float16

Pictures are windows of the photograph of this repository, of the model's size.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from inter2former_deploy.apps.batch.encoding import EncodeJob
from inter2former_deploy.apps.bench.machine import describe
from inter2former_deploy.core.masks import iou
from inter2former_deploy.core.pictures import MAX_PIXELS, read_image
from inter2former_deploy.core.threads import available_cpus
from inter2former_deploy.runtime import Segmenter

PHOTOGRAPH = Path(__file__).parent.parent / "exporters" / "photograph.jpg"


def pictures(size: int, count: int) -> list[np.ndarray]:
    """Windows of the photograph, three quarters as high as wide, as large as the model's square."""
    image, random = read_image(PHOTOGRAPH), np.random.default_rng(0)
    made = []
    for _ in range(count):
        width = int(random.integers(image.shape[1] // 2, image.shape[1]))
        height = min(width * 3 // 4, image.shape[0])
        top, left = (int(random.integers(most + 1)) for most in (image.shape[0] - height, image.shape[1] - width))
        window = image[top : top + height, left : left + width]
        made.append(cv2.resize(window, (size, size * 3 // 4), interpolation=cv2.INTER_CUBIC))
    return made


def rate(bundle: Path, threads: int, count: int, rounds: int) -> bool:
    segmenter = Segmenter(bundle, num_threads=threads)
    images = pictures(segmenter.size, count)
    scaled = [segmenter.scale(image) for image in images]
    with tempfile.TemporaryDirectory() as temporary:
        files = [str(Path(temporary, f"{number}.jpg")) for number in range(count)]
        for file, image in zip(files, images, strict=True):
            cv2.imwrite(file, image[..., ::-1])
        ratios = []
        for number in range(rounds):
            begun = clocks()
            for one in scaled:
                segmenter.encode(one)
            alone = clocks() - begun
            job = EncodeJob(bundle=bundle, output=f"{temporary}/{number}", max_pixels=MAX_PIXELS)
            work = job.begin(threads)
            begun = clocks()
            states = [done.state for done in work([files])]
            whole = clocks() - begun
            if states != ["made"] * count:
                print(f"not all were made: {states}")
                return False
            ratios.append(alone / whole)
            print(f"{threads} threads, {count} pictures: encoder alone {told(alone)}; files to files {told(whole)}")
    time_ratio, processor_ratio = np.median(ratios, 0)
    print(f"rate of i2f encode over the encoder's: median {time_ratio:.3f}, of {rounds} rounds")
    print(f"processor time of the encoder over that of i2f encode: median {processor_ratio:.3f}")
    return True


def clocks() -> np.ndarray:
    """Seconds that have passed, and those of processors that this process has used, which tell on a busy machine."""
    return np.array([time.perf_counter(), time.process_time()])


def told(seconds: np.ndarray) -> str:
    """Both clocks, as a line says them."""
    return f"{seconds[0]:.1f} s ({seconds[1]:.1f} s of processors)"


def half(bundle: Path, count: int) -> bool:
    segmenter = Segmenter(bundle)
    agreements = []
    pixels = []
    for number, image in enumerate(pictures(segmenter.size, count)):
        random, encoded = np.random.default_rng(number), segmenter.encode(image)
        tensors = {name: array.astype(np.float16).astype(np.float32) for name, array in encoded.tensors.items()}
        if not all(np.isfinite(array).all() for array in tensors.values()):
            print("an encoding has values that float16 does not hold")
            return False
        sessions = segmenter.open(encoded), segmenter.open(replace(encoded, tensors=tensors))
        for _ in range(5):
            x, y = random.uniform(0, image.shape[1]), random.uniform(0, image.shape[0])
            one, other = (session.click(x, y) for session in sessions)
            agreements.append(iou(one, other))
            pixels.append(int((one != other).sum()))
    print(f"{len(agreements)} masks of {count} pictures on float16 encodings against float32:")
    print(f"  IoU least {min(agreements):.5f}, median {statistics.median(agreements):.5f}")
    print(f"  masks that are equal: {sum(not one for one in pixels)}; most pixels that differ: {max(pixels)}")
    size = sum(array.nbytes for array in encoded.tensors.values())
    print(f"  an encoding is {size / 1e6:.1f} MB in float32, {size / 2e6:.1f} MB in float16")
    return True


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("rate", "half"))
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--threads", type=int, default=available_cpus())
    parser.add_argument("--pictures", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(describe(available_cpus()))
    if options.what == "rate":
        passed = rate(options.bundle, options.threads, options.pictures, options.rounds)
    else:
        passed = half(options.bundle, options.pictures)
    sys.exit(not passed)
