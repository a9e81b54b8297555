"""What each model has been asked since the start, in the numbers of the protocol's statistics extension."""

import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from dra_serve.service.batcher import Call


@dataclass
class _Duration:
    count: int = 0
    ns: int = 0

    def add(self, ns: int, count: int = 1) -> None:
        self.count += count
        self.ns += ns

    def as_dict(self) -> dict[str, int]:
        return {"count": self.count, "ns": self.ns}


_PARTS = ("compute_input", "compute_infer", "compute_output")


def _parts() -> dict[str, _Duration]:
    return {name: _Duration() for name in _PARTS}


@dataclass
class Statistics:
    """One model's, of /v1/predict and /v2 together; an answer's time is its wait and its call's."""

    last_inference: int = 0  # milliseconds since 1970
    images: int = 0
    calls: int = 0
    success: _Duration = field(default_factory=_Duration)
    fail: _Duration = field(default_factory=_Duration)
    queue: _Duration = field(default_factory=_Duration)
    _compute: dict[str, _Duration] = field(default_factory=_parts)
    _by_size: dict[int, dict[str, _Duration]] = field(default_factory=lambda: defaultdict(_parts))

    def add(self, call: Call) -> None:
        """Count one call of the model."""
        times = dict(zip(_PARTS, (call.stack_ns, call.run_ns, call.split_ns), strict=True))
        ran = sum(times.values())
        for ask in call.asks:
            self.queue.add(ask.wait_ns)
            (self.fail if ask.failed else self.success).add(ask.wait_ns + ran)
        answered = [ask for ask in call.asks if not ask.failed]
        if not answered:
            return
        self.last_inference = int(1000 * time.time())
        self.images += sum(ask.images for ask in answered)
        self.calls += 1
        for name, ns in times.items():
            self._compute[name].add(ns, len(answered))
            self._by_size[call.images][name].add(ns)

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers under the extension's names."""
        durations = {"success": self.success, "fail": self.fail, "queue": self.queue, **self._compute}
        return {
            "last_inference": self.last_inference,
            "inference_count": self.images,
            "execution_count": self.calls,
            "inference_stats": {name: duration.as_dict() for name, duration in durations.items()},
            "batch_stats": [
                {"batch_size": size, **{name: duration.as_dict() for name, duration in parts.items()}}
                for size, parts in sorted(self._by_size.items())
            ],
        }
