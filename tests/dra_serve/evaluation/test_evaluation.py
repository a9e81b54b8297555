"""Evaluation: independent of batch size and array library, resumable, judged by the model itself."""

import tracemalloc
from functools import wraps
from pathlib import Path

import numpy as np
import pytest
import torch

import dra_serve
from dra_serve.attacks import ATTACKS, Attack, AttackResult, pgd
from dra_serve.errors import BadRequest, DraServeError
from dra_serve.evaluation import LabelledImages, Outcomes, evaluate
from dra_serve.evaluation.outcomes import Standing
from dra_serve.evaluation.shards import Shard
from dra_serve.images import decode, encode_png, to_float, to_pixels
from tests.dra_serve.evaluation.conftest import WRONG, N

OPTIONS = {"eps": 0.001, "steps": 5, "restarts": 2, "seed": 3}


def same(a: Outcomes, b: Outcomes) -> bool:
    columns = ("clean", "after", "robust_8bit", "done")
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in columns)


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
    @wraps(pgd)  # its options too
    def cheat(model, x, y, **options):
        fooled = np.ones(len(x), bool)
        nothing = np.zeros(len(x))
        return AttackResult(x_adv=1 - x, success=fooled, loss=nothing, steps_done=nothing, complete=True)

    monkeypatch.setitem(ATTACKS, "cheat", Attack("cheat", cheat, ATTACKS["pgd"].parameters))
    with pytest.raises(DraServeError, match=r"cheat: left the linf ball of 0\.1"):
        evaluate(model, images, attack="cheat", eps=0.1)


def test_what_the_attack_claims_does_not_count(model, images, monkeypatch) -> None:
    @wraps(pgd)
    def boast(model, x, y, **options):
        fooled = np.ones(len(x), bool)
        nothing = np.zeros(len(x))
        return AttackResult(x_adv=x, success=fooled, loss=nothing, steps_done=nothing, complete=True)

    monkeypatch.setitem(ATTACKS, "boast", Attack("boast", boast, ATTACKS["pgd"].parameters))
    outcomes = evaluate(model, images, attack="boast", batch=9)
    assert np.array_equal(outcomes.robust, outcomes.clean)
    assert outcomes.unconfirmed == N - WRONG


def test_an_interrupted_evaluation_goes_on(model, images, tmp_path) -> None:
    state, seen = tmp_path / "state", []

    def die(standing: Standing) -> None:
        if standing.done >= 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(model, images, batch=10, state=state, on_batch=die, **OPTIONS)
    rest = evaluate(
        model, images, batch=15, state=state, on_batch=lambda now: seen.append(now.done), **OPTIONS
    )
    assert seen == [20, 35, 40]
    assert same(rest, evaluate(model, images, **OPTIONS))


def test_a_state_of_another_evaluation_is_refused(model, images, tmp_path) -> None:
    state = tmp_path / "state"
    evaluate(model, images, state=state, **OPTIONS)
    with pytest.raises(BadRequest, match=r"state: .*this very evaluation"):
        evaluate(model, images, state=state, **OPTIONS | {"steps": 6})
    with pytest.raises(BadRequest, match=r"state: .*this very evaluation"):
        evaluate(model, images, state=state, model_sha256="0" * 64, **OPTIONS)
    file = state / "0-of-1.json"
    whole = file.read_text()
    for damaged in (
        "{",
        "[]",
        whole.replace('"clean": "', '"clean": "0000'),
        whole.replace('"done": [40]', '"done": [41]'),
        whole.replace('"done": [40]', '"done": [40, 40]'),
    ):
        file.write_text(damaged)
        with pytest.raises(BadRequest, match="state: "):
            evaluate(model, images, state=state, **OPTIONS)


def test_a_state_folder_is_its_own(model, images, tmp_path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(BadRequest, match=r"state: got thesis\.tex in .*; allowed: a new folder"):
        evaluate(model, images, state=folder, **OPTIONS)
    with pytest.raises(BadRequest, match=r"state: .* allowed: a folder, not a file"):
        evaluate(model, images, state=folder / "thesis.tex", **OPTIONS)


def test_memory_does_not_grow_with_the_images(model, tmp_path) -> None:
    def peak(n: int) -> int:
        shape = (n, *model.input_shape)
        x = np.lib.format.open_memmap(tmp_path / f"{n}.npy", mode="w+", dtype=np.uint8, shape=shape)
        tracemalloc.start()
        evaluate(model, LabelledImages.of(x, np.zeros(n, np.int64)), attack="fgsm", eps=(0.05, 0.1))
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(500)  # what the first use of anything allocates
    assert peak(20_000) < peak(2_000) + 1_000_000  # 20,000 images are 3.8 MB, and 15 MB as float32


def test_figures_so_far_come_with_every_batch(model, images) -> None:
    seen: list[Standing] = []
    whole = evaluate(model, images, batch=15, on_batch=seen.append, **OPTIONS | {"eps": (0.001, 0.002)})
    assert [now.done for now in seen] == [0, 0, 15, 15, 30, 30, 40]
    assert [now.share for now in seen] == pytest.approx([0, 15 / 80, 30 / 80, 45 / 80, 60 / 80, 70 / 80, 1])
    assert all(0 <= now.robust <= now.done for now in seen)
    assert seen[-1].robust == whole.robust.sum()
    assert [now.seconds_left is None for now in seen] == [True, True, *[False] * 5]
    assert seen[-1].seconds_left == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 0}, "batch: got 0"),
        ({"attack": "none"}, "attack: got none"),
        ({"eps": -1}, "eps: got -1"),
        ({"speed": 1}, "speed: got 1"),
        ({"steps": 0}, "steps: got 0"),
        ({"seed": -1}, "seed: got -1"),
        ({"norm": "l3"}, "norm: got l3"),
        ({"suite": "slow"}, "suite: got slow; allowed: quick, fast, standard"),
        ({"suite": "quick", "attack": "pgd"}, "suite: got quick, and attack pgd; allowed: one of them"),
        ({"suite": "quick", "steps": 5}, "steps: got 5; allowed: nothing: quick fixes its budgets"),
        ({"eps": "8/255,8/255"}, "eps: got 8/255,8/255; allowed: 1 to 32 radii, each once"),
        ({"eps": []}, "eps: got "),
        ({"eps": "8/255,8"}, "eps: got 8.0; allowed: 0 <= eps <= 1"),
        ({"shard": Shard(0, 2)}, "state: got None; allowed: a folder that all shards share"),
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
