"""How families tell published models apart, by settings of old and new spellings."""

from collections.abc import Mapping
from typing import Any

import pytest

from yearling.core.errors import ModelFormatError
from yearling.models.families import family_of_model_type
from yearling.models.fields import Fields
from yearling.models.spec import (
    Alibi,
    Attention,
    Head,
    ModelSpec,
    Rotary,
    RotaryScaling,
)

_LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "vocab_size": 40,
}
_QWEN = {
    "hidden_size": 32,
    "intermediate_size": 128,
    "kv_channels": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "seq_length": 64,
    "vocab_size": 40,
}
_TELECHAT = {
    "hidden_size": 32,
    "ffn_hidden_size": 64,
    "n_layer": 2,
    "n_head": 4,
    "vocab_size": 40,
}


def _spec(model_type: str, config: Mapping[str, Any]) -> ModelSpec:
    fields = Fields({"model_type": model_type, **config}, "config.json")
    return family_of_model_type(model_type).spec_from_config(fields)


def _attentions(spec: ModelSpec) -> list[Attention]:
    return [layer.mixer for layer in spec.layers if isinstance(layer.mixer, Attention)]


def _bases(spec: ModelSpec) -> list[float]:
    return [a.positions.base for a in _attentions(spec) if isinstance(a.positions, Rotary)]


def _windows(spec: ModelSpec) -> list[int | None]:
    return [attention.window for attention in _attentions(spec)]


def test_mistral_has_the_window_of_its_first_version_unless_told() -> None:
    assert _windows(_spec("mistral", _LLAMA)) == [4_096] * 3
    assert _windows(_spec("mistral", {**_LLAMA, "sliding_window": None})) == [None] * 3
    kinds = ["full_attention", "sliding_attention", "full_attention"]
    changed = {**_LLAMA, "sliding_window": 8, "layer_types": kinds}
    assert _windows(_spec("mistral", changed)) == [None, 8, None]


@pytest.mark.parametrize("model_type", ["qwen2", "qwen3"])
def test_qwen_windows_begin_at_a_layer(model_type: str) -> None:
    config = {**_LLAMA, "sliding_window": 8, "max_window_layers": 2}
    assert _windows(_spec(model_type, config)) == [None] * 3
    assert _windows(_spec(model_type, {**config, "use_sliding_window": True})) == [None, None, 8]


@pytest.mark.parametrize(
    ("changes", "positions", "is_normalised"),
    [
        ({}, Rotary(8), False),
        ({"max_position_embeddings": None, "model_max_length": 64}, Alibi(), False),
        ({"z_loss_weight": 0, "model_max_length": 64}, Rotary(8), True),
        ({"vocab_size": 125_696}, Rotary(8), True),
        (
            {"max_position_embeddings": None, "model_max_length": 64, "vocab_size": 125_696},
            Alibi(),
            True,
        ),
    ],
)
def test_baichuan_is_told_by_its_keys(
    changes: Mapping[str, Any], positions: Rotary | Alibi, is_normalised: bool
) -> None:
    spec = _spec("baichuan", {**_LLAMA, **changes})
    assert {attention.positions for attention in _attentions(spec)} == {positions}
    assert spec.head == Head(is_normalised=is_normalised)


def test_internlm_reads_its_own_rotary_settings() -> None:
    assert _attentions(_spec("internlm", _LLAMA))[0].positions == Rotary(8)
    dynamic = _spec("internlm", {**_LLAMA, "rotary": {"base": 500, "type": "dynamic"}})
    scaling = RotaryScaling("dynamic_ntk", 1.0, 128)
    assert _attentions(dynamic)[0].positions == Rotary(8, 500.0, scaling=scaling)


@pytest.mark.parametrize(("has_bias", "expected"), [(None, True), (True, True), (False, False)])
def test_internlm_has_biases_unless_told(has_bias: bool | None, expected: bool) -> None:
    attention = _attentions(_spec("internlm", {**_LLAMA, "bias": has_bias}))[0]
    assert attention.has_qkv_bias is attention.has_output_bias is expected


def test_qwen_stretches_beyond_its_trained_length() -> None:
    attention = _attentions(_spec("qwen", _QWEN))[0]
    assert isinstance(attention.positions, Rotary)
    assert attention.positions.scaling == RotaryScaling("stepped_ntk", original_context=64)
    assert attention.log_scale is not None
    off = {**_QWEN, "use_dynamic_ntk": False, "use_logn_attn": False}
    attention = _attentions(_spec("qwen", off))[0]
    assert (attention.positions, attention.log_scale) == (Rotary(8), None)


def test_telechat_is_stretched_within_its_trained_length() -> None:
    """The first published code begins its steps at 4,096, half the trained length."""
    for changes, factor in (({}, 2.0), ({"base_seqlen": 8_192}, 1.0)):
        positions = _attentions(_spec("telechat", _TELECHAT | changes))[0].positions
        assert isinstance(positions, Rotary)
        assert positions.scaling == RotaryScaling(
            "stepped_ntk", factor, 8_192, has_length_factor=True
        )


