"""Which matrices of a decoder tensor parallelism splits, and how, read off its spec.

Query, key, value, gate and up are split by columns (heads, hidden units), output and down by rows,
the embedding by rows and the head by columns (both are the vocabulary). What cannot be split so
stays whole in every process and computes the same there: fused and transposed leaves, experts,
state spaces, ALiBi, QK-norms over all heads.

Source: Shoeybi et al. 2019, arXiv:1909.08053, section 3 (Megatron-LM).
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, distribute_module, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from yearling.core.errors import UnsupportedError
from yearling.models.places import Place
from yearling.models.spec import Alibi, Attention, Gated, LayerSpec, Plain
from yearling.models.torch_decoder import TorchDecoder
from yearling.models.torch_decoder.leaves import Norm
from yearling.models.weights import Role, Weight

__all__ = ["WholeInEach", "split_tensors", "tensor_plan"]

_HEADS_AXIS = 1  # of (rows, heads, head size)


class WholeInEach(ParallelStyle):
    """Leaves a module whole in every process; its parameters become tensors of the mesh."""

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        return distribute_module(module, device_mesh, None, _enter, _leave)


def split_tensors(decoder: TorchDecoder, mesh: DeviceMesh) -> None:
    """Split a decoder's matrices over a mesh of one dimension, in place.

    Raises:
        UnsupportedError: no layer can be split so, or the decoder has adapters.
    """
    parallelize_module(decoder, mesh, dict(tensor_plan(decoder, mesh.size())))
    for module in decoder.modules():  # what is no leaf's: stacked experts, state matrices
        for name, parameter in module._parameters.items():
            if parameter is not None and not isinstance(parameter, DTensor):
                whole = distribute_tensor(parameter.detach(), mesh, [Replicate()])
                needs = parameter.requires_grad
                module.register_parameter(name, nn.Parameter(whole, requires_grad=needs))


def tensor_plan(decoder: TorchDecoder, size: int) -> Mapping[str, ParallelStyle]:
    """Say for every leaf module how it lies on `size` processes.

    Raises:
        UnsupportedError: no layer can be split so, or the decoder has adapters.
    """
    leaves = _leaves(decoder)
    plan: dict[str, ParallelStyle] = {}
    for number, layer in enumerate(decoder.spec.layers):
        own = {role: path for (at, role), path in leaves.items() if at == number}
        plan |= _attention_plan(layer, own, size) | _mlp_plan(layer, own, size)
    if not plan:
        raise UnsupportedError(
            f"no layer of a model of family {decoder.spec.family!r} can be split over {size} "
            "processes.\n  Use parallel.shard in place of parallel.tensor."
        )
    if (path := leaves.get((None, "embedding"))) is not None:
        plan[path] = RowwiseParallel(input_layouts=Replicate(), output_layouts=Replicate())
    if (path := leaves.get((None, "head"))) is not None:
        plan[path] = ColwiseParallel(output_layouts=Replicate())
    for path, module in decoder.named_modules():
        is_leaf = isinstance(module, nn.Linear | nn.Embedding | nn.Conv1d | Norm)
        if path not in plan and is_leaf and next(module.parameters(), None) is not None:
            plan[path] = WholeInEach()
    return plan


def _attention_plan(
    layer: LayerSpec, own: Mapping[Role, str], size: int
) -> dict[str, ParallelStyle]:
    mixer = layer.mixer
    roles: tuple[Role, ...] = ("query", "key", "value", "output")
    if (
        not isinstance(mixer, Attention)
        or any(role not in own for role in roles)
        or mixer.heads % size
        or mixer.kv_heads % size
        or isinstance(mixer.positions, Alibi)
        or mixer.query_positions is not None
        or (mixer.norm_over == "all_heads" and (mixer.query_norm or mixer.key_norm))
    ):
        return {}
    plan: dict[str, ParallelStyle] = {own[role]: ColwiseParallel() for role in roles[:3]}
    plan[own["output"]] = RowwiseParallel()
    norms: tuple[Role, ...] = ("query_norm", "key_norm")
    for role in norms:
        if role in own:
            style = SequenceParallel(sequence_dim=_HEADS_AXIS, use_local_output=True)
            plan[own[role]] = style
    return plan


def _mlp_plan(layer: LayerSpec, own: Mapping[Role, str], size: int) -> dict[str, ParallelStyle]:
    mlp = layer.mlp
    if not isinstance(mlp, Plain | Gated) or mlp.hidden % size:
        return {}
    rising: tuple[Role, ...] = ("gate", "up") if isinstance(mlp, Gated) else ("up",)
    if any(role not in own for role in (*rising, "down")):
        return {}
    plan: dict[str, ParallelStyle] = {own[role]: ColwiseParallel() for role in rising}
    return plan | {own["down"]: RowwiseParallel()}


def _leaves(decoder: TorchDecoder) -> dict[tuple[int | None, Role], str]:
    """Paths of leaves that hold one role alone, and that PyTorch can split."""
    found = {}
    for weight, place in decoder.places.items():
        if not _is_alone(weight, place):
            continue
        path = place.name.removesuffix(".weight")
        leaf: Any = decoder.get_submodule(path)
        if any(True for _ in leaf.children()):
            raise UnsupportedError(
                f"{path} is a {type(leaf).__name__}: tensor parallelism splits no adapters.\n"
                "  Train all weights, or use parallel.data or parallel.shard."
            )
        if isinstance(leaf, nn.Linear | nn.Embedding | Norm):
            found[weight.layer, weight.role] = path
    return found


def _is_alone(weight: Weight, place: Place) -> bool:
    is_weight = weight.part == "weight" and place.name.endswith(".weight")
    return is_weight and place.rows is None and weight.expert is None


def _enter(module: nn.Module, inputs: Any, device_mesh: DeviceMesh) -> Any:
    def shared(value: Any) -> Any:
        is_plain = isinstance(value, Tensor) and not isinstance(value, DTensor)
        return (
            DTensor.from_local(value, device_mesh, [Replicate()], run_check=False)
            if is_plain
            else value
        )

    return tuple(shared(value) for value in inputs)


def _leave(module: nn.Module, outputs: Any, device_mesh: DeviceMesh) -> Any:
    return outputs.to_local() if isinstance(outputs, DTensor) else outputs
