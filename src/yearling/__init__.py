"""Yearling: the first year of large language models (2023) as one Python platform.

>>> from yearling import LLM, SamplingParams  # doctest: +SKIP
>>> LLM("smollm2").chat([{"role": "user", "content": "Hi"}])  # doctest: +SKIP
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from yearling.serving.llm import LLM
    from yearling.serving.request import Guide, SamplingParams

__all__ = ["LLM", "Guide", "SamplingParams", "__version__"]
__version__ = "0.1.0"

_HOMES = {
    "LLM": "yearling.serving.llm",
    "Guide": "yearling.serving.request",
    "SamplingParams": "yearling.serving.request",
}


def __getattr__(name: str) -> object:
    """Import the public names on first use, so that `import yearling` stays cheap."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'yearling' has no attribute {name!r}")
