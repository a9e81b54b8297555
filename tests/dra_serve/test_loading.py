"""`dra_serve.load` from each kind of place."""

import os
from pathlib import Path

import numpy as np
import onnx
import pytest

import dra_serve
from dra_serve.errors import BadRequest, ModelFolderError
from dra_serve.loading import bundled_names

SHAPE = (3, 8, 8)


@pytest.fixture
def onnx_file(tmp_path, tiny_onnx):
    path = tmp_path / "mine.onnx"
    onnx.save(tiny_onnx(), path)
    return path


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DRA_SERVE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def images(n=4):
    return np.random.default_rng(0).random((n, *SHAPE), dtype=np.float32)


def test_a_folder(tiny_onnx_folder):
    folder = tiny_onnx_folder("mine")
    model = dra_serve.load(folder)
    assert model.name == "mine"
    assert model.config.name == "mine"
    np.testing.assert_array_equal(dra_serve.load(str(folder)).logits(images()), model.logits(images()))


def test_an_onnx_file_gets_a_gradient(onnx_file, cache):
    model = dra_serve.load(onnx_file)
    assert model.name == "mine"
    assert model.classes == ("0", "1", "2", "3")
    assert model.input_shape == SHAPE
    assert model.config is None
    assert model.receipts == ()
    x = images()
    result = dra_serve.attack(model, x, model.logits(x).argmax(axis=1), eps=0.2)
    assert result.success.any()


def test_the_gradient_is_derived_once(onnx_file, cache, monkeypatch):
    before = dra_serve.load(onnx_file)
    (cached,) = cache.rglob("*.onnx")
    os.utime(cached, (0, 0))
    x = images()
    after = dra_serve.load(onnx_file)
    assert cached.stat().st_mtime == 0
    assert [*cache.rglob("*.onnx")] == [cached]
    y = np.zeros(4, int)
    np.testing.assert_array_equal(after.loss_and_grad(x, y)[2], before.loss_and_grad(x, y)[2])


def test_a_cache_that_cannot_be_written_is_done_without(onnx_file, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("DRA_SERVE_CACHE", str(tmp_path / "file"))
    assert dra_serve.load(onnx_file).has_gradient


def test_another_file_of_the_same_name_gets_its_own(onnx_file, cache, tiny_onnx):
    dra_serve.load(onnx_file)
    onnx.save(tiny_onnx(seed=1), onnx_file)
    assert dra_serve.load(onnx_file).has_gradient
    assert len([*cache.rglob("*.onnx")]) == 2


def test_the_users_cache_folder_by_default(onnx_file, tmp_path, monkeypatch):
    monkeypatch.delenv("DRA_SERVE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    dra_serve.load(onnx_file)
    assert len([*(tmp_path / "xdg" / "dra-serve").rglob("*.onnx")]) == 1


def test_a_file_that_rounds_has_no_gradient_and_names_the_operator(onnx_file, cache):
    model = onnx.load(onnx_file)
    for node in model.graph.node:
        if node.op_type == "Tanh":
            node.op_type = "Round"
    onnx.save(model, onnx_file)
    for _ in range(2):  # the second time from the cache
        loaded = dra_serve.load(onnx_file)
        assert not loaded.has_gradient
        assert loaded.notes[-1].startswith("no gradient: ")
        assert "by steps (Round)" in loaded.notes[-1]
        assert "Square instead" in loaded.notes[-1]
        assert loaded.logits(images()).shape == (4, 4)
    assert not [*cache.rglob("*.onnx")]


def test_a_broken_file_is_refused(onnx_file, cache):
    onnx_file.write_bytes(b"junk")
    with pytest.raises(ModelFolderError, match=r"mine\.onnx: not a readable ONNX model"):
        dra_serve.load(onnx_file)


def test_each_bundled_name_is_a_folder_that_reads():
    home = Path(dra_serve.__file__).parent / "bundled"
    assert bundled_names() == sorted(path.parent.name for path in home.glob("*/config.json"))
    for name in bundled_names():
        assert dra_serve.load(f"bundled:{name}").config is not None


@pytest.mark.parametrize("source", ["bundled:nobody", "bundled:", "bundled:../../tests"])
def test_an_unknown_bundled_name(source):
    with pytest.raises(BadRequest, match=r"source: got bundled:.*; allowed: ") as error:
        dra_serve.load(source)
    assert error.value.field == "source"


@pytest.mark.parametrize(
    "source", ["nowhere", "./nowhere/at/all", "/nowhere", "models/mine.onnx", "a/b/c", "", "org/", "-/-"]
)
def test_a_source_of_no_kind(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises((BadRequest, ModelFolderError)):
        dra_serve.load(source)


def test_a_file_of_another_kind(tmp_path):
    (tmp_path / "model.txt").write_text("x")
    with pytest.raises(
        BadRequest, match=r"allowed: bundled:NAME, a model folder, an \.onnx file or a Hub id"
    ):
        dra_serve.load(tmp_path / "model.txt")


def test_only_the_hub_has_revisions(tiny_onnx_folder):
    with pytest.raises(BadRequest, match="revision: got v1"):
        dra_serve.load(tiny_onnx_folder(), revision="v1")
