"""The selective scan and the state-space module: golden arrays, a plain loop in float64, one pass against many."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from inter2former_deploy.families.hrsam.model import HRSAM
from inter2former_deploy.families.hrsam.ssm import StateSpaceModule
from inter2former_deploy.operators import scan
from inter2former_deploy.operators.scan import cycle_scan, repeated_scan, selective_scan

Models = Callable[[str], HRSAM]


@pytest.fixture(scope="module")
def arrays(golden: Any) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in golden("hrsam_ssm").items()}


@pytest.fixture(scope="module")
def module(hrsam_models: Models) -> StateSpaceModule:
    module = hrsam_models("hrsam_probe").backbone.mamba_blocks[0]
    assert isinstance(module, StateSpaceModule)
    return module


def plain_scan(u: Any, delta: Any, b: Any, c: Any, rate: Any, skip: Any, bias: Any) -> np.ndarray[Any, Any]:
    """One sequence, [T, C] and [T, N], number by number in float64."""
    y = np.zeros(u.shape)
    for channel in range(u.shape[1]):
        state = np.zeros(rate.shape[1])
        for t in range(len(u)):
            v = delta[t, channel] + bias[channel]
            step = np.log1p(np.exp(v)) if v <= 20 else v
            for n in range(len(state)):
                state[n] = np.exp(step * rate[channel, n]) * state[n] + step * u[t, channel] * b[t, n]
            y[t, channel] = state @ c[t] + skip[channel] * u[t, channel]
    return y


def draw(*, tokens: int, channels: int, states: int, repeats: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Arguments of `cycle_scan` in float64: states that last for two tokens, and states that last for hundreds."""
    g = torch.Generator().manual_seed(seed)
    randn = partial(torch.randn, generator=g, dtype=torch.float64)
    return {
        "u": randn(tokens, channels),
        "projected": randn(tokens, channels + 2 * states),
        "rate": -torch.exp(1.5 * randn(channels, states)),
        "skip": randn(channels),
        "bias": 2 * randn(channels) - 3,
        "gamma": randn(channels, repeats),
    }


@torch.no_grad()
def test_golden_scan(arrays: dict[str, torch.Tensor], assert_close: Any) -> None:
    """Step widths up to 24: beyond softplus's threshold."""
    u, delta, b, c = (arrays[f"scan_{name}"].mT for name in ("u", "delta", "B", "C"))
    y, _ = selective_scan(u, delta, b, c, *(arrays[f"scan_{name}"] for name in ("A", "D", "bias")))
    assert_close(y.mT, arrays["scan_y"], "hrsam scan")


@torch.no_grad()
def test_golden_modules(arrays: dict[str, torch.Tensor], hrsam_models: Models, assert_close: Any) -> None:
    """On one sequence (HRSAM), on two maps of 24 and 6 tokens by themselves, and through both (HRSAM++)."""
    plus_plus = hrsam_models("hrsampp_probe").backbone
    cases = {
        "cycle": (hrsam_models("hrsam_probe").backbone.mamba_blocks[0], [30]),
        "apart": (plus_plus.ss_mamba_blocks[0], [24, 6]),
        "joint": (plus_plus.ms_mamba_blocks[0], [30]),
    }
    for name, (module, lengths) in cases.items():
        y = module(arrays["x"].flatten(0, 1), lengths).view_as(arrays["x"])
        assert_close(y, arrays[f"{name}_y"], "hrsam state space")


@torch.no_grad()
def test_golden_single_pass(arrays: dict[str, torch.Tensor], module: StateSpaceModule, assert_close: Any) -> None:
    single = StateSpaceModule(dim=64, states=8, repeats=1)
    single.load_state_dict(module.state_dict() | {"gamma": module.gamma[:, :1]})
    y = single(arrays["x"].flatten(0, 1), [30]).view_as(arrays["x"])
    assert_close(y, arrays["single_y"], "hrsam state space")


