"""Book-keeping of the paged key/value cache: which block holds what, and who may share it.

Plain Python: the keys and values themselves live in the executor, which is told block numbers.
A block is *in use* while a sequence refers to it and *free* otherwise; a free block keeps its
published contents until it is needed for something else, the least recently used one first.
"""

from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Protocol

__all__ = ["BlockPool", "BlockTable", "CacheGroup", "FullGroup", "block_key", "root_key"]


def root_key(*, salt: str, adapter: str, weights_version: str, kv_type: str) -> bytes:
    """Key that every chain of blocks starts from.

    Each later key hashes its parent's, so blocks of different accounts, adapters, weights or
    number formats can never meet.

    Args:
        salt: Account the blocks belong to.
        adapter: Content hash of the adapter; empty without one.
        weights_version: Version of the weights that computed the block.
        kv_type: Number format of the cache.
    """
    digest = sha256()
    for part in (salt, adapter, weights_version, kv_type):
        encoded = part.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return digest.digest()


def block_key(parent: bytes, tokens: Sequence[int]) -> bytes:
    """Key of a full block: SHA-256 of the key before it and of its own token ids.

    A cryptographic hash, because a collision would serve one user's text to another.

    >>> block_key(b"parent", [1, 2]) == block_key(b"parent", [2, 1])
    False
    """
    return sha256(parent + array("q", tokens).tobytes()).digest()


class BlockPool:
    """Reference counts of all blocks, and the published contents of some. Every call is O(1).

    Attributes:
        num_blocks: Blocks there are, numbered from 0.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._references = [0] * num_blocks
        self._keys: list[bytes | None] = [None] * num_blocks
        self._published: dict[bytes, int] = {}
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))

    @property
    def num_free(self) -> int:
        """Blocks nobody refers to, with or without contents worth keeping."""
        return len(self._free)

    def references(self, block: int) -> int:
        """How many tables refer to the block."""
        return self._references[block]

    def find(self, key: bytes) -> int | None:
        """The block published under this key, if it still holds its contents."""
        return self._published.get(key)

    def allocate(self) -> int:
        """Take the free block whose contents are least worth keeping; `num_free` must be > 0."""
        block, _ = self._free.popitem(last=False)
        key = self._keys[block]
        if key is not None:
            del self._published[key]
            self._keys[block] = None
        self._references[block] = 1
        return block

    def acquire(self, block: int) -> None:
        """Refer to a published block once more."""
        if self._references[block] == 0:
            del self._free[block]
        self._references[block] += 1

    def release(self, block: int) -> None:
        """Give up one reference; the last one frees the block and keeps its contents for now."""
        assert self._references[block] > 0, f"block {block} is released more often than taken"
        self._references[block] -= 1
        if self._references[block] == 0:
            self._free[block] = None
            if self._keys[block] is None:
                self._free.move_to_end(block, last=False)

    def publish(self, block: int, key: bytes) -> None:
        """Let others find this computed block; a key that is published already stays where it is.

        Two sequences may compute the same block at once. The second keeps its copy to itself.
        """
        if key not in self._published:
            self._published[key] = block
            self._keys[block] = key


@dataclass(slots=True)
class BlockTable:
    """The blocks of one sequence in order, and the keys of its full blocks as far as known.

    Attributes:
        root: Key the chain starts from.
        blocks: Block numbers; token i lives in `blocks[i // block_size]`.
        keys: Keys of the leading full blocks; they outlive preemption, as the tokens do.
        num_published: Leading blocks that need not be published any more.
    """

    root: bytes
    blocks: list[int] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    num_published: int = 0


class CacheGroup(Protocol):
    """Layers that keep the same tokens of a sequence, and therefore share a block table."""

    @property
    def num_blocks(self) -> int:
        """Blocks there are."""
        ...

    @property
    def num_free(self) -> int:
        """Blocks in nobody's use."""
        ...

    def reserve(
        self, table: BlockTable, tokens: Sequence[int], num_tokens: int, *, is_reusing: bool
    ) -> int | None:
        """Fill an empty table for `num_tokens`, or return None and take nothing.

        Args:
            table: Filled with found blocks, then new ones.
            tokens: Known tokens, whose prefix may be found in the cache.
            num_tokens: Tokens the table must hold.
            is_reusing: Whether found blocks may be used at all.

        Returns:
            Leading tokens whose keys and values are there already; always fewer than
            `len(tokens)`, because the last one's logits still have to be computed.
        """
        ...

    def grow(self, table: BlockTable, num_tokens: int) -> bool:
        """Extend a table to hold `num_tokens`; False, and no change, when blocks run out."""
        ...

    def publish(self, table: BlockTable, tokens: Sequence[int], num_computed: int) -> None:
        """Make the blocks that `num_computed` tokens fill findable by other sequences."""
        ...

    def release(self, table: BlockTable) -> None:
        """Give back all blocks of a table and empty it; keys stay."""
        ...


class FullGroup:
    """Cache group of layers that attend to everything: each token keeps its place to the end.

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

    def reserve(
        self, table: BlockTable, tokens: Sequence[int], num_tokens: int, *, is_reusing: bool
    ) -> int | None:
        """Fill an empty table for `num_tokens`, beginning with blocks found in the cache."""
        found = self._find_prefix(table, tokens) if is_reusing else []
        num_new = -(-num_tokens // self.block_size) - len(found)
        num_idle = sum(self._pool.references(block) == 0 for block in found)
        if num_new > self._pool.num_free - num_idle:
            return None
        for block in found:
            self._pool.acquire(block)
        table.blocks.extend(found)
        table.blocks.extend(self._pool.allocate() for _ in range(num_new))
        table.num_published = len(found)
        return len(found) * self.block_size

    def grow(self, table: BlockTable, num_tokens: int) -> bool:
        """Extend a table to hold `num_tokens`; False, and no change, when blocks run out."""
        num_new = -(-num_tokens // self.block_size) - len(table.blocks)
        if num_new > self._pool.num_free:
            return False
        for _ in range(num_new):
            table.blocks.append(self._pool.allocate())
        return True

    def publish(self, table: BlockTable, tokens: Sequence[int], num_computed: int) -> None:
        """Make the blocks that `num_computed` tokens fill findable by other sequences."""
        for index in range(table.num_published, num_computed // self.block_size):
            self._pool.publish(table.blocks[index], self._key(table, tokens, index))
            table.num_published = index + 1

    def release(self, table: BlockTable) -> None:
        """Give back all blocks, last first: the head of a prompt is the likeliest to be reused."""
        while table.blocks:
            self._pool.release(table.blocks.pop())

    def _find_prefix(self, table: BlockTable, tokens: Sequence[int]) -> list[int]:
        found: list[int] = []
        for index in range((len(tokens) - 1) // self.block_size):
            block = self._pool.find(self._key(table, tokens, index))
            if block is None:
                break
            found.append(block)
        return found

    def _key(self, table: BlockTable, tokens: Sequence[int], index: int) -> bytes:
        if index == len(table.keys):
            parent = table.keys[-1] if table.keys else table.root
            start = index * self.block_size
            table.keys.append(block_key(parent, tokens[start : start + self.block_size]))
        return table.keys[index]
