"""LongLoRA's arms: what each tunes, and that one group of everything is full attention."""

import numpy as np
import pytest
import torch

from yearling.models.torch_decoder import NO_LABEL, Segments
from yearling.systems.entries import longlora
from yearling.systems.long_context_base import SIZES
from yearling.systems.tiny_bases import decoder_of

pytestmark = pytest.mark.usefixtures("one_thread")


def hidden(adapter: longlora._Adapter, length: int) -> torch.Tensor:
    decoder = decoder_of(SIZES, 0)
    longlora._attach(decoder, adapter, 0)
    tokens = torch.arange(length) % SIZES["vocab_size"]
    with torch.no_grad():
        plain = decoder.eval()(tokens, Segments([length]))
        return decoder.train()(tokens, Segments([length])) - plain


def test_one_group_of_all_tokens_is_full_attention() -> None:
    assert hidden(longlora._Adapter(group_tokens=64), 64).abs().max() < 1e-6
    assert hidden(longlora._Adapter(group_tokens=32), 64).abs().max() > 1e-3


def test_shifting_changes_what_is_seen_behind_the_first_group() -> None:
    shifted = hidden(longlora._Adapter(group_tokens=32), 64)
    unshifted = hidden(longlora._Adapter(group_tokens=32, is_shifted=False), 64)
    assert not torch.allclose(shifted, unshifted)


def test_lora_alone_leaves_embeddings_and_norms() -> None:
    trained = {}
    for name, adapter in (("ours", longlora._Adapter()), ("alone", longlora._LORA_ALONE)):
        decoder = decoder_of(SIZES, 0)
        longlora._attach(decoder, adapter, 0)
        trained[name] = [n for n, value in decoder.named_parameters() if value.requires_grad]
    assert all("lora_" in name for name in trained["alone"])
    assert any("norm" in name for name in trained["ours"])
    assert any("embed" in name for name in trained["ours"])


def test_what_is_repeated_lies_at_most_half_a_group_back() -> None:
    sample = longlora._repeated(np.random.default_rng(0))
    places = np.flatnonzero(sample.is_answer)
    period = places[0] - 1
    assert longlora._GROUP // 4 <= period < longlora._GROUP // 2
    assert (sample.tokens[places] == sample.tokens[places - period]).all()


def test_passkeys_are_told_and_asked_for_within_half_a_group() -> None:
    for seed in range(20):
        sample = longlora._late_passkey(np.random.default_rng(seed))
        told = np.flatnonzero(sample.tokens == longlora.VOCABULARY.secret)
        assert len(sample.tokens) == longlora._TOKENS
        assert len(told) == 2
        assert told[1] - told[0] < longlora._PASSKEY_TOKENS
        assert int(sample.is_answer.sum()) == 3


def test_questions_lie_within_a_group() -> None:
    sample = longlora._questions(np.random.default_rng(0))
    begins = np.flatnonzero(sample.tokens == longlora.VOCABULARY.begin)
    assert begins.tolist() == list(range(0, longlora._TOKENS, longlora._GROUP))
    assert all(sample.is_answer[at : at + longlora._GROUP].any() for at in begins)


def test_rows_are_of_every_kind_and_of_one_length() -> None:
    rows = [longlora._row(np.random.default_rng(seed)) for seed in range(40)]
    assert {row.tokens.shape for row in rows} == {(1, longlora._TOKENS)}
    num_labelled = {int((row.labels != NO_LABEL).sum()) for row in rows}
    assert 3 in num_labelled  # passkeys
    assert longlora._TOKENS - 1 in num_labelled  # text
