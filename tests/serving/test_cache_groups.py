"""Each cache group alone: what it keeps, what it gives back, and when it has no room."""

from dataclasses import dataclass

import pytest

from yearling.serving.block_pool import KeyChain
from yearling.serving.cache_groups import (
    BlockTable,
    CacheGroup,
    FullGroup,
    StateGroup,
    WindowGroup,
)

BLOCK = 4


@dataclass
class Walker:
    """One sequence in one group, brought forward in chunks."""

    group: CacheGroup
    num_computed: int = 0

    def __post_init__(self) -> None:
        self.table = BlockTable()
        self.keys = KeyChain(b"root", BLOCK)

    def extend(self, num_tokens: int) -> bool:
        if not self.group.has_room(self.table, num_tokens, self.num_computed):
            return False
        self.group.extend(self.table, num_tokens, self.num_computed)
        return True

    def compute(self, num_tokens: int) -> list[int]:
        """Compute a chunk; the table the step saw."""
        end = self.num_computed + num_tokens
        self.group.cover(self.table, end)
        seen = list(self.table.blocks)
        self.num_computed = end
        self.group.publish(self.table, self.keys, range(10**9), end)
        self.group.drop(self.table, end)
        return seen


def test_full_group_takes_all_blocks_at_once_and_keeps_them() -> None:
    group = FullGroup(4, BLOCK)
    walker = Walker(group)
    assert walker.extend(13)
    assert len(walker.table.blocks) == 4
    walker.compute(13)
    assert (len(walker.table.blocks), walker.table.first_block) == (4, 0)
    assert group.num_free == 0
    group.release(walker.table)
    assert group.num_free == 4


def test_full_group_bounds_the_length_and_not_the_chunk() -> None:
    group = FullGroup(4, BLOCK)
    assert (group.longest_sequence, group.longest_chunk) == (16, None)
    walker = Walker(group)
    assert not walker.extend(17)
    assert walker.table.blocks == []


@pytest.mark.parametrize("window", [1, 2, 3, 4, 5, 8, 9, 13])
@pytest.mark.parametrize("chunk", [1, 3, 4, 7])
def test_window_group_keeps_what_the_next_token_sees_and_no_block_more(
    window: int, chunk: int
) -> None:
    group = WindowGroup(8, BLOCK, window, 99)
    walker = Walker(group)
    assert walker.extend(200)
    for _ in range(200 // chunk):
        start = walker.num_computed
        seen = walker.compute(chunk)
        first_seen = max(0, start - window + 1) // BLOCK
        assert len(seen) == (start + chunk - 1) // BLOCK - first_seen + 1
        first_kept = max(0, walker.num_computed - window + 1) // BLOCK
        assert walker.table.first_block == first_kept
        assert len(walker.table.blocks) == -(-walker.num_computed // BLOCK) - first_kept
    group.release(walker.table)
    assert (group.num_free, walker.table) == (8, BlockTable())


@pytest.mark.parametrize("window", range(1, 30))
def test_longest_chunk_is_what_really_fits_beside_the_window(window: int) -> None:
    group = WindowGroup(8, BLOCK, window, 99)
    chunk = group.longest_chunk
    assert chunk == 30 - window  # 8 blocks hold 29 tokens wherever these begin
    assert group.longest_sequence is None
    for phase in range(BLOCK):  # wherever the chunks begin
        walker = Walker(group)
        assert walker.extend(10_000)
        if phase:
            walker.compute(min(phase, chunk))
        assert max(len(walker.compute(chunk)) for _ in range(20)) <= 8
        group.release(walker.table)


def test_window_larger_than_its_blocks_bounds_the_length_instead() -> None:
    group = WindowGroup(2, BLOCK, 6, 99)
    assert (group.longest_sequence, group.longest_chunk) == (8, None)
    walker = Walker(group)
    assert not walker.extend(9)
    assert walker.extend(8)
    walker.compute(8)


def test_window_group_promises_no_more_than_there_is() -> None:
    group = WindowGroup(9, BLOCK, window=5, max_step_tokens=8)
    walkers = [Walker(group) for _ in range(3)]
    assert [walker.extend(num) for walker, num in zip(walkers, (1000, 12, 8), strict=True)] == [
        True,  # a window of 5 and a chunk of 8 touch at most 4 blocks
        True,  # 12 tokens never take more than 3
        True,
    ]
    assert [walker.table.num_promised for walker in walkers] == [4, 3, 2]
    assert not Walker(group).extend(1)


def test_promise_shrinks_when_a_prompt_is_done() -> None:
    group = WindowGroup(4, BLOCK, window=5, max_step_tokens=8)
    walker, other = Walker(group), Walker(group)
    assert walker.extend(100)
    assert not other.extend(1)
    while walker.num_computed < 99:
        walker.compute(min(8, 99 - walker.num_computed))
    assert walker.extend(100)
    assert walker.table.num_promised == 2
    assert other.extend(1)


def test_shared_blocks_are_promised_to_each_of_their_owners() -> None:
    group = WindowGroup(6, BLOCK, window=9, max_step_tokens=4)
    first = Walker(group)
    assert first.extend(12)
    first.compute(11)
    found = [group.find(first.keys.key(index, range(99))) for index in (0, 1)]
    shared = [block for block in found if block is not None]
    assert len(shared) == 2
    second = Walker(group, num_computed=8)
    assert group.has_room(second.table, 12, 8, shared)
    group.adopt(second.table, shared, 0)
    assert second.extend(12)
    third = Walker(group)
    assert not third.extend(1)
    for walker in (first, second):  # each replaces the shared blocks by its own in time
        for _ in range(40):
            assert walker.extend(walker.num_computed + 1)
            walker.compute(1)


def test_state_group_gives_one_slot_to_a_sequence() -> None:
    group = StateGroup(2)
    walkers = [Walker(group) for _ in range(3)]
    assert [walker.extend(10**6) for walker in walkers] == [True, True, False]
    assert walkers[0].table.blocks != walkers[1].table.blocks
    assert walkers[0].extend(2 * 10**6)
    assert len(walkers[0].table.blocks) == 1
    walkers[0].compute(1000)
    assert group.find(b"anything") is None
    group.release(walkers[0].table)
    assert walkers[2].extend(1)
