"""Readers: one file for each format of files, its stem the name of the format.

A reader gives rows one by one and holds no more than one of them in memory, or one block where
the format comes in blocks. What it cannot read becomes a `BadRow` with its place, and reading goes
on behind it; only a file of which nothing more can be read is an error.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from yearling.core.registry import Registry
from yearling.data.rows import BadRow, Row

__all__ = ["Reader", "readers"]


@dataclass(frozen=True)
class Reader:
    """A reader as the registry holds it.

    Attributes:
        summary: One sentence.
        suffixes: Ends of the names of its files, with the dot; empty where they are no files.
        read: Reads a path, or the name of a data set. Raises DataError when it cannot be opened,
            or is damaged so that nothing more can be read.
    """

    summary: str
    suffixes: tuple[str, ...]
    read: Callable[[str], Iterator[Row | BadRow]]


readers: Registry[Reader] = Registry("reader", __name__, "yearling.readers")
"""Every reader, by the name of its file."""
