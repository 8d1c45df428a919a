"""The scheduler alone: one budget, order of arrival, preemption of the youngest, no livelock."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yearling.serving.block_pool import KeyChain
from yearling.serving.cache import Cache, SequenceTables
from yearling.serving.cache_groups import (
    BlockTable,
    CacheGroup,
    FullGroup,
    StateGroup,
    WindowGroup,
)
from yearling.serving.scheduler import Chunk, Scheduler, StepLimits
from yearling.serving.sequence import TokenSequence


def new_scheduler(
    num_blocks: int = 64,
    max_step_tokens: int = 32,
    max_logit_rows: int = 32,
    max_sequences: int = 8,
    groups: Sequence[CacheGroup] | None = None,
    *,
    needs_whole_prompt: bool = False,
) -> Scheduler:
    limits = StepLimits(max_step_tokens, max_logit_rows, max_sequences, needs_whole_prompt)
    return Scheduler(Cache(groups or [FullGroup(num_blocks, 16)], 16), limits)


def new_sequence(
    num_prompt: int, name: str = "s", *, is_scoring: bool = False, num_groups: int = 1
) -> TokenSequence:
    tokens = [sum(name.encode()) + index for index in range(num_prompt)]
    chain = KeyChain(name.encode(), 16)
    tables = SequenceTables(chain, tuple(BlockTable() for _ in range(num_groups)))
    return TokenSequence(name, tokens, num_prompt, tables, is_scoring)


def run(scheduler: Scheduler, chunks: list[Chunk]) -> None:
    """Pretend to execute a step: each sampling chunk gives a token."""
    for chunk in chunks:
        scheduler.advance(chunk)
        if chunk.is_sampling:
            chunk.sequence.tokens.append(7)


def step(scheduler: Scheduler) -> list[tuple[str, int, bool]]:
    chunks = scheduler.schedule()
    run(scheduler, chunks)
    return [(c.sequence.request_id, c.num_tokens, c.is_sampling) for c in chunks]


def test_prompt_is_cut_to_the_step_budget() -> None:
    scheduler = new_scheduler()
    scheduler.add(new_sequence(70))
    assert [step(scheduler) for _ in range(4)] == [
        [("s", 32, False)],
        [("s", 32, False)],
        [("s", 6, True)],
        [("s", 1, True)],
    ]


def test_running_answer_goes_before_a_long_prompt() -> None:
    scheduler = new_scheduler()
    scheduler.add(new_sequence(4, "answering"))
    step(scheduler)
    scheduler.add(new_sequence(100, "long"))
    assert step(scheduler) == [("answering", 1, True), ("long", 31, False)]
    assert step(scheduler) == [("answering", 1, True), ("long", 31, False)]


def test_older_prompt_does_not_hold_up_a_younger_answer() -> None:
    scheduler = new_scheduler(max_logit_rows=10)
    scheduler.add(new_sequence(30, "scored", is_scoring=True))
    scheduler.add(new_sequence(1, "short"))
    assert step(scheduler) == [("scored", 10, False)]
    assert step(scheduler) == [("short", 1, True), ("scored", 9, False)]


def test_queue_is_served_in_order_of_arrival() -> None:
    scheduler = new_scheduler(num_blocks=4)
    scheduler.add(new_sequence(40, "large"))
    scheduler.add(new_sequence(40, "blocked"))
    scheduler.add(new_sequence(1, "small"))
    assert [name for name, _, _ in step(scheduler)] == ["large"]
    assert [s.request_id for s in scheduler.waiting] == ["blocked", "small"]


def test_prompt_waits_until_its_answer_can_begin() -> None:
    scheduler = new_scheduler(num_blocks=4, max_step_tokens=64)
    scheduler.add(new_sequence(40, "old"))
    scheduler.add(new_sequence(16, "exact"))  # fills the one free block, with no room to answer
    assert [name for name, _, _ in step(scheduler)] == ["old"]


def test_max_sequences_bounds_what_runs() -> None:
    scheduler = new_scheduler(max_sequences=2)
    for name in "abc":
        scheduler.add(new_sequence(1, name))
    step(scheduler)
    assert len(scheduler.running) == 2
    scheduler.remove(scheduler.running[0])
    step(scheduler)
    assert [s.request_id for s in scheduler.running] == ["b", "c"]


def test_scoring_is_cut_to_the_logit_rows_and_leaves_the_last_token() -> None:
    scheduler = new_scheduler(max_logit_rows=10)
    sequence = new_sequence(25, is_scoring=True)
    scheduler.add(sequence)
    assert [step(scheduler) for _ in range(3)] == [
        [("s", 10, False)],
        [("s", 10, False)],
        [("s", 4, False)],
    ]
    assert sequence.num_remaining == 0
    sequence.is_scoring = False
    assert step(scheduler) == [("s", 1, True)]


def test_scoring_takes_nothing_from_the_cache() -> None:
    scheduler = new_scheduler(max_step_tokens=64)
    first = new_sequence(33)
    scheduler.add(first)
    step(scheduler)
    scheduler.remove(first)
    scorer = new_sequence(33, is_scoring=True)
    scheduler.add(scorer)
    step(scheduler)
    assert scorer.num_cached == 0
    reader = new_sequence(33)
    scheduler.add(reader)
    step(scheduler)
    assert reader.num_cached == 32


def test_youngest_is_preempted_and_comes_back_first() -> None:
    scheduler = new_scheduler(num_blocks=4, max_step_tokens=64)
    old, young = new_sequence(31, "old"), new_sequence(30, "young")
    scheduler.add(old)
    scheduler.add(young)
    scheduler.add(new_sequence(30, "later"))
    step(scheduler)
    step(scheduler)
    assert step(scheduler) == [("old", 1, True)]
    assert [s.request_id for s in scheduler.waiting] == ["young", "later"]
    assert (young.tables.num_blocks, young.num_computed, scheduler.num_preemptions) == (0, 0, 1)
    scheduler.remove(old)
    assert step(scheduler)[0][0] == "young"
    assert young.num_computed == len(young.tokens) - 1


def test_preempted_sequence_finds_what_it_computed() -> None:
    scheduler = new_scheduler(num_blocks=5, max_step_tokens=64)
    old, young = new_sequence(31, "old"), new_sequence(33, "young")
    scheduler.add(old)
    scheduler.add(young)
    while not scheduler.num_preemptions:
        step(scheduler)
    scheduler.remove(old)
    chunks = scheduler.schedule()
    assert chunks[0].sequence is young
    assert len(young.tokens) - chunks[0].num_tokens == 32


def test_two_that_need_most_of_the_pool_take_turns_in_bounded_steps() -> None:
    scheduler = new_scheduler(num_blocks=10, max_step_tokens=64)
    sequences = [new_sequence(16, name) for name in "ab"]  # each grows to 6 of 10 blocks
    for sequence in sequences:
        scheduler.add(sequence)
    num_steps = 0
    while scheduler.running or scheduler.waiting:
        num_steps += 1
        assert num_steps < 250  # 80 tokens each, one after the other at worst
        run(scheduler, scheduler.schedule())
        for sequence in [s for s in scheduler.running if len(s.tokens) >= 96]:
            scheduler.remove(sequence)
    assert scheduler.num_preemptions <= 2


def test_remove_frees_blocks_at_once() -> None:
    scheduler = new_scheduler(num_blocks=4)
    running, waiting = new_sequence(60, "running"), new_sequence(60, "waiting")
    scheduler.add(running)
    scheduler.add(waiting)
    step(scheduler)
    scheduler.remove(waiting)
    scheduler.remove(running)
    assert scheduler._cache.num_free == 4
    assert not scheduler.waiting
    assert not scheduler.running


def test_limits_refuse_more_sequences_than_a_step_can_serve() -> None:
    with pytest.raises(ValueError, match="max_sequences=9 must lie between 1 and the smaller"):
        StepLimits(max_step_tokens=16, max_logit_rows=8, max_sequences=9)


@settings(max_examples=60, deadline=None)
@given(
    prompts=st.lists(st.tuples(st.integers(1, 70), st.booleans()), min_size=1, max_size=8),
    answers=st.lists(st.integers(1, 40), min_size=8, max_size=8),
    num_blocks=st.integers(7, 12),
    budget=st.integers(4, 40),
    rows=st.integers(4, 10),
)
def test_every_sequence_ends_whatever_the_sizes(
    prompts: list[tuple[int, bool]], answers: list[int], num_blocks: int, budget: int, rows: int
) -> None:
    scheduler = new_scheduler(num_blocks, budget, rows, max_sequences=4)
    goals = {}
    for index, (num_prompt, is_scoring) in enumerate(prompts):
        sequence = new_sequence(num_prompt, str(index), is_scoring=is_scoring and num_prompt > 1)
        goals[sequence.request_id] = num_prompt + answers[index]
        scheduler.add(sequence)
    for _ in range(3000):
        chunks = scheduler.schedule()
        assert chunks, "work is left and nothing is scheduled"
        assert sum(chunk.num_tokens for chunk in chunks) <= budget
        num_rows = sum(c.num_tokens if c.sequence.is_scoring else c.is_sampling for c in chunks)
        assert num_rows <= rows
        run(scheduler, chunks)
        for sequence in list(scheduler.running):
            if sequence.is_scoring and sequence.num_remaining == 0:
                sequence.is_scoring = False
            if len(sequence.tokens) >= goals[sequence.request_id]:
                scheduler.remove(sequence)
        if not scheduler.running and not scheduler.waiting:
            break
    assert not scheduler.running
    assert scheduler._cache.num_free == num_blocks


def test_whole_prompt_waits_for_a_step_that_holds_it() -> None:
    scheduler = new_scheduler(max_step_tokens=32, needs_whole_prompt=True)
    scheduler.add(new_sequence(20, "first"))
    scheduler.add(new_sequence(20, "second"))
    scheduler.add(new_sequence(2, "small"))
    assert step(scheduler) == [("first", 20, True)]
    assert [s.request_id for s in scheduler.waiting] == ["second", "small"]
    assert step(scheduler) == [("first", 1, True), ("second", 20, True), ("small", 2, True)]


def test_whole_prompt_needs_a_logit_row_as_well() -> None:
    scheduler = new_scheduler(max_logit_rows=1, max_sequences=1, needs_whole_prompt=True)
    scheduler.add(new_sequence(20))
    scheduler._rows_left = 0
    scheduler._tokens_left = 32
    chunks: list[Chunk] = []
    scheduler._admit(chunks)
    assert chunks == []
    assert step(scheduler) == [("s", 20, True)]


def test_preempted_prompt_comes_back_whole_and_its_answer_in_chunks() -> None:
    scheduler = new_scheduler(num_blocks=6, max_step_tokens=24, needs_whole_prompt=True)
    old, young = new_sequence(20, "old"), new_sequence(20, "young")
    scheduler.add(old)
    scheduler.add(young)
    while not scheduler.num_preemptions:
        step(scheduler)
    assert (young.num_computed, young.num_prompt, len(young.tokens) > 44) == (0, 20, True)
    scheduler.remove(old)
    young.tables.keys.key(0, [0] * 16)  # its blocks are published; a prefix mask would not share
    scheduler._cache.can_share = False
    num_left = len(young.tokens) - 24
    assert step(scheduler) == [("young", 24, False)]
    assert step(scheduler) == [("young", min(24, num_left), num_left <= 24)]
    assert young.num_prompt == 20


def test_state_slots_bound_what_runs() -> None:
    scheduler = new_scheduler(groups=[StateGroup(2)])
    sequences = [new_sequence(5, name) for name in "abc"]
    for sequence in sequences:
        scheduler.add(sequence)
    step(scheduler)
    assert [s.request_id for s in scheduler.running] == ["a", "b"]
    scheduler.remove(sequences[0])
    step(scheduler)
    assert [s.request_id for s in scheduler.running] == ["b", "c"]


def test_chunk_is_cut_to_what_fits_beside_the_window() -> None:
    scheduler = new_scheduler(groups=[WindowGroup(3, 16, 20, 32)])
    scheduler.add(new_sequence(60))  # three blocks hold 33 tokens anywhere: 19 seen, 14 new
    assert [step(scheduler)[0][1] for _ in range(5)] == [14, 14, 14, 14, 4]


def test_prompt_under_way_in_a_window_is_never_short_of_blocks() -> None:
    scheduler = new_scheduler(groups=[WindowGroup(8, 16, 20, 32)])
    for index in range(6):
        scheduler.add(new_sequence(200, str(index)))
    goals = 0
    for _ in range(500):
        run(scheduler, scheduler.schedule())
        for sequence in [s for s in scheduler.running if len(s.tokens) >= 260]:
            scheduler.remove(sequence)
            goals += 1
    assert goals == 6
    assert scheduler.num_preemptions == 0
    assert scheduler._cache.num_free == 8


GROUPS = {
    "window": lambda size: [WindowGroup(size, 16, 40, 40)],
    "mixed": lambda size: [FullGroup(size, 16), WindowGroup(size, 16, 20, 40)],
    "state": lambda size: [StateGroup(3)],
    "hybrid": lambda size: [FullGroup(size, 16), StateGroup(3), WindowGroup(size, 16, 9, 40)],
}


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(sorted(GROUPS)),
    prompts=st.lists(st.tuples(st.integers(1, 40), st.booleans()), min_size=1, max_size=8),
    answers=st.lists(st.integers(1, 70), min_size=8, max_size=8),
    num_blocks=st.integers(7, 12),
    budget=st.integers(40, 60),
    needs_whole_prompt=st.booleans(),
)
def test_every_sequence_ends_whatever_the_groups(
    kind: str,
    prompts: list[tuple[int, bool]],
    answers: list[int],
    num_blocks: int,
    budget: int,
    needs_whole_prompt: bool,
) -> None:
    groups = GROUPS[kind](num_blocks)
    scheduler = new_scheduler(
        max_step_tokens=budget,
        max_logit_rows=10,
        max_sequences=4,
        groups=groups,
        needs_whole_prompt=needs_whole_prompt,
    )
    scheduler._cache.can_share = kind in ("window", "mixed") and not needs_whole_prompt
    goals = {}
    for index, (num_prompt, is_scoring) in enumerate(prompts):
        is_scoring = is_scoring and num_prompt > 1 and not needs_whole_prompt
        sequence = new_sequence(
            num_prompt, str(index), is_scoring=is_scoring, num_groups=len(groups)
        )
        goals[sequence.request_id] = num_prompt + min(answers[index], 16 * 7 - num_prompt)
        scheduler.add(sequence)
    for _ in range(5000):
        starts = {s.request_id: s.num_computed for s in scheduler.running}
        chunks = scheduler.schedule()
        assert chunks, "work is left and nothing is scheduled"
        for chunk in chunks:
            sequence = chunk.sequence
            if needs_whole_prompt and not starts.get(sequence.request_id):
                assert chunk.num_tokens >= sequence.num_prompt
            for group, table in zip(groups, sequence.tables.tables, strict=True):
                if isinstance(group, WindowGroup):
                    end = sequence.num_computed + chunk.num_tokens
                    assert (table.first_block + len(table.blocks)) * 16 >= end
        run(scheduler, chunks)
        for sequence in list(scheduler.running):
            if sequence.is_scoring and sequence.num_remaining == 0:
                sequence.is_scoring = False
            if len(sequence.tokens) >= goals[sequence.request_id]:
                scheduler.remove(sequence)
        if not scheduler.running and not scheduler.waiting:
            break
    assert not scheduler.running
    assert all(group.num_free == group.num_blocks for group in groups)
