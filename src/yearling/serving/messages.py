"""What an engine and the process that serves it say to each other, and how it is framed.

A frame is four bytes of length and a MessagePack body. Commands go to the engine; reports come
back, one per step. The in-process engine passes the same objects without framing them.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from yearling.core import errors
from yearling.core.errors import EngineError, RequestError, YearlingError
from yearling.serving.admission import AdmissionLimits
from yearling.serving.engine import EngineStats
from yearling.serving.request import (
    EmbeddingRequest,
    EngineRequest,
    GenerationRequest,
    OutputEvent,
    SamplingParams,
)

__all__ = [
    "AdapterChanged",
    "Add",
    "Cancel",
    "Command",
    "Embed",
    "ErrorReport",
    "FrameReader",
    "LoadAdapter",
    "Ready",
    "Refused",
    "Report",
    "Start",
    "StartFailed",
    "StepReport",
    "Stop",
    "UnloadAdapter",
    "admission_command",
    "decode_command",
    "decode_report",
    "encode_frame",
]

_LENGTH_BYTES = 4
# A step's news is a few kilobytes and a prompt a few hundred: more is a broken stream.
_MAX_FRAME_BYTES = 1 << 28


class ErrorReport(msgspec.Struct, frozen=True):
    """A typed error on its way to another process."""

    kind: str
    message: str
    parameter: str | None = None

    @classmethod
    def of(cls, error: Exception) -> "ErrorReport":
        """Describe an error; one that is not ours keeps its type's name in the message."""
        if isinstance(error, YearlingError):
            return cls(type(error).__name__, str(error), getattr(error, "parameter", None))
        return cls("EngineError", f"{type(error).__name__}: {error}")

    def to_error(self) -> YearlingError:
        """The error itself, of its own type."""
        known = self.kind in errors.__all__
        kind: type[YearlingError] = getattr(errors, self.kind) if known else EngineError
        if issubclass(kind, RequestError):
            return kind(self.message, parameter=self.parameter)
        return kind(self.message)


class Start(msgspec.Struct, tag=True):
    """First command: build the engine.

    Attributes:
        entry: `module:function` that is given the arguments and returns the engine.
        arguments: Plain data.
    """

    entry: str
    arguments: dict[str, Any]


class Add(msgspec.Struct, tag=True):
    """Admit a request."""

    request: GenerationRequest


class Embed(msgspec.Struct, tag=True):
    """Admit an embedding request."""

    request: EmbeddingRequest


class Cancel(msgspec.Struct, tag=True):
    """Cancel a request; nothing happens when it has ended already."""

    request_id: str


class LoadAdapter(msgspec.Struct, tag=True):
    """Load an adapter; `AdapterChanged` follows."""

    name: str
    folder: str


class UnloadAdapter(msgspec.Struct, tag=True):
    """Let no further request name an adapter; `AdapterChanged` follows."""

    name: str


class Stop(msgspec.Struct, tag=True):
    """Cancel all requests, tell so, and end."""


class Ready(msgspec.Struct, tag=True):
    """The engine is built."""

    limits: AdmissionLimits
    stats: EngineStats


class StartFailed(msgspec.Struct, tag=True):
    """The engine could not be built."""

    error: ErrorReport


class Refused(msgspec.Struct, tag=True):
    """A request was not admitted, so no event will follow."""

    request_id: str
    error: ErrorReport


class AdapterChanged(msgspec.Struct, tag=True):
    """An adapter was loaded or unloaded, or could not be; in the order of the commands."""

    error: ErrorReport | None = None


class StepReport(msgspec.Struct, tag=True):
    """All news of a step, and the engine's counters after it."""

    events: list[OutputEvent]
    stats: EngineStats


Command = Start | Add | Embed | Cancel | LoadAdapter | UnloadAdapter | Stop
Report = Ready | StartFailed | Refused | AdapterChanged | StepReport


def admission_command(request: EngineRequest) -> Command:
    """The command that admits a request."""
    return Embed(request) if isinstance(request, EmbeddingRequest) else Add(request)


def _to_plain(value: object) -> object:
    if isinstance(value, SamplingParams):
        return value.model_dump()
    raise TypeError(f"{type(value).__name__} does not cross the process border")


def _from_plain(kind: type, value: Any) -> object:
    if kind is SamplingParams:
        return SamplingParams.model_validate(value)
    raise TypeError(f"{kind.__name__} does not cross the process border")


_encode = msgspec.msgpack.Encoder(enc_hook=_to_plain).encode
decode_command = msgspec.msgpack.Decoder(Command, dec_hook=_from_plain).decode
decode_report = msgspec.msgpack.Decoder(Report).decode


def encode_frame(message: Command | Report) -> bytes:
    """A message as it goes over the socket."""
    body = _encode(message)
    return len(body).to_bytes(_LENGTH_BYTES, "little") + body


class FrameReader:
    """Cuts a stream of bytes into frame bodies."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterable[bytes]:
        """Take bytes in any portions; yield each body that they complete.

        Raises:
            ValueError: a length that no frame has.
        """
        self._buffer += data
        start = 0
        while len(self._buffer) - start >= _LENGTH_BYTES:
            body = start + _LENGTH_BYTES
            length = int.from_bytes(self._buffer[start:body], "little")
            if length > _MAX_FRAME_BYTES:
                raise ValueError(f"a frame of {length} bytes: the stream is broken")
            if len(self._buffer) < body + length:
                break
            yield bytes(self._buffer[body : body + length])
            start = body + length
        del self._buffer[:start]
