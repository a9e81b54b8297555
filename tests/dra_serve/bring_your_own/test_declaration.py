"""What a file takes is declared once, and kept beside it."""

import json
import subprocess
import sys

import numpy as np
import pytest

import dra_serve
from dra_serve.bring_your_own.declaration import beside
from dra_serve.errors import BadRequest, ModelFolderError
from tests.dra_serve.bring_your_own.theirs import (
    FOREIGN,
    Network,
    assert_is_the_original,
    export,
    foreign_input,
    images,
)


def test_it_is_declared_once_and_derived_once(foreign):
    path, network = foreign
    first = dra_serve.load(path, **FOREIGN)
    assert json.loads(beside(path).read_text())["channels"] == "bgr"
    again = dra_serve.load(path)
    assert "declared in theirs.onnx.config.json" in again.notes[0]
    assert "gradient from the cache" in again.notes[-1]
    assert (again.sha256, again.gradient_sha256) == (first.sha256, first.gradient_sha256)
    assert_is_the_original(again, network, foreign_input)
    other = dra_serve.load(path, channels="rgb")
    assert other.sha256 != first.sha256
    assert "RGB in [0, 255], mean 103.9" in other.notes[0]


def test_nothing_is_kept_of_a_declaration_that_does_not_fit(foreign):
    path, _ = foreign
    with pytest.raises(BadRequest, match=r"mean: got .*; allowed: 3 numbers"):
        dra_serve.load(path, mean=(1.0, 2.0, 3.0, 4.0))
    with pytest.raises(BadRequest, match="input-size: got 20x20; allowed: 12x10: the file fixes it"):
        dra_serve.load(path, input_size=(20, 20))
    with pytest.raises(BadRequest, match=r"allowed: 1 or 3 channels in nchw; --layout"):
        dra_serve.load(path, layout="nchw")
    assert not beside(path).exists()


@pytest.mark.parametrize(
    ("given", "field"),
    [({"layout": "nwhc"}, "layout"), ({"channels": "gbr"}, "channels"), ({"range": 0.0}, "range"),
     ({"range": float("nan")}, "range"), ({"std": (1.0, 0.0, 1.0)}, "std"), ({"mean": ()}, "mean"),
     ({"input_size": (0, 5)}, "input-size"), ({"scale": 3}, "scale")],
)  # fmt: skip
def test_a_declaration_out_of_range_is_refused_by_its_option(foreign, given, field):
    with pytest.raises(BadRequest) as caught:
        dra_serve.load(foreign[0], **given)
    assert caught.value.field == field


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"schema_version": 2}', '{"channel": "bgr"}', '{"mean": "0.5"}', '{"classes": ["a"]}'],
)
def test_a_broken_declaration_is_refused_by_its_file(foreign, text):
    beside(foreign[0]).write_text(text)
    with pytest.raises(ModelFolderError, match=r"^theirs\.onnx\.config\.json: "):
        dra_serve.load(foreign[0])


def test_classes_may_be_named_beside_the_file(foreign):
    beside(foreign[0]).write_text(json.dumps({"classes": ["ant", "bee", "cat", "dog", "elk"]}))
    assert dra_serve.load(foreign[0]).classes == ("ant", "bee", "cat", "dog", "elk")


def test_only_files_are_declared():
    with pytest.raises(BadRequest, match=r"layout: got bundled:dra; allowed: with an \.onnx file alone"):
        dra_serve.load("bundled:dra", layout="nhwc")


def test_nothing_declared_is_said_to_be_assumed(tmp_path):
    network = Network()
    model = dra_serve.load(export(network, tmp_path / "plain.onnx"))
    assert model.notes[0].startswith("takes NCHW, RGB in [0, 1], no mean and std (assumed: --layout,")
    assert not beside(tmp_path / "plain.onnx").exists()
    assert_is_the_original(model, network)


def test_the_command_line_declares_and_says_so_in_one_line(foreign, tmp_path):
    from dra_serve.images import encode_png

    image = tmp_path / "one.png"
    image.write_bytes(encode_png((255 * images(1)[0].transpose(1, 2, 0)).astype(np.uint8)))
    options = "--layout NHWC --channels bgr --range 255 --mean 103.9,116.8,123.7 --std 57.4,57.1,58.4"

    def predict(*more):
        command = [sys.executable, "-m", "dra_serve.cli", "predict", str(foreign[0]), str(image), "--json"]
        return subprocess.run([*command, *more], capture_output=True, text=True, check=False)

    first, again, wrong = predict(*options.split()), predict(), predict("--input-size", "big")
    assert json.loads(first.stdout) == json.loads(again.stdout)
    assert first.stderr.count("\n") == 1
    assert first.stderr.startswith("theirs: takes NHWC, BGR in [0, 255]")
    assert (wrong.returncode, wrong.stderr) == (
        2,
        "dra-serve: input-size: got big; allowed: HxW, such as 224x224\n",
    )
