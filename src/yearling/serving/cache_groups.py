"""The three ways in which layers keep a sequence: all of it, its last tokens, or one state.

Each group numbers blocks of its own. A table says which of them a sequence refers to.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from yearling.serving.block_pool import BlockPool, KeyChain

__all__ = ["BlockTable", "CacheGroup", "FullGroup", "StateGroup", "WindowGroup"]


@dataclass(slots=True)
class BlockTable:
    """The blocks that one sequence refers to in one group.

    Attributes:
        blocks: Block numbers; token i lives in `blocks[i // block_size - first_block]`. The one
            slot of a state.
        first_block: Blocks dropped before the first one here.
        num_published: Leading blocks of the sequence that need not be published any more.
        num_promised: Blocks set aside for the sequence in a window group, the held ones included.
    """

    blocks: list[int] = field(default_factory=list)
    first_block: int = 0
    num_published: int = 0
    num_promised: int = 0


class CacheGroup(Protocol):
    """Layers that keep the same tokens of a sequence, and therefore share a block table."""

    @property
    def num_blocks(self) -> int:
        """Blocks there are."""
        ...

    @property
    def num_free(self) -> int:
        """Blocks in nobody's use; some may hold contents worth finding."""
        ...

    @property
    def longest_sequence(self) -> int | None:
        """Tokens one sequence may have; None when the group sets no bound."""
        ...

    @property
    def longest_chunk(self) -> int | None:
        """Tokens of one sequence that a step may bring forward; None sets no bound."""
        ...

    def find(self, key: bytes) -> int | None:
        """The block published under this key, if it still holds its contents."""
        ...

    def first_needed(self, num_blocks: int) -> int:
        """First block that a token right after `num_blocks` full ones still sees; monotone."""
        ...

    def has_room(
        self, table: BlockTable, num_tokens: int, num_computed: int, found: Sequence[int] = ()
    ) -> bool:
        """Whether a table could `extend` so far.

        Args:
            table: As it is now, without the found blocks.
            num_tokens: Known tokens that all are to be computed in time.
            num_computed: Those that are computed already.
            found: Published blocks that the table would `adopt` first.
        """
        ...

    def adopt(self, table: BlockTable, found: Sequence[int], first_block: int) -> None:
        """Begin an empty table with published blocks, the first of them number `first_block`."""
        ...

    def extend(self, table: BlockTable, num_tokens: int, num_computed: int) -> None:
        """Set aside what bringing a sequence to `num_tokens` takes; there must be room."""
        ...

    def cover(self, table: BlockTable, num_tokens: int) -> None:
        """Name blocks for all tokens up to `num_tokens`, which were set aside before."""
        ...

    def publish(
        self, table: BlockTable, keys: KeyChain, tokens: Sequence[int], num_computed: int
    ) -> None:
        """Make the blocks that `num_computed` tokens fill findable by other sequences."""
        ...

    def drop(self, table: BlockTable, num_computed: int) -> None:
        """Give back what no token from `num_computed` on can see."""
        ...

    def release(self, table: BlockTable) -> None:
        """Give back everything and empty the table."""
        ...


