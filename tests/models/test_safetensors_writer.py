"""The safetensors writer, read back by our reader and by the `safetensors` package."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import load_file

from yearling.models.checkpoint.encode import from_float32
from yearling.models.checkpoint.formats import to_float32
from yearling.models.checkpoint.planned import PlannedTensor
from yearling.models.checkpoint.safetensors import SafetensorsFiles
from yearling.models.checkpoint.safetensors_writer import write_safetensors

SHAPES = {"a.weight": (3, 5), "b.weight": (7,), 'odd "name" \u00fc': (2, 1, 4), "none": (0, 4)}


def _tensors(name: str) -> list[PlannedTensor]:
    random = np.random.default_rng(2)
    stored = {
        key: from_float32(random.standard_normal(shape, np.float32), name)
        for key, shape in SHAPES.items()
    }
    return [
        PlannedTensor(key, name, tensor.shape, lambda tensor=tensor: tensor)
        for key, tensor in stored.items()
    ]


@pytest.mark.parametrize("name", ["F32", "F16", "BF16"])
def test_file_comes_back(tmp_path: Path, name: str) -> None:
    tensors = _tensors(name)
    assert write_safetensors(tmp_path, tensors) == [tmp_path / "model.safetensors"]
    files = SafetensorsFiles(tmp_path)
    theirs = load_file(tmp_path / "model.safetensors")
    assert set(theirs) == set(files.tensors) == set(SHAPES)
    for tensor in tensors:
        wanted = to_float32(tensor.read())
        np.testing.assert_array_equal(to_float32(files.tensor(tensor.name)), wanted)
        np.testing.assert_array_equal(theirs[tensor.name].float().numpy(), wanted)


def test_header_names_the_framework_and_data_is_aligned(tmp_path: Path) -> None:
    write_safetensors(tmp_path, _tensors("F32"))
    with safe_open(tmp_path / "model.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"}
    length = int.from_bytes((tmp_path / "model.safetensors").read_bytes()[:8], "little")
    assert length % 8 == 0


def test_shards_have_an_index(tmp_path: Path) -> None:
    tensors = _tensors("F32")  # 60, 28, 32 and 0 bytes
    written = write_safetensors(tmp_path, tensors, max_shard_bytes=64)
    assert [path.name for path in written] == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]
    index = json.loads(written[-1].read_text())
    assert index["metadata"] == {"total_size": 120}
    assert set(index["weight_map"]) == set(SHAPES)
    files = SafetensorsFiles(tmp_path)
    for tensor in tensors:
        wanted = tensor.read().data
        np.testing.assert_array_equal(files.tensor(tensor.name).data, wanted)


def test_quantised_tensors_are_refused(tmp_path: Path) -> None:
    stored = from_float32(np.ones((1, 32), np.float32), "Q8_0")
    tensor = PlannedTensor("a", "Q8_0", stored.shape, lambda: stored)
    with pytest.raises(ValueError, match="tensor a: safetensors hold no Q8_0"):
        write_safetensors(tmp_path, [tensor])
    assert list(tmp_path.iterdir()) == []


def test_repeated_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="two tensors have the same name"):
        write_safetensors(tmp_path, _tensors("F32")[:1] * 2)
