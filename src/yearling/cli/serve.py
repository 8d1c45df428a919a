"""`yearling serve`: the HTTP server and the web page."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from yearling.server.config import ServeSettings

__all__ = ["serve"]


def serve(
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", "-m", help="Store name, GGUF file or folder; may repeat. [smollm2]"
        ),
    ] = None,
    served_model_name: Annotated[
        list[str] | None, typer.Option(help="Name that clients use, one per model.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. [127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one. [8000]")] = None,
    api_key: Annotated[
        list[str] | None,
        typer.Option(help="Key that clients must present; may repeat. [YEARLING_API_KEY]"),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(help="Another name that clients may call the server by; may repeat."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads that compute. [one per core]")
    ] = None,
    max_model_len: Annotated[
        int | None, typer.Option(help="Tokens of prompt and answer. [the model's]")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="auto, float32, float16, int8 or int4. [auto]")
    ] = None,
    chat_template: Annotated[
        str | None, typer.Option(help="Name of a chat template, or a .jinja file. [the model's]")
    ] = None,
    kv_cache_dtype: Annotated[
        str | None, typer.Option(help="auto, float32, float16 or bfloat16. [auto]")
    ] = None,
    speculation: Annotated[
        str | None,
        typer.Option(help="prompt_lookup or none; answers are the same. [prompt_lookup]"),
    ] = None,
    draft_model: Annotated[
        str | None,
        typer.Option(help="Smaller model of the same tokens that guesses instead."),
    ] = None,
    prefix_caching: Annotated[
        bool,
        typer.Option(
            "--prefix-caching/--no-prefix-caching", help="Reuse what equal prompts computed."
        ),
    ] = True,
    on_demand: Annotated[
        bool,
        typer.Option("--on-demand", help="Load a model for its first request, not at the start."),
    ] = False,
    model_memory: Annotated[
        int | None,
        typer.Option(
            metavar="MIB",
            help="What models on demand may take together; idle ones make room. [4/5 of the free]",
        ),
    ] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FOLDER", help="Adapter to serve beside the first model; may repeat."
        ),
    ] = None,
    allow_lora_changes: Annotated[
        bool,
        typer.Option(
            "--allow-lora-changes",
            help="Let clients load adapters from this machine's folders, and unload them.",
        ),
    ] = False,
    backend: Annotated[
        list[str] | None,
        typer.Option(
            metavar="openai:URL",
            help="Server of OpenAI's API whose models to offer here; may repeat.",
        ),
    ] = None,
    backend_key: Annotated[
        str | None,
        typer.Option(help="Key that the backends demand; a config file can hold one for each."),
    ] = None,
    lenient: Annotated[
        bool,
        typer.Option(
            "--lenient", help="Pass over unsupported fields, and name them in X-Ignored-Params."
        ),
    ] = False,
    config: Annotated[Path | None, typer.Option(help="YAML file with these settings.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any setting, for example engine.kv_type=float16."),
    ] = None,
    show_limits: Annotated[
        bool, typer.Option("--show-limits", help="Print the limits and exit.")
    ] = False,
) -> None:
    """Serve models over OpenAI's HTTP API, with a chat page."""
    from yearling.core.environment import read_variable

    if backend_key is not None and not backend:
        raise typer.BadParameter("--backend-key is for --backend: give that as well.")
    key = read_variable("YEARLING_API_KEY")
    given = {
        "models": model,
        "served_names": served_model_name,
        "server.host": host,
        "server.port": port,
        "server.api_keys": api_key or ([key] if key else None),
        "server.allowed_hosts": allowed_host,
        "is_on_demand": on_demand,
        "model_memory_mib": model_memory,
        "loras": [_adapter(text) for text in lora or ()],
        "server.allows_lora_changes": allow_lora_changes,
        "backends": [_backend(text, backend_key) for text in backend or ()],
        "server.is_lenient": lenient,
        "engine.threads": threads,
        "engine.context": max_model_len,
        "engine.weights": weights,
        "engine.chat_template": chat_template,
        "engine.kv_type": kv_cache_dtype,
        "engine.speculation": speculation,
        "engine.draft_model": draft_model,
    }
    overrides = list(set_ or [])
    if not prefix_caching:
        overrides.append("engine.use_prefix_cache=false")
    settings = _settings(config, overrides, given)
    if show_limits:
        _print_limits(settings)
        return
    if not _run(settings):
        raise typer.Exit(1)


def _backend(text: str, key: str | None) -> dict[str, str]:
    kind, _, url = text.partition(":")
    is_address = url.startswith(("http://", "https://")) and not set(url) & set("@?# ")
    if kind != "openai" or not is_address:  # not repeated: it may hold a password
        raise typer.BadParameter(
            "give the plain address of an API, as in --backend openai:http://gpu-box:8000/v1, and "
            "its key as --backend-key."
        )
    return {"url": url} if key is None else {"url": url, "key": key}


def _adapter(text: str) -> dict[str, str]:
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise typer.BadParameter(
            f"{text!r}: give a name and a folder, as in --lora support=runs/support/adapter."
        )
    return {"name": name, "folder": folder}


def _settings(path: Path | None, overrides: list[str], given: dict[str, Any]) -> "ServeSettings":
    from yearling.core.config import load_config
    from yearling.server.config import ServeSettings

    # JSON is YAML, so a value keeps its type on the way through.
    options = [f"{key}={json.dumps(value)}" for key, value in given.items() if value]
    if given["server.port"] == 0:
        options.append("server.port=0")
    return load_config(ServeSettings, path, [*overrides, *options])


def _print_limits(settings: "ServeSettings") -> None:
    from yearling.server.limits import describe_limits

    for name, value, meaning in describe_limits(settings.server.limits):
        typer.echo(f"{name:32} {value:>9}  {meaning}")


def _run(settings: "ServeSettings") -> bool:
    import asyncio

    from yearling.cli.progress import download_bar, notice_when_slow
    from yearling.core.log import set_up_logging
    from yearling.models.store import ensure
    from yearling.server.launch import serve as run_server
    from yearling.server.listener import bind, url_of

    set_up_logging()
    with bind(settings.server) as listener:
        draft = settings.engine.draft_model
        for name in (*settings.models, *([draft] if draft else [])):
            with download_bar(name) as progress:
                ensure(name, progress)
        others = [f"models of {backend.owner}" for backend in settings.backends]
        names = ", ".join([*settings.names, *others])
        url = url_of(listener)
        with notice_when_slow(f"loading {names} …"):
            names = ", ".join([*settings.names, *(lora.name for lora in settings.loras), *others])
            ready = f"Yearling is ready: {url}  ({names}, {_threads(settings)} threads)"
            return asyncio.run(
                run_server(settings, listener=listener, on_ready=lambda: print(ready, flush=True))
            )


def _threads(settings: "ServeSettings") -> int:
    import os

    return settings.engine.threads or len(os.sched_getaffinity(0))
