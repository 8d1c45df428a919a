"""Downloads that go on where they stopped, and files that are whole or not there at all."""

import hashlib
import http.client
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from yearling.core.errors import DownloadError

__all__ = ["Expected", "Progress", "copy_checked", "download", "require_space", "sync_path"]

Progress = Callable[[int, int], None]

_CHUNK_BYTES = 1 << 20
_TIMEOUT_SECONDS = 30.0
_FRUITLESS_TRIES = 4
_FIRST_PAUSE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Expected:
    """What a file must be: its size in bytes and its SHA-256 in hex."""

    size_bytes: int
    sha256: str


def download(url: str, target: Path, expected: Expected, progress: Progress | None = None) -> None:
    """Fetch a file over HTTP; it appears under its name only when it is whole and right.

    What arrives is kept in `<target>.partial`, and this or a later call asks the server only
    for the rest. Tries that bring bytes cost nothing; after four in a row that bring none the
    download fails.

    Args:
        url: An `http` or `https` address.
        target: Where the file goes.
        expected: Size and hash it must have.
        progress: Called with bytes present and bytes in all.

    Raises:
        DownloadError: the server does not deliver, or delivers another file than expected.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise DownloadError(f"{url} is not an http or https address.")
    partial = target.with_name(target.name + ".partial")
    fruitless, pause = 0, _FIRST_PAUSE_SECONDS
    while (present := _size(partial)) < expected.size_bytes:
        problem = _fetch_rest(url, partial, expected, progress)
        if _size(partial) > present:
            fruitless, pause = 0, _FIRST_PAUSE_SECONDS
            continue
        fruitless += 1
        if fruitless >= _FRUITLESS_TRIES:
            raise DownloadError(
                f"{url} does not arrive: {problem}. {present} of {expected.size_bytes} bytes "
                "are kept; pull again to go on from there."
            )
        time.sleep(pause)
        pause *= 2
    _accept(partial, target, expected, url)


def _fetch_rest(url: str, partial: Path, expected: Expected, progress: Progress | None) -> str:
    """Append what one response brings, and say how it ended."""
    present = _size(partial)
    headers = {"User-Agent": "yearling", "Accept-Encoding": "identity"}
    if present:
        headers["Range"] = f"bytes={present}-"
    try:
        request = urllib.request.Request(url, headers=headers)
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response:
            starts_over = response.status != http.HTTPStatus.PARTIAL_CONTENT
            if not starts_over and not _continues(response.headers, present):
                return f"the server sent {response.headers['Content-Range']!r} for {present}-"
            with partial.open("wb" if starts_over else "ab") as file:
                chunks = iter(lambda: response.read1(_CHUNK_BYTES), b"")
                _append(file.write, chunks, file.tell(), expected.size_bytes, progress)
    except urllib.error.HTTPError as error:
        return f"HTTP status {error.code} {error.reason}"
    except (OSError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__
    return "the connection ended early"


def _continues(headers: http.client.HTTPMessage, present: int) -> bool:
    return headers.get("Content-Range", "").startswith(f"bytes {present}-")


def _append(
    write: Callable[[bytes], int],
    chunks: Iterable[bytes],
    done: int,
    size_bytes: int,
    progress: Progress | None,
) -> None:
    for chunk in chunks:
        # One byte too many is enough to know that the file is another one.
        write(chunk[: size_bytes + 1 - done])
        done += len(chunk)
        if progress is not None:
            progress(min(done, size_bytes), size_bytes)
        if done > size_bytes:
            return


def _accept(partial: Path, target: Path, expected: Expected, source: str) -> None:
    with partial.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    size = _size(partial)
    if (size, found) != (expected.size_bytes, expected.sha256):
        partial.unlink()
        raise DownloadError(
            f"{source} is not the expected file: {size} bytes with SHA-256 {found} instead of "
            f"{expected.size_bytes} bytes with {expected.sha256}. It was thrown away."
        )
    partial.replace(target)
    sync_path(target.parent)


def copy_checked(
    chunks: Iterable[bytes],
    target: Path,
    expected: Expected,
    progress: Progress | None = None,
) -> None:
    """Write chunks to a new file and bring it to the disk, if they are what is expected.

    Raises:
        DownloadError: size or hash differ; the file is removed.
    """
    digest, done = hashlib.sha256(), 0
    with target.open("xb") as file:
        for chunk in chunks:
            done += len(chunk)
            if done > expected.size_bytes:
                break
            digest.update(chunk)
            file.write(chunk)
            if progress is not None:
                progress(done, expected.size_bytes)
        file.flush()
        os.fsync(file.fileno())
    if (done, digest.hexdigest()) != (expected.size_bytes, expected.sha256):
        target.unlink()
        raise DownloadError(
            f"{target.name} unpacks to {done} bytes with SHA-256 {digest.hexdigest()} instead of "
            f"{expected.size_bytes} bytes with {expected.sha256}; it was thrown away."
        )


def require_space(folder: Path, size_bytes: int) -> None:
    """Refuse to start what cannot fit.

    Raises:
        DownloadError: the file system has less room than that.
    """
    free = shutil.disk_usage(folder).free
    if free < size_bytes:
        raise DownloadError(
            f"{folder} has {free >> 20} MiB free and {size_bytes >> 20} MiB are needed. Make "
            "room, or set YEARLING_HOME to a folder elsewhere."
        )


def sync_path(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk: a rename then outlives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
