"""A folder that no family covers, opened for the executor on transformers."""

import json
from pathlib import Path

import pytest

from tests.models.tiny_files import write_folder
from yearling.core.errors import ModelFormatError, ModelNotFoundError
from yearling.models.checkpoint.fallback_checkpoint import FallbackCheckpoint, needs_fallback

CONFIG = {
    "model_type": "t5",
    "is_encoder_decoder": True,
    "vocab_size": 60,
    "n_positions": 512,
    "eos_token_id": 1,
}


def folder(path: Path, **changes: object) -> Path:
    (path / "config.json").write_text(json.dumps(CONFIG | changes))
    return path


def test_settings_are_read(tmp_path: Path) -> None:
    checkpoint = FallbackCheckpoint(folder(tmp_path))
    assert checkpoint.model_type == "t5"
    assert checkpoint.is_encoder_decoder
    assert (checkpoint.context, checkpoint.vocabulary) == (512, 60)
    assert checkpoint.eos_token_ids == (1,)
    assert checkpoint.tokenizer() is None
    assert checkpoint.chat_template() is None


def test_settings_of_the_text_part_count(tmp_path: Path) -> None:
    inner = {"vocab_size": 70, "max_position_embeddings": 99}
    checkpoint = FallbackCheckpoint(folder(tmp_path, text_config=inner))
    assert (checkpoint.context, checkpoint.vocabulary) == (99, 70)


def test_generation_config_names_the_end_first(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 3]}')
    assert FallbackCheckpoint(folder(tmp_path)).eos_token_ids == (2, 3)


def test_impossible_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match="vocab_size=0 must be from 1"):
        FallbackCheckpoint(folder(tmp_path, vocab_size=0))
    with pytest.raises(ModelFormatError, match="eos_token_id=60 must be below"):
        FallbackCheckpoint(folder(tmp_path, eos_token_id=60))
    with pytest.raises(ModelNotFoundError, match="no such model file"):
        FallbackCheckpoint(tmp_path / "nowhere")


def test_only_folders_without_a_family_need_it(tmp_path: Path) -> None:
    assert needs_fallback(folder(tmp_path))
    assert not needs_fallback(write_folder(tmp_path / "llama"))
    assert not needs_fallback(tmp_path / "nowhere")
    assert not needs_fallback(tmp_path / "config.json")
