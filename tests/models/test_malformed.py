"""Malformed GGUF and safetensors files: each is a typed error, fast, within 1 GiB."""

import json
import struct
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.models.malformed_cases import Outcome, load_checkpoint, load_isolated
from tests.models.tiny_files import (
    CANONICAL_SHAPES,
    CONFIG,
    KINDS,
    METADATA,
    TinyTensor,
    gguf_bytes,
    pair,
    safetensors_bytes,
    stored,
    tensor_entry,
    text,
    tiny_gguf,
    tiny_safetensors,
    tiny_tensors,
    u32,
    u64,
    value_pair,
    write_folder,
)
from yearling.core.errors import ModelFormatError, YearlingError
from yearling.models.checkpoint import open_checkpoint

pytestmark = pytest.mark.promised(
    "a malformed model or tokenizer file is refused by name, in 2 seconds and 1 GiB"
)

_LOADER = "tests.models.malformed_cases:load_checkpoint"
_HUGE = 2**63
_PAIRS = [value_pair(key, value) for key, value in METADATA.items()]
_ROW = bytes(128)  # 32 float32 values


def _with_entries(*entries: bytes) -> bytes:
    return gguf_bytes(_PAIRS, entries=entries) + bytes(4096)


def _with_pair(*extra: bytes) -> bytes:
    return gguf_bytes([*_PAIRS, *extra], list(tiny_tensors().values()))


def _counts(num_tensors: int, num_pairs: int, rest: bytes = bytes(64)) -> bytes:
    return b"GGUF" + u32(3) + u64(num_tensors) + u64(num_pairs) + rest


_ARRAY, _STRING, _U8 = KINDS["array"], KINDS["string"], KINDS["u8"]
_NORM = "blk.0.attn_norm.weight"

