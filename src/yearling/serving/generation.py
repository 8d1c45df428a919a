"""One admitted request: what a step asks for it, and what becomes of the step's output."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from yearling.serving.adapters import Adapter
from yearling.serving.detokenizer import Detokenizer
from yearling.serving.drafts import Pace
from yearling.serving.executor import SampleInput, SampleOutput, SequenceInput, SequenceOutput
from yearling.serving.guided import Guided
from yearling.serving.request import (
    FinishReason,
    OutputEvent,
    PromptScore,
    SamplingParams,
    TokenLogprob,
    Usage,
)
from yearling.serving.scheduler import Chunk
from yearling.serving.sequence import TokenSequence

__all__ = ["Generation"]

_OUT_OF_REACH = -1e9  # added to a logit; far below any, and finite
_SECOND_CHOICES = 1 << 63  # added to the counter of random numbers, which no answer reaches


@dataclass(eq=False, slots=True)
class Generation:
    """State of a request between its admission and its final event.

    Attributes:
        sequence: What the scheduler sees of it.
        sampling: How to choose tokens.
        seed: Key of its random numbers, 64 bits.
        max_new_tokens: Length of the answer at most.
        stop_ids: Token ids that end the answer.
        is_prompt_only: Whether to end once the prompt is scored.
        detokenizer: Text of the answer, or None without a tokenizer.
        guided: Where the answer stands in its guide, or None without one.
        adapter: What its tokens are computed with beside the model, or None.
        pace: How many of its tokens are worth guessing; None where none is.
        chooses_first: Whether its tokens are chosen before anybody asks the guide.
    """

    sequence: TokenSequence
    sampling: SamplingParams
    seed: int
    max_new_tokens: int
    stop_ids: Collection[int]
    is_prompt_only: bool
    detokenizer: Detokenizer | None
    guided: Guided | None = None
    adapter: Adapter | None = None
    pace: Pace | None = None
    chooses_first: bool = False
    _scores: list[TokenLogprob | None] = field(default_factory=lambda: [None])
    _bias: tuple[tuple[int, float], ...] = ()
    _has_penalty: bool = False

    def __post_init__(self) -> None:
        sampling = self.sampling
        self._bias = tuple(sampling.logit_bias.items())
        self._has_penalty = (
            sampling.repetition_penalty != 1.0
            or sampling.presence_penalty != 0.0
            or sampling.frequency_penalty != 0.0
        )

    @property
    def can_guess(self) -> bool:
        """Whether its choices depend on nothing but logits: not on what was chosen before."""
        return not self._has_penalty and self.guided is None

    @property
    def may_choose_first(self) -> bool:
        """Whether a guided choice may be made freely, and again among the allowed if it must.

        With probability p(x) a free draw is x; where it is none of the allowed A, a second one is x
        with p(x) / p(A). Together that is p(x) + (1 - p(A)) p(x) / p(A) = p(x) / p(A), the draw
        among the allowed. Filters would keep other tokens without the mask than with it.
        """
        sampling = self.sampling
        has_filter = sampling.top_k != 0 or sampling.top_p < 1 or sampling.min_p > 0
        return not self._has_penalty and not self._bias and (sampling.is_greedy or not has_filter)

    @property
    def usage(self) -> Usage:
        """Tokens taken so far."""
        sequence = self.sequence
        return Usage(sequence.num_prompt, sequence.num_generated, sequence.num_cached or 0)

    @property
    def has_nothing_to_score(self) -> bool:
        """Whether scoring was asked for and needs no step: nothing predicts the first token."""
        if self.is_prompt_only and self.sampling.prompt_logprobs is None:
            return True
        return self.sequence.is_scoring and self.sequence.num_remaining == 0

    @property
    def adapter_number(self) -> int:
        """Number of its adapter; -1 without one."""
        return -1 if self.adapter is None else self.adapter.number

    def step_input(self, chunk: Chunk) -> SequenceInput:
        """What the executor is given for a chunk."""
        sequence = self.sequence
        tokens, groups = sequence.tokens, sequence.tables.groups()
        num_prompt, start = sequence.num_prompt, sequence.num_computed
        end = start + chunk.num_tokens
        adapter = None if self.adapter is None else self.adapter.number
        if not sequence.is_scoring:
            count = chunk.num_guesses
            samples = [self._sample_input(ahead) for ahead in range(count + chunk.is_sampling)]
            return SequenceInput(
                [*tokens[start:end], *sequence.guesses[:count]],
                start,
                groups,
                num_prompt,
                samples.pop() if samples else None,
                adapter=adapter,
                guesses=samples,
            )
        if start == 0:
            self._scores = [None]  # scoring starts over after preemption
        return SequenceInput(
            tokens[start:end],
            start,
            groups,
            num_prompt,
            score_targets=tokens[start + 1 : end + 1],
            num_score_logprobs=self.sampling.prompt_logprobs or 0,
            adapter=adapter,
        )

    @property
    def most_guesses(self) -> int:
        """Tokens that the answer may have behind its next."""
        return self.max_new_tokens - self.sequence.num_generated - 1

    def take(self, output: SequenceOutput) -> OutputEvent | None:
        """Use a step's output, after the scheduler advanced; None when there is no news."""
        if output.error is not None:
            return self.end("error", error=output.error)
        if self.sequence.is_scoring:
            return self._take_scores(output.scores)
        if output.sample is None:
            return None
        return self._take_token(output.sample)

    def end(self, reason: FinishReason, error: str | None = None) -> OutputEvent:
        """The final event when something from outside ends the request."""
        text = "" if self.detokenizer is None else self.detokenizer.finish()
        return OutputEvent(
            self.sequence.request_id, text, finish_reason=reason, usage=self.usage, error=error
        )

    def guide_failed(self, problem: str) -> OutputEvent:
        """The final event when the guide cannot go on."""
        assert self.sampling.guide is not None
        name = self.sampling.guide.field
        event = self.end("error", error=f"{name} cannot guide this answer any further: {problem}")
        return replace(event, parameter=name)

    def end_of_scoring(self) -> OutputEvent:
        """The event that carries the prompt's scores; final when nothing else was asked."""
        self.sequence.is_scoring = False
        score = None if self.sampling.prompt_logprobs is None else PromptScore(tuple(self._scores))
        return OutputEvent(
            self.sequence.request_id,
            prompt_score=score,
            finish_reason="length" if self.is_prompt_only else None,
            usage=self.usage if self.is_prompt_only else None,
        )

    def _take_scores(self, scores: Sequence[SampleOutput | None]) -> OutputEvent | None:
        for score in scores:
            assert score is not None, "every scored row has a target"
            self._scores.append(TokenLogprob(score.token, score.logprob, score.top))
        return self.end_of_scoring() if self.sequence.num_remaining == 0 else None

    def _take_token(self, sample: SampleOutput) -> OutputEvent:
        token, sequence = sample.token, self.sequence
        sequence.tokens.append(token)
        if self.guided is not None:
            self.guided.take(token)
            if self.guided.problem is not None:
                return self.guide_failed(self.guided.problem)
        text = "" if self.detokenizer is None else self.detokenizer.push(token)
        reason = self._finish_reason(token)
        if reason is not None and self.detokenizer is not None:
            text += self.detokenizer.finish()
        logprobs: tuple[TokenLogprob, ...] = ()
        if self.sampling.logprobs is not None:
            logprobs = (TokenLogprob(token, sample.logprob, sample.top),)
        usage = self.usage if reason is not None else None
        return OutputEvent(
            sequence.request_id, text, (token,), logprobs, finish_reason=reason, usage=usage
        )

    def _finish_reason(self, token: int) -> FinishReason | None:
        if token in self.stop_ids:
            return "stop"
        if self.detokenizer is not None and self.detokenizer.is_stopped:
            return "stop"
        if self.guided is not None and self.guided.is_finished:
            return "stop"
        if self.sequence.num_generated >= self.max_new_tokens:
            return "length"
        return None

    def _bias_at(self, index: int) -> Sequence[tuple[int, float]]:
        """The caller's bias; before the least length what would end the answer is out of reach."""
        if index >= self.sampling.min_tokens:
            return self._bias
        return (*self._bias, *((token, _OUT_OF_REACH) for token in self.stop_ids))

    def second_choice(self) -> SampleInput:
        """How to choose the next token among those that the guide allows, after a free choice."""
        assert self.guided is not None
        free = self._sample_input(0)
        return replace(
            free, output_index=free.output_index + _SECOND_CHOICES, allowed=self.guided.allowed
        )

    def _sample_input(self, ahead: int) -> SampleInput:
        """How to choose the next token, or the one so many tokens after it."""
        sampling, sequence = self.sampling, self.sequence
        index = sequence.num_generated + ahead
        return SampleInput(
            sampling.temperature,
            sampling.top_k,
            sampling.top_p,
            sampling.min_p,
            sampling.repetition_penalty,
            sampling.presence_penalty,
            sampling.frequency_penalty,
            self.seed,
            index,
            sequence.tokens if self._has_penalty else (),
            sequence.num_generated if self._has_penalty else 0,
            self._bias_at(index),
            sampling.logprobs,
            None if self.guided is None or self.chooses_first else self.guided.allowed,
        )
