"""A tokenizer of single bytes with control tokens, for chat templates of every kind."""

import json
from collections.abc import Sequence
from pathlib import Path

from yearling.models.tokenizer import Tokenizer

__all__ = ["byte_tokenizer"]


def byte_tokenizer(folder: Path, special: Sequence[str], *, eos: str = "</s>") -> Tokenizer:
    """Write a tokenizer of 256 bytes and these control tokens, and read it."""
    from tokenizers import Tokenizer as Library
    from tokenizers import decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Library(models.BPE({character: i for i, character in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    data = json.loads(backend.to_str())
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    data["added_tokens"] = [
        {"id": len(alphabet) + index, "content": text, "special": True, **flags}
        for index, text in enumerate(special)
    ]
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(data), "utf-8")
    bos = "<s>" if "<s>" in special else None
    return Tokenizer.from_file(path, {"bos_token": bos, "eos_token": eos})
