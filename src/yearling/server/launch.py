"""From names of models to a server that answers, as fast as it goes.

The workers start first, and load their weights on one core while this process imports the web
framework on another; the socket is taken before either, so that a taken port costs nothing.
"""

import asyncio
import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yearling import __version__
from yearling.core.errors import ConfigError, ModelError
from yearling.models.store import resolve
from yearling.server.config import LoraSettings, ServerConfig, ServeSettings
from yearling.serving.async_engine import AsyncEngine
from yearling.serving.model import LoadedModel, load_model
from yearling.serving.worker import ModelWorker, RestartPolicy

if TYPE_CHECKING:
    import socket

    from yearling.server.backends import Backend
    from yearling.server.models import ModelFiles, ServedModel
    from yearling.serving.on_demand import OnDemandEngine

__all__ = ["serve", "serve_models"]


async def serve(
    settings: ServeSettings,
    *,
    listener: "socket.socket",
    on_ready: Callable[[], None],
) -> bool:
    """Load models and serve them until a signal; give back whether every answer could finish.

    Args:
        settings: What to serve and how; every model is in the store or on the disk.
        listener: A bound socket.
        on_ready: Called once, when the server listens and every model can answer.
    Raises:
        YearlingError: a model cannot be found or loaded.
    """
    backends = await _started(settings)
    options = settings.engine.model_dump()
    # A model on demand that crashed is loaded again when it is asked for, where there is room.
    policy = RestartPolicy(max_crashes=0) if settings.is_on_demand else None
    workers = [
        ModelWorker(name, {"path": str(resolve(name)), "options": options}, policy=policy)
        for name in settings.models
    ]
    engines: Sequence[ModelWorker | OnDemandEngine] = workers
    if settings.is_on_demand:
        engines = _on_demand(workers, settings)
    starting = [
        asyncio.create_task(_start(engine, resolve(model), settings.loras_of(name)))
        for engine, model, name in zip(engines, settings.models, settings.names, strict=True)
    ]
    # Lets the children start before the imports below keep this thread busy.
    await asyncio.sleep(0.02)
    try:
        from yearling.server.adapters import adapter_of

        models = [
            _served_model(model, name, settings, engine)
            for model, name, engine in zip(settings.models, settings.names, engines, strict=True)
        ]
        models += [
            await adapter_of(base, lora.name, lora.folder)
            for base in list(models)
            for lora in settings.loras_of(base.name)
        ]
    except BaseException:
        await _stop(engines, starting)
        await asyncio.gather(*(backend.close() for backend in backends))
        raise
    return await serve_models(
        models, starting, settings.server, listener=listener, on_ready=on_ready, backends=backends
    )


async def serve_models(
    models: "Sequence[ServedModel]",
    starting: "Sequence[asyncio.Task[None]]",
    config: ServerConfig,
    *,
    listener: "socket.socket",
    on_ready: Callable[[], None],
    backends: "Sequence[Backend]" = (),
) -> bool:
    """Serve models whose engines are starting; every engine is stopped at the end.

    Raises:
        YearlingError: an engine cannot start.
    """
    from yearling.server.app import build_app
    from yearling.server.runner import serve_app

    _quiet_uvicorn()
    app = build_app(models, config, backends)
    listening = asyncio.Event()
    serving = asyncio.create_task(serve_app(app, listener, on_listening=listening.set))
    getting_ready = asyncio.create_task(_when_ready(starting, listening, on_ready))
    try:
        await asyncio.wait((serving, getting_ready), return_when=asyncio.FIRST_COMPLETED)
        if getting_ready.done():
            getting_ready.result()
        return await serving
    finally:
        for task in (serving, getting_ready):
            task.cancel()
        await asyncio.gather(serving, getting_ready, return_exceptions=True)
        await _stop([model.engine for model in models if model.base is None], starting)
        await asyncio.gather(*(backend.close() for backend in backends))


async def _started(settings: ServeSettings) -> "list[Backend]":
    """The backends, once they have told their models; no name may stand for two."""
    if not settings.backends:
        return []
    from yearling.server.backends import Backend

    backends = [Backend(one) for one in settings.backends]
    try:
        await asyncio.gather(*(backend.start() for backend in backends))
        taken = {*settings.names, *(lora.name for lora in settings.loras)}
        for backend in backends:
            if twice := taken.intersection(backend.models):
                raise ConfigError(
                    f"two models would be called {min(twice)!r}, one of them of the backend at "
                    f"{backend.owner}. A model of this machine takes another name by "
                    "--served-model-name; of two backends with one model, leave one out."
                )
            taken.update(backend.models)
    except BaseException:
        await asyncio.gather(*(backend.close() for backend in backends))
        raise
    return backends


