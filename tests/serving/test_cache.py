"""The block pool: counted references, keys nobody can confuse, least recently used goes first."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from yearling.serving.cache import BlockPool, BlockTable, FullGroup, block_key, root_key

BLOCK = 4


def root(salt: str = "", **changes: str) -> bytes:
    return root_key(
        **{"salt": salt, "adapter": "", "weights_version": "1", "kv_type": "f", **changes}
    )


def filled(group: FullGroup, tokens: list[int], salt: str = "") -> BlockTable:
    """A table whose tokens are all computed and published."""
    table = BlockTable(root(salt))
    assert group.reserve(table, tokens, len(tokens), is_reusing=True) is not None
    group.publish(table, tokens, len(tokens))
    return table


def found(group: FullGroup, tokens: list[int], salt: str = "") -> int | None:
    """How many leading tokens a newcomer finds."""
    table = BlockTable(root(salt))
    num_found = group.reserve(table, tokens, len(tokens), is_reusing=True)
    group.release(table)
    return num_found


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


def test_prefix_never_covers_the_whole_prompt() -> None:
    group = FullGroup(8, BLOCK)
    group.release(filled(group, list(range(8))))
    assert found(group, list(range(8))) == 4
    assert found(group, list(range(9))) == 8


def test_prefix_is_found_only_after_it_is_computed() -> None:
    group = FullGroup(8, BLOCK)
    tokens = list(range(9))
    table = BlockTable(root())
    group.reserve(table, tokens, 9, is_reusing=True)
    assert found(group, tokens) == 0
    group.publish(table, tokens, 7)
    assert found(group, tokens) == 4


def test_prefix_of_another_account_is_never_found() -> None:
    group = FullGroup(8, BLOCK)
    tokens = list(range(9))
    group.release(filled(group, tokens, salt="a"))
    assert found(group, tokens, salt="a") == 8
    assert found(group, tokens, salt="b") == 0


def test_reserve_takes_nothing_when_blocks_run_out() -> None:
    group = FullGroup(3, BLOCK)
    tokens = list(range(8))
    group.release(filled(group, tokens))
    holder = BlockTable(root("other"))
    group.reserve(holder, [9], 4, is_reusing=True)
    newcomer = BlockTable(root())
    assert group.reserve(newcomer, [*tokens, 8], 13, is_reusing=True) is None
    assert (newcomer.blocks, group.num_free) == ([], 2)
    # The two cached blocks are free themselves: counted twice, this would be admitted.
    assert group.reserve(newcomer, tokens + [8] * 8, 16, is_reusing=True) is None


def test_grow_changes_nothing_when_blocks_run_out() -> None:
    group = FullGroup(2, BLOCK)
    table = BlockTable(root())
    group.reserve(table, [1], 1, is_reusing=True)
    assert not group.grow(table, 9)
    assert len(table.blocks) == 1
    assert group.grow(table, 8)
    assert (len(table.blocks), group.num_free) == (2, 0)


class PoolMachine(RuleBasedStateMachine):
    """Random lives of sequences over a pool too small for them, against what blocks really hold."""

    sequences = Bundle("sequences")

    def __init__(self) -> None:
        super().__init__()
        self.group = FullGroup(7, BLOCK)
        self.contents: dict[int, tuple[bytes, tuple[int, ...]]] = {}
        self.live: list[tuple[BlockTable, list[int], list[int]]] = []

    def compute(self, table: BlockTable, tokens: list[int], start: int, end: int) -> None:
        for index in range(start // BLOCK, end // BLOCK):
            prefix = tuple(tokens[: (index + 1) * BLOCK])
            self.contents[table.blocks[index]] = (table.root, prefix)
        self.group.publish(table, tokens, end)

    def admit(self, table: BlockTable, tokens: list[int]) -> int | None:
        num_found = self.group.reserve(table, tokens, len(tokens), is_reusing=True)
        if num_found is None:
            assert table.blocks == []
            return None
        assert num_found < len(tokens)
        for index in range(num_found // BLOCK):
            prefix = tuple(tokens[: (index + 1) * BLOCK])
            assert self.contents[table.blocks[index]] == (table.root, prefix)
        for block in table.blocks[num_found // BLOCK :]:
            self.contents.pop(block, None)
        return num_found

    @rule(
        target=sequences,
        salt=st.sampled_from("ab"),
        tokens=st.lists(st.integers(0, 1), min_size=1, max_size=16),
    )
    def add(self, salt: str, tokens: list[int]) -> tuple[BlockTable, list[int], list[int]]:
        sequence = (BlockTable(root(salt)), tokens, [0])
        num_found = self.admit(sequence[0], tokens)
        if num_found is not None:
            sequence[2][0] = num_found
            self.live.append(sequence)
        return sequence

    @rule(sequence=sequences, num_tokens=st.integers(1, 8))
    def advance(self, sequence: tuple[BlockTable, list[int], list[int]], num_tokens: int) -> None:
        table, tokens, computed = sequence
        if table.blocks:
            end = min(len(tokens), computed[0] + num_tokens)
            self.compute(table, tokens, computed[0], end)
            computed[0] = end

    @rule(sequence=sequences, token=st.integers(0, 1))
    def append(self, sequence: tuple[BlockTable, list[int], list[int]], token: int) -> None:
        table, tokens, computed = sequence
        if table.blocks and computed[0] == len(tokens):
            num_blocks = len(table.blocks)
            if self.group.grow(table, len(tokens) + 1):
                tokens.append(token)
                for block in table.blocks[num_blocks:]:
                    self.contents.pop(block, None)

    @rule(sequence=sequences)
    def preempt_and_return(self, sequence: tuple[BlockTable, list[int], list[int]]) -> None:
        table, tokens, computed = sequence
        if not table.blocks:
            return
        self.group.release(table)
        num_found = self.admit(table, tokens)
        if num_found is None:
            self.live.remove(sequence)
        else:
            computed[0] = num_found

    @rule(sequence=consumes(sequences))
    def finish(self, sequence: tuple[BlockTable, list[int], list[int]]) -> None:
        if sequence[0].blocks:
            self.group.release(sequence[0])
            self.live.remove(sequence)

    @invariant()
    def references_are_owners(self) -> None:
        owned = [block for table, _, _ in self.live for block in table.blocks]
        pool = self.group._pool
        for block in range(pool.num_blocks):
            assert pool.references(block) == owned.count(block)
        assert self.group.num_free == self.group.num_blocks - len(set(owned))

    @invariant()
    def no_block_has_two_accounts(self) -> None:
        roots: dict[int, bytes] = {}
        for table, _, _ in self.live:
            for block in table.blocks:
                assert roots.setdefault(block, table.root) == table.root


PoolMachine.TestCase.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
test_pool_keeps_its_promises_whatever_happens = PoolMachine.TestCase
