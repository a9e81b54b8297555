"""The frozen teacher: what is tapped, what does not run, and when a cache is not believed."""

from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DModel
from torch.nn.functional import pixel_unshuffle

from dra_serve.errors import BadRequest
from training.data.image_data import as_float
from training.loop import teacher_features, train
from training.teachers.features import (
    FeatureChoice,
    activations,
    block_names,
    cache_features,
    keyed_noise,
    pooled,
)
from training.teachers.folder import load_teacher, teacher_sha256, untrained_like
from training.teachers.preconditioning import EDM
from training.tensor_file import write_tensors

BLOCKS = ("down_blocks.0", "down_blocks.1", "mid_block", "up_blocks.0", "up_blocks.1")
CHOICE = FeatureChoice(blocks=("up_blocks.0",), sigma=0.1, grid=1, draws=2)


@pytest.fixture
def batch(data):
    """Images x (8, 3, 8, 8) in [0, 1] and their noise."""
    return as_float(data.train_x[:8]), keyed_noise(torch.arange(8), (3, 8, 8), draw=0)


def calls_of(unet, names):
    """Count the calls of each named block from now on."""
    counts = dict.fromkeys(names, 0)

    def counter(name):
        def hook(*_):
            counts[name] += 1

        return hook

    for name in names:
        unet.get_submodule(name).register_forward_pre_hook(counter(name))
    return counts


def test_loaded_teacher_is_frozen(teacher_folder):
    teacher = load_teacher(teacher_folder)
    assert not any(module.training for module in teacher.modules())
    assert not any(p.requires_grad for p in teacher.parameters())


def test_training_leaves_the_teacher_as_it_was(recipe, data, teacher_folder, tmp_path):
    before = {f.name: f.read_bytes() for f in teacher_folder.rglob("*") if f.is_file()}
    weights = teacher_sha256(load_teacher(teacher_folder))
    assert train(replace(recipe, lam=1.0, teacher=str(teacher_folder)), data, tmp_path / "run") is not None
    assert {f.name: f.read_bytes() for f in teacher_folder.rglob("*") if f.is_file()} == before
    assert teacher_sha256(load_teacher(teacher_folder)) == weights


def test_caching_and_steps_leave_the_teacher_in_memory_as_it_was(make_teacher, make_run, data, tmp_path):
    teacher = make_teacher()
    before = teacher_sha256(teacher)
    path = tmp_path / "z.safetensors"
    cached = cache_features(teacher, data.train_x, CHOICE, path=path, data_sha256=data.sha256())
    run = make_run(cached, lam=1.0)
    for _ in range(3):
        run.step()
    assert teacher_sha256(teacher) == before
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    optimised = {p.data_ptr() for group in run.optimizer.param_groups for p in group["params"]}
    assert optimised.isdisjoint(p.data_ptr() for p in teacher.parameters())


def test_blocks_are_named_in_the_order_they_run(make_teacher):
    assert block_names(make_teacher().unet) == BLOCKS


@pytest.mark.parametrize("block", BLOCKS)
def test_truncated_pass_equals_the_whole_one_exactly(make_teacher, batch, block):
    x, noise = batch
    teacher, sigma = make_teacher(), 0.3
    seen = {}
    hook = teacher.unet.get_submodule(block).register_forward_hook(
        lambda _module, _inputs, output: seen.update(z=output[0] if isinstance(output, tuple) else output)
    )
    level = torch.full((8,), sigma)
    noisy = 2 * x - 1 + sigma * noise
    folded = pixel_unshuffle(noisy / (0.3**2 + 0.5**2) ** 0.5, 2)
    seen_by_hand = {}
    with torch.no_grad():
        teacher.unet(folded, 250 * level.log())
    if block != "down_blocks.0":  # the first block's output is written over by the skip connections
        seen_by_hand = {"z": seen["z"].clone()}
    hook.remove()
    short = activations(teacher, x, noise, sigma=sigma, blocks=(block,))[block]
    whole = activations(teacher, x, noise, sigma=sigma, blocks=(block,), truncate=False)[block]
    assert torch.equal(short, whole)
    for z in seen_by_hand.values():
        torch.testing.assert_close(short, z)


