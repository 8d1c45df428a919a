"""Folders that a crash at any moment leaves either whole or not there at all.

A checkpoint is written beside its place (`.step-00000010.part-…`): every file is fsynced, a
manifest takes down each file's size and SHA-256, the folder is fsynced, renamed into place, and
its parent fsynced. Only then do the pointers `last` and `best` move, each a symbolic link that is
renamed over the old one, and only then is an older checkpoint removed. What is read is checked
against its manifest first, so a reader sees one checkpoint or another, never a mix.

Nothing here imports torch or NumPy: crashes are injected at every system call of this module, and
each of those runs is a process.
"""

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from yearling.core.errors import CheckpointError

__all__ = [
    "MANIFEST",
    "Manifest",
    "begin_part",
    "commit_part",
    "discard_part",
    "find_last",
    "list_folders",
    "point",
    "pointed",
    "read_folder",
    "recover",
    "retain",
    "step_of",
    "sweep",
    "sync_tree",
    "write_file",
    "write_folder",
]

MANIFEST = "manifest.json"
"""Lists every other file of a folder."""

_CHUNK_BYTES = 1 << 20
_LARGEST_MANIFEST_BYTES = 16 << 20
_PART = re.compile(r"\..+\.part-[0-9a-f]{32}")
_NAME = re.compile(r"step-(\d{8,16})(?:-(\d{1,4}))?")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Manifest:
    """What a whole folder holds.

    Attributes:
        sizes: Bytes of each file, by its path inside the folder.
        digests: SHA-256 of each file, in hex.
    """

    sizes: dict[str, int]
    digests: dict[str, str]

    def to_json(self) -> bytes:
        """Write it down, with a digest of its own."""
        files = {
            name: {"bytes": self.sizes[name], "sha256": self.digests[name]}
            for name in sorted(self.sizes)
        }
        document = {"files": files, "sha256": _hash_listing(files)}
        return (json.dumps(document, indent=1) + "\n").encode()


def step_of(folder: Path) -> int:
    """Read the step out of a checkpoint's name.

    >>> step_of(Path("run/checkpoints/step-00000010"))
    10
    """
    match = _NAME.fullmatch(folder.name)
    if match is None:
        raise CheckpointError(
            f"{folder} is not named like a checkpoint, step-00000010 for example.\n"
            "  Name a folder that training has written."
        )
    return int(match[1])


def write_folder(root: Path, step: int, fill: Callable[[Path], None]) -> Path:
    """Write a checkpoint so that it is there whole or not at all, and point `last` at it.

    Args:
        root: Folder of all checkpoints of the run; made when missing.
        step: Steps done, which names the checkpoint.
        fill: Writes the files into the empty folder it is given.

    Returns:
        The checkpoint's folder.

    Raises:
        CheckpointError: the disk is full or fails; every earlier checkpoint is as it was.
    """
    part = begin_part(root, step)
    try:
        with _told(f"write step {step}", part):
            fill(part)
        return commit_part(part)
    except BaseException:
        discard_part(part)
        raise


def begin_part(root: Path, step: int) -> Path:
    """Make the empty folder that a checkpoint is written into.

    Raises:
        CheckpointError: it cannot be made.
    """
    part = root / f".step-{step:08d}.part-{uuid4().hex}"
    with _told("begin a checkpoint", part):
        _make_durably(root)
        part.mkdir()
    return part


def commit_part(part: Path) -> Path:
    """Make a written folder the run's last checkpoint; returns its new place.

    Raises:
        CheckpointError: the disk is full or fails; every earlier checkpoint is as it was.
    """
    root = part.parent
    with _told("commit a checkpoint", part):
        manifest = _manifest_of(part)
        write_file(part / MANIFEST, manifest.to_json())
        sync_tree(part)
        folder = _free_place(root, part.name[1:].partition(".part-")[0])
        part.rename(folder)
        _sync(root)
    point(root, "last", folder)
    return folder


def discard_part(part: Path) -> None:
    """Remove what was begun and not committed; what cannot be removed now is swept later."""
    shutil.rmtree(part, ignore_errors=True)


