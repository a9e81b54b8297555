"""Receipts in others' forms: read by their own readers, and nothing claimed that no receipt says."""

import json

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries
from typer.testing import CliRunner

from dra_serve.errors import BadRequest, UserError
from dra_serve.evaluation import LabelledImages, build_receipt, evaluate, make_plan
from dra_serve.evaluation.robustbench import model_info
from dra_serve.evaluation.suites import SUITES
from dra_serve.exporters.eval_results import eval_results
from dra_serve.exporters.model_index import model_index
from dra_serve.model_folder import read_folder, write_receipts
from dra_serve.sums import write_sums
from export.receipts import Format, exported

EVERY_ROW = {  # of all 188 Linf and L2 entries of RobustBench's model_info, at 31 March 2025
    "link": str,
    "name": str,
    "authors": str,
    "additional_data": bool,
    "number_forward_passes": int,
    "dataset": str,
    "venue": str,
    "architecture": str,
    "eps": str,
    "clean_acc": str,
    "reported": str,
    "autoattack_acc": str,
}
SOME_ROWS = {"unreliable", "footnote", "external"}


def receipt(suite="standard", *, norm="linf", eps=8 / 255, **replaced):
    """Return a whole receipt in which `suite`, or PGD-50 x 5, ran on CIFAR-10's test images."""
    stages = [(stage.attack, stage.options) for stage in SUITES[suite]] if suite else [("pgd", {"steps": 50})]
    made = {
        "suite": suite,
        "attacks": [
            {"name": name, "arguments": {**options, "norm": norm, "eps": eps, "seed": 7}, "robust": 3768}
            for name, options in stages
        ],
        "norm": norm,
        "eps": eps,
        "n": 10_000,
        "images": "all",
        "clean_accuracy": 0.7129,
        "robust_accuracy": 0.3768,
        "robust_accuracy_8bit": 0.38,
        "wilson_95": [0.3673, 0.3863],
        "model_sha256": "a" * 64,
        "data": {"name": "cifar10", "split": "test", "sha256": "b" * 64},
        "warnings": [],
    }
    return made | replaced


SUBSET = {"n": 500, "images": {"permutation_seed": 3, "first": 500, "of": 10_000}}


@pytest.fixture
def config(folder):
    return read_folder(folder).config


def test_a_standard_receipt_on_all_images_is_a_robustbench_row(config) -> None:
    row = model_info(config, [receipt()], link="https://a", name="T", authors="A, B", venue="ICML 2026")
    assert {key: type(value) for key, value in row.items()} == EVERY_ROW
    assert row == {
        "link": "https://a",
        "name": "T",
        "authors": "A, B",
        "additional_data": False,
        "number_forward_passes": 1,
        "dataset": "cifar10",
        "venue": "ICML 2026",
        "architecture": "two_layers, width 8",
        "eps": "8/255",
        "clean_acc": "71.29",
        "reported": "37.68",
        "autoattack_acc": "37.68",
    }


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (receipt(**SUBSET), "not all 10,000 images"),
        (receipt(n=40), "not all 10,000 images"),  # all of a file that is not the whole test set
        (receipt("fast"), "not the standard suite"),
        (receipt(None), "not the standard suite"),
        (receipt(eps=4 / 255), "not a leaderboard's radius"),
        (
            receipt() | {"attacks": receipt()["attacks"][:2]},
            "not the standard suite",
        ),  # called so, and is not
    ],
)
def test_no_other_figure_passes_for_autoattacks(config, given, why) -> None:
    row = model_info(config, [given])
    assert row["autoattack_acc"] == ""
    assert set(row) - set(EVERY_ROW) == {"footnote"} <= SOME_ROWS
    assert row["footnote"].startswith(f"No AutoAttack accuracy: {why}.")
    assert "seed 7" in row["footnote"]
    assert row["reported"] == "37.68"


def test_a_footnote_has_the_conditions_and_the_warnings(config) -> None:
    row = model_info(config, [receipt("fast", **SUBSET, warnings=["black-box-wins: by 3 images"])])
    assert row["footnote"] == (
        "No AutoAttack accuracy: not the standard suite, not all 10,000 images. Reported: fast (APGD-CE-100, "
        "APGD-T-100), linf 8/255, seed 7, on 500 of 10,000 (permutation seed 3) images; 95 % interval 36.73 "
        "to 38.63. Warning: black-box-wins: by 3 images."
    )


