"""Writes tokenizers.json: a small unigram model and a small rank file, and their makers' ids.

Run once in an environment with `sentencepiece` and `tiktoken`; the tests only read the result.
"""

import base64
import io
import itertools
import json
import tempfile
from collections import Counter
from pathlib import Path

import sentencepiece
import tiktoken

_TEXT = [
    "the quick brown fox jumps over the lazy dog while the cat sat on the mat",
    "she sells sea shells by the sea shore and the shells she sells are sea shells",
    "numbers 1 2 3 10 100 1000 and more numbers 2023 2024, 3.14 and 1,000.",
    "日本語 と 中文 の テスト 日本語 テスト 今天天气很好，我们去公园。",
    "It's what we've always wanted, isn't it? I'll say they'd do it.",
]
_STRINGS = [
    *_TEXT,
    "",
    " ",
    "  two spaces  inside and around  ",
    "unseen: zebra QUARTZ, jynx! \u00e9 e\u0301 \u00df",
    "line one\nline two\r\n\n\ttabbed   \n ",
    "ＦＵＬＬ　ｗｉｄｔｈ and Half",
    "\u2581 literal lower block",
    "</s> is not a token here, nor <unk> and <pad>, <|endoftext|> or <|im_start|>",
    "日本語のテスト。中文测试 12345 6789",
    "emoji 😀 and tail",
]
_RULES = "\n".join(
    ["FF26\t46", "FF35\t55", "FF2C\t4C", "3000\t20", "9\t20", "A\t20", "D\t20"]
)  # full-width F, U, L; wide space, tab and ends of lines become spaces
_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def main() -> None:
    """Train, encode, write."""
    content = {"unigram": _unigram(), "ranks": _ranks()}
    text = json.dumps(content, ensure_ascii=False, indent=0)
    Path(__file__).with_name("tokenizers.json").write_text(text + "\n", encoding="utf-8")


def _unigram() -> dict[str, object]:
    model = io.BytesIO()
    with tempfile.NamedTemporaryFile("w", suffix=".tsv") as rules:
        rules.write(_RULES)
        rules.flush()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(_TEXT * 20),
            model_writer=model,
            model_type="unigram",
            vocab_size=180,
            hard_vocab_limit=False,
            normalization_rule_tsv=rules.name,
            bos_id=-1,
            pad_id=0,
            eos_id=1,
            unk_id=2,
        )
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    return {
        "model": base64.b64encode(model.getvalue()).decode(),
        "cases": [[text, processor.encode(text)] for text in _STRINGS],
    }


def _ranks() -> dict[str, object]:
    tokens = {bytes([byte]): byte for byte in range(256)}
    for _ in range(150):  # join the commonest pair, again and again
        encoding = tiktoken.Encoding(
            "tiny", pat_str=_PATTERN, mergeable_ranks=tokens, special_tokens={}
        )
        pairs: Counter[bytes] = Counter()
        for text in _TEXT:
            pieces = [encoding.decode_single_token_bytes(i) for i in encoding.encode(text)]
            for pair in itertools.pairwise(pieces):
                joined = b"".join(pair)
                if not joined.endswith(b" ") and b" " not in joined[1:]:
                    pairs[joined] += 1
        best = next(joined for joined, _ in pairs.most_common() if joined not in tokens)
        tokens[best] = len(tokens)
    encoding = tiktoken.Encoding(
        "tiny", pat_str=_PATTERN, mergeable_ranks=tokens, special_tokens={}
    )
    return {
        "file": "".join(
            f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in tokens.items()
        ),
        "cases": [[text, encoding.encode(text)] for text in _STRINGS if "\u0301" not in text],
    }


if __name__ == "__main__":
    main()
