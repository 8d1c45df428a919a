"""What a forward pass keeps for its backward pass, found by running it without memory.

The decoder runs on torch's `meta` device, where tensors have shapes and no values, and autograd's
own hooks say which of them it keeps. So any family, adapter or fused layer is counted as it is,
and no formula per part can go out of date.

Legend: T tokens of a micro-batch, E width.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode

from yearling.models.spec import Experts, StateSpace
from yearling.models.torch_decoder import Segments, TorchDecoder

__all__ = ["Activations", "measure_activations"]

_SCAN_TOKENS = 128  # a scan's graph grows with the tokens: measured on few, and scaled up


@dataclass(frozen=True, slots=True)
class Activations:
    """What one micro-batch keeps, in bytes.

    Attributes:
        kept: By the whole forward pass up to the final norm, all layers' included.
        largest_layer: By the layer that keeps most.
        entries: Inputs of all layers: what is kept of them when layers are computed twice.
        layers: By all layers.
        largest_tensor: The largest single tensor.
    """

    kept: int
    largest_layer: int
    entries: int
    layers: int
    largest_tensor: int

    def held(self, *, uses_checkpointing: bool) -> int:
        """Bytes held when the backward pass is in the layer that keeps most.

        With checkpointing this is every layer's input and one layer's own; the gradients that
        pass through a layer come on top, a few of its largest tensors.
        """
        passing = 3 * self.largest_tensor
        if not uses_checkpointing:
            return self.kept + passing
        return self.kept - self.layers + self.entries + self.largest_layer + passing


def measure_activations(decoder: TorchDecoder, tokens: int, *, sequence_tokens: int) -> Activations:
    """Say what a micro-batch keeps.

    Args:
        decoder: On the meta device, its adapter in place.
        tokens: T.
        sequence_tokens: Tokens of each packed sequence, at most.
    """
    measured = tokens
    if any(isinstance(layer.mixer, StateSpace) for layer in decoder.spec.layers):
        measured = min(tokens, _SCAN_TOKENS)
    found = _run(decoder, measured, min(sequence_tokens, measured))
    scale = tokens / measured
    return Activations(
        *(
            round(value * scale)
            for value in (
                found.kept,
                found.largest_layer,
                found.entries,
                found.layers,
                found.largest_tensor,
            )
        )
    )


def _run(decoder: TorchDecoder, tokens: int, sequence_tokens: int) -> Activations:
    whole, rest = divmod(tokens, sequence_tokens)
    segments = Segments([sequence_tokens] * whole + ([rest] if rest else []))
    book = _Book(decoder.parameters())
    layers: list[int] = []
    width = decoder.spec.width * 4
    with (
        _noted(decoder, book, layers),
        saved_tensors_hooks(book.keep, lambda kept: kept),
        _Shapes(_share_of_experts(decoder)),
        torch.enable_grad(),
    ):
        decoder(torch.zeros(tokens, dtype=torch.int64, device="meta"), segments)
    return Activations(
        kept=book.total,
        largest_layer=max(layers),
        entries=tokens * width * len(layers),
        layers=sum(layers),
        largest_tensor=book.largest,
    )


class _Book:
    """Storages that autograd keeps, each counted once; parameters are not."""

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self._seen = {value.untyped_storage()._cdata for value in parameters}
        self._alive: list[Tensor] = []
        self.total = 0
        self.largest = 0

    def keep(self, value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage._cdata not in self._seen:
            self._seen.add(storage._cdata)
            self._alive.append(value)  # so that no later storage gets the same address
            if value.device.type == "meta":
                self.total += storage.nbytes()
                self.largest = max(self.largest, storage.nbytes())
        return value


@contextmanager
def _noted(decoder: TorchDecoder, book: _Book, layers: list[int]) -> Iterator[None]:
    """Note what each layer keeps, as if none were computed twice."""
    before = [0]
    was_checkpointing, decoder.uses_checkpointing = decoder.uses_checkpointing, False

    def enter(module: nn.Module, inputs: Any) -> None:
        before[0] = book.total

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        layers.append(book.total - before[0])

    hooks = []
    for layer in decoder.iterate_layers():
        hooks += [layer.register_forward_pre_hook(enter), layer.register_forward_hook(leave)]
    try:
        yield
    finally:
        decoder.uses_checkpointing = was_checkpointing
        for hook in hooks:
            hook.remove()


def _share_of_experts(decoder: TorchDecoder) -> float:
    """Share of the chosen places that fall to one expert, evenly dealt."""
    counts = [layer.mlp.count for layer in decoder.spec.layers if isinstance(layer.mlp, Experts)]
    return 1 / min(counts) if counts else 1.0


class _Shapes(TorchFunctionMode):
    """Stands in for what has no answer without values, or another one than on a processor."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self._share = share

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return _Attention.apply(*args[:3], kwargs.get("attn_mask"))  # type: ignore[no-untyped-call]
        if func is torch.Tensor.nonzero and args[0].device.type == "meta":
            count = max(1, round(args[0].numel() * self._share))
            return tuple(
                torch.empty(count, dtype=torch.int64, device="meta") for _ in args[0].shape
            )
        return func(*args, **kwargs)


class _Attention(torch.autograd.Function):
    """Keeps what flash attention keeps: its inputs, its output, a number per row and head."""

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None
    ) -> Tensor:
        mixed = queries.new_empty(*queries.shape[:-1], values.shape[-1])
        sums = queries.new_empty(queries.shape[:-1], dtype=torch.float32)
        bias = None if mask is None else mask.new_empty(mask.shape, dtype=queries.dtype)
        ctx.save_for_backward(queries, keys, values, mixed, sums, bias)
        return mixed
