"""What is evaluated on: the same images have the same hash however they are stored; bad files are named."""

import json
import sys

import numpy as np
import pyarrow
import pyarrow.parquet as pq
import pytest

from dra_serve.errors import BadRequest, DataMissing, MissingExtra, UserError
from dra_serve.evaluation import LabelledImages, read_images
from dra_serve.images import encode_png

PIXELS = np.random.default_rng(1).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
FEATURES = {"img": {"_type": "Image"}, "label": {"names": ["cat", "dog", "ship"], "_type": "ClassLabel"}}


def write_parquet(folder, pixels=PIXELS, *, name="test-00000-of-00001", features=None, column="img"):
    rows = [{column: {"bytes": encode_png(image), "path": f"{i}.png"}, "label": i} for i, image in pixels]
    table = pyarrow.Table.from_pylist(rows)
    if features:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    (folder / "plain_text").mkdir(exist_ok=True)
    pq.write_table(table, folder / "plain_text" / f"{name}.parquet")
    return folder


@pytest.fixture
def toys(tmp_path):
    (tmp_path / "toys").mkdir()
    return tmp_path / "toys"


def test_parquet_in_the_hubs_layout(toys) -> None:
    write_parquet(toys, enumerate(PIXELS[:2]), name="test-00000-of-00002", features=FEATURES)
    write_parquet(toys, [(2, PIXELS[2])], name="test-00001-of-00002", features=FEATURES)
    write_parquet(toys, [(0, PIXELS[0])], name="train-00000-of-00001")
    images = read_images(toys)
    assert np.array_equal(images.x[:], PIXELS.transpose(0, 3, 1, 2))
    assert images.y.tolist() == [0, 1, 2]
    assert images.classes == ("cat", "dog", "ship")
    assert images.name == read_images(toys / "plain_text").name == "toys"


def test_the_hash_is_of_the_images_not_of_the_files(toys, tmp_path) -> None:
    x, y = PIXELS.transpose(0, 3, 1, 2), np.arange(3, dtype=np.int32)
    np.savez(tmp_path / "a.npz", x=x, y=y)
    hashes = {
        read_images(write_parquet(toys, enumerate(PIXELS), column="image")).sha256,
        read_images(tmp_path / "a.npz").sha256,
        LabelledImages.of(x, y).sha256,
    }
    assert len(hashes) == 1
    assert LabelledImages.of(x, y[::-1]).sha256 not in hashes


def test_parquet_is_decoded_once_and_mapped_afterwards(toys, monkeypatch) -> None:
    write_parquet(toys, enumerate(PIXELS))
    first = read_images(toys)
    assert isinstance(first.x, np.memmap)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)  # as if it were not installed
    assert np.array_equal(read_images(toys).x, first.x)
    write_parquet(toys, enumerate(PIXELS[::-1]))
    with pytest.raises(MissingExtra, match=r"pip install 'dra-serve\[eval\]'"):
        read_images(toys)


def test_a_subset_reads_its_own_rows(toys) -> None:
    part = read_images(write_parquet(toys, enumerate(PIXELS)), n=2, seed=1)
    assert part.total == 3
    assert np.array_equal(part.x[:], PIXELS.transpose(0, 3, 1, 2)[part.indices])
    assert part.y.tolist() == part.indices.tolist()
    assert part.x.shape == (2, 3, 8, 8)


@pytest.mark.parametrize(("n", "match"), [(0, "n: got 0"), (4, "n: got 4")])
def test_a_subset_out_of_range_is_refused(toys, n, match) -> None:
    with pytest.raises(BadRequest, match=match):
        read_images(write_parquet(toys, enumerate(PIXELS)), n=n)


def test_missing_data_says_how_to_get_it(tmp_path) -> None:
    for nowhere in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(DataMissing, match="hf download"):
            read_images(nowhere)
    with pytest.raises(DataMissing, match="no file"):
        read_images(tmp_path / "nowhere.npz")


def test_files_that_are_something_else(toys, tmp_path) -> None:
    path = tmp_path / "bad.npz"
    np.savez(path, x=np.zeros((2, 3, 8, 8), np.float64), y=np.zeros(2, np.int64))
    with pytest.raises(BadRequest, match="uint8"):
        read_images(path)
    np.savez(path, x=np.zeros((0, 3, 8, 8), np.uint8), y=np.zeros(0, np.int64))
    with pytest.raises(BadRequest, match="at least one image"):
        read_images(path)
    path.write_bytes(b"no zip")
    with pytest.raises(BadRequest, match=r"bad\.npz"):
        read_images(path)
    parquet = toys / "test-0.parquet"
    parquet.write_bytes(b"no parquet")
    with pytest.raises(BadRequest, match=r"test-0\.parquet"):
        read_images(toys)
    pq.write_table(pyarrow.table({"text": ["a"], "label": [0]}), parquet)
    with pytest.raises(BadRequest, match="columns text, label"):
        read_images(toys)


def test_images_of_two_sizes_and_broken_ones_are_named(toys) -> None:
    with pytest.raises(BadRequest, match=r"image 1 of \(4, 4\) pixels after \(8, 8\)"):
        read_images(write_parquet(toys, [(0, PIXELS[0]), (1, PIXELS[1][:4, :4])]))
    table = pyarrow.Table.from_pylist([{"img": {"bytes": b"no image", "path": "0.png"}, "label": 0}])
    pq.write_table(table, toys / "plain_text" / "test-00000-of-00001.parquet")
    with pytest.raises(UserError, match="data, image 0"):
        read_images(toys)


def test_float_images_are_taken_and_on_the_grid_they_are_the_same_images(tmp_path) -> None:
    x, y = PIXELS.transpose(0, 3, 1, 2), np.arange(3)
    as_floats = x.astype(np.float32) / np.float32(255)
    same = LabelledImages.of(as_floats, y)
    assert same.x.dtype == np.uint8
    assert same.sha256 == LabelledImages.of(x, y).sha256
    off = np.clip(as_floats + np.float32(0.001), 0, 1)
    assert LabelledImages.of(off, y).x is off
    assert LabelledImages.of(off, y).sha256 != same.sha256
    np.savez(tmp_path / "off.npz", x=off, y=y)
    assert read_images(tmp_path / "off.npz").sha256 == LabelledImages.of(off, y).sha256


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (1.01, "values from 0.5 to 1.01"),
        (-0.01, "values from -0.01"),
        (np.nan, "values from nan"),
        (np.inf, "values from 0.5 to inf"),
    ],
)
def test_float_images_outside_0_to_1_are_refused(value, match) -> None:
    x = np.full((2, 3, 8, 8), 0.5, np.float32)
    x[1, 2, 3, 4] = value
    with pytest.raises(BadRequest, match=f"data: got {match}.*; allowed: finite values in"):
        LabelledImages.of(x, np.zeros(2, np.int64))


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (np.zeros((2, 3, 8, 8), np.float64), np.zeros(2, np.int64)),
        (np.zeros((2, 3, 8, 8), np.int32), np.zeros(2, np.int64)),
        (np.zeros((2, 3, 8), np.uint8), np.zeros(2, np.int64)),
        (np.zeros((2, 3, 8, 8), np.uint8), np.zeros(3, np.int64)),
        (np.zeros((2, 3, 8, 8), np.uint8), np.zeros((2, 1), np.int64)),
        (np.zeros((2, 3, 8, 8), np.uint8), np.zeros(2, np.float32)),
    ],
)
def test_other_shapes_and_types_are_refused(x, y) -> None:
    with pytest.raises(BadRequest, match=r"data: got x .*allowed: x uint8, or float32 in"):
        LabelledImages.of(x, y)
