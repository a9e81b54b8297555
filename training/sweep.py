"""Choose a recipe's fields on held-out images: `training/sweep.py RECIPE --try lam=0,1 --try view=adv,both`.

Every combination is trained briefly by the loop that trains the real thing, then attacked on training
images that no run has seen: the test images stay unread, so that they can still judge the final model.
"""

import json
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.table import Table

from dra_serve.attacks import pgd
from dra_serve.errors import BadRequest, DraServeError
from dra_serve.evaluation.statistics import paired_difference
from training.data import ImageData, load_data
from training.data.image_data import as_float
from training.loop import console, split, train
from training.networks import HubClassifier
from training.recipes.checks import check_recipe
from training.recipes.classifier import RECIPES, Recipe
from training.recipes.options import override
from training.torch_classifier import TorchClassifier, frozen

STEPS = 20  # of the PGD that scores
DRAWS_HELD_OUT = ("seed", "held_out")  # other images: no pairs


def combinations(recipe: Recipe, tries: list[str]) -> dict[str, Recipe]:
    """Return a recipe for each combination of the tried values, by a name such as "lam=1 view=adv".

    tries: "field=value,value". Raises BadRequest for one without values, for a field that changes which
    images are held out, and as `override` does.
    """
    axes = []
    for text in tries:
        field, _, values = text.partition("=")
        if not values:
            raise BadRequest("try", given=text, allowed="field=value,value")
        if field in DRAWS_HELD_OUT:
            raise BadRequest(
                "try", given=text, allowed=f"a sweep of its own for each --{field}: other images are held out"
            )
        axes.append([(field, value) for value in values.split(",")])
    found = {}
    for chosen in product(*axes):
        words = [part for field, value in chosen for part in (f"--{field}", value)]
        found[" ".join(f"{field}={value}" for field, value in chosen)] = override(recipe, words)
    return found


def score(recipe: Recipe, data: ImageData, model: Path) -> dict[str, np.ndarray]:
    """Return what the trained model in folder `model` gets right among its held-out images.

    clean, robust: bool (held_out,), in the order that the seed gives them; robust under PGD-20 at the
    recipe's norm and eps.
    """
    network = HubClassifier.from_pretrained(model).eval()
    classifier = TorchClassifier(network, data.classes, data.input_shape)
    held, _ = split(recipe, len(data.train_y))
    x, y = as_float(data.train_x[held]), data.train_y[held]
    with frozen(network):
        clean = classifier.logits(x).argmax(1) == y
        attacked = pgd(classifier, x, y, norm=recipe.norm, eps=recipe.eps, steps=STEPS, indices=held)
    return {"clean": clean.numpy(), "robust": ~attacked.success.numpy()}


def main(
    context: typer.Context,
    recipe: Annotated[str, typer.Argument(help=f"One of {', '.join(RECIPES)}.")],
    tries: Annotated[list[str], typer.Option("--try", help="field=value,value; several times: all pairs.")],
    data: Annotated[str | None, typer.Option("--data", help="Data folder or Hub id.")] = None,
    runs: Annotated[Path, typer.Option(help="Where runs are kept; done ones are not run again.")] = Path(
        "runs/sweep"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Train RECIPE with each combination and print held-out accuracies, paired with the first's."""
    try:
        if recipe not in RECIPES:
            raise BadRequest("recipe", given=recipe, allowed=", ".join(RECIPES))
        base = override(RECIPES[recipe], context.args)
        images = load_data(base.data, data)
        torch.set_num_threads(1)
        recipes = combinations(base, tries)
        for one in recipes.values():
            check_recipe(one, images)
        if base.held_out < 1:
            raise BadRequest("held_out", given=base.held_out, allowed="at least 1: they are the judges")
        outcomes: dict[str, dict[str, np.ndarray]] = {}
        for name, one in recipes.items():
            console.print(f"{name}: {len(outcomes) + 1} of {len(recipes)}", style="bold")
            model = train(one, images, runs / f"{name.replace(' ', '-')}-s{base.seed}")
            assert model is not None  # no time limit was set
            outcomes[name] = score(one, images, model)
            console.print(_line(name, _row(outcomes[name], next(iter(outcomes.values())))), highlight=False)
    except DraServeError as error:
        console.print(f"error: {error}", style="red", highlight=False)
        raise SystemExit(error.exit_code) from None
    first = next(iter(outcomes.values()))
    rows = {name: _row(one, first) for name, one in outcomes.items()}
    facts = {
        "recipe": recipe,
        "epochs": base.epochs,
        "held_out": base.held_out,
        "seed": base.seed,
        "steps": STEPS,
    }
    print(json.dumps(facts | {"rows": rows})) if as_json else _show(rows, facts)


def _row(outcome: dict[str, np.ndarray], first: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return accuracies and their paired differences to the first combination, as fractions."""
    row: dict[str, Any] = {}
    for what, right in outcome.items():
        difference, interval = paired_difference(right, first[what])
        row[what] = {"accuracy": float(right.mean()), "difference": difference, "interval": interval}
    return row


def _cell(part: dict[str, Any]) -> str:
    low, high = part["interval"]
    return f"{part['accuracy']:.1%} ({100 * part['difference']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}])"


def _line(name: str, row: dict[str, Any]) -> str:
    return f"{name}: " + ", ".join(f"{what} {_cell(part)}" for what, part in row.items())


def _show(rows: dict[str, dict[str, Any]], facts: dict[str, Any]) -> None:
    table = Table(
        title=f"{facts['recipe']}, {facts['epochs']} epochs, seed {facts['seed']};"
        f" {facts['held_out']:,} held-out training images"
    )
    for column in ("", "clean", f"PGD-{facts['steps']}"):
        table.add_column(column, no_wrap=True)
    for name, row in rows.items():
        table.add_row(name, *(_cell(part) for part in row.values()))
    console.print(table)


app = typer.Typer(add_completion=False)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(main)

if __name__ == "__main__":
    app()
