"""Checks of the gradient that every white-box attack follows."""

from functools import partial

import numpy as np

from dra_serve.attacks.losses import ce
from dra_serve.attacks.pgd import random_start
from dra_serve.classifier import Loss
from dra_serve.evaluation.diagnosis.answers import signs
from dra_serve.evaluation.diagnosis.case import DIFFERENCE, Case, Measured, counted, difference

SLOPES_DIFFER = 0.05  # of the slope: kinks and float32 put less into sound ReLU networks
WRONG_SHARE = 0.1  # of images: now and then a kink of the network lies between two points
DIFFERENTIATED = 16  # images, at most
MOVES = (2e-3, 2e-4, 2e-5)  # of every pixel, in units of x: small ones for kinks, large ones for float32
DIRECTIONS = 3  # drawn, beside the gradient's own: of them the median counts, so that one may be unlucky
_SATURATED = 1e-2  # of CE: below it, 1 - p has too few digits in float32


def no_gradient(case: Case) -> Measured:
    """The model answers but gives no gradient: no white-box attack can run."""
    return Measured("none" if not case.model.has_gradient else "there is one", not case.model.has_gradient)


def non_finite(case: Case) -> Measured:
    """A nan or infinity among the logits, or the gradients of CE and DLR."""
    bad = ~np.isfinite(case.logits).all(axis=1)
    if case.model.has_gradient:
        with np.errstate(invalid="ignore"):  # inf - inf, in a loss of logits that are bad already
            for loss in ("ce", "dlr"):
                bad |= ~np.isfinite(_gradient(case, loss)).all(axis=(1, 2, 3))
    what = "logits or gradients" if case.model.has_gradient else "logits"
    return Measured(f"{counted(bad)} with {what} that are no numbers", bool(bad.any()))


def zero_gradients(case: Case) -> Measured:
    """A gradient of nothing but zeros, by CE or by DLR (AutoAttack's `check_zero_gradients`)."""
    ce, dlr = (~np.any(_gradient(case, loss), axis=(1, 2, 3)) for loss in ("ce", "dlr"))
    text = f"zero on {counted(ce)} by ce, {int(dlr.sum())} by dlr"
    if ce.any() and not dlr.any():
        text += ": ce is saturated; attack with dlr (apgd-dlr, apgd-t)"
    return Measured(text, bool(ce.any() or dlr.any()))


def wrong_gradient(case: Case) -> Measured:
    """The loss does not change as its gradient says, along the gradient's signs and drawn directions."""
    n = min(DIFFERENTIATED, len(case.x))
    error = np.fmax(_slope_error(case, "margin", n), _slope_error(case, "ce", n))
    error = error[~np.isnan(error)]
    if not len(error):
        return Measured("no image has a slope to compare it with", False)
    wrong = ~(error <= SLOPES_DIFFER)
    text = (
        f"{counted(wrong)} off by more than {SLOPES_DIFFER:.0%} of the slope (median {np.median(error):.1%})"
    )
    return Measured(text, bool(wrong.mean() > WRONG_SHARE))


def straight_through(case: Case) -> Measured:
    """The gradient graph passes roundings as if they were not there, as its metadata says."""
    estimated = getattr(case.model.model, "straight_through", ())
    return Measured(f"{', '.join(estimated) or 'nothing'} passed straight through", bool(estimated))


def graphs_disagree(case: Case) -> Measured:
    """The logits beside the gradient are not those of `logits`: another model is attacked than is used."""
    noisy = random_start(case.x, norm=case.norm, eps=case.eps, seed=case.seed)
    apart, flipped = 0.0, np.zeros(len(case.x), bool)
    for x in (case.x, noisy):
        forward, beside = case.model.logits(x), case.model.loss_and_grad(x, case.predicted)[0]
        apart = max(apart, float(difference(forward, beside).max()))
        flipped |= forward.argmax(1) != beside.argmax(1)
    text = (
        f"they differ by {apart:.1e} of a logit vector (limit {DIFFERENCE:g}), in class on {counted(flipped)}"
    )
    return Measured(text, bool(apart > DIFFERENCE or flipped.any()))


def _gradient(case: Case, loss: Loss) -> np.ndarray:
    return case.model.loss_and_grad(case.x, case.predicted, loss)[2]


def _slope_error(case: Case, loss: Loss, n: int) -> np.ndarray:
    """Return the relative error (n,) of the first n images' gradients; nan where there is none to compare.

    Central differences, in float64 from the logits on. In each direction the best move counts, so that
    neither a kink nor float32 stands for the gradient. Of the two kinds of direction the worse: along the
    gradient's signs, where the slope is its l1 norm, and along random signs, where slopes spread by its l2
    norm. The second finds what a gradient leaves out.
    """
    room = max(MOVES)
    x = case.x[:n] * np.float32(1 - 2 * room) + np.float32(room)  # so that no move leaves [0, 1]
    y = case.predicted[:n]
    _, value, grad = case.model.loss_and_grad(x, y, loss)
    height = partial(_ce, case, y) if loss == "ce" else partial(_lead, case, y, _runner_up(case, x, y))
    slope = grad.astype(np.float64)
    l1, l2 = np.abs(slope).sum((1, 2, 3)), np.sqrt(np.square(slope).sum((1, 2, 3)))

    def miss(u: np.ndarray, move: float) -> np.ndarray:
        up, down = x + np.float32(move) * u, x - np.float32(move) * u
        said = (slope * (up.astype(np.float64) - down)).sum((1, 2, 3))  # where float32 has put the two
        missed: np.ndarray = np.abs(height(up) - height(down) - said) / (2 * move)
        return missed

    rng = np.random.default_rng(case.seed)
    own, *drawn = (
        np.min([miss(u, move) for move in MOVES], axis=0)
        for u in (np.sign(grad), *(signs(rng, x.shape) for _ in range(DIRECTIONS)))
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.fmax(own / l1, np.median(drawn, axis=0) / l2)
    comparable = (l1 > 0) & ((loss != "ce") | (value > _SATURATED))
    return np.where(comparable, error, np.nan)


def _ce(case: Case, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    value: np.ndarray = ce(case.model.logits(x).astype(np.float64), y)[0]
    return value


def _lead(case: Case, y: np.ndarray, other: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The margin, of the class that was the runner-up to begin with: a change of it would be a kink."""
    logits, rows = case.model.logits(x).astype(np.float64), np.arange(len(y))
    lead: np.ndarray = logits[rows, other] - logits[rows, y]
    return lead


def _runner_up(case: Case, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    logits = case.model.logits(x)
    others = np.where(np.arange(logits.shape[1]) == y[:, None], -np.inf, logits)
    best: np.ndarray = others.argmax(1)
    return best
