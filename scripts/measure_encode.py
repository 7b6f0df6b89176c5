"""Time and memory of a bundle's encoder: loading, encoding, saved encodings.

Usage: python scripts/measure_encode.py BUNDLE
"""

import resource
import sys
import tempfile
import time
from pathlib import Path

START = time.perf_counter()
from inter2former_deploy.runtime import EncodedImage, Segmenter  # noqa: E402 - timed

IMPORTED = time.perf_counter()
import numpy as np  # noqa: E402


def resident() -> float:
    """Megabytes of this process in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def peak() -> float:
    """The most that it ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def main(bundle: str) -> None:
    before, start = resident(), time.perf_counter()
    segmenter = Segmenter(bundle)
    loaded, seconds = resident(), time.perf_counter() - start
    print(f"import   {IMPORTED - START:6.2f} s")
    print(f"load     {seconds:6.2f} s   {loaded - before:6.0f} MB, {peak() - before:.0f} at most")
    size = segmenter.size
    image = np.random.default_rng(0).integers(0, 256, (size * 2 // 3, size, 3), np.uint8)
    for _ in range(3):
        start = time.perf_counter()
        encoded = segmenter.encode(image)
        print(f"encode   {time.perf_counter() - start:6.2f} s   {peak() - loaded:6.0f} MB above that at most")
    print(
        f"           then       {resident() - loaded:6.0f} MB above it, {encoded.nbytes / 1e6:.0f} of them the encoding"
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "encoded.safetensors")
        start = time.perf_counter()
        encoded.save(path)
        saved = time.perf_counter()
        found = EncodedImage.load(path)
        read = time.perf_counter()
        segmenter.open(found)
        print(f"save     {saved - start:6.2f} s   {path.stat().st_size / 1e6:6.0f} MB")
        print(f"read     {read - saved:6.2f} s, open {1e3 * (time.perf_counter() - read):.1f} ms")


if __name__ == "__main__":
    main(sys.argv[1])
