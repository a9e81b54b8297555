"""The values in force: defaults, bounds, names in errors."""

import json

import pytest

from dra_serve.attacks import ATTACKS, attack, get_attack
from dra_serve.errors import BadRequest

SHAPE = (3, 32, 32)
resolve = ATTACKS["pgd"].resolve


def test_defaults_are_complete_and_printable():
    assert json.loads(json.dumps(resolve(SHAPE).as_dict())) == {
        "norm": "linf",
        "eps": 8 / 255,
        "alpha": 2.5 * (8 / 255) / 20,
        "steps": 20,
        "restarts": 1,
        "random_start": True,
        "loss": "ce",
        "seed": 0,
    }


def test_resolving_again_changes_nothing():
    once = resolve(SHAPE, norm="l2", eps="0.5", steps=7, restarts=3)
    assert resolve(SHAPE, **once.as_dict()) == once


@pytest.mark.parametrize(("steps", "alpha"), [(1, 0.1), (2, 0.1), (5, 0.05), (100, 0.0025)])
def test_the_default_step_is_two_and_a_half_crossings_at_most_the_radius(steps, alpha):
    assert resolve(SHAPE, eps=0.1, steps=steps).alpha == pytest.approx(alpha)


def test_fgsm_is_one_step_of_the_radius():
    p = ATTACKS["fgsm"].resolve(SHAPE, eps="8/255")
    assert (p.steps, p.alpha, p.random_start, p.restarts) == (1, 8 / 255, False, 1)


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("alpha", {"alpha": 0}),
        ("alpha", {"alpha": "-1/255"}),
        ("alpha", {"alpha": 2}),
        ("steps", {"steps": 0}),
        ("steps", {"steps": 10**9}),
        ("steps", {"steps": True}),
        ("steps", {"steps": 2.5}),
        ("steps", {"steps": "20"}),
        ("steps", {"steps": None}),
        ("restarts", {"restarts": 0}),
        ("restarts", {"restarts": 101}),
        ("restarts", {"restarts": 2, "random_start": False}),
        ("random_start", {"random_start": "yes"}),
        ("seed", {"seed": -1}),
        ("seed", {"seed": 2**63}),
        ("loss", {"loss": ["ce"]}),
        ("norm", {"norm": None}),
        ("queries", {"queries": 5000}),
    ],
)
def test_bad_values_are_refused_by_name(field, options):
    with pytest.raises(BadRequest) as error:
        ATTACKS["pgd"].resolve(SHAPE, **options)
    assert error.value.field == field


def test_fgsm_has_no_steps_to_choose():
    with pytest.raises(BadRequest, match="steps: got 5; allowed: nothing: fgsm takes norm, eps, loss"):
        ATTACKS["fgsm"].resolve(SHAPE, steps=5)


@pytest.mark.parametrize("name", ["deepfool", None, ["pgd"]])
def test_an_unknown_attack_names_the_known_ones(name):
    with pytest.raises(BadRequest, match="allowed: fgsm, pgd"):
        get_attack(name)
    with pytest.raises(BadRequest, match=r"^attack: "):
        attack(None, None, None, name)


@pytest.mark.parametrize("indices", [[-1, 0], [0.5, 1], [0, 1, 2], [0, 2**60]])
def test_bad_noise_ids_are_refused_by_name(backend, indices):
    x = backend.array(backend.images(2))
    with pytest.raises(BadRequest) as error:
        attack(backend.model, x, [0, 1], indices=indices)
    assert error.value.field == "indices"
