"""Shards put together: by whoever finds them all done, once, and with no message between them."""

import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from dra_serve.errors import BadRequest
from dra_serve.evaluation.outcomes import Outcomes
from dra_serve.evaluation.shards import Shard
from dra_serve.evaluation.state import Key, State

_STATE = re.compile(r"\d+-of-(\d+)\.json")
_OURS = re.compile(r"\d+-of-\d+\.json(\.\d+\.partial)?")


def outcomes_of(states: Sequence[State], n: int) -> Outcomes:
    """Return the outcomes of n images from their shards; what no shard has finished is not done."""
    attacks = len(states[0].done)
    clean, robust_8bit, done = (np.zeros(n, bool) for _ in range(3))
    after = np.zeros((attacks, n), bool)
    for state in states:
        rows, finished = state.rows[: state.finished], slice(state.finished)
        done[rows] = True
        clean[rows], robust_8bit[rows] = state.clean[finished], state.robust_8bit[finished]
        after[:, rows] = state.after[:, finished]
    return Outcomes(
        clean=clean,
        after=after,
        robust_8bit=robust_8bit,
        done=done,
        seconds=sum(sum(state.seconds) for state in states),
        unconfirmed=sum(state.unconfirmed for state in states),
        missing=tuple(
            f"shard {state.shard.rank} ({state.finished:,} of {len(state.rows):,} images done)"
            for state in states
            if not state.complete
        ),
    )


def read_shards(folder: Path, key: Key, order: np.ndarray, attacks: int, world: int) -> list[State]:
    """Return the state of each of `world` shards of an evaluation, begun or not."""
    shards = [Shard(rank, world) for rank in range(world)]
    return [State(folder, key, shard, shard.part(order), attacks) for shard in shards]


def finished_outcomes(folder: Path, key: Key, order: np.ndarray, attacks: int) -> Outcomes | None:
    """Return the outcomes that lie complete in the folder, however many shards found them, or None."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    for world in sorted({int(match[1]) for name in names if (match := _STATE.fullmatch(name))}):
        states = read_shards(folder, key, order, attacks, world)
        if all(state.complete for state in states):
            return outcomes_of(states, len(order))
    return None


def prepare(folder: Path) -> None:
    """Take back what a killed merge left, and refuse a folder that holds anything but states.

    Raises BadRequest: the folder goes when the receipt is written, and nobody's files with it.
    """
    if not folder.exists():
        with suppress(FileNotFoundError):
            _claimed(folder).rename(folder)
    if folder.exists() and not folder.is_dir():
        raise BadRequest("state", given=str(folder), allowed="a folder, not a file")
    others = (
        [path.name for path in folder.iterdir() if not _OURS.fullmatch(path.name)] if folder.exists() else []
    )
    if others:
        allowed = "a new folder, an empty one, or one of an evaluation that was stopped"
        raise BadRequest("state", given=f"{others[0]} in {folder}", allowed=allowed)


@contextmanager
def merging(folder: Path) -> Iterator[bool]:
    """Yield whether the caller is the one to write the receipt; then, if that went well, the folder goes.

    The claim is the folder's new name: of two shards that finish together one gets it. A kill in between
    is made good by `prepare`.
    """
    claimed = _claimed(folder)
    shutil.rmtree(claimed, ignore_errors=True)  # of a merge that was killed after its receipt was written
    try:
        folder.rename(claimed)
    except FileNotFoundError:
        yield False
        return
    try:
        yield True
    except BaseException:
        claimed.rename(folder)
        raise
    shutil.rmtree(claimed, ignore_errors=True)


def _claimed(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.merging")
