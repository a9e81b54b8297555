"""Slices of a batch in threads: the same bits as one thread gives, and the first failure ends them all."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import dra_serve
from dra_serve.cache import cache_folder
from dra_serve.errors import BadRequest, UserError
from dra_serve.evaluation import evaluate, read_images
from dra_serve.evaluation.session import find_state, find_threads
from dra_serve.evaluation.threads import cores, in_slices, threads_of_a_shard
from tests.dra_serve.evaluation.broken import Linear
from tests.dra_serve.evaluation.conftest import N
from tests.dra_serve.evaluation.test_evaluate_command import run
from tests.dra_serve.evaluation.test_evaluation import same

RUNS = (
    {"suite": "fast", "eps": 0.004},
    {"attack": "fab-t", "eps": 0.004, "steps": 5},
    {"attack": "square", "eps": 0.004, "queries": 40},
)
CIFAR = Path(__file__).parents[2] / "golden" / "cifar10-test-40.npz"


class Linked(Linear):
    """Waits in every answer until so many threads are in one, so it answers only to threads at once."""

    def __init__(self, threads):
        self.barrier = threading.Barrier(threads, timeout=10)

    def answer(self, x):
        self.barrier.wait()
        return super().answer(x)


@pytest.mark.parametrize("options", RUNS)
@pytest.mark.parametrize("threads", [2, 5])
def test_threads_change_no_outcome_and_no_state(model, images, tmp_path, threads, options) -> None:
    def left(threads):
        """Return the outcomes and what lies on disk, timings apart."""
        state = tmp_path / f"state-{threads}"
        outcomes = evaluate(model, images, batch=16, threads=threads, state=state, **options)
        return outcomes, json.loads((state / "0-of-1.json").read_text()) | {"seconds": None}

    (one, state_of_one), (many, state_of_many) = left(1), left(threads)
    assert same(one, many)
    assert state_of_one == state_of_many
    assert 0 < one.robust.sum() < one.clean.sum()


@pytest.mark.parametrize("name", ["dra", "at"])
def test_the_bundled_pair_s_bits_do_not_depend_on_the_batch(name) -> None:
    model, images = dra_serve.load(f"bundled:{name}"), read_images(CIFAR)
    x = images.x[:].astype(np.float32) / np.float32(255)
    whole = (model.logits(x), *model.loss_and_grad(x, images.y))
    for size in (1, 3, 16, 39):
        parts = [slice(i, i + size) for i in range(0, N, size)]
        again = [(model.logits(x[p]), *model.loss_and_grad(x[p], images.y[p])) for p in parts]
        for a, b in zip(whole, zip(*again, strict=True), strict=True):
            assert np.array_equal(a, np.concatenate(b))


def test_slices_run_at_once_and_come_back_in_order() -> None:
    model, rows = Linked(3), np.arange(8)
    x = np.zeros((8, *model.input_shape), np.float32)

    def ask(asked, part):
        asked.logits(x[part])
        return list(rows[part])

    assert in_slices(ask, model, 8, threads=3) == [[0, 1], [2, 3, 4], [5, 6, 7]]


def test_one_thread_is_the_caller_s_own() -> None:
    assert in_slices(lambda *_: threading.get_ident(), Linear(), 8, threads=1) == [threading.get_ident()]
    assert in_slices(lambda *_: threading.get_ident(), Linear(), 1, threads=4) == [threading.get_ident()]


def test_a_slice_that_fails_ends_the_others_and_its_own_error_is_raised() -> None:
    asked_of = [0, 0, 0]
    x = np.zeros((1, *Linear.input_shape), np.float32)

    def work(model, part):
        for _ in range(100_000):  # of which each takes more than a microsecond: minutes, if nobody ends it
            model.logits(x)
            time.sleep(0.001)
            asked_of[part.start] += 1
            if part.start == 2 and asked_of[2] == 5:
                raise ZeroDivisionError("in the third")

    started = time.monotonic()
    with pytest.raises(ZeroDivisionError, match="in the third"):
        in_slices(work, Linear(), 3, threads=3)
    assert time.monotonic() - started < 10
    assert max(asked_of) < 10_000


def test_an_interrupt_ends_every_slice(tmp_path, data, folder) -> None:
    words = ["--data", data, "--attack", "square", "--queries", "100000", "--eps", "0.0001", "--threads", "2"]
    command = [sys.executable, "-m", "dra_serve.cli", "evaluate", folder, *words, "--state", tmp_path / "s"]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a child of `nohup` would ignore it
    process = subprocess.Popen(
        [*map(str, command)], env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True
    )
    signal.signal(signal.SIGINT, before)
    while not (tmp_path / "s" / "0-of-1.json").exists() and process.poll() is None:
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=10)  # alone the attack would take minutes
    assert process.returncode not in (0, None), said


def test_the_cores_are_shared_among_the_shards_of_a_machine(monkeypatch) -> None:
    monkeypatch.setattr("dra_serve.evaluation.threads.cores", lambda: 12)
    assert threads_of_a_shard({}) == 12
    assert threads_of_a_shard({"RANK": "1", "WORLD_SIZE": "4"}) == 3
    assert threads_of_a_shard({"RANK": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "2"}) == 6
    assert threads_of_a_shard({"RANK": "1", "WORLD_SIZE": "13"}) == 1
    with pytest.raises(BadRequest, match="LOCAL_WORLD_SIZE: got 0"):
        threads_of_a_shard({"LOCAL_WORLD_SIZE": "0"})


def test_the_command_takes_the_cores_and_torch_takes_one(model) -> None:
    assert find_threads(model, None) == cores()
    assert find_threads(model, 3) == 3
    assert find_threads(Linear(), None) == 1
    with pytest.raises(BadRequest, match="threads: got 2; allowed: 1 for a torch module"):
        find_threads(Linear(), 2)


@pytest.mark.parametrize("threads", [0, -1, 1025, 1.5])
def test_a_bad_number_of_threads_is_refused(model, images, threads) -> None:
    with pytest.raises(BadRequest, match=f"threads: got {threads}"):
        evaluate(model, images, threads=threads)


def test_receipts_are_the_same_whatever_the_threads(folder, data) -> None:
    made = [json.loads(run(folder, "--data", data, "--steps", "5", "--threads", n, "--json")) for n in (1, 2)]
    assert made[0] | {"seconds": 0} == made[1] | {"seconds": 0}


def test_other_code_does_not_go_on_with_a_state(model, images, tmp_path, monkeypatch) -> None:
    state = tmp_path / "state"
    evaluate(model, images, eps=0.001, state=state)
    monkeypatch.setattr("dra_serve.evaluation.runner.code", lambda: "dra-serve 9.9")
    with pytest.raises(UserError, match=r"state: .*json was begun by dra-serve 0.* this is dra-serve 9\.9"):
        evaluate(model, images, eps=0.001, state=state)


def test_in_the_cache_other_code_begins_again_and_says_so(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("DRA_SERVE_CACHE", str(tmp_path))
    state = find_state("f" * 64)
    state.mkdir(parents=True)
    assert find_state("f" * 64) == state
    assert state.parent == cache_folder() / "evaluations"
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("dra_serve.evaluation.provenance.code", lambda: "dra-serve 9.9")
    assert find_state("f" * 64) != state
    assert f"begins again: {state} was begun by other code" in capsys.readouterr().err
    assert state.exists()
