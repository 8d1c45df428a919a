"""Conversations of log-normal length, cut from the topics that ship with Python."""

import math
import random
from pydoc_data.topics import topics
from typing import Any

__all__ = ["conversations"]

_MEDIAN_WORDS = 65
_SIGMA = 0.75
_LEAST_WORDS, _MOST_WORDS = 6, 260


def conversations(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Give so many rows of one question and its answer, in the `messages` form.

    >>> conversations(3) == conversations(5)[:3]
    True
    """
    generator = random.Random(seed)
    texts = {name: topics[name].split() for name in sorted(topics)}
    names = [name for name, words in texts.items() if len(words) > 2 * _MOST_WORDS]
    return [_conversation(texts, generator.choice(names), generator) for _ in range(count)]


def _conversation(
    texts: dict[str, list[str]], name: str, generator: random.Random
) -> dict[str, Any]:
    wanted = round(generator.lognormvariate(math.log(_MEDIAN_WORDS), _SIGMA))
    length = min(max(wanted, _LEAST_WORDS), _MOST_WORDS)
    start = generator.randrange(len(texts[name]) - length)
    answer = " ".join(texts[name][start : start + length])
    question = f"Quote {length} words about {name!r} from Python's reference."
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
    }
