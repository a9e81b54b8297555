"""Suites and curves: each attack sees what the ones before left, and accuracy never rises with eps."""

from functools import wraps

import numpy as np
import pytest

from dra_serve.attacks import ATTACKS, Attack, AttackResult, pgd
from dra_serve.errors import BadRequest, NoGradient
from dra_serve.evaluation import SUITES, evaluate, make_plan
from dra_serve.evaluation.plan import parse_radii
from dra_serve.evaluation.receipt import build_receipt
from dra_serve.evaluation.suites import Stage
from dra_serve.loading import load

BUDGETS = {  # of AutoAttack's standard version, as its authors' code has them
    "apgd-ce": {"steps": 100, "restarts": 1},
    "apgd-t": {"steps": 100, "restarts": 1, "targets": 9},
    "fab-t": {"steps": 100, "restarts": 1, "targets": 9},
    "square": {"queries": 5000, "restarts": 1},
}


def in_force(suite, **options):
    return {run.name: run.parameters.as_dict() for run in make_plan((3, 8, 8), suite=suite, **options).runs}


def test_standard_has_autoattacks_attacks_and_budgets() -> None:
    runs = in_force("standard", norm="l2", eps=0.5, seed=7)
    assert list(runs) == list(BUDGETS)
    for name, budget in BUDGETS.items():
        values = runs[name]
        assert {key: values.get(key, 1) for key in budget} == budget
        assert (values["norm"], values["eps"], values.get("seed", 7)) == ("l2", 0.5, 7)
    assert list(in_force("fast")) == ["apgd-ce", "apgd-t"]
    assert [runs["steps"] for runs in in_force("quick").values()] == [20]


@pytest.mark.parametrize("suite", SUITES)
def test_a_suite_runs_from_its_name(model, images, suite) -> None:
    outcomes = evaluate(model, images, suite=suite, eps=0.02)
    assert outcomes.complete
    assert len(outcomes.after) == len(SUITES[suite])
    before = outcomes.clean
    for after in outcomes.after:
        assert not (after & ~before).any()
        before = after
    assert 0 <= outcomes.robust.sum() < outcomes.clean.sum()
    assert not (outcomes.robust_8bit & ~outcomes.clean).any()


@pytest.fixture
def asked(monkeypatch) -> list[list[int]]:
    """Two attacks in a suite called `two`, of which each flips a few images; return whom they saw."""
    seen: list[list[int]] = []

    def flip(ids_to_flip):
        @wraps(pgd)  # its options too
        def attack(model, x, y, *, norm, eps, seed=0, indices):
            seen.append(sorted(int(i) for i in indices))
            strong = pgd(model, x, y, norm=norm, eps=eps, steps=20)
            chosen = np.isin(indices, ids_to_flip)
            x_adv = np.where(chosen[:, None, None, None], strong.x_adv, x)
            return AttackResult(
                x_adv=x_adv, success=chosen, loss=strong.loss, steps_done=strong.steps_done, complete=True
            )

        return attack

    parameters = ATTACKS["pgd"].parameters
    monkeypatch.setitem(ATTACKS, "first", Attack("first", flip([7, 9]), parameters))
    monkeypatch.setitem(ATTACKS, "second", Attack("second", flip([8, 9]), parameters))
    monkeypatch.setitem(SUITES, "two", (Stage("first"), Stage("second")))
    return seen


def test_each_attack_sees_the_survivors_alone(model, images, asked) -> None:
    outcomes = evaluate(model, images, suite="two", eps=0.5)
    everyone = list(np.flatnonzero(outcomes.clean))
    assert asked == [everyone, [i for i in everyone if i not in (7, 9)]]
    assert np.flatnonzero(outcomes.clean & ~outcomes.after[0]).tolist() == [7, 9]
    assert np.flatnonzero(outcomes.after[0] & ~outcomes.after[1]).tolist() == [8]


def test_an_image_right_again_on_file_is_attacked_further(model, images, monkeypatch) -> None:
    """A perturbation below half a level fools the model, and rounding to 8 bits takes it away."""
    outcomes = evaluate(model, images, eps=(0.4 / 255, 8 / 255), steps=20)
    fell_early = outcomes.clean & ~outcomes.after[0]
    assert fell_early.any()
    assert not (outcomes.robust_8bit & fell_early).any()  # its rounding at 8/255 fools the model


def test_a_curve_never_rises_and_shares_its_points_with_single_runs(model, images) -> None:
    radii = [0.001, 0.002, 0.004, 0.03]
    curve = evaluate(model, images, eps=radii, steps=5)
    counts = [int(after.sum()) for after in curve.after]
    assert counts == sorted(counts, reverse=True)
    assert len(set(counts)) > 2
    alone = [evaluate(model, images, eps=eps, steps=5).robust for eps in radii]
    carried = np.logical_and.accumulate(np.stack(alone))
    assert np.array_equal(curve.after, carried)


def test_radii_as_people_write_them() -> None:
    assert parse_radii("8/255, 2/255,4/255") == [2 / 255, 4 / 255, 8 / 255]
    assert parse_radii(0.5) == parse_radii([0.5]) == parse_radii("0.5") == [0.5]
    for wrong in ("", "8/255,", "1/255,nan", [None], [0.1, 0.1], list(np.linspace(0, 1, 33))):
        with pytest.raises(BadRequest, match="eps: "):
            parse_radii(wrong)


def test_without_gradients_square_stands_in_and_that_is_said(tiny_onnx_folder, images) -> None:
    blind = load(tiny_onnx_folder("blind", gradient=False))
    plan = make_plan(blind.input_shape, suite="fast", has_gradient=blind.has_gradient, eps=0.05)
    assert [run.name for run in plan.runs] == ["square"]
    assert plan.runs[0].parameters.as_dict()["queries"] == 5000
    outcomes = evaluate(blind, images, suite="fast", eps=0.05)
    assert outcomes.clean.sum() - outcomes.robust.sum() > 0
    receipt = build_receipt(
        outcomes, images, plan, model="blind", model_sha256=blind.sha256, classes=blind.classes, subset_seed=0
    )
    assert receipt["suite"] is None
    assert receipt["warnings"][0].startswith("no-gradient: the model has no gradients, so the black-box")
    with pytest.raises(NoGradient, match="pgd needs gradients and the model has none"):
        evaluate(blind, images, attack="pgd")
