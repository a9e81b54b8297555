"""What happens under load, when clients leave, and when the process is told to go."""

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from .conftest import Server, png, running, serve_command, wait_until

LONG: dict[str, Any] = {
    "files": {"image": ("a.png", png(64, 64), "image/png")},
    "data": {"models": "slow", "eps": "0", "steps": "200", "restarts": "10"},
}
SMALL: dict[str, Any] = {"files": {"image": ("a.png", png(), "image/png")}}


def test_a_deadline_answers_the_best_so_far(http: httpx.Client) -> None:
    start = time.monotonic()
    result = http.post("/v1/attack", **LONG).json()["results"][0]
    assert 1.5 < time.monotonic() - start < 4  # the server's is 2 s
    assert not result["complete"]
    assert 0 < result["steps_done"] < 2000


def test_a_full_queue_is_a_429_that_says_when_to_come_back(server: Server) -> None:
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda _: _attack(server), range(8)))
    codes = sorted(answer.status_code for answer in answers)
    assert codes == [200] * 2 + [429] * 6  # one runs, one waits
    for answer in answers:
        if answer.status_code == 429:
            assert answer.headers["Content-Type"] == "application/problem+json"
            assert int(answer.headers["Retry-After"]) >= 1


def test_predictions_are_answered_beside_attacks(server: Server, http: httpx.Client) -> None:
    attack = threading.Thread(target=_attack, args=(server,))
    attack.start()
    time.sleep(0.3)
    start = time.monotonic()
    assert http.post("/v1/predict", **SMALL).status_code == 200
    assert time.monotonic() - start < 0.5
    assert attack.is_alive()
    attack.join()


def test_a_client_that_leaves_stops_its_attack(slow: Path) -> None:
    with running(serve_command(slow, "--threads", "1"), DRA_SERVE_QUEUE="0") as server:
        for path in ("/v1/attack", "/v1/attack/stream"):
            with server.client(timeout=0.5 if path == "/v1/attack" else 10) as client:
                _leave_early(client, path)
            # The only thread is free again long before the 20 s that this attack could take.
            wait_until(lambda: _attack(server, steps="1", restarts="1").status_code == 200, 3)
        assert [entry["status"] for entry in server.log() if entry["ms"] > 300][:1] == [499]


def test_sigterm_lets_requests_finish_and_refuses_new_ones(slow: Path) -> None:
    with running(serve_command(slow), DRA_SERVE_ATTACK_SECONDS="2") as server:
        with ThreadPoolExecutor(1) as clients, server.client() as early:
            running_attack = clients.submit(_attack, server)
            time.sleep(0.5)
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            refused, not_ready, alive = (
                early.post("/v1/predict", **SMALL),
                early.get("/readyz"),
                early.get("/livez"),
            )
            assert running_attack.result().status_code == 200
        assert server.process.wait(timeout=10) == 0
    for answer in (refused, not_ready):
        assert answer.status_code == 503
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert int(answer.headers["Retry-After"]) >= 1
    assert alive.status_code == 200


def _attack(server: Server, **fields: str) -> httpx.Response:
    with server.client() as client:
        return client.post("/v1/attack", files=LONG["files"], data=LONG["data"] | fields)


def _leave_early(client: httpx.Client, path: str) -> None:
    try:
        with client.stream("POST", path, **LONG) as response:
            assert response.status_code == 200
            next(response.iter_lines())
    except httpx.ReadTimeout:
        assert path == "/v1/attack"  # the stream is left by hand, this one by losing patience
