"""Configuration: frozen models, YAML files, `--set` on top, and errors that say where.

A class's configuration sits beside it and derives from `Config`. Values come from defaults,
then a YAML file, then overrides such as `--set engine.context=4096`; a wrong one is reported
with the file, the line and the override it came from.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, SecretBytes, SecretStr, ValidationError
from pydantic_core import ErrorDetails

from yearling.core.errors import ConfigError
from yearling.core.section import Choice, Shorthand

__all__ = ["Config", "load_config", "save_config"]

Location = tuple[str, ...]
_SHOWN_CHARACTERS = 200
_MASK = "**********"


class Config(BaseModel):
    """Base of every configuration: frozen, no unknown keys, no infinities.

    Attributes:
        familiar_names: Keys that other tools have, and the keys that are meant, for messages:
            `{"learning_rate": "optimizer.lr"}`. Asked of the outermost configuration.

    >>> class Server(Config):
    ...     port: int = 8000
    >>> load_config(Server, overrides=["port=8001"]).port
    8001
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True
    )
    familiar_names: ClassVar[Mapping[str, str]] = {}


AnyConfig = TypeVar("AnyConfig", bound=BaseModel)


@dataclass
class _Source:
    """Values read so far, and where each of them was set."""

    kind: type[BaseModel]
    values: dict[str, Any] = field(default_factory=dict)
    set_in: dict[Location, str] = field(default_factory=dict)
    overridden_by: dict[Location, str] = field(default_factory=dict)
    seen_nodes: set[int] = field(default_factory=set)


def load_config(
    kind: type[AnyConfig], path: Path | None = None, overrides: Iterable[str] = ()
) -> AnyConfig:
    """Build a configuration from its defaults, then a YAML file, then overrides.

    Args:
        overrides: `section.key=value`, the value in YAML.
    Raises:
        ConfigError: a file cannot be read, or a key or value is wrong; the message names the
            file and line, and the override.
    """
    source = _Source(kind)
    if path is not None:
        _read_file(path, source)
    for override in overrides:
        _apply_override(override, source)
    try:
        return kind.model_validate(source.values)
    except ValidationError as error:
        problems = [_explain(detail, source) for detail in error.errors()]
        raise ConfigError("\n".join(problems)) from None


def save_config(config: BaseModel, path: Path) -> None:
    """Write the resolved configuration as YAML, every default included and secrets masked."""
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


class _Loader(yaml.SafeLoader):
    """YAML 1.2's words: `2e-4` is a number; `no`, `1:30` and dates are words."""


