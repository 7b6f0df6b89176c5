#!/usr/bin/env bash
# PyTorch 2.13.0 (PyPI, CPU, Linux x86-64), numpy 2.4.6, Python 3.11; AMD EPYC (Zen 3: AVX2, no bfloat16); 2026-11-30
#
# torch.optim.Muon moves float32 weights of [192, 768]. One would expect a step to cost what its matrix products cost in
# float32, 0.6 GFLOP. Seen: Muon turns every gradient into bfloat16 first, also on a CPU without instructions for it, where
# PyTorch multiplies such matrices in bfloat16 many times slower than in float32; no option turns it off. On one thread, best
# of five:
#
#   a step of Muon: 289 ms; its matrix products in float32: 9 ms; 34 times
#
# Exits with 1 if it is no longer so, and with 2 where the CPU has bfloat16 (avx512_bf16, amx_bf16, bf16), which hides it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
grep -qE '(avx512_bf16|amx_bf16| bf16)' /proc/cpuinfo && { echo "this CPU multiplies bfloat16"; exit 2; }
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet torch==2.13.0 numpy==2.4.6

cat >show.py <<'PYTHON'
import sys
import time

import torch

torch.set_num_threads(1)
weight = torch.nn.Parameter(torch.randn(192, 768))
optimizer = torch.optim.Muon([weight], lr=0.01)


def best(work):
    """Milliseconds of the quickest of five."""
    seconds = []
    for _ in range(5):
        weight.grad = torch.randn(192, 768)
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return 1000 * min(seconds)


def products():
    """The products of a step: five rounds of Newton-Schulz."""
    x = weight.grad / weight.grad.norm()
    for _ in range(5):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram), x)


step, float32 = best(optimizer.step), best(products)
print(f"a step of Muon: {step:.0f} ms; its matrix products in float32: {float32:.0f} ms; {step / float32:.0f} times")
sys.exit(step < 8 * float32)
PYTHON
venv/bin/python show.py && echo "bfloat16 where the CPU has none" || { echo "not so"; exit 1; }
