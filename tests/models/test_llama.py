"""The LLaMA family: settings of both kinds of file, names, and the order of rows."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.models.tiny_files import (
    CANONICAL_SHAPES,
    CONFIG,
    TYPES,
    TinyTensor,
    from_numpy,
    stored,
    tiny_gguf,
    tiny_tensors,
    write_folder,
)
from yearling.core.errors import ModelFormatError
from yearling.models.checkpoint import Checkpoint, open_checkpoint
from yearling.models.checkpoint.formats import to_float32
from yearling.models.families import families
from yearling.models.families.llama import family
from yearling.models.fields import Fields
from yearling.models.places import hugging_face_places
from yearling.models.spec import Attention, Gated, Head, ModelSpec, Rotary, RotaryScaling
from yearling.models.weights import Role, weights_of


def _spec(**changes: object) -> ModelSpec:
    config = {key: value for key, value in {**CONFIG, **changes}.items() if value is not None}
    return family.spec_from_config(Fields(config, "config.json"))


def _attention(spec: ModelSpec) -> Attention:
    mixer = spec.layers[0].mixer
    assert isinstance(mixer, Attention)
    return mixer


def _open(folder: Path, content: bytes) -> Checkpoint:
    path = folder / "model.gguf"
    path.write_bytes(content)
    return open_checkpoint(path)


def test_family_is_registered_under_its_file() -> None:
    assert families.get("llama") is family


def test_spec_from_config_has_its_values() -> None:
    spec = _spec(num_hidden_layers=3, head_dim=16, rope_theta=5e5, hidden_act="gelu_new")
    assert (spec.width, spec.vocabulary, spec.context, len(spec.layers)) == (32, 4, 64, 3)
    attention = _attention(spec)
    assert (attention.heads, attention.kv_heads, attention.head_dim) == (4, 2, 16)
    assert attention.positions == Rotary(16, 5e5)
    assert spec.layers[0].mlp == Gated(64, "gelu_tanh")
    assert spec.head == Head(is_tied=True)


def test_spec_from_config_defaults_are_those_of_llama() -> None:
    spec = _spec(num_key_value_heads=None, tie_word_embeddings=None, rms_norm_eps=None)
    assert _attention(spec).kv_heads == 4
    assert _attention(spec).head_dim == 8
    assert spec.head == Head(is_tied=False)
    assert spec.final_norm is not None
    assert spec.final_norm.epsilon == 1e-6


def test_spec_from_config_keeps_biases_apart() -> None:
    attention, mlp = _attention(_spec(attention_bias=True)), _spec(mlp_bias=True).layers[0].mlp
    assert attention.has_qkv_bias
    assert attention.has_output_bias
    assert mlp == Gated(64, has_bias=True)
    assert not _attention(_spec(mlp_bias=True)).has_qkv_bias


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sliding_window": 512}, "sliding_window=512 is not known"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"rope_interleaved": True}, "rope_interleaved=True is not known"),
        ({"hidden_act": "mish"}, "hidden_act='mish' is not known; known are silu"),
        ({"num_key_value_heads": 3}, "config.json: attention with heads=4, kv_heads=3"),
        ({"head_dim": 7}, "rotary dims=7 must be even"),
        ({"hidden_size": 0}, "hidden_size=0 must be from 1"),
        ({"vocab_size": None}, "vocab_size is missing"),
    ],
)
def test_spec_from_config_refuses_by_name(changes: Mapping[str, object], words: str) -> None:
    with pytest.raises(ModelFormatError, match=words):
        _spec(**changes)


def test_harmless_keys_are_accepted() -> None:
    assert _spec(torch_dtype="bfloat16", use_cache=True, rope_interleaved=False) == _spec()


def test_gguf_and_folder_give_one_spec(tmp_path: Path) -> None:
    from_gguf = _open(tmp_path, tiny_gguf({"llama.attention.layer_norm_rms_epsilon": 0.5}))
    config = {**CONFIG, "rms_norm_eps": 0.5}
    from_folder = open_checkpoint(write_folder(tmp_path / "folder", {"config.json": config}))
    assert from_gguf.spec == from_folder.spec
    assert from_gguf.eos_token_ids == from_folder.eos_token_ids == (0,)
    assert len(list(weights_of(from_gguf.spec))) == len(CANONICAL_SHAPES)
    for weight in weights_of(from_gguf.spec):
        assert from_gguf.weight(weight).shape == from_folder.weight(weight).shape == weight.shape


def _gguf_rows(rows: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """What the usual converter does to query and key rows, written out for one head at a time."""
    parts = []
    for head in np.split(rows, heads):
        first, second = np.split(head, 2)
        parts += [row for both in zip(first, second, strict=True) for row in both]
    return np.array(parts)


@pytest.mark.parametrize(("role", "heads"), [("query", 4), ("key", 2)])
def test_query_and_key_rows_come_back_in_order(tmp_path: Path, role: Role, heads: int) -> None:
    rows = np.arange(heads * 8, dtype=np.float32)[:, None].repeat(32, 1)
    tensor = from_numpy(f"blk.0.attn_{role[0]}.weight", _gguf_rows(rows, heads))
    checkpoint = _open(tmp_path, tiny_gguf(None, tensor))
    np.testing.assert_array_equal(to_float32(stored(checkpoint, role, 0)), rows)


def test_quantised_query_rows_move_as_whole_rows(tmp_path: Path) -> None:
    rows = np.random.default_rng(5).integers(0, 256, (32, 34), np.uint8)
    permuted = rows.reshape(4, 2, 4, 34).swapaxes(1, 2).tobytes()
    tensor = TinyTensor("blk.0.attn_q.weight", (32, 32), permuted, TYPES["Q8_0"])
    query = stored(_open(tmp_path, tiny_gguf(None, tensor)), "query", 0)
    assert query.format == "Q8_0"
    assert query.data.tobytes() == rows.tobytes()


def test_value_rows_stay(tmp_path: Path) -> None:
    value = stored(_open(tmp_path, tiny_gguf()), "value", 0)
    assert value.data.tobytes() == tiny_tensors()["blk.0.attn_v.weight"].data


def test_biases_in_gguf_are_found_and_put_in_order(tmp_path: Path) -> None:
    ramp = np.arange(32, dtype=np.float32)
    extra = [
        from_numpy("blk.0.attn_q.bias", _gguf_rows(ramp, 4)),
        from_numpy("blk.0.attn_k.bias", ramp[:16]),
        from_numpy("blk.0.attn_v.bias", ramp[:16]),
        from_numpy("blk.0.attn_output.bias", ramp),
    ]
    checkpoint = _open(tmp_path, tiny_gguf(None, *extra))
    assert _attention(checkpoint.spec).has_qkv_bias
    assert _attention(checkpoint.spec).has_output_bias
    bias = stored(checkpoint, "query", 0, "bias")
    assert to_float32(bias).tolist() == ramp.tolist()


def test_head_is_tied_only_without_an_output_tensor(tmp_path: Path) -> None:
    assert _open(tmp_path, tiny_gguf()).spec.head == Head(is_tied=True)
    head = from_numpy("output.weight", np.ones((4, 32), np.float32))
    untied = _open(tmp_path, tiny_gguf(None, head))
    assert untied.spec.head == Head(is_tied=False)
    assert stored(untied, "head").shape == (4, 32)


def test_gguf_refuses_heads_it_would_rotate_wrongly(tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match=r"rope.dimension_count=4 must equal the head size"):
        _open(tmp_path, tiny_gguf({"llama.rope.dimension_count": 4}))


def test_real_file_has_the_published_shape(smollm2_path: Path) -> None:
    checkpoint = open_checkpoint(smollm2_path)
    spec, attention = checkpoint.spec, _attention(checkpoint.spec)
    assert (len(spec.layers), spec.width, spec.context, spec.vocabulary) == (30, 576, 8192, 49_152)
    assert (attention.heads, attention.kv_heads, attention.head_dim) == (9, 3, 64)
    assert attention.positions == Rotary(64, 100_000.0)
    assert spec.layers[0].mlp == Gated(1536)
    assert spec.head == Head(is_tied=True)
    assert checkpoint.eos_token_ids == (2,)
    assert len(list(weights_of(spec))) == 272
    assert stored(checkpoint, "embedding").format == "Q8_0"
    tokenizer = checkpoint.tokenizer()
    assert tokenizer is not None
    assert tokenizer.vocabulary_size == 49_152
    assert checkpoint.chat_template() is not None


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("default")
def test_real_file_holds_the_numbers_transformers_reads(smollm2_path: Path) -> None:
    """Every tensor, bit for bit: names, dequantisation, and the order of query and key rows."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        smollm2_path.parent, gguf_file=smollm2_path.name, dtype=torch.float32
    )
    expected = dict(model.named_parameters())
    checkpoint = open_checkpoint(smollm2_path)
    places = hugging_face_places(checkpoint.spec, checkpoint.family.names(checkpoint.spec))
    assert set(expected) == {place.name for place in places.values()}
    for weight, place in places.items():
        ours = to_float32(checkpoint.weight(weight))
        np.testing.assert_array_equal(ours, expected[place.name].detach().numpy(), str(weight))


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("shard_size", ["1GB", "20KB"])
def test_folder_saved_by_transformers_is_read(tmp_path: Path, shard_size: str) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=40,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        attention_bias=True,
        mlp_bias=True,
        tie_word_embeddings=False,
        eos_token_id=[3, 5],
        rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 5e4},
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(tmp_path, max_shard_size=shard_size)
    checkpoint = open_checkpoint(tmp_path)
    expected = dict(model.named_parameters())
    assert (tmp_path / "model.safetensors").exists() == (shard_size == "1GB")
    places = hugging_face_places(checkpoint.spec, checkpoint.family.names(checkpoint.spec))
    assert {place.name for place in places.values()} == set(expected)
    assert checkpoint.eos_token_ids == (3, 5)
    assert _attention(checkpoint.spec).positions == Rotary(
        16, 5e4, scaling=RotaryScaling("linear", 2.0)
    )
    for weight, place in places.items():
        theirs = expected[place.name].detach().float().numpy()
        np.testing.assert_array_equal(to_float32(checkpoint.weight(weight)), theirs, str(weight))
