"""What became of the images, and how far an evaluation is."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Outcomes:
    """What became of each of N images under A attacks in order.

    clean (N,) bool: right before any attack. after (A, N) bool: right after this attack and all before it.
    robust_8bit (N,) bool: right on every adversarial image rounded to k/255.
    done (N,) bool: judged by every attack; the rest is False everywhere.
    missing: a word on each shard that is not done.
    seconds: of computing, over all sessions and shards. unconfirmed: images that an attack took for
    fooled and the forward graph, which is what is deployed and what counts here, did not.
    """

    clean: np.ndarray
    after: np.ndarray
    robust_8bit: np.ndarray
    done: np.ndarray
    seconds: float = 0.0
    unconfirmed: int = 0
    missing: tuple[str, ...] = ()

    @property
    def robust(self) -> np.ndarray:
        """(N,) bool: right before and after every attack."""
        last: np.ndarray = self.after[-1]
        return last

    @property
    def complete(self) -> bool:
        """Whether every image is judged; False for a shard whose neighbours are not done."""
        return bool(self.done.all())


@dataclass(frozen=True)
class Standing:
    """How far a shard is. done, total: its images. robust: of those done. attack: the one that runs now.

    share: of the work, 0 to 1. seconds_left: None until every attack has been timed once.
    """

    done: int
    total: int
    robust: int
    attack: str
    share: float
    seconds_left: float | None
