"""QLoRA's measure: what it is compared with rounds as it says, and the frozen base is watched."""

import pytest
import torch

from yearling.systems.entries import qlora
from yearling.systems.tiny_bases import decoder_of
from yearling.training.adapters import adapters

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = {
    "model_type": "llama",
    "vocab_size": 16,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 16,
    "tie_word_embeddings": False,
}


def test_even_levels_are_fifteen_and_keep_the_largest() -> None:
    weights = torch.linspace(-1, 1, 1_001)[:1_000]
    rounded = qlora.round_evenly(weights, 1_000)
    assert len(set(rounded.tolist())) == 15
    assert rounded.abs().max() == pytest.approx(weights.abs().max())
    assert (rounded - weights).abs().max() <= 1 / 14 + 1e-6


def test_floats_have_fifteen_values_and_finer_steps_near_zero() -> None:
    weights = torch.linspace(-1, 1, 1_000)
    levels = torch.tensor(sorted(set(qlora.round_floats(weights, 1_000).tolist())))
    steps = levels.diff()
    assert len(levels) == 15
    assert steps[7] == pytest.approx(steps[-1] / 4)


def test_normal_weights_suffer_least_from_normal_floats() -> None:
    errors = qlora.rounding_errors(0, width=512)
    assert errors["error_over_int4"] < 0.9
    assert errors["error_over_fp4"] < 1.0
    assert errors["bits"] == pytest.approx(4.127, abs=0.002)


def test_digest_of_what_is_frozen_sees_a_changed_code_and_no_update() -> None:
    decoder = decoder_of(SIZES, 0)
    kind = adapters.get("qlora")
    kind.attach(decoder, kind.config(r=2, backend="torch"), 0)
    before = qlora.frozen_digest(decoder)
    with torch.no_grad():
        for weight in decoder.parameters():
            if weight.requires_grad:
                weight.add_(1.0)
    assert qlora.frozen_digest(decoder) == before
    next(tensor for name, tensor in decoder.named_buffers() if name.endswith("codes"))[0] ^= 1
    assert qlora.frozen_digest(decoder) != before
