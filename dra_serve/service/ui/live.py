"""An attack that is watched: it runs in a thread, its steps come out as they happen."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import SimpleQueue

from dra_serve.service.answers import AttackAnswer, Step
from dra_serve.service.attack_job import AttackJob


@dataclass
class Turn:
    """One visitor's attack, from the press of the button.

    stop: set it to end the attack at its next step. instead: message and stage that the visitor went on
    to; of this attack they are to see no more.
    """

    stop: threading.Event = field(default_factory=threading.Event)
    began: bool = False
    instead: tuple[str, str] | None = None

    def leave(self, instead: tuple[str, str]) -> None:
        """End the attack without a verdict."""
        self.instead = instead
        self.stop.set()


def watch(job: AttackJob, stop: threading.Event, *, pause: float = 0.0) -> Iterator[Step | AttackAnswer]:
    """Yield every step of every model, then the answer; raises what `job.run` raises.

    stop: set it to end the attack at its next step and judge what there is. Closing the iterator does
    the same, so nobody who leaves keeps a thread busy. pause: seconds to wait after each step, for eyes
    to follow.
    """
    steps: SimpleQueue[Step | None] = SimpleQueue()

    def on_step(step: Step) -> None:
        steps.put(step)
        stop.wait(pause)

    with ThreadPoolExecutor(1, thread_name_prefix="dra-ui-attack") as pool:
        running = pool.submit(job.run, stop, on_step)
        running.add_done_callback(lambda _: steps.put(None))
        try:
            while (step := steps.get()) is not None:
                yield step
            yield running.result()
        finally:
            stop.set()  # before the pool, on leaving, waits for the thread
