"""How many blocks and slots each cache group of a model gets."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from yearling.core.errors import CapacityError
from yearling.models.cache_layout import CacheGroup
from yearling.serving.executor import CacheShape

__all__ = ["CacheDemand", "cache_shapes"]


@dataclass(frozen=True, slots=True)
class CacheDemand:
    """What sequences will ask of a cache.

    Attributes:
        context: Tokens of the longest sequence.
        max_sequences: Sequences that run at once.
        max_step_tokens: Tokens of one sequence that a step holds at most.
        block_tokens: Tokens per block.
        float_bytes: Size of a cached number; states are float32.
    """

    context: int
    max_sequences: int
    max_step_tokens: int
    block_tokens: int
    float_bytes: int


def cache_shapes(
    groups: Sequence[CacheGroup], demand: CacheDemand, *, num_bytes: int, most_contexts: int | None
) -> tuple[CacheShape, ...]:
    """Share bytes among groups.

    States come first: one slot for each running sequence. All groups of blocks get the same
    number, for a short sequence takes as many of each; but no window gets more than all running
    sequences can hold at their widest.

    Args:
        groups: Of the model.
        demand: What sequences will ask.
        num_bytes: Bytes there are.
        most_contexts: Take no more blocks than so many sequences of the whole context fill; None
            takes all bytes.

    Raises:
        CapacityError: the bytes do not hold a slot, or a block of every group.
    """
    slot_bytes = sum(group.slot_floats for group in groups) * 4
    slots = min(demand.max_sequences, num_bytes // slot_bytes) if slot_bytes else 0
    room = num_bytes - slots * slot_bytes
    paged = [group for group in groups if group.kind != "state"]
    num_blocks = _num_blocks(paged, demand, room, most_contexts) if paged else 0
    if (slot_bytes and not slots) or (paged and not num_blocks):
        least = slot_bytes + sum(_block_bytes(group, demand) for group in paged)
        raise CapacityError(
            f"{num_bytes} bytes do not hold one cache block of {demand.block_tokens} tokens (and "
            f"one state) of every layer, which take {least} bytes; give more cache_bytes."
        )
    return tuple(
        CacheShape("state", slots)
        if group.kind == "state"
        else CacheShape(group.kind, min(num_blocks, _most_blocks(group, demand)), group.window)
        for group in groups
    )


def _num_blocks(
    groups: Sequence[CacheGroup], demand: CacheDemand, room: int, most_contexts: int | None
) -> int:
    """Blocks of each group that fit the room, where some need no more than so many."""

    def total_bytes(num_blocks: int) -> int:
        return sum(
            min(num_blocks, _most_blocks(group, demand)) * _block_bytes(group, demand)
            for group in groups
        )

    most = max(_most_blocks(group, demand) for group in groups)
    if most_contexts is not None:
        most = min(most, most_contexts * _blocks(demand.context, demand))
    return bisect_right(range(most + 1), room, key=total_bytes) - 1


def _most_blocks(group: CacheGroup, demand: CacheDemand) -> int:
    """Blocks that all running sequences together can ever hold."""
    widest = demand.context
    if group.window is not None:  # its first and last block may be used in part
        beside = demand.max_step_tokens + 2 * demand.block_tokens
        widest = min(widest, group.window + beside)
    return demand.max_sequences * _blocks(widest, demand)


def _block_bytes(group: CacheGroup, demand: CacheDemand) -> int:
    return group.token_floats * demand.block_tokens * demand.float_bytes


def _blocks(num_tokens: int, demand: CacheDemand) -> int:
    return -(-num_tokens // demand.block_tokens)
