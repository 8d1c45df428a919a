"""Tokenizers of encoders and of older files: the same ids as the libraries that made them."""

import base64
import json
import struct
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from tests.models.test_tokenizer import _SENTENCEPIECE, _TEXTS, _many_texts
from yearling.core.errors import ModelFormatError
from yearling.models.checkpoint.gguf import GgufFile
from yearling.models.tokenizer import Tokenizer

_DATA = Path(__file__).parent / "data"
_GOLDEN = json.loads((_DATA / "tokenizers.json").read_text())
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.fixture(scope="module")
def word_pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small WordPiece tokenizer as BERT's is built."""
    backend = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=500, special_tokens=_SPECIAL, show_progress=False
    )
    backend.train_from_iterator(_TEXTS, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    path = tmp_path_factory.mktemp("word_pieces") / "tokenizer.json"
    backend.save(str(path))
    return path


@pytest.fixture(scope="module")
def unigram(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Unigram tokenizer as T5's is built."""
    backend = tokenizers.Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=300,
        special_tokens=["<pad>", "</s>", "<unk>"],
        unk_token="<unk>",
        show_progress=False,
    )
    backend.train_from_iterator(_TEXTS, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    path = tmp_path_factory.mktemp("unigram") / "tokenizer.json"
    backend.save(str(path))
    return path


def test_word_pieces_give_the_ids_and_text_of_their_library(word_pieces: Path) -> None:
    oracle = tokenizers.Tokenizer.from_file(str(word_pieces))
    ours = Tokenizer.from_file(word_pieces)
    assert (ours.prefix_ids, ours.suffix_ids, ours.adds_bos) == ((2,), (3,), False)
    for text in _many_texts():
        ids = oracle.encode(text).ids
        assert ours.encode(text, add_special=True) == ids
        assert ours.wrap(ours.encode(text)) == ids
        assert ours.decode([i for i in ids if i != 1]) == oracle.decode([i for i in ids if i != 1])


def test_unigram_gives_the_ids_of_its_library(unigram: Path) -> None:
    oracle = tokenizers.Tokenizer.from_file(str(unigram))
    ours = Tokenizer.from_file(unigram)
    assert (ours.prefix_ids, ours.suffix_ids) == ((), (1,))
    for text in _many_texts():
        assert ours.encode(text, add_special=True) == oracle.encode(text).ids


@pytest.mark.parametrize("name", ["word_pieces", "unigram"])
def test_special_tokens_of_a_listed_vocabulary_cannot_be_written(
    name: str, request: pytest.FixtureRequest
) -> None:
    tokenizer = Tokenizer.from_file(request.getfixturevalue(name))
    for text, token_id in tokenizer.special_tokens.items():
        if text not in ("[UNK]", "<unk>"):  # what no piece spells becomes unknown, as it should
            assert token_id not in tokenizer.encode(f"a{text}b {text} {text}")
        assert token_id in tokenizer.encode(text, parse_special=True)
        assert tokenizer.encode_parts(["the", token_id, "cat"]).count(token_id) == 1


def test_special_token_hides_behind_its_respelling_only(unigram: Path) -> None:
    """The library itself gives away `</s>`: without the respelling the test above fails."""
    content = {**json.loads(unigram.read_text()), "added_tokens": []}
    bare = tokenizers.Tokenizer.from_str(json.dumps(content))
    assert 1 in bare.encode("a</s>b", add_special_tokens=False).ids


@pytest.mark.parametrize("name", ["word_pieces", "unigram"])
def test_content_hash_holds_no_random_part(name: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(name)
    assert Tokenizer.from_file(path).content_hash == Tokenizer.from_file(path).content_hash


@pytest.mark.parametrize(
    ("config", "prefix", "suffix"),
    [
        ({}, (2,), (3,)),
        ({"eos_token": "[SEP]", "add_eos_token": False}, (2,), ()),
        ({"bos_token": "[MASK]", "add_bos_token": True}, (4, 2), (3,)),
        ({"bos_token": "[CLS]", "add_bos_token": True}, (2,), (3,)),
        ({"bos_token": "[CLS]", "add_bos_token": False}, (), (3,)),
    ],
)
def test_flags_of_the_configuration_change_what_is_added(
    word_pieces: Path, config: dict[str, Any], prefix: tuple[int, ...], suffix: tuple[int, ...]
) -> None:
    tokenizer = Tokenizer.from_file(word_pieces, config)
    assert (tokenizer.prefix_ids, tokenizer.suffix_ids) == (prefix, suffix)


def test_flag_without_its_token_is_refused(word_pieces: Path) -> None:
    with pytest.raises(ModelFormatError, match="add_eos_token=True, eos_token id None"):
        Tokenizer.from_file(word_pieces, {"add_eos_token": True})


def _varint(value: int) -> bytes:
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def _field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value % (1 << 64))
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def sentencepiece_bytes(
    trainer: bytes = _field(3, 2) + _field(35, 1), normalizer: bytes = _field(4, 0)
) -> bytes:
    """The BPE vocabulary of sentencepiece.json as a `tokenizer.model`."""
    entries = zip(*(_SENTENCEPIECE[k] for k in ("tokens", "scores", "token_type")), strict=True)
    pieces = b"".join(
        _field(1, _field(1, piece.encode()) + b"\x15" + struct.pack("<f", score) + _field(3, kind))
        for piece, score, kind in entries
    )
    return pieces + _field(2, trainer) + _field(3, normalizer)


def _write(folder: Path, content: bytes, name: str = "tokenizer.model") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def test_bpe_of_sentencepiece_gives_its_ids(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(_write(tmp_path, sentencepiece_bytes()))
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.adds_bos) == (1, 2, True)
    for text, expected in _SENTENCEPIECE["cases"]:
        assert tokenizer.encode(text) == expected
        if "\u2581" not in text:
            assert tokenizer.decode(expected) == text


def test_bpe_of_sentencepiece_gives_the_ids_of_the_same_gguf(tmp_path: Path) -> None:
    file = Tokenizer.from_file(_write(tmp_path, sentencepiece_bytes()))
    entries = {name: _SENTENCEPIECE[name] for name in ("tokens", "scores", "token_type")}
    ids = {"model": "llama", "bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0}
    gguf = Tokenizer.from_gguf({f"tokenizer.ggml.{k}": v for k, v in {**entries, **ids}.items()})
    for text in [*_many_texts()[:200], "the<s> cat</s>dog"]:
        assert file.encode(text, parse_special=True) == gguf.encode(text, parse_special=True)


def test_unigram_of_sentencepiece_gives_its_ids(tmp_path: Path) -> None:
    """With a table of replacements, and with spaces squeezed, as T5's has them."""
    path = _write(tmp_path, base64.b64decode(_GOLDEN["unigram"]["model"]), "spiece.model")
    tokenizer = Tokenizer.from_file(path)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.suffix_ids) == (None, 1, (1,))
    for text, expected in _GOLDEN["unigram"]["cases"]:
        assert tokenizer.encode(text) == expected, text


def test_spaces_are_squeezed_only_where_the_file_says(tmp_path: Path) -> None:
    kept = Tokenizer.from_file(_write(tmp_path, sentencepiece_bytes()))
    squeezed = Tokenizer.from_file(_write(tmp_path, sentencepiece_bytes(normalizer=b"")))
    assert kept.decode(kept.encode("  the   cat ")) == "  the   cat "
    assert squeezed.decode(squeezed.encode("  the   cat ")) == "the cat"


def test_tokens_of_the_configuration_are_added_to_the_pieces(tmp_path: Path) -> None:
    path = _write(tmp_path, sentencepiece_bytes())
    size = len(_SENTENCEPIECE["tokens"])
    entry = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    config = {
        "added_tokens_decoder": {
            "1": {**entry, "content": "<s>", "special": True},
            str(size + 3): {**entry, "content": "<|user|>", "special": True},
            str(size + 4): {**entry, "content": "<think>", "special": False},
        },
        "add_bos_token": False,
    }
    tokenizer = Tokenizer.from_file(path, config)
    assert tokenizer.vocabulary_size == size + 5
    assert not tokenizer.adds_bos
    assert tokenizer.encode("<|user|>", parse_special=True) == [size + 3]
    assert size + 3 not in tokenizer.encode("<|user|>")
    assert size + 4 in tokenizer.encode("a<think>b")
    assert tokenizer.token_bytes(size) == b""


def test_older_file_of_added_tokens_is_read(tmp_path: Path) -> None:
    path = _write(tmp_path, sentencepiece_bytes())
    size = len(_SENTENCEPIECE["tokens"])
    added = {"<eom>": size, "<tab>": size + 1}
    (tmp_path / "added_tokens.json").write_text(json.dumps(added))
    roles = {"additional_special_tokens": ["<eom>"]}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(roles))
    tokenizer = Tokenizer.from_file(path)
    assert tokenizer.is_special(size)
    assert not tokenizer.is_special(size + 1)


def test_chatglm_adds_its_tokens_after_the_pieces(tmp_path: Path) -> None:
    config = {"tokenizer_class": "ChatGLMTokenizer"}
    tokenizer = Tokenizer.from_file(_write(tmp_path, sentencepiece_bytes()), config)
    size = len(_SENTENCEPIECE["tokens"])
    assert tokenizer.prefix_ids == (size + 1, size + 3)  # [gMASK] sop
    assert tokenizer.special_tokens["<|user|>"] == size + 6
    assert size + 6 not in tokenizer.encode("<|user|>")


def test_ranks_give_the_ids_of_tiktoken(tmp_path: Path) -> None:
    path = _write(tmp_path, _GOLDEN["ranks"]["file"].encode(), "qwen.tiktoken")
    tokenizer = Tokenizer.from_file(path)
    size = _GOLDEN["ranks"]["file"].count("\n")
    for text, expected in _GOLDEN["ranks"]["cases"]:
        assert tokenizer.encode(text) == expected, text
        assert tokenizer.decode(expected) == text
    assert tokenizer.encode("e\u0301") == tokenizer.encode("\u00e9")  # it composes characters
    names = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|extra_204|>")
    found = [tokenizer.special_tokens[name] - size for name in names]
    assert (found, tokenizer.eos_id) == ([0, 1, 2, 207], size)


def test_vocabulary_with_merges_gives_the_ids_of_transformers(tmp_path: Path) -> None:
    from transformers import GPT2Tokenizer

    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_TEXTS, trainer)
    backend.model.save(str(tmp_path))
    (tmp_path / "added_tokens.json").write_text(json.dumps({"   ": 600, "\t\t": 601}))
    ours = Tokenizer.from_file(tmp_path / "vocab.json")
    assert Tokenizer.find_file(tmp_path) == tmp_path / "vocab.json"
    assert (ours.bos_id, ours.eos_id, ours.adds_bos, ours.vocabulary_size) == (0, 0, False, 602)
    oracle = GPT2Tokenizer.from_pretrained(tmp_path)
    oracle.add_tokens(["   ", "\t\t"])
    for text in [*_many_texts(), "a   b\t\tc", "x<|endoftext|>y"]:
        expected = oracle.encode(text, add_special_tokens=False)
        assert ours.encode(text, parse_special=True) == expected, text


