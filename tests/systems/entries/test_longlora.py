"""LongLoRA's arms: what each tunes, and that one group of everything is full attention."""

import pytest
import torch

from yearling.models.torch_decoder import Segments
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
