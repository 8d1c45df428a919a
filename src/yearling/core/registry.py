"""One registry for every kind of thing: the folder is the list, the file stem is the name.

    families = Registry[Family]("family", "yearling.models.families", "yearling.families")

    family = families.register(Family(...), __name__)    # in families/llama.py: registers `llama`

Looking a name up imports its one file and no other, so heavy neighbours cost nothing.
Packages outside enter through the entry-point group, by the same names.
"""

import re
from collections.abc import Iterator
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from pkgutil import iter_modules
from typing import Any, Generic, TypeVar

from yearling.core.errors import RegistryError

__all__ = ["Registry"]

Entry = TypeVar("Entry", bound=Any)
_NAME = re.compile(r"[a-z][a-z0-9_]*")


class Registry(Generic[Entry]):
    """Names of one kind and what they stand for, loaded when asked for.

    Attributes:
        kind: What an entry is, in the singular, for messages: `family`, `method`.
        package: Dotted name of the folder whose files are the entries.
        entry_points: Group through which other packages add entries.
    """

    def __init__(self, kind: str, package: str, entry_points: str) -> None:
        self.kind = kind
        self.package = package
        self.entry_points = entry_points
        self._entries: dict[str, Entry] = {}
        self._origins: dict[str, str] = {}

    def register(self, entry: Entry, module: str | None = None) -> Entry:
        """Register an entry under the stem of the file that defines it.

        Args:
            entry: A class, a function, or an object.
            module: `__name__` of the file; a class or function knows it by itself.
        Raises:
            RegistryError: the file registers a second entry.
        """
        module = module or entry.__module__
        name = module.rpartition(".")[2]
        # A reloaded file registers its class again: the same qualified name is the same entry.
        origin = f"{module}.{getattr(entry, '__qualname__', type(entry).__qualname__)}"
        known = self._origins.setdefault(name, origin)
        if known != origin:
            raise RegistryError(
                f"{self.kind} {name!r} is registered twice: by {known} and by {origin}.\n"
                "  One file holds one entry; move the second to a file of its own name."
            )
        self._entries[name] = entry
        return entry

    def names(self) -> tuple[str, ...]:
        """All names, sorted, without loading any entry."""
        return tuple(sorted({*self._file_names(), *self._outside()}))

    def get(self, name: str) -> Entry:
        """Give the entry of a name, importing its file when needed.

        Raises:
            RegistryError: nobody has that name, or its file registers nothing.
        """
        if name not in self._entries:
            self._entries[name] = self._load(name)
        return self._entries[name]

    def __iter__(self) -> Iterator[tuple[str, Entry]]:
        return ((name, self.get(name)) for name in self.names())

    def _load(self, name: str) -> Entry:
        outside = self._outside()
        if name in self._file_names():
            import_module(f"{self.package}.{name}")
            if name not in self._entries:
                raise RegistryError(
                    f"{self.package}.{name} registers no {self.kind} named {name!r}."
                )
            return self._entries[name]
        if name in outside:
            return outside[name].load()  # type: ignore[no-any-return]
        near = get_close_matches(name, self.names(), n=3, cutoff=0.4) or self.names()
        raise RegistryError(f"no {self.kind} is named {name!r}. Nearest: {', '.join(near)}.")

    def _file_names(self) -> set[str]:
        spec = find_spec(self.package)
        folders = spec.submodule_search_locations if spec is not None else None
        return {file.name for file in iter_modules(folders or []) if _NAME.fullmatch(file.name)}

    def _outside(self) -> dict[str, Any]:
        return {point.name: point for point in entry_points(group=self.entry_points)}
