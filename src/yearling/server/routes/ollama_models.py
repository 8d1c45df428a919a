"""Routes of Ollama's API that tell of models: /api/tags, /api/ps, /api/show, /api/version."""

from starlette.requests import Request
from starlette.responses import Response

import yearling
from yearling.server.body import read_json
from yearling.server.lenience import parsed
from yearling.server.models import ServedModel
from yearling.server.routes.answering import json_response, service_of
from yearling.server.routes.ollama import served_name
from yearling.serving.on_demand import OnDemandEngine
from yearling.wire.ollama.models import (
    ModelFacts,
    model_description,
    model_entry,
    parse_show,
    running_entry,
)

__all__ = ["ollama_ps", "ollama_show", "ollama_tags", "ollama_version"]


async def ollama_tags(request: Request) -> Response:
    """List the models."""
    models = service_of(request).models
    return json_response({"models": [model_entry(_facts(model)) for model in models]})


async def ollama_ps(request: Request) -> Response:
    """List the models that are loaded now."""
    loaded = (model for model in service_of(request).models if _is_loaded(model))
    return json_response({"models": [running_entry(_facts(model)) for model in loaded]})


async def ollama_show(request: Request) -> Response:
    """Tell what is known of one model."""
    service = service_of(request)
    body = await read_json(request, service.limits, needs_type=False)
    name = served_name(service, parsed(request, body, parse_show))
    return json_response(model_description(_facts(service.models.get(name))))


async def ollama_version(request: Request) -> Response:
    """Tell the version of this server."""
    return json_response({"version": yearling.__version__})


def _is_loaded(model: ServedModel) -> bool:
    """Whether a model is in memory; one on demand takes requests without being so."""
    engine = model.engine
    return engine.worker.is_ready if isinstance(engine, OnDemandEngine) else engine.is_ready


def _facts(model: ServedModel) -> ModelFacts:
    files, template = model.files, model.chat_template
    return ModelFacts(
        name=model.name,
        created=model.created,
        identity=model.fingerprint,
        context=model.context,
        parent=model.base,
        format=None if files is None else files.format,
        family=None if files is None else files.family,
        num_bytes=None if files is None or model.base is not None else files.num_bytes,
        num_parameters=None if files is None else files.num_parameters,
        embedding_width=model.embedding_width,
        template=None if template is None else template.source,
        stops=model.chat_stop,
    )
