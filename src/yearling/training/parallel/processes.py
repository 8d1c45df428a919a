"""What the loop sees of the processes of a run, and how a model is laid over them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from yearling.core.errors import TrainingError
from yearling.models.torch_decoder import TorchDecoder
from yearling.training.objective import Loss, Update
from yearling.training.parallel.config import ParallelConfig
from yearling.training.parallel.tensor_plan import split_tensors

__all__ = ["Processes"]


class Processes:
    """The processes of a run, on a mesh of data x shard x tensor.

    Attributes:
        mesh: With dimensions `data`, `shard` and `tensor`.
        rank: Of this process among those with rows of their own.
        size: How many of those there are.
        is_first: Whether this process writes what is written once.
        gradient_factor: What losses are multiplied by, as DDP and FSDP2 average over `size`.
    """

    def __init__(self, config: ParallelConfig, device_type: str = "cpu") -> None:
        """Lay out the mesh; all processes of an open group do it together.

        Raises:
            ConfigError: the configuration is for another number of processes.
        """
        sizes = config.sizes(dist.get_world_size())
        self.mesh = init_device_mesh(device_type, sizes, mesh_dim_names=("data", "shard", "tensor"))
        data, shard, self._num_tensor = sizes
        self.size = data * shard
        self.rank = dist.get_rank() // self._num_tensor
        self.is_first = dist.get_rank() == 0
        self.gradient_factor = float(self.size)
        self._device_type = device_type
        self._is_sharding = shard > 1
        self._finds_unused = config.finds_unused
        self._rows_group = self.mesh["data", "shard"]._flatten("rows").get_group()
        self._sharded: list[FSDPModule] = []
        self._copies: dict[str, DistributedDataParallel] = {}

    def lay_out(self, model: TorchDecoder) -> None:
        """Split and shard a model in place, before anything holds on to its parameters.

        Adapters must be in place, `requires_grad` set, and values the same in every process.

        Raises:
            UnsupportedError: tensor parallelism cannot split it.
        """
        if self._num_tensor > 1:
            split_tensors(model, self.mesh["tensor"])
        if not self._is_sharding:
            return
        has_copies = self.mesh["data"].size() > 1
        mesh: DeviceMesh = self.mesh["data", "shard"] if has_copies else self.mesh["shard"]
        for layer in model.iterate_layers():
            fully_shard(layer, mesh=mesh)
        # The head is used after the forward pass has ended, so the root stays gathered until then.
        fully_shard(model, mesh=mesh, reshard_after_forward=False)
        assert isinstance(model, FSDPModule)
        self._sharded.append(model)

    def total(self, values: Sequence[float]) -> list[float]:
        """Sum each value over all processes with rows of their own; the same bits in each."""
        sums = torch.tensor(values, dtype=torch.float64, device=self._device_type)
        dist.all_reduce(sums, group=self._rows_group)
        result: list[float] = sums.tolist()
        return result

    def loss_of(self, update: Update[Any]) -> Callable[[Any], Loss]:
        """Give what computes an update's loss, so that DDP sees its forward pass.

        Raises:
            TrainingError: the model is to be sharded, and a parameter of the update is not.
        """
        if self._is_sharding or self._num_tensor > 1:
            self._refuse_whole(update)
            return update.loss
        if self.size == 1:
            return update.loss
        if update.name not in self._copies:
            self._copies[update.name] = DistributedDataParallel(
                _LossModule(update), find_unused_parameters=self._finds_unused
            )
        copy = self._copies[update.name]

        def compute(batch: Any) -> Loss:
            total = copy(batch)
            return Loss(total, copy.module.metrics)

        return compute

    @contextmanager
    def exchanging(self, *, is_last: bool) -> Iterator[None]:
        """Stand around a micro-batch; gradients are exchanged in the last one alone."""
        for module in self._sharded:
            module.set_requires_gradient_sync(is_last)
        was_on = {name: copy.require_backward_grad_sync for name, copy in self._copies.items()}
        for copy in self._copies.values():
            copy.require_backward_grad_sync = is_last
        try:
            yield
        finally:
            for name, copy in self._copies.items():
                copy.require_backward_grad_sync = was_on[name]

    def _refuse_whole(self, update: Update[Any]) -> None:
        whole = [n for n, p in update.parameters.items() if not isinstance(p.data, DTensor)]
        if whole:
            raise TrainingError(
                f"{update.name}: {len(whole)} trained parameters, {whole[0]!r} first, do not lie "
                "across the processes, so their gradients would differ.\n"
                "  Lay out the model before the method reads its parameters, or use "
                "parallel.data alone."
            )


class _LossModule(nn.Module):
    """An update's loss as a module's forward pass, over what the update trains."""

    def __init__(self, update: Update[Any]) -> None:
        super().__init__()
        self._loss = update.loss
        self.metrics: dict[str, float] = {}
        for number, parameter in enumerate(update.parameters.values()):
            self.register_parameter(f"parameter_{number}", parameter)

    def forward(self, batch: Any) -> Tensor:
        loss = self._loss(batch)
        self.metrics = dict(loss.metrics)
        return loss.total
