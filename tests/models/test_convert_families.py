"""Every family that converts: there and back without a changed number, and refusals by name."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.models.converted_models import BFLOAT16, model_folder
from tests.parity.gguf_files import GGUF_CASES
from yearling.core.errors import ModelFormatError
from yearling.models.checkpoint.gguf import GgufFile
from yearling.models.checkpoint.gguf_writer import write_gguf
from yearling.models.checkpoint.planned import PlannedTensor
from yearling.models.conversion_check import compare_models
from yearling.models.convert import convert
from yearling.models.families import families

pytestmark = pytest.mark.slow

# Whose class comes with their files, so transformers alone has none.
_OWN_CODE = {"baichuan", "chatglm", "internlm", "internlm2", "qwen", "skywork"}
_FUSED = ["mixtral", "internlm2", "qwen", "falcon", "gpt_neox", "chatglm2", "gpt2", "mpt", "mamba"]
_OURS = [name for name, case in GGUF_CASES.items() if case.family not in _OWN_CODE]


def _settings(name: str, **changes: Any) -> dict[str, Any]:
    case = GGUF_CASES[name]
    model_type = families.get(case.family).model_types[0]
    return {"model_type": model_type, "tie_word_embeddings": False, **case.config, **changes}


def _publish(folder: Path, name: str) -> Path:
    """Write a case as a folder; GGUF's norms of Gemma add one, so they need numbers of 16 bits."""
    return model_folder(folder, _settings(name), BFLOAT16)


def _same_bytes(one: Path, other: Path) -> bool:
    first, second = GgufFile(one), GgufFile(other)
    if first.tensors.keys() != second.tensors.keys():
        return False
    pairs = [(first.tensor(name), second.tensor(name)) for name in first.tensors]
    return all(a.format == b.format and np.array_equal(a.data, b.data) for a, b in pairs)


@pytest.mark.parametrize("name", GGUF_CASES)
def test_there_and_back_changes_nothing(tmp_path: Path, name: str) -> None:
    published = _publish(tmp_path / "published", name)
    convert(published, tmp_path / "m.gguf")
    convert(tmp_path / "m.gguf", tmp_path / "back")
    convert(tmp_path / "back", tmp_path / "again.gguf")
    for path in ("m.gguf", "back", "again.gguf"):
        changes = compare_models(published, tmp_path / path)
        assert [change.changed_codes for change in changes] == [0] * len(changes)
        assert sum(change.changed_values for change in changes) == 0
    assert _same_bytes(tmp_path / "m.gguf", tmp_path / "again.gguf")


@pytest.mark.parametrize("name", _FUSED)
def test_codes_come_back_in_fused_and_stacked_tensors(tmp_path: Path, name: str) -> None:
    convert(_publish(tmp_path / "published", name), tmp_path / "m.gguf", "Q8_0")
    convert(tmp_path / "m.gguf", tmp_path / "back")
    convert(tmp_path / "back", tmp_path / "again.gguf")
    assert "Q8_0" in {place.format for place in GgufFile(tmp_path / "m.gguf").tensors.values()}
    assert _same_bytes(tmp_path / "m.gguf", tmp_path / "again.gguf")


def test_trained_state_matrix_comes_back_within_rounding(tmp_path: Path) -> None:
    published = _publish(tmp_path / "published", "mamba")
    tensors = load_file(published / "model.safetensors")
    random = np.random.default_rng(1)
    for name in tensors:
        if name.endswith("A_log"):
            tensors[name] += random.standard_normal(tensors[name].shape, np.float32)
    save_file(tensors, published / "model.safetensors")
    convert(published, tmp_path / "m.gguf")
    convert(tmp_path / "m.gguf", tmp_path / "back")
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert {name for name in back if not np.array_equal(back[name], tensors[name])} == {
        f"backbone.layers.{layer}.mixer.A_log" for layer in range(2)
    }
    assert max(np.abs(back[name] - tensors[name]).max() for name in back) < 1e-7


