"""What a finished run leaves: a model folder or an adapter that other tools load."""

import json
import shutil
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from yearling.data.render import Renderer
from yearling.models.checkpoint import Checkpoint, open_checkpoint
from yearling.models.checkpoint.gguf import GgufFile
from yearling.models.folder_files import new_folder, put_template
from yearling.models.json_file import read_json_object
from yearling.models.tokenizer_to_folder import folder_tokenizer
from yearling.models.torch_decoder import TorchDecoder
from yearling.training.adapters import AdapterKind, adapters
from yearling.training.config import TrainConfig
from yearling.training.context import write_adapter_context
from yearling.training.merge import write_model_folder

__all__ = ["MODEL_FOLDER", "write_result"]

MODEL_FOLDER = "model"
_TOKENIZER_FILES = (
    *("added_tokens.json", "chat_template.jinja", "merges.txt", "special_tokens_map.json"),
    *("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json"),
)
_MAX_CONFIG_BYTES = 8 << 20
_FORMATS = {"float32": "F32", "bfloat16": "BF16"}


def write_result(
    config: TrainConfig, path: Path, decoder: TorchDecoder, renderer: Renderer
) -> Path:
    """Write the trained model, or its adapter, with tokenizer and template beside it.

    Positions that are not the base's stand in config.json, or in a file beside the adapter.

    Args:
        config: Of the run.
        path: Of the model it started from.
        decoder: Trained, its adapter in place.
        renderer: Whose template answers must be asked for with.

    Returns:
        Its folder, which has replaced the one of an earlier end of the same run.

    Raises:
        ModelFormatError: the family cannot be written as a folder.
    """
    place = config.output / MODEL_FOLDER
    part = config.output / f".{MODEL_FOLDER}.new"
    shutil.rmtree(part, ignore_errors=True)
    with closing(open_checkpoint(path)) as checkpoint:
        if config.adapter is None:
            write_model_folder(part, checkpoint, decoder, _FORMATS[config.precision])
        else:
            kind: AdapterKind[Any] = adapters.get(config.adapter.name)
            with new_folder(part) as folder:
                kind.save(decoder, config.adapter.options, folder, _base_name(config, path))
                _put_tokenizer(folder, checkpoint)
                if config.context is not None:
                    write_adapter_context(folder, checkpoint, config.context)
    if renderer.chat_template is not None:
        put_template(part, renderer.chat_template.source)
    if place.exists():
        shutil.rmtree(place)
    part.rename(place)
    return place


def _base_name(config: TrainConfig, path: Path) -> str:
    """What PEFT finds the base by: a folder's path, which it can load, or else the name."""
    return str(path) if path.is_dir() else config.model


def _put_tokenizer(folder: Path, checkpoint: Checkpoint) -> None:
    if checkpoint.path.is_dir():
        for name in _TOKENIZER_FILES:
            if (checkpoint.path / name).is_file():
                shutil.copyfile(checkpoint.path / name, folder / name)
        return
    metadata = GgufFile(checkpoint.path).metadata
    for name, content in folder_tokenizer(metadata).items():
        _change_json(folder / name, content)


def _change_json(path: Path, changes: Mapping[str, Any]) -> None:
    content = read_json_object(path, _MAX_CONFIG_BYTES) if path.is_file() else {}
    text = json.dumps({**content, **changes}, indent=2, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")
