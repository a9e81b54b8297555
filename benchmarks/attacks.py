"""Our attacks against the libraries people use: `benchmarks/attacks.py [--attack NAME] [--rounds N]`.

PGD-20 and APGD-CE-100 (APGD-T-100 on request), linf 8/255, on a bundled model: ours on ONNX Runtime and on
torch, foolbox, ART, torchattacks, adv-lib and the original AutoAttack, as far as each is installed:

    pip install "dra-serve[bench]"                      # foolbox, ART
    pip install --no-deps torchattacks adv-lib          # their pins would replace requests and torchvision
    git clone https://github.com/fra31/auto-attack && export PYTHONPATH=$PWD/auto-attack

A round gives every contender the same fresh images, one after another on one thread, first a batch of 32,
then some one at a time; who begins changes from round to round. All return x_adv and whom it fools. Times
are CPU time of the process (wall time is printed beside it: the machine may be busy); the ratio of a round
compares runs made within seconds of each other, and the fastest peer is the one of the least median time.
The images are those the model gets right. An image that falls early saves us work, so the same is measured
again on the images that withstand our attack, where nothing can be saved.

Ours counts an image whom any iterate fools, the peers' PGD the last iterate only. "ours, torch, last iterate"
does as they do, for success rates like with like. On torch all share one network in torch's usual layout;
our classifier lays out batches of 8 and more with the channels last, as in training; the peers take theirs as
given.
"""

import json
import platform
import sys
import time
from pathlib import Path
from statistics import median, quantiles
from typing import Annotated, Any, NamedTuple, cast

import numpy as np
import onnxruntime
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

import dra_serve
from benchmarks.peers.attacks import Run, Setting, Subject, contenders
from dra_serve.attacks.norms import parse_radius
from dra_serve.classifier import Classifier
from dra_serve.errors import DataMissing
from dra_serve.evaluation.data import as_float, read_images
from dra_serve.evaluation.provenance import commit, hardware
from training.fast_path import FastPath
from training.networks import HubClassifier
from training.torch_classifier import TorchClassifier

STEPS = {"pgd": 20, "apgd-ce": 100, "apgd-t": 100}
BATCH, SINGLES = 32, 4  # images of a round: in one batch, and one at a time
SLACK = 1e-6  # float32 puts x + 8/255 a rounding beside the ball


def subject(name: str) -> Subject:
    """Return the bundled model `name`, frozen in eval mode, on both engines."""
    on_onnx = dra_serve.load(f"bundled:{name}")
    folder = Path(dra_serve.__file__).parent / "bundled" / name
    network = HubClassifier.from_pretrained(folder).eval().requires_grad_(False)
    path = FastPath(channels_last=True)  # of the images it is given; the network is the peers' too
    on_torch = TorchClassifier(network, on_onnx.classes, on_onnx.input_shape, path=path)
    return Subject(network=network, on_torch=cast(Classifier, on_torch), on_onnx=cast(Classifier, on_onnx))


def right_images(model: Subject, data: Path, n: int) -> tuple[Tensor, Tensor]:
    """Return n images, drawn at random with seed 0, whose label the model predicts."""
    images = read_images(data, seed=0)
    order = torch.randperm(images.total, generator=torch.Generator().manual_seed(0)).numpy()
    x, y = torch.from_numpy(as_float(images.x[order[: 2 * n]])), torch.from_numpy(images.y[order[: 2 * n]])
    right = (model.on_torch.logits(x).argmax(1) == y).nonzero()[:n, 0]
    return x[right], y[right]


class Samples(NamedTuple):
    """What one contender did at one batch size: a time an image and round, a verdict an image."""

    cpu: list[float]
    wall: list[float]
    fooled: list[bool]
    reach: list[float]  # the largest perturbation of each round


def alternate(
    runs: dict[str, Run], x: Tensor, y: Tensor, rounds: int, seed: int
) -> dict[int, dict[str, Samples]]:
    """Return the samples by batch size and contender. x, y: the images, taken in turn, round and round."""
    names = list(runs)
    samples = {n: {name: Samples([], [], [], []) for name in names} for n in (BATCH, 1)}
    for turn in range(-1, rounds):  # the first warms up
        rows = [(max(turn, 0) * BATCH + k) % len(x) for k in range(BATCH)]
        for n, parts in ((BATCH, [rows]), (1, [[row] for row in rows[:SINGLES]])):
            for k in range(len(names)):
                name = names[(k + turn) % len(names)]
                inputs = [(x[part], y[part]) for part in parts]
                torch.manual_seed(seed + turn + 1)
                np.random.seed(seed + turn + 1)  # ART draws from the global generator
                cpu, wall = time.process_time(), time.perf_counter()
                results = [runs[name](*one) for one in inputs]
                cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
                if turn >= 0:
                    images = sum(map(len, parts))
                    here = samples[n][name]
                    here.cpu.append(cpu / images)
                    here.wall.append(wall / images)
                    here.fooled.extend(torch.cat([fooled for _, fooled in results]).tolist())
                    deltas = [x_adv - given for (x_adv, _), (given, _) in zip(results, inputs, strict=True)]
                    here.reach.append(float(torch.cat(deltas).abs().max()))
    return samples