@torch.no_grad()
def test_golden_inside_the_module(
    arrays: dict[str, torch.Tensor], module: StateSpaceModule, assert_close: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What goes into the scan of three repeats, and what comes out of it pass by pass."""
    seen: list[torch.Tensor] = []

    def record(u: torch.Tensor, projected: torch.Tensor, *rest: Any) -> torch.Tensor:
        seen.extend((u, projected))
        return cycle_scan(u, projected, *rest)

    monkeypatch.setattr("inter2former_deploy.families.hrsam.ssm.cycle_scan", record)
    module(arrays["x"].flatten(0, 1), [30])
    u, *projected = (torch.unflatten(t, 0, (2, 30)).mT for t in (seen[0], *torch.split(seen[1], [64, 8, 8], dim=1)))
    for name, found in zip(("u", "delta", "B", "C"), (u, *projected), strict=True):
        assert_close(found.repeat(1, 1, 3), arrays[f"cycle_{name}"], "hrsam state space")

    inputs = (arrays[f"cycle_{name}"].mT for name in ("u", "delta", "B", "C"))
    y, _ = selective_scan(*inputs, -module.As_log.exp(), module.Ds, module.ssm_proj_bias)
    assert_close(y.mT, arrays["cycle_scan"], "hrsam scan")


@pytest.mark.parametrize("tokens", [1, 5, scan.BLOCK, scan.BLOCK + 1])
@torch.no_grad()
def test_scan_against_a_plain_loop(assert_close: Any, tokens: int) -> None:
    a = draw(tokens=tokens, channels=3, states=2, repeats=1, seed=tokens)
    a["projected"][0, 0] = 30  # softplus is linear there
    delta, b, c = torch.split(a["projected"], [3, 2, 2], dim=1)
    expected = plain_scan(*(t.numpy() for t in (a["u"], delta, b, c, a["rate"], a["skip"], a["bias"])))
    y, _ = selective_scan(a["u"][None], delta[None], b[None], c[None], a["rate"], a["skip"], a["bias"])
    assert_close(y[0], expected, "formula")


@pytest.mark.parametrize("repeats", [1, 2, 3, 5])
@pytest.mark.parametrize(("images", "lengths"), [(1, [1]), (1, [150]), (2, [24, 6]), (3, [5])])
@torch.no_grad()
def test_one_pass_is_all_passes(assert_close: Any, images: int, lengths: list[int], repeats: int) -> None:
    a = draw(tokens=images * sum(lengths), channels=5, states=4, repeats=repeats, seed=repeats)
    assert_close(cycle_scan(**a, lengths=lengths), repeated_scan(**a, lengths=lengths), "formula")


@torch.no_grad()
def test_one_pass_in_float32(assert_close: Any) -> None:
    a = draw(tokens=500, channels=16, states=8, repeats=3)
    exact = repeated_scan(**a, lengths=[500])
    narrow = {name: tensor.float() for name, tensor in a.items()}
    assert_close(cycle_scan(**narrow, lengths=[500]), exact, "hrsam one pass")


@torch.no_grad()
def test_passes_by_hand(assert_close: Any) -> None:
    """The cycle: from the second pass on, the first token has seen the last; every sequence is on its own."""
    a = draw(tokens=10, channels=3, states=2, repeats=3)
    y = cycle_scan(**a, lengths=[4, 6])
    for part in (slice(0, 4), slice(4, 10)):
        u, (delta, b, c) = a["u"][part], torch.split(a["projected"][part], [3, 2, 2], dim=1)
        repeated = (t.repeat(3, 1).numpy() for t in (u, delta, b, c))
        passes = plain_scan(*repeated, *(a[name].numpy() for name in ("rate", "skip", "bias"))).reshape(3, -1, 3)
        assert_close(y[part], np.einsum("rtc,cr->tc", passes, a["gamma"].numpy()), "formula")


@pytest.mark.parametrize("form", [cycle_scan, repeated_scan])
def test_gradients(form: Any) -> None:
    a = draw(tokens=2 * (3 + 2), channels=2, states=2, repeats=3)
    inputs = tuple(tensor.requires_grad_() for tensor in a.values())
    assert gradcheck(lambda *tensors: form(*tensors, [3, 2]), inputs, fast_mode=True)


def test_gradients_of_a_module() -> None:
    """Through the norms, the gate and the logarithm of the rates; half of the sequences are a second image's."""
    torch.manual_seed(0)
    module = StateSpaceModule(dim=3, states=2, repeats=3).double()
    names, parameters = zip(*module.named_parameters(), strict=True)
    x = torch.randn(10, 3, dtype=torch.float64, requires_grad=True)

    def run(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = torch.func.functional_call(module, dict(zip(names, values, strict=True)), (x, [3, 2]))
        return out

    assert gradcheck(run, (x, *parameters), fast_mode=True)


def test_gradients_over_several_blocks(assert_close: Any) -> None:
    """Blocks are computed again on the way back; the gradients are those of the definition."""
    a = draw(tokens=2 * scan.BLOCK + 7, channels=3, states=2, repeats=3)
    tensors = [tensor.requires_grad_() for tensor in a.values()]
    weight = torch.randn(len(a["u"]), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    one, all_passes = (
        torch.autograd.grad((form(*tensors, [len(weight)]) * weight).sum(), tensors)
        for form in (cycle_scan, repeated_scan)
    )
    for found, expected in zip(one, all_passes, strict=True):
        assert_close(found, expected, "formula")


@torch.no_grad()
def test_autocast_leaves_the_scan_in_float32(module: StateSpaceModule, arrays: dict[str, torch.Tensor]) -> None:
    a = {name: tensor.float() for name, tensor in draw(tokens=20, channels=4, states=4, repeats=3).items()}
    expected = cycle_scan(**a, lengths=[20])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(cycle_scan(**a, lengths=[20]), expected)
        rounded = cycle_scan(a["u"].bfloat16(), a["projected"].bfloat16(), *list(a.values())[2:], [20])
        x = arrays["x"].flatten(0, 1)
        y = module(x, [60])
    assert rounded.dtype == torch.float32
    assert (rounded - expected).abs().max() < 0.05 * expected.abs().max()
    assert (y - module(x, [60])).abs().max() < 0.05 * y.abs().max()


@torch.no_grad()
def test_threads_change_nothing(module: StateSpaceModule, arrays: dict[str, torch.Tensor], assert_close: Any) -> None:
    before = torch.get_num_threads()
    x = arrays["x"].flatten(0, 1).repeat(20, 1)  # enough for PyTorch to share out
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(module(x, [len(x)]))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert_close(other, results[0], "hrsam state space")


@torch.no_grad()
def test_one_node_when_exported() -> None:
    a = {name: tensor.float() for name, tensor in draw(tokens=8, channels=4, states=2, repeats=2).items()}

    class Caller(torch.nn.Module):
        def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
            return cycle_scan(*tensors, [8])  # type: ignore[arg-type, call-arg]

    program = torch.export.export(Caller(), tuple(a.values()))
    calls = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert calls == ["inter2former.cycle_scan.default"]
    assert torch.equal(program.module()(*a.values()), cycle_scan(**a, lengths=[8]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"u": torch.zeros(9, 4)}, r"projected must be \[9, 8\], got \[8, 8\]"),
        ({"u": torch.zeros(1, 8, 4)}, r"expected u \[T, C\]"),
        ({"projected": torch.zeros(8, 9)}, r"projected must be \[8, 8\], got \[8, 9\]"),
        ({"skip": torch.zeros(3)}, r"skip must be \[4\], got \[3\]"),
        ({"bias": torch.zeros(4, 1)}, r"bias must be \[4\], got \[4, 1\]"),
        ({"gamma": torch.zeros(4, 2, 1)}, r"gamma \[C, R\], got"),
        ({"gamma": torch.zeros(4, 0)}, "gamma must have a column for each pass"),
        ({"lengths": [3]}, r"lengths must be positive, and their sum divide the 8 tokens, got \[3\]"),
        ({"lengths": [8, 0]}, "lengths must be positive"),
        ({"lengths": []}, "lengths must be positive"),
        ({"u": torch.zeros(0, 4), "projected": torch.zeros(0, 8)}, "their sum divide the 0 tokens"),
    ],
)
def test_other_shapes_are_refused(change: dict[str, Any], message: str) -> None:
    a = {name: tensor.float() for name, tensor in draw(tokens=8, channels=4, states=2, repeats=2).items()}
    with pytest.raises(ValueError, match=message):
        cycle_scan(**({**a, "lengths": [8]} | change))


@pytest.mark.parametrize(
    ("name", "shape"), [("u", (4, 3)), ("delta", (1, 5, 3)), ("c", (1, 4, 3)), ("skip", (2,)), ("bias", (1, 3))]
)
def test_other_shapes_of_a_plain_scan_are_refused(name: str, shape: tuple[int, ...]) -> None:
    given = {"u": (1, 4, 3), "delta": (1, 4, 3), "b": (1, 4, 2), "c": (1, 4, 2), "rate": (3, 2), "skip": (3,)}
    given |= {"bias": (3,), name: shape}
    with pytest.raises(ValueError, match=rf"{name} must be|expected u \[S, T, C\]"):
        selective_scan(**{key: torch.zeros(size) for key, size in given.items()})


def test_a_fresh_module_starts_as_in_training() -> None:
    torch.manual_seed(0)
    module = StateSpaceModule(dim=400, states=5, repeats=3)
    assert torch.allclose(module.As_log.exp(), torch.arange(1.0, 6).expand(400, -1))
    assert (module.Ds == 1).all()
    assert (module.gamma == 1).all()
    assert (module.ssm_proj.bias == 0).all()
    weight = module.ssm_proj.weight[:400]
    assert 0.045 < weight.abs().max() <= 0.05  # 400 ** -0.5
    step = torch.nn.functional.softplus(module.ssm_proj_bias)
    assert 1e-3 <= step.min() < 1.1e-3
    assert 0.09 < step.max() <= 0.1 * (1 + 1e-5)
    # The logarithm is uniform: as many below the geometric mean as above.
    assert 150 < int((step < 1e-2).sum()) < 250
