#!/usr/bin/env bash
# safetensors 0.8.0 (PyPI, Linux x86-64), numpy 2.4.6, Python 3.11; 2026-11-30
#
# The same arrays and the same metadata are saved several times. One would expect the same bytes: names of tensors are
# sorted, the format has no dates. Seen: the entries of "__metadata__" in the header come in any order, which differs from
# call to call, so that files of the same content differ, have other hashes, and are stored twice where files are compared.
# The numbers behind the header are the same, and so are files with one entry or none.
#
#   8 saves of the same: 8 different files, 1 with one entry
#
# Exits with 1 if it is no longer so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet safetensors==0.8.0 numpy==2.4.6

cat >show.py <<'PYTHON'
import sys

import numpy as np
from safetensors.numpy import save

arrays = {"a": np.zeros(3, np.float32)}
many = {name: name for name in ("height", "width", "size", "format", "sha256", "picture")}
different = {save(arrays, many) for _ in range(8)}
alone = {save(arrays, {"format": "x"}) for _ in range(8)}
print(f"8 saves of the same: {len(different)} different files, {len(alone)} with one entry")
sys.exit(len(different) == 1)
PYTHON
venv/bin/python show.py
