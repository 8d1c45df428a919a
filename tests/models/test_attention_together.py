"""Sequences side by side in one call are what they are one by one."""

import pytest
import torch

from tests.models.torch_variants import attending
from yearling.models.spec import Attention
from yearling.models.torch_decoder.attention import attend
from yearling.models.torch_decoder.cache import SeenKeys
from yearling.models.torch_decoder.segments import Segments
from yearling.models.torch_decoder.together import (
    attend_together,
    can_attend_together,
    lay_side_by_side,
)

LENGTHS = {
    "equal": [20, 20, 20],
    "unequal": [5, 1, 70, 23],
    "far from equal": [5, 300, 1, 70, 23, 290],
}


def attention(**changes: object) -> Attention:
    mixer = attending(**changes).mixer
    assert isinstance(mixer, Attention)
    return mixer


def heads_of(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [
        torch.randn(count, heads, 8, generator=generator).requires_grad_() for heads in (4, 2, 2)
    ]


@pytest.mark.parametrize("name", LENGTHS)
def test_values_and_gradients_are_those_of_one_by_one(name: str) -> None:
    segments, device = Segments(LENGTHS[name]), torch.device("cpu")
    together, alone = heads_of(segments.num_tokens), heads_of(segments.num_tokens)
    layer = attention()
    queries, keys, values = together
    mixed = attend_together(layer, (queries, keys, values), lay_side_by_side(segments, device))
    expected = torch.cat(
        [
            attend(
                layer,
                alone[0][s.rows],
                SeenKeys(alone[1][s.rows], alone[2][s.rows], s.start),
                s,
            )
            for s in segments
        ]
    )
    torch.testing.assert_close(mixed, expected, atol=1e-5, rtol=1e-5)
    weights = torch.randn(mixed.shape, generator=torch.Generator().manual_seed(4))
    (mixed * weights).sum().backward()
    (expected * weights).sum().backward()
    for ours, theirs in zip(together, alone, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=1e-5)


def test_every_row_has_one_slot_and_long_ones_are_not_filled_up_far() -> None:
    segments = Segments(LENGTHS["far from equal"])
    laid = lay_side_by_side(segments, torch.device("cpu"))
    rows = torch.cat([group.rows for group in laid])
    assert rows.sort().values.tolist() == list(range(segments.num_tokens))
    assert [(group.num_sequences, group.length) for group in laid] == [(2, 300), (4, 70)]
    for group in laid:
        assert len(set(group.slots.tolist())) == len(group.rows)
        assert int(group.slots.max()) < group.num_sequences * group.length


@pytest.mark.parametrize(
    "change", [{"window": 4}, {"soft_cap": 1.5}, {"mask": "prefix"}, {"mask": "bidirectional"}]
)
def test_other_attention_is_not_shared(change: dict[str, object]) -> None:
    assert can_attend_together(attention(), Segments([6, 5]))
    assert not can_attend_together(attention(**change), Segments([6, 5]))


def test_a_window_that_nobody_fills_is_none() -> None:
    assert can_attend_together(attention(window=6), Segments([6, 5]))
