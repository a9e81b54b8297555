"""Our `standard` suite against the original AutoAttack: `benchmarks/autoattack.py --autoattack PATH [-n N]`.

The original is not on PyPI:

    git clone https://github.com/fra31/auto-attack

and give its path, or put it on PYTHONPATH. Both get the same images of CIFAR-10 (a seeded random choice)
and the same bundled model: ours on ONNX Runtime through the suite's attacks in turn, each on those that
withstood the ones before; the original on the torch network in eval mode, as its README has it, with the
default batch of 250. `--freeze` takes the parameters' gradients from the original too, which its users
seldom do.

A round gives both the same images, one after the other; who begins changes. On one thread times are CPU
seconds of the process, for the machine may be busy; with `--threads N` each side may use N cores, ours as
`evaluate` does (a batch in N slices), the original as torch does (N threads an operator), and times are
seconds on the wall: the machine must be quiet. Every image on which the verdicts differ is listed, with who
fooled it, whether that image fools the other engine too, and how often each side's APGD-T fools it with other
seeds: where both do so now and then, the seed decided.

A line says what part of our CPU time passed inside ONNX Runtime. That part is forward passes and
gradients that the budgets prescribe: no code of ours around them can save it.
"""

import importlib
import json
import platform
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import onnxruntime
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import nn

import dra_serve
from dra_serve.attacks import get_attack
from dra_serve.attacks.norms import NORMS, get_norm, parse_radius
from dra_serve.checked import Checked
from dra_serve.classifier import Classifier, Loss
from dra_serve.errors import DataMissing
from dra_serve.evaluation.data import as_float, read_images
from dra_serve.evaluation.provenance import commit, hardware
from dra_serve.evaluation.suites import SUITES, Stage
from dra_serve.evaluation.threads import in_slices
from dra_serve.onnx_classifier import OnnxClassifier
from training.networks import HubClassifier

BATCH, THEIR_BATCH = 128, 250
SEEDS = range(1, 11)  # of APGD-T once more, where verdicts differ
HOW = "git clone https://github.com/fra31/auto-attack, then --autoattack PATH"
STAGES = tuple(stage.attack for stage in SUITES["standard"])


@dataclass
class Side:
    """What one side did. clock: what its times are read off. robust: by image; x_adv: by round.

    seconds: of each round. stage_seconds: of each stage; left: how many images withstood it. Both over all
    rounds.
    """

    clock: Callable[[], float]
    robust: list[bool] = field(default_factory=list)
    x_adv: list[np.ndarray] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    stage_seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    left: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("clean", *STAGES), 0))


