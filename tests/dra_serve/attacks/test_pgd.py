"""What PGD spends, reports and keeps; and the bare loop that training runs."""

import itertools
import time

import numpy as np
import pytest

from dra_serve.attacks import perturb, pgd, random_start
from dra_serve.attacks.norms import NORMS
from dra_serve.errors import BadRequest, NoGradient

EPS = {"linf": 0.01, "l2": 0.1}


@pytest.fixture
def model(linear):
    """Five classes on 3 x 8 x 8, undecided on grey."""
    W = (np.random.default_rng(1).standard_normal((5, 192)) / 5).astype(np.float32)
    return linear(W, -W.sum(axis=1) / 2, (3, 8, 8))


@pytest.fixture
def x():
    return np.random.default_rng(0).uniform(0.2, 0.8, (40, 3, 8, 8)).astype(np.float32)


@pytest.fixture
def y(model, x):
    labels = model.logits(x).argmax(axis=1)
    model.forwards.clear()
    return labels


@pytest.mark.parametrize("steps", [0, 1, 7])
def test_perturb_makes_exactly_its_gradient_calls(model, x, y, steps):
    perturb(model, x, y, eps=0.01, alpha=0.003, steps=steps)
    assert model.gradients == [40] * steps
    assert model.forwards == []


@pytest.mark.parametrize("norm", NORMS)
def test_perturb_is_the_loop_of_the_paper(model, x, y, norm):
    ball, eps, alpha = NORMS[norm], EPS[norm], EPS[norm] / 3
    expected = start = random_start(x, norm=norm, eps=eps, seed=5)
    for _ in range(4):
        grad = model.loss_and_grad(expected, y)[2]
        expected = np.clip(x + ball.project(expected + alpha * ball.ascent(grad) - x, eps), 0, 1)
    x_adv = perturb(model, x, y, norm=norm, eps=eps, alpha=alpha, steps=4, start=start)
    np.testing.assert_array_equal(x_adv, expected)


def test_perturb_without_steps_returns_its_start(model, x, y):
    start = random_start(x, eps=0.01, seed=0)
    np.testing.assert_array_equal(perturb(model, x, y, eps=0.01, alpha=1, steps=0, start=start), start)
    np.testing.assert_array_equal(perturb(model, x, y, eps=0.01, alpha=1, steps=0), x)


def test_perturb_refuses_a_bad_image_start_or_label_before_any_step(model, x, y):
    for field, arguments in {
        "x": {"x": x + 1, "y": y},
        "x ": {"x": x, "y": y, "start": x + 1},
        "y": {"x": x, "y": y + 5},
        "target": {"x": x, "y": y, "target": y - 5},
    }.items():
        with pytest.raises(BadRequest) as refused:
            perturb(model, eps=0.01, alpha=0.003, steps=3, **arguments)
        assert refused.value.field == field.strip()
    assert model.gradients == []


@pytest.mark.parametrize("norm", NORMS)
def test_random_starts_differ_by_image_seed_and_restart_alone(x, norm):
    def draw(**options):
        return random_start(x[:3], norm=norm, eps=EPS[norm], **{"seed": 0, **options}) - x[:3]

    draws = [draw(), draw(seed=1), draw(restart=1)]
    for a, b in itertools.combinations(np.concatenate(draws), 2):
        assert not np.allclose(a, b)
    np.testing.assert_array_equal(draw(indices=[2, 1, 0])[1], draws[0][1])
    assert (NORMS[norm].size(draws[0]) <= EPS[norm] + 1e-6).all()


def test_no_call_is_wasted_on_finished_images(model, x, y):
    result = pgd(model, x, y, eps=0.01, steps=5)
    assert model.forwards == [40, (~result.success).sum() + (result.steps_done == 5)[result.success].sum()]
    still_open = [int((result.steps_done >= k).sum()) for k in range(5)]
    assert model.gradients == still_open
    assert still_open[-1] < 40


def test_misclassified_images_cost_one_forward(model, x, y):
    pgd(model, x, (y + 1) % 5)
    assert model.forwards == [40]
    assert model.gradients == []


def test_restarts_take_the_survivors_only(model, x, y):
    one = pgd(model, x, y, eps=0.004, steps=3)
    survivors = int((~one.success).sum())
    model.gradients.clear()
    three = pgd(model, x, y, eps=0.004, steps=3, restarts=3)
    assert model.gradients[3] == survivors
    assert (three.success >= one.success).all()
    np.testing.assert_array_equal(three.x_adv[one.success], one.x_adv[one.success])
    assert (three.loss[~one.success] >= one.loss[~one.success]).all()
    np.testing.assert_array_equal(three.steps_done[~three.success], 9)


