"""A request's body -> one input tensor.

Tensors travel as JSON numbers, flat or nested, or in the binary extension as raw little-endian float32
behind the JSON, whose length is then in a header. Knows no server.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NoReturn

import numpy as np

from dra_serve.errors import BadRequest, MalformedRequest
from dra_serve.service.open_inference.names import DATATYPE, FLOAT, HEADER, INPUT, LONGEST_ID, OUTPUTS


@dataclass(frozen=True, kw_only=True)
class InferRequest:
    """x: float32 (N, C, H, W), finite or not: the model's own check says. outputs: name -> whether binary."""

    id: str | None
    x: np.ndarray
    outputs: dict[str, bool]


def read_request(
    body: bytes, header_length: str | None, input_shape: tuple[int, int, int], *, max_images: int
) -> InferRequest:
    """Return what the body asks. header_length: that header as it came, None if all of the body is JSON.

    Raises MalformedRequest for what cannot be taken apart, BadRequest naming the field for the rest.
    """
    head, binary = _split(body, header_length)
    request = _object(_parse(head), "body", required=("inputs",), optional=("id", "parameters", "outputs"))
    if not isinstance(request.get("id", ""), str) or len(request.get("id", "")) > LONGEST_ID:
        raise BadRequest("id", given=request["id"], allowed=f"text of at most {LONGEST_ID} characters")
    parameters = _object(request.get("parameters", {}), "parameters", optional=("binary_data_output",))
    by_default = _boolean(parameters, "binary_data_output", "parameters")
    return InferRequest(
        id=request.get("id"),
        outputs=_outputs(request.get("outputs"), by_default),
        x=_input(request["inputs"], binary, input_shape, max_images),
    )


def _split(body: bytes, header_length: str | None) -> tuple[bytes, bytes]:
    if header_length is None:
        return body, b""
    length = int(header_length) if header_length.isdecimal() and len(header_length) < 10 else -1
    if not 0 < length <= len(body):
        allowed = f"an integer from 1 to the body's {len(body):,} bytes"
        raise BadRequest(HEADER, given=header_length, allowed=allowed)
    return body[:length], body[length:]


