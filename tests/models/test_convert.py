"""Folders to GGUF files and back: every byte, every token, the template, and refusals."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.models.converted_models import (
    BYTE_LEVEL,
    TEMPLATE,
    TEXTS,
    add_byte_level_tokenizer,
    add_sentencepiece_tokenizer,
    llama_folder,
)
from yearling.core.errors import ConfigError, ModelFormatError
from yearling.models.checkpoint import open_checkpoint
from yearling.models.checkpoint.formats import StoredTensor, to_float32
from yearling.models.checkpoint.gguf import GgufFile
from yearling.models.checkpoint.kept_blocks import KeptBlocks
from yearling.models.conversion_check import compare_models
from yearling.models.convert import convert
from yearling.models.weights import weights_of

FORMATS = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q6_K")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as transformers writes it; tests only read it."""
    made = llama_folder(tmp_path_factory.mktemp("published") / "tiny")
    add_byte_level_tokenizer(made)
    return made


def _logits(model: Any) -> Any:
    import torch

    with torch.no_grad():
        return model(torch.arange(3, 43)[None]).logits.numpy()


def _same_tensors(one: Path, other: Path) -> list[str]:
    """Names of tensors that are not byte for byte the same."""
    first, second = GgufFile(one), GgufFile(other)
    assert set(first.tensors) == set(second.tensors)
    pairs = {name: (first.tensor(name), second.tensor(name)) for name in first.tensors}
    return [
        name
        for name, (a, b) in pairs.items()
        if a.format != b.format or not np.array_equal(a.data, b.data)
    ]


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_transformers_computes_the_same_from_file_and_folder(tmp_path: Path, kind: str) -> None:
    from transformers import AutoModelForCausalLM

    head_dim = 128 if kind == "qwen3" else 64  # transformers reads no other from Qwen 3's GGUF
    published = llama_folder(tmp_path / "published", model_type=kind, head_dim=head_dim)
    add_byte_level_tokenizer(published)
    convert(published, tmp_path / "m.gguf")
    convert(tmp_path / "m.gguf", tmp_path / "back")
    assert sum(c.changed_values for c in compare_models(published, tmp_path / "back")) == 0
    wanted = _logits(AutoModelForCausalLM.from_pretrained(published))
    from_file = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf")
    from_folder, report = AutoModelForCausalLM.from_pretrained(
        tmp_path / "back", output_loading_info=True
    )
    assert not any(report.values())
    np.testing.assert_allclose(_logits(from_file), wanted, atol=1e-5)
    np.testing.assert_array_equal(_logits(from_folder), wanted)


@pytest.mark.parametrize("name", FORMATS)
def test_file_to_folder_to_file_changes_nothing(folder: Path, tmp_path: Path, name: str) -> None:
    first, again = tmp_path / "first.gguf", tmp_path / "again.gguf"
    convert(folder, first, name)
    convert(first, tmp_path / "between")
    convert(tmp_path / "between", again)
    assert _same_tensors(first, again) == []
    one, other = GgufFile(first).metadata, GgufFile(again).metadata
    changed = {key for key in {*one, *other} if one.get(key) != other.get(key)}
    # A folder of the same numbers keeps nothing but what other tools read as well.
    assert changed == ({"general.name"} if name == "F32" else set())
    kinds = {place.format for place in GgufFile(first).tensors.values()}
    head = {"Q6_K"} if name not in ("F32", "F16", "BF16", "Q8_0") else set()
    assert kinds == {"F32", name} | head


@pytest.mark.parametrize("name", ["F16", "BF16"])
def test_folder_gets_the_narrowest_type_without_loss(
    folder: Path, tmp_path: Path, name: str
) -> None:
    convert(folder, tmp_path / "narrow", name)
    convert(tmp_path / "narrow", tmp_path / "m.gguf")
    convert(tmp_path / "m.gguf", tmp_path / "back")
    stored = open_checkpoint(tmp_path / "back")
    assert {stored.weight(weight).format for weight in weights_of(stored.spec)} == {name}
    assert not (tmp_path / "back" / "quantised").exists()
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert config["torch_dtype"] == {"F16": "float16", "BF16": "bfloat16"}[name]


def test_numbers_that_need_float32_get_it(folder: Path, tmp_path: Path) -> None:
    convert(folder, tmp_path / "m.gguf", "F16")  # norms stay float32, and need it
    convert(tmp_path / "m.gguf", tmp_path / "back")
    stored = open_checkpoint(tmp_path / "back")
    assert {stored.weight(weight).format for weight in weights_of(stored.spec)} == {"F32"}
    assert all(
        change.changed_values == 0 for change in compare_models(tmp_path / "m.gguf", stored.path)
    )