def test_the_row_is_of_the_receipt_nearest_to_the_leaderboards(config) -> None:
    weaker, on_few = receipt(None, robust_accuracy=0.40), receipt(**SUBSET, robust_accuracy=0.30)
    l2 = receipt(norm="l2", eps=0.5, robust_accuracy=0.55)
    everything = [weaker, on_few, l2, receipt()]
    assert model_info(config, everything)["autoattack_acc"] == "37.68"
    row = model_info(config, everything, norm="l2")
    assert (row["eps"], row["autoattack_acc"]) == ("0.5", "55.00")


def test_what_robustbench_has_no_place_for_is_refused(config) -> None:
    digits = receipt(data={"name": "digits", "split": "test", "sha256": "b" * 64})
    assert model_info(config, [digits, receipt()])["dataset"] == "cifar10"
    with pytest.raises(BadRequest, match=r"data\.name: got digits"):
        model_info(config, [digits])
    with pytest.raises(BadRequest, match="norm: got l1"):
        model_info(config, [receipt()], norm="l1")
    with pytest.raises(UserError, match="no receipt of norm l2"):
        model_info(config, [receipt()], norm="l2")


def test_the_hubs_own_reader_reads_the_model_index() -> None:
    text = model_index("tiny", [receipt(), receipt("fast", **SUBSET, robust_accuracy=0.39)])
    data = ModelCard(f"---\n{text}---\n# tiny\n", ignore_metadata_errors=False).data
    assert data.model_name == "tiny"
    found = {
        (result.metric_name, result.metric_value, result.metric_args["n"]) for result in data.eval_results
    }
    suites = (
        ("standard (APGD-CE-100, APGD-T-100, FAB-T-100, SQUARE-5000)", 37.68, 10_000),
        ("fast (APGD-CE-100, APGD-T-100)", 39.0, 500),
    )
    assert found == {
        result
        for suite, exact, n in suites
        for result in (
            ("Clean accuracy", 71.29, n),
            (f"Robust accuracy ({suite}, linf 8/255)", exact, n),
            (f"Robust accuracy, 8-bit image ({suite}, linf 8/255)", 38.0, n),
        )
    }
    robust = next(result for result in data.eval_results if result.metric_value == 39.0)
    assert (robust.task_type, robust.dataset_type, robust.dataset_split) == (
        "image-classification",
        "cifar10",
        "test",
    )
    args = robust.metric_args
    assert (args["suite"], args["norm"], args["eps"], args["images"]) == (
        "fast",
        "linf",
        8 / 255,
        SUBSET["images"],
    )
    assert [(run["name"], run["seed"]) for run in args["attacks"]] == [("apgd-ce", 7), ("apgd-t", 7)]


def test_the_hubs_own_reader_reads_eval_results() -> None:
    text = eval_results([receipt(None, robust_accuracy=0.4), receipt()], source_url="https://hub/r.json")
    entries = {entry.task_id: entry for entry in parse_eval_result_entries(yaml.safe_load(text))}
    assert {task: entry.value for task, entry in entries.items()} == {
        "clean-accuracy": 71.29,
        "robust-linf-8-255": 37.68,  # the stronger attack's
        "robust-linf-8-255-8bit": 38.0,
    }
    robust = entries["robust-linf-8-255"]
    assert (robust.dataset_id, robust.source_url) == ("uoft-cs/cifar10", "https://hub/r.json")
    assert robust.notes == (
        "standard (APGD-CE-100, APGD-T-100, FAB-T-100, SQUARE-5000), linf 8/255; all 10,000 test images; "
        "seed 7; 95 % interval 36.73 to 38.63"
    )


def test_more_images_count_before_a_lower_accuracy() -> None:
    entries = yaml.safe_load(eval_results([receipt(), receipt(**SUBSET, robust_accuracy=0.3)]))
    assert [entry["value"] for entry in entries] == [71.29, 37.68, 38.0]
    assert list(entries[0]) == ["dataset", "value", "notes"]


def test_a_data_set_that_the_hub_may_not_have_needs_an_id() -> None:
    toy = receipt(data={"name": "toy", "split": "test", "sha256": "b" * 64})
    with pytest.raises(BadRequest, match=r"data\.name: got toy"):
        eval_results([toy])
    assert yaml.safe_load(eval_results([toy], dataset_id="org/toy"))[0]["dataset"]["id"] == "org/toy"


