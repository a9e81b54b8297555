"""Model folders: what is written is read back; what was altered, or is unsafe, is refused by name."""

import json
import os
import pickle
import shutil

import numpy as np
import onnx
import pytest
from onnx.external_data_helper import set_external_data

from dra_serve.errors import ModelFolderError, UserError
from dra_serve.model_config import ModelConfig
from dra_serve.model_folder import read_folder, write_config, write_receipts
from dra_serve.sums import sha256, write_sums


@pytest.fixture
def folder(tiny_onnx_folder):
    return tiny_onnx_folder()


def refused(folder, file: str) -> str:
    """Return the message with which the folder is refused, after checking that it names `file`."""
    with pytest.raises(ModelFolderError) as error:
        read_folder(folder).classifier()
    assert error.value.file == file
    assert error.value.detail.startswith(f"{file}: ")
    return error.value.detail


def rewrite(folder, name: str, content: str | bytes) -> None:
    """Replace a file by one that has its sum: an author's doing, not an accident."""
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    write_sums(folder)


def edit_config(folder, **fields) -> None:
    raw = json.loads((folder / "config.json").read_text()) | fields
    rewrite(folder, "config.json", json.dumps(raw))


def test_reads_what_was_written(folder):
    receipts = [{"norm": "linf", "robust_accuracy": 0.5}]
    write_receipts(folder, receipts)
    write_sums(folder)
    read = read_folder(folder)
    assert read.receipts == receipts
    assert read.config.classes == ("cat", "dog", "ship", "truck")
    assert read.config.threat.radius == 8 / 255
    model = read.classifier()
    assert (model.name, model.config, model.receipts) == ("tiny", read.config, tuple(receipts))
    x = np.random.default_rng(0).random((2, 3, 8, 8), dtype=np.float32)
    assert model.loss_and_grad(x, np.array([0, 1]))[0].shape == (2, 4)


def test_the_same_config_gives_the_same_bytes(folder, tmp_path):
    config = read_folder(folder).config
    shuffled = ModelConfig.model_validate(dict(reversed(config.model_dump().items())))
    write_config(tmp_path, shuffled)
    assert (tmp_path / "config.json").read_bytes() == (folder / "config.json").read_bytes()
    text = (folder / "config.json").read_text()
    assert text.endswith("}\n")
    assert list(json.loads(text)) == sorted(json.loads(text))


def test_sums_are_those_of_sha256sum(folder):
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    assert [line.split("  ")[1] for line in lines] == [
        "config.json",
        "model.gradient.onnx",
        "model.onnx",
        "results.json",
    ]
    assert lines[0] == f"{sha256(folder / 'config.json')}  config.json"
    assert os.system(f"cd {folder} && sha256sum --check --strict --quiet SHA256SUMS") == 0  # noqa: S605


def test_gradient_and_receipts_are_optional(tiny_onnx_folder):
    folder = tiny_onnx_folder(gradient=False)
    (folder / "results.json").unlink()
    write_sums(folder)
    read = read_folder(folder)
    assert read.receipts == []
    assert not read.classifier().has_gradient


@pytest.mark.parametrize("name", ["config.json", "model.onnx", "model.gradient.onnx", "results.json"])
def test_an_altered_file_is_named(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    assert "altered or cut short" in refused(folder, name)


@pytest.mark.parametrize("name", ["config.json", "model.onnx", "model.gradient.onnx", "results.json"])
def test_a_file_cut_short_or_missing_is_named(folder, name):
    with (folder / name).open("r+b") as file:
        file.truncate(5)
    assert "altered or cut short" in refused(folder, name)
    (folder / name).unlink()
    assert "missing" in refused(folder, name)


@pytest.mark.parametrize("name", ["config.json", "model.onnx"])
def test_what_a_folder_must_have(folder, name):
    (folder / name).unlink()
    write_sums(folder)
    assert refused(folder, name) == f"{name}: missing"


@pytest.mark.parametrize("name", ["model.safetensors", "sub/weights.data", ".hidden", "README.md"])
def test_a_file_without_a_sum_is_named(folder, name):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"x")
    assert "not listed in SHA256SUMS" in refused(folder, name)


def test_the_hub_clients_own_files_need_no_sum(folder):
    (folder / ".gitattributes").write_text("*.onnx filter=lfs")
    (folder / ".cache" / "huggingface").mkdir(parents=True)
    (folder / ".cache" / "huggingface" / "CACHEDIR.TAG").write_text("x")
    assert read_folder(folder).config.name == "tiny"


def test_no_folder_and_no_sums(folder, tmp_path):
    assert "no such folder" in refused(tmp_path / "nowhere", str(tmp_path / "nowhere"))
    (folder / "SHA256SUMS").unlink()
    refused(folder, "SHA256SUMS")


@pytest.mark.parametrize("content", ["hello\n", "abc  model.onnx\n", "\xff", "0" * 64 + " model.onnx\n"])
def test_broken_sums(folder, content):
    (folder / "SHA256SUMS").write_bytes(content.encode("latin-1"))
    refused(folder, "SHA256SUMS")


