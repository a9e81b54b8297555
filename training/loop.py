"""The training loop: epochs, the watch on a real attack, checkpoints, and the finished model folder."""

import json
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import load_file
from torch import Tensor

from dra_serve.attacks import pgd
from dra_serve.attacks.norms import format_radius
from dra_serve.model_config import ModelConfig
from dra_serve.model_folder import write_config
from dra_serve.sums import write_sums
from training.checkpoint import load_checkpoint, save_checkpoint
from training.claim import claim
from training.data import ImageData
from training.data.image_data import as_float
from training.fast_path import FastPath
from training.recipes.checks import check_recipe
from training.recipes.classifier import Recipe
from training.recipes.options import to_json
from training.run import Run
from training.teachers.features import CachedFeatures, FeatureChoice, cache_features
from training.teachers.folder import load_teacher, untrained_like
from training.tensor_file import write_tensors
from training.torch_classifier import TorchClassifier, frozen

WATCH_STEPS = 10  # PGD on the held-out images after each epoch
COLLAPSE = 0.10  # a fall of robust accuracy by this much is catastrophic overfitting, not noise

console = Console(stderr=True)


def train(
    recipe: Recipe,
    data: ImageData,
    folder: Path,
    *,
    max_minutes: float | None = None,
    path: FastPath | None = None,
    save_every: float = 120,
) -> Path | None:
    """Run, or go on with, a recipe in `folder`; return its model folder, or None if time was up before.

    max_minutes: stop at a checkpoint after so long. path: fixes the fast path; measured if None.
    Raises BadRequest for a recipe that cannot train on this data, and where `folder` holds a run of another.
    """
    check_recipe(recipe, data)
    claim(folder, recipe)
    held, kept = split(recipe, len(data.train_y))
    run = Run(recipe, data, kept, teacher_features(recipe, data, folder.parent) if recipe.lam else None)
    progress = _resume(run, folder)
    _choose_path(run, progress, path)
    keep = _Keeper(run, folder, progress, save_every)
    deadline = time.monotonic() + 60 * max_minutes if max_minutes is not None else None
    with _progress() as bar:
        task = bar.add_task(recipe.name, total=run.steps, completed=run.steps_done, facts="")
        while not run.finished():
            keep.add(run.step())
            bar.update(task, completed=run.steps_done, facts=keep.facts())
            if run.steps_done % run.steps_an_epoch == 0:
                keep.end_epoch(held)
            elif deadline is not None and time.monotonic() > deadline:
                keep.save()
                console.print(
                    f"stopped at step {run.steps_done:,} of {run.steps:,}; the same command goes on"
                )
                return None
            else:
                keep.save_if_due()
    return _write_model(run, folder, keep)


def split(recipe: Recipe, n: int) -> tuple[Tensor, Tensor]:
    """Return indices of the held-out images (held_out,) and of those trained on, sorted, among n."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(recipe.seed))
    return order[: recipe.held_out], order[recipe.held_out :].sort().values


def teacher_features(recipe: Recipe, data: ImageData, cache: Path) -> CachedFeatures:
    """Return the teacher's features of every training image, cached under `cache` by what they depend on."""
    teacher = load_teacher(recipe.teacher, image_channels=data.input_shape[0])
    if recipe.untrained_teacher:
        teacher = untrained_like(teacher, seed=recipe.seed)
    choice = FeatureChoice(
        blocks=recipe.teacher_blocks,
        sigma=recipe.teacher_sigma,
        grid=recipe.teacher_grid,
        draws=recipe.teacher_draws,
    )
    kind = "untrained" if recipe.untrained_teacher else "trained"
    console.print(f"teacher features: {recipe.teacher} ({kind}), {choice}")
    path = cache / "features" / f"{recipe.name}.safetensors"
    with _progress() as bar:
        task = bar.add_task("teacher features", total=2 * len(data.train_x), facts="")

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, facts=f"{done:,} of {total:,} views")

        return cache_features(
            teacher, data.train_x, choice, path=path, data_sha256=data.sha256(), on_batch=show
        )


def _progress() -> Progress:
    """Return a bar with a text of its own, shown on terminals alone."""
    facts = TextColumn("{task.fields[facts]}")
    columns = (TextColumn("{task.description}"), BarColumn(), facts, TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal)


