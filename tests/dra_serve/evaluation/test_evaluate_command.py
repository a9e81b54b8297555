"""`dra-serve evaluate`: the figures, the receipt, the folder's record, and a receipt verified."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from dra_serve.cache import cache_folder
from dra_serve.cli import app
from dra_serve.errors import BadRequest, DataMissing, UserError
from dra_serve.evaluation import wilson
from dra_serve.evaluation.bits import pack, unpack
from dra_serve.loading import load
from tests.dra_serve.evaluation.conftest import WRONG, N

QUICK = ("--eps", "0.001", "--steps", "5")


def run(*words, code=0):
    """Run the command line and return its stdout; an error of ours is raised."""
    done = CliRunner().invoke(app, ["evaluate", *map(str, words)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == code, done.output
    return done.stdout


def made(*words):
    return json.loads(run(*words, "--json"))


def with_flipped_outcome(receipt):
    """Return a consistent receipt in which one robust image is not."""
    robust = unpack(receipt["outcomes"]["after"][0], N)
    robust[np.flatnonzero(robust)[0]] = False
    return receipt | {
        "attacks": [receipt["attacks"][0] | {"robust": int(robust.sum())}],
        "by_class": None,
        "robust_accuracy": robust.mean(),
        "wilson_95": wilson(int(robust.sum()), N),
        "outcomes": receipt["outcomes"] | {"after": [pack(robust)]},
    }


def test_the_figures_are_those_of_the_outcomes(folder, data) -> None:
    receipt = made(folder, "--data", data, *QUICK)
    assert receipt["n"] == N
    assert receipt["clean_accuracy"] == (N - WRONG) / N
    robust = unpack(receipt["outcomes"]["after"][0], N)
    assert 0 < receipt["robust_accuracy"] == robust.mean() < receipt["clean_accuracy"]
    assert receipt["wilson_95"] == list(wilson(int(robust.sum()), N))
    assert receipt["model_sha256"] == load(folder).sha256


def test_words_say_the_same(folder, data) -> None:
    told = run(folder, "--data", data, "--eps", "8/255", "--steps", "5", "-n", "16")
    assert "PGD-5, linf 8/255, n 16" in told
    assert "few-images: 16 images" in told
    assert "clean   " in told


def test_an_attack_without_steps_or_seed(folder, data) -> None:
    assert made(folder, "--data", data, "--attack", "fgsm", "--eps", "0.05")["attacks"][0]["name"] == "fgsm"
    with pytest.raises(BadRequest, match="steps: got 5; allowed: nothing: fgsm takes"):
        run(folder, "--data", data, "--attack", "fgsm", "--steps", "5")


@pytest.mark.parametrize(
    "options",
    [
        QUICK,
        ("--attack", "fgsm", "--eps", "0.05"),
        ("--eps", "0"),
        ("--suite", "fast", "--eps", "0.001,0.002"),
        ("--attack", "apgd-t", "--targets", "2", "--norm", "l2", "--eps", "0.02", "--steps", "9"),
    ],
)
def test_a_receipt_verifies_from_its_folder_alone(folder, data, options, monkeypatch) -> None:
    run(folder, "--data", data, *options, "-n", "20", "--seed", "3", "--keep")
    monkeypatch.setenv("DRA_SERVE_NOISE", str(data))  # the folder's config says its data is "noise"
    assert run("--verify", folder / "results.json").startswith("same: tiny: ")
    verified = json.loads(run("--verify", folder / "results.json", "--json"))["verified"]
    assert [(result["same"], sum(result["images_that_differ"].values())) for result in verified] == [
        (True, 0)
    ]


def test_a_receipt_that_does_not_come_out_again_is_different(folder, data, tmp_path) -> None:
    path = tmp_path / "receipt.json"
    path.write_text(json.dumps(with_flipped_outcome(made(folder, "--data", data, *QUICK))))
    told = run(folder, "--data", data, "--verify", path, code=1)
    assert told.startswith("different (images: clean 0, robust 1, robust_8bit 0, flipped_by 1): tiny")


def test_an_edited_receipt_and_another_models_are_refused(folder, data, tmp_path, tiny_onnx_folder) -> None:
    path = tmp_path / "receipt.json"
    run(folder, "--data", data, *QUICK, "--receipt", path)
    receipt = json.loads(path.read_text())
    with pytest.raises(BadRequest, match="verify: got a receipt of tiny"):
        run(tiny_onnx_folder("other", seed=1), "--data", data, "--verify", path)
    path.write_text(json.dumps(receipt | {"robust_accuracy": 1.0}))
    with pytest.raises(UserError, match=r"receipt\.json: robust_accuracy: 1\.0, but"):
        run(folder, "--data", data, "--verify", path)


def test_another_data_set_is_refused(folder, data, tmp_path, images) -> None:
    path = tmp_path / "receipt.json"
    run(folder, "--data", data, *QUICK, "--receipt", path)
    np.savez(data, x=images.x[::-1], y=images.y[::-1])
    with pytest.raises(BadRequest, match="data: got data with sha256"):
        run(folder, "--data", data, "--verify", path)


def test_keep_replaces_the_same_evaluation_and_renews_the_card(folder, data) -> None:
    for options in (QUICK, QUICK, ("--eps", "0.002", "--steps", "5")):
        run(folder, "--data", data, *options, "--keep")
    receipts = load(folder).receipts  # and every sum is right
    assert [receipt["eps"] for receipt in receipts] == [0.001, 0.002]
    assert "| PGD-5, linf 0.002 |" in (folder / "README.md").read_text(encoding="utf-8")


def test_nothing_is_left_behind_by_a_finished_evaluation(folder, data) -> None:
    run(folder, "--data", data, *QUICK)
    assert not list((cache_folder() / "evaluations").glob("*"))


def test_what_is_missing_is_named(folder, data, tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("DRA_SERVE_NOISE", raising=False)
    with pytest.raises(DataMissing, match="give --data FOLDER, or set DRA_SERVE_NOISE"):
        run(folder)
    with pytest.raises(BadRequest, match="MODEL: got None"):
        run("--data", data)
    with pytest.raises(BadRequest, match="keep: got bundled:none"):
        run("bundled:none", "--data", data, "--keep")
    with pytest.raises(BadRequest, match="eps: got nan"):
        run(folder, "--data", data, "--eps", "nan")
    with pytest.raises(UserError, match=r"receipt: .*No such folder"):
        run(folder, "--data", data, *QUICK, "--receipt", tmp_path / "no" / "receipt.json")
    with pytest.raises(BadRequest, match="suite: got slow; allowed: quick, fast, standard"):
        run(folder, "--data", data, "--suite", "slow")
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(BadRequest, match="RANK: got 2; allowed: an integer from 0 to 1, below WORLD_SIZE"):
        run(folder, "--data", data)
