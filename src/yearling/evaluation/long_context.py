"""Long contexts: what a model finds in one, and how its loss falls along it.

Samples are ids drawn from a seed, with the answers inside them: a model is given the whole sample
and is right about an answer when each of its ids is the likeliest one at its place. So one forward
pass scores a sample, and the same samples train a model.

- `lines`: keys with values, then keys whose values are asked for (LongChat's lines).
- `passkey`: some ids behind a mark, far back among filler (Mohtashami and Jaggi 2023).
- `first_sentence`: how the document began (Xiong et al. 2023, Llama 2 Long).
- `altered_numbers`: facts that a model may know, with other numbers (Pal et al. 2023, Giraffe).
- `document`: filler that follows a chain of its own, so that loss falls with what was read.

Source: Pal et al. 2023, arXiv:2308.10882; Xiong et al. 2023, arXiv:2309.16039; Mohtashami and
Jaggi 2023, arXiv:2305.16300.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Logits",
    "Sample",
    "Vocabulary",
    "accuracy",
    "altered_numbers",
    "document",
    "first_sentence",
    "lines",
    "loss_by_position",
    "passkey",
]

Logits = Callable[[NDArray[np.int64]], NDArray[np.float32]]
"""A model: gives for ids (T,) the logits (T, V) of what follows each."""


@dataclass(frozen=True)
class Vocabulary:
    """Which ids mean what: marks first, then filler, then keys, then values.

    Attributes:
        num_fillers: Ids of plain text.
        num_keys: Ids that are asked for.
        num_values: Ids that are answers.
    """

    num_fillers: int = 64
    num_keys: int = 64
    num_values: int = 64

    begin: int = 0
    ask: int = 1
    secret: int = 2
    opening: int = 3

    @property
    def fillers(self) -> range:
        """Ids of plain text."""
        return range(4, 4 + self.num_fillers)

    @property
    def keys(self) -> range:
        """Ids that are asked for."""
        return range(self.fillers.stop, self.fillers.stop + self.num_keys)

    @property
    def values(self) -> range:
        """Ids that are answers."""
        return range(self.keys.stop, self.keys.stop + self.num_values)

    @property
    def size(self) -> int:
        """Number of all ids."""
        return self.values.stop


@dataclass(frozen=True)
class Sample:
    """A sequence with its answers.

    Attributes:
        tokens: Ids (T,).
        is_answer: Which of them are to be predicted (T,); what touches is one answer.
    """

    tokens: NDArray[np.int64]
    is_answer: NDArray[np.bool_]


def document(
    random: np.random.Generator, length: int, vocabulary: Vocabulary, num_successors: int = 2
) -> NDArray[np.int64]:
    """Draw filler in which each id is followed by few others, which ones is the document's own.

    Args:
        random: Decides the chain, and the way through it.
        length: Ids to draw.
        num_successors: Of each id.
    """
    count = vocabulary.num_fillers
    successors = random.integers(count, size=(count, num_successors))
    choices = random.integers(num_successors, size=length)
    places = np.empty(length, np.int64)
    place = int(random.integers(count))
    for index, choice in enumerate(choices):
        places[index] = place
        place = successors[place, choice]
    return places + vocabulary.fillers.start


def lines(
    random: np.random.Generator,
    length: int,
    vocabulary: Vocabulary,
    *,
    num_lines: int,
    num_questions: int,
) -> Sample:
    """Draw lines of key and value at random places of a document, then questions for some.

    Raises:
        ValueError: there are more lines than keys, more questions than lines, or more of both
            than the length holds.
    """
    if not num_questions <= num_lines <= vocabulary.num_keys:
        raise ValueError(
            f"num_questions={num_questions} of num_lines={num_lines} with {vocabulary.num_keys} "
            "keys: each number must be at most the next."
        )
    keys = _draw_distinct(random, vocabulary.keys, num_lines)
    values = random.choice(vocabulary.values, num_lines)
    asked = random.choice(num_lines, num_questions, replace=False)
    return _asked(random, length, vocabulary, np.stack([keys, values], 1), asked)


def altered_numbers(
    random: np.random.Generator,
    length: int,
    vocabulary: Vocabulary,
    *,
    known: NDArray[np.int64],
    num_questions: int,
    is_open: bool = True,
) -> Sample:
    """Draw facts with numbers other than the known ones, and ask for the new numbers.

    Args:
        known: The value that each key has elsewhere (keys,): what memory would answer.
        num_questions: Facts, each asked for once.
        is_open: Whether the document states the facts; a closed book asks without.
    """
    keys = _draw_distinct(random, vocabulary.keys, num_questions)
    old = known[keys - vocabulary.keys.start] - vocabulary.values.start
    shift = random.integers(1, vocabulary.num_values, num_questions)
    values = (old + shift) % vocabulary.num_values + vocabulary.values.start
    facts = np.stack([keys, values], 1)
    return _asked(random, length, vocabulary, facts, np.arange(num_questions), is_open=is_open)


def passkey(
    random: np.random.Generator, length: int, vocabulary: Vocabulary, num_digits: int = 3
) -> Sample:
    """Draw a document with a secret somewhere inside, and ask for it."""
    digits = random.choice(vocabulary.values, num_digits)
    told = np.array([vocabulary.secret, *digits])
    question = [vocabulary.secret, *digits]
    text = document(random, length - 1 - len(told) - len(question), vocabulary)
    body = np.insert(text, np.full(len(told), random.integers(len(text) + 1)), told)
    return _sample([vocabulary.begin, *body], question, [False, *[True] * num_digits])


def first_sentence(
    random: np.random.Generator, length: int, vocabulary: Vocabulary, num_words: int = 4
) -> Sample:
    """Draw a document and ask for its first words."""
    text = document(random, length - 2 - num_words, vocabulary)
    text[:num_words] = random.choice(vocabulary.fillers, num_words)  # the chain would give it away
    question = [vocabulary.opening, *text[:num_words]]
    return _sample([vocabulary.begin, *text], question, [False, *[True] * num_words])


def accuracy(model: Logits, samples: Iterable[Sample]) -> float:
    """Give the share of answers that are wholly right, in %.

    >>> sample = Sample(np.array([5, 7, 9]), np.array([False, True, True]))
    >>> accuracy(lambda ids: np.eye(10, dtype=np.float32)[[7, 9, 0]], [sample])
    100.0
    """
    right: list[bool] = []
    for sample in samples:
        guesses = np.argmax(model(sample.tokens), axis=-1)
        is_right = np.append(True, guesses[:-1] == sample.tokens[1:])
        edges = np.flatnonzero(np.diff(np.concatenate([[0], sample.is_answer, [0]])))
        right += [bool(is_right[a:b].all()) for a, b in edges.reshape(-1, 2)]
    return 100.0 * float(np.mean(right))


def loss_by_position(
    model: Logits, sequences: Iterable[NDArray[np.int64]], num_parts: int
) -> NDArray[np.float64]:
    """Give the mean loss in nats in each of equal parts of the sequences, (num_parts,)."""
    losses = []
    for sequence in sequences:
        logits = model(sequence)[:-1].astype(np.float64)
        logits -= logits.max(axis=-1, keepdims=True)
        normal = np.log(np.exp(logits).sum(axis=-1))
        losses.append(normal - logits[np.arange(len(logits)), sequence[1:]])
    mean = np.mean(losses, axis=0)
    return np.array([part.mean() for part in np.array_split(mean, num_parts)])


def _asked(
    random: np.random.Generator,
    length: int,
    vocabulary: Vocabulary,
    facts: NDArray[np.int64],
    asked: NDArray[np.int64],
    *,
    is_open: bool = True,
) -> Sample:
    """Scatter facts over a document, and ask for some of them."""
    told = facts if is_open else facts[:0]
    count = length - 2 - told.size - 2 * len(asked)
    if count < 0:
        raise ValueError(
            f"length={length} is too short for {len(told)} lines and {len(asked)} questions; "
            f"they take {length - count}."
        )
    text = document(random, count, vocabulary)
    places = np.sort(random.integers(count + 1, size=len(told)))
    body = np.insert(text, np.repeat(places, 2), told.reshape(-1))
    question = [vocabulary.ask, *facts[asked].reshape(-1)]
    return _sample([vocabulary.begin, *body], question, [False, *[False, True] * len(asked)])


def _sample(context: Sequence[int], question: Sequence[int], is_answer: Sequence[bool]) -> Sample:
    return Sample(
        np.array([*context, *question], np.int64),
        np.array([*[False] * len(context), *is_answer]),
    )


def _draw_distinct(random: np.random.Generator, ids: range, count: int) -> NDArray[np.int64]:
    return random.choice(np.arange(ids.start, ids.stop), count, replace=False)
