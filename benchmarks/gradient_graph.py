"""The gradient graph against its forward graph and against torch: `benchmarks/gradient_graph.py [FOLDER]`.

CPU time an image at n = 1 and 32, one thread a side, all sides alternating in one process: the forward
graph, the gradient graph, torch's forward pass and its gradient at x of the same network (weights frozen,
the faster of its two memory layouts). The ratio of a round compares runs taken within a second of each
other; printed are median and quartiles. `--against FILE` adds a second gradient graph, such as one derived
by older rules.
"""

import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles
from typing import Annotated

import numpy as np
import onnxruntime
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch.nn.functional import cross_entropy

from dra_serve.model_folder import FORWARD, GRADIENT, read_folder
from export.parity import images
from training.networks import HubClassifier

BATCHES = (1, 32)
IMAGES = 64  # at least, in what is timed at once: the clock ticks in steps
OURS = "gradient graph"
Side = Callable[[], object]


def onnx_side(file: Path, feeds: dict[str, np.ndarray]) -> Side:
    """Return one run of the graph in `file` on those of `feeds` that it takes."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(file, options, ["CPUExecutionProvider"])
    taken = {value.name: feeds[value.name] for value in session.get_inputs()}
    return lambda: session.run(None, taken)


def torch_sides(folder: Path, feeds: dict[str, np.ndarray]) -> dict[str, Side]:
    """Return torch's logits and gradient of ce, in both memory layouts."""
    sides: dict[str, Side] = {}
    for layout, form in (("NCHW", torch.contiguous_format), ("NHWC", torch.channels_last)):
        network = HubClassifier.from_pretrained(folder).eval().requires_grad_(False)
        network = network.to(memory_format=form)  # type: ignore[call-overload]
        x, y = torch.from_numpy(feeds["x"]).contiguous(memory_format=form), torch.from_numpy(feeds["y"])
        asked = x.clone(memory_format=form).requires_grad_(True)

        def forward(network: HubClassifier = network, x: torch.Tensor = x) -> object:
            with torch.inference_mode():
                return network(x)

        def gradient(
            network: HubClassifier = network, x: torch.Tensor = asked, y: torch.Tensor = y
        ) -> object:
            return torch.autograd.grad(cross_entropy(network(x), y, reduction="sum"), x)

        sides |= {f"torch forward, {layout}": forward, f"torch gradient, {layout}": gradient}
    return sides


def microseconds(side: Side, n: int) -> float:
    """Return CPU time an image."""
    runs = max(2, IMAGES // n)
    start = time.process_time()
    for _ in range(runs):
        side()
    return 1e6 * (time.process_time() - start) / runs / n


def measure(folder: Path, against: Path | None, n: int, rounds: int) -> dict[str, list[float]]:
    """Return the times of every side, a round each; one more round warms up."""
    model = read_folder(folder).classifier()
    x, y = images(n, model.input_shape), np.arange(n) % len(model.classes)
    feeds = {"x": x, "y": y, "target": (y + 1) % len(model.classes), "loss": np.zeros(n, np.int64)}
    sides = {"forward graph": onnx_side(folder / FORWARD, feeds), OURS: onnx_side(folder / GRADIENT, feeds)}
    if against is not None:
        sides[f"gradient graph {against}"] = onnx_side(against, feeds)
        ours, theirs = (sides[name]() for name in (OURS, f"gradient graph {against}"))
        np.testing.assert_allclose(ours[-1], theirs[-1], rtol=0, atol=1e-5 * np.abs(ours[-1]).max())  # type: ignore[index]
    sides |= torch_sides(folder, feeds)
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name, side in sides.items():
            spent = microseconds(side, n)
            if turn:
                times[name].append(spent)
    for what in ("forward", "gradient"):
        slower = max(
            (f"torch {what}, {layout}" for layout in ("NCHW", "NHWC")), key=lambda s: median(times[s])
        )
        del times[slower]
    return times


def main(
    folder: Annotated[Path, typer.Argument(help="Model folder with weights and both graphs.")] = Path(
        "dra_serve/bundled/dra"
    ),
    against: Annotated[Path | None, typer.Option(help="A second gradient graph of the same model.")] = None,
    rounds: Annotated[int, typer.Option(min=2, help="Timed rounds; one more warms up.")] = 15,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Time every side in turn and print its time over the gradient graph's."""
    torch.set_num_threads(1)
    rows = []
    for n in BATCHES:
        times = measure(folder, against, n, rounds)
        for name, spent in times.items():
            ratios = [a / b for a, b in zip(spent, times[OURS], strict=True)]
            low, middle, high = (round(q, 3) for q in quantiles(ratios, n=4))
            rows.append(
                {
                    "n": n,
                    "side": name,
                    "us_an_image": round(median(spent), 1),
                    "over_ours": [low, middle, high],
                }
            )
    result = {
        "folder": str(folder),
        "rounds": rounds,
        "threads": 1,
        "onnxruntime": onnxruntime.__version__,
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "rows": rows,
    }
    print(json.dumps(result)) if as_json else show(result, rows)


def show(result: dict[str, object], rows: list[dict[str, object]]) -> None:
    facts = f"{result['folder']}, {result['rounds']} rounds, one thread, {result['machine']}"
    table = Table("n", "side", "CPU us an image", "over the gradient graph", "quartiles", title=facts)
    for row in rows:
        low, middle, high = row["over_ours"]  # type: ignore[misc]
        numbers = (f"{row['us_an_image']:.1f}", f"{middle:.2f}", f"{low:.2f} to {high:.2f}")  # type: ignore[has-type]
        table.add_row(str(row["n"]), str(row["side"]), *numbers)
    Console(width=120).print(table)


if __name__ == "__main__":
    typer.run(main)
