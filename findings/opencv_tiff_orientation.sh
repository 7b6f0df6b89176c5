#!/usr/bin/env bash
# OpenCV does not read TIFF files that are to be turned by 90 degrees, and turns the others although it is told not to.
#
# Versions: opencv-python-headless 5.0.0.93 and 4.12.0.88, pillow 13.0.0, numpy 2.2.6, Python 3.11, Linux x86-64.
# Seen on 2026-11-29: a TIFF file (8 bits, uncompressed, 6 x 4 pixels, written by Pillow) with the orientation tag 5, 6, 7 or
# 8 gives None, with every flag, as if it were damaged; square ones are read. With the tag 2, 3 or 4, cv2.imread mirrors or
# turns the picture also when IMREAD_IGNORE_ORIENTATION or IMREAD_UNCHANGED is given, which for JPEG and PNG files keep the
# pixels as they are stored. So a program that turns pictures itself, by the tag, turns such TIFF files twice.
# Output seen, the same for both versions:
#   version  orientation 1        2        3        4        5        6        7        8
#   <version>            stored   turned   turned   turned   none     none     none     none     (any of the three flags)
#   <version> square     stored   turned   turned   turned   turned   turned   turned   turned
# Prints what it sees; exits with 1 if the behaviour is no longer so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
cat > "$work/look.py" <<'PYTHON'
import os
import sys

os.environ["OPENCV_LOG_LEVEL"] = "SILENT"
import cv2
import numpy as np
from PIL import Image, ImageOps

FLAGS = {"COLOR": cv2.IMREAD_COLOR, "COLOR | IGNORE_ORIENTATION": cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION,
         "UNCHANGED": cv2.IMREAD_UNCHANGED}


def look(height, width, flag):
    stored = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    seen = []
    for orientation in range(1, 9):
        tags = Image.Exif()
        tags[0x112] = orientation
        path = os.path.join(sys.argv[1], "picture.tif")
        Image.fromarray(stored).save(path, exif=tags)
        with Image.open(path) as image:  # the file is valid: Pillow reads it, and shows it upright
            image.load()
            upright = np.asarray(ImageOps.exif_transpose(image))
        read = cv2.imread(path, flag)
        if read is None:
            seen.append("none")
        else:
            read = read[..., ::-1]
            same = [name for name, other in (("stored", stored), ("turned", upright)) if np.array_equal(read, other)]
            seen.append(same[0] if same else "other")
    return seen


expected = {(4, 6): ["stored"] + ["turned"] * 3 + ["none"] * 4, (5, 5): ["stored"] + ["turned"] * 7}
as_expected = True
for (height, width), wanted in expected.items():
    for name, flag in FLAGS.items():
        seen = look(height, width, flag)
        print(cv2.__version__, f"{width} x {height}, {name}:", *seen)
        as_expected &= seen == wanted
sys.exit(not as_expected)
PYTHON
status=0
for version in 5.0.0.93 4.12.0.88; do
    "$work/venv/bin/pip" install --quiet --disable-pip-version-check "opencv-python-headless==$version" pillow==13.0.0 numpy==2.2.6 2> "$work/pip.log" || { cat "$work/pip.log"; exit 2; }
    "$work/venv/bin/python" "$work/look.py" "$work" || status=1
done
exit $status
