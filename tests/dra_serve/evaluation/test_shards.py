"""Several processes, one evaluation: the same outcomes, one receipt, and no message between them."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from dra_serve.errors import BadRequest
from dra_serve.evaluation import build_receipt, evaluate, make_plan, read_images
from dra_serve.evaluation.merge import merging
from dra_serve.evaluation.shards import WHOLE, Shard, shard_of
from tests.dra_serve.evaluation.test_evaluation import same

_CIRCUMSTANCES = ("seconds", "commit", "packages", "warnings")
OPTIONS = {"suite": "fast", "eps": "0.001,0.004", "seed": 3}
COMMAND = [sys.executable, "-m", "dra_serve.cli", "evaluate"]
WORDS = ["--suite", "fast", "--eps", "0.001,0.004", "--seed", "3"]


def start(folder, data, state, receipt, *words, **environment):
    return subprocess.Popen(
        [*COMMAND, folder, "--data", data, "--state", state, "--receipt", receipt, *WORDS, *words],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def done(state) -> int:
    """Return how many images of how many attacks are on disk."""
    file = state / "0-of-1.json"
    return sum(json.loads(file.read_text())["done"]) if file.exists() else 0


def straight(model, data, n=None):
    """Return the receipt of an evaluation in one go, in this process, as JSON has it."""
    images = read_images(data, n=n, seed=3)
    receipt = build_receipt(
        evaluate(model, images, **OPTIONS),
        images,
        make_plan(model.input_shape, **OPTIONS),
        model=model.name,
        model_sha256=model.sha256,
        gradient_sha256=model.gradient_sha256,
        classes=model.classes,
        subset_seed=3,
    )
    return json.loads(json.dumps(receipt))


def stable(receipt):
    """Return what does not depend on when and how it was made."""
    return {key: value for key, value in receipt.items() if key not in _CIRCUMSTANCES}


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


def test_the_last_of_four_processes_writes_the_one_receipt(model, folder, data, tmp_path) -> None:
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
    assert stable(json.loads(out)) == stable(straight(model, data))


ACCELERATE = "accelerate launch --multi_gpu --num_processes 2 --main_process_port 0 --num_machines 1"


@pytest.mark.parametrize(
    "launcher",
    [
        f"{ACCELERATE} --mixed_precision no --dynamo_backend no --no_python",
        "torchrun --nproc-per-node 2 --no-python",
    ],
    ids=["accelerate", "torchrun"],
)
def test_a_launcher_s_processes_share_the_images(model, folder, data, tmp_path, launcher) -> None:
    state, receipt = tmp_path / "state", tmp_path / "receipt.json"
    program, *options = launcher.split()
    where = ["--data", data, "--state", state, "--receipt", receipt]
    done = subprocess.run(
        [Path(sys.executable).parent / program, *options, *COMMAND, folder, *where, *WORDS],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert " of 2 is done; " in done.stderr  # said by the one that was not the last
    assert stable(json.loads(receipt.read_text())) == stable(straight(model, data))


def test_killed_at_random_moments_it_ends_with_the_same_receipt(model, folder, data, tmp_path) -> None:
    state, receipt = tmp_path / "state", tmp_path / "receipt.json"
    rng, units = np.random.default_rng(time.time_ns()), [0]
    for _ in range(3):
        process = start(folder, data, state, receipt, "--batch", "1", "-n", "20")
        goal = units[-1] + rng.integers(1, 20)
        while done(state) < goal and process.poll() is None:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.02))
        process.kill()
        assert process.wait() == -signal.SIGKILL, units
        units.append(done(state))
    assert units == sorted(set(units))  # no kill loses what was on disk, and each run goes on from there
    process = start(folder, data, state, receipt, "--batch", "1", "-n", "20")
    assert process.wait(timeout=60) == 0
    assert stable(json.loads(receipt.read_text())) == stable(straight(model, data, n=20))
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
