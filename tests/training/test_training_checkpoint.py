"""A run that is stopped again and again is the run that never was; another recipe's run is refused."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from dra_serve.errors import BadRequest, UserError
from dra_serve.model_config import ModelConfig
from training.checkpoint import load_checkpoint, save_checkpoint
from training.fast_path import FastPath
from training.loop import train
from training.recipes.teacher import TeacherRecipe
from training.teachers.folder import load_teacher
from training.train_teacher import TeacherRun, train_teacher

PATH = FastPath()


@pytest.mark.parametrize("objective", ["at", "trades"])
def test_stopped_run_ends_with_the_same_weights(recipe, data, teacher_folder, tmp_path, objective):
    recipe = replace(recipe, lam=1.0, teacher=str(teacher_folder), objective=objective)
    whole = train(recipe, data, tmp_path / "whole", path=PATH)
    sittings, model = 0, None
    while model is None:  # no time at all is one step a sitting
        model = train(recipe, data, tmp_path / "pieces", path=PATH, max_minutes=0)
        sittings += 1
    assert sittings > 2
    for name in ("checkpoint.safetensors", "model/model.safetensors"):
        a, b = (load_file(tmp_path / run / name) for run in ("whole", "pieces"))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)
    assert whole is not None


def test_model_folder_carries_no_projector_and_names_its_recipe(recipe, data, teacher_folder, tmp_path):
    recipe = replace(recipe, lam=1.0, teacher=str(teacher_folder), twin="tiny-at", eps=8 / 255)
    folder = train(recipe, data, tmp_path / "run", path=PATH)
    assert not [key for key in load_file(folder / "model.safetensors") if "projector" in key]
    config = ModelConfig.model_validate_json((folder / "config.json").read_bytes())
    assert (config.name, config.twin, config.threat.eps) == ("tiny", "tiny-at", "8/255")
    assert config.recipe["lam"] == 1.0
    assert config.data.images == len(data.train_y) - recipe.held_out


def test_each_epoch_is_a_row(recipe, data, tmp_path):
    train(recipe, data, tmp_path / "run", path=PATH)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert all(0 <= row["held_out_robust"] <= row["held_out_clean"] <= 1 for row in rows)


@pytest.mark.parametrize(("field", "value"), [("eps", 0.05), ("blocks", (1,)), ("objective", "trades")])
def test_run_of_another_recipe_is_refused_by_field(recipe, data, tmp_path, field, value):
    assert train(recipe, data, tmp_path / "run", path=PATH, max_minutes=0) is None
    with pytest.raises(BadRequest) as error:
        train(replace(recipe, **{field: value}), data, tmp_path / "run", path=PATH)
    assert error.value.field == field


TEACHER = TeacherRecipe(
    name="t", data="blobs", patch=2, channels=(8, 16), norm_groups=4, batch=8, images=48, warmup=2
)


@pytest.mark.parametrize(("field", "value"), [("rate", 0.01), ("channels", (8, 8)), ("sigma_mean", 0.0)])
def test_teacher_of_another_recipe_is_refused_by_field(data, tmp_path, field, value):
    train_teacher(TEACHER, data, tmp_path / "run")
    before = {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()}
    with pytest.raises(BadRequest) as error:
        train_teacher(replace(TEACHER, **{field: value}), data, tmp_path / "run")
    assert error.value.field == field
    assert {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()} == before


def test_longer_run_of_the_same_teacher_goes_on(data, tmp_path):
    train_teacher(TEACHER, data, tmp_path / "run")
    folder = train_teacher(replace(TEACHER, images=96), data, tmp_path / "run")
    assert json.loads((folder / "training.json").read_text())["images"] == 96
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["images"] for row in rows] == [48, 96]
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["images"] == 96


def test_checkpoint_of_another_network_is_refused(make_run, tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    run, other = make_run(), make_run(width=8)
    run.step()
    save_checkpoint(
        path, modules=run.modules(), optimizer=run.optimizer, generators={"data": run.rng}, progress={}
    )
    with pytest.raises(UserError, match="another network"):
        load_checkpoint(
            path, modules=other.modules(), optimizer=other.optimizer, generators={"data": other.rng}
        )


def test_checkpoint_replaces_the_old_one_in_one_move(make_run, tmp_path):
    path, run = tmp_path / "checkpoint.safetensors", make_run()
    for count in (1, 2):
        run.step()
        save_checkpoint(
            path,
            modules=run.modules(),
            optimizer=run.optimizer,
            generators={"data": run.rng},
            progress={"count": count},
        )
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.safetensors"]
    fresh = make_run()
    progress = load_checkpoint(
        path, modules=fresh.modules(), optimizer=fresh.optimizer, generators={"data": fresh.rng}
    )
    assert progress == {"count": 2}


def test_resumed_teacher_takes_the_same_steps(data, tmp_path):
    recipe = TEACHER
    whole = TeacherRun(recipe, data)
    for _ in range(6):
        whole.step(PATH)
    first = TeacherRun(recipe, data)
    for _ in range(3):
        first.step(PATH)
    first.save(tmp_path)
    second = TeacherRun(recipe, data)
    assert second.resume(tmp_path)
    assert second.steps_done == 3
    for _ in range(3):
        second.step(PATH)
    for ours, theirs in ((whole.denoiser, second.denoiser), (whole.average, second.average)):
        a, b = ours.state_dict(), theirs.state_dict()
        assert all(torch.equal(a[key], b[key]) for key in a)


def test_a_teacher_begun_with_another_counts_its_images_once(data, tmp_path):
    first = train_teacher(TEACHER, data, tmp_path / "first")
    seen = json.loads((first / "training.json").read_text())["images"]
    begun = replace(TEACHER, start=str(first), images=32)
    second = train_teacher(begun, data, tmp_path / "second")
    assert json.loads((second / "training.json").read_text())["images"] == seen + 32
    (first / "training.json").write_text((second / "training.json").read_text())  # published over it
    train_teacher(replace(begun, images=64), data, tmp_path / "second")
    assert json.loads((second / "training.json").read_text())["images"] == seen + 64


def test_a_teacher_begins_with_the_weights_it_is_given(data, tmp_path):
    first = train_teacher(TEACHER, data, tmp_path / "first")
    run = TeacherRun(replace(TEACHER, start=str(first), seed=TEACHER.seed + 1), data)
    given = load_teacher(first, image_channels=data.input_shape[0]).unet.state_dict()
    assert all(torch.equal(value, given[name]) for name, value in run.denoiser.unet.state_dict().items())