@pytest.mark.parametrize("last", BLOCKS)
def test_nothing_behind_the_last_chosen_block_runs(make_teacher, batch, last):
    teacher = make_teacher()
    counts = calls_of(teacher.unet, (*BLOCKS, "conv_out"))
    activations(teacher, *batch, sigma=0.1, blocks=(BLOCKS[0], last) if last != BLOCKS[0] else (last,))
    reached = BLOCKS[: BLOCKS.index(last) + 1]
    assert counts == {name: int(name in reached) for name in (*BLOCKS, "conv_out")}


def test_taps_are_gone_after_the_pass(make_teacher, batch):
    teacher = make_teacher()
    activations(teacher, *batch, sigma=0.1, blocks=("mid_block",))
    assert not any(module._forward_hooks for module in teacher.unet.modules())


def test_unknown_block_is_refused_with_the_list(make_teacher, batch):
    with pytest.raises(
        BadRequest, match=r"blocks: got 'up_blocks\.9'.*up_blocks\.1|blocks: got up_blocks\.9"
    ):
        activations(make_teacher(), *batch, sigma=0.1, blocks=("up_blocks.9",))


def test_noise_depends_on_image_and_draw_alone():
    many = keyed_noise(torch.arange(10), (3, 4, 4), draw=1)
    few = keyed_noise(torch.tensor([7, 2]), (3, 4, 4), draw=1)
    assert torch.equal(few, many[[7, 2]])
    assert not torch.equal(few[0], few[1])
    assert not torch.equal(many, keyed_noise(torch.arange(10), (3, 4, 4), draw=0))
    assert abs(many.mean()) < 0.2
    assert abs(many.std() - 1) < 0.2


def test_cached_features_equal_fresh_ones(make_teacher, data, features):
    """Kept as float16, so equal to its resolution; mirrored images have targets of their own."""
    teacher, index = make_teacher(), torch.tensor([9, 3, 60, 3])
    mirrored = torch.tensor([False, True, True, False])
    x = as_float(data.train_x[index])
    x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
    fresh = (pooled(teacher, x, index, CHOICE) - features.mean) / features.std
    torch.testing.assert_close(features.targets(index, mirrored), fresh, rtol=1e-3, atol=1e-3)
    assert not torch.equal(features.targets(index, mirrored)[1], features.targets(index, mirrored)[3])


def test_cached_features_are_centred_and_scaled(features):
    z = features.z.float().flatten(0, 1)
    torch.testing.assert_close(z.mean(0), torch.zeros(features.width), atol=1e-3, rtol=0)
    torch.testing.assert_close(z.std(0), torch.ones(features.width), atol=1e-2, rtol=0)


def test_draws_are_averaged(make_teacher, data):
    teacher, ids = make_teacher(), torch.arange(4)
    x = as_float(data.train_x[:4])
    singles = [
        activations(teacher, x, keyed_noise(ids, (3, 8, 8), draw=d), sigma=0.1, blocks=("mid_block",))
        for d in range(3)
    ]
    choice = FeatureChoice(blocks=("mid_block",), sigma=0.1, grid=1, draws=3)
    expected = torch.stack([s["mid_block"].mean((2, 3)) for s in singles]).mean(0)
    torch.testing.assert_close(pooled(teacher, x, ids, choice), expected)


def test_blocks_and_grid_cells_are_concatenated(make_teacher, data):
    choice = FeatureChoice(blocks=("mid_block", "up_blocks.1"), sigma=0.1, grid=2, draws=1)
    z = pooled(make_teacher(), as_float(data.train_x[:4]), torch.arange(4), choice)
    assert z.shape == (4, 4 * (16 + 8))


