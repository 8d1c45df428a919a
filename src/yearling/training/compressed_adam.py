"""AdamW whose moments are kept compressed and exist in full only while a tensor is stepped.

Every step, tensor by tensor: restore both moments, update them and the weights in float32 as
AdamW does, compress them again.

Source: Li, Chen and Zhu 2023, arXiv:2309.01507.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from yearling.training.moments import Exact, MomentStore
from yearling.training.optimizers import ParameterGroup
from yearling.training.sharded import refuse_sharded

__all__ = ["CompressedAdamW", "compressed_state_bytes"]

_STEP_BYTES = 4
_EXACT = Exact()


class CompressedAdamW(torch.optim.Optimizer):
    """AdamW over moments in stores.

    State by parameter: `step`, and what the stores keep, as `first.codes`, `second.scale` …
    A parameter group may set `is_compressed` false to keep its moments in float32, which the
    authors do for embeddings by choice.
    """

    def __init__(
        self,
        groups: Iterable[ParameterGroup],
        defaults: Mapping[str, Any],
        *,
        first: MomentStore,
        second: MomentStore,
        smallest_compressed: int,
    ) -> None:
        """Make it.

        Args:
            defaults: `lr`, `weight_decay`, `beta1`, `beta2`, `epsilon` of groups without their own.
            first: Keeps the mean of gradients.
            second: Keeps the mean of their squares.
            smallest_compressed: Elements a tensor must have; smaller ones keep float32.
        Raises:
            UnsupportedError: parameters are sharded over processes.
        """
        super().__init__(groups, {**defaults, "is_compressed": True})
        refuse_sharded(parameter for group in self.param_groups for parameter in group["params"])
        self._first = first
        self._second = second
        self._smallest_compressed = smallest_compressed
        # torch would turn codes and scales into the type of the weights.
        self.register_load_state_dict_pre_hook(_seal)
        self.register_load_state_dict_post_hook(_unseal)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move every parameter that has a gradient.

        Args:
            closure: Computes the gradient first, as torch's optimizers allow.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step_one(parameter, group)
        return loss

    def _step_one(self, parameter: nn.Parameter, group: ParameterGroup) -> None:
        state, gradient = self.state[parameter], _gradient(parameter)
        is_small = parameter.numel() < self._smallest_compressed
        is_exact = is_small or not group["is_compressed"]
        first, second = (_EXACT, _EXACT) if is_exact else (self._first, self._second)
        mean, square = torch.zeros_like(gradient), torch.zeros_like(gradient)
        if state:
            mean = first.restore(_part(state, "first."), parameter.shape)
            square = second.restore(_part(state, "second."), parameter.shape)
        else:
            state["step"] = torch.tensor(0.0)
        state["step"] += 1
        mean.lerp_(gradient, 1 - group["beta1"])
        square.mul_(group["beta2"]).addcmul_(gradient, gradient, value=1 - group["beta2"])
        _move(parameter, mean, square, group, state["step"].item())
        state.update({f"first.{key}": value for key, value in first.compress(mean).items()})
        state.update({f"second.{key}": value for key, value in second.compress(square).items()})


def compressed_state_bytes(
    parameter: nn.Parameter, first: MomentStore, second: MomentStore, smallest_compressed: int
) -> float:
    """Bytes of state for a parameter of a group that is compressed."""
    if parameter.numel() < smallest_compressed:
        first, second = _EXACT, _EXACT
    return first.num_bytes(parameter.shape) + second.num_bytes(parameter.shape) + _STEP_BYTES


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None, "only parameters with a gradient are stepped"
    return parameter.grad.float()


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)}


def _move(
    parameter: nn.Parameter, mean: Tensor, square: Tensor, group: ParameterGroup, step: float
) -> None:
    """Take AdamW's step from moments that start at zero, hence the corrections."""
    weights = parameter.float()  # the parameter itself, when it is float32
    weights.mul_(1 - group["lr"] * group["weight_decay"])
    root = (square / (1 - group["beta2"] ** step)).sqrt_().add_(group["epsilon"])
    weights.addcdiv_(mean, root, value=-group["lr"] / (1 - group["beta1"] ** step))
    if weights is not parameter:
        parameter.copy_(weights)


class _Sealed:
    """State of a parameter that `load_state_dict` hands through without looking inside."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self.state = state


def _seal(_: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    sealed = {key: _Sealed(state) for key, state in state_dict["state"].items()}
    return {**state_dict, "state": sealed}


def _unseal(optimizer: torch.optim.Optimizer) -> None:
    for parameter, sealed in optimizer.state.items():
        assert isinstance(sealed, _Sealed), "the hook before has wrapped it"
        optimizer.state[parameter] = {
            key: value.clone() if key == "step" else value.to(parameter.device, copy=True)
            for key, value in sealed.state.items()
        }