# Content of a file, and words that its error must hold: field and place.
_GGUF_CASES: Mapping[str, tuple[bytes, str]] = {
    "empty": (b"", "0 bytes"),
    "three bytes": (b"GGU", "3 bytes"),
    "magic only": (b"GGUF", "version"),
    "wrong magic": (b"ELF\x7f" + bytes(64), "no GGUF file"),
    "older magic": (b"tjgg" + bytes(64), "an old GGJT file"),
    "big-endian": (b"GGUF" + struct.pack(">I", 3) + bytes(64), "big-endian"),
    "version 0": (b"GGUF" + u32(0) + bytes(64), "version is 0"),
    "version 1": (b"GGUF" + u32(1) + bytes(64), "versions 2 and 3 are read"),
    "version 4": (b"GGUF" + u32(4) + bytes(64), "version is 4"),
    "cut after version": (b"GGUF" + u32(3), "number of tensors"),
    "huge tensor count": (_counts(_HUGE, 0), f"number of tensors is {_HUGE}"),
    "huge pair count": (_counts(0, _HUGE), f"number of metadata pairs is {_HUGE}"),
    "more pairs than bytes": (_counts(0, 40), "has room for"),
    "pair count above limit": (_counts(0, 70_000, bytes(1 << 20)), "the limit is 65536"),
    "huge key length": (_counts(0, 1, u64(2**64 - 1) + bytes(64)), "length of key 0"),
    "key beyond end": (_counts(0, 1, u64(65) + bytes(40)), "length of key 0 is 65"),
    "key not UTF-8": (_with_pair(pair(b"\xff\xfe", _U8, b"\0")), "is not UTF-8"),
    "key twice": (_with_pair(value_pair("general.architecture", "llama")), "appears twice"),
    "value of unknown type": (_with_pair(pair("x", 99, bytes(8))), "x is of unknown type 99"),
    "string length 2^64-1": (
        gguf_bytes([pair("x", _STRING, u64(2**64 - 1))]),
        "length of x is 18446744073709551615",
    ),
    "string not UTF-8": (_with_pair(pair("x", _STRING, text(b"\xc3\x28"))), "x is not UTF-8"),
    "truth value 2": (_with_pair(pair("x", KINDS["bool"], b"\2")), "neither true nor false"),
    "nested arrays": (
        _with_pair(pair("x", _ARRAY, u32(_ARRAY) + u64(1) + u32(_U8) + u64(0))),
        "x is an array of arrays",
    ),
    "array of unknown type": (_with_pair(pair("x", _ARRAY, u32(77) + u64(0))), "type 77"),
    "array count 2^63": (
        gguf_bytes([pair("x", _ARRAY, u32(_U8) + u64(_HUGE))]),
        f"number of items of x is {_HUGE}",
    ),
    "string array count 2^61": (
        gguf_bytes([pair("x", _ARRAY, u32(_STRING) + u64(2**61))]),
        "number of items of x",
    ),
    "string in array of 2^64-1": (
        gguf_bytes([pair("x", _ARRAY, u32(_STRING) + u64(1) + u64(2**64 - 1))]),
        "length of x[0]",
    ),
    "string in array beyond end": (
        gguf_bytes([pair("x", _ARRAY, u32(_STRING) + u64(1) + u64(500))]),
        "the end of x",
    ),
    "array beyond the limit": (
        gguf_bytes([pair("x", _ARRAY, u32(_U8) + u64(5 << 20) + bytes(5 << 20))]),
        "the limit is 4194304",
    ),
    "token not UTF-8": (
        tiny_gguf().replace(text("ab"), text(b"\xff\xff")),
        "tokenizer.ggml.tokens[3] at offset",
    ),
    "cut in metadata": (tiny_gguf()[:500], "length of key 11 is 21"),
    "cut in tensor entries": (tiny_gguf()[:1000], "ends at 1000"),
    "no axes": (_with_entries(tensor_entry(_NORM, (), 0, 0)), "0 axes instead of 1 to 4"),
    "five axes": (_with_entries(tensor_entry(_NORM, (1,) * 5, 0, 0)), "5 axes"),
    "2^32-1 axes": (_with_entries(text(_NORM) + u32(2**32 - 1) + bytes(64)), "4294967295 axes"),
    "axis 0": (_with_entries(tensor_entry(_NORM, (0,), 0, 0)), "does not fit"),
    "axis 2^62": (_with_entries(tensor_entry(_NORM, (2**62,), 0, 0)), "does not fit"),
    "product beyond 2^64": (_with_entries(tensor_entry(_NORM, (2**32,) * 4, 0, 0)), "does not fit"),
    "product wraps to 0": (_with_entries(tensor_entry(_NORM, (2**32, 2**32), 0, 0)), "not fit"),
    "unknown tensor type": (_with_entries(tensor_entry(_NORM, (32,), 4096, 0)), "type 4096"),
    "type not read": (_with_entries(tensor_entry(_NORM, (256,), 16, 0)), "type 16"),
    "row of half a block": (_with_entries(tensor_entry(_NORM, (33,), 8, 0)), "not whole Q8_0"),
    "tensor beyond end": (_with_entries(tensor_entry(_NORM, (32,), 0, 1 << 20)), "ends beyond"),
    "tensor offset 2^64-32": (
        _with_entries(tensor_entry(_NORM, (32,), 0, 2**64 - 32)),
        "ends beyond the file",
    ),
    "tensor not aligned": (_with_entries(tensor_entry(_NORM, (32,), 0, 4)), "not aligned to 32"),
    "tensors overlap": (
        _with_entries(tensor_entry("a", (32,), 0, 0), tensor_entry("b", (32,), 0, 64)),
        "tensors a and b overlap",
    ),
    "tensor twice": (
        _with_entries(tensor_entry("a", (32,), 0, 0), tensor_entry("a", (32,), 0, 128)),
        "tensor a appears twice",
    ),
    "tensor name not UTF-8": (_with_entries(text(b"\xff") + bytes(64)), "name of tensor 0"),
    "alignment 0": (_with_pair(value_pair("general.alignment", 0)), "general.alignment is 0"),
    "alignment 3": (_with_pair(value_pair("general.alignment", 3)), "general.alignment is 3"),
    "alignment 2^31": (_with_pair(value_pair("general.alignment", 2**31)), "power of two"),
    "alignment of wrong type": (_with_pair(value_pair("general.alignment", "32")), "is '32'"),
    "no architecture": (tiny_gguf({"general.architecture": None}), "architecture is missing"),
    "architecture is a number": (tiny_gguf({"general.architecture": 3}), "must be a string"),
    "unknown architecture": (tiny_gguf({"general.architecture": "gpt9"}), "no known family"),
    "no layer count": (tiny_gguf({"llama.block_count": None}), "block_count is missing"),
    "2^31 layers": (tiny_gguf({"llama.block_count": 2**31}), "block_count=2147483648"),
    "layer count is text": (tiny_gguf({"llama.block_count": "1"}), "must be an integer"),
    "no heads": (tiny_gguf({"llama.attention.head_count": 0}), "head_count=0"),
    "heads that kv heads do not divide": (
        tiny_gguf({"llama.attention.head_count_kv": 3}),
        "kv_heads must divide heads",
    ),
    "epsilon not finite": (
        tiny_gguf({"llama.attention.layer_norm_rms_epsilon": float("nan")}),
        "must be finite",
    ),
    "experts": (tiny_gguf({"llama.expert_count": 8}), "expert_used_count is missing"),
    "split file": (tiny_gguf({"split.count": 2}), "split files are not read"),
    "tensor missing": (tiny_gguf(without=[_NORM]), f"among them {_NORM}"),
    "tensor too many": (tiny_gguf(None, TinyTensor("odd.weight", (32,), _ROW)), "odd.weight"),
    "tensor of another shape": (
        tiny_gguf(None, TinyTensor("output_norm.weight", (16,), _ROW[:64])),
        "has shape (16,), but its settings call for (32,)",
    ),
    "more tokens than rows": (
        tiny_gguf({"tokenizer.ggml.tokens": list("abcde")}),
        "the tokenizer has 5 tokens, but the embedding has 4 rows",
    ),
    "end token out of range": (
        tiny_gguf({"tokenizer.ggml.eos_token_id": 4}),
        "must be below the vocabulary size of 4",
    ),
    "vocab_size contradicts": (tiny_gguf({"llama.vocab_size": 5}), "which has 4 rows"),
    "template without tokenizer": (
        tiny_gguf({key: None for key in METADATA if key.startswith("tokenizer.ggml")}),
        "has a chat template, but no tokenizer",
    ),
}


