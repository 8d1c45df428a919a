"""The four forms in which a request may give text: text, texts, token ids, lists of token ids."""

from yearling.core.errors import RequestError

__all__ = ["read_inputs"]


def read_inputs(raw: object, parameter: str, limit: int) -> tuple[str | tuple[int, ...], ...]:
    """Sort out the four forms.

    Args:
        raw: The field's value.
        parameter: The field's name, for messages.
        limit: Texts at most.

    Raises:
        RequestError: it is none of the forms, holds nothing, or too many texts.

    >>> read_inputs(["Hi", [72, 105]], "prompt", limit=2)
    ('Hi', (72, 105))
    """
    if isinstance(raw, str):
        return (raw,)
    if not isinstance(raw, list) or not raw:
        raise RequestError(
            f"{parameter} must be a text, a list of token ids, or a list of either, not empty.",
            parameter=parameter,
        )
    if isinstance(raw[0], int):
        return (_token_ids(raw, parameter),)
    if len(raw) > limit:
        raise RequestError(
            f"{parameter} holds {len(raw)} {parameter}s; {limit} is the limit.",
            parameter=parameter,
        )
    return tuple(
        text if isinstance(text, str) else _token_ids(text, f"{parameter}[{index}]")
        for index, text in enumerate(raw)
    )


def _token_ids(raw: object, where: str) -> tuple[int, ...]:
    if not isinstance(raw, list) or not raw:
        raise RequestError(f"{where} must be a text or a list of token ids.", parameter=where)
    for index, token in enumerate(raw):
        if type(token) is not int or token < 0:
            raise RequestError(
                f"{where}[{index}] must be a token id, a whole number from 0.",
                parameter=f"{where}[{index}]",
            )
    return tuple(raw)
