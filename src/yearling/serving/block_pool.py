"""Blocks of one cache group: who refers to each, what it holds, and the keys of contents.

A block is *in use* while a sequence refers to it and *free* otherwise; a free block keeps its
published contents until it is needed for something else, the least recently used one first.
"""

from array import array
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import sha256

__all__ = ["BlockPool", "KeyChain", "block_key", "root_key"]


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


class KeyChain:
    """Keys of one sequence's full blocks, each made when it is first asked for.

    Attributes:
        block_size: Tokens per block.
    """

    def __init__(self, root: bytes, block_size: int) -> None:
        self.block_size = block_size
        self._root = root
        self._parent = root  # key of the last forgotten block
        self._num_forgotten = 0
        self._keys: list[bytes] = []

    def key(self, index: int, tokens: Sequence[int]) -> bytes:
        """Key of a full block; asking for a forgotten one starts the chain over.

        Args:
            index: Number of the block in its sequence.
            tokens: Known tokens of the sequence, which only ever grow at their end.
        """
        if index < self._num_forgotten:
            self._parent, self._num_forgotten = self._root, 0
            self._keys.clear()
        while self._num_forgotten + len(self._keys) <= index:
            parent = self._keys[-1] if self._keys else self._parent
            start = (self._num_forgotten + len(self._keys)) * self.block_size
            self._keys.append(block_key(parent, tokens[start : start + self.block_size]))
        return self._keys[index - self._num_forgotten]

    def forget(self, num_blocks: int) -> None:
        """Keep nothing of the first `num_blocks` but what their successors hash."""
        count = min(num_blocks - self._num_forgotten, len(self._keys))
        if count > 0:
            self._parent = self._keys[count - 1]
            del self._keys[:count]
            self._num_forgotten += count


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
