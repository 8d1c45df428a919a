"""Lineage: one JSON record a step, linked to the records it came from.

A record says which data, configuration and earlier steps made a thing: data hash →
configuration → adapter → merge → quantised file → scores. Its name is the SHA-256 of its
content, so a record cannot be changed without every later one noticing.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import Field, ValidationError

from yearling.core.config import Config
from yearling.core.errors import LineageError
from yearling.core.paths import lineage_home

__all__ = ["LineageLedger", "LineageRecord", "hash_file", "hash_json"]

_CHUNK_BYTES = 1 << 20


class LineageRecord(Config):
    """What one step read, how it was set, and what it wrote; hashes are SHA-256 in hex."""

    step: str = Field(description="What was done: pull, train, merge, quantise, evaluate.")
    name: str = Field(description="What it was done to or made, as a user would call it.")
    created: str = Field(description="Time in UTC, ISO 8601, to the second.")
    version: str = Field(description="Version of Yearling that did it.")
    configuration: str | None = Field(default=None, description="Hash of the resolved one.")
    data: Mapping[str, str] = Field(default_factory=dict, description="Hash of each input.")
    outputs: Mapping[str, str] = Field(default_factory=dict, description="Hash of each output.")
    parents: tuple[str, ...] = Field(default=(), description="Ids of the records before.")

    @property
    def id(self) -> str:
        """SHA-256 of the record itself."""
        return hash_json(self.model_dump(mode="json"))


class LineageLedger:
    """A folder of records, one file each, only ever added to."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or lineage_home()

    def write(self, record: LineageRecord) -> str:
        """Add a record and give its id; writing the same one again changes nothing.

        Raises:
            LineageError: a parent is not in the ledger.
        """
        for parent in record.parents:
            self.read(parent)
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / f"{record.id}.json"
        part = file.with_suffix(".part")
        part.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
        part.replace(file)
        return record.id

    def read(self, record_id: str) -> LineageRecord:
        """Read one record.

        Raises:
            LineageError: it is not there, or was changed after it was written.
        """
        file = self.folder / f"{record_id}.json"
        try:
            record = LineageRecord.model_validate_json(file.read_bytes())
        except FileNotFoundError:
            raise LineageError(f"no lineage record {record_id} in {self.folder}.") from None
        except ValidationError as error:
            raise LineageError(f"{file} is not a lineage record: {error}") from error
        if record.id != record_id:
            raise LineageError(f"{file} was changed: its content hashes to {record.id}.")
        return record

    def makers(self, hashes: Iterable[str]) -> tuple[str, ...]:
        """Give the ids of records that wrote a file of one of these hashes, sorted."""
        wanted = set(hashes)
        files = sorted(self.folder.glob("*.json"))
        return tuple(f.stem for f in files if wanted & set(self.read(f.stem).outputs.values()))

    def ancestry(self, record_id: str) -> tuple[LineageRecord, ...]:
        """Give a record and everything it came from, each once, nearest first."""
        found: dict[str, LineageRecord] = {}
        waiting = [record_id]
        while waiting:
            current = waiting.pop(0)
            if current not in found:
                found[current] = self.read(current)
                waiting.extend(found[current].parents)
        return tuple(found.values())


def hash_file(path: Path) -> str:
    """Give the SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def hash_json(value: object) -> str:
    """Give the SHA-256 of a JSON value, whatever the order of its keys.

    >>> hash_json({"a": 1, "b": 2}) == hash_json({"b": 2, "a": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