# PyYAML's own table has YAML 1.1's words, so ours starts from what both versions share.
_Loader.yaml_implicit_resolvers = {
    first: [pair for pair in resolvers if pair[0].endswith((":null", ":merge"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_WORDS = {
    "bool": (r"(?:true|True|TRUE|false|False|FALSE)", "tTfF"),
    "int": (r"[-+]?(?:0|[1-9][0-9_]*)|0x[0-9a-fA-F]+", "-+0123456789"),
    "float": (
        r"[-+]?(?:(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.inf)"
        r"|\.nan",
        "-+.0123456789",
    ),
}
for _word, (_pattern, _first) in _WORDS.items():
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_word}", re.compile(rf"^(?:{_pattern})$"), list(_first)
    )


def _read_file(path: Path, source: _Source) -> None:
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=_Loader)
    except FileNotFoundError:
        raise ConfigError(f"no configuration file at {path}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as UTF-8 text: {error}.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if root is None:
        return
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{path}:1 must hold `key: value` lines, not a list or a single value.")
    source.values = _construct(root, (), path, source)


def _construct(node: yaml.Node, at: Location, path: Path, source: _Source) -> Any:
    """Turn a YAML node into values, noting the line of each."""
    where = f"{path}:{node.start_mark.line + 1}"
    if id(node) in source.seen_nodes:
        raise ConfigError(f"{'.'.join(at)} is an alias of {where}: write the value out.")
    source.seen_nodes.add(id(node))
    if at:
        source.set_in[at] = where
    if isinstance(node, yaml.SequenceNode):
        return [
            _construct(item, (*at, str(index)), path, source)
            for index, item in enumerate(node.value)
        ]
    if isinstance(node, yaml.MappingNode):
        return _construct_mapping(node, at, path, source)
    try:
        return _Loader("").construct_object(node)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{where}: {'.'.join(at)} cannot be read: {error}") from error


def _construct_mapping(
    node: yaml.MappingNode, at: Location, path: Path, source: _Source
) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = str(key_node.value)
        if key in values:
            raise ConfigError(
                f"{'.'.join((*at, key))} is set twice in {path}: the second time in line "
                f"{key_node.start_mark.line + 1}. Remove one."
            )
        values[key] = _construct(value_node, (*at, key), path, source)
    return values


def _apply_override(override: str, source: _Source) -> None:
    dotted, equals, raw = override.partition("=")
    at = tuple(dotted.strip().split("."))
    if not equals or not all(at):
        raise ConfigError(f"--set {override}: write it as --set section.key=value.")
    shown = f"--set {dotted}={_MASK if _is_secret(source, at) else raw}"
    try:
        value = yaml.load(raw, Loader=_Loader)  # noqa: S506 - derives from SafeLoader
    except yaml.YAMLError as error:
        raise ConfigError(f"{shown}: the value is not valid YAML.") from error
    section = source.values
    for depth, key in enumerate(at[:-1], start=1):
        section[key] = _expanded(source, at[:depth], section.get(key))
        section = section[key]
        if not isinstance(section, dict):
            inner = ".".join(at[:depth])
            raise ConfigError(f"{shown}: {inner} is {_short(section)}, which has no keys.")
    section[at[-1]] = value
    source.overridden_by[at] = shown


def _explain(detail: ErrorDetails, source: _Source) -> str:
    at = tuple(str(part) for part in detail["loc"])
    dotted = ".".join(at)
    if detail["type"] == "extra_forbidden":
        near = ", ".join(_nearest(source, at))
        said = f"{_origin([at], source)}{f'Nearest: {near}.' if near else ''}"
        return _two_lines(f"{dotted} is not a known key", said)
    if detail["type"] == "missing":
        return f"{dotted} is missing: set it in a file or with --set {dotted}=VALUE."
    # "Value error" is pydantic's word for a check of ours; our own text says it all.
    message = detail["msg"].removeprefix("Value error, ").rstrip(".")
    if isinstance(detail["input"], dict) or not at:
        # A check across fields names them itself: say where each of those was set.
        named = [leaf for leaf in _leaves(source) if re.search(rf"\b{leaf[-1]}\b", message)]
        return _two_lines(message, _origin(named, source))
    shown = _MASK if _is_secret(source, at) else _short(detail["input"])
    return _two_lines(f"{dotted}={shown}: {message}", _origin([at], source))


def _two_lines(what: str, where: str) -> str:
    return f"{what}.\n  {where.rstrip()}" if where else f"{what}."


def _origin(locations: Sequence[Location], source: _Source) -> str:
    """Say where values came from: `Set in sft.yaml:7, overridden by --set …. `."""
    sentences = []
    for place in locations:
        at = place
        while at and at not in source.set_in and at not in source.overridden_by:
            at = at[:-1]  # a section that was written as a single value
        file, override = source.set_in.get(at), source.overridden_by.get(at)
        if file and override:
            sentences.append(f"Set in {file}, overridden by {override}. ")
        elif file or override:
            sentences.append(f"Set in {file}. " if file else f"Set by {override}. ")
    return "".join(sentences)


def _leaves(source: _Source) -> list[Location]:
    """Places that were set and hold no other place that was set."""
    places = dict.fromkeys((*source.set_in, *source.overridden_by))
    inner = {place[:depth] for place in places for depth in range(1, len(place))}
    return [place for place in places if place not in inner]


def _short(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"


def _nearest(source: _Source, at: Location) -> Sequence[str]:
    """Keys that an unknown one may have meant; the section's own when none is like it."""
    familiar = getattr(source.kind, "familiar_names", {}).get(at[-1])
    if familiar is not None:
        return [familiar]
    keys = _keys_at(source, at[:-1])
    if near := get_close_matches(at[-1], keys, n=3):
        return near
    inner = [(key, name) for key in keys for name in _keys_at(source, (*at[:-1], key))]
    elsewhere = [f"{key}.{name}" for key, name in inner if name == at[-1]]
    return elsewhere or sorted(keys)


def _keys_at(source: _Source, at: Location) -> list[str]:
    model = _model_at(source, at)
    return [] if model is None else list(model.model_fields)


def _expanded(source: _Source, at: Location, value: Any) -> Any:
    """The section that a value stands for: `adamw` for `{name: adamw}`."""
    if value is None:
        return {}
    model = _model_at(source, at[:-1])
    known = model.model_fields.get(at[-1]) if model is not None else None
    for mark in known.metadata if known is not None else ():
        if isinstance(mark, Choice | Shorthand):
            value = mark.expand(value)
    return value


def _is_secret(source: _Source, at: Location) -> bool:
    """Whether the value, or what holds it, is a secret that must not be printed."""
    for depth, key in enumerate(at):
        model = _model_at(source, at[:depth])
        known = model.model_fields.get(key) if model is not None else None
        if known is not None and _mentions_secret(known.annotation):
            return True
    return False


def _model_at(source: _Source, at: Location) -> type[BaseModel] | None:
    """The model whose keys stand at a place, when there is one."""
    annotation: Any = source.kind
    marks: Sequence[Any] = ()
    value: Any = source.values
    for key in at:
        if isinstance(value, list) and key.isdecimal():
            annotation, marks = _item_of(annotation)
            value = value[int(key)] if int(key) < len(value) else None
            continue
        model = _section_of(annotation, marks, value)
        known = model.model_fields.get(key) if model is not None else None
        if known is None:
            return None
        annotation, marks = known.annotation, known.metadata
        value = value.get(key) if isinstance(value, Mapping) else None
    return _section_of(annotation, marks, value)


def _section_of(annotation: Any, marks: Sequence[Any], value: Any) -> type[BaseModel] | None:
    """The model of a section; with a `Choice` that of the entry which the value names."""
    chosen = [mark.config_of(value or {}) for mark in marks if isinstance(mark, Choice)]
    return chosen[0] if chosen else next(_models_in(annotation), None)


def _item_of(annotation: Any) -> tuple[Any, Sequence[Any]]:
    """What an item of a list is: its type and the marks on it."""
    if get_origin(annotation) in (list, tuple, Sequence):
        item = get_args(annotation)[0]
        marks = getattr(item, "__metadata__", ())
        return (get_args(item)[0] if marks else item), marks
    found = (_item_of(inner) for inner in get_args(annotation))
    return next((pair for pair in found if pair[0] is not None), (None, ()))


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)


def _mentions_secret(annotation: Any) -> bool:
    return annotation in (SecretStr, SecretBytes) or any(
        _mentions_secret(inner) for inner in get_args(annotation)
    )
