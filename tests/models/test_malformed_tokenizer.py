"""Malformed tokenizers: each is a typed error, fast, within 1 GiB of memory."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.models.malformed_cases import Outcome, load_isolated
from yearling.models.tokenizer import Tokenizer

pytestmark = pytest.mark.promised(
    "a malformed model or tokenizer file is refused by name, in 2 seconds and 1 GiB"
)

_ALPHABET = [*map(chr, range(0x21, 0x7F)), *map(chr, range(0xA1, 0xAD)), "\u0120"]
_PIECES = ["<|end|>", *_ALPHABET, "th", "the"]


def _gguf(**changes: Any) -> dict[str, Any]:
    entries = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": _PIECES,
        "token_type": [3] + [1] * (len(_PIECES) - 1),
        "merges": ["t h", "th e"],
        "eos_token_id": 0,
        **changes,
    }
    return {f"tokenizer.ggml.{k}": value for k, value in entries.items() if value is not None}


def _sentencepiece(**changes: Any) -> dict[str, Any]:
    pieces = ["<unk>", "\u2581", "a", "b", "ab"]
    entries = {"scores": [0.0, -1.0, -2.0, -3.0, -4.0], "token_type": [2, 1, 1, 1, 1]}
    return _gguf(model="llama", pre=None, merges=None, tokens=pieces, **{**entries, **changes})


def _json(change: Callable[[dict[str, Any]], object] = lambda content: None) -> bytes:
    content: dict[str, Any] = {
        "version": "1.0",
        "added_tokens": [{"id": 0, "content": "<|end|>", "special": True}],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": True,
        },
        "post_processor": None,
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": True,
            "trim_offsets": True,
            "use_regex": True,
        },
        "model": {
            "type": "BPE",
            "vocab": {piece: index for index, piece in enumerate(_PIECES)},
            "merges": [["t", "h"], ["th", "e"]],
        },
    }
    change(content)
    return json.dumps(content).encode()


def _word_piece(change: Callable[[dict[str, Any]], object] = lambda content: None) -> bytes:
    def into_word_pieces(content: dict[str, Any]) -> None:
        pieces = ["[UNK]", "[CLS]", "[SEP]", "the", "te", "##xt"]
        content["added_tokens"] = [
            {"id": index, "content": pieces[index], "special": True} for index in range(3)
        ]
        content["normalizer"] = {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        }
        content["pre_tokenizer"] = {"type": "BertPreTokenizer"}
        content["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
            ],
            "pair": [],
            "special_tokens": {
                name: {"id": name, "ids": [index], "tokens": [name]}
                for index, name in ((1, "[CLS]"), (2, "[SEP]"))
            },
        }
        content["decoder"] = {"type": "WordPiece", "prefix": "##", "cleanup": True}
        content["model"] = {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {piece: index for index, piece in enumerate(pieces)},
        }
        change(content)

    return _json(into_word_pieces)


def _unigram(change: Callable[[dict[str, Any]], object] = lambda content: None) -> bytes:
    def into_unigram(content: dict[str, Any]) -> None:
        content["added_tokens"] = [{"id": 0, "content": "<unk>", "special": True}]
        content["pre_tokenizer"] = {
            "type": "Metaspace",
            "replacement": "\u2581",
            "prepend_scheme": "always",
            "split": True,
        }
        content["decoder"] = content["pre_tokenizer"]
        content["model"] = {
            "type": "Unigram",
            "unk_id": 0,
            "vocab": [["<unk>", 0.0], ["\u2581the", -1.0], ["\u2581", -2.0], ["t", -3]],
            "byte_fallback": False,
        }
        change(content)

    return _json(into_unigram)


def _with_map(content: bytes) -> dict[str, Any]:
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(content).decode()}


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _nested(depth: int) -> dict[str, Any]:
    step: dict[str, Any] = {"type": "Digits", "individual_digits": True}
    for _ in range(depth):
        step = {"type": "Sequence", "pretokenizers": [step]}
    return step


# Metadata of a GGUF file, and words that its error must hold.
_GGUF_CASES: dict[str, tuple[dict[str, Any], str]] = {
    "unknown model": (_gguf(model="rwkv"), "'rwkv'"),
    "no model": (_gguf(model=None), "model is None"),
    "unknown pre-tokenizer": (_gguf(pre="gpt-9"), "'gpt-9'"),
    "no tokens": (_gguf(tokens=None), "tokens must be an array, but it is missing"),
    "empty vocabulary": (_gguf(tokens=[], token_type=[]), "has 0 tokens"),
    "a million tokens too many": (_gguf(tokens=["x"] * ((1 << 20) + 1)), "at most 1048576"),
    "tokens are numbers": (_gguf(tokens=[1, 2, 3]), "must hold strings only"),
    "tokens are one string": (_gguf(tokens="abc"), "but it is a str"),
    "empty token": (_gguf(tokens=["", *_PIECES[1:]]), "has 0 characters"),
    "token of a megabyte": (_gguf(tokens=["x" * (1 << 20), *_PIECES[1:]]), "1048576 characters"),
    "token twice": (_gguf(tokens=[*_PIECES[:-1], "th"]), "both spelled 'th'"),
    "token types too short": (_gguf(token_type=[1, 1]), "but 2 token types"),
    "token type unknown": (_gguf(token_type=[9] * len(_PIECES)), "holds 9"),
    "token type a list": (_gguf(token_type=[[]] * len(_PIECES)), "token_type holds"),
    "merge of one token": (_gguf(merges=["the"]), "holds 'the'"),
    "merge of three tokens": (_gguf(merges=["t h e"]), "holds 't h e'"),
    "merge of an unknown token": (_gguf(merges=["t \u00e9"]), "merges"),
    "merge to an unknown token": (_gguf(merges=["h e"]), "merges"),
    "merges missing": (_gguf(merges=None), "merges must be an array, but it is missing"),
    "bos out of range": (_gguf(bos_token_id=len(_PIECES)), "bos_token_id is"),
    "eos negative": (_gguf(eos_token_id=-1), "eos_token_id is -1"),
    "eos is text": (_gguf(eos_token_id="<|end|>"), "eos_token_id is '<|end|>'"),
    "bos wanted but missing": (_gguf(add_bos_token=True), "bos_token_id is missing"),
    "flag is a number": (_gguf(add_bos_token=1), "must be true or false"),
    "scores missing": (_sentencepiece(scores=None), "scores must be an array"),
    "scores too short": (_sentencepiece(scores=[0.0]), "scores has 1 entries for 5 tokens"),
    "score not a number": (_sentencepiece(scores=[float("nan")] * 5), "not a number"),
    "score is text": (_sentencepiece(scores=["x"] * 5), "scores: could not convert"),
    "unknown token out of range": (_sentencepiece(unknown_token_id=5), "unknown_token_id is 5"),
}  # fmt: skip

# Content of a tokenizer.json, and words that its error must hold.
_JSON_CASES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not valid JSON"),
    "cut": (_json()[:-20], "not valid JSON"),
    "a list": (b"[]", "must hold one JSON object"),
    "deep": (b'{"a":' * 100_000, "not valid JSON"),
    "many small lists": (b'{"a":[' + b"[]," * 12_000_000 + b"0]}", "more than 4194304 lists"),
    "above the limit": (b" " * ((1 << 26) + 1), "67108865"),
    "no model": (_json(lambda content: content.pop("model")), "model of type None"),
    "other model": (_json(lambda content: content["model"].update(type="WordLevel")), "WordLevel"),
    "vocabulary a list": (_json(lambda content: content["model"].update(vocab=[])), "vocab must"),
    "token twice": (
        _json().replace(b'"the": ', b'"th": 7, "the": '),
        "'th' appears twice",
    ),
    "id twice": (_json(lambda content: content["model"]["vocab"].update(the=3)), "id 3 is both"),
    "id negative": (_json(lambda content: content["model"]["vocab"].update(the=-1)), "has id -1"),
    "id of 2^40": (
        _json(lambda content: content["model"]["vocab"].update(the=2**40)),
        "has id 1099511627776",
    ),
    "ids far apart": (
        _json(lambda content: content["model"]["vocab"].update(the=900_000)),
        "spread over 900001 ids",
    ),
    "id is text": (_json(lambda content: content["model"]["vocab"].update(the="7")), "id '7'"),
    "merge of an unknown token": (
        _json(lambda content: content["model"]["merges"].append(["t", "\u00e9"])),
        "tokenizer.json",
    ),
    "merges are numbers": (_json(lambda content: content["model"].update(merges=[7])), "json"),
    "added token contradicts": (
        _json(lambda content: content["added_tokens"].append({"id": 5, "content": "the"})),
        "id 5 is both",
    ),
    "added token without text": (
        _json(lambda content: content["added_tokens"].append({"id": 5})),
        "added_tokens[1] has no content",
    ),
    "unknown step": (_json(lambda content: content.update(pre_tokenizer={"type": "Evil"})), "Evil"),
    "step is text": (_json(lambda content: content.update(normalizer="NFC")), "of type None"),
    "steps nested deep": (
        _json(lambda content: content.update(pre_tokenizer=_nested(50))),
        "is not read",
    ),
    "pattern that runs away": (
        _json(lambda content: content.update(pre_tokenizer=_split(r"(\w+)+$"))),
        "runs away on repeated characters",
    ),
    "pattern without end": (
        _json(lambda content: content.update(pre_tokenizer=_split("(a"))),
        "tokenizer.json",
    ),
    "pattern of a megabyte": (
        _json(lambda content: content.update(pre_tokenizer=_split("a" * (1 << 20)))),
        "at most 4096",
    ),
    "replacement of a megabyte": (
        _json(lambda content: content.update(normalizer={
            "type": "Replace", "pattern": {"String": "a"}, "content": "a" * (1 << 20)
        })),
        "at most 64",
    ),
    "no decoder": (
        _json(lambda content: content.update(decoder=None)),
        "bytes of a token are unknown",
    ),
    "post-processor unknown": (
        _json(lambda content: content.update(post_processor={"type": "Evil"})),
        "post_processor of type 'Evil'",
    ),
    "post-processors no list": (
        _json(lambda content: content.update(post_processor={"type": "Sequence"})),
        "must be a list of at most 64",
    ),
    "word pieces without their unknown": (
        _word_piece(lambda content: content["model"].update(unk_token="[X]")),
        "holds unk_token, '[X]'",
    ),
    "word pieces with another prefix": (
        _word_piece(lambda content: content["model"].update(continuing_subword_prefix="")),
        "continuing_subword_prefix is ''",
    ),
    "word pieces of a megabyte": (
        _word_piece(lambda content: content["model"].update(max_input_chars_per_word=1 << 20)),
        "max_input_chars_per_word is 1048576",
    ),
    "word pieces kept apart": (
        _word_piece(lambda content: content["decoder"].update(cleanup=False)),
        "only with prefix '##' and cleanup",
    ),
    "template without a text": (
        _word_piece(lambda content: content["post_processor"]["single"].pop(1)),
        "holds the text 0 times",
    ),
    "template of an unknown token": (
        _word_piece(lambda content: content["post_processor"]["special_tokens"].pop("[SEP]")),
        "names '[SEP]'",
    ),
    "template of an id beyond the end": (
        _word_piece(lambda content: content["post_processor"]["special_tokens"]["[SEP]"].update(
            ids=[6]
        )),
        "adds id 6",
    ),
    "template of many ids": (
        _word_piece(lambda content: content["post_processor"]["special_tokens"]["[SEP]"].update(
            ids=[2] * 1_000_000
        )),
        "names '[SEP]'",
    ),
    "template of numbers": (
        _word_piece(lambda content: content["post_processor"].update(single=[1])),
        "names None",
    ),
    "unigram vocabulary an object": (
        _unigram(lambda content: content["model"].update(vocab={"a": 0})),
        "model.vocab must be a list",
    ),
    "unigram token without a score": (
        _unigram(lambda content: content["model"]["vocab"].append(["a"])),
        "model.vocab[4] must be [token, score]",
    ),
    "unigram score not a number": (
        _unigram(lambda content: content["model"]["vocab"].append(["a", float("nan")])),
        "token 'a' has score nan",
    ),
    "unigram token twice": (
        _unigram(lambda content: content["model"]["vocab"].append(["t", -4.0])),
        "holds 't' twice",
    ),
    "unigram unknown beyond the end": (
        _unigram(lambda content: content["model"].update(unk_id=4)),
        "unk_id is 4, but ids go from 0 to 3",
    ),
    "unigram without unknown": (
        _unigram(lambda content: content["model"].update(unk_id=None)),
        "unk_id is None",
    ),
    "unigram empty": (
        _unigram(lambda content: content["model"].update(vocab=[])),
        "ids go from 0 to -1",
    ),
    "character map that is cut": (
        _unigram(lambda content: content.update(normalizer=_with_map(b"\0\1"))),
        "precompiled_charsmap",
    ),
    "character map that points outside": (
        _unigram(lambda content: content.update(normalizer=_with_map(b"\4\0\0\0\xff\xff\xff\xff"))),
        "index out of bounds",
    ),
    "character map of four megabytes": (
        _unigram(lambda content: content.update(normalizer=_with_map(bytes(4 << 20)))),
        "at most 2097152",
    ),
}  # fmt: skip

_CASES = {
    **{f"gguf: {name}": words for name, (_, words) in _GGUF_CASES.items()},
    **{f"json: {name}": words for name, (_, words) in _JSON_CASES.items()},
}


def load_tokenizer(path: Path) -> None:
    """Load and use either kind; the loader of all cases."""
    if path.is_dir():
        tokenizer = Tokenizer.from_file(path / "tokenizer.json")
    else:
        tokenizer = Tokenizer.from_gguf(json.loads(path.read_text()))
    tokenizer.decode(tokenizer.encode("the text"))


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """What became of every case; all run in one go."""
    root = tmp_path_factory.mktemp("tokenizers")
    paths = {}
    for name, (metadata, _) in {**_GGUF_CASES, "valid": (_gguf(), "")}.items():
        paths[f"gguf: {name}"] = root / f"{len(paths)}.json"
        paths[f"gguf: {name}"].write_text(json.dumps(metadata))
    valid = {"valid": _json(), "valid word pieces": _word_piece(), "valid unigram": _unigram()}
    for name, content in {**{k: v for k, (v, _) in _JSON_CASES.items()}, **valid}.items():
        paths[f"json: {name}"] = root / str(len(paths))
        paths[f"json: {name}"].mkdir()
        (paths[f"json: {name}"] / "tokenizer.json").write_bytes(content)
    return load_isolated(paths, "tests.models.test_malformed_tokenizer:load_tokenizer")


@pytest.mark.parametrize("name", _CASES)
def test_malformed_tokenizer_gives_typed_error(name: str, outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes[name]
    assert outcome.error == "ModelFormatError", outcome
    assert _CASES[name] in outcome.message
    assert outcome.seconds < 2.0


@pytest.mark.parametrize(
    "name", ["gguf: valid", "json: valid", "json: valid word pieces", "json: valid unigram"]
)
def test_valid_tokenizer_loads_under_the_same_limits(
    name: str, outcomes: dict[str, Outcome]
) -> None:
    assert outcomes[name].error is None, outcomes[name]
