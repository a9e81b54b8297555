"""Evaluation: independent of batch size and array library, resumable, judged by the model itself."""

import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

import dra_serve
from dra_serve.attacks import ATTACKS, Attack, AttackResult, pgd
from dra_serve.errors import BadRequest, DraServeError
from dra_serve.evaluation import LabelledImages, Outcomes, evaluate
from dra_serve.images import decode, encode_png, to_float, to_pixels
from tests.dra_serve.evaluation.conftest import WRONG, N

OPTIONS = {"eps": 0.001, "steps": 5, "restarts": 2, "seed": 3}


def same(a: Outcomes, b: Outcomes) -> bool:
    return all(np.array_equal(getattr(a, k), getattr(b, k)) for k in ("clean", "robust", "robust_8bit"))


def test_batch_size_changes_nothing(model, images) -> None:
    whole = evaluate(model, images, batch=N, **OPTIONS)
    assert same(whole, evaluate(model, images, batch=7, **OPTIONS))
    assert whole.clean.sum() == N - WRONG
    assert 0 < whole.robust.sum() < N - WRONG
    assert not whole.robust[:WRONG].any()


def test_arrays_will_do(model, images) -> None:
    assert same(dra_serve.evaluate(model, images.x, images.y, **OPTIONS), evaluate(model, images, **OPTIONS))


def test_another_array_library_changes_nothing(model, images) -> None:
    class OverTorch:
        classes, input_shape, has_gradient = model.classes, model.input_shape, True

        def logits(self, x: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(model.logits(x.numpy()))

        def loss_and_grad(self, x, y, loss="ce", target=None):
            return tuple(map(torch.from_numpy, model.loss_and_grad(x.numpy(), y.numpy(), loss, target)))

    over_torch = evaluate(OverTorch(), images, as_array=torch.from_numpy, **OPTIONS)
    assert same(over_torch, evaluate(model, images, **OPTIONS))


def test_a_subset_is_a_seeded_permutation_of_the_whole(model, images) -> None:
    whole = evaluate(model, images, **OPTIONS)
    part = LabelledImages.of(images.x, images.y, n=11, seed=4)
    assert sorted(part.indices) != list(range(11))
    assert np.array_equal(evaluate(model, part, **OPTIONS).robust, whole.robust[part.indices])


def test_an_attack_without_randomness_is_evaluated_too(model, images) -> None:
    outcomes = evaluate(model, images, attack="fgsm", eps=0.05)
    assert 0 < outcomes.robust.sum() < N - WRONG


def test_the_8bit_verdict_is_that_on_the_png(model, images) -> None:
    eps = 3 / 255
    outcomes = evaluate(model, images, eps=eps, steps=3)
    x = images.x[:].astype(np.float32) / 255
    adversarial = pgd(model, x, images.y, eps=eps, steps=3).x_adv
    decoded = [decode(encode_png(pixels)) for pixels in to_pixels(adversarial)]  # 3/255 is on the 8-bit grid
    sent = to_float(np.stack(decoded))
    assert np.abs(sent - x).max() <= eps + 1e-6
    right = model.logits(sent).argmax(1) == images.y
    assert np.array_equal(outcomes.robust_8bit, outcomes.clean & right)
    assert 0 < right.sum() < N - WRONG


def test_without_a_radius_robust_is_clean(model, images) -> None:
    outcomes = evaluate(model, images, eps=0, steps=1)
    assert np.array_equal(outcomes.robust, outcomes.clean)


def test_an_attack_that_cheats_is_found_out(model, images, monkeypatch) -> None:
    def cheat(model, x, y, **options):
        fooled = np.ones(len(x), bool)
        nothing = np.zeros(len(x))
        return AttackResult(x_adv=1 - x, success=fooled, loss=nothing, steps_done=nothing, complete=True)

    monkeypatch.setitem(ATTACKS, "cheat", Attack("cheat", cheat, ATTACKS["pgd"].parameters))
    with pytest.raises(DraServeError, match=r"cheat: left the linf ball of 0\.1"):
        evaluate(model, images, attack="cheat", eps=0.1)


def test_what_the_attack_claims_does_not_count(model, images, monkeypatch) -> None:
    def boast(model, x, y, **options):
        fooled = np.ones(len(x), bool)
        nothing = np.zeros(len(x))
        return AttackResult(x_adv=x, success=fooled, loss=nothing, steps_done=nothing, complete=True)

    monkeypatch.setitem(ATTACKS, "boast", Attack("boast", boast, ATTACKS["pgd"].parameters))
    outcomes = evaluate(model, images, attack="boast", batch=9)
    assert np.array_equal(outcomes.robust, outcomes.clean)
    assert outcomes.unconfirmed == N - WRONG


def test_an_interrupted_evaluation_goes_on(model, images, tmp_path) -> None:
    state, seen = tmp_path / "state.json", []

    def die(done: int, _outcomes: Outcomes) -> None:
        if done >= 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(model, images, batch=10, state=state, on_batch=die, **OPTIONS)
    rest = evaluate(
        model, images, batch=15, state=state, on_batch=lambda done, _: seen.append(done), **OPTIONS
    )
    assert seen == [35, 40]
    assert same(rest, evaluate(model, images, **OPTIONS))


KILLED = """
import sys
from pathlib import Path
import dra_serve
from dra_serve.evaluation import evaluate, read_images
model = dra_serve.load(sys.argv[1])
evaluate(model, read_images(Path(sys.argv[2])), batch=4, state=Path(sys.argv[3]),
         on_batch=lambda done, _: print(done, flush=True), eps=0.001, steps=5, restarts=2, seed=3)
"""


def test_a_killed_process_loses_no_finished_batch(model, images, folder, data, tmp_path) -> None:
    state = tmp_path / "state.json"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, folder, data, state], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line == "12\n":
            process.send_signal(signal.SIGKILL)
            break
    process.communicate()
    seen: list[int] = []
    rest = evaluate(
        model, images, batch=4, state=state, on_batch=lambda done, _: seen.append(done), **OPTIONS
    )
    assert seen == [] or seen[0] >= 16  # 12 were done, whenever the signal came
    assert same(rest, evaluate(model, images, **OPTIONS))


