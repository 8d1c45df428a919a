"""A sequence as the scheduler sees it: known tokens, computed tokens, block tables."""

from dataclasses import dataclass

from yearling.serving.cache import SequenceTables

__all__ = ["TokenSequence"]


@dataclass(eq=False, slots=True)
class TokenSequence:
    """Prompt and answer of one request so far.

    There is no prefill and no decode: a step brings `num_computed` forward, and a token is
    sampled whenever nothing known is left to compute.

    Attributes:
        request_id: The request this belongs to.
        tokens: Known ids: the prompt, then what was generated.
        num_prompt: Leading ids that came from the prompt; never changes, recomputed or not.
        tables: Its place in the cache.
        is_scoring: Whether log-probabilities of the prompt are still being collected; every
            row is needed then, so nothing may be taken from the cache.
        num_computed: Leading tokens that the cache holds, or held while they were seen.
        num_cached: Prompt tokens found in the cache when first admitted; None before.
        guesses: Tokens that may follow those known, to be checked beside the next.
    """

    request_id: str
    tokens: list[int]
    num_prompt: int
    tables: SequenceTables
    is_scoring: bool = False
    num_computed: int = 0
    num_cached: int | None = None
    guesses: tuple[int, ...] = ()

    @property
    def num_remaining(self) -> int:
        """Known tokens still to compute; the last prompt token has nothing to be scored on."""
        known = self.num_prompt - 1 if self.is_scoring else len(self.tokens)
        return known - self.num_computed

    @property
    def num_generated(self) -> int:
        """Tokens generated so far."""
        return len(self.tokens) - self.num_prompt
