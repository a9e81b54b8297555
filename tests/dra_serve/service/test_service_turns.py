"""Work that takes turns: one at a time, each as far as the others, and an error that harms nobody."""

import threading
import time
from functools import partial

import pytest

from dra_serve.service.turns import PassOn, take_turns


def test_pieces_of_work_alternate_and_never_overlap() -> None:
    steps: list[int] = []
    running = threading.Lock()

    def work(me: int, pass_on: PassOn) -> int:
        for _ in range(5):
            assert running.acquire(blocking=False), "two at once"
            steps.append(me)
            time.sleep(0.001)
            running.release()
            pass_on()
        return me

    results = take_turns([partial(work, k) for k in range(3)], seconds=0)
    assert results == [0, 1, 2]
    assert steps == [0, 1, 2] * 5


def test_a_turn_lasts_at_least_its_time() -> None:
    steps: list[int] = []

    def work(me: int, pass_on: PassOn) -> None:
        for _ in range(3):
            steps.append(me)
            pass_on()

    take_turns([partial(work, k) for k in range(2)], seconds=60)
    assert steps == [0, 0, 0, 1, 1, 1]


def test_who_ends_or_fails_hands_over() -> None:
    done: list[str] = []

    def fails(pass_on: PassOn) -> None:
        pass_on()
        raise ValueError("mine alone")

    def goes_on(pass_on: PassOn) -> None:
        for _ in range(4):
            pass_on()
        done.append("the other")

    with pytest.raises(ValueError, match="mine alone"):
        take_turns([fails, lambda _: None, goes_on], seconds=0)
    assert done == ["the other"]


def test_one_piece_of_work_needs_no_thread() -> None:
    assert take_turns([lambda _: threading.current_thread()]) == [threading.current_thread()]
