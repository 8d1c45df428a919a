"""What every engine is asked: prompts as token ids, and how a figure is read off an answer."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from typing import Literal

__all__ = ["Language", "Phase", "Timing", "Workload", "english_text", "text_in"]

Language = Literal["english", "chinese"]

_CHINESE = Path(__file__).parents[1] / "texts" / "chinese.txt"

_SHORT_PROMPT_TOKENS = 16
_LONG_PROMPT_TOKENS = 1000
_SUFFIX_TOKENS = 16
_STREAMED_TOKENS = 4


@dataclass(frozen=True, slots=True)
class Timing:
    """What an engine reports of one call.

    Attributes:
        seconds: From the call to the last token of the last prompt.
        first_token_seconds: From the call to the first token, when it was streamed.
        new_tokens: Tokens generated, summed over the prompts.
        peak_rss_mb: Highest resident memory of the process so far.
    """

    seconds: float
    new_tokens: int
    peak_rss_mb: float
    first_token_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Phase:
    """One timed call, and the untimed one before it.

    Attributes:
        metric: The figure it gives.
        prompts: Token ids, all submitted at once.
        new_tokens: Tokens each prompt must be continued by; end-of-text does not stop it.
        is_streamed: Whether the first token's arrival is wanted.
        earlier: A prompt served before the clock starts.
    """

    metric: str
    prompts: tuple[tuple[int, ...], ...]
    new_tokens: int
    is_streamed: bool = False
    earlier: tuple[int, ...] = ()

    def figure(self, timing: Timing) -> float:
        """Read the metric off the call's timing.

        Raises:
            ValueError: the engine made another number of tokens than it was asked for.
        """
        expected = self.new_tokens * len(self.prompts)
        if timing.new_tokens != expected:
            raise ValueError(
                f"{self.metric}: the engine made {timing.new_tokens} tokens, not {expected}; "
                "its figure would compare unequal work."
            )
        if self.is_streamed:
            if timing.first_token_seconds is None:
                raise ValueError(f"{self.metric}: the engine streamed nothing")
            return timing.first_token_seconds
        if self.metric == "prefill_1000":
            return len(self.prompts[0]) / timing.seconds
        return expected / timing.seconds


class Workload:
    """Cuts a text into prompts so that no two phases share a prefix by accident.

    Args:
        tokens: Ids of a long text.
        new_tokens: Tokens each stream of a decode phase makes.

    >>> work = Workload(range(50_000), new_tokens=128)
    >>> [phase.metric for phase in work.phases(repeat=0)][:3]
    ['decode_1', 'decode_8', 'decode_32']
    >>> work.phases(repeat=0)[0].prompts[0] == work.phases(repeat=1)[0].prompts[0]
    False
    """

    def __init__(self, tokens: Sequence[int], new_tokens: int) -> None:
        self._tokens = tokens
        self._new_tokens = new_tokens

    def phases(self, repeat: int) -> list[Phase]:
        """Give the phases of one round; the same round is the same for every engine."""
        cut = self._cuts(repeat)
        prefix = _take(cut, _LONG_PROMPT_TOKENS)
        return [
            *(self._decode(streams, cut) for streams in (1, 8, 32)),
            Phase("prefill_1000", (_take(cut, _LONG_PROMPT_TOKENS),), 1),
            Phase("ttft", (_take(cut, _LONG_PROMPT_TOKENS),), _STREAMED_TOKENS, is_streamed=True),
            Phase(
                "ttft_shared_prefix",
                (prefix + _take(cut, _SUFFIX_TOKENS),),
                _STREAMED_TOKENS,
                is_streamed=True,
                earlier=prefix + _take(cut, _SUFFIX_TOKENS),
            ),
        ]

    def one_stream(self, repeat: int) -> Phase:
        """Give the one-stream phase alone."""
        return self._decode(1, self._cuts(repeat))

    def _decode(self, streams: int, cut: Iterator[int]) -> Phase:
        prompts = tuple(_take(cut, _SHORT_PROMPT_TOKENS) for _ in range(streams))
        return Phase(f"decode_{streams}", prompts, self._new_tokens)

    def _cuts(self, repeat: int) -> Iterator[int]:
        """Walk the text from a place of the round's own, around its end."""
        size = len(self._tokens)
        position = (repeat * 7919) % size
        while True:
            yield self._tokens[position]
            position = (position + 1) % size


def english_text() -> str:
    """Give about 600 kB of English prose and code that ships with Python itself."""
    return "\n\n".join(topics[name] for name in sorted(topics))


def text_in(language: Language) -> str:
    """Give a text of that language: Python's own, or a Chinese essay of about 1,600 characters."""
    return english_text() if language == "english" else _CHINESE.read_text(encoding="utf-8")


def _take(cut: Iterator[int], count: int) -> tuple[int, ...]:
    return tuple(next(cut) for _ in range(count))
