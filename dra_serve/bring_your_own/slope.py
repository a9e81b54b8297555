"""A gradient against finite differences: does the value rise as fast as the gradient says?"""

from dataclasses import dataclass

import numpy as np

from dra_serve.classifier import Classifier

STEPS = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4)  # of each pixel, in units of x
DIRECTIONS = 6  # random signs: a gradient that lacks a part of the image differs along each of them
TOLERANCE = 0.01


@dataclass(frozen=True)
class Slope:
    """error: of the gradient's slopes against the measured ones, relative, at the step where it is least.

    noise: how far the rounding of the logits alone, to float32 or float16, may move the measured slopes at
    that step, relative. Where it is above the tolerance the error says nothing.
    """

    error: float
    noise: float

    def words(self) -> str:
        """Return one phrase for the user."""
        if self.noise > TOLERANCE:
            return "finite differences say nothing of its gradient: rounding takes their steps away"
        if not self.error <= TOLERANCE:  # nan too
            return f"WARNING: finite differences differ from its gradient by {self.error:.1%}"
        return f"finite differences agree with its gradient to {self.error:.1g}"


def measure_slope(model: Classifier) -> Slope:
    """Return how well `model.loss_and_grad` agrees with central differences of `model.logits`.

    The value is the lead of one fixed class over another, which no change of the runner-up bends, on one
    image drawn from a fixed seed, along random sign vectors and along the gradient's own signs. Several
    steps, because a large one bends and a small one drowns in rounding.
    """
    rng = np.random.default_rng(0)
    x = rng.uniform(0.25, 0.75, (1, *model.input_shape)).astype(np.float32)
    best, second = np.argsort(-model.logits(x)[0], kind="stable")[:2]
    _, _, grad = model.loss_and_grad(x, np.array([best]), "margin")
    signs = rng.choice(np.array([-1, 1], np.float32), (DIRECTIONS, *model.input_shape))
    directions = np.concatenate([signs, np.sign(grad)]) if grad.any() else signs
    said = (directions * grad.astype(np.float64)).sum(axis=(1, 2, 3))
    found = []
    for step in STEPS:
        up, down = x + np.float32(step) * directions, x - np.float32(step) * directions
        logits = [np.concatenate([model.logits(row[None]) for row in side]) for side in (up, down)]
        leads = [z[:, second].astype(np.float64) - z[:, best] for z in logits]
        wide = np.abs(up.astype(np.float64) - down).reshape(len(up), -1).max(axis=1)  # as float32 holds it
        measured = (leads[0] - leads[1]) / wide
        noise = np.abs(logits[0]).max() * _rounding(logits[0]) / step * np.sqrt(len(directions))
        size = max(_length(said), _length(measured), 1e-30)  # a gradient of zero is wrong by 100 %
        found.append(Slope(_length(measured - said) / size, float(noise) / size))
    clear = [slope for slope in found if slope.noise <= TOLERANCE]
    return min(clear or found, key=lambda slope: slope.error)


def _length(slopes: np.ndarray) -> float:
    return float(np.linalg.norm(slopes))


def _rounding(logits: np.ndarray) -> float:
    """Return how far the numbers of the logits' format lie apart, relative, with some room."""
    return 1e-3 if np.array_equal(logits, logits.astype(np.float16).astype(np.float32)) else 2e-7
