"""The files of a Hugging Face folder beside its weights."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from yearling.models.checkpoint.checkpoint import Checkpoint
from yearling.models.json_file import read_json_object
from yearling.models.tokenizer_to_folder import folder_tokenizer

__all__ = ["copy_side_files", "new_folder", "put_template", "write_side_files"]

_NUMBER_TYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_MAX_CONFIG_BYTES = 1 << 20
_MAX_TOKENIZER_CONFIG_BYTES = 16 << 20  # some list every added token
_COPIED = (
    *("added_tokens.json", "chat_template.jinja", "generation_config.json", "merges.txt"),
    *("special_tokens_map.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json"),
    *("vocab.json", "LICENSE", "README.md"),
)


def write_side_files(
    folder: Path,
    checkpoint: Checkpoint,
    config: Mapping[str, Any],
    metadata: Mapping[str, Any],
    name: str,
) -> None:
    """Write configuration, tokenizer and template of a model that comes from a GGUF file.

    Args:
        config: What config.json says of the network.
        metadata: The file's.
        name: Format of the folder's weights.
    Raises:
        ModelFormatError: the tokenizer has no such form.
    """
    ids = _token_ids(checkpoint, metadata)
    _write(folder / "config.json", {**config, **ids, "torch_dtype": _NUMBER_TYPES[name]})
    _write(folder / "generation_config.json", ids)
    template = checkpoint.chat_template()
    source = None if template is None else template.source
    for file, content in folder_tokenizer(metadata).items():
        _write(folder / file, content)
    if source is not None:
        put_template(folder, source)


def copy_side_files(
    folder: Path, checkpoint: Checkpoint, name: str, config: Mapping[str, Any] | None = None
) -> None:
    """Copy what stands beside the weights of another folder; the number type is written anew.

    Args:
        folder: Where they go.
        checkpoint: The other folder.
        name: Format of the weights.
        config: What config.json says, where it is not the other's.
    """
    found = config or read_json_object(checkpoint.path / "config.json", _MAX_CONFIG_BYTES)
    config = {key: value for key, value in found.items() if key != "dtype"}
    _write(folder / "config.json", {**config, "torch_dtype": _NUMBER_TYPES[name]})
    for file in _COPIED:
        if (checkpoint.path / file).is_file():
            shutil.copyfile(checkpoint.path / file, folder / file)


def put_template(folder: Path, source: str) -> None:
    """Write a chat template, in place of the one that may be there.

    Newer readers look into chat_template.jinja first, older ones into tokenizer_config.json.
    """
    (folder / "chat_template.jinja").write_text(source, encoding="utf-8")
    path = folder / "tokenizer_config.json"
    before = read_json_object(path, _MAX_TOKENIZER_CONFIG_BYTES) if path.is_file() else {}
    _write(path, {**before, "chat_template": source})


def _token_ids(checkpoint: Checkpoint, metadata: Mapping[str, Any]) -> dict[str, Any]:
    ends = list(checkpoint.eos_token_ids)
    ids = {
        "bos_token_id": metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
        "pad_token_id": metadata.get("tokenizer.ggml.padding_token_id"),
    }
    return {key: value for key, value in ids.items() if value is not None}


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Fill a folder beside its place and move it there once it is whole."""
    part = target.with_name(f".{target.name}.part")
    if part.exists():
        shutil.rmtree(part)  # of a conversion that was killed
    part.mkdir()
    try:
        yield part
        part.rename(target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
