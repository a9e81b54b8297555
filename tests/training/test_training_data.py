"""Data sets: CIFAR-10 from Parquet files in the Hub's layout, and digits."""

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PilImage

from dra_serve.errors import BadRequest, DataMissing
from training.data import ImageData, load_data
from training.data.cifar10 import COLUMNS, load_cifar10
from training.data.image_data import as_float

KINDS = Features({"img": Image(), "label": ClassLabel(names=[str(i) for i in range(10)])})


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DRA_SERVE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def tiny_cifar10(tmp_path):
    """A folder of 12 training and 5 test images, and the arrays in it."""
    rng, folder, arrays = np.random.default_rng(0), tmp_path / "cifar10" / "plain_text", {}
    folder.mkdir(parents=True)
    for split, n in (("train", 12), ("test", 5)):
        x = rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
        y = rng.integers(0, 10, n).tolist()
        rows = {"img": [PilImage.fromarray(image) for image in x], "label": y}
        Dataset.from_dict(rows, KINDS).to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))
        arrays[split] = (x, y)
    return folder.parent, arrays


def test_wrong_number_of_images_is_refused_and_not_cached(tiny_cifar10, tmp_path):
    folder, _ = tiny_cifar10
    for _ in range(2):
        with pytest.raises(DataMissing, match=r"has 12 train images, not 50000"):
            load_cifar10(str(folder))
    assert not list((tmp_path / "cache").glob("*.safetensors"))


def test_pixels_and_labels_are_those_of_the_files(tiny_cifar10, monkeypatch):
    """At a size a test can write; the second load reads the cache, without decoding."""
    folder, arrays = tiny_cifar10
    for split, (x, _) in arrays.items():
        monkeypatch.setitem(COLUMNS, split, len(x))
    data = load_data("cifar10", str(folder))
    again = load_data("cifar10", str(folder))
    for split, (x, y) in arrays.items():
        assert np.array_equal(getattr(data, f"{split}_x").numpy(), x.transpose(0, 3, 1, 2))
        assert getattr(data, f"{split}_y").tolist() == y
    assert data.classes[3] == "cat"
    assert data.input_shape == (3, 32, 32)
    assert again.sha256() == data.sha256()


def test_changed_content_is_noticed_at_the_same_names_and_sizes(tiny_cifar10, monkeypatch):
    folder, arrays = tiny_cifar10
    for split, (x, _) in arrays.items():
        monkeypatch.setitem(COLUMNS, split, len(x))
    before = load_cifar10(str(folder))
    path = next(folder.rglob("test*.parquet"))
    rows, size = Dataset.from_parquet(str(path)), path.stat().st_size
    labels = [(label + 1) % 10 for label in rows["label"][:]]
    rows.remove_columns("label").add_column("label", labels).cast(KINDS).to_parquet(str(path))
    assert path.stat().st_size == size
    assert load_cifar10(str(folder)).test_y.tolist() == labels
    assert torch.equal(before.train_x, load_cifar10(str(folder)).train_x)


def test_cache_cut_short_is_decoded_again(tiny_cifar10, monkeypatch, tmp_path):
    folder, arrays = tiny_cifar10
    for split, (x, _) in arrays.items():
        monkeypatch.setitem(COLUMNS, split, len(x))
    before = load_cifar10(str(folder))
    (cached,) = (tmp_path / "cache").glob("*.safetensors")
    cached.write_bytes(cached.read_bytes()[:-100])
    assert load_cifar10(str(folder)).sha256() == before.sha256()
    assert [file.name for file in (tmp_path / "cache").glob("*.safetensors")] == [cached.name]


@pytest.mark.parametrize("there", [False, True])
def test_folder_without_data_says_how_to_get_it(tmp_path, there):
    folder = tmp_path / "empty"
    if there:
        folder.mkdir()
    with pytest.raises(DataMissing, match=r"hf download uoft-cs/cifar10") as error:
        load_cifar10(str(folder))
    assert error.value.field == "data"
    assert str(folder) in str(error.value)


def test_parquet_of_something_else_is_refused(tmp_path):
    for split in ("train", "test"):
        Dataset.from_dict({"text": ["a"]}).to_parquet(str(tmp_path / f"{split}.parquet"))
    with pytest.raises(DataMissing):
        load_cifar10(str(tmp_path))


def test_unknown_data_set_is_refused():
    with pytest.raises(BadRequest, match="cifar10, digits"):
        load_data("cifar11")


def test_digits_split_is_fixed_and_disjoint():
    data, again = load_data("digits"), load_data("digits")
    assert (len(data.train_y), len(data.test_y)) == (1400, 397)
    assert data.input_shape == (1, 8, 8)
    assert data.train_x.max() == 255
    assert set(data.test_y.tolist()) == set(range(10))
    assert data.sha256() == again.sha256()


def test_hash_sees_every_pixel_and_label(data):
    assert data.sha256() == ImageData(**vars(data)).sha256()
    for part in ("train_x", "train_y", "test_x", "test_y"):
        changed = {**vars(data), part: getattr(data, part).clone()}
        changed[part].view(-1)[0] += 1
        assert ImageData(**changed).sha256() != data.sha256()


def test_channel_statistics_are_in_units_of_x(data):
    x = as_float(data.train_x)
    mean, std = data.channel_statistics()
    torch.testing.assert_close(torch.tensor(mean), x.mean((0, 2, 3)), atol=2e-6, rtol=0)
    torch.testing.assert_close(torch.tensor(std), x.std((0, 2, 3), correction=0), atol=2e-6, rtol=0)