def _one(changes: Mapping[str, object], data: bytes = _ROW) -> bytes:
    entry = {"dtype": "F32", "shape": [32], "data_offsets": [0, 128], **changes}
    return safetensors_bytes({"x": entry}, data)


_TWICE = b'{"x":{"dtype":"F32","shape":[32],"data_offsets":[0,128]}'
_SAFETENSORS_CASES: Mapping[str, tuple[bytes, str]] = {
    "empty": (b"", "ends at 0"),
    "seven bytes": (bytes(7), "the length of the header"),
    "no header": (u64(0), "must begin with '{'"),
    "header length 2^64-1": (safetensors_bytes(b"{}", length=2**64 - 1), "header length"),
    "header longer than file": (safetensors_bytes(b"{}", length=99), "header length at offset 0"),
    "header above the limit": (u64(100_000_001) + b"{", "the limit is 100000000"),
    "header not JSON": (safetensors_bytes(b"{'x': 1}"), "header"),
    "header not an object": (safetensors_bytes(b"[]"), "must begin with '{'"),
    "header cut": (safetensors_bytes(b'{"x":{"dtype"'), "truncated"),
    "header not UTF-8": (safetensors_bytes(b'{"\xff":{}}'), "header"),
    "deep nesting": (safetensors_bytes(b'{"x":' * 200_000), "header"),
    "many small values": (safetensors_bytes(b'{"x":[' + b"[]," * 3_000_000 + b"0]}"), "header"),
    "many keys": (
        safetensors_bytes(b"{" + b",".join(b'"%d":0' % i for i in range(600_000)) + b"}"),
        "too many tensors",
    ),
    "entry is a list": (safetensors_bytes({"x": []}), "Expected `object`"),
    "no dtype": (safetensors_bytes({"x": {"shape": [], "data_offsets": [0, 0]}}), "dtype"),
    "unknown dtype": (_one({"dtype": "F33"}), "unknown type 'F33'"),
    "unknown field": (_one({"stride": 1}), "unknown field `stride`"),
    "negative axis": (_one({"shape": [-32]}), "shape[0]"),
    "axis of 5,000 digits": (
        safetensors_bytes(_TWICE.replace(b"[32]", b"[" + b"9" * 5_000 + b"]") + b"}", _ROW),
        "shape[0]",
    ),
    "fractional axis": (_one({"shape": [32.5]}), "shape[0]"),
    "axes product beyond 2^64": (_one({"shape": [2**40, 2**40]}), "tensor x needs"),
    "nine axes": (_one({"shape": [1] * 9}), "shape"),
    "size contradicts offsets": (_one({"shape": [16]}), "needs 64 bytes"),
    "offsets reversed": (_one({"data_offsets": [128, 0]}), "data_offsets are 128 to 0"),
    "one offset": (_one({"data_offsets": [0]}), "data_offsets"),
    "offset beyond end": (_one({"data_offsets": [1024, 1152]}), "leaves a hole"),
    "data cut": (_one({}, _ROW[:100]), "was cut short"),
    "data too long": (_one({}, _ROW + b"x"), "the file has"),
    "hole": (
        safetensors_bytes(
            {
                "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
                "b": {"dtype": "F32", "shape": [1], "data_offsets": [8, 12]},
            },
            bytes(12),
        ),
        "tensor b leaves a hole before it",
    ),
    "overlap": (
        safetensors_bytes(
            {
                "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
            },
            bytes(12),
        ),
        "tensor b overlaps",
    ),
    "name twice": (safetensors_bytes(_TWICE + b"," + _TWICE[1:] + b"}", _ROW), "a tensor twice"),
    "metadata not text": (safetensors_bytes({"__metadata__": {"a": 1}}), "Expected `str`"),
    "type that is known but not read": (
        tiny_safetensors().replace(b'"F32"', b'"I32"', 1),
        "of type I32, which is not read",
    ),
    "tensor missing": (
        tiny_safetensors({k: v for k, v in CANONICAL_SHAPES.items() if k != "model.norm.weight"}),
        "among them model.norm.weight",
    ),
    "embedding of another size": (
        tiny_safetensors({**CANONICAL_SHAPES, "model.embed_tokens.weight": (5, 32)}),
        "has shape (5, 32), but its settings call for (4, 32)",
    ),
}

