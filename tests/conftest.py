"""Shared fixtures: golden arrays, the synthetic weights they were computed with, and comparisons by the one table."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest

if TYPE_CHECKING:
    import onnx

    from inter2former_deploy.families.inter2former.modules.model import Inter2Former

TESTS = Path(__file__).parent
sys.path[:0] = [str(TESTS), str(TESTS / "reference")]  # `from tolerances import TOLERANCES`, `import make_weights`

SEED = 7  # of the weights behind the golden arrays

Array = npt.NDArray[Any]
Golden = Callable[[str], dict[str, Array]]
AssertClose = Callable[..., None]
RunGraph = Callable[..., dict[str, Array]]  # of a model and its inputs by name


@pytest.fixture(scope="session")
def golden() -> Golden:
    """`golden("neck")`: the arrays of tests/golden/neck.npz by name; float16 ones as float32, as their README asks."""

    def load(name: str) -> dict[str, Array]:
        with np.load(TESTS / "golden" / f"{name}.npz") as file:
            return {key: file[key].astype(np.float32) if file[key].dtype == np.float16 else file[key] for key in file}

    return load


@pytest.fixture(scope="session")
def probe_weights() -> dict[str, Any]:
    """The state dict behind the golden arrays, in the released layout, as torch tensors; do not change them."""
    import torch
    from make_weights import state_dict

    arrays = state_dict("probe", SEED)
    return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}


@pytest.fixture(scope="session")
def probe_model(probe_weights: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Inter2Former:
    """The model behind the golden arrays, through our loader, in evaluation mode; do not change it."""
    import torch

    from inter2former_deploy.families.checkpoint import load_model

    path = tmp_path_factory.mktemp("checkpoint") / "probe.pth"
    torch.save({"meta": {}, "state_dict": probe_weights}, path)
    return load_model(path)


@pytest.fixture(scope="session")
def assert_close() -> AssertClose:
    """`assert_close(actual, expected, what)`: |actual - expected| <= atol + rtol * max |expected|, by tolerances.py."""
    from tolerances import TOLERANCES

    def check(actual: Any, expected: Any, what: str) -> None:
        actual, expected = (np.asarray(x.detach() if hasattr(x, "detach") else x) for x in (actual, expected))
        assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, expected {expected.shape}"
        tolerance = TOLERANCES[what, str(actual.dtype)]
        error = float(np.abs(actual.astype(np.float64) - expected).max(initial=0))
        limit = tolerance.atol + tolerance.rtol * float(np.abs(expected).max(initial=0))
        assert error <= limit, f"{what}: error {error:.3g} above {limit:.3g} ({tolerance.reason})"  # NaN fails, too

    return check


def _run_onnx(model: onnx.ModelProto, inputs: Mapping[str, Array], *, with_library: bool) -> dict[str, Array]:
    import onnxruntime

    from inter2former_deploy.core import library

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    if with_library:
        library.register(options)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {value.name: np.ascontiguousarray(inputs[value.name]) for value in session.get_inputs()}
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


@pytest.fixture(scope="session", params=[False, True], ids=["bodies", "library"])
def run_graph(request: pytest.FixtureRequest) -> RunGraph:
    """`run_graph(model, inputs)`: outputs by name, in plain onnxruntime and with the operator library in turn."""
    return partial(_run_onnx, with_library=request.param)


@pytest.fixture(scope="session")
def run_plain() -> RunGraph:
    """The same in plain onnxruntime alone, for graphs without operators of ours."""
    return partial(_run_onnx, with_library=False)
