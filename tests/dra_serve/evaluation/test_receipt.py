"""Receipts hold what makes their figures, and an edited one is none."""

import json

import numpy as np
import pytest

from dra_serve.attacks import ATTACKS
from dra_serve.errors import UserError
from dra_serve.evaluation import Outcomes, build_receipt, evaluate, paired_difference, read_receipts, wilson
from dra_serve.evaluation.bits import pack, unpack

OPTIONS = {"eps": "8/255", "steps": 3, "seed": 3}


@pytest.fixture
def receipt(model, images):
    return build_receipt(
        evaluate(model, images, **OPTIONS),
        images,
        model="tiny",
        model_sha256=model.sha256,
        gradient_sha256=model.gradient_sha256,
        attack="pgd",
        parameters=ATTACKS["pgd"].resolve(model.input_shape, **OPTIONS).as_dict(),
        subset_seed=0,
    )


def test_a_receipt_says_what_its_figures_rest_on(receipt, model, images) -> None:
    assert set(receipt) == {
        "schema_version",
        "model",
        "model_sha256",
        "gradient_sha256",
        "data",
        "n",
        "images",
        "attack",
        "norm",
        "eps",
        "seed",
        "clean_accuracy",
        "robust_accuracy",
        "robust_accuracy_8bit",
        "wilson_95",
        "outcomes",
        "packages",
        "commit",
        "hardware",
        "seconds",
        "warnings",
    }
    assert receipt["data"]["sha256"] == images.sha256
    assert receipt["attack"] == {
        "name": "pgd",
        "alpha": 2.5 * 8 / 255 / 3,
        "steps": 3,
        "restarts": 1,
        "random_start": True,
        "loss": "ce",
    }
    assert (receipt["norm"], receipt["eps"], receipt["seed"]) == ("linf", 8 / 255, 3)
    assert {"python", "dra-serve", "numpy", "onnxruntime"} <= set(receipt["packages"])
    assert "cores" in receipt["hardware"]
    assert receipt["warnings"][0].startswith("few-images: 40 images")


def test_a_receipt_survives_its_file(receipt, tmp_path) -> None:
    path = tmp_path / "receipt.json"
    path.write_text(json.dumps(receipt))
    assert read_receipts(path) == [receipt]
    path.write_text(json.dumps({"receipts": [receipt, receipt]}))
    assert read_receipts(path) == [receipt, receipt]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("robust_accuracy", 0.99),
        ("clean_accuracy", 1.0),
        ("robust_accuracy_8bit", 0.5),
        ("wilson_95", [0.5, 0.6]),
        ("n", 39),
        ("model_sha256", "abc"),
        ("seconds", -1),
        ("images", {"permutation_seed": 0, "first": 10, "of": 40}),
        ("outcomes", {"clean": "0000000000", "robust": "ffffffffff", "robust_8bit": "0000000000"}),
        ("verified", True),
        ("schema_version", 2),
    ],
)
def test_an_edited_receipt_is_refused_by_field(receipt, tmp_path, field, value) -> None:
    path = tmp_path / "receipt.json"
    path.write_text(json.dumps(receipt | {field: value}))
    with pytest.raises(UserError, match=r"receipt: receipt\.json: "):
        read_receipts(path)


@pytest.mark.parametrize("text", ["{", "[]", '{"receipts": []}', '{"receipts": 3}', "null"])
def test_a_file_without_receipts_is_refused(tmp_path, text) -> None:
    path = tmp_path / "receipt.json"
    path.write_text(text)
    with pytest.raises(UserError, match="receipt: "):
        read_receipts(path)
    with pytest.raises(UserError, match="No such file"):
        read_receipts(tmp_path / "none.json")


def test_graphs_that_disagree_are_a_warning(model, images) -> None:
    outcomes = evaluate(model, images, **OPTIONS)
    odd = Outcomes(outcomes.clean, outcomes.robust, outcomes.robust_8bit, unconfirmed=2)
    made = build_receipt(
        odd,
        images,
        model="tiny",
        model_sha256=model.sha256,
        attack="pgd",
        parameters=ATTACKS["pgd"].resolve(model.input_shape, **OPTIONS).as_dict(),
        subset_seed=0,
    )
    assert any(warning.startswith("graphs-disagree: 2 images") for warning in made["warnings"])


def test_wilson_gives_the_reference_interval() -> None:
    low, high = wilson(6731, 10_000)
    assert (round(low, 3), round(high, 3)) == (0.664, 0.682)
    assert wilson(0, 10)[0] == 0.0
    assert wilson(10, 10)[1] == pytest.approx(1.0)


def test_paired_difference_counts_discordant_images() -> None:
    a = np.array([1] * 60 + [0] * 40, dtype=bool)
    b = np.array([1] * 50 + [0] * 10 + [1] * 5 + [0] * 35, dtype=bool)
    d, (low, high) = paired_difference(a, b)
    assert d == pytest.approx(0.05)
    half = 1.959964 * np.sqrt(15 - 25 / 100) / 100
    assert (high - low) / 2 == pytest.approx(half)
    assert paired_difference(a, a) == (0.0, (0.0, 0.0))


def test_the_paired_interval_covers_95_percent() -> None:
    rng = np.random.default_rng(0)
    truth, n, trials = 0.03, 2000, 2000
    cells = rng.multinomial(n, [0.40, 0.07, 0.04, 0.49], size=trials)  # both, a alone, b alone, neither
    covered = 0
    for counts in cells:
        a = np.repeat([True, True, False, False], counts)
        b = np.repeat([True, False, True, False], counts)
        _, (low, high) = paired_difference(a, b)
        covered += low <= truth <= high
    assert 0.935 <= covered / trials <= 0.965


def test_outcomes_pack_and_unpack() -> None:
    flags = np.random.default_rng(0).random(37) < 0.5
    assert np.array_equal(unpack(pack(flags), 37), flags)
    with pytest.raises(ValueError, match="40 bits for 41 images"):
        unpack(pack(flags), 41)
