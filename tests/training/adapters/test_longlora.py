"""Shifted groups against a mask written out; plain attention once training is over."""

import math

import pytest
import torch

from tests.models.torch_variants import ROTARY, VARIANTS, decoder
from yearling.core.errors import UnsupportedError
from yearling.models.torch_decoder import SeenKeys, Segment, Segments, TorchDecoder
from yearling.training.adapters import adapters
from yearling.training.adapters.longlora import LongLoraConfig, ShiftedGroups, attended_fraction

LONGLORA = adapters.get("longlora")


def expected_mask(length: int, group: int, heads: int) -> torch.Tensor:
    """Which keys each head's queries see (H, T, T), one entry at a time."""
    mask = torch.zeros(heads, length, length, dtype=torch.bool)
    for head in range(heads):
        shift = 0 if head < heads // 2 else group // 2
        for query in range(length):
            for key in range(query + 1):
                mask[head, query, key] = (query + shift) // group == (key + shift) // group
    return mask


@pytest.mark.parametrize(("length", "group"), [(32, 8), (29, 8), (9, 8), (24, 16), (13, 2)])
def test_groups_are_those_of_a_dense_mask(length: int, group: int) -> None:
    generator = torch.Generator().manual_seed(4)
    queries = torch.randn(length, 4, 8, generator=generator)
    keys, values = torch.randn(2, length, 2, 8, generator=generator)
    segment = Segment(slice(0, length), 0, length, 0)
    ours = ShiftedGroups(group)(ROTARY, queries, SeenKeys(keys, values, 0), segment)
    scores = torch.einsum("qhd,khd->hqk", queries, keys.repeat_interleave(2, 1)) / math.sqrt(8)
    scores = scores.masked_fill(~expected_mask(length, group, 4), -math.inf)
    dense = torch.einsum("hqk,khd->qhd", scores.softmax(-1), values.repeat_interleave(2, 1))
    torch.testing.assert_close(ours, dense)


def attached(**options: object) -> TorchDecoder:
    model = decoder(VARIANTS["plain"])
    LONGLORA.attach(model, LongLoraConfig(group_tokens=8, **options), 1)  # type: ignore[arg-type]
    return model


def test_groups_stay_inside_packed_sequences() -> None:
    model, tokens = attached().train(), torch.randint(50, (45,))
    packed = model(tokens, Segments([30, 15]))
    alone = [model(part, Segments([len(part)])) for part in tokens.split([30, 15])]
    torch.testing.assert_close(packed, torch.cat(alone))


def test_sequence_no_longer_than_a_group_attends_plainly() -> None:
    model, tokens = attached().train(), torch.randint(50, (8,))
    torch.testing.assert_close(
        model(tokens, Segments([8])), decoder(VARIANTS["plain"])(tokens, Segments([8]))
    )


def test_attention_is_plain_again_in_evaluation() -> None:
    model, tokens = attached(), torch.randint(50, (40,))
    plain = decoder(VARIANTS["plain"])(tokens, Segments([40]))
    assert not torch.allclose(model.train()(tokens, Segments([40])), plain, atol=1e-2)
    torch.testing.assert_close(model.eval()(tokens, Segments([40])), plain)


def test_only_shifting_lets_groups_hear_of_each_other() -> None:
    tokens = torch.randint(50, (32,), generator=torch.Generator().manual_seed(1))
    changed = tokens.clone()
    changed[0] += 1
    reach = {}
    for is_shifted in (True, False):
        model = attached(is_shifted=is_shifted).train()
        one, other = (model(ids, Segments([32])) for ids in (tokens, changed))
        reach[is_shifted] = int((one != other).any(1).nonzero().max())
    assert reach[False] == 7
    assert reach[True] > 7


def test_embeddings_and_norms_are_trained_beside_the_updates() -> None:
    learned = {name for name, p in attached().named_parameters() if p.requires_grad}
    parts = {name.split(".modules_to_save")[0].split(".lora_")[0] for name in learned}
    assert {part.rpartition(".")[2] for part in parts} == {
        *("embedding", "final_norm", "mixer_norm", "mlp_norm"),
        *("query", "key", "value", "output"),
    }


def test_share_of_attention_is_a_quarter_of_the_pairs() -> None:
    counted = expected_mask(64, 16, 2).float().mean(0).sum() / (64 * 65 / 2)
    assert attended_fraction(64, 16) == pytest.approx(float(counted))
    assert attended_fraction(2_048, 512) <= 0.35


def test_attention_that_has_no_groups_is_refused() -> None:
    for name in ("alibi", "prefix", "mamba"):
        with pytest.raises(UnsupportedError, match="longlora"):
            LONGLORA.attach(decoder(VARIANTS[name]), LongLoraConfig(), 1)
