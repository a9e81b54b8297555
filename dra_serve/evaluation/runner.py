"""Attack every image once and keep what became of it, batch by batch, on disk if asked."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dra_serve.checks import check_integer
from dra_serve.classifier import Array, Classifier
from dra_serve.errors import BadRequest
from dra_serve.evaluation.data import LabelledImages, as_float
from dra_serve.evaluation.fit import check_fit
from dra_serve.evaluation.judge import Judge
from dra_serve.evaluation.merge import finished_outcomes, outcomes_of, prepare, read_shards
from dra_serve.evaluation.outcomes import Outcomes, Standing
from dra_serve.evaluation.plan import Plan, Radii, Run, make_plan
from dra_serve.evaluation.provenance import code
from dra_serve.evaluation.shards import WHOLE, Shard
from dra_serve.evaluation.state import Key, State

MAX_BATCH = 512
MAX_THREADS = 1024
_BATCH_BYTES = 128 * 4 * 3 * 32 * 32  # 128 images of CIFAR-10, 2 of 3 x 224 x 224

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
    threads: int = 1,
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
    batch: images at a time, by default `batch_for` for each thread. threads: into how many slices a batch
    is cut that are attacked at once; more than 1 only for a model that threads may share, as they may an
    OnnxClassifier. A torch model keeps 1: torch has threads of its own. Neither changes an outcome, only
    memory and pace.
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
        threads=threads,
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
    threads: int = 1,
    state: Path | None = None,
    shard: Shard = WHOLE,
    model_sha256: str | None = None,
    on_batch: OnBatch | None = None,
    as_array: Callable[[np.ndarray], Array] = np.asarray,
) -> Outcomes:
    """Return the outcomes of a plan; incomplete for a shard whose neighbours are not done.

    Noise is keyed by an image's position in the data set, so batch size, threads, subset and shards
    change nothing. The verdict is the model's own answer (`logits`) to the adversarial image and to its
    rounding to k/255, which is what a PNG of it holds; the attack's opinion does not count. The next
    attack sees the images that are still right on either.

    state: a folder, shared by all shards, with a file each, rewritten after every batch; a killed
    evaluation goes on from it, by the same code and packages only. It knows the model by model_sha256, by
    default the model's own `sha256`.
    on_batch: called before the first batch and after each; images go in a random order, so that the
    figures so far estimate the whole. as_array: NumPy to the model's array library (torch.from_numpy).

    Raises BadRequest for images that do not fit the model, and for a state of another evaluation;
    UserError for one of other code.
    """
    check_integer(threads, 1, MAX_THREADS, field="threads")
    size = check_integer(
        threads * batch_for(model.input_shape) if batch is None else batch, 1, 2**20, field="batch"
    )
    check_fit(model, images)
    if state is not None and not (model_sha256 or getattr(model, "sha256", None)):
        allowed = "the sha256 of the weights, which names the state"
        raise BadRequest("model_sha256", given=None, allowed=allowed)
    if state is None and shard.world > 1:
        raise BadRequest("state", given=None, allowed="a folder that all shards share")
    order, attacks = evaluation_order(len(images.y)), len(plan.runs)
    key = Key(plan.fingerprint(model, images, model_sha256), code())
    if state is not None:
        prepare(state)
        if (found := finished_outcomes(state, key, order, attacks)) is not None:
            return found
    own = State(state, key, shard, shard.part(order), attacks)
    own.begin()
    _finish(own, Judge(model, as_array, threads), images, plan, size, on_batch)
    if state is not None and shard.world > 1:
        return outcomes_of(read_shards(state, key, order, attacks, shard.world), len(order))
    return outcomes_of([own], len(order))


def evaluation_order(n: int) -> np.ndarray:
    """Return the order in which n images are taken: a fixed random one, so that a part estimates all."""
    return np.random.default_rng(0).permutation(n)


def _finish(
    state: State, judge: Judge, images: LabelledImages, plan: Plan, batch: int, on_batch: OnBatch | None
) -> None:
    """Run what the state still lacks."""
    while (unit := state.next(batch)) is not None:
        number, part = unit
        if on_batch is not None:
            on_batch(_standing(state, plan.runs[number].name))
        started = time.monotonic()
        unconfirmed = _judge(state, number, part, plan.runs[number], judge, images)
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


def _judge(state: State, number: int, part: slice, run: Run, judge: Judge, images: LabelledImages) -> int:
    """Set the outcomes of the rows `part` under one attack; return how many claims the model denied.

    What is wrong when clean needs no attack.
    """
    rows = state.rows[part]
    x, y = as_float(images.x[rows]), images.y[rows]
    if number == 0:
        state.clean[part] = state.robust_8bit[part] = before = judge.right(x, y)
    else:
        before = state.after[number - 1, part]
    on_file = state.robust_8bit[part].copy()
    still = before | on_file
    after = np.zeros_like(before)
    unconfirmed = 0
    if still.any():
        ids = images.indices[rows][still]
        after[still], withstood_on_file, unconfirmed = judge.withstood(run, x[still], y[still], ids)
        on_file[still] &= withstood_on_file
    state.after[number, part] = before & after
    state.robust_8bit[part] = on_file
    return unconfirmed
