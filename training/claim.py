"""Whose folder a run's folder is: the recipe that began there, written down and compared."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from dra_serve.errors import BadRequest
from training.recipes.options import to_json


def claim(folder: Path, recipe: Any, *, may_differ: Collection[str] = ()) -> None:
    """Write the resolved recipe, or check that the run begun in the folder is of the same.

    may_differ: fields that a run may go on with changed. Raises BadRequest naming the first other field
    that differs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, ours = folder / "recipe.json", to_json(recipe)
    if path.exists() and (folder / "checkpoint.safetensors").exists():
        theirs = json.loads(path.read_text())
        if ours == theirs:
            return
        for field in sorted((ours.keys() | theirs.keys()) - set(may_differ)):
            if ours.get(field) != theirs.get(field):
                raise BadRequest(
                    field,
                    given=ours.get(field),
                    allowed=f"{theirs.get(field)!r}, as {folder} began; remove that folder to start afresh",
                )
    path.write_text(json.dumps(ours, indent=2) + "\n")
