"""Attack every image once and keep what became of it, batch by batch, on disk if asked."""

import hashlib
import inspect
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from array_api_compat import to_device

from dra_serve.attacks import Attack, get_attack
from dra_serve.attacks.norms import get_norm
from dra_serve.classifier import Array, Classifier
from dra_serve.errors import BadRequest, DraServeError
from dra_serve.evaluation.data import LabelledImages
from dra_serve.evaluation.state import Outcomes, State
from dra_serve.images import round_into_ball

BATCH = 128
_SLACK = 1e-5  # relative: what float32 does to x + delta

OnBatch = Callable[[int, Outcomes], None]


def evaluate(
    model: Classifier,
    images: LabelledImages | np.ndarray,
    y: Any = None,
    *,
    attack: str = "pgd",
    batch: int = BATCH,
    state: Path | None = None,
    model_sha256: str | None = None,
    on_batch: OnBatch | None = None,
    as_array: Callable[[np.ndarray], Array] = np.asarray,
    **options: Any,
) -> Outcomes:
    """Return each image's outcome under `attack`.

    images: `LabelledImages`, or x uint8 (N, C, H, W) with y (N,) labels. options: the attack's own (norm,
    eps, steps, restarts, seed...). Noise is keyed by an image's position in the data set, so batch size
    and subset change nothing. The verdict is the model's own answer (`logits`) to the adversarial image
    and to its rounding to k/255, which is what a PNG of it holds; the attack's opinion does not count.

    state: a file rewritten after every batch; a killed evaluation goes on from it. It knows the model by
    model_sha256, by default the model's own `sha256`.
    on_batch: called with the number of images done and the outcomes so far; images go in a random order,
    so that the figures so far estimate the whole.
    as_array: NumPy to the model's array library, such as torch.from_numpy.

    Raises BadRequest for an unknown attack or option, for images that do not fit the model, and for a
    state file of another evaluation.

    >>> outcomes = dra_serve.evaluate(model, x, y, eps="8/255", steps=20)  # doctest: +SKIP
    >>> outcomes.robust.mean()  # doctest: +SKIP
    """
    if not isinstance(images, LabelledImages):
        images = LabelledImages.of(images, y)
    if batch < 1:
        raise BadRequest("batch", given=batch, allowed="at least 1")
    _check_fit(model, images)
    if state is not None and not (model_sha256 or getattr(model, "sha256", None)):
        raise BadRequest(
            "model_sha256", given=None, allowed="the sha256 of the weights, which names the state"
        )
    key, order = fingerprint(model, images, attack, model_sha256, **options), _order(len(images.y))
    rows = State(state, key, len(order))
    while rows.done < len(order):
        part = order[rows.done : rows.done + batch]
        rows.add(part, _judge(model, images, part, get_attack(attack), options, as_array))
        if on_batch is not None:
            on_batch(rows.done, rows.outcomes())
    return rows.outcomes()


def fingerprint(
    model: Classifier,
    images: LabelledImages,
    attack: str,
    model_sha256: str | None = None,
    **options: Any,
) -> str:
    """Return a hash of all that decides an outcome, and of the order in which they are found."""
    parameters = get_attack(attack).resolve(model.input_shape, **options).as_dict()
    digest = model_sha256 or getattr(model, "sha256", None)
    graph = getattr(model, "gradient_sha256", None)
    which = hashlib.sha256(images.indices[_order(len(images.y))].tobytes()).hexdigest()
    parts = [attack, parameters, images.sha256, which, digest, graph]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _order(n: int) -> np.ndarray:
    return np.random.default_rng(0).permutation(n)


def _check_fit(model: Classifier, images: LabelledImages) -> None:
    if tuple(images.x.shape[1:]) != tuple(model.input_shape):
        given = f"images of shape {tuple(images.x.shape[1:])}"
        raise BadRequest("data", given=given, allowed=f"{tuple(model.input_shape)}, the model's input")
    last = len(model.classes) - 1
    if images.y.min() < 0 or images.y.max() > last:
        given = f"labels from {images.y.min()} to {images.y.max()}"
        raise BadRequest("data", given=given, allowed=f"0 to {last}, the model's classes")
    unnamed = tuple(map(str, range(last + 1)))  # of a plain .onnx file
    if images.classes is not None and model.classes not in (images.classes, unnamed):
        given, allowed = (", ".join(names) for names in (images.classes, model.classes))
        raise BadRequest("data", given=f"classes {given}", allowed=f"the model's, in their order: {allowed}")


def _judge(
    model: Classifier,
    images: LabelledImages,
    part: np.ndarray,
    attack: Attack,
    options: dict[str, Any],
    as_array: Callable[[np.ndarray], Array],
) -> Outcomes:
    """Return the outcomes of the rows `part`. What is wrong when clean needs no attack."""
    started = time.monotonic()

    def right(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        answer: np.ndarray = _numpy(model.logits(as_array(x))).argmax(axis=1) == y
        return answer

    x, y = images.x[part].astype(np.float32) / np.float32(255), images.y[part]
    clean = right(x, y)
    robust, robust_8bit = np.zeros_like(clean), np.zeros_like(clean)
    unconfirmed = 0
    if clean.any():
        x, y, ids = x[clean], y[clean], images.indices[part][clean]
        drawn = {"indices": ids} if "indices" in inspect.signature(attack.run).parameters else {}
        result = attack(model, as_array(x), as_array(y), **drawn, **options)
        parameters = attack.resolve(model.input_shape, **options)
        x_adv = _numpy(result.x_adv)
        _require_inside(x_adv, x, parameters.eps, parameters.norm, attack.name)
        robust[clean] = right(x_adv, y)
        robust_8bit[clean] = right(round_into_ball(x_adv, x, parameters.eps, parameters.norm), y)
        unconfirmed = int(np.sum(_numpy(result.success) & robust[clean]))
    return Outcomes(clean, robust, robust_8bit, time.monotonic() - started, unconfirmed)


def _require_inside(x_adv: np.ndarray, x: np.ndarray, eps: float, norm: str, attack: str) -> None:
    """Raise if the attack broke its own rules: a figure made outside the ball would be worth nothing."""
    size = get_norm(norm).size(x_adv - x).max()
    if not (size <= eps * (1 + _SLACK) + 1e-6 and x_adv.min() >= 0 and x_adv.max() <= 1):
        raise DraServeError(
            f"{attack}: left the {norm} ball of {eps:g} (largest perturbation {size:g}) or [0, 1]"
        )


def _numpy(array: Array) -> np.ndarray:
    return np.asarray(to_device(array, "cpu"))
