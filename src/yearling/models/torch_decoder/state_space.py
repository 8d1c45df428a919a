"""Mamba's mixer in torch: causal convolution, selective scan, gate.

Source: Gu and Dao 2023, arXiv:2312.00752, algorithm 2. The recurrence runs token by token over all
sequences of a step that are equally long, and so does its gradient: in order it takes one multiply
and add a state, where prefix sums take log2 of the tokens. Forward and back over 32 sequences of
64 tokens, 64 channels and 8 states take 25 ms on one core; doubled prefix sums took 180 ms.

Legend: T tokens of a step, S sequences, L tokens of one, N states of a channel, E width.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from yearling.models.spec import StateSpace
from yearling.models.torch_decoder.attention import Step
from yearling.models.torch_decoder.cache import State
from yearling.models.torch_decoder.leaves import normalise
from yearling.models.torch_decoder.tree import Wiring
from yearling.models.weights import Role

__all__ = ["run_state_space", "selective_scan"]

_CHUNK = 64  # longer ones need more memory, shorter ones more calls


def run_state_space(
    owner: nn.Module,
    wiring: Wiring,
    mixer: StateSpace,
    hidden: Float[Tensor, "T E"],
    step: Step,
    number: int,
) -> Float[Tensor, "T E"]:
    """Mix the rows of each sequence.

    Args:
        owner: The layer, whose leaves project.
        number: The layer's number, by which the cache knows it.
    """
    (projected,) = wiring.project(owner, ("state_input",), hidden)
    inputs, gate = projected.chunk(2, dim=-1)
    mixed = []
    if step.cache is None and len(lengths := set(step.segments.lengths)) == 1:
        rows = inputs.reshape(-1, lengths.pop(), mixer.inner)
        scanned, _ = _mix(owner, wiring, mixer, rows, _empty_state(mixer, rows))
        mixed.append(scanned.flatten(0, 1))
    else:
        for sequence, segment in enumerate(step.segments):
            before = None if step.cache is None else step.cache.state(number, sequence)
            rows = inputs[segment.rows][None]
            first = _empty_state(mixer, rows) if before is None else _stacked(before)
            scanned, after = _mix(owner, wiring, mixer, rows, first)
            mixed.append(scanned[0])
            if step.cache is not None:
                step.cache.keep_state(number, sequence, State(after.inputs[0], after.hidden[0]))
    (result,) = wiring.project(owner, ("state_output",), torch.cat(mixed) * F.silu(gate))
    return result


def _stacked(state: State) -> State:
    return State(state.inputs[None], state.hidden[None])


def _empty_state(mixer: StateSpace, inputs: Float[Tensor, "S L inner"]) -> State:
    count = len(inputs)
    return State(
        inputs.new_zeros(count, mixer.inner, mixer.convolution - 1),
        inputs.new_zeros(count, mixer.inner, mixer.state, dtype=torch.float32),
    )


def _mix(
    owner: nn.Module,
    wiring: Wiring,
    mixer: StateSpace,
    inputs: Float[Tensor, "S L inner"],
    before: State,
) -> tuple[Float[Tensor, "S L inner"], State]:
    """Sequences without the gate, and their states behind them, stacked like `before`."""
    joined = torch.cat([before.inputs.to(inputs.dtype), inputs.mT], dim=2)
    convolved = F.silu(wiring.leaf(owner, "convolution")(joined).mT)
    rows = convolved.flatten(0, 1)  # leaves, and the adapters in their places, take rows
    (parameters,) = wiring.project(owner, ("state_parameters",), rows)
    sizes = [mixer.rank, mixer.state, mixer.state]
    roles: tuple[Role, ...] = ("time_step_norm", "input_matrix_norm", "output_matrix_norm")
    rank, into, out_of = (
        _inner_norm(owner, wiring, mixer, role, part)
        for role, part in zip(roles, torch.split(parameters, sizes, dim=-1), strict=True)
    )
    (time_step,) = wiring.project(owner, ("time_step",), rank)
    scanned, hidden = selective_scan(
        convolved.float(),
        F.softplus(time_step.float()).view_as(convolved),
        -wiring.values(owner, "state_matrix").float().exp(),
        into.float().view(*inputs.shape[:2], -1),
        out_of.float().view(*inputs.shape[:2], -1),
        before.hidden,
    )
    scanned = scanned + convolved.float() * wiring.values(owner, "skip").float()
    kept = joined[..., joined.shape[-1] - (mixer.convolution - 1) :]
    return scanned.to(inputs.dtype), State(kept, hidden)


def _inner_norm(
    owner: nn.Module, wiring: Wiring, mixer: StateSpace, role: Role, values: Tensor
) -> Tensor:
    if mixer.inner_norm is None:
        return values
    if not wiring.has(role):
        return normalise(values, mixer.inner_norm)
    normed = wiring.leaf(owner, role)(values)
    assert isinstance(normed, Tensor)
    return normed


def selective_scan(
    inputs: Float[Tensor, "S L inner"],
    time_step: Float[Tensor, "S L inner"],
    matrix: Float[Tensor, "inner N"],
    into: Float[Tensor, "S L N"],
    out_of: Float[Tensor, "S L N"],
    state: Float[Tensor, "S inner N"],
) -> tuple[Float[Tensor, "S L inner"], Float[Tensor, "S inner N"]]:
    """Run h = exp(Δ·A)·h + Δ·B·x and read y = C·h, over sequences of one length.

    Args:
        inputs: x.
        time_step: Δ, positive.
        matrix: A, negative.
        into: B.
        out_of: C.
        state: h before the first token.

    Returns:
        y, and h behind the last token.
    """
    outputs = []
    pieces = (torch.split(part, _CHUNK, dim=1) for part in (inputs, time_step, into, out_of))
    for x, step, b, c in zip(*pieces, strict=True):
        output, state = _ScanChunk.apply(x, step, matrix, b, c, state)  # type: ignore[no-untyped-call]
        outputs.append(output)
    return torch.cat(outputs, dim=1), state


class _ScanChunk(torch.autograd.Function):
    """The recurrence over a few tokens; inside, tokens come first, so that each is one piece.

    With g the gradient by h, g_t = C_t·dy_t + decay_{t+1}·g_{t+1}, from the last token back.
    """

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        time_step: Tensor,
        matrix: Tensor,
        into: Tensor,
        out_of: Tensor,
        state: Tensor,
    ) -> tuple[Tensor, Tensor]:
        x, step, b, c = _tokens_first(inputs, time_step, into, out_of)
        decay = (step[..., None] * matrix).exp_()
        states = (step * x)[..., None] * b[:, :, None]
        before = state
        for kept, now in zip(decay, states, strict=True):
            before = now.addcmul_(kept, before)
        ctx.save_for_backward(x, step, matrix, b, c, state, decay, states)
        return _read(states, c).transpose(0, 1), before.clone()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, ...]:
        x, step, matrix, b, c, state, decay, states = ctx.saved_tensors
        (above,) = _tokens_first(upstream[0].to(states.dtype))
        slope = above[..., None] * c[:, :, None]
        slope[-1] += upstream[1]
        for number in range(len(slope) - 2, -1, -1):
            slope[number].addcmul_(decay[number + 1], slope[number + 1])
        by_c, by_b = _write(above, states), _write(step * x, slope)
        by_added = _read(slope, b)
        by_exponent = slope.mul_(decay)
        by_state = by_exponent[0].clone()
        by_exponent[1:].mul_(states[:-1])
        by_exponent[0].mul_(state)
        by_step = (by_exponent * matrix).sum(-1) + by_added * x
        by_matrix = (by_exponent * step[..., None]).sum((0, 1))
        by_x, by_step, by_b, by_c = _tokens_first(by_added * step, by_step, by_b, by_c)
        return by_x, by_step, by_matrix, by_b, by_c, by_state


def _tokens_first(*parts: Tensor) -> list[Tensor]:
    """Swap sequences and tokens; twice is as before."""
    return [part.transpose(0, 1).contiguous() for part in parts]


def _read(states: Float[Tensor, "L S inner N"], by: Float[Tensor, "L S N"]) -> Tensor:
    """Sum over states: (L, S, inner)."""
    return _product(states, by[..., None])[..., 0]


def _write(channels: Float[Tensor, "L S inner"], states: Float[Tensor, "L S inner N"]) -> Tensor:
    """Sum over channels: (L, S, N)."""
    return _product(channels[:, :, None], states)[:, :, 0]


def _product(left: Tensor, right: Tensor) -> Tensor:
    with torch.autocast(left.device.type, enabled=False):  # the scan is float32 throughout
        return left @ right