def write_file(path: Path, content: bytes) -> None:
    """Write one file and wait until the disk has it.

    Raises:
        CheckpointError: the disk is full or fails; the message names the file.
    """
    with _told("write", path), path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_tree(folder: Path) -> None:
    """Wait until the disk has every file and folder below a folder, and the folder itself.

    Raises:
        CheckpointError: the disk fails.
    """
    with _told("fsync", folder):
        for path in sorted(folder.rglob("*"), reverse=True):  # what is inside comes first
            _sync(path)
        _sync(folder)


def point(root: Path, name: str, folder: Path) -> None:
    """Let a pointer such as `last` or `best` name a checkpoint, in one instant.

    Raises:
        CheckpointError: the disk is full or fails; the pointer is as it was.
    """
    part = root / f".{name}.part-{uuid4().hex}"
    with _told(f"point at {folder.name}", root / name):
        part.symlink_to(folder.name)
        try:
            part.replace(root / name)
        except OSError:
            part.unlink(missing_ok=True)
            raise
        _sync(root)


def pointed(root: Path, name: str) -> Path | None:
    """Where a pointer points; None when there is none, or what it named is gone."""
    try:
        folder = root / (root / name).readlink()
    except OSError:
        return None
    is_inside = folder.parent == root and _NAME.fullmatch(folder.name) is not None
    return folder if is_inside and folder.is_dir() else None


def list_folders(root: Path) -> list[Path]:
    """Every checkpoint of a run, whole or damaged, newest first.

    Raises:
        CheckpointError: the folder cannot be listed.
    """
    with _told("list", root):
        try:
            found = [path for path in root.iterdir() if _NAME.fullmatch(path.name)]
        except FileNotFoundError:
            return []
    return sorted(found, key=_order, reverse=True)


def read_folder(folder: Path) -> Manifest:
    """Check every byte of a folder against its manifest.

    Raises:
        CheckpointError: it is not whole; the message names the file at fault.
    """
    with _told("read", folder):
        manifest = _read_manifest(folder / MANIFEST)
        present = set(_files_of(folder)) - {MANIFEST}
        if present != set(manifest.sizes):
            name = min(present ^ set(manifest.sizes))
            fault = "is not in the manifest" if name in present else "is missing"
            raise _damaged(folder / name, fault)
        for name, size in manifest.sizes.items():
            found = (folder / name).stat().st_size
            if found != size:
                raise _damaged(folder / name, f"has {found} bytes, written were {size}")
        for name, digest in manifest.digests.items():
            if _hash(folder / name) != digest:
                raise _damaged(folder / name, "does not have the SHA-256 it was written with")
    return manifest


def find_last(root: Path, *, allows_previous: bool = True) -> Path | None:
    """Find the newest whole checkpoint of a run; None when none was ever written.

    Args:
        root: Folder of all checkpoints of the run.
        allows_previous: Whether a damaged checkpoint is passed over, with a warning in the log,
            for the newest whole one before it; else it is an error.

    Raises:
        CheckpointError: there are checkpoints, but the newest or all of them are damaged.
    """
    faults: list[CheckpointError] = []
    for folder in list_folders(root):
        try:
            read_folder(folder)
        except CheckpointError as fault:
            if not allows_previous:
                raise
            faults.append(fault)
            _log.warning("Passing over a damaged checkpoint: %s", fault)
        else:
            return folder
    if faults:
        raise CheckpointError(
            f"none of the {len(faults)} checkpoints in {root} is whole. The newest: {faults[0]}\n"
            "  Restore one from a backup, or start anew in another folder."
        )
    return None


def retain(root: Path, keep: int) -> None:
    """Remove old checkpoints, but never what `last` or `best` name, nor anything newer than last.

    Args:
        root: Folder of all checkpoints of the run.
        keep: Checkpoints to keep besides the best one, at least 1.

    Raises:
        ValueError: keep is below 1.
        CheckpointError: one cannot be removed.
    """
    if keep < 1:
        raise ValueError(f"keep={keep} checkpoints would leave none to resume from.")
    last, best = pointed(root, "last"), pointed(root, "best")
    if last is None:
        return
    older = [folder for folder in list_folders(root) if _order(folder) < _order(last)]
    for folder in older[keep - 1 :]:
        if folder != best:
            _remove(folder)


