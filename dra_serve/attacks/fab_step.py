"""One step of FAB, and where it leaves the images.

Where we differ from AutoAttack's code, to save model calls. It asks of every new iterate whether it fools the
model; on a robust one nearly all do, far outside the ball. Here one too large to be kept is taken to, and the
next gradient says whether that can be true. An iterate that fools the model even when drawn back, because
another class lies before the target, is drawn back again; the original goes on from there. A step costs one
gradient and hardly ever a forward call, in place of one of each; `benchmarks/autoattack.py` compares.
"""

from dataclasses import dataclass

from array_api_compat import array_namespace

from dra_serve.attacks.hyperplane import to_hyperplane
from dra_serve.attacks.norms import Norm, clip, per_image
from dra_serve.attacks.objective import require_finite
from dra_serve.attacks.smallest import Smallest
from dra_serve.classifier import Array, Classifier

_ALPHA_MAX = 0.1  # how far at most the next iterate leans to the clean image's projection
_ETA = 1.05  # how far beyond the hyperplane to step
_BETA = 0.9  # how much of a perturbation that fools the model is kept
_TINY = 1e-8


@dataclass(frozen=True)
class Iterate:
    """Where n images stand on their way to `target` (n,).

    beyond: what the last step gave; x_now: the same, drawn back where it fools the model. guessed (n,):
    drawn back on the assumption that it does.
    """

    target: Array
    x_now: Array
    beyond: Array
    guessed: Array

    @classmethod
    def begin(cls, x: Array, target: Array) -> "Iterate":
        return cls(target, x, x, target < 0)

    def select(self, kept: Array) -> "Iterate":
        return Iterate(*(value[kept] for value in vars(self).values()))


def advance(model: Classifier, books: Smallest, ball: Norm, here: Iterate) -> Iterate:
    """Return the next iterates, and keep the smallest that fool the model.

    Where y leads, the margin at the target is z_y - z_t. Where it does not, x_now is drawn back again.
    """
    xp = array_namespace(here.x_now)
    y = books.goal.y
    logits, value, grad = model.loss_and_grad(here.x_now, here.target, "margin")
    require_finite(grad)
    fools = xp.argmax(logits, axis=1) != y
    books.record(here.x_now, logits, fools)
    x_now, value, grad = _corrected(model, here, y, fools, value, grad)
    x_new = _step(ball, books.x, x_now, -value, -grad)
    asked = books.size_matters(x_new) & ~fools
    guessed = ~asked & ~fools
    at = xp.nonzero(asked)[0]
    if at.shape[0]:
        logits = model.logits(x_new[at])
        asked[at] = reached = xp.argmax(logits, axis=1) != y[at]
        books.record(x_new[at], logits, reached, at)
    beyond = xp.where(per_image(fools), x_now, x_new)
    drawn_back = books.x + _BETA * (beyond - books.x)
    x_next = xp.where(per_image(fools | asked | guessed), drawn_back, beyond)
    return Iterate(here.target, x_next, beyond, guessed)


def _corrected(
    model: Classifier, here: Iterate, y: Array, fools: Array, value: Array, grad: Array
) -> tuple[Array, Array, Array]:
    """Return x_now, value and grad, with x_now put back to where it should not have been drawn from.

    The guess that `beyond` fools the model stands if x_now does, or if its own slope says so.
    """
    xp = array_namespace(value)
    shape = (value.shape[0], -1)
    ahead = xp.vecdot(xp.reshape(grad, shape), xp.reshape(here.beyond - here.x_now, shape)) + value
    at = xp.nonzero(here.guessed & ~fools & (ahead >= 0))[0]
    if not at.shape[0]:
        return here.x_now, value, grad
    at = at[xp.argmax(model.logits(here.beyond[at]), axis=1) == y[at]]
    if not at.shape[0]:
        return here.x_now, value, grad
    x_now, value, grad = (xp.asarray(a, copy=True) for a in (here.x_now, value, grad))
    x_now[at] = here.beyond[at]
    _, value[at], grad[at] = model.loss_and_grad(x_now[at], here.target[at], "margin")
    require_finite(grad)
    return x_now, value, grad


def _step(ball: Norm, x: Array, x_now: Array, gap: Array, slope: Array) -> Array:
    """Return the next iterate: between the projections of x_now and of x, a little beyond both."""
    xp = array_namespace(x)
    flat = (x.shape[0], -1)
    w, a, b = (xp.reshape(v, flat) for v in (slope, x_now, x))
    to_now = xp.reshape(to_hyperplane(a, w, -gap, norm=ball.name), x.shape)
    to_clean = xp.reshape(to_hyperplane(b, w, xp.vecdot(w, a - b) - gap, norm=ball.name), x.shape)
    near, far = ball.size(to_now), ball.size(to_clean)
    alpha = xp.minimum(near / (near + xp.maximum(far, _TINY)), _ALPHA_MAX)
    alpha = per_image(alpha)
    return clip((1 - alpha) * (x_now + _ETA * to_now) + alpha * (x + _ETA * to_clean), 0.0, 1.0)