def rows_of(samples: dict[str, Samples], n: int, eps: float) -> list[dict[str, Any]]:
    """Return a row of the table for each contender."""
    peers = [name for name in samples if not name.startswith("ours")]
    fastest = min(peers, key=lambda name: median(samples[name].cpu), default=None)
    rows = []
    for name, own in samples.items():
        ratios = [a / b for a, b in zip(samples[fastest].cpu, own.cpu, strict=True)] if fastest else []
        row = {
            "n": n,
            "contender": name,
            "cpu_ms_an_image": round(1000 * median(own.cpu), 3),
            "wall_ms_an_image": round(1000 * median(own.wall), 3),
            "fastest_peer": name == fastest,
            "speed_over_fastest_peer": [round(q, 3) for q in quantiles(ratios, n=4)] if ratios else None,
            "images": len(own.fooled),
            "fooled_percent": round(100 * sum(own.fooled) / len(own.fooled), 2),
            "inside_the_ball": max(own.reach) <= eps + SLACK,
        }
        rows.append(row)
    return rows


def main(
    attack: Annotated[list[str], typer.Option(help=f"Which of {', '.join(STEPS)}.")] = ["pgd", "apgd-ce"],  # noqa: B006
    model: Annotated[str, typer.Option(help="The bundled model: dra or at.")] = "dra",
    data: Annotated[Path, typer.Option(help="CIFAR-10 test images.")] = Path("../shared/data/cifar10"),
    eps: Annotated[str, typer.Option(help="linf radius, units of x.")] = "8/255",
    rounds: Annotated[
        int, typer.Option(min=2, help=f"Timed rounds of {BATCH} images; one more warms up.")
    ] = 15,
    seed: Annotated[int, typer.Option()] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Attack the same images with every contender in turn, and print times, ratios and success rates."""
    torch.set_num_threads(1)
    here = Path(__file__).resolve().parent  # our autoattack.py lies there, and would hide the original
    sys.path[:] = [folder for folder in sys.path if Path(folder).resolve() != here]
    who = subject(model)
    try:
        x, y = right_images(who, data, rounds * BATCH)
    except DataMissing as error:
        raise typer.BadParameter(str(error)) from error
    result: dict[str, Any] = {
        "model": f"bundled:{model}",
        "norm": "linf",
        "eps": eps,
        "seed": seed,
        "rounds": rounds,
        "threads": 1,
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
        "python": platform.python_version(),
        "hardware": hardware(),
        "commit": commit(),
        "tables": [],
    }
    for name in attack:
        radius = parse_radius(eps)
        setting = Setting(attack=name, eps=radius, steps=STEPS[name], alpha=radius / 4, seed=seed)
        runs, skipped = contenders(who, setting)
        _, fooled = runs["ours, torch"](x, y)
        kinds = {"classified rightly": torch.ones_like(fooled), "that withstand ours": ~fooled}
        for kind, picked in kinds.items():
            samples = alternate(runs, x[picked], y[picked], rounds, seed)
            rows = [row for n in samples for row in rows_of(samples[n], n, radius)]
            table = {"attack": name, "steps": STEPS[name], "images": kind, "rows": rows, "skipped": skipped}
            result["tables"].append(table)
            if not as_json:
                _show(result, table)
    if as_json:
        print(json.dumps(result))


def _show(result: dict[str, Any], table: dict[str, Any]) -> None:
    facts = f"linf {result['eps']}, {result['model']}, {result['rounds']} rounds, one thread"
    console, out = Console(width=120), Table(title=f"{table['attack']}-{table['steps']}, {facts}")
    console.print(f"\nImages {table['images']}; {result['hardware']}; torch {result['torch']}")
    for column in (
        "n",
        "contender",
        "CPU ms",
        "wall ms",
        "over fastest peer",
        "quartiles",
        "fooled",
        "images",
    ):
        out.add_column(column, justify="left" if column == "contender" else "right", no_wrap=True)
    for row in table["rows"]:
        low, middle, high = row["speed_over_fastest_peer"] or (float("nan"),) * 3
        out.add_row(
            str(row["n"]),
            row["contender"] + (" *" if row["fastest_peer"] else ""),
            f"{row['cpu_ms_an_image']:.2f}",
            f"{row['wall_ms_an_image']:.2f}",
            f"{middle:.2f} x",
            f"{low:.2f} to {high:.2f}",
            f"{row['fooled_percent']:.1f} %" + ("" if row["inside_the_ball"] else ", outside the ball"),
            str(row["images"]),
        )
    console.print(out)
    console.print("* the fastest peer; ms an image")
    for name, reason in table["skipped"].items():
        console.print(f"skipped {name}: {reason}")


if __name__ == "__main__":
    typer.run(main)