def recover(root: Path) -> Path | None:
    """Put a run's folder in order after a crash, and find where it goes on.

    What was begun and not committed is removed, and `last` names the newest whole checkpoint.

    Raises:
        CheckpointError: there are checkpoints, and all are damaged; or the disk fails.
    """
    sweep(root)
    newest = find_last(root)
    if newest is not None and newest != pointed(root, "last"):
        point(root, "last", newest)
    return newest


def sweep(root: Path) -> None:
    """Remove what was begun and not committed; only while nobody writes.

    Raises:
        CheckpointError: a part cannot be removed.
    """
    with _told("sweep", root):
        for path in list(root.iterdir()) if root.is_dir() else ():
            if not _PART.fullmatch(path.name):
                continue
            if path.is_symlink():
                path.unlink()
            else:
                shutil.rmtree(path)


def _order(folder: Path) -> tuple[int, int]:
    """A checkpoint's place in time: its step, and how often that step was written before."""
    match = _NAME.fullmatch(folder.name)
    assert match is not None, f"{folder} is no checkpoint"
    return int(match[1]), int(match[2] or 0)


def _free_place(root: Path, name: str) -> Path:
    """A place that nothing has; a step that is written again stands beside the first one."""
    again = [root / name, *(root / f"{name}-{number}" for number in range(1, 10_000))]
    return next(place for place in again if not place.exists())


def _remove(folder: Path) -> None:
    """Take a checkpoint's name away first: what is half removed must not look like one."""
    part = folder.parent / f".{folder.name}.part-{uuid4().hex}"
    with _told("remove", folder):
        folder.rename(part)
        shutil.rmtree(part)


def _manifest_of(folder: Path) -> Manifest:
    names = _files_of(folder)
    sizes = {name: (folder / name).stat().st_size for name in names}
    return Manifest(sizes, {name: _hash(folder / name) for name in names})


def _read_manifest(path: Path) -> Manifest:
    if not path.is_file():
        raise _damaged(path, "is missing")
    if path.stat().st_size > _LARGEST_MANIFEST_BYTES:
        raise _damaged(path, f"is larger than {_LARGEST_MANIFEST_BYTES} bytes")
    try:
        document = json.loads(path.read_bytes())
        files = document["files"]
        sizes = {str(name): int(entry["bytes"]) for name, entry in files.items()}
        digests = {str(name): str(entry["sha256"]) for name, entry in files.items()}
        is_own = document["sha256"] == _hash_listing(files)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(path, "is not a manifest") from error
    if not is_own:
        raise _damaged(path, "does not have the SHA-256 it was written with")
    return Manifest(sizes, digests)


def _hash_listing(files: object) -> str:
    text = json.dumps(files, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _files_of(folder: Path) -> Sequence[str]:
    """Paths of all files inside, sorted; anything but files and folders is a fault."""
    names = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise _damaged(path, "is not a plain file")
        if path.is_file():
            names.append(path.relative_to(folder).as_posix())
    return names


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        os.close(descriptor)


def _make_durably(folder: Path) -> None:
    """Make a folder and those above it; each new name is on the disk before it is used."""
    if folder.is_dir():
        return
    _make_durably(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync(folder.parent)


def _damaged(path: Path, fault: str) -> CheckpointError:
    return CheckpointError(f"{path} {fault}: this checkpoint is damaged.")


@contextmanager
def _told(what: str, path: Path) -> Iterator[None]:
    """Turn what the system refuses into an error that names the file and what is left."""
    try:
        yield
    except OSError as error:
        place = error.filename or path
        raise CheckpointError(
            f"cannot {what}: {place}: {error.strerror or error}.\n"
            "  Checkpoints that were there before are untouched; free space or check the disk, "
            "then resume."
        ) from error
