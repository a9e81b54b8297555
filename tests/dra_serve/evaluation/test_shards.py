"""Several processes, one evaluation: the same outcomes, one receipt, and no message between them."""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from dra_serve.errors import BadRequest
from dra_serve.evaluation import evaluate
from dra_serve.evaluation.merge import merging
from dra_serve.evaluation.shards import WHOLE, Shard, shard_of
from tests.dra_serve.evaluation.test_evaluation import same

OPTIONS = {"suite": "fast", "eps": "0.001,0.004", "seed": 3}
COMMAND = [sys.executable, "-m", "dra_serve.cli", "evaluate"]
WORDS = ["--suite", "fast", "--eps", "0.001,0.004", "--seed", "3"]
STABLE = ("suite", "attacks", "outcomes", "robust_accuracy", "wilson_95", "n", "images", "model_sha256")


def start(folder, data, state, receipt, *words, **environment):
    return subprocess.Popen(
        [*COMMAND, folder, "--data", data, "--state", state, "--receipt", receipt, *WORDS, *words],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def written(state) -> int:
    """Return when the state was last written, 0 for never."""
    return max((file.stat().st_mtime_ns for file in state.glob("0-of-1.json")), default=0)


@pytest.mark.parametrize(("batch", "world"), [(7, 1), (128, 4)])
def test_neither_batch_nor_shards_change_an_outcome(model, images, tmp_path, batch, world) -> None:
    whole = evaluate(model, images, batch=128, **OPTIONS)
    for rank in range(world):
        outcomes = evaluate(
            model, images, batch=batch, state=tmp_path / "state", shard=Shard(rank, world), **OPTIONS
        )
        assert outcomes.complete == (rank == world - 1)
    assert same(outcomes, whole)
    assert not np.array_equal(whole.after[0], whole.after[-1])


def test_more_shards_than_images_will_do(model, images, tmp_path) -> None:
    options = {"eps": 0.001, "steps": 3}
    for rank in reversed(range(50)):
        outcomes = evaluate(model, images, state=tmp_path / "state", shard=Shard(rank, 50), **options)
        assert outcomes.complete == (rank == 0)
    assert same(outcomes, evaluate(model, images, **options))


def test_a_shard_says_who_is_missing_and_how_far_they_are(model, images, tmp_path) -> None:
    def stop(standing) -> None:
        if standing.done >= 5:
            raise KeyboardInterrupt

    state = {"state": tmp_path / "state", "batch": 5}
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, images, shard=Shard(2, 3), on_batch=stop, **state, **OPTIONS)
    first = evaluate(model, images, shard=Shard(0, 3), **state, **OPTIONS)
    assert not first.complete
    assert first.done.sum() == 14 + 5
    assert first.missing == ("shard 1 (0 of 13 images done)", "shard 2 (5 of 13 images done)")
    evaluate(model, images, shard=Shard(1, 3), **state, **OPTIONS)
    evaluate(model, images, shard=Shard(2, 3), **state, **OPTIONS)
    alone = evaluate(model, images, **state, **OPTIONS)  # no shard: it finds the three
    assert same(alone, evaluate(model, images, **OPTIONS))
    assert sorted(path.name for path in state["state"].iterdir()) == [f"{r}-of-3.json" for r in range(3)]


def test_the_last_of_four_processes_writes_the_one_receipt(folder, data, tmp_path) -> None:
    state, receipt = tmp_path / "state", tmp_path / "receipt.json"
    shards = [start(folder, data, state, receipt, RANK=str(rank), WORLD_SIZE="4") for rank in range(3)]
    said = [process.communicate(timeout=60) for process in shards]
    assert [process.returncode for process in shards] == [0, 0, 0], said
    assert not receipt.exists()
    assert all(out == "" for out, _ in said)
    assert all("of 40 images are missing: " in err for _, err in said)
    assert any("shard 3 (0 of 10 images done)" in err for _, err in said)
    out, err = start(folder, data, state, receipt, "--json", RANK="3", WORLD_SIZE="4").communicate(timeout=60)
    assert err == ""
    assert json.loads(out) == json.loads(receipt.read_text())
    assert not state.exists()

    whole = tmp_path / "whole.json"
    assert start(folder, data, state, whole).wait(timeout=60) == 0
    one, four = json.loads(whole.read_text()), json.loads(receipt.read_text())
    assert {key: one[key] for key in STABLE} == {key: four[key] for key in STABLE}


