"""A sweep trains for real, scores on images that no run saw, and pairs the same images."""

import json

import pytest
import torch
from typer.testing import CliRunner

from dra_serve.errors import BadRequest
from training.loop import split
from training.recipes.classifier import RECIPES
from training.sweep import app, combinations


def test_every_combination_is_a_recipe_of_its_own():
    found = combinations(RECIPES["digits-dra"], ["lam=0,2", "view=adv,both"])
    assert list(found) == ["lam=0 view=adv", "lam=0 view=both", "lam=2 view=adv", "lam=2 view=both"]
    assert (found["lam=2 view=both"].lam, found["lam=2 view=both"].view) == (2.0, "both")


@pytest.mark.parametrize("tried", ["lam", "lam=", "seed=0,1", "held_out=5", "lan=1", "lam=much"])
def test_what_cannot_be_tried_is_refused(tried):
    with pytest.raises(BadRequest):
        combinations(RECIPES["digits-dra"], [tried])


def test_held_out_images_are_trained_on_by_nobody():
    held, kept = split(RECIPES["digits-dra"], 1000)
    assert len(held) == 200
    assert torch.equal(torch.cat([held, kept]).sort().values, torch.arange(1000))


def test_two_short_runs_are_compared_and_the_second_sweep_only_reads(tmp_path):
    words = ["digits-at", "--try", "width=4,8", "--epochs", "2", "--runs", str(tmp_path), "--json"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert list(found["rows"]) == ["width=4", "width=8"]
    assert found["held_out"] == 200
    first, second = found["rows"].values()
    assert first["clean"]["difference"] == 0
    for what in ("clean", "robust"):
        gained = second[what]["accuracy"] - first[what]["accuracy"]
        assert second[what]["difference"] == pytest.approx(gained)
    models = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("checkpoint.safetensors")}
    assert len(models) == 2
    assert json.loads(CliRunner().invoke(app, words).stdout) == found
    assert models == {path: path.stat().st_mtime_ns for path in models}
