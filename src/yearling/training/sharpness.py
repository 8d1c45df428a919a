"""What sharpness-aware optimizers share: the climb to the worst point nearby, and the base step.

They move by another optimizer, the base, and own no state of their own: a checkpoint holds the
base's. Between the two gradients the weights are elsewhere, and come back whatever happens.

Source: Foret, Kleiner, Mobahi and Neyshabur 2020, arXiv:2010.01412, equation 2; Kwon et al. 2021,
arXiv:2102.11600 (adaptive).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from yearling.core.config import Config
from yearling.core.errors import TrainingError
from yearling.training.optimizers import ParameterGroup
from yearling.training.sharded import whole

__all__ = [
    "BaseConfig",
    "adopt",
    "base_state_bytes",
    "build_base",
    "gradient_at_worst",
    "gradients",
    "moving_parameters",
]

_STEP_BYTES = 4


class BaseConfig(Config):
    """Options of the optimizer that moves the weights."""

    lr: float = Field(1e-3, ge=0, description="Learning rate of the base.")
    weight_decay: float = Field(
        0.0,
        ge=0,
        description="Decay of weights, as the base has it: decoupled in AdamW, L2 in SGD.",
    )
    base: Literal["adamw", "sgd"] = Field("adamw", description="Optimizer that takes the step.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Share of SGD's velocity that stays.")
    beta1: float = Field(0.9, ge=0, lt=1, description="AdamW's share of the first moment.")
    beta2: float = Field(0.999, ge=0, lt=1, description="AdamW's share of the second moment.")
    epsilon: float = Field(1e-8, gt=0, description="Added to the root of AdamW's second moment.")
    rho: float = Field(
        0.05, ge=0, description="Radius around the weights in which the worst point is sought."
    )
    is_adaptive: bool = Field(
        False, description="Measure the radius relative to each weight's size; rho is then larger."
    )


def build_base(groups: Iterable[ParameterGroup], config: BaseConfig) -> torch.optim.Optimizer:
    """Make the optimizer that moves the weights."""
    if config.base == "sgd":
        return torch.optim.SGD(
            groups, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
        )
    betas = (config.beta1, config.beta2)
    return torch.optim.AdamW(
        groups, lr=config.lr, betas=betas, eps=config.epsilon, weight_decay=config.weight_decay
    )


def base_state_bytes(parameter: nn.Parameter, config: BaseConfig) -> float:
    """Bytes of the base's state; during a step come the weights and a gradient once more."""
    size = parameter.numel() * parameter.element_size()
    if config.base == "sgd":
        return size if config.momentum else 0
    return 2 * size + _STEP_BYTES


def adopt(outer: torch.optim.Optimizer, base: torch.optim.Optimizer) -> None:
    """Let an optimizer have the groups and state of its base: one rate, one checkpoint."""
    outer.param_groups, outer.state = base.param_groups, base.state

    def hand_on(loaded: torch.optim.Optimizer) -> None:
        base.__setstate__({"state": loaded.state, "param_groups": loaded.param_groups})

    outer.register_load_state_dict_post_hook(hand_on)


def moving_parameters(groups: Sequence[ParameterGroup]) -> list[nn.Parameter]:
    """Parameters that have a gradient."""
    found = [parameter for group in groups for parameter in group["params"]]
    return [parameter for parameter in found if parameter.grad is not None]


def gradients(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """Copy the gradients, since the next backward pass may write where these are."""
    return [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]


def gradient_at_worst(
    parameters: Sequence[nn.Parameter], config: BaseConfig, closure: Callable[[], Any] | None
) -> Any:
    """Replace the gradients by those at the worst point nearby, and stay where we are.

    The point is rho · g / ‖g‖ away, over all parameters together; adaptive, rho · w²g / ‖wg‖.
    Where the gradient is zero there is nowhere to climb, and the gradients stay.

    Args:
        parameters: With their gradients.
        closure: Clears the gradients and computes them again.
    Returns:
        What the closure returns.
    Raises:
        TrainingError: there is no closure.
    Source: Foret et al. 2020, equation 2; Kwon et al. 2021, equation 6.
    """
    directions, norm = _ascent(parameters, is_adaptive=config.is_adaptive)
    if norm == 0:
        return None
    if closure is None:
        raise TrainingError(
            "sharpness-aware optimizers need a second gradient: call step(closure) with a function "
            "that clears the gradients and computes them again."
        )
    with _moved(parameters, directions, config.rho / norm), torch.enable_grad():
        return closure()


def _ascent(parameters: Sequence[nn.Parameter], *, is_adaptive: bool) -> tuple[list[Tensor], float]:
    """Give directions up, and the length that the radius is divided by."""
    slopes = gradients(parameters)
    if not is_adaptive:
        return slopes, _norm(slopes)
    sizes = [parameter.detach().abs() for parameter in parameters]
    scaled = [slope * size for slope, size in zip(slopes, sizes, strict=True)]
    return [slope * size for slope, size in zip(scaled, sizes, strict=True)], _norm(scaled)


@contextmanager
def _moved(
    parameters: Sequence[nn.Parameter], directions: Sequence[Tensor], length: float
) -> Iterator[None]:
    """Stand elsewhere for a while; the weights come back to the bit, whatever happens there."""
    before = [parameter.detach().clone() for parameter in parameters]
    try:
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.add_(direction, alpha=length)
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, before, strict=True):
                parameter.copy_(value)


def _norm(tensors: Sequence[Tensor]) -> float:
    """Length of all tensors as one vector, over every process that holds a part of them."""
    return float(whole(torch.nn.utils.get_total_norm(tensors)))
