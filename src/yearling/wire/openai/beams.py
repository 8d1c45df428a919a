"""Beam search as a request asks for it: vLLM's fields, since OpenAI has none."""

from dataclasses import dataclass

from yearling.core.errors import RequestError, UnsupportedError
from yearling.serving.beams import MOST_BEAMS
from yearling.wire.openai.fields import is_same
from yearling.wire.openai.generation import GenerationBody

__all__ = ["Beams", "beams_of"]

_HONOURED = frozenset(
    (
        *("model", "messages", "prompt", "use_beam_search", "length_penalty", "n"),
        *("max_tokens", "max_completion_tokens", "prompt_cache_key", "safety_identifier", "user"),
    )
)
_HARMLESS: dict[str, tuple[object, ...]] = {
    "temperature": (0.0, 1.0),
    "top_p": (1.0,),
    "top_k": (0, -1),
    "min_p": (0.0,),
    "repetition_penalty": (1.0,),
    "presence_penalty": (0.0,),
    "frequency_penalty": (0.0,),
    "min_tokens": (0,),
    "best_of": (1,),
    **dict.fromkeys(("stream", "echo", "logprobs", "ignore_eos"), (False,)),
    **dict.fromkeys(("stop", "stop_token_ids", "tools", "logit_bias"), ([], {})),
}
"""Values that ask for nothing which a search could not do."""


@dataclass(frozen=True, slots=True)
class Beams:
    """How answers are searched for.

    Attributes:
        width: Answers kept at a time, and returned.
        length_penalty: They are compared by log-probability over length to this power.
    """

    width: int
    length_penalty: float


def beams_of(body: GenerationBody, num_choices: int) -> Beams | None:
    """The search that a request asks for; None when it asks for none.

    Raises:
        RequestError: too wide a search, or a length penalty without one.
        UnsupportedError: a field is set that says how to draw or to guide an answer.
    """
    if not body.use_beam_search:
        if body.length_penalty is not None:
            raise RequestError(
                "length_penalty is set, but use_beam_search is not true.",
                parameter="length_penalty",
            )
        return None
    for name in sorted(body.model_fields_set - _HONOURED):
        value = getattr(body, name)
        if not any(is_same(value, other) for other in _HARMLESS.get(name, ())):
            raise UnsupportedError(
                f"{name} is not supported with use_beam_search, which finds the likeliest answers "
                "as they are. Leave one of both out.",
                parameter=name,
            )
    if num_choices > MOST_BEAMS:
        raise RequestError(
            f"n is {num_choices}; a beam search keeps at most {MOST_BEAMS} answers.", parameter="n"
        )
    penalty = 1.0 if body.length_penalty is None else body.length_penalty
    return Beams(num_choices, penalty)
