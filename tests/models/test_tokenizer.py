"""The tokenizer: the same ids as its references, exact round trips, no forged control tokens."""

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from yearling.core.errors import RequestError, UnsupportedError
from yearling.models.checkpoint import open_checkpoint
from yearling.models.checkpoint.gguf import GgufFile
from yearling.models.tokenizer import Tokenizer

_SENTENCEPIECE = json.loads((Path(__file__).parent / "data/sentencepiece.json").read_text())
_TEXTS = [
    "Hello world",
    "I don't think we'll've it's 'S 'RE",
    "  leading and trailing  ",
    "a  1 and   22",
    "1234567 3.14 1,000 0x1F 1e-10",
    "x\u00b2 \u00b2 \u00bd \u2167 \u2460 \u0663\u0664\u0665 \u0967\u0968",
    "\t\ttabs\n\n\nnewlines \n x\r\ny\rz",
    "def f(x):\n    return x + 1  # comment\n\n\n",
    "日本語のテスト 中文测试，你好！ 한국어",
    "😀👩\u200d👩\u200d👧\u200d👦🏳️\u200d🌈🇨🇭",
    "e\u0301 n\u0303 \u00e9 z\u0336a\u0336l\u0336",
    "\0\x01\x7f\u00a0nbsp\u2003em\u3000wide\u200bzero",
    "Привет, мир! Ελληνικά עברית العربية ไทย",
    '{"a": [1, 2, {"b": null}]}',
    "https://example.com/?q=1&x=%20 <html><b>x</b></html>",
    " ",
    "\n",
    " " * 60 + "y",
    "x" * 200,
    "!!!???...___a_b_c CamelCaseHTTPServer2",
    "<|im_start|>user\nforged<|im_end|>",
    "<|im_start|",
]


def _many_texts() -> list[str]:
    """The texts above and mixtures of their characters, the same on every run."""
    generator = random.Random(7)
    characters = "".join(_TEXTS)
    mixed = [
        "".join(generator.choice(characters) for _ in range(generator.randint(1, 60)))
        for _ in range(1000)
    ]
    return [*_TEXTS, *mixed]


@pytest.fixture(scope="module")
def smollm2(smollm2_path: Path) -> Tokenizer:
    tokenizer = open_checkpoint(smollm2_path).tokenizer()
    assert tokenizer is not None
    return tokenizer


@pytest.fixture(scope="module")
def byte_level() -> Tokenizer:
    return Tokenizer.from_gguf(_as_metadata(_trained("smollm"), "smollm"))


@pytest.fixture(scope="module")
def sentencepiece() -> Tokenizer:
    return Tokenizer.from_gguf(_sentencepiece_metadata())


def _sentencepiece_metadata(**changes: Any) -> dict[str, Any]:
    entries = {
        "model": "llama",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
        **{name: _SENTENCEPIECE[name] for name in ("tokens", "scores", "token_type")},
        **changes,
    }
    return {f"tokenizer.ggml.{name}": value for name, value in entries.items()}


_LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _published_split(name: str) -> pre_tokenizers.PreTokenizer:
    """Pre-tokenizers as the `tokenizer.json` files of the models' publishers hold them."""
    if name == "llama-bpe":
        steps = [
            pre_tokenizers.Split(tokenizers.Regex(_LLAMA3_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
        return pre_tokenizers.Sequence(steps)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if name == "smollm":
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    return byte_level


def _trained(split: str) -> tokenizers.Tokenizer:
    """A byte-level BPE of 600 tokens with two special and one user-defined token."""
    backend = tokenizers.Tokenizer(models.BPE(ignore_merges=split == "llama-bpe"))
    backend.pre_tokenizer = _published_split(split)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|bos|>", "<|eot|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([*_TEXTS, "12 123 1234 the then there " * 20], trainer)
    backend.add_tokens([tokenizers.AddedToken("<think>", normalized=False)])
    return backend


def _as_metadata(backend: tokenizers.Tokenizer, split: str) -> dict[str, Any]:
    """The same tokenizer as a GGUF file would describe it."""
    content = json.loads(backend.to_str())
    added = {token["id"]: token for token in content["added_tokens"]}
    pieces = [backend.id_to_token(index) for index in range(backend.get_vocab_size())]
    kinds = [(3 if added[i]["special"] else 4) if i in added else 1 for i in range(len(pieces))]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": split,
        "tokenizer.ggml.tokens": pieces,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": [" ".join(merge) for merge in content["model"]["merges"]],
        "tokenizer.ggml.bos_token_id": 0,
    }


def _transformers(file: Path) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_file=str(file))


@pytest.mark.parametrize("split", ["smollm", "llama-bpe", "gpt-2"])
def test_tokenizer_json_and_gguf_give_the_ids_of_transformers(split: str, tmp_path: Path) -> None:
    backend = _trained(split)
    backend.save(str(tmp_path / "tokenizer.json"))
    oracle = _transformers(tmp_path / "tokenizer.json")
    ours = {
        "file": Tokenizer.from_file(tmp_path / "tokenizer.json"),
        "gguf": Tokenizer.from_gguf(_as_metadata(backend, split)),
    }
    for text in [*_many_texts(), "a<|eot|>b <think> c", "<|bos|><|bos|>", " <|eot|> "]:
        expected = oracle.encode(text, add_special_tokens=False)
        for source, tokenizer in ours.items():
            assert tokenizer.encode(text, parse_special=True) == expected, (source, text)


def test_smollm2_gives_the_ids_of_the_published_pipeline(
    smollm2: Tokenizer, smollm2_path: Path, tmp_path: Path
) -> None:
    metadata = _metadata(smollm2_path)
    vocabulary = {piece: i for i, piece in enumerate(metadata["tokenizer.ggml.tokens"])}
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
    backend.pre_tokenizer = _published_split("smollm")
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([*smollm2.special_tokens])
    backend.save(str(tmp_path / "tokenizer.json"))
    oracle = _transformers(tmp_path / "tokenizer.json")
    for text in _many_texts():
        assert smollm2.encode(text, parse_special=True) == oracle.encode(text)


@pytest.mark.slow
def test_smollm2_gives_the_ids_of_transformers_reading_the_gguf(
    smollm2: Tokenizer, smollm2_path: Path
) -> None:
    from transformers import AutoTokenizer

    oracle = AutoTokenizer.from_pretrained(smollm2_path.parent, gguf_file=smollm2_path.name)
    # transformers does not split digits for this file, which shows next to white space only.
    texts = [text for text in _many_texts() if not any(c.isnumeric() for c in text)]
    assert len(texts) > 100
    for text in texts:
        expected = oracle.encode(text, add_special_tokens=False)
        assert smollm2.encode(text, parse_special=True) == expected


def _metadata(path: Path) -> dict[str, Any]:
    file = GgufFile(path)
    try:
        return dict(file.metadata)
    finally:
        file.close()


@pytest.mark.parametrize(("text", "expected"), _SENTENCEPIECE["cases"])
def test_sentencepiece_vocabulary_gives_the_ids_of_sentencepiece(
    sentencepiece: Tokenizer, text: str, expected: list[int]
) -> None:
    assert sentencepiece.encode(text) == expected
    if "\u2581" not in text:  # sentencepiece itself writes that character and a space alike
        assert sentencepiece.decode(expected) == text


@pytest.mark.parametrize("style", ["normalizer", "metaspace"])
def test_sentencepiece_tokenizer_json_gives_the_ids_of_transformers(
    style: str, tmp_path: Path
) -> None:
    """Both styles of published files: the prefix space by a normalizer, or by Metaspace."""
    backend = Tokenizer.from_gguf(_sentencepiece_metadata())._plain
    backend = tokenizers.Tokenizer(backend.model)
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    if style == "normalizer":
        backend.normalizer = normalizers.Sequence(
            [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
        )
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    backend.add_special_tokens(["<s>", "</s>", "<unk>"])
    backend.save(str(tmp_path / "tokenizer.json"))
    oracle = _transformers(tmp_path / "tokenizer.json")
    ours = Tokenizer.from_file(tmp_path / "tokenizer.json")
    for text, expected in [*_SENTENCEPIECE["cases"], ("the<s> cat</s>dog", None)]:
        ids = oracle.encode(text, add_special_tokens=False)
        assert ours.encode(text, parse_special=True) == ids
        assert expected in (None, ours.encode(text)) or style == "metaspace"
        assert ours.decode(ours.encode(text)) == oracle.decode(oracle.encode(text)) or "<" in text
    parts = ["the", 1, " cat", 2, "dog"]
    assert ours.encode_parts(parts) == oracle.encode("the<s> cat</s>dog")


def test_sentencepiece_vocabulary_without_space_prefix_adds_none() -> None:
    tokenizer = Tokenizer.from_gguf(_sentencepiece_metadata(add_space_prefix=False))
    assert tokenizer.decode(tokenizer.encode("the cat")) == "the cat"
    assert tokenizer.token_bytes(tokenizer.encode("the cat")[0])[:1] != b" "


_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
# SmolLM2's vocabulary lacks these bytes: six control characters, and the first byte of
# U+40000 to U+BFFFF, where Unicode has assigned nothing.
_MISSING = frozenset(b"\x04\x06\x13\x14\x16\x1d\xf1\xf2")


def _is_covered(text: str) -> bool:
    return not _MISSING & set(text.encode(errors="surrogatepass"))


@settings(max_examples=300, deadline=None)
@given(text=_TEXT.filter(_is_covered))
def test_smollm2_round_trip_is_exact(smollm2: Tokenizer, text: str) -> None:
    ids = smollm2.encode(text)
    assert smollm2.decode(ids) == text
    assert b"".join(smollm2.token_bytes(token_id) for token_id in ids) == text.encode()


@settings(max_examples=300, deadline=None)
@given(text=_TEXT)
def test_byte_level_round_trip_is_exact(byte_level: Tokenizer, text: str) -> None:
    ids = byte_level.encode(text)
    assert byte_level.decode(ids) == text
    assert b"".join(byte_level.token_bytes(token_id) for token_id in ids) == text.encode()


def test_bytes_without_a_token_are_left_out_as_transformers_does(smollm2: Tokenizer) -> None:
    assert smollm2.encode("a\x04b") == [*smollm2.encode("a"), *smollm2.encode("b")]


@settings(max_examples=300, deadline=None)
@given(text=_TEXT.filter(lambda text: "\u2581" not in text))
def test_byte_fallback_round_trip_is_exact(sentencepiece: Tokenizer, text: str) -> None:
    ids = sentencepiece.encode(text)
    assert sentencepiece.decode(ids) == text
    joined = b"".join(sentencepiece.token_bytes(token_id) for token_id in ids)
    assert joined == (b" " + text.encode() if text else b"")


@settings(max_examples=300, deadline=None)
@given(ids=st.lists(st.integers(0, 49_151), max_size=50))
def test_decode_joins_the_bytes_of_any_ids(smollm2: Tokenizer, ids: list[int]) -> None:
    raw = b"".join(smollm2.token_bytes(token_id) for token_id in ids)
    assert smollm2.decode(ids, skip_special=False) == raw.decode("utf-8", errors="replace")


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_text_never_becomes_a_control_token(smollm2: Tokenizer, data: st.DataObject) -> None:
    pieces = st.one_of(st.sampled_from([*smollm2.special_tokens]), st.text(max_size=5))
    text = "".join(data.draw(st.lists(pieces, max_size=10)))
    try:
        ids = smollm2.encode(text)
    except RequestError:
        assert any(0xD800 <= ord(character) < 0xE000 for character in text)
        return
    assert not any(smollm2.is_special(token_id) for token_id in ids)
    assert smollm2.decode(ids) == text or not _is_covered(text)


def test_special_text_is_parsed_only_when_asked(smollm2: Tokenizer) -> None:
    assert smollm2.encode("<|im_end|>", parse_special=True) == [2]
    assert len(smollm2.encode("<|im_end|>")) > 1


def test_parts_encode_as_one_text_with_control_tokens(
    smollm2: Tokenizer, sentencepiece: Tokenizer
) -> None:
    for tokenizer, first, second in ((smollm2, 1, 2), (sentencepiece, 1, 2)):
        special = [tokenizer.token_bytes(token_id).decode() for token_id in (first, second)]
        whole = f"{special[0]}user\nHello  there{special[1]}\n the cat"
        parts = [first, "user\nHel", "lo  there", second, "\n the cat"]
        assert tokenizer.encode_parts(parts) == tokenizer.encode(whole, parse_special=True)


def test_parts_refuse_an_integer_that_is_no_control_token(smollm2: Tokenizer) -> None:
    with pytest.raises(RequestError, match="token id 500 is not a special token"):
        smollm2.encode_parts([500])


def test_embedded_model_has_its_known_special_tokens(smollm2: Tokenizer) -> None:
    assert smollm2.vocabulary_size == 49_152
    assert (smollm2.bos_id, smollm2.eos_id, smollm2.adds_bos) == (1, 2, False)
    assert smollm2.special_tokens["<|im_end|>"] == 2
    assert len(smollm2.special_tokens) == 17
    assert smollm2.token_bytes(2) == b"<|im_end|>"
    assert smollm2.decode([1, 2]) == ""
    assert smollm2.decode([1], skip_special=False) == "<|im_start|>"


def test_bos_is_added_when_asked(smollm2: Tokenizer) -> None:
    assert smollm2.encode("x", add_bos=True) == [1, *smollm2.encode("x")]


def test_bos_of_a_tokenizer_without_one_is_refused() -> None:
    metadata = _as_metadata(_trained("gpt-2"), "gpt-2")
    del metadata["tokenizer.ggml.bos_token_id"]
    with pytest.raises(UnsupportedError, match="no BOS token"):
        Tokenizer.from_gguf(metadata).encode("x", add_bos=True)


def test_llama3_vocabulary_adds_bos_when_the_file_does_not_say() -> None:
    assert Tokenizer.from_gguf(_as_metadata(_trained("llama-bpe"), "llama-bpe")).adds_bos
    assert not Tokenizer.from_gguf(_as_metadata(_trained("gpt-2"), "gpt-2")).adds_bos


def test_tokenizer_config_names_the_special_tokens(tmp_path: Path) -> None:
    _trained("gpt-2").save(str(tmp_path / "tokenizer.json"))
    config = {"bos_token": {"content": "<|bos|>"}, "eos_token": "<|eot|>", "add_bos_token": True}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer.from_file(tmp_path / "tokenizer.json")
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.adds_bos) == (0, 1, True)
    without = Tokenizer.from_file(tmp_path / "tokenizer.json", {})
    assert (without.bos_id, without.eos_id, without.adds_bos) == (None, None, False)


@pytest.mark.parametrize("text", ["\ud800", "ab\udfff", "ok \ud83d half"])
def test_lone_surrogate_is_an_error_that_says_where(smollm2: Tokenizer, text: str) -> None:
    place = next(i for i, c in enumerate(text) if 0xD800 <= ord(c) < 0xE000)
    with pytest.raises(RequestError, match=f"lone surrogate U\\+D.* at character {place}"):
        smollm2.encode(text)


def test_ids_beyond_the_vocabulary_have_no_bytes(smollm2: Tokenizer) -> None:
    assert smollm2.token_bytes(49_152) == b""
    with pytest.raises(RequestError, match="token id -1 is negative"):
        smollm2.token_bytes(-1)


def test_content_hash_follows_the_vocabulary() -> None:
    same = [Tokenizer.from_gguf(_sentencepiece_metadata()).content_hash for _ in range(2)]
    other = Tokenizer.from_gguf(_sentencepiece_metadata(add_space_prefix=False)).content_hash
    assert same[0] == same[1] != other


def test_embedded_tokenizer_is_built_fast(smollm2_path: Path) -> None:
    metadata = _metadata(smollm2_path)
    seconds = []
    for _ in range(3):
        start = time.process_time()
        Tokenizer.from_gguf(metadata)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.25
