"""Blocks and keys: counted references, keys nobody can confuse, least recently used goes first."""

import pytest

from yearling.serving.block_pool import BlockPool, KeyChain, block_key, root_key

BLOCK = 4


def root(salt: str = "", **changes: str) -> bytes:
    return root_key(
        **{"salt": salt, "adapter": "", "weights_version": "1", "kv_type": "f", **changes}
    )


@pytest.mark.parametrize("field", ["salt", "adapter", "weights_version", "kv_type"])
def test_root_key_differs_in_every_field(field: str) -> None:
    assert root(**{field: "other"}) != root()


def test_root_key_cannot_be_forged_by_moving_text_between_fields() -> None:
    assert root(salt="ab", adapter="c") != root(salt="a", adapter="bc")


def test_block_key_depends_on_the_whole_prefix() -> None:
    parents = [block_key(root(), [token] * 16) for token in (1, 2)]
    assert len({block_key(parent, [3] * 16) for parent in parents}) == 2
    assert block_key(parents[0], [3] * 16) != block_key(parents[0], [4] * 16)


def test_pool_takes_the_least_recently_used_block() -> None:
    pool = BlockPool(3)
    blocks = [pool.allocate() for _ in range(3)]
    for block in blocks:
        pool.publish(block, bytes([block]))
    for block in (blocks[1], blocks[2], blocks[0]):
        pool.release(block)
    assert [pool.allocate() for _ in range(3)] == [blocks[1], blocks[2], blocks[0]]
    assert pool.find(bytes([blocks[1]])) is None


def test_pool_takes_a_block_without_contents_before_any_with() -> None:
    pool = BlockPool(2)
    kept, empty = pool.allocate(), pool.allocate()
    pool.publish(kept, b"key")
    pool.release(kept)
    pool.release(empty)
    assert pool.allocate() == empty
    assert pool.find(b"key") == kept


def test_pool_refuses_a_double_release() -> None:
    pool = BlockPool(1)
    block = pool.allocate()
    pool.release(block)
    with pytest.raises(AssertionError, match="released more often"):
        pool.release(block)


def test_chain_gives_the_keys_of_the_whole_prefix() -> None:
    tokens = list(range(12))
    first = block_key(root(), tokens[:4])
    second = block_key(first, tokens[4:8])
    chain = KeyChain(root(), BLOCK)
    assert [chain.key(index, tokens) for index in (1, 0, 1)] == [second, first, second]


def test_chain_goes_on_from_what_it_forgot_and_can_start_over() -> None:
    tokens = list(range(40))
    whole, chain = KeyChain(root(), BLOCK), KeyChain(root(), BLOCK)
    for index in range(8):
        assert chain.key(index, tokens) == whole.key(index, tokens)
        chain.forget(index + 1)
        assert len(chain._keys) == 0
    chain.forget(3)
    assert chain.key(9, tokens) == whole.key(9, tokens)
    assert chain.key(2, tokens) == whole.key(2, tokens)


def test_chain_that_made_no_keys_has_nothing_to_forget() -> None:
    chain = KeyChain(root(), BLOCK)
    chain.forget(5)
    assert chain.key(0, range(4)) == block_key(root(), range(4))
