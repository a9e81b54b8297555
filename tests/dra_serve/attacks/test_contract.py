"""What every attack promises, over the registry x the norms x the classifiers."""

import time
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from dra_serve.attacks import ATTACKS, AttackResult
from dra_serve.attacks.norms import NORMS
from dra_serve.classifier import LOSSES
from dra_serve.errors import BadRequest, NoGradient

SLACK = 1e-6  # float32 puts x + 8/255 a rounding beside the ball
RADII = {"linf": 0.01, "l2": 0.1}  # fools about 30 of the 40 images below
SHORT = {"fab-t": {"steps": 20}, "square": {"queries": 300}, "fmn": {"steps": 30}}  # a promise costs no more


@pytest.fixture(params=ATTACKS)
def attack(request: pytest.FixtureRequest) -> Any:
    chosen = ATTACKS[request.param]
    return replace(chosen, run=partial(chosen.run, **SHORT.get(chosen.name, {})))


@pytest.fixture(params=NORMS)
def norm(request: pytest.FixtureRequest) -> str:
    return request.param


def arrays(result: AttackResult) -> tuple[np.ndarray, ...]:
    return tuple(np.asarray(a) for a in (result.x_adv, result.success, result.loss, result.steps_done))


def run(attack: Any, backend: Any, x: np.ndarray, y: Any, **options: Any) -> tuple[np.ndarray, ...]:
    return arrays(attack(backend.model, backend.array(x), backend.array(y), **options))


def only_if(attack: Any, option: str) -> None:
    """Skip what an attack does not offer: apgd-ce has its loss in its name, apgd-t picks its own targets."""
    if option not in attack.options and not (option == "target" and attack.takes_target):
        pytest.skip(f"{attack.name} takes no {option}")


def taken(attack: Any, **options: Any) -> dict[str, Any]:
    """Return the options that the attack takes."""
    has = {*attack.options, *(("target",) if attack.takes_target else ())}
    return {name: value for name, value in options.items() if name in has}


@pytest.mark.parametrize("loss", LOSSES)
def test_stays_in_the_ball_and_in_the_box(backend, attack, norm, loss):
    if loss != "ce":
        only_if(attack, "loss")
    x = backend.images(12)
    x[0], x[1] = 0, 1  # the corners of the box
    y = backend.labels(x)
    x_adv, success, value, _ = run(
        attack, backend, x, y, norm=norm, eps=RADII[norm], **taken(attack, loss=loss, target=(y + 1) % 5)
    )
    assert NORMS[norm].size(x_adv - x).max() <= RADII[norm] + SLACK
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    assert x_adv.shape == x.shape
    assert x_adv.dtype == np.float32
    assert success.shape == value.shape == (12,)


def test_leaves_the_image_alone(backend, attack, norm):
    x = backend.array(backend.images(4))  # read-only where NumPy allows it
    before = np.asarray(x).copy()
    result = attack(backend.model, x, backend.array(backend.labels(before)), norm=norm, eps=RADII[norm])
    np.testing.assert_array_equal(np.asarray(x), before)
    assert not np.shares_memory(np.asarray(result.x_adv), np.asarray(x))


def test_success_is_what_the_model_says_of_the_result(backend, attack, norm):
    x = backend.images(40)
    y = backend.labels(x)
    x_adv, success, _, _ = run(attack, backend, x, y, norm=norm, eps=RADII[norm])
    assert 0 < success.sum() < 40  # or the test would say little
    np.testing.assert_array_equal(success, backend.labels(x_adv) != y)


def test_targeted_success_is_the_target(backend, attack, norm):
    only_if(attack, "target")
    x = backend.images(40)
    y = backend.labels(x)
    target = (y + 1) % 5
    x_adv, success, _, _ = run(attack, backend, x, y, norm=norm, eps=2 * RADII[norm], target=target)
    assert success.any()
    np.testing.assert_array_equal(success, backend.labels(x_adv) == target)


def test_same_seed_same_answer_whatever_the_batch(backend, attack, norm):
    x = backend.images(7)
    y = backend.labels(x)
    order = np.array([3, 0, 6, 1, 5, 2, 4])
    whole = run(attack, backend, x, y, norm=norm, eps=RADII[norm], **seeded(attack, np.arange(7)))
    for size in (1, 3, 7):
        parts = [order[i : i + size] for i in range(0, 7, size)]
        answers = [
            run(attack, backend, x[p], y[p], norm=norm, eps=RADII[norm], **seeded(attack, p)) for p in parts
        ]
        for k, (one, many) in enumerate(
            zip(whole, map(np.concatenate, zip(*answers, strict=True)), strict=True)
        ):
            tolerance = 1e-4 if k in (0, 2) else 0  # BLAS sums a batch of 1 in another order
            np.testing.assert_allclose(one[order], many, rtol=tolerance, atol=tolerance)


def seeded(attack: Any, indices: np.ndarray) -> dict[str, Any]:
    return {"seed": 3, "indices": indices} if "seed" in attack.options else {}  # fgsm draws nothing


@pytest.mark.parametrize("n", [0, 1])
def test_few_images(backend, attack, norm, n):
    x = backend.images(n)
    x_adv, success, loss, steps_done = run(attack, backend, x, backend.labels(x), norm=norm)
    assert x_adv.shape == x.shape
    assert success.shape == loss.shape == steps_done.shape == (n,)


