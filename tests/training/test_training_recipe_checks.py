"""A run that could not train is refused before any work, by the field at fault."""

import runpy
import sys
from dataclasses import fields, replace
from math import inf, nan
from pathlib import Path

import pytest

from dra_serve.errors import BadRequest
from training.data import load_data
from training.loop import train
from training.recipes.checks import (
    CLASSIFIER_SPANS,
    TEACHER_SPANS,
    Span,
    check_recipe,
    check_teacher_recipe,
)
from training.recipes.classifier import RECIPES, Recipe
from training.recipes.teacher import TEACHERS, TeacherRecipe
from training.train_teacher import train_teacher

ROOT = Path(__file__).parents[2]
TEACHER = TeacherRecipe(name="t", data="blobs", patch=2, channels=(8, 16), norm_groups=4, batch=8, images=48)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("batch", 0),
        ("batch", 49),  # 64 images, 16 of them held out
        ("held_out", 64),
        ("held_out", 1000),
        ("held_out", -1),
        ("warmup", 1.0),
        ("warmup", -0.1),
        ("eps", -0.1),
        ("eps", 1.1),
        ("eps", nan),
        ("alpha", -0.1),
        ("alpha", inf),
        ("steps", -1),
        ("lam", -1.0),
        ("lam", nan),
        ("beta", -1.0),
        ("smoothing", 1.0),
        ("width", 0),
        ("blocks", ()),
        ("blocks", (1, 0)),
        ("stem", "deep"),
        ("activation", "tanh"),
        ("norm", "l1"),
        ("objective", "mart"),
        ("view", "none"),
        ("teacher_sigma", 0.0),
        ("teacher_grid", 0),
        ("teacher_draws", 0),
        ("projector", 0),
        ("rate", 0.0),
        ("momentum", 0.0),  # torch: Nesterov momentum requires a momentum
        ("momentum", 1.0),
        ("weight_decay", -1.0),
        ("ema", 1.0),
        ("padding", -1),
        ("seed", -1),
        ("seed", 2**31),
    ],
)
def test_recipe_that_cannot_train_is_refused_before_any_work(recipe, data, tmp_path, field, value):
    with pytest.raises(BadRequest) as error:
        train(replace(recipe, **{field: value}), data, tmp_path / "run")
    assert error.value.field == field
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("images", 0),
        ("batch", 0),
        ("warmup", 0),
        ("patch", 0),
        ("patch", 3),
        ("channels", ()),
        ("channels", (8, 18)),
        ("channels", (8, 8, 8, 8)),
        ("layers", 0),
        ("norm_groups", 0),
        ("sigma_mean", nan),
        ("sigma_std", -1.0),
        ("rate", 0.0),
        ("weight_decay", -1.0),
        ("clip", 0.0),
        ("ema", 1.0),
        ("seed", -1),
    ],
)
def test_teacher_that_cannot_train_is_refused_before_any_work(data, tmp_path, field, value):
    with pytest.raises(BadRequest) as error:
        train_teacher(replace(TEACHER, **{field: value}), data, tmp_path / "run")
    assert error.value.field in {field, "channels"}
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "fields",
    [
        {"held_out": 0, "batch": 64},
        {"batch": 48},
        {"batch": 1, "epochs": 1},
        {"warmup": 0.0},
        {"eps": 0.0, "alpha": 0.0, "steps": 0},
        {"smoothing": 0.0, "weight_decay": 0.0, "ema": 0.0, "padding": 0},
        {"seed": 2**31 - 1},
        {"norm": "l2", "eps": 13.8},
    ],
    ids=str,
)
def test_the_edges_of_what_is_allowed_train(recipe, data, tmp_path, fields):
    assert train(replace(recipe, **fields), data, tmp_path / "run") is not None


def test_a_stem_that_folds_needs_even_sides(recipe, data):
    odd = replace(data, train_x=data.train_x[..., :7], test_x=data.test_x[..., :7])
    with pytest.raises(BadRequest, match="stem: got space_to_depth; allowed: plain, for images of 8 x 7"):
        check_recipe(recipe, odd)
    check_recipe(replace(recipe, stem="plain"), odd)


def test_dra_needs_a_block(recipe, data):
    with pytest.raises(BadRequest, match="teacher_blocks"):
        check_recipe(replace(recipe, lam=1.0, teacher_blocks=()), data)
    check_recipe(replace(recipe, teacher_blocks=()), data)


def test_every_number_of_a_recipe_is_checked(recipe):
    for kind, spans in ((Recipe, CLASSIFIER_SPANS), (TeacherRecipe, TEACHER_SPANS)):
        types = {int, float, tuple[int, ...], float | None}
        numbers = {f.name for f in fields(kind) if f.type in types}
        assert numbers - {"eps"} == spans.keys()


def test_our_own_recipes_pass():
    digits = load_data("digits")
    for recipe in RECIPES.values():
        check_recipe(replace(recipe, held_out=min(recipe.held_out, 200)), digits)
    check_teacher_recipe(TEACHERS["digits-teacher"], digits)


@pytest.mark.parametrize(
    ("span", "text", "inside", "outside"),
    [
        (Span(1), "at least 1", (1, 1e9), (0.99, inf, nan)),
        (Span(0, 1, below=True), "at least 0 and below 1", (0, 0.999), (-0.1, 1, nan)),
        (Span(0, above=True), "above 0", (1e-9,), (0, inf)),
        (Span(0, 1), "at least 0 and at most 1", (0, 1), (1.01,)),
    ],
)
def test_a_span_says_what_it_holds(span, text, inside, outside):
    assert str(span) == text
    assert all(map(span.holds, inside))
    assert not any(map(span.holds, outside))


def test_the_command_refuses_before_it_trains_a_teacher(tmp_path, monkeypatch, capsys):
    command = ["train.py", "digits-dra", "--batch", "1500", "--runs", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "training" / "train.py"), run_name="__main__")
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: batch: got 1500; allowed: at most 1,200: 1,400 training images")
    assert list(tmp_path.iterdir()) == []
