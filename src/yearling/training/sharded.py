"""Parameters that lie across processes: made whole, or refused."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from yearling.core.errors import UnsupportedError

__all__ = ["refuse_sharded", "whole"]


def refuse_sharded(parameters: Iterable[nn.Parameter]) -> None:
    """Refuse parameters that lie across processes, for an optimizer with compressed state.

    A scale that spans the tensor would be another one on each shard, and a checkpoint could not
    be loaded by another number of processes.

    Raises:
        UnsupportedError: a parameter is a `DTensor`.
    """
    if any(_is_sharded(parameter.data) for parameter in parameters):
        raise UnsupportedError(
            "compressed optimizer state has scales over whole tensors, and these parameters are "
            "sharded over processes. Train with data parallelism alone, or take optimizer 'adamw'."
        )


def whole(tensor: Tensor) -> Tensor:
    """Gather a tensor that lies across processes; give any other as it is."""
    if _is_sharded(tensor):
        gathered: Tensor = tensor.full_tensor()  # type: ignore[attr-defined]
        return gathered
    return tensor


def _is_sharded(tensor: Tensor) -> bool:
    if not torch.distributed.is_available():
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)
