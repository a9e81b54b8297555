"""Auto-PGD: the schedule of the paper, the quirks of AutoAttack's code, and what a run may cost.

On the bundled pair the same starts give the same fallen images and losses as the original code, which is
not on any index: `benchmarks/attacks.py` compares with it where a checkout is on the path.
"""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from dra_serve.attacks import ATTACKS
from dra_serve.attacks.apgd import apgd_ce, apgd_dlr, sphere_start
from dra_serve.attacks.apgd_schedule import Schedule, checkpoints
from dra_serve.attacks.apgd_targeted import apgd_t
from dra_serve.attacks.norms import NORMS
from dra_serve.attacks.targets import likeliest_targets
from dra_serve.errors import BadRequest

SHAPE = (3, 4, 4)
PIXELS = int(np.prod(SHAPE))


def grey(n):
    return np.full((n, *SHAPE), 0.5, np.float32)


def unbeatable(linear, classes=3):
    """Return a model that says 0 of every image within reach, with a slope all the same."""
    W = np.random.default_rng(0).standard_normal((classes, PIXELS)).astype(np.float32) / PIXELS
    return linear(W, np.array([20, *range(classes - 1)], np.float32), SHAPE)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (100, (22, 41, 57, 70, 80, 87, 93, 99)),  # the paper's
        (50, (11, 21, 30, 38, 45)),
        (10, (2, 3, 4, 5, 6, 7, 8, 9)),
        (1, ()),
    ],
)
def test_checkpoints(steps, expected):
    assert checkpoints(steps) == expected


def run_schedule(losses, size=1.0):
    """Return the schedule of one image after these losses, its start's first, and the best of them."""
    schedule = Schedule.begin(np.array(losses[:1], np.float32), size)
    for loss in losses[1:]:
        schedule = schedule.observe(np.array([loss], np.float32))
    return schedule, np.array([max(losses)], np.float32)


@pytest.mark.parametrize(("rises", "size"), [(3, 0.5), (4, 1.0)])
def test_halves_unless_more_than_three_quarters_of_the_steps_rose(rises, size):
    losses = [1.0] + [2.0 + k for k in range(rises)] + [1.5 - k for k in range(4 - rises)]
    schedule, best = run_schedule(losses)
    assert schedule.check(best, 4).size == size


def test_the_first_window_compares_with_zero_as_the_original_does():
    assert run_schedule([5.0, 1.0])[0].rises == 1  # below the start, above 0
    assert run_schedule([-5.0, -1.0])[0].rises == 0  # above the start, below 0: dlr


def test_a_best_loss_that_stands_still_halves_but_not_twice_in_a_row():
    rising = [1.0, 2.0, 3.0, 4.0, 5.0]
    schedule, _ = run_schedule(rising)
    stuck = np.array([5.0], np.float32)
    first = schedule.check(np.array([9.0], np.float32), 4)
    assert first.size == 1
    for loss in (1.0, 2.0, 3.0, 4.0, 5.0):  # rises all the way, and never beats the best
        first = first.observe(np.array([loss], np.float32))
    second = first.check(np.array([9.0], np.float32), 4)
    assert second.size == 0.5
    for loss in (6.0, 7.0, 8.0, 9.0):
        second = second.observe(np.array([loss], np.float32))
    assert second.check(np.array([9.0], np.float32), 4).size == 0.5
    assert schedule.check(stuck, 4).size == 1  # at the first checkpoint the rule is off


def test_halving_goes_on_from_the_best_point_with_its_gradient(scripted):
    """Ten steps look back after the second: the loss rose once in two, which is too seldom."""
    rng, eps = np.random.default_rng(5), 0.1
    grads = [rng.standard_normal((1, 2, 3)) for _ in range(10)]
    model = scripted([5, 9, 1, 0, 0, 0, 0, 0, 0, 0], grads)
    x = np.full((1, 1, 2, 3), 0.5, np.float32)
    apgd_ce(model, x, [0], eps=eps, steps=10)

    def inside(a):
        return np.clip(a, 0.5 - eps, 0.5 + eps)

    start, one, two, three = model.asked[:4]
    assert_allclose(one, inside(start + 2 * eps * np.sign(grads[0])), atol=1e-6)  # the first step is plain
    z = inside(one + 2 * eps * np.sign(grads[1]))
    assert_allclose(two, inside(one + 0.75 * (z - one) + 0.25 * (one - start)), atol=1e-6)
    z = inside(one + eps * np.sign(grads[1]))  # back at the best, half as far
    assert_allclose(three, inside(one + 0.75 * (z - one)), atol=1e-6)  # it had stood there a step before


@pytest.mark.parametrize("norm", NORMS)
def test_starts_on_the_sphere(norm):
    x, p = grey(4), ATTACKS["apgd-ce"].resolve(SHAPE, norm=norm, eps=0.2)
    starts = [sphere_start(p, np.arange(4), run)(x, np.arange(4)) for run in (0, 1)]
    for start in starts:
        assert_allclose(NORMS[norm].size(start - x), 0.2, rtol=1e-5)
    assert np.abs(starts[0] - starts[1]).max() > 0.01
    assert np.abs(starts[0][0] - starts[0][1]).max() > 0.01


