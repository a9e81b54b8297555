"""The command line in processes of its own, as a shell sees it: stdout, stderr, exit code."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from PIL import Image
from typer.testing import CliRunner

from dra_serve.cli import app, main
from dra_serve.model_folder import read_folder, write_receipts
from dra_serve.sums import write_sums

CLI = [sys.executable, "-m", "dra_serve.cli"]
COMMANDS = ("serve", "predict", "attack", "models", "push", "pull")
RECEIPT = {
    "suite": None,
    "attacks": [{"name": "pgd", "arguments": {"steps": 50, "restarts": 5, "eps": "8/255"}}],
    "norm": "linf",
    "eps": "8/255",
    "n": 10000,
    "clean_accuracy": 0.6553,
    "robust_accuracy": 0.3751,
    "robust_accuracy_8bit": 0.3755,
    "wilson_95": [0.3657, 0.3846],
}


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    return subprocess.run([*CLI, *map(str, arguments)], capture_output=True, text=True, timeout=60, env=env)


def result_of(*arguments: str | Path) -> Any:
    """Return the one JSON object on stdout of a command that succeeds and says nothing else."""
    done = run(*arguments, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1
    return json.loads(done.stdout)


@pytest.fixture
def model(tiny_onnx_folder: Callable[..., Path]) -> Path:
    return tiny_onnx_folder()


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Two 8 x 8 pictures of noise."""
    rng = np.random.default_rng(0)
    paths = [tmp_path / "first.png", tmp_path / "second.png"]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    return paths


def test_predict_prints_the_models_answer(model: Path, pictures: list[Path]) -> None:
    answer = result_of("predict", model, *pictures, "--top-k", "2")
    x = np.stack([np.asarray(Image.open(path), np.float32).transpose(2, 0, 1) / 255 for path in pictures])
    classifier = read_folder(model).classifier()
    logits = classifier.logits(x.astype(np.float32))
    assert answer["model"] == "tiny"
    assert [row["source"] for row in answer["predictions"]] == list(map(str, pictures))
    assert [row["label"] for row in answer["predictions"]] == [
        classifier.classes[k] for k in logits.argmax(1)
    ]
    assert all(len(row["top"]) == 2 for row in answer["predictions"])


def test_predict_prints_a_table_for_people(model: Path, pictures: list[Path]) -> None:
    answer = result_of("predict", model, pictures[0])["predictions"][0]
    done = run("predict", model, pictures[0])
    assert done.returncode == 0
    assert "first.png" in done.stdout
    assert answer["label"] in done.stdout


