#!/usr/bin/env bash
# onnxruntime 1.31.1 (PyPI, CPU, Linux x86-64), onnx 1.23.2, numpy 2.4.6, Python 3.11; 2026-11-29
#
# A process that may run on one CPU only (taskset -c 0, a container with --cpuset-cpus, a job of Slurm) creates a session
# without a number of threads. One would expect one thread on that CPU, as PyTorch and OpenCV have it. Seen: onnxruntime
# counts the cores of the machine, starts a worker for each further one, and sets the affinity of each worker to a core of
# its own choice, also to cores outside the mask that the process was given: it leaves its mask. With
# intra_op_num_threads set, workers keep the mask. On a machine with 2 CPUs:
#
#   this process may use [0] of 2 CPUs
#   intra_op_num_threads=0: workers may use ['1']
#   intra_op_num_threads=2: workers may use ['0']
#
# Exits with 1 if it is no longer so, and with 2 if this machine cannot show it (one CPU, no taskset).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
command -v taskset >/dev/null || { echo "no taskset here (util-linux)"; exit 2; }
[ "$(nproc)" -ge 2 ] || { echo "one CPU shows nothing"; exit 2; }
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet onnxruntime==1.31.1 onnx==1.23.2 numpy==2.4.6

cat >show.py <<'PYTHON'
import glob
import os
import sys

import onnx.helper as oh
import onnxruntime as ort

x, y = (oh.make_tensor_value_info(name, 1, [1]) for name in "xy")
graph = oh.make_graph([oh.make_node("Identity", ["x"], ["y"])], "graph", [x], [y])
model = oh.make_model(graph, opset_imports=[oh.make_opsetid("", 18)], ir_version=8).SerializeToString()


def masks():
    """CPUs that each thread of this process may use, by its number."""
    found = {}
    for path in glob.glob("/proc/self/task/*/status"):
        with open(path) as file:
            found[path.split("/")[-2]] = next(line.split()[1] for line in file if line.startswith("Cpus_allowed_list"))
    return found


own = os.sched_getaffinity(0)
print(f"this process may use {sorted(own)} of {os.cpu_count()} CPUs")
seen = {}
for threads in (0, 2):
    before = masks()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    seen[threads] = sorted(mask for thread, mask in masks().items() if thread not in before)
    print(f"intra_op_num_threads={threads}: workers may use {seen[threads]}")
    del session
outside = [mask for mask in seen[0] if mask not in {str(cpu) for cpu in own}]
sys.exit(not (outside and seen[2] == [str(cpu) for cpu in own]))
PYTHON
first=$(venv/bin/python -c 'import os; print(min(os.sched_getaffinity(0)))')
taskset -c "$first" venv/bin/python show.py && echo "workers left the mask" || { echo "not so"; exit 1; }
