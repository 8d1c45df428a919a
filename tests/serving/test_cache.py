"""The cache over all groups: a place in every one or in none, prefixes that every one has."""

import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass
from time import thread_time
from typing import ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from yearling.serving.cache import Cache, SequenceTables, new_group
from yearling.serving.executor import CacheShape

BLOCK = 4
STEP = 8
FULL, STATE = CacheShape("full", 8), CacheShape("state", 3)


def window(num_tokens: int, num_blocks: int = 8) -> CacheShape:
    return CacheShape("window", num_blocks, num_tokens)


def new_cache(*shapes: CacheShape, can_share: bool = True, max_step_tokens: int = STEP) -> Cache:
    groups = [new_group(shape, BLOCK, max_step_tokens) for shape in shapes]
    return Cache(groups, BLOCK, can_share=can_share)


def filled(cache: Cache, tokens: list[int], salt: bytes = b"") -> SequenceTables:
    """A sequence whose tokens are all computed."""
    held = cache.new_tables(salt)
    num_computed = cache.reserve(held, tokens, len(tokens), is_reusing=True)
    assert num_computed is not None
    while num_computed < len(tokens):
        num_computed = min(len(tokens), num_computed + (cache.longest_chunk or STEP))
        cache.cover(held, num_computed)
        cache.advance(held, tokens, num_computed)
    return held


def found(cache: Cache, tokens: list[int], salt: bytes = b"") -> int | None:
    """How many leading tokens a newcomer finds."""
    held = cache.new_tables(salt)
    num_found = cache.reserve(held, tokens, len(tokens), is_reusing=True)
    cache.release(held)
    return num_found


@pytest.mark.parametrize("shapes", [[FULL], [window(5)], [FULL, window(5)]])
def test_prefix_never_covers_the_whole_prompt(shapes: list[CacheShape]) -> None:
    cache = new_cache(*shapes)
    cache.release(filled(cache, list(range(8))))
    assert found(cache, list(range(8))) == 4
    assert found(cache, list(range(9))) == 8


def test_prefix_is_found_only_after_it_is_computed() -> None:
    cache = new_cache(FULL, window(3))
    tokens = list(range(9))
    held = cache.new_tables(b"")
    cache.reserve(held, tokens, 9, is_reusing=True)
    assert found(cache, tokens) == 0
    cache.cover(held, 7)
    cache.advance(held, tokens, 7)
    assert found(cache, tokens) == 4


def test_prefix_of_another_account_is_never_found() -> None:
    cache = new_cache(FULL, window(5))
    tokens = list(range(9))
    cache.release(filled(cache, tokens, b"a"))
    assert found(cache, tokens, b"a") == 8
    assert found(cache, tokens, b"b") == 0


def test_prefix_is_not_looked_for_when_nothing_can_be_shared() -> None:
    cache = new_cache(FULL, STATE, can_share=False)
    tokens = list(range(9))
    cache.release(filled(cache, tokens))
    assert found(cache, tokens) == 0
    assert cache.groups[0].find(b"") is None
    assert not cache.groups[0]._pool._published


def test_window_finds_a_prefix_whose_early_blocks_are_gone() -> None:
    cache = new_cache(window(5, num_blocks=4))
    tokens = list(range(33))
    cache.release(filled(cache, tokens))  # 8 blocks went through 4: the early ones are overwritten
    held = cache.new_tables(b"")
    assert cache.reserve(held, tokens, len(tokens), is_reusing=True) == 32
    assert (held.tables[0].first_block, len(held.tables[0].blocks)) == (7, 1)
    cache.release(held)
    assert found(cache, tokens[:13]) == 0


def test_prefix_ends_where_one_group_no_longer_has_its_window() -> None:
    cache = new_cache(FULL, window(5, num_blocks=3))
    tokens = list(range(21))
    cache.release(filled(cache, tokens))
    pool = cache.groups[1]._pool  # type: ignore[attr-defined]
    held = cache.new_tables(b"")
    assert cache.reserve(held, tokens, 21, is_reusing=True) == 20
    cache.release(held)
    while pool.num_free:  # a neighbour overwrites what the window group kept
        pool.allocate()
    assert cache._find_prefix(cache.new_tables(b""), tokens) == 0


