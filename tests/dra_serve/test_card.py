"""The model card says what the folder holds, and no more; its examples run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from dra_serve.card import model_card, write_card
from dra_serve.errors import ModelFolderError
from dra_serve.model_folder import read_folder, write_receipts
from dra_serve.sums import write_sums

RECEIPT = {
    "suite": None,
    "attacks": [{"name": "pgd", "arguments": {"steps": 50, "restarts": 5, "alpha": 0.002, "seed": 7}}],
    "norm": "linf",
    "eps": "8/255",
    "n": 10_000,
    "clean_accuracy": 0.6554,
    "robust_accuracy": 0.4126,
    "robust_accuracy_8bit": 0.4129,
    "wilson_95": [0.4030, 0.4223],
    "model_sha256": "a" * 64,
    "data": {"name": "cifar10", "split": "test", "sha256": "b" * 64},
    "images": "all",
    "warnings": ["few-images: the interval is wide"],
}


def with_receipts(folder: Path, *receipts: dict[str, object]) -> Path:
    write_receipts(folder, list(receipts))
    write_sums(folder)
    return folder


def card(folder: Path, repo_id: str | None = None) -> str:
    return model_card(read_folder(folder), repo_id)


def test_every_figure_stands_with_its_conditions(tiny_onnx_folder) -> None:
    text = card(with_receipts(tiny_onnx_folder(), RECEIPT))
    assert "| PGD-50 x 5, linf 8/255 | 10,000 | 65.5 % | 41.3 % (40.3 % to 42.2 %) | 41.3 % |" in text
    assert "all 10,000 test images of cifar10 (sha256 `bbbbbbbbbbbb`)" in text
    assert "pgd: alpha 0.002, restarts 5, seed 7, steps 50" in text
    assert "Warning, PGD-50 x 5, linf 8/255: few-images: the interval is wide" in text


def test_metadata_is_a_model_index_that_the_hubs_own_reader_reads(tiny_onnx_folder) -> None:
    again = RECEIPT | {
        "attacks": [{"name": "pgd", "arguments": {"steps": 20}}],
        "robust_accuracy": 0.43,
    }
    data = ModelCard(card(with_receipts(tiny_onnx_folder(), RECEIPT, again))).data
    assert data.model_name == "tiny"
    found = {(result.metric_name, result.metric_value) for result in data.eval_results}
    assert found == {
        ("Clean accuracy", 65.54),
        ("Robust accuracy (PGD-50 x 5, linf 8/255)", 41.26),
        ("Robust accuracy, 8-bit image (PGD-50 x 5, linf 8/255)", 41.29),
        ("Robust accuracy (PGD-20, linf 8/255)", 43.0),
        ("Robust accuracy, 8-bit image (PGD-20, linf 8/255)", 41.29),
    }
    assert len(data.eval_results) == len(found)  # the clean accuracy once
    robust = next(result for result in data.eval_results if result.metric_value == 41.26)
    assert robust.metric_args["wilson_95"] == [40.3, 42.23]
    assert robust.metric_args["n"] == 10_000


def test_without_receipts_no_accuracy_is_claimed(tiny_onnx_folder) -> None:
    text = card(tiny_onnx_folder())
    assert "no accuracy is claimed" in text
    assert " %" not in text
    assert ModelCard(text).data.eval_results is None


def test_dra_and_its_twin_are_named_where_they_are(tiny_onnx_folder) -> None:
    dra = card(tiny_onnx_folder("dra", recipe={"lam": 1.0, "blocks": [1, 2]}, twin="tiny-at"))
    plain = card(tiny_onnx_folder("at", recipe={"lam": 0.0}))
    assert "arxiv.org/abs/2602.19931" in dra
    assert "`tiny-at`" in dra
    assert "recipe: blocks 1 2, lam 1" in dra
    assert "2602.19931" not in plain
    assert "twin" not in plain


def test_nothing_is_left_to_fill_in_and_the_same_folder_gives_the_same_bytes(tiny_onnx_folder) -> None:
    folder = with_receipts(tiny_onnx_folder(), RECEIPT)
    text = card(folder, "org/tiny")
    assert "More Information" not in text
    assert "$" not in text
    assert 'dra_serve.load("org/tiny")' in text
    write_card(folder, "org/tiny")
    write_card(folder, "org/tiny")
    assert (folder / "README.md").read_text(encoding="utf-8") == text
    assert read_folder(folder).config.name == "tiny"  # the sums are right again


def test_examples_run_as_printed(tiny_onnx_folder) -> None:
    folder = tiny_onnx_folder()
    examples = re.findall(r"```python\n(.*?)```", card(folder), re.DOTALL)
    assert len(examples) == 2
    assert "dra_serve.attack(" in examples[0]
    for example in examples:
        done = subprocess.run(
            [sys.executable, "-c", example], cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


def test_examples_fit_the_files_that_are_there(tiny_onnx_folder) -> None:
    blind = card(tiny_onnx_folder("blind", gradient=False))
    assert "dra_serve.attack(" not in blind
    assert "HubClassifier" not in blind
    folder = tiny_onnx_folder("weights")
    (folder / "model.safetensors").write_bytes(b"weights")
    write_sums(folder)
    assert 'HubClassifier.from_pretrained("org/weights")' in card(folder, "org/weights")


def test_a_receipt_without_a_figure_is_refused_by_name(tiny_onnx_folder) -> None:
    incomplete = {name: value for name, value in RECEIPT.items() if name != "wilson_95"}
    with pytest.raises(ModelFolderError, match=r"results\.json: a receipt without 'wilson_95'"):
        card(with_receipts(tiny_onnx_folder(), incomplete))
