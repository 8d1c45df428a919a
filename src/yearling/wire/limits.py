"""The bounds that reading a request body needs; their values are in `server/limits.py`."""

from dataclasses import dataclass

__all__ = ["RequestLimits"]


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Bounds on what one request body may hold.

    Attributes:
        json_depth: Levels of nested arrays and objects.
        integer_digits: Decimal digits of one JSON integer.
        messages: Messages of one conversation.
        choices: Answers to one prompt (`n`).
        prompts: Prompts in one completions request.
        inputs: Texts in one embeddings request.
        stops: Stop strings.
        logit_biases: Entries of `logit_bias`.
    """

    json_depth: int
    integer_digits: int
    messages: int
    choices: int
    prompts: int
    inputs: int
    stops: int
    logit_biases: int
