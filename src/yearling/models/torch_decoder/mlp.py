"""Plain, gated and expert MLPs in torch.

Legend: T tokens of a step, E width.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from yearling.core.errors import UnsupportedError
from yearling.models.spec import Experts, Gated, Plain
from yearling.models.torch_decoder.fused import silu_gate
from yearling.models.torch_decoder.leaves import activate
from yearling.models.torch_decoder.tree import Wiring
from yearling.models.weights import Role

__all__ = ["choose_experts", "run_mlp"]

_ROUTED: tuple[Role, Role, Role] = ("gate", "up", "down")
_SHARED: tuple[Role, Role, Role] = ("shared_gate", "shared_up", "shared_down")


def run_mlp(
    owner: nn.Module, wiring: Wiring, mlp: Plain | Gated | Experts, values: Float[Tensor, "T E"]
) -> Float[Tensor, "T E"]:
    """Compute a layer's MLP; its leaves are looked up in `owner`."""
    if not isinstance(mlp, Experts):
        return _dense(owner, wiring, mlp, values, _ROUTED)
    result = _experts(owner, wiring, mlp, values)
    if mlp.shared is not None:
        result = result + _dense(owner, wiring, mlp.shared, values, _SHARED)
    return result


def _dense(
    owner: nn.Module,
    wiring: Wiring,
    mlp: Plain | Gated,
    values: Tensor,
    roles: tuple[Role, Role, Role],
    expert: int | None = None,
) -> Tensor:
    gate, up, down = roles
    if isinstance(mlp, Gated):
        opened, raised = wiring.project(owner, (gate, up), values, expert)
        if mlp.activation == "silu":
            hidden = silu_gate(opened, raised)
        else:
            hidden = activate(opened, mlp.activation) * raised
    else:
        (raised,) = wiring.project(owner, (up,), values, expert)
        hidden = activate(raised, mlp.activation)
    (lowered,) = wiring.project(owner, (down,), hidden, expert)
    return lowered


def _experts(owner: nn.Module, wiring: Wiring, experts: Experts, values: Tensor) -> Tensor:
    (logits,) = wiring.project(owner, ("router",), values)
    chosen, weights = choose_experts(experts, logits.float())
    result = torch.zeros_like(values)
    for expert in range(experts.count):
        rows, places = (chosen == expert).nonzero(as_tuple=True)
        if len(rows):
            output = _dense(owner, wiring, experts.expert, values[rows], _ROUTED, expert)
            share = weights[rows, places, None].to(values.dtype)
            result = result.index_add(0, rows, output * share)
    return result


def choose_experts(
    experts: Experts, logits: Float[Tensor, "T count"]
) -> tuple[Int[Tensor, "T active"], Float[Tensor, "T active"]]:
    """Choose each row's experts by its router logits, ties to the lower number, and weigh them.

    Raises:
        UnsupportedError: the router is random.
    """
    if experts.router == "random":
        raise UnsupportedError(
            "experts with router='random' are not computed yet; topk_softmax and softmax_topk are."
        )
    chosen = logits.sort(dim=-1, descending=True, stable=True).indices[:, : experts.active]
    if experts.router == "topk_softmax":
        return chosen, logits.gather(1, chosen).softmax(-1)
    weights = logits.softmax(-1).gather(1, chosen)
    if experts.is_renormalised:
        weights = weights / weights.sum(-1, keepdim=True)
    return chosen, weights
