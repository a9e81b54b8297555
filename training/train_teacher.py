"""Train a diffusion teacher: `training/train_teacher.py RECIPE [--field value]`; the same command resumes."""

import json
import math
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from torch.optim.swa_utils import AveragedModel

from dra_serve.errors import BadRequest, DraServeError
from training.checkpoint import load_checkpoint, save_checkpoint
from training.claim import claim
from training.data import ImageData, load_data
from training.data.image_data import as_float
from training.ema import averaged
from training.fast_path import FastPath, measure
from training.recipes.checks import check_teacher_recipe
from training.recipes.options import override, to_json
from training.recipes.teacher import TEACHERS, TeacherRecipe
from training.teachers.denoiser import Denoiser, edm_loss, lognormal_sigma
from training.teachers.folder import build_unet, load_teacher, save_teacher
from training.teachers.preconditioning import EDM

console = Console(stderr=True)


class TeacherRun:
    """One run: networks, optimiser, random streams and how far it is. `step` is one optimiser step."""

    def __init__(self, recipe: TeacherRecipe, data: ImageData) -> None:
        torch.manual_seed(recipe.seed)
        channels, size, _ = data.input_shape
        unet = build_unet(
            image_channels=channels,
            size=size,
            patch=recipe.patch,
            channels=recipe.channels,
            layers=recipe.layers,
            norm_groups=recipe.norm_groups,
        )
        self.recipe, self.x = recipe, data.train_x
        self.denoiser = Denoiser(unet, EDM(), image_channels=channels)
        self.before = {"images": 0, "cpu_minutes": 0.0}
        if recipe.start is not None:
            self._begin_with(Path(recipe.start), channels)
        self.average: AveragedModel = averaged(self.denoiser, decay=recipe.ema)
        self.optimizer = torch.optim.AdamW(
            self.denoiser.parameters(), lr=recipe.rate, weight_decay=recipe.weight_decay, fused=True
        )
        self.rng = torch.Generator().manual_seed(recipe.seed)
        self.steps_done = 0
        self.cpu_seconds = 0.0

    def _begin_with(self, folder: Path, image_channels: int) -> None:
        earlier = load_teacher(folder, image_channels=image_channels)
        try:
            self.denoiser.unet.load_state_dict(earlier.unet.state_dict())
        except RuntimeError as error:
            raise BadRequest("start", given=str(folder), allowed="a teacher with this network") from error
        if not (folder / "training.json").is_file():
            raise BadRequest("start", given=str(folder), allowed="a teacher with its training.json")
        facts = json.loads((folder / "training.json").read_text())
        self.before = {"images": facts["images"], "cpu_minutes": facts["cpu_minutes"]}

    @property
    def steps(self) -> int:
        return math.ceil(self.recipe.images / self.recipe.batch)

    def loss(self, path: FastPath) -> torch.Tensor:
        """Return the mean loss of one random batch, images mirrored half of the time."""
        recipe = self.recipe
        picked = torch.randint(len(self.x), (recipe.batch,), generator=self.rng)
        clean = as_float(self.x[picked]).mul_(2).sub_(1)
        mirrored = torch.rand(recipe.batch, generator=self.rng) < 0.5
        clean = torch.where(mirrored[:, None, None, None], clean.flip(3), clean)
        sigma = lognormal_sigma(recipe.batch, mean=recipe.sigma_mean, std=recipe.sigma_std, rng=self.rng)
        noise = torch.randn(clean.shape, generator=self.rng)
        clean = clean.contiguous(memory_format=path.memory_format)
        with path.autocast():
            return edm_loss(self.denoiser, clean, sigma, noise).mean()

    def step(self, path: FastPath) -> float:
        """Take one optimiser step and return its loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate * min(1.0, (self.steps_done + 1) / self.recipe.warmup)
        loss = self.loss(path)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.denoiser.parameters(), self.recipe.clip)
        self.optimizer.step()
        self.average.update_parameters(self.denoiser)
        self.steps_done += 1
        return float(loss.detach())

    def quickest_path(self) -> tuple[FastPath, dict[str, float]]:
        """Measure this machine. Neither weights nor random streams are touched."""
        state = self.rng.get_state()

        def trial(path: FastPath) -> None:
            path.place(self.denoiser)
            self.optimizer.zero_grad(set_to_none=True)  # as a step does; the last trial's have its layout
            self.loss(path).backward()

        best, seconds = measure(trial)
        best.place(self.denoiser)
        self.optimizer.zero_grad(set_to_none=True)
        self.rng.set_state(state)
        return best, seconds

    def save(self, folder: Path) -> None:
        """Write the checkpoint, and the averaged network as a pipeline folder beside it."""
        save_checkpoint(
            folder / "checkpoint.safetensors",
            modules={"denoiser": self.denoiser, "average": self.average},
            optimizer=self.optimizer,
            generators={"train": self.rng},
            progress={
                "steps_done": self.steps_done,
                "cpu_seconds": round(self.cpu_seconds, 1),
                "before": self.before,
            },
        )
        average = self.average.module
        assert isinstance(average, Denoiser)
        save_teacher(average, folder / "teacher")
        facts = {
            "recipe": to_json(self.recipe),
            "images": self.before["images"] + self.steps_done * self.recipe.batch,
            "cpu_minutes": round(self.before["cpu_minutes"] + self.cpu_seconds / 60, 1),
        }
        (folder / "teacher" / "training.json").write_text(json.dumps(facts, indent=2) + "\n")

    def resume(self, folder: Path) -> bool:
        """Go on from the folder's checkpoint if there is one."""
        path = folder / "checkpoint.safetensors"
        if not path.exists():
            return False
        progress = load_checkpoint(
            path,
            modules={"denoiser": self.denoiser, "average": self.average},
            optimizer=self.optimizer,
            generators={"train": self.rng},
        )
        self.steps_done, self.cpu_seconds = progress["steps_done"], progress["cpu_seconds"]
        # Not from recipe.start again: this run may since have been published over that folder.
        self.before = progress.get("before", self.before)
        return True


