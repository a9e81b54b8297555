"""Outcomes on disk after every batch, so that a killed evaluation goes on where it stopped."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dra_serve.errors import BadRequest
from dra_serve.evaluation.bits import pack, unpack

_COLUMNS = ("clean", "robust", "robust_8bit")


@dataclass(frozen=True)
class Outcomes:
    """What became of each image, bool (N,): right when clean, after the attack, on its 8-bit image.

    seconds: of computing, over all sessions. unconfirmed: images that the gradient graph took for fooled
    and the forward graph, which is what is deployed and what counts here, did not.
    """

    clean: np.ndarray
    robust: np.ndarray
    robust_8bit: np.ndarray
    seconds: float = 0.0
    unconfirmed: int = 0


class State:
    """The outcomes of n images, of which the first `done` in evaluation order are known; kept at `path`.

    key: a hash of all that decides an outcome. A file with another one raises BadRequest, as does a
    damaged one. The file is replaced whole, so a kill at any moment leaves the batch before.
    """

    def __init__(self, path: Path | None, key: str, n: int) -> None:
        self.path, self.key, self.n = path, key, n
        self.done, self.seconds, self.unconfirmed = 0, 0.0, 0
        self._columns = {name: np.zeros(n, dtype=bool) for name in _COLUMNS}
        if path is not None and path.exists():
            self._read(path)

    def add(self, rows: np.ndarray, batch: Outcomes) -> None:
        """Record the outcomes of these rows, the next in evaluation order."""
        for name, column in self._columns.items():
            column[rows] = getattr(batch, name)
        self.done += len(rows)
        self.seconds += batch.seconds
        self.unconfirmed += batch.unconfirmed
        if self.path is not None:
            self._write(self.path)

    def outcomes(self) -> Outcomes:
        """Return the outcomes so far; False for an image that is not done."""
        columns = {name: column.copy() for name, column in self._columns.items()}
        return Outcomes(**columns, seconds=self.seconds, unconfirmed=self.unconfirmed)

    def _read(self, path: Path) -> None:
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
            key, done = saved["key"], int(saved["done"])
            self.seconds, self.unconfirmed = float(saved["seconds"]), int(saved["unconfirmed"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadRequest("state", given=str(path), allowed="a state file of this evaluation") from error
        if key != self.key:
            raise BadRequest(
                "state", given=str(path), allowed="a state file of this very evaluation; remove it"
            )
        try:
            self._columns = {name: unpack(saved["outcomes"][name], self.n) for name in _COLUMNS}
        except (ValueError, KeyError, TypeError) as error:
            raise BadRequest("state", given=str(path), allowed="a whole state file; remove it") from error
        self.done = done

    def _write(self, path: Path) -> None:
        saved = {
            "key": self.key,
            "done": self.done,
            "seconds": self.seconds,
            "unconfirmed": self.unconfirmed,
            "outcomes": {name: pack(column) for name, column in self._columns.items()},
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(path.suffix + ".partial")
        partial.write_text(json.dumps(saved), encoding="utf-8")
        partial.replace(path)
