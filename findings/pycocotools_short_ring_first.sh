#!/usr/bin/env bash
# pycocotools 2.0.11 with numpy 2.4.6, Python 3.11: whether an object with a stray ring of two points can be decoded
# depends on the order of its rings. frPyObjects decides by the length of the first polygon what all of them are: with
# a ring of two points (four numbers) first it takes the whole list for boxes [x, y, w, h] and refuses it with a
# TypeError about an argument 'bb'; with the same ring last it ignores it and gives the mask of the others.
# Annotation tools leave such rings behind, so a reader has to drop rings of fewer than three points by itself.
# Seen on 2026-11-29:
#   short ring first: TypeError: Argument 'bb' has incorrect type (expected numpy.ndarray, got list)
#   short ring last: 36 pixels
# Exits with 1 if the behaviour is no longer so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pycocotools==2.0.11 numpy==2.4.6
"$folder/venv/bin/python" -W ignore::DeprecationWarning - <<'PYTHON'
import sys

from pycocotools import mask

square, short = [2, 2, 8, 2, 8, 8, 2, 8], [3, 4, 5, 6]


def decoded(rings):
    try:
        return f"{mask.decode(mask.merge(mask.frPyObjects(rings, 12, 12))).sum()} pixels"
    except TypeError as error:
        return f"TypeError: {error}"


first, last = decoded([short, square]), decoded([square, short])
print("short ring first:", first)
print("short ring last:", last)
sys.exit(not (first.startswith("TypeError: Argument 'bb'") and last == "36 pixels"))
PYTHON
