"""What this machine can do at most, measured in the same run as everything that is compared with it."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from inter2former_deploy.apps.bench.workers import Workload, alternate, threads_here

MATMUL_SIDE = 2048
COPY_FLOATS = 1 << 26  # 256 MiB, larger than any cache


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """Rates of one run; `floor_ms` turns work into the least time it can take."""

    gflops: float  # fp32 matrix product in onnxruntime, 10^9 operations a second
    gbytes: float  # memory copy, 10^9 bytes read plus written a second
    threads: int
    call_ms: float = 0.0  # a call of onnxruntime that does nothing, milliseconds

    def floor_ms(self, flop: float, nbytes: float = 0.0) -> float:
        """Milliseconds that `flop` operations and `nbytes` of traffic take at the ceilings, whichever is longer."""
        return 1e3 * max(flop / (self.gflops * 1e9), nbytes / (self.gbytes * 1e9))

    def to_dict(self) -> dict[str, float]:
        """As written to JSON."""
        return asdict(self)


def measure(threads: int, seconds: float = 2.0) -> Ceilings:
    """The ceilings: the best of many calls, since a ceiling is what is possible; and what a call costs."""
    times = alternate(
        {
            "matmul": Workload(builder=f"{__name__}:matmul", arguments={}),
            "copy": Workload(builder=f"{__name__}:copy", arguments={}),
        },
        threads=threads,
        seconds=seconds,
    )
    nothing = Workload(builder=f"{__name__}:nothing", arguments={})
    return Ceilings(
        gflops=2 * MATMUL_SIDE**3 / times["matmul"].best / 1e6,
        gbytes=2 * 4 * COPY_FLOATS / times["copy"].best / 1e6,
        threads=threads,
        call_ms=alternate({"call": nothing}, threads=threads, seconds=0.1, calls=100)["call"].median,
    )


def matmul(rows: int = MATMUL_SIDE, inner: int = MATMUL_SIDE, columns: int = MATMUL_SIDE) -> Callable[[], object]:
    """Workload: one fp32 matrix product in onnxruntime, the second factor constant as weights are."""
    import onnx.helper as oh
    import onnx.numpy_helper
    import onnxruntime as ort

    rng = np.random.default_rng(0)
    weights = onnx.numpy_helper.from_array(rng.standard_normal((inner, columns), np.float32), "b")
    graph = oh.make_graph(
        [oh.make_node("MatMul", ["a", "b"], ["c"])],
        "matmul",
        [oh.make_tensor_value_info("a", onnx.TensorProto.FLOAT, [rows, inner])],
        [oh.make_tensor_value_info("c", onnx.TensorProto.FLOAT, [rows, columns])],
        [weights],
    )
    model = oh.make_model(graph, opset_imports=[oh.make_opsetid("", 18)], ir_version=9)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads_here()
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()  # neither input nor output is copied
    binding.bind_ortvalue_input("a", ort.OrtValue.ortvalue_from_numpy(rng.standard_normal((rows, inner), np.float32)))
    binding.bind_ortvalue_output("c", ort.OrtValue.ortvalue_from_numpy(np.empty((rows, columns), np.float32)))
    return lambda: session.run_with_iobinding(binding)


def nothing() -> Callable[[], object]:
    """Workload: a graph of one node that passes a number on, as the operators' cases are called."""
    import onnx.helper as oh
    import onnxruntime as ort

    x, y = (oh.make_tensor_value_info(name, 1, [1]) for name in "xy")
    graph = oh.make_graph([oh.make_node("Identity", ["x"], ["y"])], "nothing", [x], [y])
    model = oh.make_model(graph, opset_imports=[oh.make_opsetid("", 18)], ir_version=9)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads_here()
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    fed = {"x": ort.OrtValue.ortvalue_from_numpy(np.zeros(1, np.float32))}
    return lambda: session.run_with_ort_values(["y"], fed)


def copy() -> Callable[[], object]:
    """Workload: copy a block of memory that no cache holds, on all threads."""
    from concurrent.futures import ThreadPoolExecutor

    threads = threads_here()
    source = np.ones(COPY_FLOATS, np.float32)
    target = np.empty_like(source)
    pieces = list(zip(np.array_split(target, threads), np.array_split(source, threads), strict=True))
    pool = ThreadPoolExecutor(threads)
    return lambda: list(pool.map(lambda piece: np.copyto(*piece), pieces))


def describe(threads: int) -> dict[str, str | int]:
    """The machine and the versions a result belongs to."""
    import onnxruntime

    import inter2former_deploy

    try:
        model = next(
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        )
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return {
        "cpu": model,
        "cores": os.cpu_count() or 1,
        "threads": threads,
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "inter2former_deploy": inter2former_deploy.__version__,
    }