def test_newest_file_of_a_folder_is_read(tmp_path: Path) -> None:
    assert Tokenizer.find_file(tmp_path) is None
    _write(tmp_path, b"{}", "vocab.json")  # without merges.txt it is no tokenizer
    assert Tokenizer.find_file(tmp_path) is None
    for name in ("merges.txt", "tokenizer.model", "tokenizer.json"):
        path = _write(tmp_path, b"", name)
        assert Tokenizer.find_file(tmp_path) == (
            path.with_name("vocab.json") if name == "merges.txt" else path
        )


@pytest.mark.network
@pytest.mark.slow
def test_minilm_gives_the_ids_of_transformers(minilm_path: Path) -> None:
    from transformers import AutoTokenizer

    oracle = AutoTokenizer.from_pretrained(minilm_path)
    ours = Tokenizer.from_file(minilm_path / "tokenizer.json")
    assert (ours.prefix_ids, ours.suffix_ids, ours.vocabulary_size) == ((101,), (102,), 30_522)
    for text in _many_texts():
        assert ours.encode(text, add_special=True) == oracle.encode(text)


@pytest.mark.network
@pytest.mark.slow
def test_gemma3_gives_the_ids_of_llama_cpp(gemma3_path: Path) -> None:
    file = GgufFile(gemma3_path)
    tokenizer = Tokenizer.from_gguf(file.metadata)
    file.close()
    assert (tokenizer.prefix_ids, tokenizer.suffix_ids, tokenizer.eos_id) == ((2,), (), 1)
    for text, expected in json.loads((_DATA / "gemma3.json").read_text()):
        assert tokenizer.encode(text) == expected, text
        if "\u2581" not in text:
            assert tokenizer.decode(expected) == text