def test_longest_prefix_wins_over_one_that_only_a_shorter_window_has() -> None:
    cache = new_cache(FULL, window(5), window(9))
    tokens = list(range(17))
    cache.release(filled(cache, tokens))
    for group, missing in ((1, 2), (2, 1)):
        pool = cache.groups[group]._pool  # type: ignore[attr-defined]
        key = cache.new_tables(b"").keys.key(missing, tokens)
        del pool._published[key]
    # The small window lacks block 2 and can go on after block 3; the large one lacks block 1
    # and can go on nowhere behind it but at 16, which sees tokens 8 to 15.
    assert found(cache, tokens) == 16
    small = new_cache(FULL, window(9))
    small.release(filled(small, tokens))
    del small.groups[1]._pool._published[small.new_tables(b"").keys.key(2, tokens)]  # type: ignore[attr-defined]
    assert found(small, tokens) == 8


def test_reserve_takes_nothing_when_one_group_has_no_room() -> None:
    cache = new_cache(FULL, window(5, num_blocks=3), STATE, can_share=False)
    holders = [filled(cache, [index]) for index in range(2)]
    before = [group.num_free for group in cache.groups]
    newcomer = cache.new_tables(b"")
    assert cache.reserve(newcomer, range(9), 9, is_reusing=True) is None
    assert not newcomer.is_held
    assert newcomer.num_blocks == 0
    assert [group.num_free for group in cache.groups] == before
    cache.release(holders[0])
    cache.release(holders[1])
    assert cache.reserve(newcomer, range(9), 9, is_reusing=True) == 0


def test_reserve_counts_idle_found_blocks_once() -> None:
    cache = new_cache(CacheShape("full", 3))
    tokens = list(range(8))
    cache.release(filled(cache, tokens))
    holder = cache.new_tables(b"other")
    cache.reserve(holder, [9], 4, is_reusing=True)
    newcomer = cache.new_tables(b"")
    assert cache.reserve(newcomer, [*tokens, 8], 13, is_reusing=True) is None
    # The two cached blocks are free themselves: counted twice, this would be admitted.
    assert cache.reserve(newcomer, tokens + [8] * 8, 16, is_reusing=True) is None


def test_grow_changes_nothing_when_one_group_has_no_room() -> None:
    cache = new_cache(CacheShape("full", 2), window(99, num_blocks=9))
    held = filled(cache, [1])
    assert not cache.grow(held, 9, 1)
    assert held.tables[1].num_promised == 1
    assert cache.grow(held, 8, 1)
    assert cache.num_free == 0


def test_bounds_are_the_smallest_of_all_groups() -> None:
    cache = new_cache(FULL, window(5, num_blocks=3), STATE, max_step_tokens=99)
    assert (cache.longest_sequence, cache.longest_chunk) == (32, 5)
    assert (new_cache(STATE).longest_sequence, new_cache(STATE).longest_chunk) == (None, None)


def test_blocks_are_counted_over_full_groups_or_else_over_all() -> None:
    assert new_cache(FULL, FULL, window(5), STATE).num_blocks == 16
    assert new_cache(window(5), STATE).num_blocks == 11


@dataclass(eq=False)
class Life:
    """A sequence of the machine below."""

    held: SequenceTables
    root: bytes
    tokens: list[int]
    num_computed: int = 0


