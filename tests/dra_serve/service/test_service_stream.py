"""POST /v1/attack/stream: the steps as they happen, then the answer of /v1/attack."""

import base64
import json
import time
from collections.abc import Iterator
from io import BytesIO
from itertools import pairwise
from typing import Any

import httpx
import numpy as np
from PIL import Image

from .conftest import png

IMAGE: dict[str, Any] = {"files": {"image": ("a.png", png(), "image/png")}}
SLOW: dict[str, Any] = {
    "files": {"image": ("a.png", png(64, 64), "image/png")},
    "data": {"models": "slow", "eps": "0", "steps": "200", "restarts": "10"},
}


def test_steps_come_first_then_the_result(http: httpx.Client) -> None:
    fields = {"eps": "8/255", "steps": "10"}
    with http.stream("POST", "/v1/attack/stream", data=fields, **IMAGE) as response:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        events = list(_events(response))
    plain = http.post("/v1/attack", data=fields, **IMAGE).json()
    assert [name for name, _ in events[:-1]] == ["step"] * (len(events) - 1)
    assert events[-1] == ("result", plain)
    for result in plain["results"]:
        steps = [data for _, data in events[:-1] if data["model"] == result["model"]]
        assert [step["step"] for step in steps] == list(range(1, len(steps) + 1))
        assert len(steps) == result["steps_done"]
        assert all(step["steps"] == 10 for step in steps)


def test_steps_arrive_while_the_attack_runs(http: httpx.Client) -> None:
    arrived = []
    with http.stream("POST", "/v1/attack/stream", **SLOW) as response:
        for name, data in _events(response):
            arrived.append(time.monotonic())
            last = name, data
    assert last[0] == "result"
    assert not last[1]["results"][0]["complete"]  # 2,000 steps do not fit into the server's 2 s
    assert arrived[-1] - arrived[0] > 1
    assert max(b - a for a, b in pairwise(arrived)) < 1


def test_every_k_th_step_carries_its_image_if_asked(http: httpx.Client) -> None:
    fields = {"models": "tiny-dra", "eps": "1/255", "steps": "10", "restarts": "2"}
    with http.stream("POST", "/v1/attack/stream", data=fields | {"every": "3"}, **IMAGE) as response:
        *steps, (_, result) = _events(response)
    assert [step["step"] for _, step in steps if "image" in step] == [
        step["step"] for _, step in steps if step["step"] % 3 == 0
    ]
    assert len(steps) > 3
    for _, step in steps:
        if "image" in step:
            image = base64.b64decode(step["image"].removeprefix("data:image/png;base64,"))
            shown = np.asarray(Image.open(BytesIO(image)), dtype=int)
            clean = np.asarray(Image.open(BytesIO(png())), dtype=int)
            assert 0 < np.abs(shown - clean).max() <= 1
    assert result["results"][0]["adversarial"]["image"].startswith("data:image/png")


def test_every_belongs_to_the_stream_and_counts_from_one(http: httpx.Client) -> None:
    for path, value in (("/v1/attack", "3"), ("/v1/attack/stream", "0"), ("/v1/attack/stream", "x")):
        problem = http.post(path, data={"every": value}, **IMAGE)
        assert (problem.status_code, problem.json()["field"]) == (422, "every")


def _events(response: httpx.Response) -> Iterator[tuple[str, Any]]:
    name = ""
    for line in response.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))
