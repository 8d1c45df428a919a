"""From what a user calls a path to the files behind it, and the reader of each.

data/train.jsonl      data/            data/*.jsonl.gz      hf:org/name:train
data/train.csv#500    a sample of 500 of its rows
"""

import glob
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from yearling.core.errors import DataError
from yearling.data.readers import Reader, readers
from yearling.data.rows import BadRow, Row

__all__ = ["Source", "find_sources"]

_SAMPLE = re.compile(r"(.+)#(\d+)")
_HUB = "hf:"
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """What one path stands for.

    Attributes:
        files: Files with their readers, in the order of their names; or one data set.
        sample: Rows to take of all of them together; None for all.
    """

    files: tuple[tuple[str, Reader], ...]
    sample: int | None = None

    def read(self) -> Iterator[Row | BadRow]:
        """Give the rows of all files.

        Raises:
            DataError: a file cannot be read.
        """
        for path, reader in self.files:
            yield from reader.read(path)


def find_sources(path: str) -> Source:
    """Find what a path stands for: a file, a folder, a glob or a data set, `#N` behind it or not.

    Raises:
        DataError: there is nothing, its format has no reader, or a folder mixes formats.
    """
    match = None if Path(path).exists() else _SAMPLE.fullmatch(path)
    name, sample = (match[1], int(match[2])) if match else (path, None)
    if sample == 0:
        raise DataError(f"{path} asks for a sample of 0 rows.")
    if name.startswith(_HUB):
        return Source(((name, readers.get("hub")),), sample)
    if Path(name).is_file():
        return Source(((name, _reader_of(name)),), sample)
    if Path(name).is_dir():
        return Source(_in_folder(name), sample)
    # Path.glob takes no absolute pattern.
    matches = sorted(glob.glob(name, recursive=True))  # noqa: PTH207
    found = [file for file in matches if Path(file).is_file()]
    if not found:
        raise DataError(f"{name} leads to no file.{_nearest(name)}")
    return Source(tuple((file, _reader_of(file)) for file in found), sample)


def _in_folder(folder: str) -> tuple[tuple[str, Reader], ...]:
    found: dict[str, list[str]] = {}
    passed_over = []
    for file in sorted(Path(folder).rglob("*")):
        if not file.is_file() or any(
            part.startswith(".") for part in file.relative_to(folder).parts
        ):
            continue
        name = _format_of(str(file))
        if name is None:
            passed_over.append(file.name)
        else:
            found.setdefault(name, []).append(str(file))
    if passed_over:
        _logger.warning("%s: no reader for %s", folder, ", ".join(passed_over))
    if len(found) > 1:
        kinds = ", ".join(f"{len(files)} {name}" for name, files in sorted(found.items()))
        raise DataError(
            f"{folder} mixes formats: {kinds}.\n"
            f"  Name one with a glob, such as {folder.rstrip('/')}/*.jsonl."
        )
    if not found:
        raise DataError(f"{folder} holds no file that a reader knows: {_suffixes()}.")
    ((name, files),) = found.items()
    return tuple((file, readers.get(name)) for file in files)


def _reader_of(path: str) -> Reader:
    name = _format_of(path)
    if name is None:
        raise DataError(f"{path} has no reader: a file's name must end in {_suffixes()}.")
    return readers.get(name)


def _format_of(path: str) -> str | None:
    lower = path.lower()
    return next((name for name, one in readers if lower.endswith(one.suffixes or "\0")), None)


def _suffixes() -> str:
    return ", ".join(sorted(suffix for _, reader in readers for suffix in reader.suffixes))


def _nearest(name: str) -> str:
    folder = Path(name).parent
    if not folder.is_dir():
        return f" The folder {folder} does not exist."
    near = get_close_matches(Path(name).name, [file.name for file in folder.iterdir()], n=3)
    return f" Nearest in {folder}: {', '.join(near)}." if near else ""