def test_sums_cannot_reach_outside(folder, tmp_path):
    (tmp_path / "outside").write_text("x")
    with (folder / "SHA256SUMS").open("a") as file:
        file.write(f"{sha256(tmp_path / 'outside')}  ../outside\n")
    assert "missing" in refused(folder, "../outside")


@pytest.mark.parametrize("name", ["weights.pkl", "pytorch_model.bin", "model.pt", "last.pth", "sub/a.joblib"])
def test_pickles_are_refused_even_with_a_sum(folder, name):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(pickle.dumps({"a": 1}))
    with (folder / "SHA256SUMS").open("a") as file:
        file.write(f"{sha256(folder / name)}  {name}\n")
    assert "a pickle" in refused(folder, name)
    with pytest.raises(ModelFolderError, match="a pickle"):
        write_sums(folder)


def test_links_are_refused(folder, tmp_path):
    moved = tmp_path / "elsewhere.onnx"
    shutil.move(folder / "model.onnx", moved)
    (folder / "model.onnx").symlink_to(moved)
    assert "a symbolic link" in refused(folder, "model.onnx")


@pytest.mark.parametrize("kept_in", ["../outside.data", "/absolute", "sub/../../outside.data"])
def test_weights_outside_the_folder_are_refused(folder, tmp_path, kept_in):
    """ONNX Runtime's doing: were it to follow such a path, this test would tell."""
    (folder / "sub").mkdir()
    outside = tmp_path / "outside.data"
    keep_weights_in(folder, str(outside) if kept_in == "/absolute" else kept_in, outside)
    assert "ONNX Runtime cannot load it" in refused(folder, "model.onnx")


def test_weights_in_a_second_file_of_the_folder_are_read(folder):
    x = np.random.default_rng(0).random((2, 3, 8, 8), dtype=np.float32)
    before = read_folder(folder).classifier().logits(x)
    keep_weights_in(folder, "weights.data", folder / "weights.data")
    np.testing.assert_array_equal(read_folder(folder).classifier().logits(x), before)
    (folder / "weights.data").unlink()
    assert "missing" in refused(folder, "weights.data")


def keep_weights_in(folder, location: str, file) -> None:
    model = onnx.load(folder / "model.onnx")
    with file.open("wb") as out:
        for tensor in model.graph.initializer:
            raw = tensor.raw_data
            set_external_data(tensor, location, offset=out.tell(), length=len(raw))
            tensor.ClearField("raw_data")
            out.write(raw)
    rewrite(folder, "model.onnx", model.SerializeToString())


@pytest.mark.parametrize("version", [0, 2, None, "1", True, [1] * 1000])
def test_an_unknown_schema_version_is_refused_before_the_rest(folder, version):
    edit_config(folder, schema_version=version, surprise=1)
    message = refused(folder, "config.json")
    assert "schema_version" in message
    assert "this release reads 1" in message
    assert len(message) < 100


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"surprise": 1}, "surprise"),
        ({"name": "../../etc"}, "name"),
        ({"classes": ["only"]}, "classes"),
        ({"classes": ["a", "a", "b"]}, "classes"),
        ({"input_shape": [3, 8]}, "input_shape.2"),
        ({"input_shape": [3, 8, 0]}, "input_shape.2"),
        ({"normalisation": {"mean": [0, 0, 0], "std": [1, 1, 0]}}, "normalisation.std.2"),
        ({"normalisation": {"mean": [0, 0], "std": [1, 1]}}, "normalisation"),
        ({"threat": {"norm": "l7", "eps": "8/255"}}, "threat"),
        ({"threat": {"norm": "linf", "eps": "-8/255"}}, "threat"),
        ({"data": {"name": "cifar10", "sha256": "0", "images": 0}}, "data.images"),
        ({"network": None}, "network"),
    ],
)
def test_a_wrong_config_names_the_field(folder, fields, where):
    edit_config(folder, **fields)
    assert refused(folder, "config.json").startswith(f"config.json: {where}: ")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"a": NaN}', '{"a": -Infinity}', '{"a": 1e999}', "[" * 100_000, b"\xff\xfe"],
)
@pytest.mark.parametrize("name", ["config.json", "results.json"])
def test_junk_json_is_refused(folder, name, text):
    rewrite(folder, name, text)
    refused(folder, name)


@pytest.mark.parametrize("text", ["{}", '{"receipts": {}}', '{"receipts": [1]}'])
def test_results_hold_a_list_of_receipts(folder, text):
    rewrite(folder, "results.json", text)
    assert "receipts" in refused(folder, "results.json")


def test_nothing_is_written_that_would_not_be_read(tmp_path):
    with pytest.raises(ValueError, match="Out of range float"):
        write_receipts(tmp_path, [{"robust_accuracy": float("nan")}])


def test_the_errors_are_the_users_business(folder):
    edit_config(folder, schema_version=2)
    with pytest.raises(UserError) as error:
        read_folder(folder)
    assert (error.value.exit_code, error.value.status) == (2, 422)