def test_kept_blocks_are_used_only_beside_their_numbers(folder: Path, tmp_path: Path) -> None:
    convert(folder, tmp_path / "m.gguf", "Q6_K")
    convert(tmp_path / "m.gguf", tmp_path / "back")
    checkpoint = open_checkpoint(tmp_path / "m.gguf")
    kept = KeptBlocks(tmp_path / "back")
    from yearling.models.checkpoint.encode import from_float32

    num_restored = 0
    for weight in weights_of(checkpoint.spec):
        original = checkpoint.weight(weight)
        if original.format != "Q6_K":
            continue
        encoded = from_float32(to_float32(original), "Q6_K")
        num_restored += not np.array_equal(encoded.data, original.data)
        np.testing.assert_array_equal(kept.restore(weight, encoded).data, original.data)
        other = from_float32(to_float32(original) * np.float32(1.01), "Q6_K")
        np.testing.assert_array_equal(kept.restore(weight, other).data, other.data)
    assert num_restored > 0


@pytest.mark.parametrize("kind", ["byte_level", "sentencepiece"])
def test_tokens_are_the_same_everywhere(tmp_path: Path, kind: str) -> None:
    from transformers import AutoTokenizer

    published = llama_folder(tmp_path / "published", num_hidden_layers=1)
    add = add_byte_level_tokenizer if kind == "byte_level" else add_sentencepiece_tokenizer
    add(published)
    convert(published, tmp_path / "m.gguf")
    convert(tmp_path / "m.gguf", tmp_path / "back")
    ours = [open_checkpoint(tmp_path / name).tokenizer() for name in ("m.gguf", "back")]
    theirs = [AutoTokenizer.from_pretrained(path) for path in (published, tmp_path / "back")]
    for text in (*TEXTS, "hello the world, hello"):
        wanted = theirs[0](text, add_special_tokens=False)["input_ids"]
        assert theirs[1](text, add_special_tokens=False)["input_ids"] == wanted
        assert theirs[1](text)["input_ids"] == theirs[0](text)["input_ids"]
        assert [t.encode(text, parse_special=True) for t in ours if t is not None] == [wanted] * 2
        assert theirs[1].decode(wanted) == theirs[0].decode(wanted)


def test_gguf_has_all_that_llama_cpp_asks_for(folder: Path, tmp_path: Path) -> None:
    convert(folder, tmp_path / "m.gguf", "Q4_K")
    metadata = GgufFile(tmp_path / "m.gguf").metadata
    assert metadata["tokenizer.ggml.pre"] == "smollm"
    assert len(metadata["tokenizer.ggml.tokens"]) == metadata["llama.vocab_size"] == 320
    assert metadata["tokenizer.ggml.tokens"][-1] == "[PAD319]"
    assert metadata["tokenizer.ggml.token_type"][:3] == [3, 3, 1]
    assert metadata["tokenizer.ggml.token_type"][-1] == 5
    assert metadata["tokenizer.ggml.eos_token_id"] == 1
    assert metadata["general.file_type"] == 14
    assert metadata["tokenizer.chat_template"] == TEMPLATE


def test_template_is_in_both_places(folder: Path, tmp_path: Path) -> None:
    convert(folder, tmp_path / "m.gguf")
    convert(tmp_path / "m.gguf", tmp_path / "back")
    assert (tmp_path / "back" / "chat_template.jinja").read_text() == TEMPLATE
    config = json.loads((tmp_path / "back" / "tokenizer_config.json").read_text())
    assert config["chat_template"] == TEMPLATE
    generation = json.loads((tmp_path / "back" / "generation_config.json").read_text())
    assert generation == {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}


def test_untied_head_and_biases_pass(tmp_path: Path) -> None:
    published = llama_folder(
        tmp_path / "published", tie_word_embeddings=False, attention_bias=True, mlp_bias=True
    )
    convert(published, tmp_path / "m.gguf", "Q4_0")
    assert GgufFile(tmp_path / "m.gguf").tensors["output.weight"].format == "Q6_K"
    assert GgufFile(tmp_path / "m.gguf").tensors["blk.0.attn_q.bias"].format == "F32"
    convert(published, tmp_path / "exact.gguf")
    assert sum(c.changed_values for c in compare_models(published, tmp_path / "exact.gguf")) == 0


@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "linear", "factor": 2.0},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    ],
    ids=lambda scaling: str(scaling["rope_type"]),
)
def test_rotary_scaling_passes(folder: Path, tmp_path: Path, scaling: dict[str, Any]) -> None:
    published = tmp_path / "published"
    shutil.copytree(folder, published)
    config = json.loads((published / "config.json").read_text())
    config.pop("rope_parameters", None)
    changes = {"rope_theta": 5e5, "rope_scaling": scaling}
    (published / "config.json").write_text(json.dumps(config | changes))
    convert(published, tmp_path / "m.gguf")
    convert(tmp_path / "m.gguf", tmp_path / "back")
    compare_models(published, tmp_path / "m.gguf")
    compare_models(published, tmp_path / "back")


def test_windows_are_refused_by_name(tmp_path: Path) -> None:
    published = llama_folder(
        tmp_path / "published",
        model_type="qwen2",
        use_sliding_window=True,
        sliding_window=16,
        max_window_layers=1,
    )
    with pytest.raises(ModelFormatError, match=r"family qwen2 .* windows on attention"):
        convert(published, tmp_path / "m.gguf")