def test_cache_is_read_without_running_the_teacher(make_teacher, data, tmp_path):
    path, sha = tmp_path / "z.safetensors", data.sha256()
    first = cache_features(make_teacher(), data.train_x, CHOICE, path=path, data_sha256=sha)
    teacher = make_teacher()
    counts = calls_of(teacher.unet, ("conv_in",))
    again = cache_features(teacher, data.train_x, CHOICE, path=path, data_sha256=sha)
    assert counts["conv_in"] == 0
    assert torch.equal(first.z, again.z)


@pytest.mark.parametrize("changed", ["teacher", "preconditioning", "configuration", "choice", "data"])
def test_cache_of_anything_else_is_computed_anew(make_teacher, data, tmp_path, changed):
    path = tmp_path / "z.safetensors"
    first = cache_features(make_teacher(), data.train_x, CHOICE, path=path, data_sha256=data.sha256())
    other = replace(data, train_x=255 - data.train_x) if changed == "data" else data
    choice = replace(CHOICE, sigma=0.2) if changed == "choice" else CHOICE
    teacher = make_teacher(seed=int(changed == "teacher"))
    if changed == "preconditioning":
        teacher.preconditioning = EDM(sigma_data=0.4)
    if changed == "configuration":  # the same weights, another activation between them
        weights = teacher.unet.state_dict()
        config = {key: value for key, value in teacher.unet.config.items() if not key.startswith("_")}
        teacher.unet = UNet2DModel.from_config({**config, "act_fn": "gelu"})
        teacher.unet.load_state_dict(weights)
        teacher.eval().requires_grad_(False)
    counts = calls_of(teacher.unet, ("conv_in",))
    again = cache_features(teacher, other.train_x, choice, path=path, data_sha256=other.sha256())
    assert counts["conv_in"] > 0
    assert not torch.equal(first.z, again.z)


def test_cache_cut_short_is_computed_again_with_a_word(make_teacher, data, tmp_path, capsys):
    path, sha = tmp_path / "z.safetensors", data.sha256()
    first = cache_features(make_teacher(), data.train_x, CHOICE, path=path, data_sha256=sha)
    path.write_bytes(path.read_bytes()[:-10])
    capsys.readouterr()
    again = cache_features(make_teacher(), data.train_x, CHOICE, path=path, data_sha256=sha)
    assert torch.equal(first.z, again.z)
    assert "computing them again" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["z.safetensors"]


def test_writing_that_fails_leaves_the_old_cache(make_teacher, data, tmp_path):
    path, sha = tmp_path / "z.safetensors", data.sha256()
    cache_features(make_teacher(), data.train_x, CHOICE, path=path, data_sha256=sha)
    before = path.read_bytes()
    with pytest.raises(Exception, match=r"sparse|layout|storage"):
        write_tensors(path, {"z": torch.eye(3).to_sparse()})
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["z.safetensors"]


def test_untrained_control_is_the_same_network_with_other_weights(make_teacher):
    teacher = make_teacher()
    state = torch.random.get_rng_state()
    control = untrained_like(teacher, seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    shapes = {key: value.shape for key, value in teacher.state_dict().items()}
    assert {key: value.shape for key, value in control.state_dict().items()} == shapes
    assert teacher_sha256(control) != teacher_sha256(teacher)
    assert teacher_sha256(control) == teacher_sha256(untrained_like(teacher, seed=3))


def test_recipe_can_ask_for_the_untrained_control(recipe, data, teacher_folder, tmp_path):
    dra = replace(recipe, lam=1.0, teacher=str(teacher_folder), seed=5)  # the teacher is drawn with 0
    trained = teacher_features(dra, data, tmp_path)
    control = teacher_features(replace(dra, untrained_teacher=True), data, tmp_path)
    assert trained.z.shape == control.z.shape
    assert not torch.equal(trained.z, control.z)
