"""The safetensors reader against files of the `safetensors` package and our own."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.models.tiny_files import CANONICAL_SHAPES, safetensors_bytes, tiny_safetensors
from yearling.core.errors import ModelFormatError
from yearling.models.checkpoint.formats import to_float32
from yearling.models.checkpoint.safetensors import SafetensorsFiles


def test_file_of_the_package_comes_back(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    tensors = {
        "a": random.standard_normal((3, 5)).astype(np.float32),
        "b": random.standard_normal((2, 4)).astype(np.float16),
    }
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    files = SafetensorsFiles(tmp_path)
    assert set(files.tensors) == {"a", "b"}
    for name, values in tensors.items():
        stored = files.tensor(name)
        assert stored.shape == values.shape
        np.testing.assert_array_equal(to_float32(stored), values.astype(np.float32))


def test_name_may_hold_quotes_and_braces(tmp_path: Path) -> None:
    name = 'odd "{name}" \\ ü'
    save_file({name: np.ones(2, np.float32)}, tmp_path / "model.safetensors")
    assert set(SafetensorsFiles(tmp_path).tensors) == {name}


def test_bfloat16_is_read(tmp_path: Path) -> None:
    entry = {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}
    content = safetensors_bytes({"x": entry}, b"\x80\x3f\x00\xc0")  # 1.0 and -2.0
    (tmp_path / "model.safetensors").write_bytes(content)
    assert to_float32(SafetensorsFiles(tmp_path).tensor("x")).tolist() == [1.0, -2.0]


def test_shards_read_as_one(tmp_path: Path) -> None:
    import json

    names = list(CANONICAL_SHAPES)
    weight_map = {}
    for number, part in enumerate((names[:5], names[5:])):
        shard = f"model-0000{number + 1}-of-00002.safetensors"
        shapes = {name: CANONICAL_SHAPES[name] for name in part}
        (tmp_path / shard).write_bytes(tiny_safetensors(shapes))
        weight_map |= dict.fromkeys(part, shard)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    files = SafetensorsFiles(tmp_path)
    assert {name: place.shape for name, place in files.tensors.items()} == CANONICAL_SHAPES
    assert len(files.tensor(names[-1]).data) == 4 * 32


def test_shard_may_be_a_link_into_a_hub_cache(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    (blobs / "0123").write_bytes(tiny_safetensors())
    (snapshot / "model.safetensors").symlink_to("../../blobs/0123")
    assert set(SafetensorsFiles(snapshot).tensors) == set(CANONICAL_SHAPES)


def test_unknown_tensor_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(tiny_safetensors())
    with pytest.raises(ModelFormatError, match="holds no tensor nothing"):
        SafetensorsFiles(tmp_path).tensor("nothing")
