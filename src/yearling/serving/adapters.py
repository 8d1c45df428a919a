"""The adapters that an engine serves beside its model, by name."""

from dataclasses import dataclass
from pathlib import Path

from yearling.core.errors import ConfigError, RequestError, UnsupportedError
from yearling.serving.executor import AdapterExecutor, Executor

__all__ = ["Adapter", "Adapters"]


@dataclass(eq=False, slots=True)
class Adapter:
    """A loaded adapter.

    Attributes:
        name: By which requests name it.
        number: By which the executor knows it.
        version: Changes whenever its weights do.
        num_users: Open requests that name it.
        is_gone: Whether it was unloaded: no request may name it any more.
    """

    name: str
    number: int
    version: str
    num_users: int = 0
    is_gone: bool = False


class Adapters:
    """Loads and frees adapters; one that is unloaded serves the requests that have it first."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._by_name: dict[str, Adapter] = {}
        self._numbers: set[int] = set()

    def names(self) -> list[str]:
        """Names that requests may give, in order of loading."""
        return list(self._by_name)

    def load(self, name: str, folder: Path) -> None:
        """Load an adapter.

        Raises:
            ConfigError: the name is empty, or another adapter's.
            ModelError: it cannot be read, or is of another model.
            UnsupportedError: the executor serves none.
        """
        if not name or name in self._by_name:
            raise ConfigError(
                f"an adapter named {name!r} is loaded already: unload it first, or give another "
                "name."
                if name
                else "an adapter needs a name."
            )
        executor = self._able_executor()
        number = next(n for n in range(len(self._numbers) + 1) if n not in self._numbers)
        version = executor.load_adapter(number, folder)
        self._numbers.add(number)
        self._by_name[name] = Adapter(name, number, version)

    def unload(self, name: str) -> None:
        """Let no further request name an adapter; it is freed when the last that has it ends.

        Raises:
            RequestError: there is none of that name.
        """
        adapter = self._find(name)
        del self._by_name[name]
        adapter.is_gone = True
        self._free_unused(adapter)

    def take(self, name: str) -> Adapter | None:
        """Give the adapter of a request that begins; none without a name.

        Raises:
            RequestError: there is none of that name.
        """
        if not name:
            return None
        adapter = self._find(name)
        adapter.num_users += 1
        return adapter

    def give_back(self, adapter: Adapter | None) -> None:
        """Note that a request that took an adapter has ended."""
        if adapter is not None:
            adapter.num_users -= 1
            self._free_unused(adapter)

    def _find(self, name: str) -> Adapter:
        if name not in self._by_name:
            there = ", ".join(self._by_name) or "none"
            raise RequestError(f"no adapter is named {name!r:.80}; there is {there}.")
        return self._by_name[name]

    def _free_unused(self, adapter: Adapter) -> None:
        if adapter.is_gone and adapter.num_users == 0:
            self._able_executor().unload_adapter(adapter.number)
            self._numbers.discard(adapter.number)

    def _able_executor(self) -> AdapterExecutor:
        if not isinstance(self._executor, AdapterExecutor):
            raise UnsupportedError(
                "adapters are served by the native core alone: leave executor out, or merge the "
                "adapter into its base with yearling merge.",
                parameter="adapter",
            )
        return self._executor
