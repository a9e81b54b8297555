"""What /openapi.json says of /v2's bodies, which no pydantic model reads, and of its errors."""

from http import HTTPStatus
from typing import Any

from dra_serve.service.open_inference.names import DATATYPE, INPUT, LONGEST_ID, OUTPUTS

_ERROR = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
_DATA = {"type": "array", "description": "Numbers in [0, 1], flat or nested as the shape."}
_FLAG = {"type": "boolean", "default": False}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the documentation of these statuses, each with the protocol's error."""
    content = {"application/json": {"schema": _ERROR}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}


def _closed(properties: dict[str, Any], required: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


_INPUT = _closed(
    {
        "name": {"type": "string", "enum": [INPUT]},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 4, "maxItems": 4},
        "datatype": {"type": "string", "enum": [DATATYPE]},
        "data": _DATA,
        "parameters": _closed({"binary_data_size": {"type": "integer", "minimum": 4}}),
    },
    ("name", "shape", "datatype"),
)
_OUTPUT = _closed(
    {
        "name": {"type": "string", "enum": list(OUTPUTS)},
        "parameters": _closed({"binary_data": _FLAG}),
    },
    ("name",),
)
_INFER = _closed(
    {
        "id": {"type": "string", "maxLength": LONGEST_ID, "description": "Comes back with the answer."},
        "parameters": _closed({"binary_data_output": _FLAG}),
        "inputs": {"type": "array", "items": _INPUT, "minItems": 1, "maxItems": 1},
        "outputs": {
            "type": "array",
            "items": _OUTPUT,
            "minItems": 1,
            "maxItems": len(OUTPUTS),
            "description": "Default: all.",
        },
    },
    ("inputs",),
)
_BINARY = {"type": "string", "contentMediaType": "application/octet-stream"}
INFER_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": _INFER},
            "application/octet-stream": {
                "schema": {**_BINARY, "description": "The same JSON, then the raw tensor."}
            },
        },
    }
}
INDEX_BODY: dict[str, Any] = {
    "requestBody": {
        "required": False,
        "content": {"application/json": {"schema": _closed({"ready": {"type": "boolean"}})}},
    }
}