class FullGroup:
    """Layers that attend to everything: each token keeps its place to the end.

    All blocks of a sequence's known tokens are taken when it is admitted, so a prompt under way
    never runs out of them.

    Attributes:
        block_size: Tokens per block.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.block_size = block_size
        self._pool = BlockPool(num_blocks)

    @property
    def num_blocks(self) -> int:
        """Blocks there are."""
        return self._pool.num_blocks

    @property
    def num_free(self) -> int:
        """Blocks in nobody's use; some may hold contents worth finding."""
        return self._pool.num_free

    @property
    def longest_sequence(self) -> int | None:
        """What all blocks hold."""
        return self._pool.num_blocks * self.block_size

    @property
    def longest_chunk(self) -> int | None:
        """No bound: blocks are taken before any chunk."""
        return None

    def find(self, key: bytes) -> int | None:
        """The block published under this key, if it still holds its contents."""
        return self._pool.find(key)

    def first_needed(self, num_blocks: int) -> int:
        """The very first, always."""
        return 0

    def has_room(
        self, table: BlockTable, num_tokens: int, num_computed: int, found: Sequence[int] = ()
    ) -> bool:
        """Whether enough blocks are free; found ones that nobody uses are free themselves."""
        num_new = -(-num_tokens // self.block_size) - len(table.blocks) - len(found)
        num_idle = sum(self._pool.references(block) == 0 for block in found)
        return num_new <= self._pool.num_free - num_idle

    def adopt(self, table: BlockTable, found: Sequence[int], first_block: int) -> None:
        """Begin a table with published blocks."""
        _adopt(self._pool, table, found, first_block)

    def extend(self, table: BlockTable, num_tokens: int, num_computed: int) -> None:
        """Take blocks for `num_tokens`."""
        for _ in range(-(-num_tokens // self.block_size) - len(table.blocks)):
            table.blocks.append(self._pool.allocate())

    def cover(self, table: BlockTable, num_tokens: int) -> None:
        """Nothing to do: `extend` has taken them."""
        return

    def publish(
        self, table: BlockTable, keys: KeyChain, tokens: Sequence[int], num_computed: int
    ) -> None:
        """Make the blocks that `num_computed` tokens fill findable."""
        _publish(self._pool, table, keys, tokens, num_computed)

    def drop(self, table: BlockTable, num_computed: int) -> None:
        """Nothing: every later token sees all of them."""
        return

    def release(self, table: BlockTable) -> None:
        """Give back all blocks, last first: the head of a prompt is the likeliest to be reused."""
        _release(self._pool, table)


class WindowGroup:
    """Layers whose tokens see only the last `window` ones, themselves included.

    A block is given back as soon as no later token sees any part of it, so memory and work stay
    flat however long a sequence grows. What a sequence will hold at its widest is promised to it
    beforehand; promises never exceed the blocks there are, shared ones counted once for each
    sequence, so naming blocks cannot fail in the middle of a prompt.

    Attributes:
        window: Tokens a token sees, itself included.
        block_size: Tokens per block.
    """

    def __init__(self, num_blocks: int, block_size: int, window: int, max_step_tokens: int) -> None:
        """Number the blocks of a window group.

        Args:
            num_blocks: Blocks there are.
            block_size: Tokens per block.
            window: Tokens a token sees, itself included.
            max_step_tokens: Tokens of one sequence that a step holds at most; what a sequence
                is promised grows with it.
        """
        self.window = window
        self.block_size = block_size
        self._pool = BlockPool(num_blocks)
        self._num_promised = 0
        # A run of n tokens touches at most (n + block_size - 2) // block_size + 1 blocks.
        widest = (num_blocks - 1) * block_size + 1
        self._longest_chunk = min(widest - (window - 1), max_step_tokens)

    @property
    def num_blocks(self) -> int:
        """Blocks there are."""
        return self._pool.num_blocks

    @property
    def num_free(self) -> int:
        """Blocks in nobody's use; some may hold contents worth finding."""
        return self._pool.num_free

    @property
    def longest_sequence(self) -> int | None:
        """No bound, unless the blocks do not even hold the window."""
        return None if self._longest_chunk >= 1 else self._pool.num_blocks * self.block_size

    @property
    def longest_chunk(self) -> int | None:
        """What fits beside the window; a chunk's first token sees what its last one replaces."""
        return self._longest_chunk if self._longest_chunk >= 1 else None

    def find(self, key: bytes) -> int | None:
        """The block published under this key, if it still holds its contents."""
        return self._pool.find(key)

    def first_needed(self, num_blocks: int) -> int:
        """The block of the first token that the next one sees."""
        return max(0, num_blocks * self.block_size - self.window + 1) // self.block_size

    def has_room(
        self, table: BlockTable, num_tokens: int, num_computed: int, found: Sequence[int] = ()
    ) -> bool:
        """Whether what the sequence holds at its widest can be promised."""
        change = self._promise(num_tokens, num_computed) - table.num_promised
        return self._num_promised + change <= self._pool.num_blocks

    def adopt(self, table: BlockTable, found: Sequence[int], first_block: int) -> None:
        """Begin a table with published blocks."""
        _adopt(self._pool, table, found, first_block)

    def extend(self, table: BlockTable, num_tokens: int, num_computed: int) -> None:
        """Promise what the sequence holds at its widest, and take the rest of a promise back."""
        promise = self._promise(num_tokens, num_computed)
        self._num_promised += promise - table.num_promised
        table.num_promised = promise

    def cover(self, table: BlockTable, num_tokens: int) -> None:
        """Take blocks for tokens up to `num_tokens` out of the promise."""
        num_missing = -(-num_tokens // self.block_size) - table.first_block - len(table.blocks)
        for _ in range(num_missing):
            table.blocks.append(self._pool.allocate())
        assert len(table.blocks) <= table.num_promised, "a chunk wider than promised"

    def publish(
        self, table: BlockTable, keys: KeyChain, tokens: Sequence[int], num_computed: int
    ) -> None:
        """Make the blocks that `num_computed` tokens fill findable."""
        _publish(self._pool, table, keys, tokens, num_computed)

    def drop(self, table: BlockTable, num_computed: int) -> None:
        """Give back the blocks wholly behind the window of the next token."""
        first_seen = max(0, num_computed - self.window + 1) // self.block_size
        num_unseen = min(first_seen - table.first_block, len(table.blocks))
        if num_unseen > 0:
            for block in table.blocks[:num_unseen]:
                self._pool.release(block)
            del table.blocks[:num_unseen]
            table.first_block += num_unseen

    def release(self, table: BlockTable) -> None:
        """Give back all blocks and the promise."""
        _release(self._pool, table)
        self._num_promised -= table.num_promised
        table.num_promised = 0

    def _promise(self, num_tokens: int, num_computed: int) -> int:
        """Blocks at the widest moment between `num_computed` and `num_tokens` tokens."""
        num_all = -(-num_tokens // self.block_size)
        if self._longest_chunk < 1:
            return num_all
        chunk = min(num_tokens - num_computed, self._longest_chunk)
        widest = self.window - 1 + chunk
        return min(num_all, (widest + self.block_size - 2) // self.block_size + 1)


class StateGroup:
    """Layers that keep one state per sequence, overwritten in place: nothing can be shared.

    Attributes:
        num_blocks: Slots there are.
    """

    def __init__(self, slots: int) -> None:
        self.num_blocks = slots
        self._pool = BlockPool(slots)

    @property
    def num_free(self) -> int:
        """Slots without a sequence."""
        return self._pool.num_free

    @property
    def longest_sequence(self) -> int | None:
        """No bound: a state has one size."""
        return None

    @property
    def longest_chunk(self) -> int | None:
        """No bound."""
        return None

    def find(self, key: bytes) -> int | None:
        """Nothing: a state cannot be taken apart."""
        return None

    def first_needed(self, num_blocks: int) -> int:
        """A state stands for all tokens."""
        return 0

    def has_room(
        self, table: BlockTable, num_tokens: int, num_computed: int, found: Sequence[int] = ()
    ) -> bool:
        """Whether the table has its slot, or one is free."""
        return bool(table.blocks) or self._pool.num_free > 0

    def adopt(self, table: BlockTable, found: Sequence[int], first_block: int) -> None:
        """Nothing is ever found."""
        assert not found, "states are not shared"

    def extend(self, table: BlockTable, num_tokens: int, num_computed: int) -> None:
        """Take a slot, once."""
        if not table.blocks:
            table.blocks.append(self._pool.allocate())

    def cover(self, table: BlockTable, num_tokens: int) -> None:
        """Nothing to do: a slot holds any number of tokens."""
        return

    def publish(
        self, table: BlockTable, keys: KeyChain, tokens: Sequence[int], num_computed: int
    ) -> None:
        """Nothing can be shared."""
        return

    def drop(self, table: BlockTable, num_computed: int) -> None:
        """Nothing to give back before the end."""
        return

    def release(self, table: BlockTable) -> None:
        """Give back the slot; its next owner starts from zero."""
        _release(self._pool, table)


def _adopt(pool: BlockPool, table: BlockTable, found: Sequence[int], first_block: int) -> None:
    for block in found:
        pool.acquire(block)
    table.blocks.extend(found)
    table.first_block = first_block
    table.num_published = first_block + len(found)


def _publish(
    pool: BlockPool, table: BlockTable, keys: KeyChain, tokens: Sequence[int], num_computed: int
) -> None:
    for index in range(table.num_published, num_computed // keys.block_size):
        pool.publish(table.blocks[index - table.first_block], keys.key(index, tokens))
        table.num_published = index + 1


def _release(pool: BlockPool, table: BlockTable) -> None:
    while table.blocks:
        pool.release(table.blocks.pop())
    table.first_block = table.num_published = 0
