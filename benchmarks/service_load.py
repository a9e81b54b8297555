"""/v1/predict under load, with our micro-batcher and without: `benchmarks/service_load.py [--rounds N]`.

Three servers of one bundled model in processes of their own, alike but for one thing. `batched` is ours: an
idle model answers in the thread that decoded the image, and images that come while it is busy share its next
call. In `queue first` every image goes through the batcher's queue, the model idle or not. In `one by one`
each is decoded and answered by itself in one of two threads, as if there were no batcher. Clients are threads
with a keep-alive connection each that send the next image when the last is answered. A round asks every
server, who begins changes from round to round, and the first round warms up. Requests a second and latencies
are wall time (trust the ratios of a round, the machine may be busy); CPU is the server's own, from /metrics.
"""

import http.client
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.table import Table

import dra_serve
from dra_serve.evaluation.provenance import commit, hardware

ALONE = "one by one"
SIDES = ("batched", "queue first", ALONE)
EXAMPLES = Path(dra_serve.__file__).parent / "bundled" / "examples"


class Load(NamedTuple):
    """What one server did in one round. seconds: one a request; cpu: the server's seconds in all."""

    wall: float
    seconds: list[float]
    cpu: float


def serve(side: str, model: str) -> None:
    """Serve on a free port, printed on stdout, until the process is ended."""
    import numpy as np
    import uvicorn
    from fastapi import Request

    from dra_serve.onnx_classifier import OnnxClassifier
    from dra_serve.service.api import create_app
    from dra_serve.service.registry import Registry
    from dra_serve.service.server import listen
    from dra_serve.service.settings import Settings

    app = create_app(Registry.load([model]), Settings(models=(model,), ui=False))
    service = app.state.service

    async def one_by_one(
        model: OnnxClassifier, read: Callable[[], tuple[np.ndarray, Any]], request: Request
    ) -> tuple[np.ndarray, Any]:
        def work(_: Any) -> tuple[np.ndarray, Any]:
            x, rest = read()
            return model.logits(x), rest

        answer: tuple[np.ndarray, Any] = await service.predictions.run(work, request)
        return answer

    if side == ALONE:
        service.logits = one_by_one
    if side == "queue first":
        for batcher in service._batchers.values():
            batcher.answer_now = lambda *_: None
    listener = listen("127.0.0.1", 0)
    print(listener.getsockname()[1], flush=True)
    uvicorn.Server(uvicorn.Config(app, log_config=None)).run(sockets=[listener])


@contextmanager
def running(side: str, model: str) -> Iterator[int]:
    """Yield the port of a server of this side."""
    command = [sys.executable, __file__, "--serve", side, "--model", model]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.terminate()


def cpu_seconds(port: int) -> float:
    metrics = fetch(http.client.HTTPConnection("127.0.0.1", port), "GET", "/metrics")
    found = re.search(rb"^process_cpu_seconds_total (\S+)$", metrics, re.MULTILINE)
    assert found
    return float(found[1])


def batch_sizes(port: int) -> dict[str, float]:
    """Return how many calls had at most so many images, from the server's histogram."""
    metrics = fetch(http.client.HTTPConnection("127.0.0.1", port), "GET", "/metrics").decode()
    return {
        le: float(n) for le, n in re.findall(r'^dra_batch_images_bucket{le="(\S+)",.*} (\S+)$', metrics, re.M)
    }


def fetch(connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None = None) -> bytes:
    headers = {} if body is None else {"Content-Type": "image/png"}
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    content = response.read()
    if response.status != 200:
        raise RuntimeError(f"{path}: {response.status} {content[:200]!r}")
    return content


