"""The state of one classifier run, and one step of it."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from training.data import ImageData
from training.data.augment import crop_and_flip
from training.data.image_data import as_float
from training.ema import averaged
from training.fast_path import FastPath, measure
from training.networks import HubClassifier
from training.objectives.base import OBJECTIVES
from training.objectives.dra import build_projector, dra_term
from training.objectives.inner import inner_attack
from training.objectives.views import Views
from training.recipes.classifier import Recipe
from training.teachers.features import CachedFeatures
from training.torch_classifier import TorchClassifier, frozen


class Run:
    """Network, average, optimiser, random streams and progress of a recipe.

    kept: (N,) indices of the training images that are not held out. features: the teacher's, of all
    training images; None without DRA. Without it nothing of DRA exists and no random number is drawn
    for it, so `lam=0` is the base method bit for bit.
    """

    def __init__(
        self, recipe: Recipe, data: ImageData, kept: Tensor, features: CachedFeatures | None
    ) -> None:
        torch.manual_seed(recipe.seed)
        mean, std = data.channel_statistics()
        self.config: dict[str, Any] = {
            "network": {
                "name": "preact_resnet",
                "arguments": {
                    "width": recipe.width,
                    "blocks": list(recipe.blocks),
                    "stem": recipe.stem,
                    "activation": recipe.activation,
                },
            },
            "normalisation": {"mean": list(mean), "std": list(std)},
            "classes": list(data.classes),
            "input_shape": list(data.input_shape),
        }
        self.recipe, self.data, self.kept, self.features = recipe, data, kept, features
        self.network = HubClassifier(**self.config)
        self.average: AveragedModel = averaged(self.network, decay=recipe.ema)
        self.projector = (
            None
            if features is None
            else build_projector(
                self.network.feature_width, recipe.projector, features.width, seed=recipe.seed + 1
            )
        )
        self.optimizer = torch.optim.SGD(
            self._groups(), lr=recipe.rate, momentum=recipe.momentum, nesterov=True
        )
        self.rng = torch.Generator().manual_seed(recipe.seed)
        self.path = FastPath()
        self.steps_done = 0
        self.order = torch.empty(0, dtype=torch.int64)

    @property
    def steps_an_epoch(self) -> int:
        return len(self.kept) // self.recipe.batch

    @property
    def steps(self) -> int:
        return self.recipe.epochs * self.steps_an_epoch

    def modules(self) -> dict[str, nn.Module]:
        """Return what a checkpoint holds."""
        modules: dict[str, nn.Module] = {"network": self.network, "average": self.average}
        return modules if self.projector is None else modules | {"projector": self.projector}

    def _groups(self) -> list[dict[str, object]]:
        """Return parameter groups: weight decay on matrices and kernels, none on norms and biases."""
        modules = [self.network] if self.projector is None else [self.network, self.projector]
        parameters = [p for module in modules for p in module.parameters()]
        return [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self.recipe.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]

    def rate(self) -> float:
        """Return this step's learning rate: linear up to the peak, linear down to zero, counted in steps."""
        done, peak = self.steps_done / self.steps, self.recipe.warmup
        return self.recipe.rate * min(
            (self.steps_done + 1) / (peak * self.steps) if peak else 1.0, (1 - done) / (1 - peak)
        )

    def lam(self) -> float:
        """Return this step's weight of the DRA term: on a line from `lam` to `lam_end`, counted in steps."""
        first, last = self.recipe.lam, self.recipe.lam_end
        return first if last is None else first + (last - first) * self.steps_done / self.steps

    def batch(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the next x (N, C, H, W), y (N,), image indices (N,) and flips (N,) of this epoch's order."""
        position = self.steps_done % self.steps_an_epoch
        if position == 0:
            # All draws of an epoch follow from the seed and its first step: a resumed run repeats them.
            self.rng.manual_seed((self.recipe.seed << 32) + self.steps_done)
            self.order = self.kept[torch.randperm(len(self.kept), generator=self.rng)]
        index = self.order[position * self.recipe.batch : (position + 1) * self.recipe.batch]
        x, flipped = crop_and_flip(
            self.data.train_x[index], padding=self.recipe.padding, flip=self.recipe.flip, rng=self.rng
        )
        x = as_float(x).contiguous(memory_format=self.path.memory_format)
        return x, self.data.train_y[index], index, flipped

    def attack(self, x: Tensor, y: Tensor, index: Tensor) -> Tensor:
        """Return x_adv of a batch, the network frozen and in eval mode meanwhile."""
        model = TorchClassifier(self.network, self.data.classes, self.data.input_shape, path=self.path)
        with frozen(self.network):
            return inner_attack(model, x, y, index, recipe=self.recipe, step=self.steps_done)

    def loss(
        self, x: Tensor, x_adv: Tensor, y: Tensor, index: Tensor, flipped: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return what is minimised, and its parts and hits for the log."""
        recipe = self.recipe
        views = Views(self.network, x, x_adv, self.path)
        base = OBJECTIVES[recipe.objective](views, y, recipe.smoothing, recipe.beta)
        parts = {"base": base.detach(), "adv_hits": (views.adv[0].detach().argmax(1) == y).sum()}
        if self.features is None or self.projector is None:
            return base, parts
        term = dra_term(views, self.features.targets(index, flipped), self.projector, recipe.view)
        return base + self.lam() * term, parts | {"dra": term.detach()}

    def step(self) -> dict[str, float]:
        """Take one optimiser step and return its parts: base loss, DRA term, x_adv answered right."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        x, y, index, flipped = self.batch()
        self.network.train()
        x_adv = self.attack(x, y, index)
        loss, parts = self.loss(x, x_adv, y, index, flipped)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.average.update_parameters(self.network)
        self.steps_done += 1
        return {name: float(value) for name, value in parts.items()}

    def quickest_path(self) -> dict[str, float]:
        """Measure this machine, take its quickest path and return CPU seconds a step of each.

        Weights, statistics and random streams are as before.
        """
        before = {key: value.clone() for key, value in self.network.state_dict().items()}
        n = min(self.recipe.batch, len(self.kept))
        index = self.kept[:n]
        x, y = as_float(self.data.train_x[index]), self.data.train_y[index]

        def trial(path: FastPath) -> None:
            self.path = path
            path.place(self.network)
            self.optimizer.zero_grad(set_to_none=True)  # as a step does; the last trial's have its layout
            self.network.train()
            batch = x.contiguous(memory_format=path.memory_format)
            flipped = torch.zeros(n, dtype=torch.bool)
            self.loss(batch, self.attack(batch, y, index), y, index, flipped)[0].backward()

        self.path, seconds = measure(trial)
        self.network.load_state_dict(before)
        self.path.place(self.network)
        self.optimizer.zero_grad(set_to_none=True)
        return seconds

    def finished(self) -> bool:
        return self.steps_done >= self.steps

    def epoch(self) -> int:
        return math.ceil(self.steps_done / self.steps_an_epoch)
