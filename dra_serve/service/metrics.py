"""Prometheus metrics with labels that no client can multiply: route templates, known methods, statuses."""

import os

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.responses import Response

_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
_BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40)
_SIZES = (1, 2, 4, 8, 16, 32)


class Metrics:
    """The counters of one process; with several workers, /metrics adds all of them up."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)  # CPU seconds, memory, open files
        self._requests = Counter(
            "dra_requests", "Requests answered.", ("method", "route", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "dra_request_seconds",
            "From the first byte in to the last byte out.",
            ("route",),
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._attacks = Counter(
            "dra_attacks", "Models attacked, by outcome.", ("model", "outcome"), registry=self._registry
        )
        self._calls = Histogram(
            "dra_batch_images",
            "Images of one call of a model: more than one where requests came while it was busy.",
            ("model",),
            buckets=_SIZES,
            registry=self._registry,
        )
        self._steps = Counter("dra_attack_steps", "Attack steps taken.", registry=self._registry)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request. route: a template, never a path as a client wrote it."""
        known = method if method in _METHODS else "OTHER"
        self._requests.labels(known, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def call(self, model: str, images: int) -> None:
        """Count one call of a model for predictions."""
        self._calls.labels(model).observe(images)

    def attack(self, model: str, *, success: bool, complete: bool, steps: int) -> None:
        """Count one attack on one model."""
        outcome = "fooled" if success else "withstood" if complete else "unfinished"
        self._attacks.labels(model, outcome).inc()
        self._steps.inc(steps)

    def response(self) -> Response:
        """Return everything in Prometheus' text format."""
        registry = self._registry
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:  # set by BentoML's supervisor
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return Response(generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})