class CacheMachine(RuleBasedStateMachine):
    """Random lives of sequences over groups too small for them.

    Beside the book-keeping it writes down what each block really holds, and every chunk checks
    that all it sees is there.
    """

    shapes: ClassVar[Sequence[CacheShape]] = ()
    can_share: ClassVar[bool] = True
    lives = Bundle("lives")

    def __init__(self) -> None:
        super().__init__()
        self.cache = new_cache(*self.shapes, can_share=self.can_share)
        self.contents: list[dict[int, tuple[bytes, tuple[int, ...]]]] = [{} for _ in self.shapes]
        self.live: list[Life] = []

    def admit(self, life: Life) -> None:
        num_found = self.cache.reserve(
            life.held, life.tokens, len(life.tokens) + 1, is_reusing=True
        )
        if num_found is None:
            assert life.held.num_blocks == 0
            return
        assert num_found < len(life.tokens)
        life.num_computed = num_found
        self.live.append(life)
        self.check_sees(life, num_found, num_found)

    def compute(self, life: Life, end: int) -> None:
        """What an executor does: write the chunk, then look at all it sees."""
        self.cache.cover(life.held, end)
        for shape, table, contents in zip(
            self.shapes, life.held.tables, self.contents, strict=True
        ):
            if shape.kind == "state":
                contents[table.blocks[0]] = (life.root, tuple(life.tokens[:end]))
                continue
            for position in range(life.num_computed, end):
                block = table.blocks[position // BLOCK - table.first_block]
                start = position // BLOCK * BLOCK
                contents[block] = (life.root, tuple(life.tokens[: position + 1]))
                assert start <= position
        self.check_sees(life, life.num_computed, end)
        life.num_computed = end
        self.cache.advance(life.held, life.tokens, end)

    def check_sees(self, life: Life, start: int, end: int) -> None:
        """Every block the tokens from `start` to `end` see holds this sequence's own prefix."""
        for shape, table, contents in zip(
            self.shapes, life.held.tables, self.contents, strict=True
        ):
            if shape.kind == "state":
                continue
            first = 0 if shape.window is None else max(0, start - shape.window + 1)
            for index in range(first // BLOCK, -(-end // BLOCK)):
                block = table.blocks[index - table.first_block]
                last = min((index + 1) * BLOCK, end)
                root, prefix = contents[block]
                assert root == life.root
                assert prefix == tuple(life.tokens[:last])

    @rule(
        target=lives,
        root=st.sampled_from([b"a", b"b"]),
        tokens=st.lists(st.integers(0, 1), min_size=1, max_size=20),
    )
    def add(self, root: bytes, tokens: list[int]) -> Life:
        life = Life(self.cache.new_tables(root), root, tokens)
        self.admit(life)
        return life

    @rule(life=lives, num_tokens=st.integers(1, STEP))
    def advance(self, life: Life, num_tokens: int) -> None:
        if life.held.is_held:
            num_tokens = min(num_tokens, self.cache.longest_chunk or STEP)
            end = min(len(life.tokens), life.num_computed + num_tokens)
            if end > life.num_computed:
                self.compute(life, end)

    @rule(life=lives, token=st.integers(0, 1), times=st.integers(1, 6))
    def answer(self, life: Life, token: int, times: int) -> None:
        for _ in range(times):
            if not life.held.is_held or life.num_computed != len(life.tokens):
                return
            if len(life.tokens) >= (self.cache.longest_sequence or 99):
                return
            if not self.cache.grow(life.held, len(life.tokens) + 1, life.num_computed):
                return
            life.tokens.append(token)
            self.compute(life, len(life.tokens))

    @rule(life=lives)
    def preempt_and_return(self, life: Life) -> None:
        if life.held.is_held:
            self.cache.release(life.held)
            self.live.remove(life)
            life.num_computed = 0
            self.admit(life)

    @rule(life=consumes(lives))
    def finish(self, life: Life) -> None:
        if life.held.is_held:
            self.cache.release(life.held)
            self.live.remove(life)

    @invariant()
    def references_are_owners(self) -> None:
        for number, group in enumerate(self.cache.groups):
            owned = [block for life in self.live for block in life.held.tables[number].blocks]
            pool = group._pool
            for block in range(pool.num_blocks):
                assert pool.references(block) == owned.count(block)
            assert group.num_free == group.num_blocks - len(set(owned))
            if not self.can_share:
                assert len(set(owned)) == len(owned)

    @invariant()
    def no_block_has_two_accounts(self) -> None:
        for number in range(len(self.shapes)):
            roots: dict[int, bytes] = {}
            for life in self.live:
                for block in life.held.tables[number].blocks:
                    assert roots.setdefault(block, life.root) == life.root

    @invariant()
    def windows_keep_what_is_seen_and_promises_hold(self) -> None:
        for number, shape in enumerate(self.shapes):
            tables = [life.held.tables[number] for life in self.live]
            if shape.kind == "state":
                assert all(len(table.blocks) == 1 for table in tables)
            if shape.window is None:
                continue
            assert sum(table.num_promised for table in tables) <= shape.num_blocks
            for life, table in zip(self.live, tables, strict=True):
                first = max(0, life.num_computed - shape.window + 1) // BLOCK
                assert table.first_block == first
                assert len(table.blocks) == -(-life.num_computed // BLOCK) - first

    def teardown(self) -> None:
        for life in self.live:
            self.cache.release(life.held)
        for group in self.cache.groups:
            assert group.num_free == group.num_blocks
            assert getattr(group, "_num_promised", 0) == 0


def machine(name: str, *shapes: CacheShape, can_share: bool = True) -> type:
    kind = type(name, (CacheMachine,), {"shapes": shapes, "can_share": can_share})
    kind.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
    case: type = kind.TestCase
    return pytest.mark.promised("no cache block is lost, shared wrongly or freed twice")(case)


test_full_cache_keeps_its_promises = machine("Full", FULL)
test_window_cache_keeps_its_promises = machine("Window", window(6))
test_local_and_global_cache_keeps_its_promises = machine("Mixed", FULL, window(5, 7), window(9, 6))
test_hybrid_cache_keeps_its_promises = machine("Hybrid", FULL, window(6), STATE, can_share=False)


@pytest.mark.parametrize(
    ("shape", "can_share"),
    [(CacheShape("window", 40, 256), True), (CacheShape("state", 2), False)],
    ids=["window", "state"],
)
def test_million_tokens_keep_memory_and_step_time_flat(shape: CacheShape, can_share: bool) -> None:
    """`range` stands for the tokens, which are nobody's memory here."""
    cache = Cache([new_group(shape, 16, 64)], 16, can_share=can_share)
    tokens, part = range(1_000_001), 50_000
    held = cache.new_tables(b"root")
    assert cache.reserve(held, tokens[:1], 2, is_reusing=True) == 0
    seconds: list[float] = []
    growth: dict[int, int] = {}

    def decode(start: int, end: int, num_tokens: int = 1) -> None:
        for num_computed in range(start, end, num_tokens):
            assert cache.grow(held, num_computed + num_tokens, num_computed)
            cache.cover(held, num_computed + num_tokens)
            held.groups()
            cache.advance(held, tokens, num_computed + num_tokens)

    for start in range(0, 1_000_000, part):
        started = thread_time()
        decode(start, start + 2_500)
        seconds.append(thread_time() - started)
        if start in (part, 1_000_000 - part):
            tracemalloc.start()
            decode(start + 2_500, start + 5_008)
            ours = tracemalloc.Filter(inclusive=True, filename_pattern="*/yearling/serving/*")
            snapshot = tracemalloc.take_snapshot().filter_traces([ours])
            tracemalloc.stop()
            growth[start] = sum(trace.size for trace in snapshot.traces)
        else:
            decode(start + 2_500, start + 5_008)
        decode(start + 5_008, start + part, num_tokens=32)
    assert max(growth.values()) < 30_000, growth  # 12 bytes a token would be as much
    assert min(seconds[-5:]) < 2 * min(seconds[:5])  # work that grows with length: 5 times
    assert len(held.keys._keys) <= 1
    assert held.num_blocks <= 17