class Timed(Checked):
    """The model, and the CPU seconds that its answers took, over all threads."""

    def __init__(self, model: OnnxClassifier) -> None:
        self._model, self._lock = model, threading.Lock()
        self.classes, self.input_shape, self.has_gradient = model.classes, model.input_shape, True
        self.seconds = 0.0

    def _logits(self, x: np.ndarray) -> np.ndarray:
        return self._spent(self._model._logits, x)

    def _loss_and_grad(
        self, x: np.ndarray, y: np.ndarray, loss: Loss = "ce", target: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self._spent(self._model._loss_and_grad, x, y, loss, target)

    def _spent(self, call: Callable[..., Any], *arguments: Any) -> Any:
        began = time.thread_time()
        answer = call(*arguments)
        with self._lock:
            self.seconds += time.thread_time() - began
        return answer


def run_ours(
    model: Timed, threads: int, x: np.ndarray, y: np.ndarray, norm: str, eps: float, side: Side
) -> None:
    """Run the suite on x (N, C, H, W), each attack on the survivors; enter the outcomes in `side`."""
    x_adv, robust = x.copy(), np.ones(len(x), bool)
    for start in range(0, len(x), BATCH):
        part = slice(start, start + BATCH)
        robust[part] = model.logits(x[part]).argmax(axis=1) == y[part]
    side.left["clean"] += int(robust.sum())
    ids = np.arange(len(x)) + len(side.robust)
    for stage in SUITES["standard"]:
        before = side.clock()
        open_rows = np.flatnonzero(robust)
        for start in range(0, len(open_rows), BATCH):
            rows = open_rows[start : start + BATCH]
            work = _stage_on_slices(stage, x[rows], y[rows], ids[rows], norm, eps)
            x_adv[rows] = np.concatenate(in_slices(work, model, len(rows), threads=threads))
            robust[rows] = model.logits(x_adv[rows]).argmax(axis=1) == y[rows]
        side.stage_seconds[stage.attack] += side.clock() - before
        side.left[stage.attack] += int(robust.sum())
    side.robust += robust.tolist()
    side.x_adv.append(x_adv)


def _stage_on_slices(
    stage: Stage, x: np.ndarray, y: np.ndarray, ids: np.ndarray, norm: str, eps: float
) -> Callable[[Classifier, slice], np.ndarray]:
    """Return work(model, part) -> x_adv of the images `part` under a suite's stage."""
    attack = get_attack(stage.attack)
    options = ({"seed": 0} if "seed" in attack.options else {}) | stage.options

    def work(model: Classifier, part: slice) -> np.ndarray:
        result = attack(model, x[part], y[part], norm=norm, eps=eps, indices=ids[part], **options)
        made: np.ndarray = result.x_adv
        return made

    return work


class _Log:
    """The original's logger: it says when a stage ends and how many images withstood it."""

    def __init__(self, side: Side, n: int) -> None:
        self._side, self._n, self._since = side, n, side.clock()

    def log(self, text: str) -> None:
        words = text.split()
        if text.startswith("initial accuracy"):
            self._side.left["clean"] += round(float(words[-1].rstrip("%")) * self._n / 100)
            self._since = self._side.clock()
        elif text.startswith("robust accuracy after"):
            stage, now = words[3].lower().rstrip(":"), self._side.clock()
            self._side.left[stage] += round(float(words[4].rstrip("%")) * self._n / 100)
            self._side.stage_seconds[stage] += now - self._since
            self._since = now


def run_original(
    autoattack: Any, network: nn.Module, x: np.ndarray, y: np.ndarray, norm: str, eps: float, side: Side
) -> None:
    """Run AutoAttack's standard version; enter the outcomes in `side`."""
    attack = _original(autoattack, network, norm, eps, seed=0)
    attack.logger = _Log(side, len(x))
    images, labels = torch.from_numpy(x), torch.from_numpy(y)
    x_adv, predicted = attack.run_standard_evaluation(images, labels, bs=THEIR_BATCH, return_labels=True)
    side.robust += (predicted == labels).tolist()
    side.x_adv.append(x_adv.numpy())


def _original(autoattack: Any, network: nn.Module, norm: str, eps: float, *, seed: int) -> Any:
    name = {"linf": "Linf", "l2": "L2"}[norm]
    return autoattack.AutoAttack(network, norm=name, eps=eps, version="standard", device="cpu", seed=seed)


def differences(
    model: OnnxClassifier,
    network: nn.Module,
    x: np.ndarray,
    y: np.ndarray,
    norm: str,
    ours: Side,
    theirs: Side,
) -> list[dict[str, Any]]:
    """Return an entry for each image that one side fooled and the other did not."""
    entries = []
    images = {"ours": np.concatenate(ours.x_adv), "original": np.concatenate(theirs.x_adv)}
    for i in np.flatnonzero(np.array(ours.robust) != np.array(theirs.robust)):
        who = "ours" if theirs.robust[i] else "original"
        x_adv = images[who][i : i + 1]
        with torch.no_grad():
            on_torch = network(torch.from_numpy(x_adv)).numpy()
        entries.append(
            {
                "image": int(i),
                "fooled_by": who,
                "size": float(get_norm(norm).size(x_adv - x[i : i + 1])[0]),
                "lead_on_onnx": _lead(model.logits(x_adv), y[i]),
                "lead_on_torch": _lead(on_torch, y[i]),
            }
        )
    return entries


def falls_by_seed(
    model: OnnxClassifier,
    autoattack: Any,
    network: nn.Module,
    x: np.ndarray,
    y: np.ndarray,
    norm: str,
    eps: float,
) -> dict[str, int]:
    """Return how many of SEEDS let each side's APGD-T fool one image x (1, C, H, W)."""
    stage = next(stage for stage in SUITES["standard"] if stage.attack == "apgd-t")
    ours = [
        bool(get_attack("apgd-t")(model, x, y, norm=norm, eps=eps, seed=seed, **stage.options).success[0])
        for seed in SEEDS
    ]
    theirs = []
    for seed in SEEDS:
        attack = _original(autoattack, network, norm, eps, seed=seed)
        attack.attacks_to_run, attack.verbose = ["apgd-t"], False
        _, predicted = attack.run_standard_evaluation(
            torch.from_numpy(x), torch.from_numpy(y), return_labels=True
        )
        theirs.append(bool(predicted[0] != y[0]))
    return {"ours": sum(ours), "original": sum(theirs), "of": len(SEEDS)}


def _lead(logits: np.ndarray, label: int) -> float:
    """Return how far the best other class leads the label: above 0 is fooled."""
    others = np.delete(logits[0], label)
    return float(others.max() - logits[0, label])


def compare(
    name: str,
    autoattack: Any,
    data: Path,
    n: int,
    norm: str,
    eps: float,
    rounds: int,
    freeze: bool,
    threads: int,
) -> dict[str, Any]:
    """Return accuracies, times and differences of both sides on the bundled model `name`."""
    model = dra_serve.load(f"bundled:{name}")
    timed, cpu = Timed(model), 0.0
    folder = Path(dra_serve.__file__).parent / "bundled" / name
    network = HubClassifier.from_pretrained(folder).eval().requires_grad_(not freeze)
    chosen = read_images(data, n=n, seed=0)
    x, y = as_float(chosen.x[np.arange(n)]), chosen.y
    clock = time.process_time if threads == 1 else time.perf_counter
    ours, theirs = Side(clock), Side(clock)
    sides: list[tuple[Side, Callable[..., None], tuple[Any, ...]]] = [
        (ours, run_ours, (timed, threads)),
        (theirs, run_original, (autoattack, network)),
    ]
    for turn, rows in enumerate(np.array_split(np.arange(n), rounds)):
        for side, run, what in sides if turn % 2 == 0 else reversed(sides):
            began, cpu_began = clock(), time.process_time()
            run(*what, x[rows], y[rows], norm, eps, side)
            side.seconds.append(clock() - began)
            cpu += time.process_time() - cpu_began if side is ours else 0.0
    found = differences(model, network, x, y, norm, ours, theirs)
    for entry in found:
        one = slice(entry["image"], entry["image"] + 1)
        entry["falls_by_seed"] = falls_by_seed(model, autoattack, network, x[one], y[one], norm, eps)
    ratios = [b / a for a, b in zip(ours.seconds, theirs.seconds, strict=True)]
    sums = {
        key: {
            "robust_percent": 100 * float(np.mean(side.robust)),
            "left": side.left,
            "seconds": sum(side.seconds),
            "seconds_by_stage": side.stage_seconds,
        }
        for key, side in (("ours", ours), ("original", theirs))
    }
    return {
        "model": f"bundled:{name}",
        **sums,
        "speed": sum(theirs.seconds) / sum(ours.seconds),
        "engine_share": timed.seconds / cpu,
        "speed_by_round": {"least": min(ratios), "median": median(ratios), "most": max(ratios)},
        "differences": found,
    }


app = typer.Typer(add_completion=False)


@app.command()
def main(
    n: Annotated[int, typer.Option("-n", min=2, help="How many images.")] = 500,
    model: Annotated[list[str], typer.Option(help="Bundled models.")] = ["dra", "at"],  # noqa: B006
    data: Annotated[Path, typer.Option(help="CIFAR-10 test images.")] = Path("../shared/data/cifar10"),
    norm: Annotated[str, typer.Option(help=" or ".join(NORMS))] = "linf",
    eps: Annotated[str, typer.Option(help="Radius, units of x; 8/255 or 0.5 by default.")] = "",
    rounds: Annotated[int, typer.Option(min=1, help="Into how many parts the images are divided.")] = 2,
    autoattack: Annotated[Path | None, typer.Option(help="A clone of the original.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Cores for each side; 1 counts CPU seconds.")] = 1,
    freeze: Annotated[bool, typer.Option("--freeze", help="The original without weight gradients.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Evaluate the same images with both and print accuracies, times and every difference."""
    torch.set_num_threads(threads)
    if autoattack is not None:
        sys.path.insert(0, str(autoattack))
    try:
        original = importlib.import_module("autoattack")
    except ImportError as error:
        typer.echo(f"the original AutoAttack is not importable: {HOW}", err=True)
        raise typer.Exit(2) from error
    radius = parse_radius(eps or {"linf": "8/255", "l2": "0.5"}[norm])
    result: dict[str, Any] = {
        "suite": [asdict(stage) for stage in SUITES["standard"]],
        "n": n,
        "norm": norm,
        "eps": radius,
        "rounds": rounds,
        "frozen": freeze,
        "threads": threads,
        "clock": "CPU" if threads == 1 else "wall",
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
        "python": platform.python_version(),
        "hardware": hardware(),
        "commit": commit(),
        "models": [],
    }
    for name in model:
        try:
            entry = compare(name, original, data, n, norm, radius, rounds, freeze, threads)
        except DataMissing as error:
            raise typer.BadParameter(str(error)) from error
        result["models"].append(entry)
        if not as_json:
            _show(result, entry)
    if as_json:
        print(json.dumps(result))


def _show(result: dict[str, Any], entry: dict[str, Any]) -> None:
    title = f"{entry['model']}, {result['norm']} {result['eps']:.4g}, n = {result['n']}"
    title += f", {result['threads']} thread{'s' * (result['threads'] > 1)} a side"
    console, out, clock = Console(width=110), Table(title=title), f"{result['clock']} s"
    for column in ("", "left, ours", "left, original", f"{clock}, ours", f"{clock}, original", "ratio"):
        out.add_column(column, justify="right" if column else "left", no_wrap=True)
    ours, theirs = entry["ours"], entry["original"]
    out.add_row("clean", str(ours["left"]["clean"]), str(theirs["left"]["clean"]), "", "", "")
    for stage in STAGES:
        a, b = (side["seconds_by_stage"][stage] for side in (ours, theirs))
        left = (str(side["left"][stage]) for side in (ours, theirs))
        out.add_row(stage, *left, f"{a:.1f}", f"{b:.1f}", f"{b / a:.2f}" if a else "")
    percent = (f"{side['robust_percent']:.2f} %" for side in (ours, theirs))
    total = f"{ours['seconds']:.1f}", f"{theirs['seconds']:.1f}", f"{entry['speed']:.2f}"
    out.add_row("robust, in all", *percent, *total)
    console.print(out)
    spread = entry["speed_by_round"]
    console.print(
        f"by round {spread['least']:.2f} to {spread['most']:.2f};"
        f" {result['hardware']}; torch {result['torch']}"
    )
    console.print(f"{entry['engine_share']:.0%} of our CPU time passed inside ONNX Runtime")
    for one in entry["differences"]:
        falls = one["falls_by_seed"]
        console.print(
            f"image {one['image']}: fooled by {one['fooled_by']} alone, at {one['size']:.5f}; the wrong class"
            f" leads by {one['lead_on_onnx']:+.2g} on ONNX Runtime, {one['lead_on_torch']:+.2g} on torch;"
            f" with {falls['of']} other seeds APGD-T fools it {falls['ours']} times (ours) and"
            f" {falls['original']} times (the original)"
        )
    console.print(f"{len(entry['differences'])} of {result['n']} verdicts differ")


if __name__ == "__main__":
    app()
