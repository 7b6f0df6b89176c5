"""The selective scan of HRSAM's state-space modules: the plain recurrence, and the cycle scan as one operator.

A scan carries N states for each of C channels along a sequence of tokens. All arrays are token-major, as the linear
layers around a scan write them, and sums are in float32 or better, also under autocast.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from inter2former_deploy.operators.formulas import operator

BLOCK = 64  # tokens whose states are in memory at a time; with gradients they are computed again on the way back


def selective_scan(
    u: Tensor, delta: Tensor, b: Tensor, c: Tensor, rate: Tensor, skip: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """One pass of the recurrence over sequences of T tokens, from states that are zero.

    With `step = softplus(delta + bias)`, for every channel and state:
    `state_t = exp(step_t * rate) * state_(t-1) + step_t * u_t * b_t`, and the output is
    `y_t = sum over states of c_t * state_t, plus skip * u_t`.

    Args:
        u: What goes in, [S, T, C]: S sequences.
        delta: Step widths before `bias` and softplus, [S, T, C].
        b: Weights of the input, the same for all channels, [S, T, N].
        c: Weights of the states in the output, the same for all channels, [S, T, N].
        rate: A of the recurrence, negative: the decay of each state, [C, N].
        skip: D of the recurrence: weight of the input in the output, [C].
        bias: Added to `delta`, [C].

    Returns:
        Outputs [S, T, C], and the states after the last token [S, N, C].

    Raises:
        ValueError: The shapes do not fit each other.
    """
    _check_scan(u, delta, b, c, rate, skip, bias)
    step = F.softplus(delta + bias)
    y, state = _recurrence(step, step * u, b, c, rate, _zero_states(rate, len(u)))
    return y + skip * u, state


def _like_input(u: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(u, dtype=_working_type(u))


@operator(_like_input)
def cycle_scan(
    u: Tensor, projected: Tensor, rate: Tensor, skip: Tensor, bias: Tensor, gamma: Tensor, lengths: list[int]
) -> Tensor:
    """The selective scan over every sequence R times end to end, the outputs of a token added with weights.

    What an operator in C++ computes, in the layout that it reads: nothing is transposed, split or repeated, and the
    channels are independent of each other, so that threads can share them out. All passes have the same decays and
    the same inputs, and the recurrence is linear in its states; therefore one pass does for all:

    * F is the state after a pass that starts at zero (no outputs needed), and P = exp(rate * sum of steps) what is
      left of a state after a pass. So pass r starts at S_1 = 0, S_(r+1) = P * S_r + F.
    * The weighted sum of all passes is one pass that starts at `sum_r gamma_r * S_r`, whose inputs and whose
      `skip` are multiplied by `sum_r gamma_r`.

    Where the sum of `step * |rate|` from a token to the end exceeds 20, its part of F vanishes in float32: a kernel
    may start the first pass there.

    Args:
        u: What goes into the scan, [T, C]: the tokens of an image's sequences one after the other, image after image.
        projected: Of each token, side by side: delta (C numbers), b and c of the recurrence (N each), [T, C + 2*N].
        rate: As in `selective_scan`, [C, N].
        skip: As in `selective_scan`, [C].
        bias: Added to delta, [C].
        gamma: Weight of each pass, [C, R].
        lengths: Tokens of each sequence of an image; T is a multiple of their sum.

    Returns:
        [T, C], in float32 (float64, if `u` is).

    Raises:
        ValueError: The shapes do not fit each other.
    """
    return _over_sequences(_one_pass, u, projected, rate, skip, bias, gamma, lengths)


def repeated_scan(
    u: Tensor, projected: Tensor, rate: Tensor, skip: Tensor, bias: Tensor, gamma: Tensor, lengths: list[int]
) -> Tensor:
    """`cycle_scan` by its definition, as HRSAM was released: R copies of each sequence go through one scan."""
    return _over_sequences(_all_passes, u, projected, rate, skip, bias, gamma, lengths)


def _over_sequences(
    scan: Callable[..., Tensor],
    u: Tensor,
    projected: Tensor,
    rate: Tensor,
    skip: Tensor,
    bias: Tensor,
    gamma: Tensor,
    lengths: list[int],
) -> Tensor:
    """Runs `scan` on the sequences at the same place of all images together."""
    _check_cycle(u, projected, rate, skip, bias, gamma, lengths)
    with torch.autocast(u.device.type, enabled=False):
        dtype = _working_type(u)
        u, projected, rate, skip, bias, gamma = (t.to(dtype) for t in (u, projected, rate, skip, bias, gamma))
        tokens = torch.cat((u, projected), dim=1)
        sequences = torch.split(torch.unflatten(tokens, 0, (-1, sum(lengths))), lengths, dim=1)  # [images, length, .]
        channels, states = rate.shape
        widths = [channels, channels, states, states]
        outputs = [scan(*torch.split(s, widths, dim=2), rate, skip, bias, gamma) for s in sequences]
        return torch.cat(outputs, dim=1).flatten(0, 1)


def _all_passes(
    u: Tensor, delta: Tensor, b: Tensor, c: Tensor, rate: Tensor, skip: Tensor, bias: Tensor, gamma: Tensor
) -> Tensor:
    """[S, T, .] -> [S, T, C]: the scan as it was released."""
    repeats = gamma.shape[1]
    u, delta, b, c = (t.repeat(1, repeats, 1) for t in (u, delta, b, c))
    y, _ = selective_scan(u, delta, b, c, rate, skip, bias)
    passes = torch.unflatten(y, 1, (repeats, -1))  # [S, R, T, C]
    return torch.sum(passes * gamma.T[:, None], dim=1)


def _one_pass(
    u: Tensor, delta: Tensor, b: Tensor, c: Tensor, rate: Tensor, skip: Tensor, bias: Tensor, gamma: Tensor
) -> Tensor:
    """[S, T, .] -> [S, T, C]: the same from one pass with outputs, and one without."""
    step = F.softplus(delta + bias)
    added, total = step * u, gamma.sum(1)
    start = _zero_states(rate, len(u))  # of pass r
    initial = start  # of the one pass
    if gamma.shape[1] > 1:
        _, gained = _recurrence(step, added, b, None, rate, start)
        kept = torch.exp(step.sum(1)[:, None] * rate.T)
        for weight in gamma.T[1:]:
            start = torch.addcmul(gained, kept, start)
            initial = torch.addcmul(initial, weight, start)
    y, _ = _recurrence(step, total * added, b, c, rate, initial)
    return y + total * skip * u


def _recurrence(
    step: Tensor, added: Tensor, b: Tensor, c: Tensor | None, rate: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """The recurrence block by block.

    Args:
        step: After softplus, [S, T, C].
        added: The inputs times their steps, [S, T, C].
        b: [S, T, N].
        c: [S, T, N], or None: outputs are not wanted.
        rate: [C, N].
        state: Before the first token, [S, N, C].

    Returns:
        Outputs without the skip connection [S, T, C] (of no meaning without `c`), states after the last token.
    """
    block: Callable[..., tuple[Tensor, Tensor]] = _block
    if torch.is_grad_enabled():
        block = partial(checkpoint, _block, use_reentrant=False, preserve_rng_state=False)
    outputs = []
    for start in range(0, step.shape[1], BLOCK):
        part = slice(start, start + BLOCK)
        y, state = block(step[:, part], added[:, part], b[:, part], None if c is None else c[:, part], rate, state)
        outputs.append(y)
    return torch.cat(outputs, dim=1), state


def _block(
    step: Tensor, added: Tensor, b: Tensor, c: Tensor | None, rate: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """A few tokens: everything but the recurrence itself is computed for all of them at once."""
    decays = torch.exp(step[:, :, None] * rate.T.contiguous())  # [S, K, N, C]
    inputs = added[:, :, None] * b[..., None]
    states = []
    for decay, new in zip(decays.unbind(1), inputs.unbind(1), strict=True):
        state = torch.addcmul(new, decay, state)
        states.append(state)
    if c is None:
        return added, state
    return (c[:, :, None] @ torch.stack(states, dim=1))[:, :, 0], state


def _zero_states(rate: Tensor, sequences: int) -> Tensor:
    """[C, N] -> [S, N, C]."""
    return rate.new_zeros(sequences, *reversed(rate.shape))


def _working_type(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _check_scan(u: Tensor, delta: Tensor, b: Tensor, c: Tensor, rate: Tensor, skip: Tensor, bias: Tensor) -> None:
    if u.ndim != 3 or rate.ndim != 2:
        raise ValueError(f"expected u [S, T, C] and rate [C, N], got {list(u.shape)} and {list(rate.shape)}")
    channels, states = rate.shape
    of_states = [*u.shape[:2], states]
    expected = {"u": [*u.shape[:2], channels], "delta": [*u.shape[:2], channels], "b": of_states, "c": of_states}
    _check_shapes(expected | {"skip": [channels], "bias": [channels]}, u=u, delta=delta, b=b, c=c, skip=skip, bias=bias)


def _check_cycle(
    u: Tensor, projected: Tensor, rate: Tensor, skip: Tensor, bias: Tensor, gamma: Tensor, lengths: list[int]
) -> None:
    if u.ndim != 2 or rate.ndim != 2 or gamma.ndim != 2:
        shapes = ", ".join(str(list(t.shape)) for t in (u, rate, gamma))
        raise ValueError(f"expected u [T, C], rate [C, N] and gamma [C, R], got {shapes}")
    tokens, (channels, states) = len(u), rate.shape
    expected = {"u": [tokens, channels], "projected": [tokens, channels + 2 * states], "skip": [channels]}
    expected |= {"bias": [channels], "gamma": [channels, gamma.shape[1]]}
    _check_shapes(expected, u=u, projected=projected, skip=skip, bias=bias, gamma=gamma)
    if gamma.shape[1] < 1:
        raise ValueError("gamma must have a column for each pass, got none")
    if not lengths or min(lengths) < 1 or tokens == 0 or tokens % sum(lengths):
        raise ValueError(f"lengths must be positive, and their sum divide the {tokens} tokens, got {lengths}")


def _check_shapes(expected: dict[str, list[int]], **tensors: Tensor) -> None:
    wrong = [
        f"{name} must be {expected[name]}, got {list(tensor.shape)}"
        for name, tensor in tensors.items()
        if list(tensor.shape) != expected[name]
    ]
    if wrong:
        raise ValueError("; ".join(wrong))
