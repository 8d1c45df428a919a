"""Writer of safetensors: one file, or shards with an index, streamed one tensor at a time.

Source: the safetensors format description, https://github.com/huggingface/safetensors.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from yearling.models.checkpoint.planned import PlannedTensor, new_file

__all__ = ["write_safetensors"]

_MAX_SHARD_BYTES = 5_000_000_000
_FORMATS = ("F32", "F16", "BF16")
_FRAMEWORK: Mapping[str, str] = {"format": "pt"}  # transformers refuses files without it


def write_safetensors(
    folder: Path,
    tensors: Sequence[PlannedTensor],
    max_shard_bytes: int = _MAX_SHARD_BYTES,
    metadata: Mapping[str, str] = _FRAMEWORK,
) -> list[Path]:
    """Write a model's tensors into a folder and give the files written.

    Args:
        folder: It exists already.
        tensors: In the order they are to have.
        max_shard_bytes: Data bytes above which a second file is begun; a larger tensor has a
            file of its own.
        metadata: Goes into every header.
    Raises:
        ValueError: a format is not one of safetensors', a name appears twice, or a tensor is
            not the one that was planned.
    """
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise ValueError(f"{folder}: two tensors have the same name.")
    for tensor in tensors:
        if tensor.format not in _FORMATS:
            raise ValueError(f"tensor {tensor.name}: safetensors hold no {tensor.format}.")
    shards = _shards(tensors, max_shard_bytes)
    if len(shards) == 1:
        names = ["model.safetensors"]
    else:
        names = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    for name, shard in zip(names, shards, strict=True):
        _write_file(folder / name, shard, metadata)
    written = [folder / name for name in names]
    if len(shards) > 1:
        written.append(_write_index(folder, dict(zip(names, shards, strict=True))))
    return written


def _shards(tensors: Sequence[PlannedTensor], limit: int) -> list[list[PlannedTensor]]:
    shards: list[list[PlannedTensor]] = [[]]
    total = 0
    for tensor in tensors:
        if shards[-1] and total + tensor.num_bytes > limit:
            shards.append([])
            total = 0
        shards[-1].append(tensor)
        total += tensor.num_bytes
    return shards


def _write_file(path: Path, tensors: Sequence[PlannedTensor], metadata: Mapping[str, str]) -> None:
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    offset = 0
    for tensor in tensors:
        end = offset + tensor.num_bytes
        entry = {"dtype": tensor.format, "shape": tensor.shape, "data_offsets": [offset, end]}
        header[tensor.name], offset = entry, end
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)  # data begins at a multiple of 8, as the format asks
    with new_file(path) as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for tensor in tensors:
            tensor.write(file)


def _write_index(folder: Path, shards: Mapping[str, Sequence[PlannedTensor]]) -> Path:
    total = sum(tensor.num_bytes for shard in shards.values() for tensor in shard)
    weight_map = {tensor.name: name for name, shard in shards.items() for tensor in shard}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    path = folder / "model.safetensors.index.json"
    with new_file(path) as file:
        file.write((json.dumps(index, indent=2) + "\n").encode())
    return path
