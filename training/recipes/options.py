"""Recipes from the command line: `--field value` overrides a field, typed by the dataclass."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from dra_serve.attacks.norms import parse_radius
from dra_serve.errors import BadRequest

R = TypeVar("R")


def override(recipe: R, arguments: Sequence[str]) -> R:
    """Return the recipe with `--field value` pairs applied.

    Raises BadRequest for an unknown field or value.
    """
    hints = get_type_hints(type(recipe))
    changes: dict[str, Any] = {}
    words = list(arguments)
    while words:
        word = words.pop(0)
        name, _, value = word.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        if not word.startswith("--") or name not in hints or name == "name":
            raise BadRequest(word, given=word, allowed=", ".join(f"--{f}" for f in hints if f != "name"))
        if not value:
            if not words:
                raise BadRequest(name, given="nothing", allowed="a value after the option")
            value = words.pop(0)
        changes[name] = _parse(name, hints[name], value)
    return dataclasses.replace(recipe, **changes)  # type: ignore[type-var]


def to_json(recipe: Any) -> dict[str, Any]:
    """Return a recipe as plain JSON values."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(recipe)))
    return plain


def _parse(name: str, hint: Any, text: str) -> Any:
    try:
        if get_origin(hint) is tuple:
            return tuple(_parse(name, get_args(hint)[0], part) for part in text.split(",") if part)
        if type(None) in get_args(hint):
            return None if text == "none" else _parse(name, get_args(hint)[0], text)
        if hint is bool:
            return {"true": True, "false": False}[text.lower()]
        if hint is float:
            return parse_radius(text) if "/" in text else float(text)
        if hint is int:
            return int(text.replace("_", ""))
    except (KeyError, ValueError) as error:
        kind = getattr(hint, "__name__", str(hint))
        raise BadRequest(name, given=text, allowed=f"a value of type {kind}") from error
    allowed = get_args(hint)
    if allowed and text not in allowed:
        raise BadRequest(name, given=text, allowed=", ".join(map(str, allowed)))
    return text