def test_attack_writes_the_image_it_judged(model: Path, pictures: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "adversarial"
    answer = result_of("attack", model, *pictures, "--eps", "8/255", "--steps", "5", "--out", out)
    assert answer["attack"]["eps"] == 8 / 255
    assert answer["attack"]["steps"] == 5
    for picture, result in zip(pictures, answer["results"], strict=True):
        assert result["file"] == str(out / f"{picture.stem}.tiny.png")
        written, clean = (np.asarray(Image.open(path), np.int16) for path in (result["file"], picture))
        assert_allclose(np.abs(written - clean).max() / 255, result["linf"])
        assert np.abs(written - clean).max() <= 8
        again = result_of("predict", model, result["file"])["predictions"][0]
        assert again["label"] == result["adversarial"]["label"]
        assert result["success"] == (again["label"] != result["label"])


def test_attack_says_in_words_what_happened(model: Path, pictures: list[Path]) -> None:
    one = run("attack", model, pictures[0], "--eps", "0")
    assert "tiny withstood the attack (linf, eps 0, 20 steps)" in one.stdout
    two = run("attack", model, *pictures, "--eps", "0")
    assert "tiny was fooled on 0 of 2 images." in two.stdout


def test_models_show_each_receipt(model: Path) -> None:
    assert "not measured" in run("models", model).stdout
    write_receipts(model, [RECEIPT])
    write_sums(model)
    done = run("models", model)
    assert (done.returncode, done.stderr) == (0, "")
    for part in ("tiny", "PGD-50 x 5, linf 8/255", "10,000", "65.5 %", "37.5 % (36.6 % to 38.5 %)"):
        assert part in done.stdout
    assert result_of("models", model)["models"][0]["receipts"] == [RECEIPT]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--eps", "8"], "eps: got 8; allowed: 0 <= eps <= 1, in units of x (8/255, not 8)"),
        (["--eps", "nan"], "eps: got nan"),
        (["--norm", "l3"], "norm: got l3; allowed: linf or l2"),
        (["--attack", "magic"], "attack: got magic; allowed: fgsm, pgd"),
        (["--attack", "fgsm", "--steps", "3"], "steps: got 3; allowed: nothing: fgsm takes"),
        (["--steps", "1000000000"], "steps: got 1000000000; allowed: an integer from 1 to 10,000"),
        (["--label", "unicorn"], "label: got unicorn; allowed: cat, dog, ship, truck"),
        (["--target", "unicorn"], "target: got unicorn; allowed: cat, dog, ship, truck"),
    ],
)
def test_a_bad_option_is_one_sentence(
    model: Path,
    pictures: list[Path],
    arguments: list[str],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["dra-serve", "attack", str(model), str(pictures[0]), *arguments]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    _refused(subprocess.CompletedProcess(command, int(ended.value.code or 0), out, err), sentence)


def test_bad_images_are_named(model: Path, tmp_path: Path) -> None:
    text, large = tmp_path / "text.png", tmp_path / "large.png"
    text.write_text("no picture")
    Image.new("RGB", (9, 7)).save(large)
    _refused(run("predict", model, tmp_path / "missing.png"), "missing.png: No such file or directory")
    _refused(run("predict", model, text), "text.png: no image we read; allowed: PNG, JPEG, WebP")
    _refused(run("predict", model, large), "large.png: got 9 x 7 pixels (width x height); allowed: 8 x 8")
    assert run("predict", model, large, "--resize").returncode == 0


def test_bad_models_are_named(model: Path, pictures: list[Path]) -> None:
    _refused(run("predict", "no/such/thing", pictures[0]), "source: got no/such/thing")
    _refused(run("predict", "bundled:gpt", pictures[0]), "source: got bundled:gpt")
    (model / "model.onnx").write_bytes(b"altered")
    _refused(run("attack", model, pictures[0]), "model.onnx: altered or cut short")


def test_a_model_without_gradients_cannot_be_attacked(
    tiny_onnx_folder: Callable[..., Path], pictures: list[Path]
) -> None:
    folder = tiny_onnx_folder("blind", gradient=False)
    _refused(run("attack", folder, pictures[0]), "models: got blind; allowed: models with a gradient graph")


def test_help_describes_every_command_with_an_example() -> None:
    overview = run("--help").stdout
    for command in COMMANDS:
        assert command in overview
        assert f"Example: dra-serve {command}" in CliRunner().invoke(app, [command, "--help"]).stdout


def test_version_is_the_packages() -> None:
    import dra_serve

    assert run("--version").stdout.strip() == dra_serve.__version__


def test_working_commands_import_no_server_and_no_torch(model: Path, pictures: list[Path]) -> None:
    for arguments in (["predict", model, pictures[0]], ["attack", model, pictures[0]], ["models", model]):
        code = (
            "import sys\nfrom dra_serve.cli import app\n"
            f"app({[str(a) for a in arguments]!r}, standalone_mode=False)\n"
            "print(*{name.split('.')[0] for name in sys.modules})"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        loaded = set(done.stdout.splitlines()[-1].split())
        assert "onnxruntime" in loaded
        assert not loaded & {"bentoml", "fastapi", "gradio", "torch", "onnx"}


def _refused(done: subprocess.CompletedProcess[str], sentence: str) -> None:
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("dra-serve: ")
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