def train_teacher(
    recipe: TeacherRecipe,
    data: ImageData,
    folder: Path,
    *,
    max_minutes: float | None = None,
    save_every: float = 300,
) -> Path:
    """Run (or go on with) a recipe in `folder` and return the teacher's pipeline folder.

    max_minutes: stop at a checkpoint after so long; save_every: seconds between checkpoints. Raises
    BadRequest for a recipe that cannot train on this data, and where `folder` holds a run of another
    recipe; `images` alone may be another than it began with, because the rate has no schedule.
    """
    check_teacher_recipe(recipe, data)
    claim(folder, recipe, may_differ=("images",))
    run = TeacherRun(recipe, data)
    if run.resume(folder):
        console.print(f"going on from step {run.steps_done:,} of {run.steps:,}")
    path, seconds = run.quickest_path()
    console.print(f"fast path: {path}; CPU s a step: {seconds}")
    started = saved = time.monotonic()
    losses: list[float] = []
    mark, mark_images = time.process_time(), run.steps_done
    while run.steps_done < run.steps:
        losses.append(run.step(path))
        now = time.monotonic()
        stop = max_minutes is not None and now - started > 60 * max_minutes
        if now - saved > save_every or stop or run.steps_done == run.steps:
            cpu = time.process_time() - mark
            run.cpu_seconds += cpu
            row = {
                "images": run.steps_done * recipe.batch,
                "loss": round(sum(losses) / len(losses), 5),
                "images_per_cpu_second": round((run.steps_done - mark_images) * recipe.batch / cpu, 1),
                "cpu_minutes": round(run.cpu_seconds / 60, 2),
            }
            with (folder / "metrics.jsonl").open("a") as log:
                log.write(json.dumps(row) + "\n")
            console.print(row)
            run.save(folder)
            losses.clear()
            saved, mark, mark_images = now, time.process_time(), run.steps_done
        if stop:
            console.print("stopped at a checkpoint; the same command goes on")
            break
    return folder / "teacher"


def main(
    context: typer.Context,
    recipe: Annotated[str, typer.Argument(help=f"One of {', '.join(TEACHERS)}.")],
    data: Annotated[str | None, typer.Option("--data", help="Data folder or Hub id.")] = None,
    runs: Annotated[Path, typer.Option(help="Where runs are kept.")] = Path("runs"),
    max_time: Annotated[
        float | None, typer.Option("--max-time", help="Minutes; stop at a checkpoint.")
    ] = None,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
) -> None:
    """Train the diffusion teacher RECIPE; any field of the recipe can follow as --field value."""
    try:
        if recipe not in TEACHERS:
            raise BadRequest("recipe", given=recipe, allowed=", ".join(TEACHERS))
        resolved = override(TEACHERS[recipe], context.args)
        torch.set_num_threads(threads)
        folder = runs / f"{resolved.name}-s{resolved.seed}"
        print(train_teacher(resolved, load_data(resolved.data, data), folder, max_minutes=max_time))
    except DraServeError as error:
        console.print(f"error: {error}", style="red", highlight=False)
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(main)
    app()
