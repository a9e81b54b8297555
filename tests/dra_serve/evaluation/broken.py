"""Small NumPy classifiers with gradients in closed form: one that is sound, and many that are not.

Each broken one is the sound one with the fault that its name says.
"""

import numpy as np

from dra_serve.attacks.losses import LOSS_FUNCTIONS

SHAPE = (3, 8, 8)
K = 5
_rng = np.random.default_rng(1)
W = (_rng.standard_normal((K, int(np.prod(SHAPE)))) / 5).astype(np.float32)
B = (-W.sum(axis=1) / 2).astype(np.float32)  # grey is undecided


class Linear:
    """logits = W flat(x) + b."""

    classes = tuple("abcde")
    input_shape = SHAPE
    has_gradient = True

    def logits(self, x):
        return self.answer(x)

    def loss_and_grad(self, x, y, loss="ce", target=None):
        logits = self.answer(x)
        value, slope = LOSS_FUNCTIONS[loss](logits, y, target)
        return logits, value, self.gradient(x, slope)

    def answer(self, x):
        return (x.reshape(len(x), W.shape[1]) @ W.T + B).astype(np.float32)

    def gradient(self, x, slope):
        return (slope @ W).reshape(x.shape).astype(np.float32)


class Counting(Linear):
    """Counts images, each time one is asked about."""

    def __init__(self):
        self.forwards = self.gradients = 0

    def logits(self, x):
        self.forwards += len(x)
        return super().logits(x)

    def loss_and_grad(self, x, y, loss="ce", target=None):
        self.gradients += len(x)
        return super().loss_and_grad(x, y, loss, target)


class Centres(Linear):
    def answer(self, x):
        x -= np.float32(0.5)
        return (x.reshape(len(x), W.shape[1]) @ W.T).astype(np.float32)


class Noisy(Linear):
    def __init__(self):
        self.rng = np.random.default_rng(0)

    def answer(self, x):
        return super().answer(x) + self.rng.normal(0, 0.3, (len(x), K)).astype(np.float32)


class BatchCentred(Linear):
    """As batch normalisation does in training mode."""

    def answer(self, x):
        logits = super().answer(x)
        return logits - logits.mean(axis=0)


class Softmax(Linear):
    def answer(self, x):
        z = super().answer(x)
        exp = np.exp(z - z.max(axis=1, keepdims=True))
        return exp / exp.sum(axis=1, keepdims=True)

    def gradient(self, x, slope):
        p = self.answer(x)
        return super().gradient(x, p * (slope - (p * slope).sum(1, keepdims=True)))


class HalfSoftmax(Softmax):
    def answer(self, x):
        return super().answer(x).astype(np.float16).astype(np.float32)


class Half(Linear):
    def answer(self, x):
        return super().answer(x).astype(np.float16).astype(np.float32)


class Bfloat(Linear):
    def answer(self, x):
        return (super().answer(x).view(np.uint32) & 0xFFFF0000).view(np.float32)


class Quantised(Linear):
    """Logits on 8-bit steps, with the gradient of those before (straight through)."""

    def answer(self, x):
        step = np.float32(0.0437)
        return np.clip(np.rint(super().answer(x) / step), -128, 127).astype(np.float32) * step


class EightBitInput(Linear):
    def answer(self, x):
        return super().answer((np.rint(x * 255) / 255).astype(np.float32))


class BlackBox(Linear):
    has_gradient = False


class NotANumber(Linear):
    """No gradient for bright images."""

    def gradient(self, x, slope):
        bright = x.mean(axis=(1, 2, 3)) > 0.5
        return np.where(bright[:, None, None, None], np.nan, super().gradient(x, slope)).astype(np.float32)


class Infinite(Linear):
    def answer(self, x):
        logits = super().answer(x)
        logits[x.mean(axis=(1, 2, 3)) > 0.5, 0] = np.inf
        return logits


class Saturated(Linear):
    """So sure of everything that CE has no gradient left in float32."""

    def answer(self, x):
        return 1000 * super().answer(x)

    def gradient(self, x, slope):
        return 1000 * super().gradient(x, slope)


class Flat(Linear):
    def gradient(self, x, slope):
        return np.zeros_like(x)


class Downhill(Linear):
    def gradient(self, x, slope):
        return -super().gradient(x, slope)


class Estimated(Linear):
    """Says of itself that its gradient passes a rounding."""

    straight_through = ("QuantizeLinear",)


class HalfTheGradient(Linear):
    """Right where it is not masked: the slope along its own signs is what it says."""

    def gradient(self, x, slope):
        grad = super().gradient(x, slope)
        grad[:, :, ::2] = 0
        return grad


class TwoModels(Linear):
    """The gradient graph has the classes in another order."""

    def loss_and_grad(self, x, y, loss="ce", target=None):
        logits, value, grad = super().loss_and_grad(x, y, loss, target)
        return np.roll(logits, 1, axis=1), value, grad


class RightOnTheGrid(Linear):
    """The gradient is true at 8-bit images, and leads back once an attack has left them."""

    def gradient(self, x, slope):
        levels = 255 * x
        off = np.abs(levels - np.rint(levels)).max(axis=(1, 2, 3), keepdims=True) > 1e-3
        return np.where(off, -1, 1).astype(np.float32) * super().gradient(x, slope)


class NarrowGate:
    """Two classes. The second lies behind a gate that short steps meet and long ones leap over."""

    classes = ("around", "through")
    input_shape = SHAPE
    has_gradient = True
    w = np.sign(W[0])

    def __init__(self, eps):
        reach = eps * len(self.w)
        self.centre, self.width = 0.5 * self.w.sum() + 0.5 * reach, 0.02 * reach

    def logits(self, x):
        off = x.reshape(len(x), W.shape[1]) @ self.w - self.centre
        return np.stack([np.abs(off), np.full(len(x), self.width)], axis=1).astype(np.float32)

    def loss_and_grad(self, x, y, loss="ce", target=None):
        logits = self.logits(x)
        value, slope = LOSS_FUNCTIONS[loss](logits, y, target)
        sign = np.sign(x.reshape(len(x), W.shape[1]) @ self.w - self.centre)
        return logits, value, ((slope[:, 0] * sign)[:, None] * self.w).reshape(x.shape).astype(np.float32)


class Constant(Linear):
    """Answers a class whatever it sees, with a true gradient: robust, and worth nothing."""

    def answer(self, x):
        return super().answer(x) + np.float32(1000) * np.eye(K, dtype=np.float32)[0]


def images(n, seed=0):
    """Return n images on the 8-bit grid, float32, and the sound model's answers to them."""
    levels = np.random.default_rng(seed).integers(64, 192, (n, *SHAPE))
    x = (levels / 255).astype(np.float32)
    return x, Linear().logits(x).argmax(1)
