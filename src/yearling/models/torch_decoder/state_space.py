"""Mamba's mixer in torch: causal convolution, selective scan, gate.

Source: Gu and Dao 2023, arXiv:2312.00752, algorithm 2. The recurrence is computed in chunks;
within one, prefix sums of the linear maps h -> a·h + b are doubled, which is as exact as the
recurrence (nothing is divided), takes log2 of the steps, and can be differentiated.

Legend: T tokens of a step, L tokens of one sequence, N states of a channel, E width.
"""

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
    for sequence, segment in enumerate(step.segments):
        before = None if step.cache is None else step.cache.state(number, sequence)
        if before is None:
            before = _empty_state(mixer, inputs)
        scanned, after = _mix(owner, wiring, mixer, inputs[segment.rows], before)
        mixed.append(scanned)
        if step.cache is not None:
            step.cache.keep_state(number, sequence, after)
    (result,) = wiring.project(owner, ("state_output",), torch.cat(mixed) * F.silu(gate))
    return result


def _empty_state(mixer: StateSpace, inputs: Tensor) -> State:
    return State(
        inputs.new_zeros(mixer.inner, mixer.convolution - 1),
        inputs.new_zeros(mixer.inner, mixer.state, dtype=torch.float32),
    )


def _mix(
    owner: nn.Module, wiring: Wiring, mixer: StateSpace, inputs: Tensor, before: State
) -> tuple[Tensor, State]:
    """One sequence without the gate: (L, inner), and its state behind them."""
    joined = torch.cat([before.inputs.to(inputs.dtype), inputs.T], dim=1)
    convolved = F.silu(wiring.leaf(owner, "convolution")(joined[None])[0].T)
    (parameters,) = wiring.project(owner, ("state_parameters",), convolved)
    sizes = [mixer.rank, mixer.state, mixer.state]
    roles: tuple[Role, ...] = ("time_step_norm", "input_matrix_norm", "output_matrix_norm")
    rank, into, out_of = (
        _inner_norm(owner, wiring, mixer, role, part)
        for role, part in zip(roles, torch.split(parameters, sizes, dim=-1), strict=True)
    )
    (time_step,) = wiring.project(owner, ("time_step",), rank)
    scanned, hidden = selective_scan(
        convolved.float(),
        F.softplus(time_step.float()),
        -wiring.values(owner, "state_matrix").float().exp(),
        into.float(),
        out_of.float(),
        before.hidden,
    )
    scanned = scanned + convolved.float() * wiring.values(owner, "skip").float()
    kept = joined[:, joined.shape[1] - (mixer.convolution - 1) :]
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
    inputs: Float[Tensor, "L inner"],
    time_step: Float[Tensor, "L inner"],
    matrix: Float[Tensor, "inner N"],
    into: Float[Tensor, "L N"],
    out_of: Float[Tensor, "L N"],
    state: Float[Tensor, "inner N"],
) -> tuple[Float[Tensor, "L inner"], Float[Tensor, "inner N"]]:
    """Run h = exp(Δ·A)·h + Δ·B·x and read y = C·h, over one sequence.

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
    pieces = (torch.split(part, _CHUNK) for part in (inputs, time_step, into, out_of))
    for x, step, b, c in zip(*pieces, strict=True):
        decay = torch.exp(step[..., None] * matrix)
        states = _scan_chunk(decay, (step * x)[..., None] * b[:, None, :], state)
        outputs.append(torch.einsum("lin,ln->li", states, c))
        state = states[-1]
    return torch.cat(outputs), state


def _scan_chunk(decay: Tensor, added: Tensor, state: Tensor) -> Tensor:
    """All states of h = decay·h + added, in log2 of the steps."""
    added = torch.cat([(added[:1] + decay[:1] * state), added[1:]])
    shift = 1
    while shift < len(added):
        joined = added[shift:] + decay[shift:] * added[:-shift]
        added = torch.cat([added[:shift], joined])
        decay = torch.cat([decay[:shift], decay[shift:] * decay[:-shift]])
        shift *= 2
    return added