def load(port: int, clients: int, requests: int, images: list[bytes]) -> Load:
    """Return what it took to answer `requests` requests of `clients` at once."""
    seconds: list[float] = []
    failures: list[Exception] = []

    def ask(start: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        try:
            for k in range(start, requests, clients):
                begun = time.perf_counter()
                fetch(connection, "POST", "/v1/predict", images[k % len(images)])
                seconds.append(time.perf_counter() - begun)
        except Exception as error:
            failures.append(error)
        finally:
            connection.close()

    before, begun = cpu_seconds(port), time.perf_counter()
    threads = [threading.Thread(target=ask, args=(k,)) for k in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return Load(time.perf_counter() - begun, seconds, cpu_seconds(port) - before)


def same_answers(ports: dict[str, int], images: list[bytes]) -> None:
    """Raise unless all servers say the same of every image: outputs first, then time."""
    for image in images:
        answers = [
            json.loads(fetch(http.client.HTTPConnection("127.0.0.1", port), "POST", "/v1/predict", image))
            for port in ports.values()
        ]
        if any(answer != answers[0] for answer in answers):
            raise RuntimeError("the servers differ")


def row_of(side: str, clients: int, rounds: list[dict[str, Load]]) -> dict[str, Any]:
    """Return one line of the table; ratios are of the same round, above 1 where it beats one by one."""
    own = [one[side] for one in rounds]
    latencies = sorted(second for one in own for second in one.seconds)
    cuts = quantiles(latencies, n=100, method="inclusive")
    alone = [one[ALONE] for one in rounds]
    ratios = [throughput(one) / throughput(other) for one, other in zip(own, alone, strict=True)]
    tails = [p99(other) / p99(one) for one, other in zip(own, alone, strict=True)]
    row = {
        "side": side,
        "clients": clients,
        "requests": len(latencies),
        "requests_per_second": median(map(throughput, own)),
        "p50_ms": 1000 * cuts[49],
        "p99_ms": 1000 * cuts[98],
        "cpu_ms": 1000 * median(one.cpu / len(one.seconds) for one in own),
    }
    if side != ALONE:
        row |= {
            "throughput_ratio": [min(ratios), median(ratios), max(ratios)],
            "p99_ratio": [min(tails), median(tails), max(tails)],
        }
    return row


def throughput(one: Load) -> float:
    return len(one.seconds) / one.wall


def p99(one: Load) -> float:
    return quantiles(one.seconds, n=100, method="inclusive")[98]


def main(
    model: str = "bundled:dra",
    rounds: Annotated[int, typer.Option(min=1)] = 7,
    requests: Annotated[int, typer.Option(min=32, help="Of a round, at each number of clients.")] = 256,
    side: Annotated[str, typer.Option("--serve", hidden=True)] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Print requests a second, latencies and CPU at 1, 8 and 32 clients at once."""
    if side:
        serve(side, model)
        return
    images = [path.read_bytes() for path in sorted(EXAMPLES.glob("*.png"))]
    rows = []
    with ExitStack() as servers:
        ports = {name: servers.enter_context(running(name, model)) for name in SIDES}
        same_answers(ports, images)
        for clients in (1, 8, 32):
            done: list[dict[str, Load]] = []
            for turn in range(-1, rounds):  # the first warms up
                first = turn % len(SIDES)
                order = SIDES[first:] + SIDES[:first]
                one = {name: load(ports[name], clients, requests, images) for name in order}
                if turn >= 0:
                    done.append(one)
            rows += [row_of(name, clients, done) for name in SIDES]
        sizes = batch_sizes(ports["batched"])
    about = {"model": model, "rounds": rounds, "commit": commit(), "hardware": hardware()}
    if as_json:
        print(json.dumps({**about, "batch_images": sizes, "rows": rows}, default=str))
        return
    show(rows)
    print(f"calls of at most so many images: {sizes}")
    print(json.dumps(about, default=str))


def show(rows: list[dict[str, Any]]) -> None:
    columns = ("clients", "side", "requests/s", "p50 ms", "p99 ms", "CPU ms a request", "throughput", "p99")
    table = Table(*columns, caption="the last two: over one by one, median (least to most) of the rounds")
    for row in rows:
        spread = [
            "{1:.2f} ({0:.2f} to {2:.2f})".format(*row[key]) if key in row else ""
            for key in ("throughput_ratio", "p99_ratio")
        ]
        figures = [f"{row[key]:.1f}" for key in ("requests_per_second", "p50_ms", "p99_ms", "cpu_ms")]
        table.add_row(str(row["clients"]), row["side"], *figures, *spread)
    Console(width=130).print(table)


if __name__ == "__main__":
    typer.run(main)
