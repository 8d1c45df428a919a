"""GET / and /assets/*: the web page, from files read once; nothing in it leaves the machine."""

import hashlib
import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

__all__ = ["asset", "page"]

# Nothing inline at all: formulas get their styles through the DOM, which no policy forbids.
_POLICY = "; ".join(
    (
        "default-src 'self'",
        "img-src 'self' data: blob:",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_TYPES = {
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
}


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    media_type: str
    tag: str


async def page(request: Request) -> Response:
    """Give the page itself."""
    return _serve(request, "index.html")


async def asset(request: Request) -> Response:
    """Give a file of the page; only names in the listing made at start exist."""
    return _serve(request, f"assets/{request.path_params['path']}")


def _serve(request: Request, name: str) -> Response:
    path = _listing().get(name)
    if path is None:
        raise HTTPException(404)
    file = _read(path)
    headers = {
        "etag": file.tag,
        "cache-control": "no-cache",
        "content-security-policy": _POLICY,
        "referrer-policy": "no-referrer",
        "cross-origin-resource-policy": "same-origin",
    }
    if request.headers.get("if-none-match") == file.tag:
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers=headers, media_type=file.media_type)


@cache
def _listing() -> Mapping[str, Path]:
    """Every file of the page by its name in a URL, so that no path is ever walked."""
    root = Path(__file__).parents[1] / "static"
    return {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}


@cache
def _read(path: Path) -> _File:
    content = path.read_bytes()
    kind = _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0]
    return _File(
        content,
        kind or "application/octet-stream",
        f'"{hashlib.sha256(content).hexdigest()[:32]}"',
    )
