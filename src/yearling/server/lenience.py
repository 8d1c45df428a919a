"""Reading the fields of a body: refusing what is not supported, or, if asked to, passing it over.

`yearling serve --lenient` is for clients that cannot be told to leave a field out. What was passed
over stands in the answer's `X-Ignored-Params` header, so even then nothing is ignored in silence.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import quote

from starlette.requests import Request

from yearling.core.errors import UnsupportedError

__all__ = ["ignored_header", "parsed"]

_Parsed = TypeVar("_Parsed")
_LONGEST_NAME = 64
_MOST_IGNORED = 32
_STEP = re.compile(r"\[\d+\]|[^.\[\]]+")


def parsed(
    request: Request, body: Mapping[str, Any], parse: Callable[..., _Parsed], *more: Any
) -> _Parsed:
    """Parse a body.

    Args:
        request: Whose it is; what is passed over is noted there.
        body: As it came.
        parse: Takes the body, and `more`.

    Raises:
        UnsupportedError: a field is not supported, and the server is not lenient, or there are
            more than 32 such fields.
        RequestError: a field is wrong.
    """
    ignored: list[str] = []
    while True:
        try:
            found = parse(body, *more)
        except UnsupportedError as error:
            name = error.parameter
            is_lenient = request.app.state.service.config.is_lenient
            rest = None if name is None or not is_lenient else _without(body, name)
            if rest is None or len(ignored) == _MOST_IGNORED:
                raise
            body = rest
            ignored.append(str(name))
        else:
            request.state.ignored = ignored
            return found


def _without(body: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """A body without a field, which may lie deep as in `messages[0].mood`; None: it has none."""
    if name in body:
        return {key: value for key, value in body.items() if key != name}
    steps = [int(step[1:-1]) if step[0] == "[" else step for step in _STEP.findall(name)]
    changed = dict(body)
    part: Any = changed
    try:
        last = steps.pop()
        for step in steps:
            part[step] = part[step].copy()
            part = part[step]
        del part[last]
    except (AttributeError, IndexError, KeyError, TypeError):
        return None
    return changed if isinstance(part, dict) else None


def ignored_header(names: list[str]) -> str:
    r"""Names of fields as a header's value, whatever clients call them.

    >>> ignored_header(["mood", "a\r\nb"])
    'mood, a%0D%0Ab'
    """
    return ", ".join(quote(name, safe="[]")[:_LONGEST_NAME] for name in names)
