"""An attack that is watched: it runs in a thread, its steps come out as they happen."""

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import numpy as np

from dra_serve.onnx_classifier import OnnxClassifier
from dra_serve.service.answers import AttackAnswer, AttackRequest, Step, attack_models


def watch(
    models: Sequence[OnnxClassifier],
    pixels: np.ndarray,
    request: AttackRequest,
    *,
    stop: threading.Event,
    seconds: float,
    pause: float = 0.0,
) -> Iterator[Step | AttackAnswer]:
    """Yield every step of every model, then the answer; errors as in `attack_models`.

    stop: set it to end the attack at its next step and judge what there is. Closing the iterator does
    the same, so nobody who leaves keeps a thread busy.
    seconds: the budget of the attack. pause: seconds to wait before each step, for eyes to follow.
    """
    steps: SimpleQueue[Step | None] = SimpleQueue()

    def on_step(step: Step) -> bool:
        steps.put(step)
        return not stop.wait(pause)

    with ThreadPoolExecutor(1, thread_name_prefix="dra-ui-attack") as pool:
        job = pool.submit(attack_models, models, pixels, request, on_step, time.monotonic() + seconds)
        job.add_done_callback(lambda _: steps.put(None))
        try:
            while (step := steps.get()) is not None:
                yield step
            yield job.result()
        finally:
            stop.set()  # before the pool, on leaving, waits for the thread
