"""What each field of a recipe may be, checked before any work: a run that cannot train is never begun."""

import dataclasses
from collections.abc import Mapping
from math import inf
from typing import Any, Literal, get_args, get_origin, get_type_hints

from dra_serve.attacks.norms import get_norm
from dra_serve.errors import BadRequest
from training.data import ImageData
from training.networks.preact_resnet import STEMS
from training.recipes.classifier import Recipe
from training.recipes.teacher import TeacherRecipe


@dataclasses.dataclass(frozen=True)
class Span:
    """The finite numbers from low to high; `above` leaves low out, `below` leaves high out."""

    low: float
    high: float = inf
    above: bool = False
    below: bool = False

    def holds(self, value: float) -> bool:
        over = self.low < value if self.above else self.low <= value
        under = value < self.high if self.below or self.high == inf else value <= self.high
        return over and under  # a nan is neither

    def __str__(self) -> str:
        low = f"{'above' if self.above else 'at least'} {self.low:g}"
        return low if self.high == inf else f"{low} and {'below' if self.below else 'at most'} {self.high:g}"


COUNT = Span(1)
SHARE = Span(0, 1, below=True)
SEED = Span(0, 2**31, below=True)  # a step's seed is (seed << 32) + step, and has to fit 64 bits

CLASSIFIER_SPANS = {
    "width": COUNT,
    "blocks": COUNT,
    "alpha": Span(0),
    "steps": Span(0),
    "beta": Span(0),
    "smoothing": SHARE,
    "lam": Span(0),
    "lam_end": Span(0),
    "teacher_sigma": Span(0, above=True),
    "teacher_grid": COUNT,
    "teacher_draws": COUNT,
    "projector": COUNT,
    "epochs": COUNT,
    "batch": COUNT,
    "rate": Span(0, above=True),
    "warmup": SHARE,
    "momentum": Span(0, 1, above=True, below=True),  # Nesterov's needs one
    "weight_decay": Span(0),
    "ema": SHARE,
    "padding": Span(0),
    "held_out": Span(0),
    "seed": SEED,
}

TEACHER_SPANS = {
    "patch": COUNT,
    "channels": COUNT,
    "layers": COUNT,
    "norm_groups": COUNT,
    "sigma_mean": Span(-20, 20),  # of ln sigma: past that, sigma^2 is nothing or everything in float32
    "sigma_std": Span(0, 20),
    "batch": COUNT,
    "rate": Span(0, above=True),
    "warmup": COUNT,
    "weight_decay": Span(0),
    "clip": Span(0, above=True),
    "ema": SHARE,
    "images": COUNT,
    "seed": SEED,
}


def check_recipe(recipe: Recipe, data: ImageData) -> None:
    """Raise BadRequest, naming the field, unless this run can take its steps on this data."""
    _check_fields(recipe, CLASSIFIER_SPANS)
    largest = get_norm(recipe.norm).largest(data.input_shape)
    _require("eps", recipe.eps, Span(0, largest))
    if recipe.lam and not recipe.teacher_blocks:
        raise BadRequest("teacher_blocks", given=(), allowed="at least one block, with lam above 0")
    _, height, width = data.input_shape
    fold = STEMS[recipe.stem]
    if height % fold or width % fold:
        raise BadRequest("stem", given=recipe.stem, allowed=f"plain, for images of {height} x {width}")
    images = len(data.train_y)
    _require("held_out", recipe.held_out, Span(0, images, below=True))
    kept = images - recipe.held_out
    if recipe.batch > kept:
        raise BadRequest(
            "batch",
            given=recipe.batch,
            allowed=f"at most {kept:,}: {images:,} training images without the {recipe.held_out:,} held out",
        )


def check_teacher_recipe(recipe: TeacherRecipe, data: ImageData) -> None:
    """Raise BadRequest, naming the field, unless this run can take its steps on this data."""
    _check_fields(recipe, TEACHER_SPANS)
    _, height, width = data.input_shape
    halvings = recipe.patch << (len(recipe.channels) - 1)
    if height % halvings or width % halvings:
        raise BadRequest(
            "channels",
            given=f"{len(recipe.channels)} resolutions and patch {recipe.patch}",
            allowed=f"as many as halve {height} x {width} without remainder",
        )
    if any(channels % recipe.norm_groups for channels in recipe.channels):
        raise BadRequest("channels", given=recipe.channels, allowed=f"multiples of {recipe.norm_groups}")


def _check_fields(recipe: Any, spans: Mapping[str, Span]) -> None:
    for field, hint in get_type_hints(type(recipe)).items():
        if get_origin(hint) is Literal and getattr(recipe, field) not in get_args(hint):
            raise BadRequest(field, given=getattr(recipe, field), allowed=", ".join(get_args(hint)))
    for field, span in spans.items():
        if (value := getattr(recipe, field)) is not None:
            _require(field, value, span)


def _require(field: str, value: Any, span: Span) -> None:
    """Raise BadRequest unless value, or each of its values and at least one, lies in the span."""
    values = value if isinstance(value, tuple) else (value,)
    if not values or not all(map(span.holds, values)):
        raise BadRequest(field, given=value, allowed=f"{'each ' if value is values else ''}{span}")
