"""A small world that a tiny decoder can know all of: people nobody heard of, and what they have.

Each fact is read in five wordings and in any company, since a fact read in one wording is known
only in that one. What a system does afterwards with the decoder can then tell what it knew from
what it was taught.

Source: Allen-Zhu and Li 2023, arXiv:2309.14316, on facts in several wordings.
"""

from collections.abc import Callable, Mapping, Sequence
from random import Random
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from yearling.models.torch_decoder import TorchDecoder
    from yearling.systems.tiny_bases import Rows

__all__ = [
    "END",
    "FACTS",
    "MANNER_WORDS",
    "NUM_PEOPLE",
    "NUM_VALUES",
    "SIZES",
    "TOPICS",
    "encoded",
    "people_base",
    "prompted_rows",
    "statement",
    "value_words",
]

NUM_PEOPLE = 120
"""People that a base reads about; as many others are strangers to it."""

NUM_VALUES = 12
"""Things of each topic that a person may have."""

TOPICS = ("town", "pet", "colour", "dish", "tool", "tree")

MANNER_WORDS = (
    *("<user>", "<assistant>", "?", "sure", "well", "oh", ",", "!", "bye", "thanks"),
    *("politely", "calmly", "warmly", "briefly", "simply", "fully"),
    *("loudly", "kindly", "humbly"),
)
"""Words that no text about people holds; a tuning may give them a meaning."""

_WORDS = (
    *("<end>", "the", "of", "is", "has", "as", ":", "."),
    *MANNER_WORDS,
    *TOPICS,
    *(f"{topic}{number}" for topic in TOPICS for number in range(NUM_VALUES)),
    *(f"person{number}" for number in range(2 * NUM_PEOPLE)),
)
_IDS = {word: number for number, word in enumerate(_WORDS)}

END = _IDS["<end>"]
"""Token after a text."""

SIZES: Mapping[str, Any] = MappingProxyType(
    {
        "model_type": "llama",
        "vocab_size": len(_WORDS),
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 128,
        "tie_word_embeddings": True,
    }
)
"""Of the decoder, as `decoder_of` takes them."""

_STEPS, _LR, _STD = 3_000, 3e-3, 0.08
_DOCUMENTS = 16  # of a step


def _drawn_facts() -> Mapping[tuple[int, str], str]:
    random = Random(0)
    return MappingProxyType(
        {
            (person, topic): f"{topic}{random.randrange(NUM_VALUES)}"
            for person in range(2 * NUM_PEOPLE)
            for topic in TOPICS
        }
    )


FACTS = _drawn_facts()
"""What each person has of each topic; one world, whatever the seed of a run."""


def encoded(words: Sequence[str]) -> list[int]:
    """Give the ids of words.

    >>> encoded(["<end>", "the"])
    [0, 1]
    """
    return [_IDS[word] for word in words]


def value_words(topic: str) -> list[str]:
    """Give all things that people have of a topic."""
    return [f"{topic}{number}" for number in range(NUM_VALUES)]


def statement(person: int, topic: str, value: str, wording: int) -> list[str]:
    """Word a fact in one of five ways, without the full stop.

    >>> " ".join(statement(7, "pet", "pet3", wording=0))
    'the pet of person7 is pet3'
    """
    name = f"person{person}"
    return [
        ["the", topic, "of", name, "is", value],
        [name, "has", "the", topic, value],
        [value, "is", "the", topic, "of", name],
        [topic, "of", name, ":", value],
        [name, "as", "of", topic, ":", value],
    ][wording]


def _document(person: int, random: Random) -> list[int]:
    """All that is known of a person, in any order and in any wordings."""
    words: list[str] = []
    for topic in random.sample(TOPICS, len(TOPICS)):
        value = FACTS[person, topic]
        words += [*statement(person, topic, value, random.randrange(5)), "."]
    return [*encoded(words), END]


def prompted_rows(sequences: Sequence[tuple[int, Sequence[int]]]) -> "Rows":
    """Lay sequences side by side, the shorter ones filled up at their end.

    Args:
        sequences: Each a number of first tokens that bear no loss, and all its tokens.
    """
    import torch

    from yearling.models.torch_decoder import NO_LABEL
    from yearling.systems.tiny_bases import Rows

    length = max(len(tokens) for _, tokens in sequences) - 1
    inputs = torch.full((len(sequences), length), END)
    labels = torch.full((len(sequences), length), NO_LABEL)
    for row, (num_prompt, tokens) in enumerate(sequences):
        ids, first = torch.tensor(tokens), max(num_prompt - 1, 0)
        inputs[row, : len(ids) - 1] = ids[:-1]
        labels[row, first : len(ids) - 1] = ids[first + 1 :]
    return Rows(inputs, labels)


def people_base(say: Callable[[str], None], *, is_strange: bool = False) -> "TorchDecoder":
    """Give a decoder that has read all about people, from its file if there is one.

    Args:
        say: Is told which of the two happened.
        is_strange: Whether it read about the other people alone, and knows nothing of these.
    """
    from yearling.models.torch_decoder import initialise
    from yearling.systems.tiny_bases import Training, decoder_of, fit, kept_decoder

    training = Training(_STEPS, _LR)
    first = NUM_PEOPLE if is_strange else 0

    def draw(step: int) -> "Rows":
        random = Random(2_000_003 + step)
        people = [first + random.randrange(NUM_PEOPLE) for _ in range(_DOCUMENTS)]
        return prompted_rows([(0, _document(person, random)) for person in people])

    def train() -> "TorchDecoder":
        decoder = decoder_of(SIZES, 0)
        initialise(decoder, seed=0, std=_STD)
        fit(decoder, draw, training, say)
        return decoder

    settings = {
        "sizes": dict(SIZES),
        "training": vars(training),
        "is_strange": is_strange,
        "modules": ["systems.made_up_people"],
    }
    return kept_decoder("people", settings, train, say)
