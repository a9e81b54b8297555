"""The micro-batcher alone: who shares a call, who is refused, who leaves, who is answered at the end."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from dra_serve.checks import check_images
from dra_serve.errors import BadRequest, Overloaded, ShuttingDown
from dra_serve.service.batcher import Batcher, Call
from dra_serve.service.open_inference.statistics import Statistics

SHAPE = (1, 2, 2)


class Model:
    """Answers (sum, -sum) of each image; waits inside the first call until `go` is set."""

    def __init__(self) -> None:
        self.go, self.entered = threading.Event(), threading.Event()
        self.sizes: list[int] = []

    def logits(self, x: np.ndarray) -> np.ndarray:
        self.sizes.append(len(x))
        self.entered.set()
        assert self.go.wait(10)
        check_images(x, SHAPE)
        sums = x.reshape(len(x), -1).sum(axis=1)
        return np.stack([sums, -sums], axis=1)


def image(value: float, n: int = 1) -> np.ndarray:
    return np.full((n, *SHAPE), value, np.float32)


def batcher(
    model: Model, calls: list[Call] | None = None, *, name: str = "m", max_images: int = 4, queue: int = 8
) -> Batcher:
    observe = (lambda _: None) if calls is None else calls.append
    return Batcher(name, model.logits, max_images=max_images, queue=queue, observe=observe)


async def busy(own: Batcher, model: Model) -> "asyncio.Task[np.ndarray]":
    """Return the ask that the model is working on, held there until model.go."""
    first = asyncio.create_task(own.ask(image(0)))
    await asyncio.to_thread(model.entered.wait, 10)
    return first


def in_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(asyncio.wait_for(test(), 20))

    run.__name__ = test.__name__
    return run


@in_loop
async def test_an_idle_model_is_asked_at_once_and_alone() -> None:
    model = Model()
    model.go.set()
    own = batcher(model)
    for value in (0.25, 0.5):
        assert_array_equal(await own.ask(image(value)), [[4 * value, -4 * value]])
    assert model.sizes == [1, 1]


@in_loop
async def test_an_idle_model_is_asked_in_the_thread_at_hand_and_counted() -> None:
    model = Model()
    model.go.set()
    calls: list[Call] = []
    own = batcher(model, calls)
    loop = asyncio.get_running_loop()
    assert_array_equal(own.answer_now(image(0.5), loop), [[2, -2]])
    with pytest.raises(BadRequest):
        own.answer_now(image(2.0), loop)
    await asyncio.sleep(0)
    assert [[(ask.images, ask.wait_ns, ask.failed) for ask in call.asks] for call in calls] == [
        [(1, 0, False)],
        [(1, 0, True)],
    ]


@in_loop
async def test_nobody_goes_before_those_who_wait_and_no_two_ask_at_once() -> None:
    model = Model()
    own = batcher(model)
    loop = asyncio.get_running_loop()
    at_hand = asyncio.create_task(asyncio.to_thread(own.answer_now, image(0.25), loop))
    await asyncio.to_thread(model.entered.wait, 10)
    assert own.answer_now(image(0.5), loop) is None  # another thread asks the model
    asks = [asyncio.create_task(own.ask(image(k / 4))) for k in (2, 3)]
    await asyncio.sleep(0.05)
    assert model.sizes == [1]
    assert own.answer_now(image(0.5), loop) is None  # others wait for it
    model.go.set()
    assert_array_equal(await at_hand, [[1, -1]])
    assert_array_equal(np.concatenate(await asyncio.gather(*asks))[:, 0], [2, 3])
    assert model.sizes == [1, 2]
    await own.close()
    assert own.answer_now(image(0.5), loop) is None


@in_loop
async def test_what_comes_while_the_model_is_busy_shares_the_next_call() -> None:
    model = Model()
    calls: list[Call] = []
    own = batcher(model, calls)
    asks = [await busy(own, model)]
    asks += [asyncio.create_task(own.ask(image(k / 8, n))) for k, n in ((1, 1), (2, 2), (3, 1), (4, 1))]
    await asyncio.sleep(0)
    model.go.set()
    answers = await asyncio.gather(*asks)
    assert model.sizes == [1, 4, 1]  # in order, no call above four images
    for answer, k, n in zip(answers, range(5), (1, 1, 2, 1, 1), strict=True):
        assert_array_equal(answer, [[k / 2, -k / 2]] * n)
    assert [[ask.images for ask in call.asks] for call in calls] == [[1], [1, 2, 1], [1]]


@in_loop
async def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    model = Model()
    own = batcher(model, queue=3)
    asks = [await busy(own, model), *(asyncio.create_task(own.ask(image(0))) for _ in range(2))]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="the queue of m is full") as refused:
        await own.ask(image(0, n=2))
    assert refused.value.retry_after >= 1
    asks.append(asyncio.create_task(own.ask(image(0))))  # one more still fits
    model.go.set()
    await asyncio.gather(*asks)


@in_loop
async def test_who_leaves_gives_the_place_free_and_is_not_computed() -> None:
    model = Model()
    own = batcher(model, queue=2)
    first = await busy(own, model)
    leaves, stays = (asyncio.create_task(own.ask(image(k / 4))) for k in (1, 2))
    await asyncio.sleep(0)
    leaves.cancel()
    await asyncio.sleep(0)
    later = asyncio.create_task(own.ask(image(0.75)))
    await asyncio.sleep(0)
    model.go.set()
    assert_array_equal(np.concatenate(await asyncio.gather(first, stays, later))[:, 0], [0, 2, 3])
    assert leaves.cancelled()
    assert model.sizes == [1, 2]


@in_loop
async def test_who_leaves_during_the_call_harms_nobody() -> None:
    model = Model()
    own = batcher(model)
    first = await busy(own, model)
    first.cancel()
    model.go.set()
    assert_array_equal(await own.ask(image(0.5)), [[2, -2]])


@in_loop
async def test_a_bad_image_fails_alone() -> None:
    model = Model()
    calls: list[Call] = []
    own = batcher(model, calls)
    values = (0.25, np.nan, 0.5)
    asks = [await busy(own, model), *(asyncio.create_task(own.ask(image(value))) for value in values)]
    wrong_shape = asyncio.create_task(own.ask(np.zeros((1, 1, 3, 3), np.float32)))
    await asyncio.sleep(0)
    model.go.set()
    _, good, bad, also_good, misshapen = await asyncio.gather(*asks, wrong_shape, return_exceptions=True)
    assert_array_equal(good, [[1, -1]])
    assert_array_equal(also_good, [[2, -2]])
    assert isinstance(bad, BadRequest)
    assert isinstance(misshapen, BadRequest)
    assert [[ask.failed for ask in call.asks] for call in calls] == [[False], [False, True, False, True]]


@in_loop
async def test_closing_answers_what_waits_and_takes_nothing_more() -> None:
    model = Model()
    own = batcher(model, name="closed", max_images=1)
    asks = [await busy(own, model), *(asyncio.create_task(own.ask(image(k / 4))) for k in (1, 2))]
    await asyncio.sleep(0)
    closing = asyncio.create_task(own.close())
    await asyncio.sleep(0)
    with pytest.raises(ShuttingDown):
        await own.ask(image(0))
    model.go.set()
    await closing
    assert [answer[0, 0] for answer in await asyncio.gather(*asks)] == [0, 1, 2]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("dra-batch-closed")]


@in_loop
async def test_statistics_are_of_images_calls_and_waits() -> None:
    model, statistics = Model(), Statistics()
    own = Batcher("m", model.logits, max_images=8, queue=8, observe=statistics.add)
    asks = [await busy(own, model), *(asyncio.create_task(own.ask(image(v))) for v in (0.5, 2.0, 0.25))]
    await asyncio.sleep(0.05)
    model.go.set()
    await asyncio.gather(*asks, return_exceptions=True)
    told = statistics.as_dict()
    stats = told["inference_stats"]
    assert (told["inference_count"], told["execution_count"]) == (3, 2)  # answered images, and calls for them
    assert [stats[name]["count"] for name in ("success", "fail", "queue")] == [3, 1, 4]
    assert stats["queue"]["ns"] > 3 * 0.04e9  # three waited those 50 ms
    assert stats["fail"]["ns"] > 0.04e9  # the one that failed had waited as well
    assert stats["success"]["ns"] > 2 * 0.04e9
    computed = sum(stats[f"compute_{part}"]["count"] for part in ("input", "infer", "output"))
    assert computed == 3 * stats["success"]["count"]
    assert [entry["batch_size"] for entry in told["batch_stats"]] == [1, 3]
    assert abs(told["last_inference"] / 1000 - time.time()) < 10
