"""Attack every image once and keep what became of it, batch by batch, on disk if asked."""

import inspect
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from array_api_compat import to_device

from dra_serve.attacks.norms import get_norm
from dra_serve.checks import check_integer
from dra_serve.classifier import Array, Classifier
from dra_serve.errors import BadRequest, DraServeError
from dra_serve.evaluation.data import LabelledImages, as_float
from dra_serve.evaluation.merge import finished_outcomes, outcomes_of, prepare, read_shards
from dra_serve.evaluation.outcomes import Outcomes, Standing
from dra_serve.evaluation.plan import Plan, Radii, Run, make_plan
from dra_serve.evaluation.shards import WHOLE, Shard
from dra_serve.evaluation.state import State
from dra_serve.images import round_into_ball

MAX_BATCH = 512
_BATCH_BYTES = 128 * 4 * 3 * 32 * 32  # 128 images of CIFAR-10, 2 of 3 x 224 x 224
_SLACK = 1e-5  # relative: what float32 does to x + delta

OnBatch = Callable[[Standing], None]


def batch_for(input_shape: tuple[int, int, int]) -> int:
    """Return how many images to attack at a time: 1.5 MiB of them as float32, at least 1, at most 512.

    A network's activations take some hundred times its images, and nothing else grows with the batch.
    """
    return int(np.clip(_BATCH_BYTES // (4 * np.prod(input_shape)), 1, MAX_BATCH))


def evaluate(
    model: Classifier,
    images: LabelledImages | np.ndarray,
    y: Any = None,
    *,
    suite: str | None = None,
    attack: str | None = None,
    norm: str = "linf",
    eps: Radii = "8/255",
    seed: int = 0,
    batch: int | None = None,
    state: Path | None = None,
    shard: Shard = WHOLE,
    model_sha256: str | None = None,
    on_batch: OnBatch | None = None,
    as_array: Callable[[np.ndarray], Array] = np.asarray,
    **options: Any,
) -> Outcomes:
    """Return each image's outcome under a suite ("quick", "fast", "standard") or an attack (default: pgd).

    images: `LabelledImages`, or x (N, C, H, W), uint8 or float32 in [0, 1], with y (N,) labels.
    eps: a radius or several, as in `make_plan`. options: the attack's own (steps, restarts...).
    batch: images at a time, by default `batch_for`; it changes nothing but memory and pace.
    The rest as in `run`. Raises BadRequest naming the field, before any work.

    >>> outcomes = dra_serve.evaluate(model, x, y, suite="fast", eps="8/255")  # doctest: +SKIP
    >>> outcomes.robust.mean()  # doctest: +SKIP
    """
    if not isinstance(images, LabelledImages):
        images = LabelledImages.of(images, y)
    plan = make_plan(
        model.input_shape,
        suite=suite,
        attack=attack,
        has_gradient=getattr(model, "has_gradient", True),
        norm=norm,
        eps=eps,
        seed=seed,
        **options,
    )
    return run(
        model,
        images,
        plan,
        batch=batch,
        state=state,
        shard=shard,
        model_sha256=model_sha256,
        on_batch=on_batch,
        as_array=as_array,
    )


def run(
    model: Classifier,
    images: LabelledImages,
    plan: Plan,
    *,
    batch: int | None = None,
    state: Path | None = None,
    shard: Shard = WHOLE,
    model_sha256: str | None = None,
    on_batch: OnBatch | None = None,
    as_array: Callable[[np.ndarray], Array] = np.asarray,
) -> Outcomes:
    """Return the outcomes of a plan; incomplete for a shard whose neighbours are not done.

    Noise is keyed by an image's position in the data set, so batch size, subset and shards change
    nothing. The verdict is the model's own answer (`logits`) to the adversarial image and to its rounding
    to k/255, which is what a PNG of it holds; the attack's opinion does not count. The next attack sees
    the images that are still right on either.

    state: a folder, shared by all shards, with a file each, rewritten after every batch; a killed
    evaluation goes on from it. It knows the model by model_sha256, by default the model's own `sha256`.
    on_batch: called before the first batch and after each; images go in a random order, so that the
    figures so far estimate the whole. as_array: NumPy to the model's array library (torch.from_numpy).

    Raises BadRequest for images that do not fit the model, and for a state of another evaluation.
    """
    size = batch_for(model.input_shape) if batch is None else check_integer(batch, 1, 2**20, field="batch")
    check_fit(model, images)
    if state is not None and not (model_sha256 or getattr(model, "sha256", None)):
        allowed = "the sha256 of the weights, which names the state"
        raise BadRequest("model_sha256", given=None, allowed=allowed)
    if state is None and shard.world > 1:
        raise BadRequest("state", given=None, allowed="a folder that all shards share")
    order, attacks = evaluation_order(len(images.y)), len(plan.runs)
    key = plan.fingerprint(model, images, model_sha256)
    if state is not None:
        prepare(state)
        if (found := finished_outcomes(state, key, order, attacks)) is not None:
            return found
    own = State(state, key, shard, shard.part(order), attacks)
    own.begin()
    _finish(own, model, images, plan, size, on_batch, as_array)
    if state is not None and shard.world > 1:
        return outcomes_of(read_shards(state, key, order, attacks, shard.world), len(order))
    return outcomes_of([own], len(order))


def evaluation_order(n: int) -> np.ndarray:
    """Return the order in which n images are taken: a fixed random one, so that a part estimates all."""
    return np.random.default_rng(0).permutation(n)


def check_fit(model: Classifier, images: LabelledImages) -> None:
    """Raise BadRequest unless the images have the model's shape, its labels and, if named, its classes."""
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


def _finish(
    state: State,
    model: Classifier,
    images: LabelledImages,
    plan: Plan,
    batch: int,
    on_batch: OnBatch | None,
    as_array: Callable[[np.ndarray], Array],
) -> None:
    """Run what the state still lacks."""
    while (unit := state.next(batch)) is not None:
        number, part = unit
        if on_batch is not None:
            on_batch(_standing(state, plan.runs[number].name))
        started = time.monotonic()
        unconfirmed = _judge(state, number, part, plan.runs[number], model, images, as_array)
        state.record(number, part, seconds=time.monotonic() - started, unconfirmed=unconfirmed)
    if on_batch is not None:
        on_batch(_standing(state, plan.runs[-1].name))


def _standing(state: State, attack: str) -> Standing:
    total = len(state.rows)
    return Standing(
        done=state.finished,
        total=total,
        robust=int(state.after[-1, : state.finished].sum()),
        attack=attack,
        share=sum(state.done) / (len(state.done) * total) if total else 1.0,
        seconds_left=state.seconds_left(),
    )


def _judge(
    state: State,
    number: int,
    part: slice,
    run: Run,
    model: Classifier,
    images: LabelledImages,
    as_array: Callable[[np.ndarray], Array],
) -> int:
    """Set the outcomes of the rows `part` under one attack; return how many claims the model denied.

    What is wrong when clean needs no attack.
    """

    def right(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        answer: np.ndarray = _numpy(model.logits(as_array(x))).argmax(axis=1) == y
        return answer

    rows = state.rows[part]
    x, y = as_float(images.x[rows]), images.y[rows]
    if number == 0:
        clean = right(x, y)
        state.clean[part] = state.robust_8bit[part] = clean
        before = clean
    else:
        before = state.after[number - 1, part]
    on_file = state.robust_8bit[part].copy()
    still = before | on_file
    after = np.zeros_like(before)
    unconfirmed = 0
    if still.any():
        x, y, ids = x[still], y[still], images.indices[rows][still]
        x_adv, success = _attack(run, model, x, y, ids, as_array)
        withstood = right(x_adv, y)
        after[still] = withstood
        on_file[still] &= right(round_into_ball(x_adv, x, run.parameters.eps, run.parameters.norm), y)
        unconfirmed = int(np.sum(success & withstood))
    state.after[number, part] = before & after
    state.robust_8bit[part] = on_file
    return unconfirmed


def _attack(
    run: Run,
    model: Classifier,
    x: np.ndarray,
    y: np.ndarray,
    ids: np.ndarray,
    as_array: Callable[[np.ndarray], Array],
) -> tuple[np.ndarray, np.ndarray]:
    """Return the adversarial images and the attack's own verdicts (N,) bool."""
    drawn = {"indices": ids} if "indices" in inspect.signature(run.attack.run).parameters else {}
    result = run.attack(model, as_array(x), as_array(y), **drawn, **run.options)
    x_adv = _numpy(result.x_adv)
    _require_inside(x_adv, x, run)
    return x_adv, _numpy(result.success)


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
