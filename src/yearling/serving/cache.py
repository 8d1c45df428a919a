"""Book-keeping of the paged cache over all its groups: who holds what, and who may share it.

Plain Python: keys, values and states themselves live in the executor, which is told numbers.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from yearling.serving.block_pool import KeyChain
from yearling.serving.cache_groups import (
    BlockTable,
    CacheGroup,
    FullGroup,
    StateGroup,
    WindowGroup,
)
from yearling.serving.executor import CacheShape, GroupBlocks

__all__ = ["Cache", "SequenceTables", "new_group"]


@dataclass(eq=False, slots=True)
class SequenceTables:
    """What one sequence holds in every group; made by `Cache.new_tables`.

    Attributes:
        keys: Keys of its full blocks, the same in all groups.
        tables: One per group.
        is_held: Whether the sequence has its place in the cache.
    """

    keys: KeyChain
    tables: tuple[BlockTable, ...]
    is_held: bool = False

    @property
    def num_blocks(self) -> int:
        """Blocks and slots held over all groups."""
        return sum(len(table.blocks) for table in self.tables)

    def groups(self) -> tuple[GroupBlocks, ...]:
        """The tables as an executor is given them; they stay ours."""
        return tuple(GroupBlocks(table.blocks, table.first_block) for table in self.tables)


class Cache:
    """All cache groups of an executor; a sequence gets its place in every one of them or in none.

    A prefix is reused when every full group still has all its blocks, and every window group
    those that the next token sees.

    Attributes:
        groups: In the executor's order.
        block_size: Tokens per block.
        can_share: Whether equal prefixes may be shared at all.
    """

    def __init__(
        self, groups: Sequence[CacheGroup], block_size: int, *, can_share: bool = True
    ) -> None:
        self.groups = tuple(groups)
        self.block_size = block_size
        self.can_share = can_share
        self._counted = [g for g in groups if isinstance(g, FullGroup)] or self.groups
        # A full table grows with its sequence anyway, so keys beside it keep nothing flat.
        self._keeps_keys = any(isinstance(group, FullGroup) for group in groups)

    @property
    def num_blocks(self) -> int:
        """Blocks of the full groups; of all groups when there is none."""
        return sum(group.num_blocks for group in self._counted)

    @property
    def num_free(self) -> int:
        """Those of `num_blocks` in nobody's use; some may hold contents worth finding."""
        return sum(group.num_free for group in self._counted)

    @property
    def longest_sequence(self) -> int | None:
        """Tokens one sequence may have; None when no group sets a bound."""
        return _smallest(group.longest_sequence for group in self.groups)

    @property
    def longest_chunk(self) -> int | None:
        """Tokens of one sequence that a step may bring forward; None sets no bound."""
        return _smallest(group.longest_chunk for group in self.groups)

    def new_tables(self, root: bytes) -> SequenceTables:
        """Empty tables of a new sequence, whose chain of block keys starts from `root`."""
        tables = tuple(BlockTable() for _ in self.groups)
        return SequenceTables(KeyChain(root, self.block_size), tables)

    def reserve(
        self, held: SequenceTables, tokens: Sequence[int], num_tokens: int, *, is_reusing: bool
    ) -> int | None:
        """Make a place for `num_tokens` in every group, or return None and take nothing.

        Args:
            held: Tables of a sequence that has no place yet.
            tokens: Known tokens, whose prefix may be found in the cache.
            num_tokens: Tokens the place must hold in time.
            is_reusing: Whether found blocks may be used.

        Returns:
            Leading tokens that are computed already; always fewer than `len(tokens)`, because
            the last one's logits still have to be computed.
        """
        num_found = self._find_prefix(held, tokens) if self.can_share and is_reusing else 0
        found = [self._found(group, held, tokens, num_found) for group in self.groups]
        num_computed = num_found * self.block_size
        for group, table, blocks in zip(self.groups, held.tables, found, strict=True):
            if not group.has_room(table, num_tokens, num_computed, blocks):
                return None
        for group, table, blocks in zip(self.groups, held.tables, found, strict=True):
            group.adopt(table, blocks, num_found - len(blocks))
            group.extend(table, num_tokens, num_computed)
        held.is_held = True
        return num_computed

    def grow(self, held: SequenceTables, num_tokens: int, num_computed: int) -> bool:
        """Make the place hold `num_tokens`; False, and no change, when a group has no room."""
        for group, table in zip(self.groups, held.tables, strict=True):
            if not group.has_room(table, num_tokens, num_computed):
                return False
        for group, table in zip(self.groups, held.tables, strict=True):
            group.extend(table, num_tokens, num_computed)
        return True

    def cover(self, held: SequenceTables, num_tokens: int) -> None:
        """Name blocks for all tokens up to `num_tokens`, for the step that computes them."""
        for group, table in zip(self.groups, held.tables, strict=True):
            group.cover(table, num_tokens)

    def advance(self, held: SequenceTables, tokens: Sequence[int], num_computed: int) -> None:
        """Note how many tokens are computed: full blocks become findable, unseen ones free."""
        for group, table in zip(self.groups, held.tables, strict=True):
            if self.can_share:
                group.publish(table, held.keys, tokens, num_computed)
            group.drop(table, num_computed)
        if not self._keeps_keys:
            held.keys.forget(num_computed // self.block_size)

    def release(self, held: SequenceTables) -> None:
        """Give everything back; what was published can be found until it is overwritten."""
        for group, table in zip(self.groups, held.tables, strict=True):
            group.release(table)
        held.is_held = False

    def _find_prefix(self, held: SequenceTables, tokens: Sequence[int]) -> int:
        """Blocks of the longest prefix that every group can go on from."""
        limit = (len(tokens) - 1) // self.block_size
        lasts = [group.first_needed(limit) for group in self.groups]
        starts = [0] * len(self.groups)  # first block of the unbroken run up to here
        longest = 0
        for index in range(limit):
            key = held.keys.key(index, tokens)
            for number, group in enumerate(self.groups):
                if group.find(key) is None:
                    starts[number] = index + 1
                    if index + 1 > lasts[number]:  # no longer prefix can do without this block
                        return longest
            if all(
                start <= group.first_needed(index + 1)
                for start, group in zip(starts, self.groups, strict=True)
            ):
                longest = index + 1
        return longest

    def _found(
        self, group: CacheGroup, held: SequenceTables, tokens: Sequence[int], num_blocks: int
    ) -> list[int]:
        blocks = []
        for index in range(group.first_needed(num_blocks), num_blocks):
            block = group.find(held.keys.key(index, tokens))
            assert block is not None, "found a moment ago"
            blocks.append(block)
        return blocks


def new_group(shape: CacheShape, block_size: int, max_step_tokens: int) -> CacheGroup:
    """The book-keeping of one of an executor's groups."""
    match shape.kind:
        case "full":
            return FullGroup(shape.num_blocks, block_size)
        case "window":
            assert shape.window is not None, "a window group has a window"
            return WindowGroup(shape.num_blocks, block_size, shape.window, max_step_tokens)
        case "state":
            return StateGroup(shape.num_blocks)


def _smallest(bounds: Iterable[int | None]) -> int | None:
    return min((bound for bound in bounds if bound is not None), default=None)
