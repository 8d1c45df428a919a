"""What a checkpoint holds of modules and optimizers: by name, and no weight that never changes."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from yearling.core.errors import CheckpointError
from yearling.training.objective import Update

__all__ = ["ModuleState", "load_optimizer_state", "optimizer_state"]


class ModuleState:
    """Reads and restores one module's state.

    Left out are frozen parameters of a module that also has trained ones, as a base model under
    an adapter: the run finds them in the base again. One of them that is changed in place after
    this was made is kept as well. All buffers and all parameters of a module without trained
    ones, such as an EMA target, are kept.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        parameters = dict(module.named_parameters(remove_duplicate=False))
        self._versions: dict[str, int] = {}
        if any(parameter.requires_grad for parameter in parameters.values()):
            self._versions = {
                name: parameter._version
                for name, parameter in parameters.items()
                if not parameter.requires_grad
            }

    def state_dict(self) -> dict[str, Tensor]:
        """Give what a checkpoint must hold."""
        state: dict[str, Tensor] = self._module.state_dict()
        return {name: value for name, value in state.items() if not self._is_constant(name)}

    def load_state_dict(self, name: str, state: Mapping[str, Tensor]) -> None:
        """Take it back.

        Args:
            name: Of the module, for messages.
        Raises:
            CheckpointError: the state is of another module.
        """
        result = self._module.load_state_dict(dict(state), strict=False)
        missing = [key for key in result.missing_keys if key not in self._versions]
        if missing or result.unexpected_keys:
            raise CheckpointError(
                f"module {name!r}: the checkpoint lacks {missing[:3]} and has "
                f"{result.unexpected_keys[:3]}, which this run has not.\n"
                "  It was written with another model, adapter or method; start a new run."
            )

    def _is_constant(self, name: str) -> bool:
        version = self._versions.get(name)
        return version is not None and self._module.get_parameter(name)._version == version


def optimizer_state(optimizer: torch.optim.Optimizer, update: Update[Any]) -> dict[str, Any]:
    """Give an optimizer's state with parameters' names in the place of their numbers."""
    names = _names(optimizer, update)
    state = optimizer.state_dict()
    groups = [
        {**group, "params": [names[number] for number in group["params"]]}
        for group in state["param_groups"]
    ]
    values = {names.get(key, key): value for key, value in state["state"].items()}
    return {**state, "state": values, "param_groups": groups}


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, update: Update[Any], state: Mapping[str, Any]
) -> None:
    """Take it back.

    Raises:
        CheckpointError: it is of other parameters.
    """
    names = _names(optimizer, update)
    numbers = {name: number for number, name in names.items()}
    saved = {name for group in state["param_groups"] for name in group["params"]}
    if saved != set(numbers):
        raise CheckpointError(
            f"optimizer of {update.name!r}: the checkpoint has {len(saved)} parameters, this run "
            f"{len(numbers)}; {sorted(saved ^ set(numbers))[:3]} are in one alone.\n"
            "  It was written with another model, adapter or method; start a new run."
        )
    groups = [
        {**group, "params": [numbers[name] for name in group["params"]]}
        for group in state["param_groups"]
    ]
    values = {numbers.get(key, key): value for key, value in state["state"].items()}
    optimizer.load_state_dict({**state, "state": values, "param_groups": groups})


def _names(optimizer: torch.optim.Optimizer, update: Update[Any]) -> dict[Any, str]:
    """Names by the numbers that PyTorch's `state_dict` gives parameters."""
    by_id = {id(parameter): name for name, parameter in update.parameters.items()}
    everything = [p for group in optimizer.param_groups for p in group["params"]]
    return {number: by_id[id(parameter)] for number, parameter in enumerate(everything)}