def test_failing_images_come_back_at_their_highest_loss(model, x, y):
    reports = []
    result = pgd(model, x, y, eps=0.004, steps=8, alpha=0.004, on_step=reports.append)
    failing = ~result.success
    assert failing.any()
    highest = np.max([report.loss for report in reports], axis=0)
    assert (result.loss[failing] >= highest[failing]).all()
    loss_there = model.loss_and_grad(result.x_adv, y)[1]
    np.testing.assert_allclose(result.loss, loss_there, rtol=1e-4, atol=1e-6)


def test_going_on_after_success_keeps_the_strongest_success(model, x, y):
    first = pgd(model, x, y, eps=0.01, steps=5)
    strongest = pgd(model, x, y, eps=0.01, steps=5, stop_on_success=False)
    np.testing.assert_array_equal(first.success, strongest.success)
    assert (strongest.loss[first.success] >= first.loss[first.success] - 1e-6).all()
    assert strongest.loss.sum() > first.loss.sum()
    np.testing.assert_array_equal(strongest.steps_done, 5)
    assert strongest.complete


def test_reports_cover_all_images_in_order(model, x, y):
    reports = []
    pgd(model, x, y, eps=0.01, steps=3, restarts=2, on_step=reports.append)
    assert [report.step for report in reports] == [1, 2, 3, 4, 5, 6]
    assert {report.steps for report in reports} == {6}
    for report in reports:
        np.testing.assert_allclose(report.logits, model.logits(report.x_adv), rtol=1e-4, atol=1e-5)
    for before, after in itertools.pairwise(reports):  # who is finished stays where it finished
        np.testing.assert_array_equal(after.x_adv[before.success], before.x_adv[before.success])


def test_reports_are_copies(model, x, y):
    def vandal(report):
        for array in (report.x_adv, report.logits, report.loss, report.success):
            array[...] = 0

    quiet = pgd(model, x, y, eps=0.004, steps=4)
    watched = pgd(model, x, y, eps=0.004, steps=4, on_step=vandal)
    np.testing.assert_array_equal(watched.x_adv, quiet.x_adv)
    np.testing.assert_array_equal(watched.success, quiet.success)


def test_a_watcher_can_stop_it(model, x, y):
    result = pgd(model, x, y, eps=0.004, steps=10, on_step=lambda report: report.step < 2)
    assert not result.complete
    assert result.steps_done.max() == 2
    assert result.success.any()


def test_stopping_after_the_last_step_is_complete(model, x, y):
    assert pgd(model, x, y, eps=0.004, steps=2, on_step=lambda report: report.step < 2).complete


def test_a_deadline_on_the_way_keeps_the_best_so_far(model, x, y):
    def slow(report):
        time.sleep(0.02)

    deadline = time.monotonic() + 0.1
    result = pgd(model, x, y, eps=0.004, alpha=0.004, steps=10_000, deadline=deadline, on_step=slow)
    assert not result.complete
    assert 0 < result.steps_done.max() < 100
    assert result.success.any()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_broken_gradient_is_an_error_not_robustness(model, x, y, value, monkeypatch):
    def broken(*arguments):
        logits, loss, grad = type(model).loss_and_grad(model, *arguments)
        grad[3, 0, 0, 0] = value
        return logits, loss, grad

    monkeypatch.setattr(model, "loss_and_grad", broken)
    with pytest.raises(NoGradient, match="not finite"):
        pgd(model, x, y, eps=0.004)
    with pytest.raises(NoGradient, match="not finite"):
        perturb(model, x, y, eps=0.004, alpha=0.001, steps=1)


def test_training_on_torch_meets_the_same_error():
    """torch's sign makes a nan 0: unasked, the image would stand still and count as attacked."""
    torch = pytest.importorskip("torch")
    from training.torch_classifier import TorchClassifier

    class Broken(torch.nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :2].log()  # of 0, an infinite slope

    x = torch.zeros(2, 1, 2, 2)
    with pytest.raises(NoGradient, match="not finite"):
        perturb(TorchClassifier(Broken(), ("a", "b"), (1, 2, 2)), x, [0, 1], eps=0.1, alpha=0.1, steps=1)


def test_a_smaller_ball_fools_fewer(model, x, y):
    fooled = [pgd(model, x, y, eps=eps).success.sum() for eps in (0, 0.002, 0.005, 0.01, 0.05)]
    assert fooled == sorted(fooled)
    assert fooled[0] == 0
    assert fooled[-1] == 40
