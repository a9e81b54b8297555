"""Our training step against the plain published loop, rung by rung: `benchmarks/train_step.py [--rounds N]`.

All variants take whole steps (PGD-2, batch 128, the bundled pair's network) on the same random images,
alternating in one process on one thread, timed in CPU seconds. The ratio of a round compares steps
taken within seconds of each other; printed are the median ratio and its quartiles.
"""

import json
import platform
import time
from collections.abc import Callable
from statistics import median, quantiles
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch.nn.functional import cross_entropy

from training.data import ImageData
from training.data.image_data import as_float
from training.fast_path import FastPath
from training.recipes.classifier import RECIPES, Recipe
from training.run import Run
from training.teachers.features import CachedFeatures

TEACHER_WIDTH = 256
Step = Callable[[], None]


def random_images(n: int) -> ImageData:
    """Return CIFAR-10-shaped noise: the time of a step does not depend on what the images show."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=rng)
    y = torch.randint(0, 10, (n,), generator=rng)
    return ImageData("noise", tuple("0123456789"), x, y, x[:1], y[:1])


def plain_step(run: Run) -> Step:
    """Return the loop as published (Madry et al. 2018, and the code that follows it).

    NCHW, float32; each attack step is a backward pass that computes weight gradients too, in train mode.
    """
    network, recipe = run.network, run.recipe
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

    def step() -> None:
        picked = torch.randint(len(run.data.train_y), (recipe.batch,))
        x, y = as_float(run.data.train_x[picked]), run.data.train_y[picked]
        network.train()
        x_adv = (x + torch.empty_like(x).uniform_(-recipe.eps, recipe.eps)).clamp(0, 1)
        for _ in range(recipe.steps):
            x_adv.requires_grad_(True)
            cross_entropy(network(x_adv), y).backward()
            assert x_adv.grad is not None
            moved = x_adv.detach() + recipe.alpha * x_adv.grad.sign()
            x_adv = torch.min(torch.max(moved, x - recipe.eps), x + recipe.eps).clamp(0, 1).detach()
        optimizer.zero_grad()
        cross_entropy(network(x_adv), y, label_smoothing=recipe.smoothing).backward()
        optimizer.step()

    return step


def our_step(data: ImageData, recipe: Recipe, path: FastPath) -> Step:
    """Return one step of `training.run.Run` on the given path; with `lam` on cached random targets."""
    features = None
    if recipe.lam:
        z = torch.randn(2, len(data.train_y), TEACHER_WIDTH, generator=torch.Generator().manual_seed(1))
        features = CachedFeatures(z.half(), torch.zeros(TEACHER_WIDTH), torch.ones(TEACHER_WIDTH))
    run = Run(recipe, data, torch.arange(len(data.train_y)), features)
    run.path = path
    path.place(run.network)

    def step() -> None:
        run.step()

    return step


def seconds(step: Step) -> float:
    start = time.process_time()
    step()
    return time.process_time() - start


def main(
    rounds: Annotated[int, typer.Option(help="Timed rounds; one more warms up.")] = 15,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Time every variant in turn, `rounds` times, and print each one's speed over the plain loop."""
    torch.set_num_threads(1)
    data = random_images(2048)
    at, dra = RECIPES["cifar10-tiny-at"], RECIPES["cifar10-tiny-dra"]
    plain = Run(at, data, torch.arange(len(data.train_y)), None)
    paths = [FastPath(bf16, last) for bf16 in (False, True) for last in (False, True)]
    steps: dict[str, Step] = {"plain published loop": plain_step(plain)}
    steps |= {f"ours, {path}": our_step(data, at, path) for path in paths}
    steps |= {f"ours + DRA, {path}": our_step(data, dra, path) for path in paths}
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 1):
        for name, step in steps.items():
            spent = seconds(step)
            if turn:
                taken[name].append(spent)
    rows = {name: _ratios(taken["plain published loop"], times) for name, times in taken.items()}
    cost = {str(p): _ratios(taken[f"ours + DRA, {p}"], taken[f"ours, {p}"]) for p in paths}
    result = {
        "rounds": rounds,
        "batch": at.batch,
        "threads": 1,
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "median_ms": {name: round(1000 * median(times), 1) for name, times in taken.items()},
        "speed_over_plain": rows,
        "dra_cost": cost,
    }
    print(json.dumps(result)) if as_json else _show(result)


def _ratios(numerator: list[float], denominator: list[float]) -> list[float]:
    """Return the lower quartile, median and upper quartile of the rounds' ratios."""
    return [round(q, 3) for q in quantiles([a / b for a, b in zip(numerator, denominator, strict=True)], n=4)]


def _show(result: dict[str, object]) -> None:
    facts = f"{result['rounds']} rounds, batch {result['batch']}, one thread, {result['machine']}"
    table = Table(title=f"A PGD-2 training step: speed over the plain loop ({facts})")
    for column in ("step", "median ms", "speed over plain", "quartiles"):
        table.add_column(column, justify="left" if column == "step" else "right")
    speeds, ms = result["speed_over_plain"], result["median_ms"]
    assert isinstance(speeds, dict)
    assert isinstance(ms, dict)
    for name, (low, middle, high) in speeds.items():
        table.add_row(name, f"{ms[name]:.1f}", f"{middle:.2f} x", f"{low:.2f} to {high:.2f}")
    console = Console(width=110)
    console.print(table)
    costs = result["dra_cost"]
    assert isinstance(costs, dict)
    for path, (low, middle, high) in costs.items():
        console.print(f"cached DRA costs {middle:.3f} x the step without, {path} ({low:.3f} to {high:.3f})")


if __name__ == "__main__":
    typer.run(main)