_WEIGHT_MAP = dict.fromkeys(CANONICAL_SHAPES, "model-00001-of-00001.safetensors")


def _index(shard: object) -> dict[str, object]:
    index = {"weight_map": {**_WEIGHT_MAP, "model.norm.weight": shard}}
    return {"model.safetensors": None, "model.safetensors.index.json": index}


_FOLDER_CASES: Mapping[str, tuple[Mapping[str, object], str]] = {
    "no config": ({"config.json": None}, "holds no config.json"),
    "config not JSON": ({"config.json": b"{"}, "not valid JSON"),
    "config is a list": ({"config.json": []}, "must hold one JSON object"),
    "config not UTF-8": ({"config.json": b'{"a": "\xff"}'}, "not valid JSON"),
    "config nested deep": ({"config.json": b'{"a":' * 100_000}, "not valid JSON"),
    "config with a key twice": ({"config.json": b'{"a": 1, "a": 2}'}, "'a' appears twice"),
    "config of 5,000 digits": ({"config.json": b'{"a": ' + b"9" * 5_000 + b"}"}, "not valid"),
    "config above its limit": ({"config.json": b" " * (2 << 20)}, "above 1048576"),
    "unknown model type": ({"config.json": {**CONFIG, "model_type": "gpt9"}}, "no known family"),
    "2^60 layers": ({"config.json": {**CONFIG, "num_hidden_layers": 2**60}}, "num_hidden_layers"),
    "layers as text": ({"config.json": {**CONFIG, "num_hidden_layers": "1"}}, "an integer"),
    "epsilon infinite": ({"config.json": {**CONFIG, "rms_norm_eps": float("inf")}}, "finite"),
    "end token out of range": ({"config.json": {**CONFIG, "eos_token_id": 99}}, "below the voc"),
    "no weights": ({"model.safetensors": None}, "pytorch_model.bin"),
    "index empty": (
        {"model.safetensors": None, "model.safetensors.index.json": {}},
        "weight_map is missing",
    ),
    "index leaves the folder": (_index("../model.safetensors"), "'../model.safetensors'"),
    "index with an absolute path": (_index("/etc/passwd"), "'/etc/passwd'"),
    "index with a NUL": (_index("a\0.safetensors"), "no plain name"),
    "index with a number": (_index(3), "no plain name"),
    "index names a missing shard": (_index("gone.safetensors"), "gone.safetensors"),
    "index contradicts a shard": (
        {**_index("a.safetensors"), "model-00001-of-00001.safetensors": tiny_safetensors()}
        | {"a.safetensors": safetensors_bytes({})},
        "but it is in model-00001-of-00001.safetensors",
    ),
    "template of wrong type": (
        {"tokenizer_config.json": {"chat_template": 3}},
        "chat_template must be a string",
    ),
}

