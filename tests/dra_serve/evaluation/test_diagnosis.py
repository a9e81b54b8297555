"""Every warning is raised by a model with that fault, and none by a sound one."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import dra_serve
from dra_serve.errors import BadRequest
from dra_serve.evaluation.diagnosis import (
    CHECKS,
    NAMES,
    Case,
    claimed,
    diagnose,
    warnings_after,
    warnings_for,
)
from dra_serve.evaluation.doctor import examples
from tests.dra_serve.evaluation import broken
from training.torch_classifier import TorchClassifier

EPS = 8 / 255
DOCUMENT = Path(__file__).parents[3] / "docs" / "evaluation.md"


def found(model, *, n=64, norm="linf", eps=EPS, checks=CHECKS, **options):
    """Return the findings that are no `ok`, by name, on n images labelled by the sound model."""
    x, y = options.pop("images", broken.images(n))
    case = Case.of(model, x, y, norm=norm, eps=eps, **options)
    return {finding.name: finding for finding in diagnose(case, checks) if finding.verdict != "ok"}


def warned(model, **options):
    return {name for name, finding in found(model, **options).items() if finding.verdict == "warning"}


def only(*names):
    return tuple(check for check in CHECKS if check.name in names)


@pytest.mark.parametrize(("norm", "eps"), [("linf", EPS), ("linf", 3 / 255), ("l2", 0.5)])
def test_the_sound_linear_model_raises_nothing(norm, eps) -> None:
    assert found(broken.Linear(), norm=norm, eps=eps) == {}


@pytest.mark.parametrize(("name", "norm", "eps"), [("dra", "linf", EPS), ("at", "l2", 0.5)])
def test_the_bundled_pair_raises_nothing(name, norm, eps) -> None:
    model = dra_serve.load(f"bundled:{name}")
    shown = examples(model)
    x = shown.x.astype(np.float32) / 255
    assert found(model, images=(x, shown.y), norm=norm, eps=eps) == {}
    assert warnings_for(model, x, shown.y, norm=norm, eps=eps) == []
    assert claimed(model.receipts).verdict == "ok"


def test_the_torch_network_of_the_sound_model_raises_nothing() -> None:
    layer = torch.nn.Linear(broken.W.shape[1], broken.K)
    layer.load_state_dict({"weight": torch.from_numpy(broken.W), "bias": torch.from_numpy(broken.B)})
    model = TorchClassifier(torch.nn.Sequential(torch.nn.Flatten(), layer), tuple("abcde"), broken.SHAPE)
    assert found(model, as_array=torch.from_numpy) == {}


FAULTY = {
    "writes-input": broken.Centres,
    "randomised": broken.Noisy,
    "batch-dependent": broken.BatchCentred,
    "probabilities": broken.Softmax,
    "reduced-precision": broken.Half,
    "no-gradient": broken.BlackBox,
    "non-finite": broken.NotANumber,
    "zero-gradients": broken.Flat,
    "wrong-gradient": broken.Downhill,
    "straight-through": broken.Estimated,
    "graphs-disagree": broken.TwoModels,
    "eps-zero-differs": broken.TwoModels,
    "loss-does-not-rise": broken.Downhill,
    "one-step-wins": broken.RightOnTheGrid,
    "unbounded-attack-fails": broken.Constant,
    "black-box-wins": broken.Flat,
}


@pytest.mark.parametrize("name", FAULTY)
def test_a_model_with_the_fault_is_warned_of(name) -> None:
    assert name in warned(FAULTY[name]())


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (broken.Centres, {"writes-input"}),
        (broken.Half, {"reduced-precision"}),
        (broken.Bfloat, {"reduced-precision"}),
        (broken.BlackBox, {"no-gradient"}),
        (broken.HalfTheGradient, {"wrong-gradient"}),
        (broken.TwoModels, {"graphs-disagree", "eps-zero-differs"}),
    ],
)
def test_a_fault_that_shows_in_one_place_is_warned_of_there_alone(model, names) -> None:
    cheap = tuple(check for check in CHECKS if check.cheap or check.name == "eps-zero-differs")
    steps = model in (broken.Half, broken.Bfloat)  # and a step has no slope
    assert warned(model(), checks=cheap) - ({"wrong-gradient"} if steps else set()) == names


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (broken.Half, "every logit is a float16 number"),
        (broken.Bfloat, "every logit is a bfloat16 number"),
        (broken.Quantised, "no more values than 8 bits have"),
        (broken.EightBitInput, "a change below an 8-bit level of the input changes no logit"),
    ],
)
def test_reduced_precision_says_where(model, said) -> None:
    measured = found(model(), checks=only("reduced-precision"))["reduced-precision"].measured
    assert measured.split("; ")[1:] == [said]


def test_labels_in_another_order_leave_the_model_at_chance() -> None:
    x, y = broken.images(64)
    assert warned(broken.Linear(), images=(x, (y + 1) % broken.K)) == {"clean-at-chance"}


def test_a_lucky_guesser_is_still_at_chance() -> None:
    x, _ = broken.images(64)
    right = broken.Linear().logits(x).argmax(1)
    y = np.where(np.arange(64) < 17, right, (right + 1) % broken.K)  # 12.8 by guessing
    assert warned(broken.Linear(), images=(x, y)) == {"clean-at-chance"}
    y = np.where(np.arange(64) < 22, right, (right + 1) % broken.K)
    assert warned(broken.Linear(), images=(x, y)) == set()


def test_a_softmax_in_half_precision_does_not_sum_to_one_and_is_seen() -> None:
    assert "probabilities" in warned(broken.HalfSoftmax(), checks=only("probabilities"))


def test_where_no_gradient_can_be_compared_nothing_is_claimed() -> None:
    x, y = broken.images(16)
    (finding,) = diagnose(Case.of(broken.Flat(), x, y), only("wrong-gradient"))
    assert finding.measured == "no image has a slope to compare it with"


def test_saturated_ce_is_told_from_a_gradient_that_is_nowhere() -> None:
    saturated, flat = (
        found(model, checks=only("zero-gradients"))["zero-gradients"].measured
        for model in (broken.Saturated(), broken.Flat())
    )
    assert "0 by dlr" in saturated
    assert "attack with dlr" in saturated
    assert flat == "zero on 64 of 64 images by ce, 64 by dlr"


def test_infinite_logits_are_no_numbers() -> None:
    x, _ = broken.images(64)
    bright = int((x.mean(axis=(1, 2, 3)) > 0.5).sum())
    measured = found(broken.Infinite(), checks=only("non-finite"))["non-finite"].measured
    assert 0 < bright < 64
    assert measured.startswith(f"{bright} of 64 images")


def test_attacks_that_meet_a_nan_are_not_run_and_say_so() -> None:
    unfinished = found(broken.NotANumber())["black-box-wins"]
    assert unfinished.verdict == "not run"
    assert "not finite" in unfinished.measured


def test_a_gradient_that_leaves_half_the_pixels_out_is_wrong_though_its_own_slope_is_right() -> None:
    assert "wrong-gradient" in warned(broken.HalfTheGradient(), checks=only("wrong-gradient"))


def test_a_budget_too_small_is_seen_by_a_larger_one() -> None:
    rng = np.random.default_rng(0)
    x = np.float32(0.5) + rng.uniform(-EPS / 5, EPS / 5, (64, *broken.SHAPE)).astype(np.float32)
    model = broken.NarrowGate(EPS)
    y = model.logits(x).argmax(1)
    finding = found(model, images=(x, y), checks=only("steps-matter"))["steps-matter"]
    few, more = map(int, re.findall(r"steps fool (\d+) and 100 steps (\d+)", finding.measured)[0])
    assert few < more


def test_few_images_are_seen_in_a_model_s_own_receipts() -> None:
    receipts = ({"robust_accuracy": 0.5, "n": 10_000}, {"robust_accuracy": 0.5, "n": 100})
    assert claimed(receipts[:1]).verdict == "ok"
    finding = claimed(receipts)
    assert finding.verdict == "warning"
    assert "100 images leave an interval of 19.2 points" in finding.measured


def test_what_square_adds_is_read_from_the_figures() -> None:
    runs = [("apgd-ce", 520), ("fab-t", 500), ("square", 480)]
    assert warnings_after(runs, n=10_000, classes=10) == []  # 0.2 points, AutoAttack's limit
    told = warnings_after([*runs[:2], ("square", 479)], n=10_000, classes=10)
    assert told == ["black-box-wins: square fooled 21 of the 500 images that the white-box attacks left"]


def test_square_after_square_is_no_comparison() -> None:
    assert warnings_after([("square", 9000), ("square", 5000)], n=10_000, classes=10) == []


def test_few_images_are_read_from_the_figures() -> None:
    assert warnings_after([("pgd", 50)], n=100, classes=10) == [
        "few-images: 100 images leave an interval of 19.2 points"
    ]


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (9, "apgd-t tried all 8 other classes, not 9"),
        (3, "there is no fourth"),
        (2, "the margin stood in for dlr"),
    ],
)
def test_few_classes_are_said(classes, said) -> None:
    told = warnings_after([("apgd-t", 5000)], n=10_000, classes=classes)
    assert len(told) == 1
    assert told[0].startswith("few-classes: ")
    assert said in told[0]
    assert warnings_after([("pgd", 5000)], n=10_000, classes=classes) == []


def test_the_cheap_checks_cost_what_they_say() -> None:
    x, y = broken.images(500)
    model = broken.Counting()
    assert warnings_for(model, x, y) == []
    assert 35 * 32 < model.forwards - -(-1024 // broken.K) <= 36 * 32
    assert model.gradients == 8 * 32


def test_a_warning_of_the_cheap_checks_begins_with_its_name() -> None:
    x, y = broken.images(32)
    assert [text.split(": ")[0] for text in warnings_for(broken.BlackBox(), x, y)] == ["no-gradient"]


def test_the_images_of_the_caller_stay_as_they_are() -> None:
    x, y = broken.images(8)
    before = x.copy()
    found(broken.Centres(), images=(x, y))
    assert np.array_equal(x, before)


def test_one_image_is_enough_and_none_is_refused() -> None:
    assert found(broken.Linear(), n=1) == {}
    with pytest.raises(BadRequest, match="x: got no images"):
        found(broken.Linear(), n=0)


@pytest.mark.parametrize(
    ("spoilt", "field"),
    [
        (lambda x, y: (x * 255, y), "x"),
        (lambda x, y: (x.astype(np.float64), y), "x"),
        (lambda x, y: (x[:, :1], y), "x"),
        (lambda x, y: (x, y + 5), "y"),
        (lambda x, y: (x, y[:-1]), "y"),
    ],
)
def test_images_that_do_not_fit_are_refused_by_name(spoilt, field) -> None:
    with pytest.raises(BadRequest, match=f"^{field}: "):
        warnings_for(broken.Linear(), *spoilt(*broken.images(4)))


def test_every_warning_has_its_anchor() -> None:
    headings = re.findall(r"^### (\S+)$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    assert headings == list(NAMES)


class Purifying(torch.nn.Module):
    """Takes a few steps towards what it finds likely before it answers, as test-time defences do."""

    def __init__(self, gradient) -> None:
        super().__init__()
        self.layer, self.gradient = torch.nn.Linear(broken.W.shape[1], broken.K), gradient
        self.layer.load_state_dict({"weight": torch.from_numpy(broken.W), "bias": torch.from_numpy(broken.B)})

    def forward(self, x):
        with torch.enable_grad():
            nearer = x.detach().requires_grad_()
            steepness = self.gradient(torch.logsumexp(self.layer(nearer.flatten(1)), 1).sum(), nearer)
        return self.layer((x + 1e-3 * steepness.sign()).flatten(1))


def by_grad(likely, x):
    return torch.autograd.grad(likely, x)[0]


def by_backward(likely, x):
    likely.backward()
    return x.grad


@pytest.mark.parametrize("gradient", [by_grad, by_backward])
def test_a_network_that_optimises_to_answer_is_warned_of(gradient) -> None:
    model = TorchClassifier(Purifying(gradient), tuple("abcde"), broken.SHAPE)
    before = sys.getprofile()
    finding = found(model, as_array=torch.from_numpy, checks=only("optimises-to-answer"))
    assert finding["optimises-to-answer"].measured == "1 gradients taken to answer 8 images"
    assert sys.getprofile() is before


def relu_network():
    """A network full of kinks: piecewise linear, with pooling."""
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.ReLU()]
    for _ in range(4):
        layers += [torch.nn.Conv2d(16, 16, 3, padding=1), torch.nn.ReLU()]
    layers += [torch.nn.MaxPool2d(2), torch.nn.Flatten(), torch.nn.Linear(256, broken.K)]
    network = torch.nn.Sequential(*layers).eval()
    for layer in layers:
        if hasattr(layer, "weight"):
            torch.nn.init.kaiming_normal_(layer.weight)
    return network


def test_a_network_full_of_kinks_has_the_gradient_it_says() -> None:
    model = TorchClassifier(relu_network(), tuple("abcde"), broken.SHAPE)
    assert found(model, as_array=torch.from_numpy, checks=only("wrong-gradient")) == {}


@pytest.mark.parametrize("share", [0.05, 0.1])
def test_a_gradient_that_leaves_few_pixels_out_is_wrong(share) -> None:
    """25 % of the slope, the bound before, let half of such gradients pass."""
    kept = np.random.default_rng(0).random(broken.SHAPE) > share

    class Leaky(TorchClassifier):
        def loss_and_grad(self, *args, **options):
            logits, value, grad = super().loss_and_grad(*args, **options)
            return logits, value, grad * torch.from_numpy(kept)

    model = Leaky(relu_network(), tuple("abcde"), broken.SHAPE)
    assert warned(model, as_array=torch.from_numpy, checks=only("wrong-gradient")) == {"wrong-gradient"}


def test_a_gradient_of_another_scale_is_wrong() -> None:
    class Steep(broken.Linear):
        def gradient(self, x, slope):
            return np.float32(1.1) * super().gradient(x, slope)

    assert warned(Steep(), checks=only("wrong-gradient")) == {"wrong-gradient"}
