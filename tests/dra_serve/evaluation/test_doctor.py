"""`dra-serve doctor`: what a reader of the table learns, what a program does, and the exit code."""

import json
import time

import numpy as np
import pytest
from typer.testing import CliRunner

from dra_serve.cli import app
from dra_serve.errors import BadRequest, DataMissing
from dra_serve.evaluation.diagnosis import CHECKS
from dra_serve.evaluation.doctor import examples
from dra_serve.loading import load
from tests.dra_serve.evaluation.conftest import N

TORCH_NETWORKS = """
import torch


class Noisy(torch.nn.Linear):
    def forward(self, x):
        return super().forward(x) + torch.randn(len(x), self.out_features)


def noisy():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), Noisy(3 * 8 * 8, 4))
"""


@pytest.fixture(autouse=True)
def _no_data_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DRA_SERVE_CIFAR10", raising=False)


def run(*words, code):
    """Run the command line and return its stdout; an error of ours is raised."""
    done = CliRunner().invoke(app, ["doctor", *map(str, words)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == code, done.output
    return done.stdout


def test_a_fresh_clone_can_examine_the_bundled_pair() -> None:
    started = time.process_time()
    for name in ("dra", "at"):
        told = run(f"bundled:{name}", code=0)
        assert told.startswith(f"cifar10-tiny-{name}: linf eps 8/255, 10 images (bundled examples)")
        assert told.count(" ok ") == len(CHECKS) + 1
        assert "sound, as far as these checks see; 10 images are few" in told
    assert time.process_time() - started < 60


def test_json_says_each_check_s_verdict_and_where_it_is_explained(folder, data) -> None:
    report = json.loads(run(folder, "--data", data, "--eps", "0.001", "--json", code=0))
    assert report["sound"] is True
    assert (report["model_sha256"], report["n"], report["images"]) == (load(folder).sha256, N, "toy")
    assert (report["norm"], report["eps"], report["seed"]) == ("linf", 0.001, 0)
    assert [check["name"] for check in report["checks"]] == [*(check.name for check in CHECKS), "few-images"]
    assert {check["verdict"] for check in report["checks"]} == {"ok"}
    assert report["checks"][0]["anchor"] == "docs/evaluation.md#clean-at-chance"


def test_a_broken_network_ends_with_1_and_is_explained(tmp_path, monkeypatch, data) -> None:
    (tmp_path / "networks_for_the_doctor.py").write_text(TORCH_NETWORKS)
    monkeypatch.chdir(tmp_path)
    options = ("networks_for_the_doctor:noisy", "--input-size", "8x8", "--data", data, "-n", "16")
    told = run(*options, code=1)
    assert "randomised: An attack follows the noise of one pass" in told
    assert "See docs/evaluation.md#randomised" in told
    report = json.loads(run(*options, "--json", code=1))
    assert report["sound"] is False
    assert "warning" in {check["verdict"] for check in report["checks"] if check["name"] == "randomised"}


def test_a_figure_on_few_images_is_held_against_the_model(folder, data) -> None:
    kept = ["evaluate", str(folder), "--data", str(data), "--steps", "2", "--keep"]
    assert CliRunner().invoke(app, kept).exit_code == 0
    report = json.loads(run(folder, "--data", data, "--eps", "0.001", "--json", code=1))
    raised = [check for check in report["checks"] if check["verdict"] == "warning"]
    assert [check["name"] for check in raised] == ["few-images"]
    assert raised[0]["measured"].startswith(f"1 receipt; {N} images leave an interval of")


def test_without_gradients_the_rest_is_examined(tiny_onnx_folder, data) -> None:
    folder = tiny_onnx_folder(name="plain", gradient=False)
    report = json.loads(run(folder, "--data", data, "--json", code=1))
    verdicts = {check["name"]: check["verdict"] for check in report["checks"]}
    left_out = {check.name for check in CHECKS if check.needs_gradient}
    assert {name for name, verdict in verdicts.items() if verdict == "not run"} == left_out
    assert verdicts["no-gradient"] == "warning"
    assert verdicts["randomised"] == "ok"


def test_the_same_seed_says_the_same(folder, data) -> None:
    first, second = (
        json.loads(run(folder, "--data", data, "-n", "12", "--seed", "3", "--eps", "0.002", "--json", code=0))
        for _ in range(2)
    )
    assert first["n"] == 12
    assert first | {"seconds": 0} == second | {"seconds": 0}


def test_the_radius_is_the_model_s_own_if_nobody_says_otherwise(tiny_onnx_folder, data) -> None:
    folder = tiny_onnx_folder(name="round", threat={"norm": "l2", "eps": "1/100"})
    report = json.loads(run(folder, "--data", data, "-n", "8", "--json", code=0))
    assert (report["norm"], report["eps"]) == ("l2", 0.01)
    with pytest.raises(BadRequest, match="eps: got None; allowed: a radius for linf: the model is for l2"):
        run(folder, "--data", data, "--norm", "linf", code=2)


def test_the_examples_are_labelled_by_the_classes_of_their_names() -> None:
    model = load("bundled:dra")
    shown = examples(model)
    assert shown.classes == model.classes
    assert shown.x.shape == (10, 3, 32, 32)
    assert sorted(shown.y) == list(range(10))
    right = model.logits(shown.x.astype(np.float32) / 255).argmax(1) == shown.y
    assert right.mean() > 0.5  # by labels of another order it would be about 0.1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--eps", "0"), "eps: got 0; allowed: above 0"),
        (("--eps", "8"), "eps: got 8; allowed: 0 <= eps <= 1"),
        (("--norm", "l1"), "norm: got l1"),
        (("--seed", "-1"), "seed: got -1"),
        (("-n", "41"), "n: got 41; allowed: 1 to 40"),
    ],
)
def test_values_out_of_range_are_refused_by_name(folder, data, words, said) -> None:
    with pytest.raises(BadRequest, match=said):
        run(folder, "--data", data, *words, code=2)


def test_images_of_another_kind_are_refused(folder, tmp_path) -> None:
    with pytest.raises(
        BadRequest, match=r"data: got None; allowed: --data with images of the model's 4 classes"
    ):
        run(folder, code=2)
    np.savez(tmp_path / "big.npz", x=np.zeros((2, 3, 9, 9), np.uint8), y=[0, 1])
    with pytest.raises(BadRequest, match=r"data: got images of shape \(3, 9, 9\)"):
        run(folder, "--data", tmp_path / "big.npz", code=2)
    with pytest.raises(DataMissing, match="data: no file"):
        run(folder, "--data", tmp_path / "none.npz", code=2)