_NAMES = [
    *(f"gguf: {name}" for name in _GGUF_CASES),
    *(f"safetensors: {name}" for name in _SAFETENSORS_CASES),
    *(f"folder: {name}" for name in _FOLDER_CASES),
]
_WORDS = {
    **{f"gguf: {name}": words for name, (_, words) in _GGUF_CASES.items()},
    **{f"safetensors: {name}": words for name, (_, words) in _SAFETENSORS_CASES.items()},
    **{f"folder: {name}": words for name, (_, words) in _FOLDER_CASES.items()},
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """What became of every case; all run in one go."""
    root = tmp_path_factory.mktemp("malformed")
    paths = {}
    for name, (content, _) in _GGUF_CASES.items():
        paths[f"gguf: {name}"] = root / f"{len(paths)}.gguf"
        paths[f"gguf: {name}"].write_bytes(content)
    for name, (content, _) in _SAFETENSORS_CASES.items():
        folder = write_folder(root / str(len(paths)), {"model.safetensors": content})
        paths[f"safetensors: {name}"] = folder
    for name, (files, _) in _FOLDER_CASES.items():
        paths[f"folder: {name}"] = write_folder(root / str(len(paths)), files)
    paths["valid GGUF"] = root / "valid.gguf"
    paths["valid GGUF"].write_bytes(tiny_gguf())
    paths["valid folder"] = write_folder(root / "valid")
    return load_isolated(paths, _LOADER)


@pytest.mark.parametrize("name", _NAMES)
def test_malformed_file_gives_typed_error(name: str, outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes[name]
    assert outcome.error in ("ModelFormatError", "ModelNotFoundError"), outcome
    assert _WORDS[name] in outcome.message
    assert outcome.seconds < 2.0


@pytest.mark.parametrize("name", ["valid GGUF", "valid folder"])
def test_valid_file_loads_under_the_same_limits(name: str, outcomes: dict[str, Outcome]) -> None:
    assert outcomes[name].error is None, outcomes[name]


def test_isolation_reports_what_is_not_typed(tmp_path: Path) -> None:
    """The harness itself can fail: hangs, large allocations and crashes are seen."""
    outcomes = load_isolated(
        {"hang": tmp_path / "hang", "memory": tmp_path / "memory"}, __name__ + ":_bad"
    )
    assert outcomes["hang"].error == "signal 9"
    assert outcomes["memory"].error == "MemoryError"


def _bad(path: Path) -> None:
    while path.name == "hang":
        pass
    bytearray(2 << 30)


def test_file_cut_after_opening_is_a_typed_error(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(tiny_gguf())
    checkpoint = open_checkpoint(path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 100)
    with pytest.raises(ModelFormatError, match=r"short read of tensor output_norm.weight"):
        stored(checkpoint, "final_norm")


def test_shard_cut_after_opening_is_a_typed_error(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_folder(tmp_path / "model"))
    with (tmp_path / "model" / "model.safetensors").open("r+b") as file:
        file.truncate(2_000)
    with pytest.raises(ModelFormatError, match=r"short read of tensor model.norm.weight"):
        stored(checkpoint, "final_norm")


def test_directory_pipe_and_device_are_typed_errors(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(ModelFormatError, match="not a regular file"):
            open_checkpoint(path)


_MUTATION = st.one_of(
    st.tuples(st.just("set"), st.floats(0, 1), st.binary(min_size=1, max_size=8)),
    st.tuples(st.just("cut"), st.floats(0, 1), st.just(b"")),
    st.tuples(st.just("insert"), st.floats(0, 1), st.binary(min_size=1, max_size=16)),
    st.tuples(st.just("huge"), st.floats(0, 1), st.sampled_from([b"\xff" * 8, b"\0" * 8])),
)


_VALID_GGUF, _VALID_SAFETENSORS = tiny_gguf(), tiny_safetensors()
_VALID_CONFIG = json.dumps(CONFIG).encode()


def _mutate(content: bytes, header: int, mutations: list[tuple[str, float, bytes]]) -> bytes:
    for kind, where, data in mutations:
        at = int(where * min(header, len(content)))
        if kind == "cut":
            content = content[:at]
        elif kind == "insert":
            content = content[:at] + data + content[at:]
        else:
            content = content[:at] + data + content[at + len(data) :]
    return content


def _load_or_refuse(path: Path) -> None:
    """Pass when it loads, or is refused by an error of ours; any other one fails the test."""
    try:
        load_checkpoint(path)
    except YearlingError:
        return


_SETTINGS = settings(
    max_examples=200, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


@_SETTINGS
@given(mutations=st.lists(_MUTATION, min_size=1, max_size=3))
def test_mutated_gguf_loads_or_is_refused(mutations: list[tuple[str, float, bytes]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        path.write_bytes(_mutate(_VALID_GGUF, 2_000, mutations))
        _load_or_refuse(path)


@_SETTINGS
@given(mutations=st.lists(_MUTATION, min_size=1, max_size=3))
def test_mutated_safetensors_loads_or_is_refused(mutations: list[tuple[str, float, bytes]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        mutated = _mutate(_VALID_SAFETENSORS, 1_200, mutations)
        _load_or_refuse(write_folder(Path(folder), {"model.safetensors": mutated}))


@_SETTINGS
@given(mutations=st.lists(_MUTATION, min_size=1, max_size=3))
def test_mutated_config_loads_or_is_refused(mutations: list[tuple[str, float, bytes]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        mutated = _mutate(_VALID_CONFIG, len(_VALID_CONFIG), mutations)
        _load_or_refuse(write_folder(Path(folder), {"config.json": mutated}))
