"""What a caller asks of an engine, and what it is told back."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

__all__ = [
    "EmbeddingRequest",
    "EngineRequest",
    "FinishReason",
    "GenerationRequest",
    "Guide",
    "OutputEvent",
    "PromptScore",
    "SamplingParams",
    "TokenLogprob",
    "Usage",
]

FinishReason = Literal["stop", "length", "cancelled", "error"]

_StopString = Annotated[str, Field(min_length=1, max_length=256)]


class Guide(BaseModel):
    """What an answer must be, from its first to its last character; one of four ways to say it.

    >>> Guide(choice=("yes", "no")).choice
    ('yes', 'no')
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    json_schema: str | None = Field(
        default=None,
        description="JSON that a schema describes, an object or its text; `{}` is any JSON.",
    )
    regex: str | None = Field(default=None, description="A text that the expression matches whole.")
    choice: tuple[str, ...] | None = Field(
        default=None, min_length=1, max_length=1_000, description="One of these texts."
    )
    grammar: str | None = Field(
        default=None, description="A text of a context-free grammar, in Lark's notation."
    )
    field: str = Field(default="guide", description="What an error calls it.")

    @field_validator("json_schema", mode="before")
    @classmethod
    def _schema_is_text(cls, value: object) -> object:
        return json.dumps(value) if isinstance(value, Mapping) else value

    @model_validator(mode="after")
    def _has_one_way(self) -> "Guide":
        ways = (self.json_schema, self.regex, self.choice, self.grammar)
        if sum(way is not None for way in ways) != 1:
            raise ValueError("give one of json_schema, regex, choice and grammar")
        return self


class SamplingParams(BaseModel):
    """How to choose tokens, and when to stop.

    The order is fixed: penalties and bias on the logits, the guide, temperature, top-k, top-p,
    min-p, then one draw by a counter-based generator keyed by (seed, output index), so that a
    request's tokens never depend on its neighbours.

    >>> SamplingParams(temperature=0, max_tokens=16).is_greedy
    True
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    max_tokens: int | None = Field(
        default=None, ge=1, description="New tokens at most; None fills the context window."
    )
    min_tokens: int = Field(
        default=0,
        ge=0,
        lt=2**31,
        description="No token ends the answer before; a stop string does.",
    )
    ignore_eos: bool = Field(
        default=False, description="Go on where the model would end, up to max_tokens."
    )
    temperature: float = Field(default=1.0, ge=0.0, le=10.0, description="0 is greedy.")
    top_k: int = Field(default=0, ge=0, description="Keep the k likeliest tokens; 0 keeps all.")
    top_p: float = Field(
        default=1.0, gt=0.0, le=1.0, description="Keep the likeliest tokens up to this mass."
    )
    min_p: float = Field(
        default=0.0, ge=0.0, le=1.0, description="Drop tokens below this share of the likeliest."
    )
    repetition_penalty: float = Field(
        default=1.0, gt=0.0, le=10.0, description="Divides positive logits of tokens seen."
    )
    presence_penalty: float = Field(
        default=0.0, ge=-2.0, le=2.0, description="Subtracted once from tokens generated."
    )
    frequency_penalty: float = Field(
        default=0.0, ge=-2.0, le=2.0, description="Subtracted per occurrence generated."
    )
    logit_bias: Mapping[int, float] = Field(
        default_factory=dict, max_length=1024, description="Added to the logits of token ids."
    )
    seed: int | None = Field(
        default=None, ge=-(2**63), lt=2**63, description="None draws a fresh one per request."
    )
    stop: tuple[_StopString, ...] = Field(
        default=(), max_length=32, description="Strings that end the answer; not part of it."
    )
    stop_token_ids: tuple[int, ...] = Field(
        default=(), max_length=64, description="Ids that end the answer, beside the model's own."
    )
    logprobs: int | None = Field(
        default=None, ge=0, le=20, description="Alternatives reported per token; None reports none."
    )
    prompt_logprobs: int | None = Field(
        default=None, ge=0, le=20, description="The same for the tokens of the prompt."
    )
    guide: Guide | None = Field(
        default=None, description="What the answer must be: JSON of a schema, one of some texts."
    )

    def stopping_at(self, texts: Sequence[str]) -> "SamplingParams":
        """The same, ending at more texts.

        >>> SamplingParams(stop="###").stopping_at(["END"]).stop
        ('###', 'END')
        """
        if not texts:
            return self
        return self.model_copy(update={"stop": tuple(dict.fromkeys((*self.stop, *texts)))})

    @field_validator("stop", mode="before")
    @classmethod
    def _one_stop_is_a_list(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _can_reach_its_least(self) -> "SamplingParams":
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens={self.min_tokens} is more than max_tokens")
        if self.min_tokens and self.guide is not None:
            raise ValueError("min_tokens and a guide contradict each other: leave one out")
        return self

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature == 0.0


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A tokenised prompt with its sampling parameters, ready for an engine.

    Attributes:
        request_id: Unique among running requests.
        prompt: Token ids, at least one.
        sampling: How to choose tokens; `seed` and `max_tokens` may still be None.
        salt: Keeps one account's cached blocks from serving another's.
        is_prompt_only: Score the prompt and generate nothing (`max_tokens=0` over HTTP).
        adapter: Name of a loaded adapter; empty takes the model itself.
    """

    request_id: str
    prompt: Sequence[int]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    salt: str = ""
    is_prompt_only: bool = False
    adapter: str = ""

    @property
    def num_prompt_tokens(self) -> int:
        """Tokens the caller gave."""
        return len(self.prompt)


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """Tokenised texts that an encoder turns into vectors.

    Attributes:
        request_id: Unique among running requests.
        inputs: Token ids of each text, at least one, with the special tokens the model wants.
    """

    request_id: str
    inputs: Sequence[Sequence[int]]

    @property
    def num_prompt_tokens(self) -> int:
        """Tokens of all texts together."""
        return sum(map(len, self.inputs))


EngineRequest = GenerationRequest | EmbeddingRequest
"""What an engine can be asked; every engine answers one of both kinds."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Log-probability of one token, in nats, and of the likeliest alternatives.

    Log-probabilities are of the model's own distribution, before temperature and filters.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class PromptScore:
    """Log-probabilities of the prompt's tokens; the first token has none."""

    tokens: tuple[TokenLogprob | None, ...]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens a request took; `cached_tokens` of the prompt came from the prefix cache."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class OutputEvent:
    """News about one request; exactly one event per admitted request has a finish reason.

    Attributes:
        request_id: The request this is about.
        text: Text that became certain: never broken UTF-8, never part of a stop string.
        tokens: New token ids since the last event.
        logprobs: One per new token when asked for.
        prompt_score: Once, when prompt log-probabilities were asked for.
        finish_reason: Set on the final event only.
        usage: Set on the final event only.
        error: What went wrong, when the finish reason is `error`.
        parameter: What of the request was at fault for it; None when nothing was.
        vectors: On the final event of an embedding request: its vectors one after the other, in
            little-endian float32.
    """

    request_id: str
    text: str = ""
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_score: PromptScore | None = None
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    error: str | None = None
    parameter: str | None = None
    vectors: bytes = b""
