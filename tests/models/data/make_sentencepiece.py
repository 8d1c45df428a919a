"""Writes sentencepiece.json: a small vocabulary trained by sentencepiece, and its own ids.

Run once in an environment with `sentencepiece`; the tests only read the result.
"""

import io
import json
from pathlib import Path

import sentencepiece

_WORDS = "the a cat dog sat ran on under mat tree and then it was happy because sun shone "
_TEXT = [
    "the quick brown fox jumps over the lazy dog while the cat sat on the mat",
    "she sells sea shells by the sea shore and the shells she sells are sea shells",
    "how much wood would a woodchuck chuck if a woodchuck could chuck wood",
    "the rain in spain stays mainly in the plain, they said again and again",
    _WORDS * 3,
    "numbers 1 2 3 10 100 1000 and more numbers 2023 2024",
    "日本語 と 中文 の テスト 日本語 テスト",
]
_STRINGS = [
    *_TEXT,
    "",
    " ",
    "  two spaces  inside and around  ",
    "unseen: zebra QUARTZ, jynx!",
    "emoji 😀 and e\u0301 and \u00e9 and \u00df",
    "line one\nline two\n\n\ttabbed",
    "\u2581 literal lower block",
    "<s> is not a token here, nor </s>",
    "aaaaaaaaaaaaaaaaaaaaaaaa",
    "thethethe catcatcat",
    "日本語のテスト。中文测试",
    "\x00\x01\x7f",
]
_KINDS = (
    ("IsUnknown", 2),
    ("IsControl", 3),
    ("IsUnused", 5),
    ("IsByte", 6),
)


def main() -> None:
    """Train, encode, write."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_TEXT * 20),
        model_writer=model,
        model_type="bpe",
        vocab_size=480,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        hard_vocab_limit=False,
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    ids = range(processor.get_piece_size())
    kinds = [
        next((kind for test, kind in _KINDS if getattr(processor, test)(index)), 1) for index in ids
    ]
    content = {
        "tokens": [processor.id_to_piece(index) for index in ids],
        "scores": [processor.get_score(index) for index in ids],
        "token_type": kinds,
        "cases": [[text, processor.encode(text)] for text in _STRINGS],
    }
    target = Path(__file__).with_name("sentencepiece.json")
    target.write_text(json.dumps(content, ensure_ascii=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
