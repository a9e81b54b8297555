"""uvicorn with a gentle end: after SIGTERM it goes on answering (503 to new work) until the old is done."""

import time
from collections.abc import Callable
from types import FrameType

import uvicorn

from dra_serve.service.admission import Traffic

_CONNECTION_SECONDS = 2  # for open pages of the demo, after the last request has been answered


class DrainingServer(uvicorn.Server):
    """Runs until a signal, then drains; a second signal ends it at once.

    on_started: called when the socket answers. drain_seconds: the longest a running request may take.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        traffic: Traffic,
        *,
        drain_seconds: float,
        on_started: Callable[[], None],
    ) -> None:
        config.timeout_graceful_shutdown = _CONNECTION_SECONDS
        super().__init__(config)
        self._traffic, self._drain_seconds, self._on_started = traffic, drain_seconds, on_started
        self._give_up = float("inf")
        self._announced = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain. uvicorn's own handler would raise the signal again at the end: status 143."""
        self.force_exit = self._traffic.draining
        self._traffic.draining = True
        self._give_up = time.monotonic() + self._drain_seconds

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second; return whether to stop."""
        if not self._announced:
            self._announced = True
            self._on_started()
        if self._traffic.draining:
            idle = self._traffic.running == 0
            self.should_exit |= idle or self.force_exit or time.monotonic() > self._give_up
        return await super().on_tick(counter)
