"""English text of mixed lengths, cut from the topics that ship with Python."""

import re
from itertools import cycle
from pydoc_data.topics import topics

__all__ = ["mixed_texts"]

_SENTENCE_END = re.compile(r"(?<=[.!?]) (?=[A-Z])")
_LONGEST_CHARACTERS = 700  # about 180 tokens: nothing is cut at MiniLM's 256
_SENTENCES_PER_TEXT = (1, 1, 2, 1, 4)


def mixed_texts(count: int) -> list[str]:
    """Give so many texts of one to four sentences, none twice, spread over all topics.

    >>> mixed_texts(200) == mixed_texts(200)
    True
    """
    texts: dict[str, None] = {}
    numbers = cycle(_SENTENCES_PER_TEXT)
    for name in sorted(topics):
        for paragraph in topics[name].split("\n\n"):
            sentences = _SENTENCE_END.split(" ".join(paragraph.split()))
            text = " ".join(sentences[: next(numbers)])
            if _is_prose(text):
                texts[text] = None
    found = list(texts)
    return found[:: len(found) // count][:count]


def _is_prose(text: str) -> bool:
    is_heading = any(line in text for line in ("***", "===", "---", "~~~"))
    return (
        text[:1].isupper()
        and text.count(" ") > 2
        and len(text) < _LONGEST_CHARACTERS
        and not is_heading
    )
