"""GET /v1/models, /v1/models/{name}, /health, /metrics and /openapi.json."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from yearling.server.errors import error_response
from yearling.server.metrics import METRICS_MEDIA_TYPE
from yearling.server.models import ServedModel
from yearling.server.routes.answering import json_response, service_of
from yearling.wire.anthropic.answers import VERSION_HEADER
from yearling.wire.anthropic.models import model_info, model_page
from yearling.wire.openai.models import model_list, model_object

__all__ = ["describe_model", "health", "list_models", "metrics", "openapi", "retrieve_model"]


async def list_models(request: Request) -> Response:
    """List the models served, in the form of Anthropic's API for its clients."""
    service = service_of(request)
    own = [describe_model(model) for model in service.models]
    others = [backend.models[name] for name, backend in service.backends.items()]
    listed = model_page if VERSION_HEADER in request.headers else model_list
    return json_response(listed([*own, *others]))


async def retrieve_model(request: Request) -> Response:
    """Describe one model, in the form of Anthropic's API for its clients."""
    service = service_of(request)
    name = request.path_params["name"]
    if name in service.backends:
        model = service.backends[name].models[name]
    else:
        model = describe_model(service.models.get(name))
    return json_response(model_info(model) if VERSION_HEADER in request.headers else model)


async def health(request: Request) -> Response:
    """Say whether requests can be answered now."""
    service = service_of(request)
    if service.is_draining:
        return error_response(service.draining_reply())
    for model in service.models:
        if not model.engine.is_ready:
            return error_response(model.not_ready_reply())
    return json_response({"status": "ok"})


async def metrics(request: Request) -> Response:
    """Give the metrics as Prometheus reads them."""
    return Response(service_of(request).metrics.exposition(), media_type=METRICS_MEDIA_TYPE)


async def openapi(request: Request) -> Response:
    """Describe every route and its fields, in OpenAPI 3.1."""
    return json_response(request.app.state.openapi)


def describe_model(model: ServedModel) -> dict[str, Any]:
    """A model as the list shows it."""
    return model_object(
        model.name, created=model.created, context_tokens=model.context, parent=model.base
    )
