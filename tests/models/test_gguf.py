"""The GGUF reader on files written byte by byte, and on the real embedded model."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gguf
import numpy as np
import pytest

from tests.models.tiny_files import METADATA, TYPES, TinyTensor, tiny_gguf, tiny_tensors, u32
from yearling.core.errors import ModelFormatError
from yearling.models.checkpoint.formats import to_float32
from yearling.models.checkpoint.gguf import GgufFile


def _write(folder: Path, content: bytes) -> GgufFile:
    path = folder / "model.gguf"
    path.write_bytes(content)
    return GgufFile(path)


def test_metadata_comes_back_as_written(tmp_path: Path) -> None:
    file = _write(tmp_path, tiny_gguf())
    assert set(file.metadata) == set(METADATA)
    for key, value in METADATA.items():
        assert file.metadata[key] == (pytest.approx(value) if isinstance(value, float) else value)
    assert file.metadata.count("tokenizer.ggml.tokens") == 4
    assert file.metadata.count("llama.block_count") is None


def test_missing_key_is_a_mappings_key_error(tmp_path: Path) -> None:
    metadata = _write(tmp_path, tiny_gguf()).metadata
    assert metadata.get("nothing", 3) == 3
    with pytest.raises(KeyError):
        metadata["nothing"]


@pytest.mark.parametrize("version", [2, 3])
def test_both_versions_are_read(tmp_path: Path, version: int) -> None:
    content = tiny_gguf()
    file = _write(tmp_path, content[:4] + u32(version) + content[8:])
    assert file.version == version
    assert len(file.tensors) == 11


def test_tensors_come_back_as_written(tmp_path: Path) -> None:
    file = _write(tmp_path, tiny_gguf())
    for name, tensor in tiny_tensors().items():
        stored = file.tensor(name)
        assert stored.shape == tensor.axes[::-1]
        assert stored.data.tobytes() == tensor.data


def test_alignment_of_the_file_is_used(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "aligned.gguf", "llama")
    writer.add_custom_alignment(512)
    values = np.arange(5, dtype=np.float32)
    for name in ("first.weight", "second.weight"):
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = GgufFile(tmp_path / "aligned.gguf")
    assert [place.offset % 512 for place in file.tensors.values()] == [0, 0]
    np.testing.assert_array_equal(to_float32(file.tensor("second.weight")), values)


def test_every_scalar_kind_is_read(tmp_path: Path) -> None:
    """The file is the `gguf` package's own."""
    writer = gguf.GGUFWriter(tmp_path / "kinds.gguf", "llama")
    numbers = {"uint8": 200, "int8": -3, "uint16": 60_000, "int16": -300, "uint32": 2**32 - 1}
    numbers |= {"int32": -(2**31), "uint64": 2**64 - 1, "int64": -(2**63)}
    for kind, value in numbers.items():
        getattr(writer, f"add_{kind}")(kind, value)
    writer.add_float64("float64", 0.1)
    writer.add_bool("bool", True)
    writer.add_array("floats", [0.5, 2.0])
    writer.add_array("words", ["", "é", "x" * 5_000])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    metadata = GgufFile(tmp_path / "kinds.gguf").metadata
    assert {kind: metadata[kind] for kind in numbers} == numbers
    assert (metadata["float64"], metadata["bool"]) == (0.1, True)
    assert metadata["floats"] == [0.5, 2.0]
    assert metadata["words"] == ["", "é", "x" * 5_000]


def test_header_longer_than_the_first_read_is_walked_on(tmp_path: Path) -> None:
    words = [f"{index:020d}" for index in range(120_000)]  # 3.4 MB
    file = _write(tmp_path, tiny_gguf({"words": words, "last": 7}))
    assert file.metadata["last"] == 7
    assert file.metadata["words"] == words
    assert file.tensor("output_norm.weight").data.tobytes()


def test_quantised_rows_have_their_byte_length(tmp_path: Path) -> None:
    q8_rows = TinyTensor("output.weight", (32, 4), bytes(range(136)), TYPES["Q8_0"])
    stored = _write(tmp_path, tiny_gguf(None, q8_rows)).tensor("output.weight")
    assert (stored.format, stored.shape) == ("Q8_0", (4, 32))
    assert stored.data.tobytes() == bytes(range(136))


def test_unknown_tensor_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match="holds no tensor nothing"):
        _write(tmp_path, tiny_gguf()).tensor("nothing")


def test_closed_file_is_a_typed_error_and_closing_repeats(tmp_path: Path) -> None:
    file = _write(tmp_path, tiny_gguf())
    file.close()
    file.close()
    with pytest.raises(ModelFormatError, match="cannot be read"):
        file.tensor("output_norm.weight")


def test_threads_read_the_same_bytes(tmp_path: Path) -> None:
    file = _write(tmp_path, tiny_gguf())
    expected = {name: tensor.data for name, tensor in tiny_tensors().items()}
    names = list(expected) * 40
    with ThreadPoolExecutor(8) as pool:
        for name, stored in zip(names, pool.map(file.tensor, names), strict=True):
            assert stored.data.tobytes() == expected[name]


def test_real_file_opens_fast(smollm2_path: Path) -> None:
    seconds = []
    for _ in range(3):
        start = time.process_time()
        file = GgufFile(smollm2_path)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.15  # 0.03 on a quiet machine; processor time, so company is no excuse
    assert len(file.tensors) == 272
    assert len(file.metadata["tokenizer.ggml.tokens"]) == 49_152
    assert file.metadata["tokenizer.ggml.pre"] == "smollm"
