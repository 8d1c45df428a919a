"""POST /v1/load_lora_adapter and /v1/unload_lora_adapter."""

from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from yearling.core.errors import ConfigError, ModelError, RequestError
from yearling.server.adapters import adapter_of
from yearling.server.body import read_json
from yearling.server.errors import HttpError
from yearling.server.lenience import parsed
from yearling.server.routes.answering import json_response, service_of
from yearling.server.routes.status import describe_model
from yearling.server.service import Service
from yearling.wire.openai.errors import ErrorReply
from yearling.wire.openai.loras import parse_load_lora, parse_unload_lora

__all__ = ["load_lora_adapter", "unload_lora_adapter"]


async def load_lora_adapter(request: Request) -> Response:
    """Serve an adapter of low rank as a model of its own name."""
    service = _changeable(request)
    body = await read_json(request, service.limits)
    wanted = parsed(request, body, parse_load_lora)
    base = wanted.base_model_name or next((model.name for model in service.models), None)
    if base is None:
        raise RequestError("no model of this server takes adapters: they are all of others.")
    folder = Path(wanted.lora_path)
    service.models.get(base).check_ready()
    async with service.changing_adapters:  # of two that want one name, the second is refused
        service.models.check_new(wanted.lora_name)
        model = await adapter_of(service.models.get(base), wanted.lora_name, folder)
        try:
            await model.engine.load_adapter(model.name, folder)
        except (ConfigError, ModelError) as error:
            raise RequestError(str(error), parameter="lora_path") from error
        service.models.add(model)
    return json_response(describe_model(model))


async def unload_lora_adapter(request: Request) -> Response:
    """Serve an adapter no longer; answers that are being written with it go on."""
    service = _changeable(request)
    body = await read_json(request, service.limits)
    name = parsed(request, body, parse_unload_lora).lora_name
    async with service.changing_adapters:
        model = service.models.get(name)
        if model.base is None:
            raise RequestError(
                f"{model.name} is a model, not an adapter: it is served until the server ends.",
                parameter="lora_name",
            )
        model.check_ready()
        await model.engine.unload_adapter(model.name)
        service.models.remove(model.name)
    return json_response(describe_model(model))


def _changeable(request: Request) -> Service:
    service = service_of(request)
    if not service.config.allows_lora_changes:
        raise HttpError(
            ErrorReply(
                403,
                "This server's adapters are fixed. Start it with --allow-lora-changes to load and "
                "unload them, or with --lora NAME=FOLDER.",
                code="lora_changes_forbidden",
            )
        )
    return service