def _on_demand(workers: Sequence[ModelWorker], settings: ServeSettings) -> "list[OnDemandEngine]":
    from yearling.core.memory import available_bytes
    from yearling.serving.on_demand import ModelMemory, OnDemandEngine

    limit = settings.model_memory_mib
    memory = ModelMemory(available_bytes() * 4 // 5 if limit is None else limit << 20)
    draft = settings.engine.draft_model
    beside = 0 if draft is None else _size_of(resolve(draft), "auto")
    return [
        OnDemandEngine(worker, _size_of(resolve(name), settings.engine.weights) + beside, memory)
        for worker, name in zip(workers, settings.models, strict=True)
    ]


def _size_of(model: Path, weights: str) -> int:
    """Bytes of a model's weights, once they are loaded; a folder's have 16 bits, mostly."""
    if not model.is_dir():
        return model.stat().st_size
    stored = sum(file.stat().st_size for file in model.glob("*.safetensors"))
    return stored * {"int8": 9, "int4": 5}.get(weights, 16) // 16


async def _start(
    engine: "ModelWorker | OnDemandEngine", path: Path, loras: "Sequence[LoraSettings]"
) -> None:
    await engine.start()
    for lora in loras:
        if isinstance(engine, ModelWorker):
            await engine.load_adapter(lora.name, lora.folder)
        else:
            await asyncio.to_thread(engine.remember_adapter, lora.name, lora.folder, path)


async def _when_ready(
    starting: "Sequence[asyncio.Task[None]]",
    listening: asyncio.Event,
    on_ready: Callable[[], None],
) -> None:
    await asyncio.gather(*starting)
    await listening.wait()
    on_ready()


async def _stop(engines: Sequence[Any], starting: "Sequence[asyncio.Task[None]]") -> None:
    for task in starting:
        task.cancel()
    await asyncio.gather(*starting, return_exceptions=True)
    await asyncio.gather(*(engine.stop() for engine in engines), return_exceptions=True)


def _served_model(
    model: str, name: str, settings: ServeSettings, engine: AsyncEngine
) -> "ServedModel":
    from yearling.server.generation import Admission
    from yearling.server.models import ServedModel

    loaded = load_model(model, settings.engine)
    if loaded.tokenizer is None:
        raise ModelError(f"{model} came without a tokenizer, so it cannot be served over HTTP.")
    if loaded.chat_template is not None:
        loaded.chat_template.prepare()
    loaded.checkpoint.close()
    identity = f"{__version__} {loaded.path} {loaded.path.stat().st_size} {settings.engine}"
    return ServedModel(
        name=name,
        tokenizer=loaded.tokenizer,
        chat_template=loaded.chat_template,
        context=loaded.context,
        engine=engine,
        admission=Admission(settings.server.limits),
        limits=settings.server.limits,
        fingerprint="fp_" + hashlib.sha256(identity.encode()).hexdigest()[:12],
        chat_stop=loaded.chat_stop,
        embedding_width=loaded.embedding_width,
        end_token_ids=loaded.eos_token_ids,
        reads_prompts_apart=loaded.reads_prompts_apart,
        files=_files(loaded),
    )


def _files(loaded: LoadedModel) -> "ModelFiles":
    from yearling.models.checkpoint.fallback_checkpoint import FallbackCheckpoint
    from yearling.models.plan import count_parameters
    from yearling.server.models import ModelFiles

    checkpoint = loaded.checkpoint
    num_bytes = _size_of(loaded.path, "auto")
    if isinstance(checkpoint, FallbackCheckpoint):
        return ModelFiles("safetensors", checkpoint.model_type, num_bytes, None)
    return ModelFiles(
        format="safetensors" if loaded.path.is_dir() else "gguf",
        family=checkpoint.spec.family,
        num_bytes=num_bytes,
        num_parameters=count_parameters(checkpoint.spec).total,
    )


def _quiet_uvicorn() -> None:
    """Send uvicorn's errors through our handlers, which escape control characters."""
    ours, theirs = logging.getLogger("yearling"), logging.getLogger("uvicorn")
    theirs.handlers = ours.handlers[:]
    theirs.setLevel(logging.ERROR)
    theirs.propagate = False