FORMS = {
    "robustbench": lambda config, receipts: model_info(config, receipts),
    "model-index": lambda config, receipts: model_index("tiny", receipts),
    "eval-results": lambda config, receipts: eval_results(receipts),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "field", ["attacks", "clean_accuracy", "robust_accuracy", "norm", "eps", "n", "images"]
)
def test_what_a_receipt_lacks_is_named(form, field, config) -> None:
    lacking = {name: value for name, value in receipt("fast").items() if name != field}
    with pytest.raises(UserError, match=f"a receipt without '{field}'") as refused:
        FORMS[form](config, [lacking])
    assert refused.value.field == field


@pytest.mark.parametrize("form", FORMS)
def test_what_lies_deeper_is_named_too(form, config) -> None:
    with pytest.raises(UserError, match=r"without 'data\.name'"):
        FORMS[form](config, [receipt(data={"sha256": "b" * 64})])
    with pytest.raises(UserError, match=r"without 'attacks\.arguments'"):
        FORMS[form](config, [receipt("fast", attacks=[{"name": "pgd"}])])
    with pytest.raises(UserError, match="'n' is no number"):
        FORMS[form](config, [receipt("fast", n="many")])


@pytest.fixture
def evaluated(folder, model):
    """A model folder with a real receipt of its own and one of other weights."""
    x = np.random.default_rng(0).integers(0, 256, (8, *model.input_shape), dtype=np.uint8)
    images = LabelledImages.of(x, model.logits(x.astype(np.float32) / 255).argmax(1), name="cifar10")
    own = build_receipt(
        evaluate(model, images, steps=2),
        images,
        make_plan(model.input_shape, steps=2),
        model="tiny",
        model_sha256=model.sha256,
        classes=model.classes,
        subset_seed=0,
    )
    write_receipts(folder, [own, own | {"model_sha256": "f" * 64, "model": "older"}])
    write_sums(folder)
    return folder, own


def test_a_folder_is_exported_by_its_own_receipts_alone(evaluated) -> None:
    folder, own = evaluated
    row = json.loads(exported(folder, Format.robustbench, authors="A"))
    assert row["authors"] == "A"
    assert row["clean_acc"] == "100.00"
    assert row["reported"] == f"{100 * own['robust_accuracy']:.2f}"
    assert row["autoattack_acc"] == ""
    index = yaml.safe_load(exported(folder, Format.model_index))["model-index"][0]
    assert len(index["results"][0]["metrics"]) == 3  # not six
    entries = parse_eval_result_entries(yaml.safe_load(exported(folder, Format.eval_results)))
    assert [entry.dataset_id for entry in entries] == ["uoft-cs/cifar10"] * 3


def test_folders_and_options_that_do_not_fit_are_refused(folder, evaluated) -> None:
    with pytest.raises(
        BadRequest, match="authors: got A; allowed: nothing with model-index; robustbench takes"
    ):
        exported(folder, Format.model_index, authors="A")
    with pytest.raises(BadRequest, match="dataset_id: got o/d; allowed: nothing with robustbench"):
        exported(folder, Format.robustbench, "o/d")
    write_receipts(folder, [evaluated[1] | {"model_sha256": "f" * 64}])
    write_sums(folder)
    with pytest.raises(UserError, match="all receipts are of other weights"):
        exported(folder, Format.robustbench)
    write_receipts(folder, [evaluated[1] | {"robust_accuracy": 1.5}])
    write_sums(folder)
    with pytest.raises(UserError, match="robust_accuracy"):
        exported(folder, Format.eval_results)
    write_receipts(folder, [])
    write_sums(folder)
    with pytest.raises(UserError, match="holds no receipt"):
        exported(folder, Format.robustbench)


def test_the_command_prints_the_bundled_pairs(tmp_path) -> None:
    import typer

    from export.receipts import main

    app = typer.Typer()
    app.command()(main)
    done = CliRunner().invoke(app, ["dra_serve/bundled/dra", "--format", "robustbench"])
    assert done.exit_code == 0, done.output
    assert set(EVERY_ROW) <= set(json.loads(done.stdout)) <= set(EVERY_ROW) | SOME_ROWS
    refused = CliRunner().invoke(app, [str(tmp_path / "none"), "--format", "robustbench"])
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert refused.stderr.startswith("error: ")
