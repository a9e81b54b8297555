"""What every attack does with its arguments before it begins, and where its noise comes from."""

from typing import Any

import numpy as np
from array_api_compat import array_namespace, device

from dra_serve.attacks.norms import Norm
from dra_serve.attacks.objective import Objective
from dra_serve.checked import trusting
from dra_serve.checks import check_images, check_labels
from dra_serve.classifier import Array, Classifier, Loss
from dra_serve.errors import BadRequest

MAX_INDEX = 2**53  # what JSON carries exactly


def example_rng(seed: int, index: int, *stream: int) -> np.random.Generator:
    """Return the generator of one image's noise: of the seed, its id and the stream, never of the batch.

    stream: numbers that tell the draws of one image apart, such as the restart.
    """
    return np.random.default_rng((seed, int(index), *stream))


def example_noise(ball: Norm, x: Array, *, seed: int, ids: Any, stream: int) -> Array:
    """Return one draw from the unit ball for each image of x (N, C, H, W), beside x; ids: (N,) ints.

    The draw of an image is that of `example_rng(seed, its id, stream)`, so it is the same in every batch
    and on every array library.
    """
    noise = np.empty(tuple(x.shape), dtype=np.float32)
    for row, index in enumerate(ids):
        noise[row] = ball.sample(noise.shape[1:], example_rng(seed, index, stream))
    return array_namespace(x).asarray(noise, device=device(x))


def check_inputs(
    model: Classifier, x: Array, y: Any, target: Any, indices: Any, loss: Loss
) -> tuple[Classifier, Objective, Array]:
    """Return the model, the goal of the images x (N, C, H, W) and their noise ids (N,), or raise BadRequest.

    The arguments as an attack takes them: target and indices may be None, the ids then are 0..N-1. They are
    checked here, so the model returned does not check again.
    """
    xp = array_namespace(x)
    check_images(x, model.input_shape)
    n, classes = x.shape[0], len(model.classes)
    labels = check_labels(y, n, classes, like=x)
    if target is not None:
        target = check_labels(target, n, classes, like=x, field="target")
    if loss == "dlr_targeted":
        if target is None:
            raise BadRequest("target", given=None, allowed="a class for each image, with loss dlr_targeted")
        if n and bool(xp.any(target == labels)):
            raise BadRequest(
                "target", given="the label itself", allowed="another class than y, with dlr_targeted"
            )
    if indices is None:
        ids = xp.arange(n, device=device(x))
    else:
        ids = check_labels(indices, n, MAX_INDEX, like=x, field="indices")
    return trusting(model) if n else model, Objective(loss, labels, target), ids