def _parse(head: bytes) -> Any:
    try:
        return json.loads(head, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:  # broken text, no UTF-8, 5,000 digits, 100,000 brackets
        raise MalformedRequest("body: no JSON object as the protocol has it", field="body") from error


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _object(
    value: Any, where: str, *, required: Sequence[str] = (), optional: Sequence[str] = ()
) -> Mapping[str, Any]:
    """Return value if it is an object with every required key and none but these."""
    if not isinstance(value, dict):
        raise BadRequest(where, given=value, allowed="an object")
    known = (*required, *optional)
    for name in value:
        if name not in known:
            raise BadRequest(f"{where}.{name[:60]}", given="it", allowed=f"in {where}: {', '.join(known)}")
    for name in required:
        if name not in value:
            raise BadRequest(f"{where}.{name}", given="nothing", allowed="a value; it is required")
    return value


def _boolean(parameters: Mapping[str, Any], name: str, where: str, default: bool = False) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise BadRequest(f"{where}.{name}", given=value, allowed="true or false")
    return value


def _outputs(asked: Any, by_default: bool) -> dict[str, bool]:
    """Return name -> whether binary; without a list every output, as the protocol has it."""
    if asked is None:
        return dict.fromkeys(OUTPUTS, by_default)
    if not isinstance(asked, list) or not 0 < len(asked) <= len(OUTPUTS):
        raise BadRequest("outputs", given=asked, allowed=f"1 to {len(OUTPUTS)} of {', '.join(OUTPUTS)}")
    outputs: dict[str, bool] = {}
    for k, entry in enumerate(asked):
        where = f"outputs[{k}]"
        output = _object(entry, where, required=("name",), optional=("parameters",))
        name = output["name"]
        if name not in OUTPUTS or name in outputs:
            raise BadRequest(f"{where}.name", given=name, allowed=f"{' or '.join(OUTPUTS)}, each once")
        parameters = _object(output.get("parameters", {}), f"{where}.parameters", optional=("binary_data",))
        outputs[name] = _boolean(parameters, "binary_data", f"{where}.parameters", by_default)
    return outputs


def _input(inputs: Any, binary: bytes, input_shape: tuple[int, int, int], max_images: int) -> np.ndarray:
    if not isinstance(inputs, list) or len(inputs) != 1:
        given = f"{len(inputs)} tensors" if isinstance(inputs, list) else inputs
        raise BadRequest("inputs", given=given, allowed=f"one tensor, {INPUT}")
    where = "inputs[0]"
    tensor = _object(
        inputs[0], where, required=("name", "shape", "datatype"), optional=("data", "parameters")
    )
    for name, allowed in (("name", INPUT), ("datatype", DATATYPE)):
        if tensor[name] != allowed:
            raise BadRequest(f"{where}.{name}", given=tensor[name], allowed=allowed)
    shape = _shape(tensor["shape"], input_shape, max_images)
    parameters = _object(tensor.get("parameters", {}), f"{where}.parameters", optional=("binary_data_size",))
    if ("data" in tensor) == ("binary_data_size" in parameters):
        allowed = (
            f"a list of numbers; or parameters.binary_data_size, the tensor behind the JSON and {HEADER}"
        )
        raise BadRequest(f"{where}.data", given="both" if "data" in tensor else "neither", allowed=allowed)
    if "data" in tensor:
        if binary:
            given = f"{len(binary):,} bytes behind the JSON"
            raise BadRequest("body", given=given, allowed="none beside inputs[0].data")
        return _numbers(tensor["data"], shape)
    size = FLOAT.itemsize * math.prod(shape)
    declared = parameters["binary_data_size"]
    if declared != size or isinstance(declared, (bool, float)):
        allowed = f"{size:,}, the bytes of {DATATYPE} {list(shape)}"
        raise BadRequest(f"{where}.parameters.binary_data_size", given=declared, allowed=allowed)
    if len(binary) != size:
        raise BadRequest("body", given=f"{len(binary):,} bytes behind the JSON", allowed=f"{size:,}")
    return np.frombuffer(binary, FLOAT).astype(np.float32, copy=False).reshape(shape)


def _shape(given: Any, input_shape: tuple[int, int, int], max_images: int) -> tuple[int, ...]:
    fits = (
        isinstance(given, list)
        and all(type(size) is int for size in given)
        and tuple(given[1:]) == input_shape
        and 1 <= given[0] <= max_images
    )
    if not fits:
        allowed = f"[1 to {max_images}, {', '.join(map(str, input_shape))}]"
        raise BadRequest("inputs[0].shape", given=given, allowed=allowed)
    return tuple(given)


def _numbers(data: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Return the numbers, flat or nested as the shape is, as float32; too large a one is infinite.

    NumPy sees none but numbers: of texts it would make an array in which each is as wide as the longest.
    """
    allowed = f"{math.prod(shape):,} numbers, flat or nested as the shape {list(shape)}"
    flat, found = (data, [len(data)]) if isinstance(data, list) else ([data], [])
    while flat and isinstance(flat[0], list):
        widths = {len(part) if isinstance(part, list) else None for part in flat}
        if len(widths) > 1:
            raise BadRequest("inputs[0].data", given="uneven lists", allowed=allowed)
        found.append(len(flat[0]))
        flat = list(chain.from_iterable(flat))
    if not found or any(type(value) not in (int, float) for value in flat):
        raise BadRequest("inputs[0].data", given="something else than numbers", allowed=allowed)
    if tuple(found) not in ((math.prod(shape),), shape):
        raise BadRequest("inputs[0].data", given=f"numbers of shape {found}", allowed=allowed)
    try:
        wide = np.array(flat, np.float64)
    except OverflowError as error:  # an integer of more than 308 digits
        raise BadRequest("inputs[0].data", given="something else than numbers", allowed=allowed) from error
    with np.errstate(over="ignore"):
        return wide.astype(np.float32).reshape(shape)
