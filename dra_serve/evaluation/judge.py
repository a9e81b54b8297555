"""One attack on some images, and the model's own verdict on what it made of them."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from array_api_compat import to_device

from dra_serve.attacks.norms import get_norm
from dra_serve.classifier import Array, Classifier
from dra_serve.errors import DraServeError
from dra_serve.evaluation.plan import Run
from dra_serve.evaluation.threads import in_slices
from dra_serve.images import round_into_ball

_SLACK = 1e-5  # relative: what float32 does to x + delta


@dataclass(frozen=True)
class Judge:
    """A model as it is asked here. as_array: NumPy to its array library; threads: slices attacked at once."""

    model: Classifier
    as_array: Callable[[np.ndarray], Array]
    threads: int

    def right(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return (N,) bool: whether the model's answer to x (N, C, H, W) is y (N,)."""
        return _right(self.model, self.as_array(x), y)

    def withstood(
        self, run: Run, x: np.ndarray, y: np.ndarray, ids: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Return which images withstand an attack, (N,) bool, and which do when rounded to k/255, (N,) bool.

        And how many the attack took for fooled though the model is right on them. ids: (N,), of the noise.
        Each image's outcome is its own, so any number of threads gives the same.
        Raises DraServeError if the attack broke its own rules.
        """

        def one(model: Classifier, part: slice) -> tuple[np.ndarray, np.ndarray, int]:
            return self._attacked(model, run, x[part], y[part], ids[part])

        exact, on_file, denied = zip(*in_slices(one, self.model, len(y), threads=self.threads), strict=True)
        return np.concatenate(exact), np.concatenate(on_file), sum(denied)

    def _attacked(
        self, model: Classifier, run: Run, x: np.ndarray, y: np.ndarray, ids: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, int]:
        drawn = {"indices": ids} if "indices" in inspect.signature(run.attack.run).parameters else {}
        result = run.attack(model, self.as_array(x), self.as_array(y), **drawn, **run.options)
        x_adv, success = _numpy(result.x_adv), _numpy(result.success)
        _require_inside(x_adv, x, run)
        rounded = round_into_ball(x_adv, x, run.parameters.eps, run.parameters.norm)
        exact = _right(model, self.as_array(x_adv), y)
        return exact, _right(model, self.as_array(rounded), y), int(np.sum(success & exact))


def _right(model: Classifier, x: Array, y: np.ndarray) -> np.ndarray:
    right: np.ndarray = _numpy(model.logits(x)).argmax(axis=1) == y
    return right


def _require_inside(x_adv: np.ndarray, x: np.ndarray, run: Run) -> None:
    """Raise if the attack broke its own rules: a figure made outside the ball would be worth nothing."""
    norm, eps = run.parameters.norm, run.parameters.eps
    size = get_norm(norm).size(x_adv - x).max()
    if not (size <= eps * (1 + _SLACK) + 1e-6 and x_adv.min() >= 0 and x_adv.max() <= 1):
        raise DraServeError(
            f"{run.name}: left the {norm} ball of {eps:g} (largest perturbation {size:g}) or [0, 1]"
        )


def _numpy(array: Array) -> np.ndarray:
    return np.asarray(to_device(array, "cpu"))