def test_misclassified_images_are_successes_as_they_are(backend, attack, norm):
    x = backend.images(6)
    y = (backend.labels(x) + 1) % 5
    x_adv, success, _, steps_done = run(attack, backend, x, y, norm=norm)
    assert success.all()
    np.testing.assert_array_equal(x_adv, x)
    np.testing.assert_array_equal(steps_done, 0)


def test_radius_zero_is_the_clean_image(backend, attack, norm):
    x = backend.images(6)
    y = backend.labels(x)
    y[2] = (y[2] + 1) % 5
    x_adv, success, _, _ = run(attack, backend, x, y, norm=norm, eps=0)
    np.testing.assert_array_equal(x_adv, x)
    np.testing.assert_array_equal(success, np.arange(6) == 2)


def test_a_passed_deadline_returns_what_there_is(backend, attack):
    x = backend.images(6)
    y = backend.labels(x)
    result = attack(backend.model, backend.array(x), backend.array(y), deadline=time.monotonic() - 1)
    assert not result.complete
    np.testing.assert_array_equal(np.asarray(result.x_adv), x)
    np.testing.assert_array_equal(np.asarray(result.steps_done), 0)


def test_reports_agree_with_the_result(backend, attack):
    x = backend.images(20)
    y = backend.labels(x)
    reports = []
    result = attack(
        backend.model, backend.array(x), backend.array(y), eps=RADII["linf"], on_step=reports.append
    )
    assert [report.step for report in reports] == list(range(1, len(reports) + 1))
    x_adv, success, loss, _ = arrays(result)
    last = reports[-1]
    np.testing.assert_array_equal(np.asarray(last.success), success)
    np.testing.assert_array_equal(np.asarray(last.x_adv)[success], x_adv[success])
    np.testing.assert_array_equal(np.asarray(last.logits).argmax(axis=1) != y, success)
    assert (np.asarray(last.loss)[~success] <= loss[~success] + SLACK).all()


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("eps", {"eps": -0.1}),
        ("eps", {"eps": float("nan")}),
        ("eps", {"eps": float("inf")}),
        ("eps", {"eps": True}),
        ("eps", {"eps": 8}),
        ("eps", {"eps": 14, "norm": "l2"}),  # sqrt(3 * 8 * 8) is 13.9
        ("eps", {"eps": "8/0"}),
        ("eps", {"eps": "much"}),
        ("norm", {"norm": "l1"}),
        ("loss", {"loss": "hinge"}),
        ("target", {"loss": "dlr_targeted"}),
        ("target", {"target": np.array([0, 5])}),
        ("target", {"target": np.array([0.0, 1.0])}),
    ],
)
def test_bad_options_are_refused_by_name(backend, attack, field, options):
    for option in options:
        only_if(attack, option)
    x = backend.images(2)
    with pytest.raises(BadRequest) as error:
        attack(backend.model, backend.array(x), backend.array(backend.labels(x)), **options)
    assert error.value.field == field
    assert error.value.detail.startswith(f"{field}: got ")


@pytest.mark.parametrize(
    ("field", "x", "y"),
    [
        ("x", np.zeros((2, 3, 8, 8)), [0, 1]),
        ("x", np.zeros((2, 3, 8, 9), np.float32), [0, 1]),
        ("x", np.zeros((3, 8, 8), np.float32), [0]),
        ("x", np.full((2, 3, 8, 8), np.nan, np.float32), [0, 1]),
        ("x", np.full((2, 3, 8, 8), 255, np.float32), [0, 1]),
        ("x", np.full((2, 3, 8, 8), -0.01, np.float32), [0, 1]),
        ("y", np.zeros((2, 3, 8, 8), np.float32), [0, 5]),
        ("y", np.zeros((2, 3, 8, 8), np.float32), [-1, 0]),
        ("y", np.zeros((2, 3, 8, 8), np.float32), [0, 1, 2]),
        ("y", np.zeros((2, 3, 8, 8), np.float32), [0.0, 1.0]),
        ("y", np.zeros((2, 3, 8, 8), np.float32), [True, False]),
    ],
)
def test_bad_images_and_labels_are_refused_by_name(backend, attack, field, x, y):
    with pytest.raises(BadRequest) as error:
        attack(backend.model, backend.array(x), backend.array(np.array(y)))
    assert error.value.field == field


def test_dlr_targeted_wants_another_class_than_the_label(backend, attack):
    only_if(attack, "loss")
    x = backend.images(2)
    y = backend.array(backend.labels(x))
    with pytest.raises(BadRequest, match="target: got the label itself"):
        attack(backend.model, backend.array(x), y, loss="dlr_targeted", target=y)


def test_a_model_without_gradients_says_so(tiny_onnx_folder, attack):
    if not attack.needs_gradient:
        pytest.skip(f"{attack.name} needs no gradient")
    from dra_serve.model_folder import read_folder

    model = read_folder(tiny_onnx_folder(gradient=False)).classifier()
    x = np.full((1, 3, 8, 8), 0.5, np.float32)
    with pytest.raises(NoGradient):
        attack(model, x, model.logits(x).argmax(axis=1))
