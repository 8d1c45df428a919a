"""Engines that worker processes build in the tests; no model is needed."""

from typing import Any

from driving import make_engine
from fake_embedder import FakeEmbedder
from fake_executor import FakeExecutor

from yearling.core.errors import ModelFormatError
from yearling.serving.encoder_engine import EncoderEngine
from yearling.serving.engine import Engine


def build(config: dict[str, Any] | None = None, **executor: Any) -> Engine:
    """An engine over the fake executor."""
    return make_engine(FakeExecutor(**executor), **(config or {}))


def build_encoder(**embedder: Any) -> EncoderEngine:
    """An encoder's engine over the fake embedder."""
    return EncoderEngine(FakeEmbedder(**embedder), context=32, vocabulary=100)


def refuse(path: str) -> Engine:
    """What a damaged model does."""
    raise ModelFormatError(f"{path}: the file is damaged.")


def crash() -> Engine:
    """What a native crash while loading does."""
    import os

    os._exit(3)
