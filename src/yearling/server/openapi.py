"""The server's description in OpenAPI 3.1, made of its routes and the fields they honour."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

__all__ = ["Route", "describe"]

Route = tuple[str, Callable[..., Any], Sequence[str], type[BaseModel] | None]
"""Path, what answers there, methods, and the fields of its body."""

_ERRORS = {"description": "Refused or failed; the body says what, where and what to do."}


def describe(routes: Sequence[Route], version: str) -> dict[str, Any]:
    """Describe routes.

    Args:
        routes: Whose bodies are JSON objects, where they have one.
        version: Of the server.
    """
    bodies = list(dict.fromkeys(body for *_, body in routes if body is not None))
    names, definitions = models_json_schema(
        [(body, "validation") for body in bodies], ref_template="#/components/schemas/{model}"
    )
    paths: dict[str, dict[str, Any]] = {}
    for path, endpoint, methods, body in routes:
        shown = re.sub(r"\{(\w+):path\}", r"{\1}", path)
        for method in methods:
            operation: dict[str, Any] = {
                "summary": (endpoint.__doc__ or "").split("\n")[0],
                "responses": {"200": {"description": "The answer."}, "default": _ERRORS},
            }
            if parameters := re.findall(r"\{(\w+)\}", shown):
                operation["parameters"] = [_parameter(name) for name in parameters]
            if body is not None:
                schema = names[body, "validation"]
                content = {"application/json": {"schema": schema}}
                operation["requestBody"] = {"required": True, "content": content}
            paths.setdefault(shown, {})[method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "Yearling", "version": version},
        "paths": paths,
        "components": {
            "schemas": definitions.get("$defs", {}),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _parameter(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