class _Keeper:
    """What a run remembers between steps: sums for the log line, seconds spent, the best epoch so far."""

    def __init__(self, run: Run, folder: Path, progress: dict[str, Any], save_every: float) -> None:
        self.run, self.folder, self.save_every = run, folder, save_every
        self.cpu_seconds: float = progress.get("cpu_seconds", 0.0)
        self.best: float = progress.get("best", 0.0)
        self.collapsed: bool = progress.get("collapsed", False)
        self.last: dict[str, float] = progress.get("last", {})
        self.epoch_began = self.cpu_seconds
        self.sums: dict[str, float] = {}
        self.count = 0
        self.mark, self.saved = time.process_time(), time.monotonic()
        self.started = (time.monotonic(), run.steps_done)

    def add(self, parts: dict[str, float]) -> None:
        self.count += 1
        for name, value in parts.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def facts(self) -> str:
        """Return the progress bar's text: loss, watched accuracies, images a second."""
        since, steps = self.started
        rate = (self.run.steps_done - steps) * self.run.recipe.batch / (time.monotonic() - since)
        watched = f" clean {self.last['clean']:.1%} robust {self.last['robust']:.1%}" if self.last else ""
        return f"loss {self.sums['base'] / self.count:.3f}{watched} {rate:,.0f} images/s"

    def end_epoch(self, held: Tensor) -> None:
        """Attack the held-out images, log one row, keep the best weights, save."""
        run = self.run
        self._spend()
        cpu = self.cpu_seconds - self.epoch_began
        clean, robust = watch(run, held) if len(held) else (float("nan"), float("nan"))
        row: dict[str, Any] = {"epoch": run.epoch(), "rate": round(run.rate(), 5)}
        row |= {name: round(self.sums[name] / self.count, 4) for name in ("base", "dra") if name in self.sums}
        row["train_adv"] = round(self.sums["adv_hits"] / (self.count * run.recipe.batch), 4)
        if len(held):
            row |= {"held_out_clean": clean, "held_out_robust": robust}
        row |= {"images_per_cpu_second": round(self.count * run.recipe.batch / cpu, 1)}
        row |= {"cpu_minutes": round(self.cpu_seconds / 60, 2)}
        with (self.folder / "metrics.jsonl").open("a") as log:
            log.write(json.dumps(row) + "\n")
        console.print(" ".join(f"{key} {value}" for key, value in row.items()), highlight=False)
        if len(held):
            self._judge(clean, robust)
        self.save()
        self.sums, self.count = {}, 0
        self.started, self.epoch_began = (time.monotonic(), run.steps_done), self.cpu_seconds

    def _judge(self, clean: float, robust: float) -> None:
        self.last = {"clean": clean, "robust": robust}
        if robust >= self.best:
            self.best = robust
            weights = {key: value.contiguous() for key, value in self.run.average.module.state_dict().items()}
            write_tensors(self.folder / "best.safetensors", weights)
        self.collapsed = robust < self.best - COLLAPSE
        if self.collapsed:
            console.print(
                f"CATASTROPHIC OVERFITTING: PGD-{WATCH_STEPS} on held-out images fell from {self.best:.1%} "
                f"to {robust:.1%}; the best weights are kept and will be the model",
                style="bold red",
            )

    def save_if_due(self) -> None:
        if time.monotonic() - self.saved > self.save_every:
            self.save()

    def save(self) -> None:
        self._spend()
        run = self.run
        progress = {
            "steps_done": run.steps_done,
            "order": run.order.tolist() if run.steps_done % run.steps_an_epoch else [],
            "cpu_seconds": round(self.cpu_seconds, 1),
            "best": self.best,
            "collapsed": self.collapsed,
            "last": self.last,
            "path": {"bf16": run.path.bf16, "channels_last": run.path.channels_last},
        }
        save_checkpoint(
            self.folder / "checkpoint.safetensors",
            modules=run.modules(),
            optimizer=run.optimizer,
            generators={"data": run.rng},
            progress=progress,
        )
        self.saved = time.monotonic()

    def _spend(self) -> None:
        now = time.process_time()
        self.cpu_seconds += now - self.mark
        self.mark = now


def watch(run: Run, held: Tensor) -> tuple[float, float]:
    """Return clean and PGD-10 accuracy of the averaged network on the held-out images, fractions."""
    network = run.average.module
    model = TorchClassifier(network, run.data.classes, run.data.input_shape, path=run.path)
    x, y = as_float(run.data.train_x[held]), run.data.train_y[held]
    recipe = run.recipe
    with frozen(network):
        clean = (model.logits(x).argmax(1) == y).float().mean()
        attacked = pgd(model, x, y, norm=recipe.norm, eps=recipe.eps, steps=WATCH_STEPS, indices=held)
    return round(float(clean), 4), round(1 - float(attacked.success.float().mean()), 4)


def _resume(run: Run, folder: Path) -> dict[str, Any]:
    path = folder / "checkpoint.safetensors"
    if not path.exists():
        return {}
    progress = load_checkpoint(
        path, modules=run.modules(), optimizer=run.optimizer, generators={"data": run.rng}
    )
    run.steps_done = progress["steps_done"]
    run.order = torch.tensor(progress["order"], dtype=torch.int64)
    console.print(f"going on from step {run.steps_done:,} of {run.steps:,}")
    return progress


def _choose_path(run: Run, progress: dict[str, Any], path: FastPath | None) -> None:
    """Take the given path, the one the run began with, or the quickest: a run never changes precision."""
    if path is not None or "path" in progress:
        run.path = path or FastPath(**progress["path"])
        run.path.place(run.network)
        console.print(f"fast path: {run.path}", highlight=False)
        return
    seconds = run.quickest_path()
    console.print(f"fast path: {run.path}; CPU s a step: {seconds}", highlight=False)


def _write_model(run: Run, folder: Path, keep: _Keeper) -> Path:
    """Write the averaged network (the best one after a collapse) as a model folder, without projector."""
    out = folder / "model"
    out.mkdir(exist_ok=True)
    weights = run.average.module.state_dict()
    if keep.collapsed:
        weights = load_file(folder / "best.safetensors")
    write_tensors(out / "model.safetensors", {key: value.contiguous() for key, value in weights.items()})
    recipe = run.recipe
    config = ModelConfig.model_validate(
        run.config
        | {
            "name": recipe.name,
            "data": {"name": run.data.name, "sha256": run.data.sha256(), "images": len(run.kept)},
            "threat": {"norm": recipe.norm, "eps": format_radius(recipe.eps)},
            "recipe": to_json(recipe),
            "twin": recipe.twin,
            "training": {
                "epochs": recipe.epochs,
                "cpu_minutes": round(keep.cpu_seconds / 60, 1),
                "fast_path": str(run.path),
                "collapsed": keep.collapsed,
            },
        }
    )
    write_config(out, config)
    write_sums(out)
    return out
