#!/usr/bin/env bash
# PyTorch divides a Python number by a tensor as the number times the reciprocal, which rounds twice.
#
# Versions: Python 3.10 or newer, torch 2.13.0 (the build for CPUs), numpy 2.2.6. Seen on x86-64 (AMD EPYC) on 2026-11-29.
#
# IEEE 754 asks of a division that the quotient be rounded once. NumPy's `127 / x`, and PyTorch's own `torch.tensor(127.0) / x`,
# do so for float32. `127 / x` of a tensor x does not: Tensor.__rtruediv__ is x.reciprocal() * 127, rounded after each step, and a
# quarter of the results differ in the last bit. It matters where a result is rounded to whole numbers afterwards: int8
# quantisation written as round(x * (127 / x.abs().amax())) gives other codes than the same formula in NumPy, ONNX or C++.
# The way out is to divide two tensors: x.new_tensor(127) / x.
#
# Output seen:
#   torch 2.13.0+cpu: of 100001 quotients 127 / x, 25246 differ from the correctly rounded ones
#   torch.tensor(127.0) / x: 0 differ
#   127 / x equals 127 * x.reciprocal(): True
#   codes round(x * (127 / peak)) that differ from NumPy's: 690 of 4600
#
# Exits with 0 while the behaviour is so, with 1 when it is no longer.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
export PIP_DISABLE_PIP_VERSION_CHECK=1
install() { venv/bin/pip install --quiet "$@" 2>>pip.log; }
install numpy==2.2.6 typing_extensions==4.15.0 filelock==3.20.0 sympy==1.14.0 networkx==3.4.2 jinja2==3.1.6 fsspec==2025.9.0 setuptools==80.9.0 || { cat pip.log; exit 2; }
install --no-deps --extra-index-url https://download.pytorch.org/whl/cpu torch==2.13.0+cpu ||
  install --no-deps torch==2.13.0 || { cat pip.log; exit 2; }

venv/bin/python - <<'PYTHON'
import sys

import numpy as np
import torch

x = np.linspace(1, 2, 100001, dtype=np.float32)
exact = (127 / x.astype(np.float64)).astype(np.float32)  # a quotient of float32 numbers rounds the same from float64
assert (np.float32(127) / x == exact).all()
of_number = (127 / torch.from_numpy(x)).numpy()
of_tensors = (torch.tensor(127.0) / torch.from_numpy(x)).numpy()
reciprocal = (127 * torch.from_numpy(x).reciprocal()).numpy()
wrong = int((of_number != exact).sum())
print(f"torch {torch.__version__}: of {len(x)} quotients 127 / x, {wrong} differ from the correctly rounded ones")
print(f"torch.tensor(127.0) / x: {int((of_tensors != exact).sum())} differ")
print(f"127 / x equals 127 * x.reciprocal(): {bool((of_number == reciprocal).all())}")

rng = np.random.default_rng(0)
peak = rng.uniform(1, 2, (200, 1)).astype(np.float32)
values = (peak / 127 * (rng.integers(-126, 126, (200, 23)) + 0.5)).astype(np.float32)
codes = np.rint(values * (np.float32(127) / peak))
in_torch = (torch.from_numpy(values) * (127 / torch.from_numpy(peak))).round().numpy()
differ = int((codes != in_torch).sum())
print(f"codes round(x * (127 / peak)) that differ from NumPy's: {differ} of {codes.size}")
sys.exit(0 if wrong > 0 and differ > 0 and (of_tensors == exact).all() else 1)
PYTHON
