"""Conversion between Hugging Face folders and GGUF files, in both directions.

Weights pass one at a time. A weight that keeps its format keeps its bytes: rows move as whole
blocks. The target is written beside its place and appears there whole or not at all.
"""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from yearling.core.errors import ConfigError, ModelFormatError
from yearling.models.checkpoint import Checkpoint, StoredTensor, open_checkpoint
from yearling.models.checkpoint.assembly import plan_tensors
from yearling.models.checkpoint.encode import from_float32
from yearling.models.checkpoint.format_choice import (
    TARGET_FORMATS,
    file_type,
    folder_format,
    gguf_format,
    is_plain,
)
from yearling.models.checkpoint.formats import to_float32
from yearling.models.checkpoint.gguf import GgufFile
from yearling.models.checkpoint.gguf_writer import GgufValue, write_gguf
from yearling.models.checkpoint.kept_blocks import KeptBlocks, write_kept_blocks
from yearling.models.checkpoint.planned import PlannedTensor
from yearling.models.checkpoint.safetensors_writer import write_safetensors
from yearling.models.export_check import check_config, check_gguf
from yearling.models.folder_files import copy_side_files, new_folder, write_side_files
from yearling.models.places import gguf_places, hugging_face_places
from yearling.models.rotary_export import gguf_divisors
from yearling.models.tokenizer_to_gguf import gguf_tokenizer
from yearling.models.weights import Weight, weights_of

__all__ = ["check_target", "configuration_of", "convert"]

_OWN_GENERAL_KEYS = {
    *("general.alignment", "general.architecture", "general.file_type"),
    "general.quantization_version",
}
_QUANTISATION_VERSION = 2  # of ggml's block layouts


def convert(source: Path, target: Path, wanted: str | None = None) -> None:
    """Write a model in the other layout, or in another format.

    Args:
        source: A GGUF file or a Hugging Face folder.
        target: A name that ends in `.gguf` becomes a file, another a folder; nothing may be there.
        wanted: One of `TARGET_FORMATS` for the matrices. None keeps what the source has: a folder
            then gets the narrowest number type that loses nothing, and a folder that came from a
            GGUF file gives that file's formats back.

    Raises:
        ConfigError: the target exists, or cannot hold the format.
        ModelNotFoundError: there is no source.
        ModelFormatError: the source is malformed, or its family is not written so.
    """
    is_file = target.suffix == ".gguf"
    check_target(target, wanted, is_file=is_file)
    with closing(open_checkpoint(source)) as checkpoint:
        _convert = _write_file if is_file else _write_folder
        _convert(_Source(checkpoint), target, wanted)


def check_target(target: Path, wanted: str | None, *, is_file: bool) -> None:
    """Refuse what cannot be written, before anything is read.

    Raises:
        ConfigError: the target exists, or cannot hold the format.
    """
    if wanted is not None and wanted not in TARGET_FORMATS:
        raise ConfigError(f"format {wanted} is not written; {', '.join(TARGET_FORMATS)} are.")
    if wanted is not None and not is_file and not is_plain(wanted):
        raise ConfigError(
            f"a Hugging Face folder holds F32, F16 or BF16, not {wanted}. For a GGUF file, let the "
            f"target's name end in .gguf: {target}.gguf"
        )
    if target.exists() or target.is_symlink():
        raise ConfigError(f"{target} exists already; choose another name, or remove it first.")
    if not target.parent.is_dir():
        raise ConfigError(f"{target.parent} is no folder, so {target.name} cannot be made in it.")


