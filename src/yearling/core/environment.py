"""Every environment variable that changes what Yearling does, read in one place.

An architecture test forbids `os.environ` everywhere else. The table becomes part of the docs.
"""

import os
from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["VARIABLES", "child_environment", "read_variable"]

VARIABLES: Mapping[str, str] = MappingProxyType(
    {
        "HF_HUB_OFFLINE": "1 forbids every request to the Hugging Face hub.",
        "HF_TOKEN": "Access token for gated models; huggingface_hub reads it itself.",
        "NO_COLOR": "Any value switches coloured output off.",
        "XDG_DATA_HOME": "Where user data lives; models go to its folder `yearling`.",
        "YEARLING_API_KEY": "Key that clients must present; needed for a public address.",
        "YEARLING_HOME": "Where models and records live; wins over XDG_DATA_HOME.",
        "YEARLING_LOG_LEVEL": "debug, info, warning or error; info when not set.",
    }
)


def read_variable(name: str) -> str | None:
    """Read one variable of the table; empty counts as not set.

    >>> read_variable("YEARLING_HOMES")
    Traceback (most recent call last):
    KeyError: 'YEARLING_HOMES is not in VARIABLES: add it there with its meaning.'
    """
    if name not in VARIABLES:
        raise KeyError(f"{name} is not in VARIABLES: add it there with its meaning.")
    return os.environ.get(name) or None


def child_environment(**changes: str) -> dict[str, str]:
    """Give the whole environment for a child process, with some variables changed."""
    return {**os.environ, **changes}
