"""Where Yearling keeps its files: `YEARLING_HOME`, else the XDG data folder."""

from pathlib import Path

from yearling.core.environment import read_variable
from yearling.core.errors import ConfigError

__all__ = ["lineage_home", "models_home", "yearling_home"]


def yearling_home() -> Path:
    """Give the folder of all our files; nothing is created.

    `YEARLING_HOME`, else `XDG_DATA_HOME/yearling`, else `~/.local/share/yearling`.

    Raises:
        ConfigError: a variable holds a relative path.
    """
    if (home := read_variable("YEARLING_HOME")) is not None:
        return _absolute("YEARLING_HOME", home)
    if (data := read_variable("XDG_DATA_HOME")) is not None:
        return _absolute("XDG_DATA_HOME", data) / "yearling"
    return Path.home() / ".local" / "share" / "yearling"


def models_home() -> Path:
    """Give the folder of the model store: one folder per model, blobs shared."""
    return yearling_home() / "models"


def lineage_home() -> Path:
    """Give the folder of lineage records: one JSON file a step."""
    return yearling_home() / "lineage"


def _absolute(variable: str, value: str) -> Path:
    path = Path(value).expanduser()
    if not path.is_absolute():
        raise ConfigError(
            f"{variable}={value!r} is a relative path, which would mean another folder from "
            f"every working directory.\n  Set it to an absolute one, for example {path.resolve()}."
        )
    return path
