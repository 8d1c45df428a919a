"""The GGUF writer, read back by our reader and by the `gguf` package's."""

from pathlib import Path

import gguf
import numpy as np
import pytest

from yearling.models.checkpoint.encode import ENCODED_FORMATS, from_float32
from yearling.models.checkpoint.formats import StoredTensor
from yearling.models.checkpoint.gguf import GgufFile
from yearling.models.checkpoint.gguf_writer import GgufValue, write_gguf
from yearling.models.checkpoint.planned import PlannedTensor

VALUES: dict[str, GgufValue] = {
    "general.architecture": "llama",
    "text": "na\u00efve \U0001f642",
    "empty": "",
    "true": True,
    "small": 7,
    "negative": -7,
    "large": 2**40,
    "fraction": 0.1,
    "u8": np.uint8(200),
    "i8": np.int8(-3),
    "u16": np.uint16(60_000),
    "i16": np.int16(-300),
    "i64": np.int64(-(2**40)),
    "f64": np.float64(0.1),
    "strings": ["a", "", "\u4f60\u597d"],
    "integers": np.array([1, -2, 3], np.int32),
    "floats": np.array([0.5, -1.5], np.float32),
    "flags": np.array([True, False]),
    "bytes": np.arange(5, dtype=np.uint8),
}


def _planned(name: str, stored: StoredTensor) -> PlannedTensor:
    return PlannedTensor(name, stored.format, stored.shape, lambda: stored)


def _tensors() -> list[PlannedTensor]:
    random = np.random.default_rng(1)
    return [
        _planned(f"t.{name}", from_float32(random.standard_normal((3, 256), np.float32), name))
        for name in ENCODED_FORMATS
    ] + [_planned("vector", from_float32(random.standard_normal(7, np.float32), "F32"))]


def test_values_come_back(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", VALUES, [])
    metadata = GgufFile(tmp_path / "m.gguf").metadata
    assert set(metadata) == set(VALUES)
    for key, value in VALUES.items():
        wanted = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
        assert metadata[key] == (np.float32(0.1).item() if key == "fraction" else wanted), key


def test_gguf_package_reads_the_same_types(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", VALUES, _tensors())
    fields = gguf.GGUFReader(tmp_path / "m.gguf").fields
    kinds = {name: [kind.name for kind in field.types] for name, field in fields.items()}
    assert kinds["small"] == ["UINT32"]
    assert kinds["negative"] == ["INT32"]
    assert kinds["large"] == ["UINT64"]
    assert kinds["fraction"] == ["FLOAT32"]
    assert kinds["true"] == ["BOOL"]
    assert kinds["f64"] == ["FLOAT64"]
    assert kinds["i8"] == ["INT8"]
    assert kinds["strings"] == ["ARRAY", "STRING"]
    assert kinds["bytes"] == ["ARRAY", "UINT8"]
    assert fields["strings"].contents() == VALUES["strings"]
    assert fields["flags"].contents() == [True, False]


def test_tensors_come_back(tmp_path: Path) -> None:
    tensors = _tensors()
    write_gguf(tmp_path / "m.gguf", VALUES, tensors)
    file = GgufFile(tmp_path / "m.gguf")
    theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    for tensor in tensors:
        wanted, found = tensor.read(), file.tensor(tensor.name)
        assert (found.format, found.shape) == (wanted.format, wanted.shape)
        np.testing.assert_array_equal(found.data, wanted.data)
        their = theirs[tensor.name]
        assert their.tensor_type.name == wanted.format
        assert their.data_offset % 32 == 0
        np.testing.assert_array_equal(their.data.view(np.uint8).ravel(), wanted.data)


def test_tensors_are_read_one_after_the_other(tmp_path: Path) -> None:
    order: list[str] = []
    stored = from_float32(np.ones((2, 32), np.float32), "Q8_0")

    def plan(name: str) -> PlannedTensor:
        def read() -> StoredTensor:
            part = tmp_path / ".m.gguf.part"
            order.append(f"{name} at {part.stat().st_size > 0}")
            return stored

        return PlannedTensor(name, "Q8_0", (2, 32), read)

    write_gguf(tmp_path / "m.gguf", {}, [plan("a"), plan("b")])
    assert [entry[0] for entry in order] == ["a", "b"]


def test_failure_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"before")

    def fail() -> StoredTensor:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        write_gguf(tmp_path / "m.gguf", {}, [PlannedTensor("a", "F32", (2,), fail)])
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [
        ("m.gguf", b"before")
    ]


def test_tensor_other_than_planned_is_refused(tmp_path: Path) -> None:
    stored = from_float32(np.ones(4, np.float32), "F16")
    tensor = PlannedTensor("a", "F32", (4,), lambda: stored)
    with pytest.raises(ValueError, match=r"a was planned as F32 \(4,\), but is F16 \(4,\)"):
        write_gguf(tmp_path / "m.gguf", {}, [tensor])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([1, 2], "a list must hold strings; numbers go into a NumPy array"),
        (2**70, "has no GGUF type"),
        (np.zeros((2, 2), np.float32), "float32 of 2 axes has no GGUF type"),
        (np.array([1j]), "complex128 of 1 axes has no GGUF type"),
    ],
)
def test_values_without_a_type_are_refused(tmp_path: Path, value: GgufValue, words: str) -> None:
    with pytest.raises(ValueError, match=f"key: .*{words}"):
        write_gguf(tmp_path / "m.gguf", {"key": value}, [])
    assert list(tmp_path.iterdir()) == []


def test_repeated_name_is_refused(tmp_path: Path) -> None:
    stored = from_float32(np.ones(4, np.float32), "F32")
    with pytest.raises(ValueError, match="two tensors have the same name"):
        write_gguf(tmp_path / "m.gguf", {}, [_planned("a", stored), _planned("a", stored)])
