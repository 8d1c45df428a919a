"""Sections of a configuration that are written short, or whose keys depend on a name in them.

    schedule: cosine                     stands for   schedule: {name: cosine}
    optimizer: {name: adamw, lr: 2e-4}   has the keys of the registered optimizer `adamw`

A field is annotated with `Shorthand` or `Choice`; `load_config` knows both, so that messages and
overrides go on naming files, lines and nearest keys.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import core_schema

from yearling.core.errors import RegistryError
from yearling.core.registry import Registry

__all__ = ["Choice", "NamedEntry", "Shorthand"]


@dataclass(frozen=True)
class NamedEntry:
    """A registered entry by name, with its options.

    Attributes:
        name: As the registry has it.
        options: An instance of the entry's `config`.
    """

    name: str
    options: BaseModel

    def to_values(self) -> dict[str, Any]:
        """Give it as YAML has it, every default included."""
        return {"name": self.name, **self.options.model_dump(mode="json")}


@dataclass(frozen=True)
class Shorthand:
    """Marks a section that may be written as a single value, which then is that of one key."""

    key: str

    def expand(self, value: Any) -> Any:
        """Give a section for a value that is none.

        >>> Shorthand("name").expand("cosine")
        {'name': 'cosine'}
        """
        is_section = value is None or isinstance(value, Mapping | BaseModel)
        return value if is_section else {self.key: value}

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        """Expand before the section is validated."""
        return core_schema.no_info_before_validator_function(self.expand, handler(source))


@dataclass(frozen=True)
class Choice:
    """Marks a section of type `NamedEntry` whose keys are those of a registered entry.

    Attributes:
        registry: Holds the entries; each has a `config`.
        default: Name of the entry that is meant when none is given.
    """

    registry: Registry[Any]
    default: str | None = None

    def expand(self, value: Any) -> Any:
        """Give a section for a bare name."""
        return {"name": value} if isinstance(value, str) else value

    def config_of(self, value: Any) -> type[BaseModel] | None:
        """Give the class that has the keys of a section; None when its name is unknown."""
        section = self.expand(value)
        name = section.get("name", self.default) if isinstance(section, Mapping) else None
        if not isinstance(name, str):
            return None
        try:
            config: type[BaseModel] = self.registry.get(name.replace("-", "_")).config
        except RegistryError:
            return None
        return config

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        """Validate by the entry's own configuration; its errors keep their places."""
        accepts_none = type(None) in get_args(source)

        def read(value: Any) -> NamedEntry | None:
            if (value is None and accepts_none) or isinstance(value, NamedEntry):
                return value
            return self._read(self.expand(value))

        write = core_schema.plain_serializer_function_ser_schema(
            lambda entry: None if entry is None else entry.to_values()
        )
        return core_schema.no_info_plain_validator_function(read, serialization=write)

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """A name, or a section with one."""
        names = {"type": "string", "enum": list(self.registry.names())}
        section = {"type": "object", "properties": {"name": names}, "additionalProperties": True}
        return {"anyOf": [names, section]}

    def _read(self, section: Any) -> NamedEntry:
        kind, names = self.registry.kind, ", ".join(self.registry.names())
        if not isinstance(section, Mapping):
            raise ValueError(
                f"write the name of the {kind}, or `name:` with its options beside it; "
                f"there are {names}"
            )
        options = dict(section)
        name = options.pop("name", self.default)
        if not isinstance(name, str):
            raise ValueError(f"name says which {kind} is meant, and is missing; there are {names}")
        try:
            entry = self.registry.get(name.replace("-", "_"))
        except RegistryError as error:
            raise ValueError(str(error)) from None
        return NamedEntry(name.replace("-", "_"), entry.config.model_validate(options))
