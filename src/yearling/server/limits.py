"""Every bound the server keeps, in one table; `yearling serve --show-limits` prints it."""

from dataclasses import dataclass, field, fields

from yearling.wire.limits import RequestLimits

__all__ = ["Limits", "describe_limits"]

_KIBIBYTE = 1024
_MEBIBYTE = 1024 * _KIBIBYTE


def _bound(value: int, meaning: str) -> int:
    """A default with the sentence that `--show-limits` prints for it."""
    bound: int = field(default=value, metadata={"meaning": meaning})
    return bound


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on connections, bodies, requests and waiting; each name carries its unit."""

    header_bytes: int = _bound(32 * _KIBIBYTE, "All headers of a request together.")
    header_seconds: int = _bound(10, "From connecting, or the last answer, to whole headers.")
    keep_alive_seconds: int = _bound(15, "An idle connection stays open.")
    connections: int = _bound(1024, "Open connections; more are refused with 503.")
    body_bytes: int = _bound(2 * _MEBIBYTE, "One request body.")
    body_grace_seconds: int = _bound(10, "A body may stall this long in all.")
    body_bytes_per_second: int = _bound(_KIBIBYTE, "Slowest body beyond that grace.")
    json_depth: int = _bound(64, "Nested arrays and objects.")
    integer_digits: int = _bound(20, "Digits of one JSON integer.")
    messages: int = _bound(2048, "Messages of one conversation.")
    choices: int = _bound(8, "Answers to one prompt (n).")
    prompts: int = _bound(64, "Prompts in one completions request.")
    inputs: int = _bound(2048, "Texts in one embeddings request.")
    input_tokens: int = _bound(300_000, "Tokens of all those texts together.")
    stops: int = _bound(16, "Stop strings, of at most 256 characters each.")
    logit_biases: int = _bound(1024, "Entries of logit_bias.")
    guide_bytes: int = _bound(
        64 * _KIBIBYTE, "One schema, expression, grammar or set of tools that guides answers."
    )
    kept_responses: int = _bound(1000, "Responses kept to be gone on from; the oldest go first.")
    kept_response_bytes: int = _bound(64 * _MEBIBYTE, "All kept responses together.")
    prompt_bytes_per_context_token: int = _bound(
        8, "Prompt bytes per token of context; more is refused before tokenising."
    )
    open_requests: int = _bound(384, "Requests running and waiting, per model; then 429.")
    open_prompt_tokens: int = _bound(
        128 * _KIBIBYTE, "Prompt tokens of the open requests together; then 429."
    )
    request_seconds: int = _bound(600, "One request from its admission to its last token.")
    stream_stall_seconds: int = _bound(30, "A client may leave a stream unread this long.")
    stream_silence_seconds: int = _bound(15, "A silent stream gets a comment line this often.")
    drain_seconds: int = _bound(60, "Running answers may finish after SIGTERM.")

    def for_requests(self) -> RequestLimits:
        """The part that reading a request body needs."""
        return RequestLimits(
            json_depth=self.json_depth,
            integer_digits=self.integer_digits,
            messages=self.messages,
            choices=self.choices,
            prompts=self.prompts,
            inputs=self.inputs,
            stops=self.stops,
            logit_biases=self.logit_biases,
        )


def describe_limits(limits: Limits) -> list[tuple[str, int, str]]:
    """Name, value and meaning of every limit, in order.

    >>> describe_limits(Limits())[0]
    ('header_bytes', 32768, 'All headers of a request together.')
    """
    return [
        (entry.name, getattr(limits, entry.name), entry.metadata["meaning"])
        for entry in fields(limits)
    ]
