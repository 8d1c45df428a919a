"""Every environment variable that changes what Yearling does, read in one place.

An architecture test forbids `os.environ` everywhere else. The table becomes part of the docs.
"""

import os
from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["VARIABLES", "child_environment", "read_variable", "set_variable"]

VARIABLES: Mapping[str, str] = MappingProxyType(
    {
        "GLOO_SOCKET_IFNAME": "Network interface of training processes; loopback when not set.",
        "HF_HUB_OFFLINE": "1 forbids every request to the Hugging Face hub.",
        "HF_TOKEN": "Access token for gated models; huggingface_hub reads it itself.",
        "LOCAL_RANK": "Number of a training process on its machine; torchrun sets it.",
        "MASTER_ADDR": "Where training processes meet; torchrun sets it.",
        "MASTER_PORT": "Port where training processes meet; torchrun sets it.",
        "NO_COLOR": "Any value switches coloured output off.",
        "RANK": "Number of a training process among all; torchrun sets it.",
        "TORCHELASTIC_USE_AGENT_STORE": "True when torchrun itself is the meeting place.",
        "WORLD_SIZE": "How many training processes there are; torchrun sets it.",
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


def set_variable(name: str, value: str) -> None:
    """Set one variable of the table for this process, where a library reads nothing else."""
    if name not in VARIABLES:
        raise KeyError(f"{name} is not in VARIABLES: add it there with its meaning.")
    os.environ[name] = value


def child_environment(**changes: str) -> dict[str, str]:
    """Give the whole environment for a child process, with some variables changed."""
    return {**os.environ, **changes}
