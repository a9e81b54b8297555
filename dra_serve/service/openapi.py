"""What FastAPI cannot read from our routes: bodies in two forms, and problems."""

from http import HTTPStatus
from typing import Any

from pydantic import BaseModel

from dra_serve.service.problems import MEDIA_TYPE, Problem

_FILE = {"type": "string", "contentMediaType": "application/octet-stream"}
_MEDIA_TYPES = ("image/png", "image/jpeg", "image/webp")


def describe_body(fields: type[BaseModel], *, many: bool) -> dict[str, Any]:
    """Return the request body and the query parameters of an operation with these fields."""
    properties = {
        name: _without_null(schema) for name, schema in fields.model_json_schema()["properties"].items()
    }
    image = {"type": "array", "items": _FILE, "minItems": 1} if many else _FILE
    form = {
        "type": "object",
        "properties": {"image": {**image, "description": "PNG, JPEG or WebP, one frame."}, **properties},
        "required": ["image"],
        "additionalProperties": False,
    }
    raw: dict[str, Any] = {kind: {"schema": _FILE} for kind in _MEDIA_TYPES}
    parameters = [
        {
            "name": name,
            "in": "query",
            "required": False,
            "description": schema.get("description", ""),
            "schema": {key: value for key, value in schema.items() if key not in ("description", "title")},
        }
        for name, schema in properties.items()
    ]
    return {
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": form}, **raw}},
        "parameters": parameters,
    }


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an optional field as a form has it: absent, never null."""
    kinds = [kind for kind in schema.get("anyOf", []) if kind != {"type": "null"}]
    if len(kinds) != 1:
        return schema
    rest = {key: value for key, value in schema.items() if key not in ("anyOf", "default")}
    return {**kinds[0], **rest}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the documentation of these statuses, each an application/problem+json."""
    schema = Problem.model_json_schema()
    content = {MEDIA_TYPE: {"schema": schema}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}