_NO_ENDS = _field(2, _field(3, 2) + _field(41, -1) + _field(42, -1))
_PIECE = _field(1, b"a") + b"\x15" + struct.pack("<f", 0.0)
_VALID = sentencepiece_bytes()

# Content of a tokenizer.model, and words that its error must hold.
_DAMAGED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "no pieces"),
    "cut in a length": (_VALID[:-1], "bytes where"),
    "number without end": (b"\xff" * 11, "a number of more than 10 bytes"),
    "number cut": (b"\x80", "a number that is cut at the end"),
    "wire type of groups": (b"\x0b", "a field of wire type 3"),
    "length beyond the end": (b"\x0a\xff\xff\xff\xff\x0f", "bytes where 0 are left"),
    "piece is a number": (_field(1, 7), "a piece that is a number"),
    "score is a number": (_field(1, _field(1, b"a") + _field(2, 7)), "a score of piece 0"),
    "score is not finite": (
        _field(1, _field(1, b"a") + b"\x15" + struct.pack("<f", float("nan"))),
        "score nan of piece 0",
    ),
    "spelling is not UTF-8": (
        _field(1, _field(1, b"\xff")),
        "spelling of piece 0 that is not UTF-8",
    ),
    "fields without end": (_field(9, 1) * (1 << 21), "more than 1052672 fields"),
    "trainer's fields without end": (
        _field(1, _PIECE) + _field(2, _field(9, 1) * 5000),
        "more than 4096 fields",
    ),
    "kind unknown": (_field(1, _PIECE + _field(3, 9)), "piece 0 of kind 9"),
    "kind is bytes": (_field(1, _PIECE + _field(3, b"x")), "field 3 that is no number"),
    "empty spelling": (_field(1, _field(1, b"")) + _NO_ENDS, "has 0 characters"),
    "two of a spelling": (_field(1, _PIECE) * 2, "two pieces with one spelling"),
    "model of words": (_field(1, _PIECE) + _field(2, _field(3, 3)), "model type 3"),
    "spaces behind": (_field(1, _PIECE) + _field(2, _field(24, 1)), "treat_whitespace_as_suffix"),
    "spaces as they are": (_field(1, _PIECE) + _field(3, _field(5, 0)), "escape_whitespaces"),
    "special id beyond the end": (
        _field(1, _PIECE) + _field(2, _field(3, 2) + _field(41, 5)),
        "id 5 of a special piece, but 1 pieces",
    ),
    "no unknown piece": (
        _field(1, _PIECE) + _field(2, _field(41, -1) + _field(42, -1)),
        "unk_id is None",
    ),
    "character map is damaged": (
        sentencepiece_bytes(normalizer=_field(2, b"\0\1")),
        "precompiled_charsmap",
    ),
}


