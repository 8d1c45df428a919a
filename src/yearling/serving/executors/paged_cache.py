"""Paged keys, values and states as torch tensors, in blocks that the scheduler hands out.

Legend: T tokens of a step, K keys a sequence sees, G key heads, D head size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from yearling.models.cache_layout import CacheGroup, CacheLayout
from yearling.models.spec import Attention, ModelSpec, StateSpace
from yearling.models.torch_decoder import SeenKeys, State
from yearling.serving.executor import GroupBlocks, SequenceInput

__all__ = ["BLOCK_TOKENS", "PagedCache"]

BLOCK_TOKENS = 16
"""Tokens per cache block, as in the native core."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """Where a sequence's keys lie: blocks in order, of which some tokens are skipped.

    Blocks that follow each other are a slice, which is read without a copy.
    """

    blocks: slice | Tensor
    skipped: int
    count: int
    first: int


@dataclass(frozen=True, slots=True)
class _Step:
    """A step's places in one group of blocks."""

    written: Tensor
    readings: tuple[_Reading, ...]


class PagedCache:
    """Implements `models.torch_decoder.DecoderCache` for the step that `begin` has named.

    Args:
        spec: Of the model.
        layout: Its cache groups.
        num_blocks: Blocks of each group; slots of the states.
        dtype: Of keys and values; states are float32.
        device: Where they are. On a CPU, memory is taken as blocks fill.
    """

    def __init__(
        self,
        spec: ModelSpec,
        layout: CacheLayout,
        num_blocks: Sequence[int],
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._layout = layout
        self._device = device
        self._stores: list[tuple[Tensor, Tensor]] = []
        for layer, group in zip(spec.layers, layout.group_of_layer, strict=True):
            mixer, count = layer.mixer, num_blocks[group]
            first, second = _store_shapes(mixer, count)
            stored = torch.float32 if isinstance(mixer, StateSpace) else dtype
            self._stores.append(
                (
                    torch.empty(first, dtype=stored, device=device),
                    torch.empty(second, dtype=stored, device=device),
                )
            )
        self._steps: list[_Step | None] = []
        self._slots: list[int] = []
        self._is_new: list[bool] = []

    def begin(self, step: Sequence[SequenceInput]) -> None:
        """Say whose tokens come next, and where they are kept."""
        groups = self._layout.groups
        self._is_new = [sequence.start == 0 for sequence in step]
        self._steps = [
            None if group.kind == "state" else self._places(number, group, step)
            for number, group in enumerate(groups)
        ]
        if groups[-1].kind == "state":
            self._slots = [sequence.groups[-1].blocks[0] for sequence in step]

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> list[SeenKeys]:
        """Keep the step's keys and values of a layer; see `DecoderCache`."""
        step = self._steps[self._layout.group_of_layer[layer]]
        assert step is not None
        key_store, value_store = self._stores[layer]
        for store, new in ((key_store, keys), (value_store, values)):
            store.flatten(0, 1).index_copy_(0, step.written, new.to(store.dtype))
        return [
            SeenKeys(_read(key_store, r), _read(value_store, r), r.first) for r in step.readings
        ]

    def state(self, layer: int, sequence: int) -> State | None:
        """A layer's state before the step; see `DecoderCache`."""
        if self._is_new[sequence]:
            return None
        inputs, hidden = self._stores[layer]
        slot = self._slots[sequence]
        return State(inputs[slot], hidden[slot])

    def keep_state(self, layer: int, sequence: int, state: State) -> None:
        """Keep a layer's state after the step; see `DecoderCache`."""
        inputs, hidden = self._stores[layer]
        slot = self._slots[sequence]
        inputs[slot] = state.inputs
        hidden[slot] = state.hidden

    def _places(self, number: int, group: CacheGroup, step: Sequence[SequenceInput]) -> _Step:
        written: list[int] = []
        readings = []
        for sequence in step:
            table = sequence.groups[number]
            end = sequence.start + len(sequence.tokens)
            written.extend(_place(table, position) for position in range(sequence.start, end))
            first = 0 if group.window is None else max(0, sequence.start + 1 - group.window)
            readings.append(self._reading(table, first, end))
        return _Step(torch.tensor(written, device=self._device), tuple(readings))

    def _reading(self, table: GroupBlocks, first: int, end: int) -> _Reading:
        begin = first // BLOCK_TOKENS - table.first_block
        assert begin >= 0, "a block that the sequence has dropped is wanted"
        blocks = list(table.blocks[begin : -(-end // BLOCK_TOKENS) - table.first_block])
        run = range(blocks[0], blocks[0] + len(blocks))
        if blocks == list(run):
            where: slice | Tensor = slice(run.start, run.stop)
        else:
            where = torch.tensor(blocks, device=self._device)
        return _Reading(where, first % BLOCK_TOKENS, end - first, first)


def _store_shapes(
    mixer: Attention | StateSpace, count: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of a layer's keys and values, or of its inputs and states."""
    if isinstance(mixer, StateSpace):
        inputs = (count, mixer.inner, mixer.convolution - 1)
        return inputs, (count, mixer.inner, mixer.state)
    block = (count, BLOCK_TOKENS, mixer.kv_heads, mixer.head_dim)
    return block, block


def _place(table: GroupBlocks, position: int) -> int:
    block = table.blocks[position // BLOCK_TOKENS - table.first_block]
    return block * BLOCK_TOKENS + position % BLOCK_TOKENS


def _read(store: Tensor, reading: _Reading) -> Tensor:
    blocks = reading.blocks
    found = store[blocks] if isinstance(blocks, slice) else store.index_select(0, blocks)
    return found.flatten(0, 1)[reading.skipped : reading.skipped + reading.count]
