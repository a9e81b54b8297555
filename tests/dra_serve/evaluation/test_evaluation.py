"""Evaluation: independent of batch size, resumable, and receipts that re-run to the same figures."""

import json
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from dra_serve.cli import app
from dra_serve.errors import BadRequest, DataMissing
from dra_serve.evaluation import evaluate, paired_difference, read_images, wilson
from dra_serve.evaluation.receipt import pack, unpack
from dra_serve.images import encode_png
from dra_serve.loading import load

OPTIONS = {"eps": 0.001, "steps": 5, "restarts": 2, "seed": 3}


@pytest.fixture
def folder(tiny_onnx_folder):
    return tiny_onnx_folder(name="tiny")


@pytest.fixture
def data(tmp_path, folder):
    """Return an .npz of random images, most of them labelled as the model sees them."""
    model = load(folder)
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (40, *model.input_shape), dtype=np.uint8)
    y = model.logits(x.astype(np.float32) / 255).argmax(1)
    y[:5] = (y[:5] + 1) % len(model.classes)
    np.savez(tmp_path / "toy.npz", x=x, y=y)
    return tmp_path / "toy.npz"


def _same(a, b):
    return all(np.array_equal(getattr(a, k), getattr(b, k)) for k in ("clean", "robust", "robust_8bit"))


def test_batch_size_changes_nothing(folder, data):
    model, images = load(folder), read_images(data)
    whole = evaluate(model, images, batch=40, **OPTIONS)
    assert _same(whole, evaluate(model, images, batch=7, **OPTIONS))
    assert whole.clean.sum() == 35
    assert 0 < whole.robust.sum() < 35
    assert not (whole.robust & ~whole.clean).any()


def test_a_subset_is_a_seeded_permutation_of_the_whole(folder, data):
    model = load(folder)
    whole = evaluate(model, read_images(data), **OPTIONS)
    part = read_images(data, n=11, seed=4)
    assert sorted(part.indices) != list(range(11))
    assert np.array_equal(evaluate(model, part, **OPTIONS).robust, whole.robust[part.indices])


def test_a_killed_evaluation_goes_on(folder, data, tmp_path):
    model, images, state = load(folder), read_images(data), tmp_path / "state.json"

    def die(done, _outcomes):
        if done >= 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(model, images, batch=10, state=state, on_batch=die, **OPTIONS)
    seen = []
    rest = evaluate(
        model, images, batch=10, state=state, on_batch=lambda done, _: seen.append(done), **OPTIONS
    )
    assert seen == [30, 40]
    assert _same(rest, evaluate(model, images, **OPTIONS))


def test_a_state_file_of_another_evaluation_is_refused(folder, data, tmp_path):
    model, images, state = load(folder), read_images(data), tmp_path / "state.json"
    evaluate(model, images, state=state, **OPTIONS)
    with pytest.raises(BadRequest, match="state"):
        evaluate(model, images, state=state, **OPTIONS | {"steps": 6})
    state.write_text("{")
    with pytest.raises(BadRequest, match="state"):
        evaluate(model, images, state=state, **OPTIONS)


def test_receipt_verifies_and_an_edited_one_does_not(folder, data, tmp_path):
    run = CliRunner()
    words = ["evaluate", str(folder), "--data", str(data), "--eps", "0.001", "--steps", "5", "--json", "--keep"]
    made = json.loads(run.invoke(app, words, catch_exceptions=False).stdout)
    assert made["n"] == 40
    assert made["clean_accuracy"] == 35 / 40
    assert made["robust_accuracy"] == unpack(made["outcomes"]["robust"], 40).mean()
    assert made["wilson_95"] == list(wilson(int(unpack(made["outcomes"]["robust"], 40).sum()), 40))
    verify = ["evaluate", str(folder), "--data", str(data), "--verify", str(folder / "results.json")]
    again = run.invoke(app, verify, catch_exceptions=False)
    assert again.stdout.startswith("same")
    made["robust_accuracy"] += 0.025
    (tmp_path / "edited.json").write_text(json.dumps(made))
    edited = run.invoke(app, [*verify[:-1], str(tmp_path / "edited.json")])
    assert isinstance(edited.exception, BadRequest)
    assert load(folder).receipts[0]["n"] == 40


def test_parquet_in_the_hubs_layout(tmp_path):
    x = np.random.default_rng(1).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    rows = [
        {"img": {"bytes": encode_png(image), "path": f"{i}.png"}, "label": i} for i, image in enumerate(x)
    ]
    (tmp_path / "plain_text").mkdir()
    pq.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "plain_text" / "test-00000-of-00001.parquet")
    images = read_images(tmp_path)
    assert np.array_equal(images.x, x.transpose(0, 3, 1, 2))
    assert images.y.tolist() == [0, 1, 2]
    assert images.name == tmp_path.name


@pytest.mark.parametrize(("n", "match"), [(0, "n: got 0"), (41, "n: got 41")])
def test_a_subset_out_of_range_is_refused(data, n, match):
    with pytest.raises(BadRequest, match=match):
        read_images(data, n=n)


def test_missing_data_says_how_to_get_it(tmp_path):
    with pytest.raises(DataMissing, match="hf download"):
        read_images(tmp_path / "nowhere")


def test_wilson_gives_the_reference_interval():
    low, high = wilson(6731, 10_000)
    assert (round(low, 3), round(high, 3)) == (0.664, 0.682)
    assert wilson(0, 10)[0] == 0.0


def test_paired_difference_counts_discordant_images():
    a = np.array([1] * 60 + [0] * 40, dtype=bool)
    b = np.array([1] * 50 + [0] * 10 + [1] * 5 + [0] * 35, dtype=bool)
    d, (low, high) = paired_difference(a, b)
    assert d == pytest.approx(0.05)
    half = 1.959964 * np.sqrt(15 - 25 / 100) / 100
    assert (high - low) / 2 == pytest.approx(half)
    assert paired_difference(a, a) == (0.0, (0.0, 0.0))


def test_outcomes_pack_and_unpack():
    flags = np.random.default_rng(0).random(37) < 0.5
    assert np.array_equal(unpack(pack(flags), 37), flags)


def test_data_files_that_are_something_else(tmp_path):
    path = Path(tmp_path, "bad.npz")
    np.savez(path, x=np.zeros((2, 3, 8, 8), np.float32), y=np.zeros(2, np.int64))
    with pytest.raises(BadRequest, match="uint8"):
        read_images(path)
