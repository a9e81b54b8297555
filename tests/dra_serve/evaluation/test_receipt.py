"""Receipts hold what makes their figures, and an edited one is none."""

import json

import numpy as np
import pytest

from dra_serve.errors import DraServeError, UserError
from dra_serve.evaluation import (
    Outcomes,
    build_receipt,
    evaluate,
    make_plan,
    paired_difference,
    read_receipts,
    wilson,
)
from dra_serve.evaluation.bits import pack, unpack
from dra_serve.evaluation.receipt import curve, flipped_by, robust, schema

OPTIONS = {"eps": ("2/255", "8/255"), "steps": 3, "seed": 3}


@pytest.fixture
def outcomes(model, images):
    return evaluate(model, images, **OPTIONS)


def receipt_of(model, images, outcomes, **facts):
    return build_receipt(
        outcomes,
        images,
        make_plan(model.input_shape, **OPTIONS),
        model="tiny",
        model_sha256=model.sha256,
        gradient_sha256=model.gradient_sha256,
        classes=model.classes,
        subset_seed=0,
        **facts,
    )


@pytest.fixture
def receipt(model, images, outcomes):
    return receipt_of(model, images, outcomes)


def test_a_receipt_says_what_its_figures_rest_on(receipt, images, outcomes) -> None:
    assert list(receipt) == list(schema()["properties"])
    assert receipt["data"]["sha256"] == images.sha256
    assert receipt["suite"] is None
    assert receipt["attacks"] == [
        {
            "name": "pgd",
            "arguments": {
                "norm": "linf",
                "eps": eps,
                "alpha": 2.5 * eps / 3,
                "steps": 3,
                "restarts": 1,
                "random_start": True,
                "loss": "ce",
                "seed": 3,
            },
            "robust": int(count),
        }
        for eps, count in zip((2 / 255, 8 / 255), outcomes.after.sum(axis=1), strict=True)
    ]
    assert (receipt["norm"], receipt["eps"]) == ("linf", 8 / 255)
    assert {"python", "dra-serve", "numpy", "onnxruntime"} <= set(receipt["packages"])
    assert "cores" in receipt["hardware"]
    assert receipt["warnings"][0].startswith("few-images: 40 images")


def test_each_image_has_its_fate(receipt, outcomes) -> None:
    fate = flipped_by(receipt)
    assert np.array_equal(fate == -2, ~outcomes.clean)
    assert np.array_equal(fate == -1, outcomes.robust)
    assert np.array_equal(fate == 0, outcomes.clean & ~outcomes.after[0])
    assert np.array_equal(fate == 1, outcomes.after[0] & ~outcomes.after[1])
    assert {-2, 0, 1} <= set(fate)
    assert np.array_equal(robust(receipt), outcomes.robust)
    assert curve(receipt) == [(2 / 255, outcomes.after[0].sum()), (8 / 255, outcomes.after[1].sum())]


def test_each_class_has_its_count(receipt, images, outcomes, model) -> None:
    assert [count["name"] for count in receipt["by_class"]] == list(model.classes)
    for label, count in enumerate(receipt["by_class"]):
        of_it = images.y == label
        assert count["n"] == of_it.sum()
        assert (count["clean"], count["robust"]) == (
            outcomes.clean[of_it].sum(),
            outcomes.robust[of_it].sum(),
        )


def test_a_receipt_survives_its_file(receipt, tmp_path) -> None:
    path = tmp_path / "receipt.json"
    path.write_text(json.dumps(receipt))
    assert read_receipts(path) == [receipt]
    path.write_text(json.dumps({"receipts": [receipt, receipt]}))
    assert read_receipts(path) == [receipt, receipt]


def version_1(receipt):
    """Return a receipt of one attack as the release before wrote it."""
    run = receipt["attacks"][-1]
    beside = ("norm", "eps", "seed")
    old = {key: value for key, value in receipt.items() if key not in ("suite", "attacks", "by_class")}
    outcomes = {key: value for key, value in receipt["outcomes"].items() if key != "after"}
    return old | {
        "schema_version": 1,
        "attack": {"name": run["name"]} | {k: v for k, v in run["arguments"].items() if k not in beside},
        "seed": run["arguments"]["seed"],
        "outcomes": outcomes | {"robust": receipt["outcomes"]["after"][-1]},
    }


