"""What is refused before it costs anything: one table of limits, checked in one place."""

from collections.abc import Collection
from dataclasses import dataclass

from yearling.core.errors import (
    CapacityError,
    ContextLengthError,
    RequestError,
    UnsupportedError,
)
from yearling.serving.request import EmbeddingRequest, EngineRequest, GenerationRequest

__all__ = ["AdmissionLimits"]


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """Bounds on a request and on how many are open; the same in an engine and in its server.

    Attributes:
        context: Tokens of prompt and answer together: the model's window, or less when the
            cache is smaller.
        max_requests: Requests running and waiting together; None sets no limit.
        vocabulary: Token ids run from 0 to here, or None when unknown.
        whole_prompt: Tokens of the longest prompt, where its tokens see each other and must be
            computed in one step; None where prompts may be cut.
        can_generate: False for an encoder, which gives vectors; `context` bounds each text.
    """

    context: int
    max_requests: int | None
    vocabulary: int | None = None
    whole_prompt: int | None = None
    can_generate: bool = True

    def check(self, request: EngineRequest, num_open: int) -> None:
        """Refuse what can never be served, or not now.

        Raises:
            RequestError: the prompt is empty, or a token id is outside the vocabulary.
            ContextLengthError: prompt and answer do not fit, or the prompt alone not a step.
            UnsupportedError: the model cannot do such a thing at all.
            CapacityError: `max_requests` are open.
        """
        if isinstance(request, EmbeddingRequest):
            self._check_embedding(request)
        else:
            self._check_generation(request)
        if self.max_requests is not None and num_open >= self.max_requests:
            raise CapacityError(
                f"{num_open} requests are running or waiting, the most this model takes "
                f"({self.max_requests}): try again in a moment."
            )

    def max_new_tokens(self, request: GenerationRequest) -> int:
        """Tokens the answer may have; `max_tokens=None` fills the context."""
        room = self.context - len(request.prompt)
        asked = request.sampling.max_tokens
        return room if asked is None else min(asked, room)

    def _check_generation(self, request: GenerationRequest) -> None:
        self._check_ability(request)
        if not request.prompt:
            raise RequestError("the prompt is empty: send at least one token.", parameter="prompt")
        self._check_length(request)
        self._check_ids(request.prompt, "prompt")
        self._check_ids(request.sampling.logit_bias, "logit_bias")
        self._check_ids(request.sampling.stop_token_ids, "stop_token_ids")

    def _check_embedding(self, request: EmbeddingRequest) -> None:
        if self.can_generate:
            raise UnsupportedError(
                "this model generates text and gives no vectors: load an encoder for embeddings, "
                "for example minilm."
            )
        for index, tokens in enumerate(request.inputs):
            where = f"input[{index}]"
            if not 0 < len(tokens) <= self.context:
                raise ContextLengthError(
                    f"{where} has {len(tokens)} tokens, but a text may have 1 to {self.context}: "
                    f"shorten it, or cut it into several.",
                    parameter=where,
                )
            self._check_ids(tokens, where)

    def _check_ability(self, request: GenerationRequest) -> None:
        if not self.can_generate:
            raise UnsupportedError(
                "this model is an encoder: it gives a vector for a text and generates nothing; "
                "ask it for embeddings."
            )
        is_scoring = request.is_prompt_only or request.sampling.prompt_logprobs is not None
        if is_scoring and self.whole_prompt is not None:
            raise UnsupportedError(
                "this model cannot score a prompt: its prompt tokens see those that follow them "
                "(a prefix mask), so they have no log-probabilities; leave out prompt_logprobs.",
                parameter="prompt_logprobs",
            )

    def _check_length(self, request: GenerationRequest) -> None:
        num_prompt = len(request.prompt)
        if self.whole_prompt is not None and num_prompt > self.whole_prompt:
            raise ContextLengthError(
                f"the prompt has {num_prompt} tokens, but this model computes a prompt in one "
                f"step, which holds {self.whole_prompt}: shorten the prompt, or load the model "
                f"with a larger max_step_tokens.",
                parameter="prompt",
            )
        if num_prompt + (not request.is_prompt_only) > self.context:
            raise ContextLengthError(
                f"the prompt has {num_prompt} tokens, but prompt and answer together may have "
                f"{self.context}: shorten the prompt.",
                parameter="prompt",
            )
        asked = request.sampling.max_tokens
        if asked is not None and not request.is_prompt_only and num_prompt + asked > self.context:
            raise ContextLengthError(
                f"the prompt has {num_prompt} tokens and max_tokens={asked}, together "
                f"{num_prompt + asked}, but prompt and answer may have {self.context}: shorten "
                f"the prompt or set max_tokens to at most {self.context - num_prompt}.",
                parameter="max_tokens",
            )

    def _check_ids(self, ids: Collection[int], parameter: str) -> None:
        if self.vocabulary is None or not ids:
            return
        for token in (min(ids), max(ids)):
            if not 0 <= token < self.vocabulary:
                raise RequestError(
                    f"{parameter} holds token id {token}, but the model's ids run from 0 to "
                    f"{self.vocabulary - 1}.",
                    parameter=parameter,
                )
