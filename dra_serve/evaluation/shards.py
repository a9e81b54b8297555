"""A share of the images for each of several processes, by the variables that launchers set.

`torchrun` and `accelerate launch` set RANK and WORLD_SIZE; two shells can do it by hand. The processes
share a folder and nothing else.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dra_serve.errors import BadRequest


@dataclass(frozen=True)
class Shard:
    """The part `rank` (0-based) of `world` parts."""

    rank: int = 0
    world: int = 1

    def part(self, order: np.ndarray) -> np.ndarray:
        """Return this shard's rows of `order`: every world-th, so that shards differ by one row at most."""
        return order[self.rank :: self.world]

    def __str__(self) -> str:
        return f"{self.rank}-of-{self.world}"


WHOLE = Shard()


def shard_of(environment: Mapping[str, str]) -> Shard:
    """Return the shard that RANK and WORLD_SIZE name; everything if neither is set.

    Raises BadRequest unless they are integers, 0 <= RANK < WORLD_SIZE, and both are there.
    """
    rank, world = environment.get("RANK"), environment.get("WORLD_SIZE")
    if rank is None and world is None:
        return WHOLE
    size = _integer("WORLD_SIZE", world, "an integer of at least 1, beside RANK", 1)
    allowed = f"an integer from 0 to {size - 1}, below WORLD_SIZE"
    return Shard(_integer("RANK", rank, allowed, 0, size - 1), size)


def local_shards(environment: Mapping[str, str]) -> int:
    """Return how many shards this machine has: LOCAL_WORLD_SIZE, else all of WORLD_SIZE, else 1.

    Raises BadRequest for what is no integer of at least 1.
    """
    for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"):
        if name in environment:
            return _integer(name, environment[name], "an integer of at least 1", 1)
    return 1


def _integer(name: str, text: str | None, allowed: str, low: int, high: int = 10**6) -> int:
    digits = text is not None and text.isascii() and text.isdigit()
    if text is None or not digits or not low <= int(text) <= high:
        raise BadRequest(name, given=text, allowed=allowed)
    return int(text)
