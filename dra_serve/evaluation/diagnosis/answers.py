"""Checks that look at answers alone: any model can be asked them."""

import sys
from types import FrameType

import numpy as np

from dra_serve.evaluation.diagnosis.case import DIFFERENCE, Case, Measured, as_numpy, counted, difference

PASSES = 5
MANY = 16  # images, from which on luck is allowed for
ALONE = 8  # images asked for one at a time
ROUNDED = 2e-3  # how far from 1 the sum of a softmax in float16 may be
NUMBERS = 1024  # logits, at least, whose precision is looked at
LEVELS = 256  # what 8 bits can tell apart
_BELOW_A_LEVEL = 1 / 2048  # in units of x: rounding to k/255 takes it back


def clean_at_chance(case: Case) -> Measured:
    """Right on no more images than guessing may be: labels in another order, or another input range.

    Guessing is right on n / K, and seldom on more than two standard deviations above; of fewer than MANY
    images that says nothing, and the mean is the bound.
    """
    right, n, share = case.predicted == case.y, len(case.y), 1 / len(case.model.classes)
    spread = 2 * np.sqrt(n * share * (1 - share)) if n >= MANY else 0
    bound = n * share + spread
    return Measured(f"right on {counted(right)} (guessing: up to {bound:.3g})", bool(right.sum() <= bound))


def writes_input(case: Case) -> Measured:
    """The model alters the array it is given, and with it the images of the attack.

    The model itself is asked, not its NumPy view, which hands out copies.
    """
    x = case.model.as_array(case.x.copy())
    case.model.model.logits(x)
    if case.model.has_gradient:
        case.model.model.loss_and_grad(x, case.model.as_array(case.predicted))
    changed = np.any(as_numpy(x) != case.x, axis=(1, 2, 3))
    return Measured(f"{counted(changed)} altered", bool(changed.any()))


def randomised(case: Case) -> Measured:
    """The same images get other answers in another pass (AutoAttack's `check_randomized`)."""
    passes = [case.logits, *(case.model.logits(case.x) for _ in range(PASSES - 1))]
    apart = max(float(difference(passes[0], other).max()) for other in passes[1:])
    flipped = np.any([other.argmax(1) != case.predicted for other in passes[1:]], axis=0)
    text = f"{PASSES} passes differ by {apart:.1g} of the logits' length (limit {DIFFERENCE:g})"
    return Measured(text, bool(flipped.any()) or apart > DIFFERENCE)


def batch_dependent(case: Case) -> Measured:
    """An image's answer depends on its neighbours: alone, in a batch, or in the batch turned round."""
    alone = np.concatenate([case.model.logits(case.x[i : i + 1]) for i in range(min(ALONE, len(case.x)))])
    turned = case.model.logits(case.x[::-1])[::-1]
    apart, moved = 0.0, False
    for other in (alone, turned):
        together = case.logits[: len(other)]
        apart = max(apart, float(difference(together, other).max()))
        moved |= bool(np.any(together.argmax(1) != other.argmax(1)))
    text = f"alone and together differ by {apart:.1g} of the logits' length (limit {DIFFERENCE:g})"
    return Measured(text, moved or apart > DIFFERENCE)


def optimises_to_answer(case: Case) -> Measured:
    """torch's autograd is called while the model answers (AutoAttack's `check_dynamic`).

    Known by the functions' code, however they were imported; what compiled code calls is not seen. Without
    torch there is nothing to call.
    """
    calls, before, x = 0, sys.getprofile(), case.x[:ALONE]
    torch = sys.modules.get("torch")
    differentiate = {torch.autograd.grad.__code__, torch.autograd.backward.__code__} if torch else set()

    def watch(frame: FrameType, event: str, _: object) -> None:
        nonlocal calls
        calls += event == "call" and frame.f_code in differentiate

    sys.setprofile(watch)
    try:
        case.model.logits(x)
    finally:
        sys.setprofile(before)
    return Measured(f"{calls} gradients taken to answer {len(x)} images", calls > 0)


def probabilities(case: Case) -> Measured:
    """Every row is in [0, 1] and sums to 1 (AutoAttack's `check_range_output`): a softmax came before."""
    sums, low, high = case.logits.sum(1), float(case.logits.min()), float(case.logits.max())
    text = f"outputs from {low:.3g} to {high:.3g}, sums from {sums.min():.3g} to {sums.max():.3g}"
    inside = low >= -ROUNDED and high <= 1 + ROUNDED
    return Measured(text, inside and bool(np.all(np.abs(sums - 1) < ROUNDED)))


def reduced_precision(case: Case) -> Measured:
    """Answers on the grid of a narrower format, or deaf to changes below an 8-bit level of the input."""
    z = case.model.logits(_enough(case)).ravel()
    z32 = z.astype(np.float32)
    levels = len(np.unique(z32))
    faults = []
    if not np.any(z32.view(np.uint32) & 0xFFFF):
        faults.append("every logit is a bfloat16 number")
    elif np.array_equal(z32, z32.astype(np.float16)):
        faults.append("every logit is a float16 number")
    if levels <= LEVELS:
        faults.append("no more values than 8 bits have")
    deaf = _deaf(case)
    if deaf.all():
        faults.append("a change below an 8-bit level of the input changes no logit")
    found = "; ".join([f"{levels:,} values in {len(z):,} logits", *faults])
    return Measured(found, bool(faults))


def _enough(case: Case) -> np.ndarray:
    """Return the images, and noisy copies of them, for NUMBERS logits at least."""
    n = -(-NUMBERS // len(case.model.classes))
    rng = np.random.default_rng(case.seed)
    x = case.x[np.arange(max(n, 1)) % len(case.x)]
    noisy = x + signs(rng, x.shape) / 32
    noisy[: len(case.x)] = x[: len(case.x)]
    return np.clip(noisy, 0, 1)


def signs(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return signs, +-1 with equal chance, float32."""
    drawn: np.ndarray = (2 * rng.integers(0, 2, shape) - 1).astype(np.float32)
    return drawn


def _deaf(case: Case) -> np.ndarray:
    """Return (N,): whether an image and one a fraction of a level away get the same logits, to the bit."""
    grid = np.rint(case.x * 255) / 255
    by = signs(np.random.default_rng(case.seed), case.x.shape)
    near = np.clip(grid + by * _BELOW_A_LEVEL, 0, 1)
    same = case.model.logits(grid.astype(np.float32)) == case.model.logits(near.astype(np.float32))
    deaf: np.ndarray = same.all(axis=1)
    return deaf