@dataclass(frozen=True, slots=True)
class _Source:
    """An opened source.

    Attributes:
        checkpoint: The model.
        kept: What an earlier conversion left in a folder.
        metadata: Of a GGUF file; empty for a folder.
    """

    checkpoint: Checkpoint
    kept: KeptBlocks = field(init=False)
    metadata: Mapping[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        path = self.checkpoint.path
        is_folder = path.is_dir()
        object.__setattr__(self, "kept", KeptBlocks(path))
        object.__setattr__(self, "metadata", {} if is_folder else GgufFile(path).metadata)

    def format_of(self, weight: Weight) -> str:
        """Format of a weight in the source, or in the file that the source came from."""
        return self.kept.format_of(weight) or self.checkpoint.weight(weight).format

    def read(self, weight: Weight, name: str) -> StoredTensor:
        """Read a weight and encode it, unless it is in that format already."""
        stored = self.checkpoint.weight(weight)
        if stored.format == name:
            return stored
        try:
            encoded = from_float32(to_float32(stored), name)
        except ValueError as error:
            raise ModelFormatError(f"{self.checkpoint.path}: {weight}: {error}") from error
        return self.kept.restore(weight, encoded)

    @property
    def general(self) -> dict[str, GgufValue]:
        """What describes the model without changing what it computes."""
        found = dict(self.kept.metadata or self.metadata)
        kept = {
            key: _value_of(found[key])
            for key in found
            if key.startswith("general.") and key not in _OWN_GENERAL_KEYS
        }
        return kept or {"general.name": self.checkpoint.path.name, "general.type": "model"}


def _write_file(source: _Source, target: Path, wanted: str | None) -> None:
    checkpoint = source.checkpoint
    family, spec = checkpoint.family, checkpoint.spec
    if family.gguf_from_spec is None:
        raise ModelFormatError(f"models of family {spec.family} are not written to GGUF yet.")
    formats = {
        weight: gguf_format(
            weight, spec, source.format_of(weight) if wanted is None else "", wanted
        )
        for weight in weights_of(spec)
    }
    tensors = plan_tensors(gguf_places(spec, family), formats.__getitem__, source.read)
    divisors = gguf_divisors(spec)
    if divisors is not None:
        stored = StoredTensor("F32", divisors.shape, divisors.view(np.uint8))
        tensors.append(PlannedTensor("rope_freqs.weight", "F32", stored.shape, lambda: stored))
    settings = family.gguf_from_spec(spec)
    check_gguf(spec, settings, tensors, target)
    metadata: dict[str, GgufValue] = {
        **settings,
        **source.general,
        "general.file_type": file_type(list(formats.values())),
        "general.quantization_version": _QUANTISATION_VERSION,
        **_tokenizer_metadata(source),
    }
    write_gguf(target, metadata, tensors)


def _tokenizer_metadata(source: _Source) -> dict[str, GgufValue]:
    checkpoint = source.checkpoint
    if source.metadata:
        keys = [key for key in source.metadata if key.startswith("tokenizer.")]
        return {key: _value_of(source.metadata[key]) for key in keys}
    rows = checkpoint.spec.vocabulary
    metadata = gguf_tokenizer(checkpoint.path, rows, checkpoint.eos_token_ids)
    template = checkpoint.chat_template()
    return metadata if template is None else metadata | {"tokenizer.chat_template": template.source}


def _value_of(value: Any) -> GgufValue:
    """Give numbers of an array the types that GGUF files use for them."""
    if not isinstance(value, list) or not value or isinstance(value[0], str):
        return value  # type: ignore[no-any-return]
    kinds = {bool: np.bool_, int: np.int32, float: np.float32}
    return np.array(value, kinds[type(value[0])])


def _write_folder(source: _Source, target: Path, wanted: str | None) -> None:
    checkpoint = source.checkpoint
    family, spec = checkpoint.family, checkpoint.spec
    config = configuration_of(checkpoint) if source.metadata else {}
    formats = {weight: checkpoint.weight(weight).format for weight in weights_of(spec)}
    name = folder_format(formats.items(), wanted)
    if wanted is None and not _holds(source, formats, name):
        name = "F32"
    places = hugging_face_places(spec, family.names(spec))
    with new_folder(target) as folder:
        write_safetensors(folder, plan_tensors(places, lambda _: name, source.read))
        if source.metadata:
            write_side_files(folder, checkpoint, config, source.metadata, name)
        else:
            copy_side_files(folder, checkpoint, name)
        if set(formats.values()) - {"F32", name}:
            weights = ((weight, checkpoint.weight(weight)) for weight in formats)
            write_kept_blocks(folder, source.general, weights)


def configuration_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """Write what config.json says of a model's network.

    Raises:
        ModelFormatError: its family is not written to folders, or config.json has no place for it.
    """
    family, spec = checkpoint.family, checkpoint.spec
    if family.config_from_spec is None:
        raise ModelFormatError(f"models of family {spec.family} are not written to folders yet.")
    config = family.config_from_spec(spec)
    check_config(spec, family, config)
    return config


def _holds(source: _Source, formats: Mapping[Weight, str], name: str) -> bool:
    """Whether the weights that are in another format lose nothing in this one."""
    for weight, stored in formats.items():
        if stored != name:
            values = to_float32(source.checkpoint.weight(weight))
            if not np.array_equal(to_float32(from_float32(values, name)), values):
                return False
    return True
