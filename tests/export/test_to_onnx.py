"""Graphs written into a model folder, and the commands around them."""

import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from dra_serve.attacks import pgd
from dra_serve.errors import ModelFolderError, NoDerivative
from dra_serve.model_config import ModelConfig
from dra_serve.model_folder import read_folder, write_config
from export.to_onnx import export, write_graphs

SHAPE, CLASSES = (3, 8, 8), ("cat", "dog", "emu", "fox", "gnu")
CONFIG = ModelConfig(
    name="small",
    classes=CLASSES,
    input_shape=SHAPE,
    normalisation={"mean": [0.5] * 3, "std": [0.25] * 3},
    network={"name": "small", "arguments": {}},
    data={"name": "none", "sha256": "0" * 64, "images": 1},
    threat={"norm": "linf", "eps": "8/255"},
)


class Rounding(nn.Module):
    def forward(self, x):
        return x.floor()


def small(middle):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), middle, nn.Flatten(), nn.Linear(128, len(CLASSES)))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with both graphs in it, and what the export said."""
    folder = tmp_path_factory.mktemp("small")
    write_config(folder, CONFIG)
    return folder, write_graphs(folder, small(nn.SiLU()), CONFIG)


def test_folder_loads_with_its_sums_and_is_attacked(written):
    folder, _ = written
    model = read_folder(folder).classifier()
    assert model.classes == CLASSES
    x = np.random.default_rng(0).random((20, *SHAPE), np.float32)
    y = model.logits(x).argmax(axis=1)
    result = pgd(model, x, y, eps=0.1, steps=5)
    before, after = model.loss_and_grad(x, y)[1], model.loss_and_grad(result.x_adv, y)[1]
    assert (after > before).all()
    assert result.success.any()


def test_export_reports_the_files_as_they_are(written):
    folder, done = written
    assert done.forward_bytes == (folder / "model.onnx").stat().st_size
    assert done.gradient_bytes == (folder / "model.gradient.onnx").stat().st_size
    assert done.forward_seconds > 0 < done.gradient_seconds
    assert {"logits", "ce gradient, worst example"} <= {finding.what for finding in done.findings}
    assert all(finding.passed for finding in done.findings)


def test_gradient_file_names_the_forward_file_it_belongs_to(written):
    folder, _ = written
    gradient = onnx.load(folder / "model.gradient.onnx")
    metadata = {entry.key: entry.value for entry in gradient.metadata_props}
    sums = (folder / "SHA256SUMS").read_text().splitlines()
    assert f"{metadata['dra_serve.forward_sha256']}  model.onnx" in sums


def test_nothing_is_written_for_a_network_without_a_derivative(tmp_path):
    write_config(tmp_path, CONFIG)
    with pytest.raises(NoDerivative, match=r"by steps \(Floor\)"):
        write_graphs(tmp_path, small(Rounding()), CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_folder_without_weights_or_config_is_refused_by_file(tmp_path):
    with pytest.raises(ModelFolderError, match=r"config\.json: missing"):
        export(tmp_path)
    write_config(tmp_path, CONFIG)
    with pytest.raises(ModelFolderError, match=r"model\.safetensors: missing"):
        export(tmp_path)


@pytest.mark.parametrize("command", ["to_onnx", "check_onnx"])
def test_command_on_a_folder_that_is_none_ends_with_one_line_and_code_2(command, tmp_path):
    done = subprocess.run(
        [sys.executable, f"export/{command}.py", str(tmp_path / "nothing")], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
