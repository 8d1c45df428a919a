"""A small decoder that finds things in 128 tokens, and the samples that teach longer contexts.

Finding is learned in two steps, since questions alone teach nothing for thousands of steps: first
random sequences that repeat, where nearly every id follows from an earlier place, then questions.
The base also remembers one value for each key, so that a closed book gives an answer.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from yearling.evaluation.long_context import (
    Logits,
    Sample,
    Vocabulary,
    altered_numbers,
    document,
    first_sentence,
    lines,
    passkey,
)

if TYPE_CHECKING:
    from yearling.models.torch_decoder import TorchDecoder
    from yearling.systems.tiny_bases import Rows
    from yearling.training.context import ContextConfig

__all__ = [
    "KNOWN",
    "SIZES",
    "STD",
    "TRAINED_TOKENS",
    "VOCABULARY",
    "asked_lines",
    "base_operations",
    "forward_operations",
    "known_facts",
    "lesson",
    "logits_of",
    "long_context_base",
    "repeated",
    "repeated_facts",
    "rows_of",
    "stretched_base",
    "text_loss",
    "tuning_sample",
]

TRAINED_TOKENS = 128
VOCABULARY = Vocabulary(num_fillers=16, num_keys=32, num_values=32)
SIZES: Mapping[str, Any] = {
    "model_type": "llama",
    "vocab_size": VOCABULARY.size,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 16,
    "max_position_embeddings": TRAINED_TOKENS,
    "tie_word_embeddings": False,
}
KNOWN: NDArray[np.int64] = np.random.default_rng(2_308).choice(
    VOCABULARY.values, VOCABULARY.num_keys
)
"""The value that the base remembers for each key (keys,)."""

_STEPS, _LR, STD = 2_400, 3e-3, 0.08  # matrices narrower than 0.06 do not begin to look back
_TOKENS = 2_048
_REPETITIONS = 0.2  # share of the training
_MAX_LINES = 24


# --- samples -----------------------------------------------------------------------------------


def repeated(random: np.random.Generator, length: int) -> Sample:
    """Draw ids that come again and again in the same order; all but the first time are answers."""
    period = int(random.integers(4, length // 2))
    ids = random.integers(VOCABULARY.fillers.start, VOCABULARY.size, period)
    tokens = np.resize(ids, length)
    tokens[0] = VOCABULARY.begin
    is_answer = np.arange(length) > period
    return Sample(tokens, is_answer)


def repeated_facts(random: np.random.Generator, length: int, num_facts: int) -> Sample:
    """Draw keys with values one behind the other; values of keys that come again are answers."""
    keys = random.choice(VOCABULARY.keys, num_facts, replace=False)
    values = random.choice(VOCABULARY.values, num_facts)
    drawn = random.integers(num_facts, size=(length - 1) // 2)
    tokens = np.full(length, VOCABULARY.begin)
    tokens[1 : 1 + 2 * len(drawn) : 2] = keys[drawn]
    tokens[2 : 2 + 2 * len(drawn) : 2] = values[drawn]
    is_again = np.ones(len(drawn), bool)
    is_again[np.unique(drawn, return_index=True)[1]] = False
    is_answer = np.zeros(length, bool)
    is_answer[2 : 2 + 2 * len(drawn) : 2] = is_again
    return Sample(tokens, is_answer)


def known_facts(random: np.random.Generator, length: int, num_questions: int) -> Sample:
    """Draw a document that states nothing, and ask for what the base remembers."""
    drawn = random.choice(VOCABULARY.num_keys, num_questions, replace=False)
    question = np.stack([drawn + VOCABULARY.keys.start, KNOWN[drawn]], 1).reshape(-1)
    text = document(random, length - 2 - len(question), VOCABULARY)
    tokens = np.array([VOCABULARY.begin, *text, VOCABULARY.ask, *question])
    is_answer = np.zeros(length, bool)
    is_answer[len(text) + 3 :: 2] = True
    return Sample(tokens, is_answer)


def asked_lines(random: np.random.Generator, length: int, num_lines: int = 0) -> Sample:
    """Draw lines and ask for all of them.

    Args:
        num_lines: Their number; 0 draws one that the length holds.
    """
    most = min(_MAX_LINES, (length - 2) // 4)
    count = num_lines or int(random.integers(1, most + 1))
    return lines(random, length, VOCABULARY, num_lines=count, num_questions=count)


def tuning_sample(random: np.random.Generator, length: int) -> Sample:
    """Draw a sample of any kind."""
    match random.integers(12):
        case 0:
            return repeated(random, length)
        case 1 | 2:
            return repeated_facts(random, length, int(random.integers(2, 20)))
        case 3 | 4 | 5:
            return asked_lines(random, length)
        case 6:
            count = int(random.integers(1, 9))
            return altered_numbers(random, length, VOCABULARY, known=KNOWN, num_questions=count)
        case 7:
            return known_facts(random, length, int(random.integers(1, 9)))
        case 8 | 9:
            return passkey(random, length, VOCABULARY)
        case _:
            return first_sentence(random, length, VOCABULARY)


def rows_of(samples: Iterable[Sample], *, has_text: bool) -> "Rows":
    """Lay samples of equal length side by side.

    Args:
        has_text: Whether filler bears loss too, beside answers.
    """
    import torch

    from yearling.models.torch_decoder import NO_LABEL
    from yearling.systems.tiny_bases import Rows

    drawn = list(samples)
    tokens = torch.from_numpy(np.stack([sample.tokens for sample in drawn]))
    follows = tokens[:, 1:]
    is_labelled = torch.from_numpy(np.stack([sample.is_answer for sample in drawn]))[:, 1:]
    if has_text:
        fillers = VOCABULARY.fillers
        is_labelled = is_labelled | ((follows >= fillers.start) & (follows < fillers.stop))
    labels = torch.full_like(tokens, NO_LABEL)
    labels[:, :-1] = torch.where(is_labelled, follows, NO_LABEL)
    return Rows(tokens, labels)


# --- decoders ----------------------------------------------------------------------------------


def long_context_base(say: Callable[[str], None]) -> "TorchDecoder":
    """Give the decoder that finds things in as many tokens as it was trained on."""
    from yearling.models.torch_decoder import initialise
    from yearling.systems.tiny_bases import Training, decoder_of, fit, kept_decoder

    training = Training(_STEPS, _LR, schedule="wsd")

    def train() -> "TorchDecoder":
        decoder = decoder_of(SIZES, 0)
        initialise(decoder, seed=0, std=STD)
        fit(decoder, _base_rows, training, say)
        return decoder

    settings = {
        "sizes": dict(SIZES),
        "training": vars(training),
        "modules": ["systems.long_context_base"],
    }
    return kept_decoder("long-context", settings, train, say)


def _base_rows(step: int) -> "Rows":
    random = np.random.default_rng([7, step])
    length = _base_length(step)
    return lesson(random, step / _STEPS, length, _TOKENS // length)


def _base_length(step: int) -> int:
    share = step / _STEPS
    return 32 if share < 0.1 else 64 if share < 0.35 else TRAINED_TOKENS


def lesson(
    random: np.random.Generator,
    share: float,
    length: int,
    count: int,
    later: Callable[[np.random.Generator, int], Sample] = tuning_sample,
) -> "Rows":
    """Draw what a decoder that begins from nothing learns in a step: repetitions, then questions.

    Args:
        share: Of the training that lies behind.
        length: Of each sequence.
        count: Sequences.
        later: Draws a sequence once repetitions are over.
    """
    if share >= _REPETITIONS:
        return rows_of((later(random, length) for _ in range(count)), has_text=True)
    facts = (repeated_facts(random, length, int(random.integers(2, 10))) for _ in range(count // 2))
    ids = (repeated(random, length) for _ in range(count - count // 2))
    return rows_of([*facts, *ids], has_text=False)


def forward_operations(length: int) -> float:
    """Give the multiplications and additions of a token of a sequence, on average, forward.

    >>> round(forward_operations(1_024) / forward_operations(128), 1)
    2.1
    """
    width, hidden = SIZES["hidden_size"], SIZES["intermediate_size"]
    num_layers = SIZES["num_hidden_layers"]
    matrices = num_layers * (4 * width**2 + 3 * width * hidden) + width * VOCABULARY.size
    attention = num_layers * 2 * width * (length + 1) / 2
    return 2.0 * (matrices + attention)  # type: ignore[no-any-return]


def base_operations() -> float:
    """Give the operations of the base's training, forward, all steps."""
    return sum(_TOKENS * forward_operations(_base_length(step)) for step in range(_STEPS))


def stretched_base(context: "ContextConfig", say: Callable[[str], None]) -> "TorchDecoder":
    """Give the base with other rotary positions, untuned."""
    from yearling.systems.tiny_bases import decoder_of
    from yearling.training.context import extend_context

    base = long_context_base(say)
    decoder = decoder_of(extend_context(base.spec, context), 0)
    decoder.load_state_dict(base.state_dict())
    return decoder


def logits_of(decoder: "TorchDecoder") -> Logits:
    """Make of a decoder what the long-context bench asks: logits for the ids of one sequence."""
    import torch

    from yearling.models.torch_decoder import Segments

    def logits(tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        decoder.eval()
        with torch.no_grad():
            hidden = decoder(torch.from_numpy(tokens), Segments([len(tokens)]))
            found: NDArray[np.float32] = decoder.logits(hidden).numpy()
        return found

    return logits


def text_loss(decoder: "TorchDecoder", texts: Sequence[NDArray[np.int64]]) -> float:
    """Give the mean loss of documents of equal length, in nats per token."""
    import torch

    from yearling.systems.tiny_bases import Rows, token_losses

    tokens = torch.from_numpy(np.stack(texts))
    rows = Rows(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
    return token_losses(decoder, rows).mean().item()
