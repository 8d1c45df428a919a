"""Text completions: prompts as text or token ids, echo, scoring, and the legacy log-probabilities.

Source: https://platform.openai.com/docs/api-reference/completions. `max_tokens=0` with `echo`
scores the prompt and generates nothing; evaluation harnesses depend on it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from yearling.core.errors import RequestError, UnsupportedError
from yearling.serving.request import FinishReason, SamplingParams, Usage
from yearling.wire.limits import RequestLimits
from yearling.wire.openai.beams import Beams, beams_of
from yearling.wire.openai.fields import REFUSED_COMPLETION_FIELDS, read_fields
from yearling.wire.openai.generation import (
    AnswerHead,
    GenerationBody,
    check_choices,
    finish_name,
    sampling_params,
    usage_object,
)
from yearling.wire.openai.guides import guide_of
from yearling.wire.openai.inputs import read_inputs

__all__ = [
    "CompletionAnswer",
    "CompletionBody",
    "CompletionRequest",
    "completion",
    "completion_chunk",
    "completion_usage_chunk",
    "parse_completion_request",
]

_KIND = "text_completion"
_DEFAULT_MAX_TOKENS = 16


class CompletionBody(GenerationBody):
    """The fields of a completion request that are honoured."""

    prompt: Any = Field(description="Text, token ids, or a list of either.")
    best_of: int | None = Field(
        default=None,
        ge=1,
        description="Answers made to each prompt; the n likeliest come.",
    )
    echo: bool | None = Field(default=None, description="Put the prompt before the answer.")
    logprobs: int | None = Field(
        default=None, ge=0, le=20, description="Alternatives reported per token."
    )


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """A completion request in internal terms.

    Attributes:
        prompts: Each a text or a list of token ids.
        num_choices: Independent answers to each prompt.
        num_returned: How many of them are given: those whose tokens are likeliest on average.
        num_logprobs: Alternatives reported per token; None reports no log-probabilities.
        is_echoed: The prompt comes before the answer, with its log-probabilities.
        is_prompt_only: Nothing is generated.
        user: Whom the caller acts for, for the log.
        beams: How answers are searched for, instead of drawn.
    """

    model: str
    prompts: tuple[str | tuple[int, ...], ...]
    sampling: SamplingParams
    num_choices: int
    num_returned: int
    num_logprobs: int | None
    is_echoed: bool
    is_prompt_only: bool
    is_streamed: bool
    has_usage_chunk: bool
    user: str | None
    beams: Beams | None = None


@dataclass(frozen=True, slots=True)
class CompletionAnswer:
    """One finished choice; `logprobs` is the ready wire object or None."""

    text: str
    finish_reason: FinishReason
    logprobs: Mapping[str, Any] | None = None


def parse_completion_request(body: Mapping[str, Any], limits: RequestLimits) -> CompletionRequest:
    """Check a request body and put it in internal terms.

    Raises:
        RequestError: a field is wrong, unknown or not supported; `parameter` names it.
    """
    fields = read_fields(CompletionBody, body, REFUSED_COMPLETION_FIELDS)
    num_returned = check_choices(fields, limits)
    beams = beams_of(fields, num_returned)
    num_choices = _num_choices(fields, limits, num_returned)
    is_echoed = bool(fields.echo)
    is_prompt_only = fields.max_tokens == 0
    if is_prompt_only and not is_echoed:
        raise RequestError(
            "max_tokens is 0, which asks for nothing without echo=true.", parameter="max_tokens"
        )
    return CompletionRequest(
        model=fields.model,
        prompts=read_inputs(fields.prompt, "prompt", limits.prompts),
        sampling=_sampling(
            fields,
            limits,
            is_echoed=is_echoed,
            is_prompt_only=is_prompt_only,
            is_ranked=num_choices > num_returned,
        ),
        num_choices=num_choices,
        num_returned=num_returned,
        num_logprobs=fields.logprobs,
        is_echoed=is_echoed,
        is_prompt_only=is_prompt_only,
        is_streamed=bool(fields.stream),
        has_usage_chunk=bool(fields.stream_options and fields.stream_options.include_usage),
        user=fields.user,
        beams=beams,
    )


def _num_choices(fields: CompletionBody, limits: RequestLimits, num_returned: int) -> int:
    num_choices = num_returned if fields.best_of is None else fields.best_of
    if not num_returned <= num_choices <= limits.choices:
        raise RequestError(
            f"best_of is {num_choices}; it must lie between n, {num_returned}, and "
            f"{limits.choices}, the limit.",
            parameter="best_of",
        )
    if num_choices > num_returned and fields.stream:
        raise UnsupportedError(
            "best_of is larger than n, and stream is true: which answers are best is known only "
            "when all have ended. Leave one out.",
            parameter="best_of",
        )
    return num_choices


def _sampling(
    fields: CompletionBody,
    limits: RequestLimits,
    *,
    is_echoed: bool,
    is_prompt_only: bool,
    is_ranked: bool,
) -> SamplingParams:
    longest = _DEFAULT_MAX_TOKENS if fields.max_tokens is None else fields.max_tokens
    return sampling_params(
        fields,
        limits,
        max_tokens=None if is_prompt_only else longest,
        logprobs=0 if is_ranked and fields.logprobs is None else fields.logprobs,
        prompt_logprobs=fields.logprobs if is_echoed else None,
        guide=None if is_prompt_only else guide_of(fields),
    )


def completion(
    head: AnswerHead, answers: Sequence[CompletionAnswer], usage: Usage
) -> dict[str, Any]:
    """The body of an answer that is not streamed."""
    choices = [
        _choice(index, answer.text, answer.logprobs, answer.finish_reason)
        for index, answer in enumerate(answers)
    ]
    return head.body(_KIND, choices) | {"usage": usage_object(usage)}


def completion_chunk(
    head: AnswerHead,
    index: int,
    text: str,
    logprobs: Mapping[str, Any] | None = None,
    reason: FinishReason | None = None,
) -> dict[str, Any]:
    """A piece of one choice; the last piece of each says why the answer ended."""
    return head.chunk(_KIND, [_choice(index, text, logprobs, reason)])


def completion_usage_chunk(head: AnswerHead, usage: Usage) -> dict[str, Any]:
    """The chunk after all choices, sent when `stream_options.include_usage` asked for it."""
    return head.chunk(_KIND, [], usage)


def _choice(
    index: int, text: str, logprobs: Mapping[str, Any] | None, reason: FinishReason | None
) -> dict[str, Any]:
    return {
        "index": index,
        "text": text,
        "logprobs": logprobs,
        "finish_reason": None if reason is None else finish_name(reason),
    }