def test_a_receipt_of_version_1_reads_as_version_2(model, images, tmp_path) -> None:
    one = {"eps": "8/255", "steps": 3, "seed": 3}
    new = build_receipt(
        evaluate(model, images, **one),
        images,
        make_plan(model.input_shape, **one),
        model="tiny",
        model_sha256=model.sha256,
        classes=model.classes,
        subset_seed=0,
    )
    path = tmp_path / "receipt.json"
    path.write_text(json.dumps(version_1(new)))
    assert read_receipts(path) == [new | {"by_class": None}]
    path.write_text(json.dumps(version_1(new) | {"robust_accuracy": 0.99}))
    with pytest.raises(UserError, match=r"receipt\.json: robust_accuracy: 0\.99, but"):
        read_receipts(path)


def test_a_receipt_without_every_outcome_is_none(model, images, outcomes) -> None:
    part = Outcomes(outcomes.clean, outcomes.after, outcomes.robust_8bit, np.arange(40) < 39)
    with pytest.raises(DraServeError, match="1 of 40 images have no outcome"):
        receipt_of(model, images, part)


def test_warnings_of_others_join_its_own(model, images, outcomes) -> None:
    told = receipt_of(model, images, outcomes, warnings=["zero-gradient: 3 of 40 images"])["warnings"]
    assert [text.partition(":")[0] for text in told] == ["few-images", "zero-gradient"]


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
        ("outcomes", {"clean": "0000000000", "after": ["0000000000"] * 2, "robust_8bit": "0000000000"}),
        ("outcomes", {"clean": "0000000000", "after": ["00"] * 2, "robust_8bit": "0000000000"}),
        ("eps", 0.5),
        ("norm", "l2"),
        ("attacks", []),
        ("suite", 3),
        ("by_class", [{"name": "cat", "n": 40, "clean": 40, "robust": 0}]),
        ("by_class", []),
        ("verified", True),
        ("schema_version", 3),
    ],
)
def test_an_edited_receipt_is_refused_by_field(receipt, tmp_path, field, value) -> None:
    path = tmp_path / "receipt.json"
    path.write_text(json.dumps(receipt | {field: value}))
    with pytest.raises(UserError, match=r"receipt: receipt\.json: "):
        read_receipts(path)


@pytest.mark.parametrize(
    "edit", [{"robust": 39}, {"name": 3}, {"arguments": {"norm": "linf"}}, {"won": True}]
)
def test_an_edited_attack_is_refused(receipt, tmp_path, edit) -> None:
    path = tmp_path / "receipt.json"
    path.write_text(json.dumps(receipt | {"attacks": [receipt["attacks"][0] | edit, receipt["attacks"][1]]}))
    with pytest.raises(UserError, match=r"receipt: receipt\.json: "):
        read_receipts(path)


def test_an_image_never_rises_again(receipt, tmp_path) -> None:
    """All counts agree, and yet the second attack has more images right than the first left it."""
    first, second = reversed(receipt["outcomes"]["after"])
    counts = [int(unpack(bits, 40).sum()) for bits in (first, second)]
    assert counts[0] < counts[1]
    edited = receipt | {
        "outcomes": receipt["outcomes"] | {"after": [first, second]},
        "attacks": [run | {"robust": count} for run, count in zip(receipt["attacks"], counts, strict=True)],
        "robust_accuracy": counts[1] / 40,
        "wilson_95": wilson(counts[1], 40),
    }
    path = tmp_path / "receipt.json"
    path.write_text(json.dumps(edited))
    with pytest.raises(UserError, match=r"outcomes\.after\.1: right after the attack, wrong before it"):
        read_receipts(path)


@pytest.mark.parametrize("text", ["{", "[]", '{"receipts": []}', '{"receipts": 3}', "null"])
def test_a_file_without_receipts_is_refused(tmp_path, text) -> None:
    path = tmp_path / "receipt.json"
    path.write_text(text)
    with pytest.raises(UserError, match="receipt: "):
        read_receipts(path)
    with pytest.raises(UserError, match="No such file"):
        read_receipts(tmp_path / "none.json")


def test_graphs_that_disagree_are_a_warning(model, images, outcomes) -> None:
    odd = Outcomes(outcomes.clean, outcomes.after, outcomes.robust_8bit, outcomes.done, unconfirmed=2)
    warnings = receipt_of(model, images, odd)["warnings"]
    assert any(warning.startswith("graphs-disagree: 2 images") for warning in warnings)


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