@pytest.mark.parametrize("attack", [apgd_ce, apgd_dlr])
def test_an_image_that_withstands_costs_its_steps_and_two_forwards(attack, linear):
    model = unbeatable(linear)
    result = attack(model, grey(3), [0, 0, 0], steps=12, restarts=2)
    assert model.gradients == [3] * 24
    assert model.forwards == [3, 3, 3]  # the clean images, and the last iterate of each restart
    assert result.steps_done.tolist() == [24, 24, 24]
    assert result.complete


def test_finished_images_leave_the_batch(linear):
    w = np.zeros((2, PIXELS), np.float32)
    w[1] = 1
    model = linear(w, np.array([0, -PIXELS / 2 - 0.25 * PIXELS * 0.05], np.float32), SHAPE)
    x = np.concatenate([grey(1), grey(1) - 0.4, grey(1)])  # near, far, near
    result = apgd_ce(model, x, [0, 0, 0], eps=0.05, steps=10)
    assert result.success.tolist() == [True, False, True]
    assert model.gradients[-1] == 1
    assert result.steps_done[1] == 10
    assert result.steps_done[0] < 5


def test_the_scale_of_the_logits_stops_cross_entropy_but_not_dlr(linear):
    W = np.random.default_rng(0).standard_normal((4, PIXELS)).astype(np.float32)
    model = linear(1e4 * W, -1e4 * W.sum(axis=1) / 2, SHAPE)
    x = 0.5 + 0.1 * np.random.default_rng(1).uniform(-1, 1, (20, *SHAPE)).astype(np.float32)
    y = model.logits(x).argmax(axis=1)
    options = {"eps": 0.01, "steps": 20}
    fooled = {
        name: ATTACKS[name](model, x, y, **options).success for name in ("apgd-ce", "apgd-dlr", "apgd-t")
    }
    within_reach = [
        any((z[k] - z[c]) < 0.01 * 1e4 * np.abs(W[k] - W[c]).sum() - 1 for c in range(4) if c != k)
        for z, k in zip(model.logits(x), y, strict=True)
    ]
    assert 0 < sum(within_reach) < 20
    assert fooled["apgd-t"].tolist() == within_reach
    assert fooled["apgd-ce"].sum() < fooled["apgd-dlr"].sum() <= sum(within_reach)


def test_targets_are_tried_in_the_order_of_the_clean_logits():
    logits = np.array([[1, 4, 3, 2], [4, 2, 2, 9]], np.float32)
    y = np.array([1, 0])
    assert likeliest_targets(logits, y, 9).tolist() == [[2, 3, 0], [3, 1, 2]]
    assert likeliest_targets(logits, y, 2).tolist() == [[2, 3], [3, 1]]


def test_the_next_target_is_tried_when_the_likeliest_is_out_of_reach(linear):
    W = np.zeros((4, PIXELS), np.float32)
    W[2] = 1  # class 1 is the likeliest after 0 and goes nowhere; class 2 climbs; class 3 is far away
    reach = 0.1 * PIXELS
    model = linear(W, np.array([0, -0.5, -PIXELS / 2 - 0.9 * reach, -50], np.float32), SHAPE)
    result = apgd_t(model, grey(1), [0], eps=0.1, steps=10)
    assert result.success.tolist() == [True]
    assert 10 <= result.steps_done[0] < 20
    alone = apgd_t(model, grey(1), [0], eps=0.1, steps=10, targets=1)
    assert alone.success.tolist() == [False]
    assert alone.steps_done.tolist() == [10]


def test_any_class_but_the_label_ends_the_targeted_attack(linear):
    W = np.zeros((3, PIXELS), np.float32)
    W[1], W[2] = 1, 2  # on the way to class 1, class 2 overtakes
    model = linear(W, -W.sum(axis=1) / 2 + np.array([0.5, 0.2, -0.5], np.float32), SHAPE)
    result = apgd_t(model, grey(1), [0], eps=0.1, steps=10)
    assert result.success.tolist() == [True]
    assert result.steps_done[0] < 10


@pytest.mark.parametrize(("classes", "tried"), [(2, 1), (3, 2), (4, 3), (12, 9)])
def test_fewer_classes_mean_fewer_targets(classes, tried, linear):
    model, reports = unbeatable(linear, classes), []
    result = apgd_t(model, grey(2), [0, 0], steps=5, restarts=2, on_step=reports.append)
    assert result.steps_done.tolist() == [tried * 2 * 5] * 2
    assert result.complete
    assert reports[-1].step == reports[-1].steps == tried * 2 * 5
    assert model.gradients == [2] * (tried * 2 * 5)


@pytest.mark.parametrize(
    ("attack", "field", "value"),
    [
        ("apgd-ce", "steps", 0),
        ("apgd-ce", "steps", 2.5),
        ("apgd-dlr", "restarts", 0),
        ("apgd-t", "targets", 0),
        ("apgd-t", "targets", True),
        ("apgd-t", "eps", "8"),
    ],
)
def test_bad_values_are_refused_by_name(attack, field, value, linear):
    with pytest.raises(BadRequest) as error:
        ATTACKS[attack](unbeatable(linear), grey(1), [0], **{field: value})
    assert error.value.field == field


def test_options_of_other_attacks_are_refused():
    for option in ("loss", "alpha", "random_start"):
        with pytest.raises(BadRequest, match=f"{option}: got"):
            ATTACKS["apgd-ce"].resolve(SHAPE, **{option: 1})
