"""Malformed tokenizers: each is a typed error, fast, within 1 GiB of memory."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.models.malformed_cases import Outcome, load_isolated
from yearling.models.tokenizer import Tokenizer

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
    "other model": (_json(lambda content: content["model"].update(type="Unigram")), "'Unigram'"),
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
    for name, (content, _) in {**_JSON_CASES, "valid": (_json(), "")}.items():
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


@pytest.mark.parametrize("name", ["gguf: valid", "json: valid"])
def test_valid_tokenizer_loads_under_the_same_limits(
    name: str, outcomes: dict[str, Outcome]
) -> None:
    assert outcomes[name].error is None, outcomes[name]
