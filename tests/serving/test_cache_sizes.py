"""Sharing memory among cache groups."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yearling.core.errors import CapacityError
from yearling.models.cache_layout import CacheGroup
from yearling.serving.executor import CacheShape
from yearling.serving.executors.cache_sizes import CacheDemand, cache_shapes

FULL = CacheGroup("full", token_floats=10)
WINDOW = CacheGroup("window", 64, token_floats=50)
STATE = CacheGroup("state", slot_floats=100)
DEMAND = CacheDemand(
    context=1024, max_sequences=4, max_step_tokens=32, block_tokens=16, float_bytes=2
)
BLOCK_BYTES = {FULL: 320, WINDOW: 1600}


def shapes(*groups: CacheGroup, num_bytes: int, contexts: int | None = None) -> list[int]:
    found = cache_shapes(groups, DEMAND, num_bytes=num_bytes, most_contexts=contexts)
    return [shape.num_blocks for shape in found]


def test_full_group_takes_what_fits_up_to_what_is_asked() -> None:
    assert shapes(FULL, num_bytes=3199) == [9]
    assert shapes(FULL, num_bytes=10**9, contexts=2) == [128]
    assert shapes(FULL, num_bytes=10**9) == [256]


def test_groups_share_evenly_until_a_window_has_all_it_can_use() -> None:
    assert shapes(FULL, WINDOW, num_bytes=10 * 1920) == [10, 10]
    # Four sequences hold at most ceil((64 + 32 + 32) / 16) = 8 blocks of the window each.
    assert shapes(FULL, WINDOW, num_bytes=32 * 1920 + 7 * 320) == [39, 32]
    assert shapes(WINDOW, num_bytes=10**9) == [32]


def test_every_running_sequence_gets_a_state_before_blocks_are_shared() -> None:
    assert shapes(STATE, num_bytes=10**9) == [4]
    assert shapes(STATE, num_bytes=999) == [2]
    assert shapes(FULL, STATE, num_bytes=1600 + 5 * 320) == [5, 4]


def test_shapes_keep_kind_window_and_order() -> None:
    found = cache_shapes([WINDOW, STATE, FULL], DEMAND, num_bytes=10**6, most_contexts=None)
    assert [(shape.kind, shape.window) for shape in found] == [
        ("window", 64),
        ("state", None),
        ("full", None),
    ]


@pytest.mark.parametrize(
    ("groups", "num_bytes"), [((FULL,), 319), ((STATE,), 399), ((FULL, STATE), 1600 + 319)]
)
def test_too_few_bytes_are_refused_with_what_one_block_takes(
    groups: tuple[CacheGroup, ...], num_bytes: int
) -> None:
    with pytest.raises(CapacityError, match=rf"{num_bytes} bytes do not hold .* more cache_bytes"):
        cache_shapes(groups, DEMAND, num_bytes=num_bytes, most_contexts=None)


@given(
    st.integers(1, 10**6),
    st.sampled_from([(FULL,), (WINDOW,), (FULL, WINDOW)]),
    st.one_of(st.none(), st.integers(1, 8)),
)
def test_blocks_never_take_more_than_there_is_and_waste_less_than_a_block_of_each(
    num_bytes: int, groups: tuple[CacheGroup, ...], contexts: int | None
) -> None:
    try:
        found = cache_shapes(groups, DEMAND, num_bytes=num_bytes, most_contexts=contexts)
    except CapacityError:
        assert num_bytes < sum(BLOCK_BYTES[group] for group in groups)
        return
    taken = sum(s.num_blocks * BLOCK_BYTES[g] for s, g in zip(found, groups, strict=True))
    assert taken <= num_bytes
    is_limited = found[0].num_blocks in (256, 32, 64 * (contexts or 0))
    assert is_limited or num_bytes - taken < sum(BLOCK_BYTES[group] for group in groups)
    assert all(isinstance(shape, CacheShape) for shape in found)
