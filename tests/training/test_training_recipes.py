"""Recipes are data, overridden by field."""

import json
from dataclasses import asdict, replace

import pytest

from dra_serve.errors import BadRequest
from training.data import DATA
from training.recipes.classifier import RECIPES, Recipe
from training.recipes.options import override, to_json
from training.recipes.teacher import TEACHERS

BASE = Recipe(name="base", data="digits")


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        (["--epochs", "3"], "epochs", 3),
        (["--batch", "1_024"], "batch", 1024),
        (["--eps", "8/255"], "eps", 8 / 255),
        (["--eps=0.1"], "eps", 0.1),
        (["--lam", "1"], "lam", 1.0),
        (["--flip", "false"], "flip", False),
        (["--untrained-teacher", "True"], "untrained_teacher", True),
        (["--blocks", "2,2,2,2"], "blocks", (2, 2, 2, 2)),
        (["--teacher_blocks", "mid_block,up_blocks.0"], "teacher_blocks", ("mid_block", "up_blocks.0")),
        (["--norm", "l2"], "norm", "l2"),
        (["--view", "both"], "view", "both"),
        (["--twin", "other"], "twin", "other"),
        (["--twin", "none"], "twin", None),
        (["--teacher", "a/b"], "teacher", "a/b"),
    ],
)
def test_override_takes_the_type_of_the_field(words, field, value):
    changed = override(BASE, words)
    assert getattr(changed, field) == value
    assert type(getattr(changed, field)) is type(value)
    assert replace(changed, **{field: getattr(BASE, field)}) == BASE


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (["--epochs", "many"], "epochs"),
        (["--epochs", "1.5"], "epochs"),
        (["--eps", "8/0"], "eps"),
        (["--eps", "big"], "eps"),
        (["--flip", "perhaps"], "flip"),
        (["--blocks", "1,x"], "blocks"),
        (["--norm", "l7"], "norm"),
        (["--objective", "mart"], "objective"),
        (["--epochs"], "epochs"),
    ],
)
def test_bad_value_is_refused_by_field(words, field):
    with pytest.raises(BadRequest) as error:
        override(BASE, words)
    assert error.value.field == field


@pytest.mark.parametrize("words", [["--colour", "red"], ["epochs", "3"], ["--name", "mine"]])
def test_unknown_field_is_refused_with_the_list(words):
    with pytest.raises(BadRequest, match=f"{words[0]}.*--epochs"):
        override(BASE, words)


def test_several_overrides_and_none():
    assert override(BASE, []) == BASE
    both = override(BASE, ["--epochs", "3", "--rate=0.1"])
    assert both == replace(BASE, epochs=3, rate=0.1)


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if recipe.twin])
def test_twins_differ_in_the_dra_term_alone(name):
    dra = RECIPES[name]
    ours, theirs = asdict(dra), asdict(RECIPES[dra.twin])
    assert {key for key in ours if ours[key] != theirs[key]} == {"name", "lam", "twin"}
    assert ours["lam"] > 0
    assert theirs["lam"] == 0


@pytest.mark.parametrize("recipe", [*RECIPES.values(), *TEACHERS.values()], ids=lambda recipe: recipe.name)
def test_recipe_is_plain_json_and_names_its_data(recipe):
    assert recipe.data in DATA
    plain = to_json(recipe)
    assert json.loads(json.dumps(plain)) == plain
    assert plain.keys() == asdict(recipe).keys()


def test_registries_go_by_the_recipes_own_names():
    for registry in (RECIPES, TEACHERS):
        assert all(name == recipe.name for name, recipe in registry.items())
