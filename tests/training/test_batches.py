"""Batches by tokens: every row once an epoch, budgets kept, resumed to the row, shared by ranks."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yearling.core.errors import CheckpointError, DataError
from yearling.data.encoded import EncodedRow, EncodedSequence
from yearling.data.rows import RowId
from yearling.training.batch import PackedBatch
from yearling.training.batches import BatchSize, StreamedBatches, TokenBatches, pack_step

Steps = list[list[PackedBatch]]
_LENGTHS = st.lists(st.integers(2, 40), min_size=4, max_size=60)
_BUDGETS = st.tuples(st.integers(10, 200), st.integers(10, 80))


def _rows(lengths: Iterable[int]) -> list[EncodedRow]:
    """Rows whose tokens are their own number, so that none can pass for another."""
    return [
        EncodedRow(
            RowId("rows.jsonl", number),
            (
                EncodedSequence(
                    np.full(length, number, np.int32), np.arange(length) > 0, num_prompt=1
                ),
            ),
        )
        for number, length in enumerate(lengths, 1)
    ]


def _steps(source: TokenBatches | StreamedBatches, count: int = 10_000) -> Steps:
    steps: Steps = []
    while len(steps) < count and (step := source.next_step()):
        steps.append(list(step))
    return steps


def _names(steps: Sequence[Sequence[PackedBatch]]) -> list[list[list[int]]]:
    return [[[row.number for row in batch.row_ids] for batch in step] for step in steps]


def _flat(steps: Sequence[Sequence[PackedBatch]]) -> list[int]:
    return [number for step in _names(steps) for batch in step for number in batch]


@given(_LENGTHS, _BUDGETS, st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_epoch_holds_each_row_once_within_its_budgets(
    lengths: list[int], budgets: tuple[int, int], seed: int
) -> None:
    source = TokenBatches(_rows(lengths), BatchSize(*budgets), seed=seed, epochs=2)
    steps = _steps(source)
    assert len(steps) == source.num_steps()
    assert Counter(_flat(steps)) == dict.fromkeys(range(1, len(lengths) + 1), 2)
    for step in steps:
        sizes = [len(batch.tokens) for batch in step]
        num_rows = sum(len(batch.row_ids) for batch in step)
        assert sum(sizes) <= budgets[0] or num_rows == 1
        for batch, size in zip(step, sizes, strict=True):
            assert size <= budgets[1] or len(batch.row_ids) == 1


def test_step_takes_rows_while_they_fit() -> None:
    steps = _steps(TokenBatches(_rows([10] * 9), BatchSize(35, 100), epochs=1))
    assert [len(step[0].tokens) for step in steps] == [30, 30, 30]


def test_rows_are_packed_longest_first_into_the_first_with_room() -> None:
    packed = pack_step(_rows([3, 9, 4, 2, 7, 30]), 10)
    assert [[row.num_tokens for row in rows] for rows in packed] == [[30], [9], [3, 7], [4, 2]]


def test_fixed_number_of_rows_ignores_tokens() -> None:
    steps = _steps(TokenBatches(_rows([5, 50] * 5), BatchSize(1, 60, rows=4), epochs=1))
    assert [sum(len(batch.row_ids) for batch in step) for step in steps] == [4, 4, 2]


def test_order_differs_by_epoch_and_seed_alone() -> None:
    rows, size = _rows([5] * 30), BatchSize(30, 30)
    two_epochs = _flat(_steps(TokenBatches(rows, size, seed=1, epochs=2)))
    assert two_epochs[:30] != two_epochs[30:]
    assert two_epochs != _flat(_steps(TokenBatches(rows, size, seed=2, epochs=2)))
    assert two_epochs == _flat(_steps(TokenBatches(rows, size, seed=1, epochs=2)))


@given(_LENGTHS, st.integers(1, 12))
@settings(max_examples=30, deadline=None)
def test_resumed_source_gives_the_steps_that_would_have_come(
    lengths: list[int], taken: int
) -> None:
    def new() -> TokenBatches:
        return TokenBatches(_rows(lengths), BatchSize(60, 30), seed=3, epochs=3)

    whole = _names(_steps(new()))
    first, second = new(), new()
    _steps(first, taken)
    second.load_state_dict(first.state_dict())
    assert _names(_steps(second)) == whole[taken:]


def test_place_of_other_rows_is_refused() -> None:
    state = TokenBatches(_rows([5, 6, 7]), BatchSize(10, 10)).state_dict()
    for other, message in (
        (TokenBatches(_rows([5, 6]), BatchSize(10, 10)), "num_rows=3.*num_rows=2"),
        (TokenBatches(_rows([5, 7, 6]), BatchSize(10, 10)), "fingerprint="),
        (TokenBatches(_rows([5, 6, 7]), BatchSize(10, 10), seed=1), "seed=0.*seed=1"),
    ):
        with pytest.raises(CheckpointError, match=message):
            other.load_state_dict(state)


@given(_LENGTHS, _BUDGETS, st.integers(2, 4))
@settings(max_examples=40, deadline=None)
def test_ranks_share_each_step_evenly(
    lengths: list[int], budgets: tuple[int, int], world: int
) -> None:
    def source(rank: int) -> TokenBatches:
        return TokenBatches(_rows(lengths), BatchSize(*budgets), epochs=1, rank=rank, world=world)

    ranks = [_steps(source(rank)) for rank in range(world)]
    assert len({len(steps) for steps in ranks}) == 1
    for shares in zip(*ranks, strict=True):
        assert len({len(share) for share in shares}) == 1
    assert sorted(_flat(list(chain(*ranks)))) == list(range(1, len(lengths) + 1))


def test_ranks_keep_the_budget_but_in_the_rest_of_an_epoch() -> None:
    """Five rows that fill a micro-batch each: a step leaves the odd one to the next."""
    ranks = [
        _steps(TokenBatches(_rows([9] * 10), BatchSize(45, 10), epochs=1, rank=rank, world=2))
        for rank in (0, 1)
    ]
    assert [[len(batch.tokens) for batch in step] for step in ranks[0]] == [[9, 9], [9, 9], [9]]


def test_what_processes_cannot_share_is_refused() -> None:
    with pytest.raises(DataError, match="2 rows cannot train on 3 processes"):
        TokenBatches(_rows([5, 5]), BatchSize(10, 10), world=3)
    with pytest.raises(DataError, match="5 rows a step cannot be shared by 2 processes"):
        TokenBatches(_rows([5] * 9), BatchSize(10, 10, rows=5), world=2)


def test_row_longer_than_the_longest_is_named() -> None:
    size = BatchSize(10, 10, max_row_tokens=20)
    with pytest.raises(DataError, match=r"rows\.jsonl:2: the row has 21 tokens.*at most 20"):
        TokenBatches(_rows([20, 21]), size)


def test_rows_of_a_batch_are_named() -> None:
    source = TokenBatches(_rows([5]), BatchSize(10, 10))
    assert source.row_names(source.next_step()[0]) == ["rows.jsonl:1"]


def _streamed(lengths: Sequence[int], **options: int) -> StreamedBatches:
    size = BatchSize(60, 30)
    return StreamedBatches(lambda epoch: iter(_rows(lengths)), size, buffer_rows=8, **options)


@given(_LENGTHS, st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_stream_holds_each_row_once_an_epoch_on_any_ranks(lengths: list[int], world: int) -> None:
    ranks = [_steps(_streamed(lengths, epochs=2, rank=r, world=world)) for r in range(world)]
    assert Counter(_flat(list(chain(*ranks)))) == dict.fromkeys(range(1, len(lengths) + 1), 2)
    for shares in zip(*ranks, strict=True):
        assert len({len(share) for share in shares}) == 1


@given(_LENGTHS, st.integers(0, 12), st.integers(1, 2))
@settings(max_examples=30, deadline=None)
def test_resumed_stream_gives_the_steps_that_would_have_come(
    lengths: list[int], taken: int, world: int
) -> None:
    def new() -> StreamedBatches:
        return _streamed(lengths, seed=4, epochs=3, world=world)

    whole = _names(_steps(new()))
    first, second = new(), new()
    _steps(first, taken)
    second.load_state_dict(first.state_dict())
    assert _names(_steps(second)) == whole[taken:]


def test_stream_is_mixed_anew_in_every_epoch() -> None:
    numbers = _flat(_steps(_streamed([5] * 40, epochs=2)))
    assert numbers[:40] != sorted(numbers[:40])
    assert numbers[:40] != numbers[40:]


def test_stream_that_became_shorter_is_refused() -> None:
    long, short = _streamed([5] * 40), _streamed([5] * 10)
    _steps(long, 2)
    with pytest.raises(CheckpointError, match=r"had read 24 rows .* has only 10"):
        short.load_state_dict(long.state_dict())


def test_empty_stream_is_an_error() -> None:
    with pytest.raises(DataError, match="gave 0 rows"):
        _streamed([]).next_step()
