"""When APGD halves its steps: Croce & Hein 2020, section 3.2, as AutoAttack's code has it."""

from dataclasses import dataclass, replace

from array_api_compat import array_namespace, device

from dra_serve.classifier import Array

_RISES_WANTED = 0.75  # rho: fewer increases than this share of a window, and the step is too long


def checkpoints(steps: int) -> tuple[int, ...]:
    """Return after which steps, all below `steps`, APGD looks back; 1-based.

    The gaps are 22 % of the steps, then 3 % shorter each time, down to 6 %; in whole steps, at least 1.

    >>> checkpoints(100)
    (22, 41, 57, 70, 80, 87, 93, 99)
    """
    first, shrink, least = (max(steps * percent // 100, 1) for percent in (22, 3, 6))
    found, gap, at = [], first, first
    while at < steps:
        found.append(at)
        gap = max(gap - shrink, least)
        at += gap
    return tuple(found)


@dataclass(frozen=True)
class Schedule:
    """The step size of each of n images, and what decides about its next halving.

    size (n,): in units of x. last_loss (n,): of the latest iterate. rises (n,): how often the loss grew
    since the last checkpoint. best_then (n,): the best loss at the last checkpoint. halved (n,): whether
    that checkpoint halved.
    """

    size: Array
    last_loss: Array
    rises: Array
    best_then: Array
    halved: Array

    @classmethod
    def begin(cls, loss: Array, size: float) -> "Schedule":
        """Return the schedule of a run whose start has this loss.

        As in the original, the first window compares its first loss with 0, not with the start's, and
        the first checkpoint cannot halve for want of progress (`halved` begins true).
        """
        xp = array_namespace(loss)
        none = xp.zeros(loss.shape, dtype=xp.int64, device=device(loss))
        return cls(xp.full_like(loss, size), xp.zeros_like(loss), none, loss, none == 0)

    def select(self, kept: Array) -> "Schedule":
        """Return the schedule of these images only."""
        return Schedule(*(value[kept] for value in vars(self).values()))

    def observe(self, loss: Array) -> "Schedule":
        """Return the schedule after one more iterate with this loss (n,)."""
        return replace(self, last_loss=loss, rises=self.rises + (loss > self.last_loss))

    def check(self, best_loss: Array, window: int) -> "Schedule":
        """Return the schedule after the checkpoint that ends a window of so many steps.

        An image is halved if its loss grew in at most 75 % of them, or if the last checkpoint did not
        halve it and its best loss has not grown since.
        """
        xp = array_namespace(best_loss)
        halve = (self.rises <= _RISES_WANTED * window) | (~self.halved & (self.best_then >= best_loss))
        size = xp.where(halve, self.size / 2, self.size)
        return Schedule(size, self.last_loss, xp.zeros_like(self.rises), best_loss, halve)
