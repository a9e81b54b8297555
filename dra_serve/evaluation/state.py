"""A shard's outcomes on disk after every batch, so that a killed evaluation goes on where it stopped."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dra_serve.errors import BadRequest, UserError
from dra_serve.evaluation.bits import pack, unpack
from dra_serve.evaluation.shards import Shard


@dataclass(frozen=True)
class Key:
    """What a state belongs to. evaluation: a hash of model, images and attacks; code: what computes it."""

    evaluation: str
    code: str


class State:
    """The outcomes of `rows`, a shard's images in the order they are taken, under so many attacks.

    done[a] of them, from the first on, are judged by attack a; what attack a - 1 has passed waits for it.
    folder: where the state is kept, one file a shard, None for nowhere. A file of another evaluation
    raises BadRequest, as does a damaged one; one of other code UserError. The file is replaced whole, so a
    kill at any moment leaves the batch before.
    """

    def __init__(self, folder: Path | None, key: Key, shard: Shard, rows: np.ndarray, attacks: int) -> None:
        self.path = None if folder is None else folder / f"{shard}.json"
        self.key, self.shard, self.rows = key, shard, rows
        self.done, self.seconds, self.unconfirmed = [0] * attacks, [0.0] * attacks, 0
        n = len(rows)
        self.clean, self.robust_8bit = np.zeros(n, bool), np.zeros(n, bool)
        self.after = np.zeros((attacks, n), bool)
        if self.path is not None and self.path.exists():
            self._read(self.path)

    def begin(self) -> None:
        """Put the state on disk, before any work: what cannot be written is known at once.

        Raises UserError then.
        """
        if self.path is not None:
            self._write(self.path)

    @property
    def finished(self) -> int:
        """How many images, from the first on, every attack has judged."""
        return self.done[-1]

    @property
    def complete(self) -> bool:
        return self.finished == len(self.rows)

    def next(self, batch: int) -> tuple[int, slice] | None:
        """Return the attack to run and on which rows, at most `batch`; None if all is done.

        What is begun is finished first: the figures of finished images are final, and so many that
        they estimate the whole.
        """
        for attack in range(1, len(self.done)):
            begin, end = self.done[attack], self.done[attack - 1]
            if begin < end:
                return attack, slice(begin, min(end, begin + batch))
        begin, end = self.done[0], len(self.rows)
        return (0, slice(begin, min(end, begin + batch))) if begin < end else None

    def record(self, attack: int, part: slice, *, seconds: float, unconfirmed: int) -> None:
        """Note that `attack` has judged the rows `part`, whose outcomes are set; keep it on disk."""
        self.done[attack] = part.stop
        self.seconds[attack] += seconds
        self.unconfirmed += unconfirmed
        if self.path is not None:
            self._write(self.path)

    def seconds_left(self) -> float | None:
        """Return the time left at each attack's pace so far; None while one has none."""
        if not all(self.done):
            return None
        n = len(self.rows)
        return sum((n - done) / done * spent for done, spent in zip(self.done, self.seconds, strict=True))

    def _read(self, path: Path) -> None:
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
            key = Key(**saved["key"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadRequest("state", given=str(path), allowed="a state file of this evaluation") from error
        if key.evaluation != self.key.evaluation:
            allowed = "a state file of this very evaluation (model, images, attacks); remove it"
            raise BadRequest("state", given=str(path), allowed=allowed)
        if key.code != self.key.code:
            told = f"state: {path} was begun by {key.code}; this is {self.key.code}; remove it to begin again"
            raise UserError(told, field="state")
        try:
            self._restore(saved)
        except (ValueError, KeyError, TypeError) as error:
            raise BadRequest("state", given=str(path), allowed="a whole state file; remove it") from error

    def _restore(self, saved: dict[str, Any]) -> None:
        n, attacks = len(self.rows), len(self.done)
        done, seconds, after = map(list, (saved["done"], saved["seconds"], saved["after"]))
        if not len(done) == len(seconds) == len(after) == attacks:
            raise ValueError(f"{len(done)} attacks, not {attacks}")
        if not all(0 <= later <= earlier for earlier, later in zip([n, *done], done, strict=False)):
            raise ValueError(f"{done} of {n} images done")
        self.done, self.seconds = [int(d) for d in done], [float(s) for s in seconds]
        self.unconfirmed = int(saved["unconfirmed"])
        self.clean, self.robust_8bit = unpack(saved["clean"], n), unpack(saved["robust_8bit"], n)
        self.after = np.stack([unpack(column, n) for column in after])

    def _write(self, path: Path) -> None:
        saved = {
            "key": asdict(self.key),
            "done": self.done,
            "seconds": self.seconds,
            "unconfirmed": self.unconfirmed,
            "clean": pack(self.clean),
            "after": [pack(column) for column in self.after],
            "robust_8bit": pack(self.robust_8bit),
        }
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps(saved), encoding="utf-8")
            partial.replace(path)
        except OSError as error:
            raise UserError(f"state: {path}: {error.strerror}", field="state") from error