def test_killed_at_random_moments_it_ends_with_the_same_receipt(folder, data, tmp_path) -> None:
    state, receipt, whole = tmp_path / "state", tmp_path / "receipt.json", tmp_path / "whole.json"
    assert start(folder, data, tmp_path / "other", whole, "-n", "20").wait(timeout=60) == 0
    rng, kills, progress = np.random.default_rng(time.time_ns()), 0, []
    deadline = time.monotonic() + 60
    while not receipt.exists():
        assert time.monotonic() < deadline, f"{kills} kills, {progress}"
        before = written(state)
        process = start(folder, data, state, receipt, "--batch", "1", "-n", "20")
        while written(state) == before and process.poll() is None:  # it begins by writing its state
            time.sleep(0.005)
        if len(set(progress)) < 3:  # killed at different points of the work
            time.sleep(rng.uniform(0, 0.5))
            process.kill()
            kills += 1
        process.wait()
        for file in state.glob("0-of-1.json"):
            progress.append(sum(json.loads(file.read_text())["done"]))
    assert progress == sorted(progress)
    assert len(set(progress)) >= 3, f"{progress}: it ended before it was killed often enough"
    killed, straight = json.loads(receipt.read_text()), json.loads(whole.read_text())
    assert {key: killed[key] for key in STABLE} == {key: straight[key] for key in STABLE}
    assert not state.exists()


def test_of_many_who_finish_together_one_merges(tmp_path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    (folder / "0-of-1.json").write_text("{}")

    def claim(_: int) -> bool:
        with merging(folder) as mine:
            time.sleep(0.05 * mine)
        return mine

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(claim, range(8))) == [False] * 7 + [True]
    assert not list(tmp_path.iterdir())


def test_a_merge_that_fails_or_is_killed_loses_nothing(model, images, tmp_path) -> None:
    state = tmp_path / "state"
    whole = evaluate(model, images, state=state, **OPTIONS)
    with pytest.raises(OSError, match="disk full"), merging(state):
        raise OSError("disk full")
    assert (state / "0-of-1.json").exists()
    state.rename(tmp_path / "state.merging")  # as a kill inside `merging` leaves it

    def never(standing) -> None:
        raise AssertionError("nothing is left to do")

    assert same(evaluate(model, images, state=state, on_batch=never, **OPTIONS), whole)


def test_shards_part_the_images() -> None:
    order = np.random.default_rng(1).permutation(10)
    parts = [Shard(rank, 4).part(order) for rank in range(4)]
    assert [len(part) for part in parts] == [3, 3, 2, 2]
    assert sorted(np.concatenate(parts)) == list(range(10))
    assert shard_of({}) == WHOLE
    assert shard_of({"RANK": "2", "WORLD_SIZE": "3"}) == Shard(2, 3)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RANK": "0"}, "WORLD_SIZE: got None"),
        ({"WORLD_SIZE": "2"}, "RANK: got None; allowed: an integer from 0 to 1"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK: got 2"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK: got -1"),
        ({"RANK": "0", "WORLD_SIZE": "0"}, "WORLD_SIZE: got 0"),
        ({"RANK": "one", "WORLD_SIZE": "2"}, "RANK: got one"),
        ({"RANK": "", "WORLD_SIZE": "2"}, "RANK: got ; allowed"),
    ],
)
def test_bad_shard_variables_are_named(environment, message) -> None:
    with pytest.raises(BadRequest, match=message):
        shard_of(environment)
