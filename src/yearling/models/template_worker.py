"""The process that renders chat templates, so that no template can hurt its caller.

Jinja's sandbox bounds what a template can reach, not what it costs: a few nested loops or a
doubled string take any amount of time and memory. So this file runs as a process of its own
under limits of the kernel, and dies instead of its caller. It is started by its path with the
caller's import path as arguments, imports nothing of Yearling, and ends when its socket, file
descriptor 0, is closed.

A message is four bytes of length and a JSON object. `{source, variables, limit}` is answered
by `{text}`, `{source}` by `{names}`, the variables a template reads, and either by `{error}`,
with `is_spent` where this process ends because its memory ran out.
"""

import json
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from typing import Any

__all__ = ["FRAME_LIMIT_BYTES", "read_exactly", "serve"]

FRAME_LIMIT_BYTES = 1 << 26
_MEMORY_BYTES = 256 << 20
_PROCESSOR_SECONDS = 1.0
_COMPILED_TEMPLATES = 32


def serve(channel: socket.socket) -> None:
    """Answer requests until the other side closes the channel."""
    environment = _environment()
    compiled: dict[str, Any] = {}
    while header := channel.recv(4, socket.MSG_WAITALL):
        request = json.loads(read_exactly(channel, int.from_bytes(header, "big")))
        # Counts this process's own processor time; its signal ends the process even inside C.
        signal.setitimer(signal.ITIMER_PROF, _PROCESSOR_SECONDS)
        answer = _answer(environment, compiled, request)
        body = json.dumps(answer).encode()
        signal.setitimer(signal.ITIMER_PROF, 0)
        channel.sendall(len(body).to_bytes(4, "big") + body)
        if "is_spent" in answer:
            return


def read_exactly(channel: socket.socket, length: int) -> bytes:
    """Read a number of bytes.

    Raises:
        EOFError: the other side closed the channel before.
    """
    received = bytearray()
    while len(received) < length:
        chunk = channel.recv(min(length - len(received), 1 << 20))
        if not chunk:
            raise EOFError
        received += chunk
    return bytes(received)


def _answer(environment: Any, compiled: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
    from jinja2 import TemplateSyntaxError, meta

    source = request["source"]
    try:
        if "variables" not in request:
            names = meta.find_undeclared_variables(environment.parse(source))
            return {"names": sorted(names)}
        if source not in compiled:
            if len(compiled) >= _COMPILED_TEMPLATES:
                compiled.clear()
            compiled[source] = environment.from_string(source)
        pieces = compiled[source].generate(**request["variables"])
        return {"text": _join(pieces, request["limit"])}
    except TemplateSyntaxError as error:
        return {"error": f"line {error.lineno}: {error.message}"[:1000]}
    except MemoryError:
        reason = f"it needs more than {_MEMORY_BYTES >> 20} MiB of memory"
        return {"error": reason, "is_spent": True}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:1000]}


def _join(pieces: Iterator[str], limit: int) -> str:
    kept, length = [], 0
    for piece in pieces:
        length += len(piece)
        if length > limit:
            raise ValueError(f"it writes more than {limit} characters for these messages")
        kept.append(piece)
    return "".join(kept)


def _environment() -> Any:
    """The one Jinja environment of the package, set up as transformers sets up its own."""
    from jinja2 import TemplateError, ext, nodes
    from jinja2.exceptions import SecurityError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Environment(ImmutableSandboxedEnvironment):
        """Refuses an unsafe attribute at once; Jinja alone writes it as an empty text."""

        def unsafe_undefined(self, obj: object, attribute: str) -> Any:
            raise SecurityError(f"attribute {attribute!r} of {type(obj).__name__} is not allowed")

    class Generation(ext.Extension):
        """Accepts `{% generation %}`, which marks what an assistant wrote, as plain content."""

        tags = {"generation"}  # noqa: RUF012 - Jinja declares it so

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    environment = Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals.update(raise_exception=raise_exception, strftime_now=_strftime_now)
    return environment


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as a model reads it; Jinja's own filter escapes it for HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _strftime_now(form: str) -> str:
    from datetime import datetime

    return datetime.now().strftime(form)


def _limit_resources() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    for kind in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
        resource.setrlimit(kind, (0, 0))


if __name__ == "__main__":
    sys.path[:] = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's to handle
    _environment()  # imports Jinja before memory is limited
    _limit_resources()
    with socket.socket(fileno=0) as stream:
        serve(stream)
