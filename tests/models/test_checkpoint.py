"""What `open_checkpoint` shows of a Hugging Face folder, and errors at the door."""

from pathlib import Path

import pytest

from tests.models.tiny_files import CANONICAL_SHAPES, CONFIG, tiny_safetensors, write_folder
from yearling.core.errors import ModelFormatError, ModelNotFoundError
from yearling.models.checkpoint import open_checkpoint
from yearling.models.weights import Weight, weights_of


def test_nothing_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"gone.gguf: no such model file"):
        open_checkpoint(tmp_path / "gone.gguf")


def test_folder_without_tokenizer_shows_none(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_folder(tmp_path / "model"))
    assert checkpoint.tokenizer() is None
    assert checkpoint.chat_template() is None


def test_template_without_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", {"chat_template.jinja": b"{{ messages }}"})
    with pytest.raises(ModelFormatError, match="has a chat template, but no tokenizer"):
        open_checkpoint(folder).chat_template()


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [
        ({"eos_token_id": [1, 2, 1]}, 0, (1, 2)),
        ({}, 3, (3,)),
        (None, [0, 3], (0, 3)),
        (None, None, ()),
    ],
)
def test_end_tokens_come_from_generation_config_first(
    tmp_path: Path, generation: object, config: object, expected: tuple[int, ...]
) -> None:
    files = {
        "config.json": {**CONFIG, "eos_token_id": config},
        "generation_config.json": generation,
    }
    assert open_checkpoint(write_folder(tmp_path / "model", files)).eos_token_ids == expected


def test_copy_of_a_tied_head_is_left_alone(tmp_path: Path) -> None:
    content = tiny_safetensors({**CANONICAL_SHAPES, "lm_head.weight": (4, 32)})
    checkpoint = open_checkpoint(write_folder(tmp_path / "model", {"model.safetensors": content}))
    assert len(list(weights_of(checkpoint.spec))) == len(CANONICAL_SHAPES)
    with pytest.raises(ModelFormatError, match=r"the model has no Weight\(role='head'"):
        checkpoint.weight(Weight("head", None, "weight", (4, 32)))


def test_stored_rotary_tables_are_left_alone(tmp_path: Path) -> None:
    table = "model.layers.0.self_attn.rotary_emb.inv_freq"
    content = tiny_safetensors({**CANONICAL_SHAPES, table: (4,)})
    checkpoint = open_checkpoint(write_folder(tmp_path / "model", {"model.safetensors": content}))
    assert len(list(weights_of(checkpoint.spec))) == len(CANONICAL_SHAPES)


_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}


def _tokenizer_json(num_tokens: int) -> object:
    return {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": _BYTE_LEVEL,
        "decoder": _BYTE_LEVEL,
        "model": {
            "type": "BPE",
            "vocab": {chr(ord("a") + index): index for index in range(num_tokens)},
            "merges": [],
        },
    }


def test_tokenizer_and_template_of_a_folder(tmp_path: Path) -> None:
    files = {
        "tokenizer.json": _tokenizer_json(4),
        "tokenizer_config.json": {"chat_template": "from the configuration"},
    }
    folder = write_folder(tmp_path / "model", files)
    checkpoint = open_checkpoint(folder)
    tokenizer, template = checkpoint.tokenizer(), checkpoint.chat_template()
    assert tokenizer is not None
    assert tokenizer.encode("abd") == [0, 1, 3]
    assert template is not None
    assert template.source == "from the configuration"
    (folder / "chat_template.jinja").write_text("from its own file")
    template = open_checkpoint(folder).chat_template()
    assert template is not None
    assert template.source == "from its own file"


def test_default_of_several_templates_is_taken(tmp_path: Path) -> None:
    named = [{"name": "rag", "template": "other"}, {"name": "default", "template": "this"}]
    files = {
        "tokenizer.json": _tokenizer_json(4),
        "tokenizer_config.json": {"chat_template": named},
    }
    template = open_checkpoint(write_folder(tmp_path / "model", files)).chat_template()
    assert template is not None
    assert template.source == "this"


def test_tokenizer_larger_than_the_embedding_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", {"tokenizer.json": _tokenizer_json(5)})
    with pytest.raises(ModelFormatError, match="has 5 tokens, but the embedding has 4 rows"):
        open_checkpoint(folder).tokenizer()