@pytest.mark.parametrize("name", _DAMAGED)
def test_damaged_sentencepiece_file_is_a_typed_error(name: str, tmp_path: Path) -> None:
    content, words = _DAMAGED[name]
    with pytest.raises(ModelFormatError, match=words):
        Tokenizer.from_file(_write(tmp_path, content))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("IQ== 0\nIg== 2\n", "line 2 must hold a token and its rank, 1"),
        ("IQ== 0\nIQ== 1\n", "line 2 repeats a token"),
        ("I 0\n", "line 1 is not base64"),
        ("\u00e9 0\n", "line 1 is not base64"),
        (" 0\n", "line 1 must hold"),
        ("IQ==\n", "line 1 must hold"),
        ("\udcff", "is not UTF-8"),
    ],
)
def test_damaged_ranks_are_a_typed_error(content: str, words: str, tmp_path: Path) -> None:
    path = _write(tmp_path, content.encode(errors="surrogateescape"), "qwen.tiktoken")
    with pytest.raises(ModelFormatError, match=words):
        Tokenizer.from_file(path)


@pytest.mark.parametrize("merges", ["#version: 0.2\na b c\n", "ab\n", "a \n"])
def test_damaged_merges_are_a_typed_error(merges: str, tmp_path: Path) -> None:
    path = _write(tmp_path, b'{"a": 0, "b": 1, "ab": 2}', "vocab.json")
    _write(tmp_path, merges.encode(), "merges.txt")
    with pytest.raises(ModelFormatError, match="a merge is two tokens"):
        Tokenizer.from_file(path)


@pytest.mark.parametrize(
    ("decoder", "words"),
    [
        ([], "added_tokens_decoder must be an object"),
        ({"x": {}}, "holds 'x'"),
        ({"7": "y"}, "holds '7'"),
        ({"7": {}}, "holds '7'"),
        ({"9" * 5000: {"content": "y"}}, "has id 9999999999"),
        ({"7": {"content": "<new>"}}, "id 7 is both"),
    ],
)
def test_damaged_added_tokens_are_a_typed_error(decoder: Any, words: str, tmp_path: Path) -> None:
    config = {"added_tokens_decoder": decoder}
    with pytest.raises(ModelFormatError, match=words):
        Tokenizer.from_file(_write(tmp_path, sentencepiece_bytes()), config)
