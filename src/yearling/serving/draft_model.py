"""A smaller model that guesses what a larger one will say.

It has an engine of its own, which is asked to continue every answer by a few tokens; its prefix
cache remembers what it has read of each, so that a guess costs a few of its own small steps. What
it says is checked like any guess (see `drafts`), so answers are those without it.

Source: Leviathan et al. 2022, arXiv:2211.17192; Chen et al. 2023, arXiv:2302.01318. Both draw from
the draft's distribution and correct for it; here the draft is greedy, and the larger model's own
choice decides, which keeps its bits.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from yearling.core.errors import RequestError
from yearling.serving.engine import Engine
from yearling.serving.request import GenerationRequest, SamplingParams

__all__ = ["DraftModel"]

_log = logging.getLogger(__name__)


class DraftModel:
    """Guesses for all answers of an engine; see `drafts.Drafter`.

    Args:
        engine: Of the smaller model.
        vocabulary: Token ids that the larger model knows run from 0 to here.
        close: Frees the smaller model.
    """

    is_costly = True

    def __init__(self, engine: Engine, *, vocabulary: int, close: Callable[[], None]) -> None:
        self._engine = engine
        self._vocabulary = vocabulary
        self._close = close
        self._is_broken = False

    def guess(
        self, wanted: Mapping[str, tuple[Sequence[int], int]]
    ) -> Mapping[str, tuple[int, ...]]:
        """Guess how each text goes on, where it fits; a draft that fails guesses no more.

        Args:
            wanted: Token ids and how many to guess, by request.
        """
        engine, context = self._engine, self._engine.limits.context
        if self._is_broken:
            return {}
        for request_id, (tokens, count) in wanted.items():
            if count <= 0 or len(tokens) + count > context:
                continue
            sampling = SamplingParams(temperature=0, max_tokens=count, ignore_eos=True)
            # Each answer is an account of its own: what is cached is found again by it alone.
            request = GenerationRequest(request_id, tokens, sampling, salt=request_id)
            with suppress(RequestError):  # it holds a token that the draft does not know
                engine.add(request)
        found: dict[str, list[int]] = defaultdict(list)
        # A long text is read over several calls, or others would wait for it: what was read of it
        # is found again.
        steps = 1 + max((count for _, count in wanted.values()), default=0)
        while engine.has_work:
            for event in engine.step():
                found[event.request_id].extend(event.tokens)
            steps -= 1
            if steps == 0:
                engine.cancel_all()
        if engine.error is not None:
            self._is_broken = True
            _log.warning("the draft model guesses no more: %s", engine.error)
        return {request_id: self._known(tokens) for request_id, tokens in found.items()}

    def close(self) -> None:
        """Free the model."""
        self._close()

    def _known(self, tokens: Sequence[int]) -> tuple[int, ...]:
        for number, token in enumerate(tokens):
            if token >= self._vocabulary:
                return tuple(tokens[:number])
        return tuple(tokens)