def test_a_state_file_of_another_evaluation_is_refused(model, images, tmp_path) -> None:
    state = tmp_path / "state.json"
    evaluate(model, images, state=state, **OPTIONS)
    whole = state.read_text()
    with pytest.raises(BadRequest, match=r"state: .*this very evaluation"):
        evaluate(model, images, state=state, **OPTIONS | {"steps": 6})
    with pytest.raises(BadRequest, match=r"state: .*this very evaluation"):
        evaluate(model, images, state=state, model_sha256="0" * 64, **OPTIONS)
    for damaged in ("{", "[]", whole.replace('"clean": "', '"clean": "0000')):
        state.write_text(damaged)
        with pytest.raises(BadRequest, match="state: "):
            evaluate(model, images, state=state, **OPTIONS)


def test_memory_does_not_grow_with_the_images(model, tmp_path) -> None:
    def peak(n: int) -> int:
        shape = (n, *model.input_shape)
        x = np.lib.format.open_memmap(tmp_path / f"{n}.npy", mode="w+", dtype=np.uint8, shape=shape)
        tracemalloc.start()
        evaluate(model, LabelledImages.of(x, np.zeros(n, np.int64)), attack="fgsm", eps=0.1)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(500)  # what the first use of anything allocates
    assert peak(20_000) < peak(2_000) + 1_000_000  # 20,000 images are 3.8 MB, and 15 MB as float32


def test_figures_so_far_come_with_every_batch(model, images) -> None:
    seen = []
    evaluate(model, images, batch=15, on_batch=lambda done, so_far: seen.append((done, so_far)), **OPTIONS)
    assert [done for done, _ in seen] == [15, 30, 40]
    assert [int(so_far.clean.sum()) <= done for done, so_far in seen] == [True] * 3
    assert seen[-1][1].seconds > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 0}, "batch: got 0"),
        ({"attack": "none"}, "attack: got none"),
        ({"eps": -1}, "eps: got -1"),
        ({"speed": 1}, "speed: got 1"),
    ],
)
def test_a_bad_option_is_refused_by_name(model, images, change, message) -> None:
    with pytest.raises(BadRequest, match=message):
        evaluate(model, images, **change)


def test_images_that_do_not_fit_the_model_are_refused(model, images) -> None:
    x, y = images.x[:], images.y
    with pytest.raises(BadRequest, match=r"data: got images of shape \(3, 8, 7\)"):
        evaluate(model, x[..., :7], y)
    with pytest.raises(BadRequest, match="data: got labels from 1 to 4"):
        evaluate(model, x, y + 1)
    swapped = LabelledImages.of(x, y, classes=(model.classes[1], model.classes[0], *model.classes[2:]))
    with pytest.raises(BadRequest, match="data: got classes dog, cat"):
        evaluate(model, swapped)
    with pytest.raises(BadRequest, match="model_sha256"):
        evaluate(_Nameless(model), images, state=Path("never-written"))


class _Nameless:
    """A classifier that is no file and has no sha256."""

    def __init__(self, model) -> None:
        self.classes, self.input_shape, self.has_gradient = model.classes, model.input_shape, True
        self.logits, self.loss_and_grad = model.logits, model.loss_and_grad