def test_telechat_ties_its_head_unless_told() -> None:
    assert _spec("telechat", _TELECHAT).head == Head(is_tied=True)
    assert _spec("telechat", {**_TELECHAT, "tie_word_embeddings": False}).head == Head()


def test_stablelm_reads_its_first_spelling() -> None:
    older = {**_LLAMA, "norm_eps": 1e-6, "rope_pct": 0.5, "rotary_scaling_factor": 1.0}
    newer = {
        **_LLAMA,
        "layer_norm_eps": 1e-6,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10_000.0,
            "partial_rotary_factor": 0.5,
        },
    }
    assert _spec("stablelm_epoch", older) == _spec("stablelm", newer)
    assert _attentions(_spec("stablelm", newer))[0].positions == Rotary(4)


def test_gemma_means_the_tanh_form_by_gelu() -> None:
    assert _spec("gemma", {**_LLAMA, "hidden_act": "gelu"}) == _spec("gemma", _LLAMA)


def test_gemma3_reads_its_first_spelling() -> None:
    older = {
        **_LLAMA,
        "num_hidden_layers": 7,
        "rope_local_base_freq": 5_000.0,
        "rope_theta": 2e6,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        "sliding_window": 8,
        "sliding_window_pattern": 3,
    }
    kinds = ["full_attention" if n % 3 == 2 else "sliding_attention" for n in range(7)]
    newer = {
        **_LLAMA,
        "num_hidden_layers": 7,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 2e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 5_000.0},
        },
        "sliding_window": 8,
        "layer_types": kinds,
    }
    spec = _spec("gemma3_text", older)
    assert spec == _spec("gemma3_text", newer)
    assert _windows(spec) == [8, 8, None, 8, 8, None, 8]
    assert _bases(spec) == [5e3, 5e3, 2e6, 5e3, 5e3, 2e6, 5e3]


def test_gemma2_has_its_published_caps_unless_told() -> None:
    spec = _spec("gemma2", _LLAMA)
    assert [attention.soft_cap for attention in _attentions(spec)] == [50.0] * 3
    assert spec.head == Head(is_tied=True, soft_cap=30.0)
    assert _windows(spec) == [4_096, None, 4_096]
    without = {"attn_logit_softcapping": None, "final_logit_softcapping": None}
    assert _spec("gemma2", {**_LLAMA, **without}).head == Head(is_tied=True)


@pytest.mark.parametrize(
    ("model_type", "changes", "words"),
    [
        ("mistral", {"sliding_window": 0}, "sliding_window=0 must be from 1"),
        ("mistral", {"layer_types": ["full_attention"]}, "must list the kind of each of 3 layers"),
        ("mistral", {"layer_types": ["mamba"] * 3}, "holds 'mamba'; known are sliding_attention"),
        ("mixtral", {"num_local_experts": 2, "num_experts_per_tok": 3}, "must be from 1 to 2"),
        ("qwen2", {"use_mrope": True}, "use_mrope=True is of Qwen's vision models"),
        ("internlm", {"rotary": {"type": "spiral"}}, "type='spiral' is not known"),
        ("phi", {"qk_layernorm": True}, "qk_layernorm=True is not known"),
        ("stablelm", {"qk_layernorm": True}, "qk_layernorm=True is not known"),
        ("stablelm", {"use_parallel_residual": True}, "use_parallel_residual=True is not known"),
        ("stablelm", {"partial_rotary_factor": 1.5}, "partial_rotary_factor=1.5 leaves 12 of 8"),
        ("stablelm", {"rotary_scaling_factor": 2.0}, "rotary_scaling_factor=2.0 must be 1"),
        ("gemma", {"hidden_act": "relu"}, "hidden_act='relu' is not known"),
        ("gemma", {"final_logit_softcapping": 30.0}, "final_logit_softcapping=30.0 is not known"),
        ("gemma3_text", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping=50.0"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("skywork", {"attention_bias": True}, "attention_bias=True is not known"),
    ],
)
def test_families_refuse_by_name(model_type: str, changes: Mapping[str, Any], words: str) -> None:
    with pytest.raises(ModelFormatError, match=words):
        _spec(model_type, {**_LLAMA, **changes})


@pytest.mark.parametrize(
    ("model_type", "config"),
    [
        ("qwen", {**_QWEN, "no_bias": False}),
        ("qwen", {**_QWEN, "scale_attn_weights": False}),
        ("telechat", {**_TELECHAT, "logn": True}),
        ("telechat", {**_TELECHAT, "embed_layernorm": True}),
    ],
)
def test_parts_no_published_model_has_are_refused(
    model_type: str, config: Mapping[str, Any]
) -> None:
    with pytest.raises(ModelFormatError):
        _spec(model_type, config)
