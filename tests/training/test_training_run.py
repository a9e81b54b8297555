"""One step after another: lam 0 is the base method, and DRA leaves everything else as it is."""

import pytest
import torch

from training.data.image_data import as_float
from training.loop import train
from training.recipes.teacher import TeacherRecipe
from training.run import Run
from training.teachers.features import CachedFeatures
from training.torch_classifier import TorchClassifier
from training.train_teacher import TeacherRun


def weights(run: Run) -> dict[str, torch.Tensor]:
    """Return the network's weights and buffers, and their average."""
    states = {"network": run.network.state_dict(), "average": run.average.state_dict()}
    return {f"{name}.{key}": value.clone() for name, state in states.items() for key, value in state.items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    assert a.keys() == b.keys()
    return all(torch.equal(a[key], b[key]) for key in a)


def test_lam_zero_is_the_base_method_bit_for_bit(make_run, features):
    base, zero = make_run(), make_run(features, lam=0.0)
    for _ in range(base.steps):
        base.step(), zero.step()
    assert base.steps_done == 8
    assert same(weights(base), weights(zero))


def test_dra_changes_neither_initial_weights_nor_data_order(make_run, features):
    base, dra = make_run(), make_run(features, lam=1.0)
    assert same(weights(base), weights(dra))
    for _ in range(base.steps):
        for ours, theirs in zip(base.batch(), dra.batch(), strict=True):
            assert torch.equal(ours, theirs)
        base.steps_done += 1
        dra.steps_done += 1


def test_dra_changes_the_first_step(make_run, features):
    base, dra = make_run(), make_run(features, lam=1.0)
    base.step(), dra.step()
    assert not same(weights(base), weights(dra))


def test_the_weight_of_the_term_falls_on_a_line_counted_in_steps(make_run, features):
    falling, constant = make_run(features, lam=1.0, lam_end=0.2), make_run(features, lam=1.0)
    seen = []
    for _ in range(falling.steps):
        seen.append((falling.lam(), constant.lam()))
        falling.step()
    assert [round(a, 6) for a, _ in seen] == [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3]
    assert falling.lam() == pytest.approx(0.2)
    assert {b for _, b in seen} == {1.0}


def test_a_weight_of_zero_leaves_the_base_methods_step(make_run, features):
    """At the end of a falling weight the network learns from the base objective alone."""
    base, fallen = make_run(), make_run(features, lam=1e-30, lam_end=0.0)
    base.step(), fallen.step()
    assert same(weights(base), weights(fallen))


def test_training_without_dra_asks_for_no_teacher(recipe, data, tmp_path):
    assert recipe.lam == 0
    assert train(recipe, data, tmp_path / "run") is not None
    assert not (tmp_path / "features").exists()


def test_dra_raises_the_cosine_to_the_teacher(make_run, features):
    run = make_run(features, lam=1.0, epochs=30)
    first = run.step()["dra"]
    while not run.finished():
        last = run.step()["dra"]
    assert last < first - 0.2


def test_permuted_targets_are_harder_to_align_with(make_run, features):
    """The term carries the image's own features: another image's are not as easily predicted."""
    derangement = torch.arange(features.z.shape[1]).roll(1)
    permuted = CachedFeatures(features.z[:, derangement], features.mean, features.std)
    ends = []
    for z in (features, permuted):
        run = make_run(z, lam=1.0, epochs=30, flip=False)
        rows = [run.step()["dra"] for _ in range(run.steps)]
        ends.append(sum(rows[-8:]) / 8)
    assert ends[0] < ends[1]


def test_optimiser_holds_student_and_projector_and_nothing_else(make_run, features):
    run = make_run(features, lam=1.0)
    held = {id(p) for group in run.optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in [*run.network.parameters(), *run.projector.parameters()]}


def test_weight_decay_leaves_norms_and_biases_alone(make_run):
    decayed, free = make_run(weight_decay=0.1).optimizer.param_groups
    assert decayed["weight_decay"] == 0.1
    assert free["weight_decay"] == 0
    assert all(p.ndim > 1 for p in decayed["params"])
    assert all(p.ndim == 1 for p in free["params"])


def test_rate_rises_to_its_peak_and_falls_to_nothing(make_run):
    run, rates = make_run(epochs=5, rate=0.2, warmup=0.25), []
    for _ in range(run.steps):
        rates.append(run.rate())
        run.steps_done += 1
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert max(rates) == 0.2
    assert rates[-1] < 0.2 * 2 / run.steps


def test_an_epoch_sees_each_kept_image_once_and_no_held_out_one(make_run):
    run, seen = make_run(), []
    for _ in range(run.steps_an_epoch):
        seen += run.batch()[2].tolist()
        run.steps_done += 1
    assert sorted(seen) == list(range(48))


def test_training_attack_stays_in_ball_and_box(make_run):
    for fields in ({"norm": "linf", "eps": 0.1}, {"norm": "l2", "eps": 0.5, "alpha": 0.3}):
        run = make_run(**fields)
        x, y, index, _ = run.batch()
        delta = run.attack(x, y, index) - x
        size = delta.abs().amax((1, 2, 3)) if run.recipe.norm == "linf" else delta.flatten(1).norm(dim=1)
        assert (size <= run.recipe.eps + 1e-6).all()
        assert (size > 0.5 * run.recipe.eps).all()
        assert (x + delta).min() >= 0
        assert (x + delta).max() <= 1


def test_training_attack_meets_the_network_in_eval_mode_and_leaves_it_training(make_run):
    run = make_run()
    run.network.train()
    before, modes = weights(run), []
    run.network.network.norm.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    x, y, index, _ = run.batch()
    run.attack(x, y, index)
    assert modes == [False] * run.recipe.steps
    assert same(before, weights(run))
    assert all(module.training for module in run.network.modules())
    assert all(p.requires_grad and p.grad is None for p in run.network.parameters())


def test_measuring_the_fast_path_leaves_the_run_as_it_was(make_run):
    measured, untouched = make_run(), make_run()
    measured.quickest_path()
    assert same(weights(measured), weights(untouched))
    measured.path = untouched.path
    measured.path.place(measured.network)
    measured.step(), untouched.step()
    assert same(weights(measured), weights(untouched))


@pytest.mark.filterwarnings("error")
def test_measuring_accumulates_no_gradient_of_another_layout(make_run, data):
    """torch says once a process that it "may impair performance"; here it says so every time."""
    teacher = TeacherRecipe(name="t", data="blobs", patch=2, channels=(8, 16), norm_groups=4, batch=8)
    always = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        make_run().quickest_path()
        TeacherRun(teacher, data).quickest_path()
    finally:
        torch.set_warn_always(always)


def test_training_learns_the_classes(make_run, data):
    run = make_run(epochs=25, eps=0.02, alpha=0.02)
    while not run.finished():
        run.step()
    model = TorchClassifier(run.average.module.eval(), data.classes, data.input_shape)
    hits = model.logits(as_float(data.test_x)).argmax(1) == data.test_y
    assert hits.float().mean() > 0.8


def test_average_is_the_weighted_mean_of_what_it_saw(make_run):
    """Decay warms up as (1 + n) / (10 + n); the first update copies the network."""
    run = make_run(ema=0.15)
    key = "network.head.weight"
    expected = None
    for n in range(4):
        run.step()
        now = run.network.state_dict()[key]
        decay = min(0.15, (1 + n) / (10 + n))
        expected = now.clone() if expected is None else decay * expected + (1 - decay) * now
    torch.testing.assert_close(run.average.module.state_dict()[key], expected)
