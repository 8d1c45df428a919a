"""The part that chat completions and completions share: sampling fields, usage, identifiers."""

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from yearling.core.errors import RequestError, UnsupportedError
from yearling.serving.request import FinishReason, Guide, SamplingParams, Usage
from yearling.wire.limits import RequestLimits
from yearling.wire.openai.fields import validated
from yearling.wire.openai.guides import GuidedFields

__all__ = [
    "AnswerHead",
    "GenerationBody",
    "StreamOptions",
    "check_choices",
    "finish_name",
    "sampling_params",
    "usage_object",
]


class StreamOptions(BaseModel):
    """What a stream carries beside the answer."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    include_usage: bool | None = Field(default=None, description="Send one last usage chunk.")
    include_obfuscation: bool | None = Field(
        default=None, description="Pad chunks to equal length; only false is supported."
    )


class GenerationBody(GuidedFields):
    """Fields of both generating endpoints, as a client sends them; ranges are checked later."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    model: str = Field(min_length=1, max_length=256, description="Name as /v1/models lists it.")
    max_tokens: int | None = Field(default=None, description="New tokens at most.")
    min_tokens: int | None = Field(default=None, description="New tokens at least.")
    ignore_eos: bool | None = Field(default=None, description="Go on where the model would end.")
    temperature: float | None = Field(default=None, description="0 is greedy.")
    top_p: float | None = Field(
        default=None, ge=0, le=1, description="Mass kept; 0 keeps the likeliest token alone."
    )
    top_k: int | None = Field(default=None, description="Keep the k likeliest; 0 or -1 keeps all.")
    min_p: float | None = Field(default=None, description="Share of the likeliest to reach.")
    repetition_penalty: float | None = Field(default=None, description="1 is none.")
    presence_penalty: float | None = Field(default=None, description="0 is none.")
    frequency_penalty: float | None = Field(default=None, description="0 is none.")
    logit_bias: dict[str, float] | None = Field(
        default=None, description="Token id, as a string, to a bias from -100 to 100."
    )
    seed: int | None = Field(default=None, description="Makes the draw reproducible.")
    stop: list[str] | None = Field(default=None, description="A string or a list of strings.")
    stop_token_ids: list[int] | None = Field(default=None, description="Ids that end the answer.")
    n: int | None = Field(default=None, ge=1, description="Answers to each prompt.")
    use_beam_search: bool | None = Field(
        default=None, description="Find the n likeliest answers as wholes, instead of drawing."
    )
    length_penalty: float | None = Field(
        default=None,
        ge=-10,
        le=10,
        description="With use_beam_search: above 0 prefers longer answers.",
    )
    stream: bool | None = Field(default=None, description="Send the answer piece by piece.")
    stream_options: StreamOptions | None = Field(default=None, description="With stream only.")
    user: str | None = Field(
        default=None, max_length=256, description="Names the end user in the server's log."
    )

    @field_validator("stop", mode="before")
    @classmethod
    def _one_stop_is_a_list(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value


_SAME_NAME = (
    "min_tokens",
    "ignore_eos",
    "temperature",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "max_tokens",
)


def sampling_params(
    body: GenerationBody, limits: RequestLimits, **more: int | Guide | None
) -> SamplingParams:
    """Turn wire fields into sampling parameters; `more` overrides or adds some by name.

    Raises:
        RequestError: a value is out of range; `parameter` is the wire field's name.
    """
    fields: dict[str, Any] = {name: getattr(body, name) for name in _SAME_NAME} | {
        "top_k": 0 if body.top_k == -1 else body.top_k,
        "logit_bias": _logit_bias(body.logit_bias, limits),
        "stop": _stops(body.stop, limits),
        "stop_token_ids": tuple(body.stop_token_ids) if body.stop_token_ids else None,
    }
    if body.top_p == 0:
        fields["top_p"] = 1e-9
    fields |= more
    if body.min_tokens and isinstance(guide := more.get("guide"), Guide):
        raise RequestError(
            f"min_tokens and {guide.field} contradict each other: leave one out.",
            parameter="min_tokens",
        )
    return validated(SamplingParams, {k: v for k, v in fields.items() if v is not None})


def check_choices(body: GenerationBody, limits: RequestLimits) -> int:
    """How many answers a prompt gets.

    Raises:
        RequestError: more than the limit, or stream options that do not fit.
    """
    choices = 1 if body.n is None else body.n
    if choices > limits.choices:
        raise RequestError(f"n is {choices}; {limits.choices} is the limit.", parameter="n")
    if body.stream_options is not None and not body.stream:
        raise RequestError(
            "stream_options is set, but stream is not true.", parameter="stream_options"
        )
    if body.stream_options is not None and body.stream_options.include_obfuscation:
        raise UnsupportedError(
            "stream_options.include_obfuscation is not supported: chunks are not padded.",
            parameter="stream_options.include_obfuscation",
        )
    return choices


def _stops(stops: list[str] | None, limits: RequestLimits) -> tuple[str, ...] | None:
    if stops is None:
        return None
    limits.check_stops(stops)
    return tuple(stops)


_TOKEN_ID = re.compile(r"[0-9]{1,9}")


def _logit_bias(raw: Mapping[str, float] | None, limits: RequestLimits) -> dict[int, float] | None:
    if raw is None:
        return None
    if len(raw) > limits.logit_biases:
        raise RequestError(
            f"logit_bias holds {len(raw)} entries; {limits.logit_biases} is the limit.",
            parameter="logit_bias",
        )
    for key, bias in raw.items():
        if not _TOKEN_ID.fullmatch(key):
            raise RequestError(
                f"logit_bias has the key {key[:40]!r}; keys are token ids.", parameter="logit_bias"
            )
        if not -100 <= bias <= 100:
            raise RequestError(
                f"logit_bias[{key}] is {bias}; it must lie between -100 and 100.",
                parameter=f"logit_bias.{key}",
            )
    return {int(key): bias for key, bias in raw.items()}


@dataclass(frozen=True, slots=True)
class AnswerHead:
    """What every chunk of one answer repeats.

    Attributes:
        id: Unique, with OpenAI's prefix for its kind.
        created: Seconds since 1970.
        fingerprint: Changes when the answers to equal seeds may.
        has_usage_chunk: Chunks carry `usage`, null but in the last.
    """

    id: str
    created: int
    model: str
    fingerprint: str
    has_usage_chunk: bool = False

    @staticmethod
    def new_id(prefix: str) -> str:
        """Draw an identifier; `chatcmpl-` begins one like `chatcmpl-6f0c…`."""
        return f"{prefix}{secrets.token_hex(12)}"

    def body(self, kind: str, choices: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The fields of a chunk or a whole answer, without usage."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
        }

    def chunk(
        self, kind: str, choices: Sequence[Mapping[str, Any]], usage: Usage | None = None
    ) -> dict[str, Any]:
        """One stream chunk; `usage` only in the last one, and only when it was asked for."""
        body = self.body(kind, choices)
        if self.has_usage_chunk:
            body["usage"] = None if usage is None else usage_object(usage)
        return body


def usage_object(usage: Usage) -> dict[str, Any]:
    """Token counts as OpenAI reports them.

    >>> usage_object(Usage(prompt_tokens=5, completion_tokens=2))["total_tokens"]
    7
    """
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def finish_name(reason: FinishReason) -> str:
    """OpenAI's word for why an answer ended; errors and cancellations have none.

    Raises:
        ValueError: the answer did not end by itself.
    """
    if reason not in ("stop", "length"):
        raise ValueError(f"an answer that ended by {reason!r} has no finish_reason")
    return reason
