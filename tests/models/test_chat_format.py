"""The format of chats: one place for template, tokenizer and stops, whoever asks."""

from pathlib import Path
from typing import Any, cast

import pytest

from yearling.core.errors import ConfigError
from yearling.models.chat_format import chat_format
from yearling.models.checkpoint import Checkpoint, open_checkpoint


def test_own_template_and_end_tokens_are_taken(smollm2_path: Path) -> None:
    checkpoint = open_checkpoint(smollm2_path)
    chat = chat_format(checkpoint)
    own = checkpoint.chat_template()
    assert chat.template is not None
    assert own is not None
    assert chat.template.template_hash == own.template_hash
    assert (chat.end_token_ids, chat.stop_texts) == ((2,), ())


def test_named_template_brings_its_stops(smollm2_path: Path) -> None:
    checkpoint = open_checkpoint(smollm2_path)
    assert chat_format(checkpoint, "phi-2").stop_texts == ("\nInstruct:",)
    assert chat_format(checkpoint, "chatml").end_token_ids == (2,)


def test_template_without_tokenizer_is_refused() -> None:
    class Bare:
        eos_token_ids = (7,)

        def tokenizer(self) -> None:
            return None

        def chat_template(self) -> None:
            return None

    bare = cast("Checkpoint", cast("Any", Bare()))
    assert chat_format(bare).end_token_ids == (7,)
    with pytest.raises(ConfigError, match="chat_template=chatml needs a tokenizer"):
        chat_format(bare, "chatml")