@pytest.mark.parametrize("name", _OURS)
def test_transformers_computes_the_same_from_the_folder(tmp_path: Path, name: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    published = _publish(tmp_path / "published", name)
    convert(published, tmp_path / "m.gguf")
    convert(tmp_path / "m.gguf", tmp_path / "back")
    logits = []
    for path in (published, tmp_path / "back"):
        loaded: Any = AutoModelForCausalLM.from_pretrained(path, output_loading_info=True)
        model, report = loaded
        assert not any(report.values())
        with torch.no_grad():
            logits.append(model(torch.arange(3, 43)[None]).logits.numpy())
    np.testing.assert_allclose(logits[1], logits[0], atol=1e-6)


_BANDS = [[["global", "local"], 1], [["local"], 1]]
_WINDOWS = ["sliding_attention", "full_attention"] + ["sliding_attention"] * 5
_REFUSED: Mapping[str, tuple[dict[str, Any], str]] = {
    "no architecture": (
        {"model_type": "bloom", "vocab_size": 97, "hidden_size": 48, "n_layer": 2, "n_head": 6},
        "family bloom are not written to GGUF yet",
    ),
    "first ChatGLM": (
        {"model_type": "chatglm", "vocab_size": 97, "hidden_size": 32, "inner_hidden_size": 48}
        | {"num_layers": 3, "num_attention_heads": 2, "max_sequence_length": 64},
        "no architecture for the first ChatGLM-6B",
    ),
    "window": (
        _settings("mistral", sliding_window=8),
        "Set sliding_window to null .* up to 8 tokens",
    ),
    "window of experts": (_settings("mixtral", sliding_window=8), "family mixtral .* windows"),
    "bands": (_settings("gpt2", attention_types=_BANDS), "family gpt2 .* windows"),
    "longer by itself": (
        _settings("qwen", use_dynamic_ntk=True),
        "Set use_dynamic_ntk and use_logn_attn to false",
    ),
    "neither 32 nor 40": (_settings("baichuan-7b", num_hidden_layers=2), "with 2 layers"),
    "normalised head": (_settings("baichuan-7b", z_loss_weight=1e-5), "not normalise the head"),
    "wide scan": (_settings("mamba", expand=3), "the scan is 96 of 32 wide"),
    "no cap": (
        _settings("gemma2", attn_logit_softcapping=None),
        r"family gemma2\. .*layers\[0\]\.mixer\.soft_cap=50\.0 instead of None",
    ),
    "other windows": (
        _settings("gemma3", layer_types=_WINDOWS),
        r"layers\[1\]\.mixer\..*instead of .*, and \d+ more",
    ),
    "ALiBi": (
        _settings("falcon-7b", alibi=True),
        r"family falcon\. .*layers\[0\]\.mixer\.positions",
    ),
    "biases": (_settings("falcon-7b", bias=True), "has_qkv_bias=False instead of True"),
    "scale": (_settings("mpt", attn_config={"softmax_scale": 0.2}), "scale=None instead of 0.2"),
    "activation": (_settings("phi", hidden_act="relu"), "activation=gelu_tanh instead of relu"),
    "scaling": (
        _settings("gpt_neox", rope_scaling={"rope_type": "dynamic", "factor": 2.0}),
        "GGUF has no place for rotary scaling",
    ),
}


@pytest.mark.parametrize("name", _REFUSED)
def test_what_gguf_has_no_place_for_is_refused(tmp_path: Path, name: str) -> None:
    settings, message = _REFUSED[name]
    published = model_folder(tmp_path / "published", settings)
    with pytest.raises(ModelFormatError, match=message):
        convert(published, tmp_path / "m.gguf")
    assert not (tmp_path / "m.gguf").exists()


def test_what_a_folder_has_no_place_for_is_refused(tmp_path: Path) -> None:
    convert(_publish(tmp_path / "published", "qwen"), tmp_path / "plain.gguf")
    file = GgufFile(tmp_path / "plain.gguf")
    scaling: dict[str, Any] = {"qwen.rope.scaling.type": "linear", "qwen.rope.scaling.factor": 2.0}
    tensors = [
        PlannedTensor(name, place.format, place.shape, partial(file.tensor, name))
        for name, place in file.tensors.items()
    ]
    write_gguf(tmp_path / "m.gguf", {**file.metadata, **scaling}, tensors)
    with pytest.raises(ModelFormatError, match=r"config\.json has no place .*scaling=None instead"):
        convert(tmp_path / "m.gguf", tmp_path / "back")
    assert not (tmp_path / "back").exists()