def test_rows_beside_no_superblock_fall_back(tmp_path: Path) -> None:
    published = llama_folder(tmp_path / "published", hidden_size=96, intermediate_size=256)
    convert(published, tmp_path / "m.gguf", "Q4_K")
    formats = {name: place.format for name, place in GgufFile(tmp_path / "m.gguf").tensors.items()}
    assert formats["blk.0.ffn_down.weight"] == "Q4_K"
    assert formats["blk.0.ffn_up.weight"] == "Q5_0"
    assert formats["token_embd.weight"] == "Q8_0"


def test_changed_codes_are_counted(folder: Path, tmp_path: Path) -> None:
    convert(folder, tmp_path / "a.gguf", "Q8_0")
    content = bytearray((tmp_path / "a.gguf").read_bytes())
    place = GgufFile(tmp_path / "a.gguf").tensors["blk.0.ffn_up.weight"]
    content[place.offset + 2] ^= 1
    (tmp_path / "b.gguf").write_bytes(content)
    changes = {c.before: c for c in compare_models(tmp_path / "a.gguf", tmp_path / "b.gguf")}
    assert changes["Q8_0"].changed_codes == 32
    assert changes["Q8_0"].changed_values == 1
    assert changes["Q8_0"].relative_error > 0
    assert changes["F32"].changed_codes == 0


def test_another_tokenizer_is_noticed(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    content = json.loads((other / "tokenizer.json").read_text())
    content["model"]["merges"] = content["model"]["merges"][:1]
    (other / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ModelFormatError, match=r"encodes .Hello, world!.* as \[.*, but .* as \["):
        compare_models(folder, other)


def test_unnamed_way_of_cutting_is_refused(tmp_path: Path, folder: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    add_byte_level_tokenizer(other, {**BYTE_LEVEL, "add_prefix_space": True})
    with pytest.raises(ModelFormatError, match="text is cut in a way that has no name in GGUF"):
        convert(other, tmp_path / "m.gguf")
    assert not (tmp_path / "m.gguf").exists()


def test_refusals_name_what_to_do(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "there.gguf").write_bytes(b"")
    with pytest.raises(ConfigError, match="exists already; choose another name"):
        convert(folder, tmp_path / "there.gguf")
    with pytest.raises(ConfigError, match=r"holds F32, F16 or BF16, not Q4_K.*out\.gguf"):
        convert(folder, tmp_path / "out", "Q4_K")
    with pytest.raises(ConfigError, match="format Q3_K is not written"):
        convert(folder, tmp_path / "out.gguf", "Q3_K")
    with pytest.raises(ConfigError, match="is no folder, so out cannot be made in it"):
        convert(folder, tmp_path / "nowhere" / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["there.gguf"]


def test_failure_leaves_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from yearling.models.checkpoint.folder_checkpoint import FolderCheckpoint

    read = FolderCheckpoint.weight

    def damaged(self: FolderCheckpoint, weight: Any) -> StoredTensor:
        stored = read(self, weight)
        if weight.role == "down" and weight.layer == 1:
            stored.data.view(np.float32)[5] = np.nan
        return stored

    monkeypatch.setattr(FolderCheckpoint, "weight", damaged)
    for target, name in (("m.gguf", "Q8_0"), ("out", "F16")):
        with pytest.raises(ModelFormatError, match=f"role='down'.*not a number, which {name}"):
            convert(folder, tmp_path / target, name)
    assert list(tmp_path.iterdir()) == []


def test_command_prints_what_changed(folder: Path, tmp_path: Path, tmp_home: Path) -> None:
    from yearling.cli.main import app

    arguments = ["convert", str(folder), str(tmp_path / "m.gguf"), "--format", "q8_0"]
    shown = CliRunner().invoke(app, [*arguments, "--no-logits"], catch_exceptions=False)
    assert shown.exit_code == 0
    assert "F32 -> F32: 5 weights, 0 of 1280 numbers changed, 0 codes changed" in shown.output
    assert "F32 -> Q8_0: 15 weights, " in shown.output
    assert "logits" not in shown.output
    assert f"wrote {tmp_path / 'm.gguf'}, lineage " in shown.output
    (record,) = (tmp_home / "lineage").glob("*.json")
    written = json.loads(record.read_text())
    assert written["step"] == "convert"
    assert set(written["outputs"]) == {"m.gguf"}
    assert "tiny/model.safetensors" in written["data"]


def test_command_fails_above_its_tolerance(
    folder: Path, tmp_path: Path, tmp_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from yearling.cli.main import app
    from yearling.serving import conversion

    difference = conversion.LogitDifference(worst=9.0, typical=0.5, spread=2.0)
    monkeypatch.setattr(conversion, "compare_logits", lambda source, target: difference)
    arguments = ["convert", str(folder), "--tolerance", "0.2"]
    shown = CliRunner().invoke(app, [*arguments, str(tmp_path / "m.gguf")])
    assert shown.exit_code == 1
    assert "worst difference 9, typical 0.25 standard deviations, 0.2 allowed" in shown.output
    assert "differs by more than the tolerance of 0.2" in shown.output
