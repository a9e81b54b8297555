"""The pure part of the service: attacks on several models, the registry, settings and words."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from dra_serve.attacks.norms import format_radius
from dra_serve.errors import BadRequest, ModelFolderError, UnknownModel
from dra_serve.gradient_graph import differentiate
from dra_serve.onnx_classifier import OnnxClassifier
from dra_serve.service.answers import AttackRequest, Step
from dra_serve.service.attacking import attack_models
from dra_serve.service.predicting import predict_pixels, to_prediction
from dra_serve.service.registry import Registry
from dra_serve.service.settings import Settings
from dra_serve.service.words import describe, percent

CLASSES = ("cat", "dog", "ship", "truck")
Make = Callable[..., OnnxClassifier]


@pytest.fixture
def make(tiny_onnx: Callable[..., onnx.ModelProto]) -> Make:
    """Return make(name, seed=0, input_shape=(3, 8, 8), classes=CLASSES, gradient=True)."""

    def make(
        name: str,
        seed: int = 0,
        input_shape: tuple[int, int, int] = (3, 8, 8),
        classes: tuple[str, ...] = CLASSES,
        gradient: bool = True,
    ) -> OnnxClassifier:
        forward = tiny_onnx(len(classes), input_shape, seed)
        backward = differentiate(forward).SerializeToString() if gradient else None
        return OnnxClassifier(
            forward.SerializeToString(), backward, classes=classes, input_shape=input_shape, name=name
        )

    return make


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def test_prediction_is_the_softmax_best_first() -> None:
    prediction = to_prediction(np.array([0.0, 2.0, 1.0, 2.0], np.float32), CLASSES, 3)
    weights = np.exp([2.0, 2.0, 1.0, 0.0])
    assert [label for label, _ in prediction.top] == ["dog", "truck", "ship"]
    assert_allclose([score for _, score in prediction.top], (weights / weights.sum())[:3])
    assert (prediction.label, prediction.score) == prediction.top[0]


def test_prediction_survives_huge_logits() -> None:
    prediction = to_prediction(np.array([1e30, -1e30, 0, 0], np.float32), CLASSES)
    assert prediction.score == 1


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_attacks_judge_the_8_bit_image_and_leave_the_clean_one(
    make: Make, pixels: np.ndarray, norm: str
) -> None:
    model, before = make("a"), pixels.copy()
    request = AttackRequest(options={"norm": norm, "eps": "4/255" if norm == "linf" else 0.4})
    answer = attack_models([model], pixels, request)
    (result,) = answer.results
    delta = (result.pixels.astype(int) - pixels) / 255
    assert_array_equal(pixels, before)
    assert_allclose([result.linf, result.l2], [np.abs(delta).max(), np.linalg.norm(delta)])
    assert result.adversarial == predict_pixels(model, [result.pixels])[0]
    assert result.success == (result.adversarial.label != result.clean.label)
    assert answer.transfer == {"a": {"a": result.success}}


def test_grey_models_are_attacked_in_grey(make: Make) -> None:
    model = make("grey", input_shape=(1, 8, 8))
    grey = np.random.default_rng(0).integers(0, 256, (8, 8, 1), dtype=np.uint8)
    (result,) = attack_models([model], grey, AttackRequest()).results
    assert result.pixels.shape == (8, 8, 1)


def test_every_model_reports_its_steps(make: Make, pixels: np.ndarray) -> None:
    seen: list[Step] = []
    answer = attack_models(
        [make("a"), make("b", 1)], pixels, AttackRequest(options={"eps": 0.0, "steps": 3}), seen.append
    )
    for name in "ab":
        assert [step.step for step in seen if step.model == name] == [1, 2, 3]
    assert_array_equal(seen[-1].pixels, pixels)  # eps 0 leaves the clean image
    assert [result.steps_done for result in answer.results] == [3, 3]


def test_stopping_one_model_stops_the_other(make: Make, pixels: np.ndarray) -> None:
    answer = attack_models(
        [make("a"), make("b", 1)], pixels, AttackRequest(options={"eps": 0.0, "steps": 50}), lambda _: False
    )
    assert [result.steps_done for result in answer.results] == [1, 1]
    assert not any(result.complete for result in answer.results)


def test_models_are_attacked_side_by_side_as_if_each_were_alone(make: Make, pixels: np.ndarray) -> None:
    pair, seen = [make("a"), make("b", 1)], []
    request = AttackRequest(options={"eps": "1/255", "steps": 40})

    def watch(step: Step) -> None:
        seen.append(step.model)
        time.sleep(0.012)  # longer than a turn

    together = attack_models(pair, pixels, request, watch)
    assert seen[:4] == ["a", "b", "a", "b"]
    for model, result in zip(pair, together.results, strict=True):
        (alone,) = attack_models([model], pixels, request).results
        assert_array_equal(result.pixels, alone.pixels)
        assert (result.adversarial, result.steps_done) == (alone.adversarial, alone.steps_done)


def test_a_deadline_is_shared_fairly(make: Make, pixels: np.ndarray) -> None:
    def slow_step(_: Step) -> None:
        time.sleep(0.02)

    request = AttackRequest(options={"eps": 0.0, "steps": 500})
    start = time.monotonic()
    answer = attack_models([make("a"), make("b", 1)], pixels, request, slow_step, start + 0.6)
    first, second = (result.steps_done for result in answer.results)
    assert time.monotonic() - start < 2
    assert min(first, second) > 0.5 * max(first, second)
    assert not any(result.complete for result in answer.results)


def test_what_cannot_be_attacked_together_is_refused(make: Make, pixels: np.ndarray) -> None:
    blind, large, other = (
        make("blind", gradient=False),
        make("large", input_shape=(3, 9, 9)),
        make("other", classes=("a", "b", "c", "d")),
    )
    for model in (blind, large, other):
        with pytest.raises(BadRequest, match=f"models: got {model.name}"):
            attack_models([make("a"), model], pixels, AttackRequest())
    with pytest.raises(BadRequest, match="target: got cat; allowed: another class than label"):
        attack_models([make("a")], pixels, AttackRequest(label="cat", target="cat"))


def test_the_registry_pairs_a_model_with_its_twin(tiny_onnx_folder: Callable[..., Path]) -> None:
    folders = [
        tiny_onnx_folder("alone"),
        tiny_onnx_folder("dra", seed=1, twin="at"),
        tiny_onnx_folder("at", seed=2, twin="dra"),
    ]
    registry = Registry.load(list(map(str, folders)))
    assert registry.default == "alone"
    assert registry.pair == ("dra", "at")
    assert [model.name for model in registry.select(["at", "at", "alone"])] == ["at", "alone"]
    assert Registry.load([str(folders[0])]).pair == ("alone",)
    assert registry.is_right()
    with pytest.raises(UnknownModel, match="models: got gpt; allowed: alone, dra, at"):
        registry.select(["gpt"])
    with pytest.raises(BadRequest, match="models: got at"):
        Registry.load([str(folders[2]), str(folders[2])])


def test_the_registry_notices_a_model_that_changes_its_mind(make: Make) -> None:
    model, other = make("a"), make("b", 1)
    registry = Registry([model])
    assert registry.is_right()
    model._forward = other._forward
    assert not registry.is_right()


def test_the_registry_serves_rgb_and_grey_alone(make: Make) -> None:
    with pytest.raises(ModelFolderError, match="4 channels"):
        Registry([make("four", input_shape=(4, 8, 8))])
    with pytest.raises(BadRequest, match="models: got none"):
        Registry([])


def test_settings_survive_the_environment() -> None:
    settings = Settings(models=("a folder/with spaces", "bundled:at"), ui=False, threads=3, queue=0)
    assert Settings.from_environ(settings.to_environ()) == settings
    assert Settings.from_environ({}) == Settings()
    assert not Settings(workers=2).shows_ui


@pytest.mark.parametrize("value", ["0", "-1", "many", "1.5", "9" * 50])
def test_settings_name_the_variable_at_fault(value: str) -> None:
    with pytest.raises(BadRequest, match="DRA_SERVE_THREADS: got"):
        Settings.from_environ({"DRA_SERVE_THREADS": value})


@pytest.mark.parametrize(
    ("eps", "text"), [(8 / 255, "8/255"), (0.5 / 255, "0.00196"), (0.5, "0.5"), (0.0, "0"), (1.0, "255/255")]
)
def test_radii_read_as_people_write_them(eps: float, text: str) -> None:
    assert format_radius(eps) == text


@pytest.mark.parametrize(
    ("score", "text"),
    [(0.61, "61 %"), (0.9999, "over 99 %"), (1.0, "100 %"), (0.001, "under 1 %"), (0.0, "0 %")],
)
def test_percent_claims_no_certainty_it_has_not(score: float, text: str) -> None:
    assert percent(score) == text


def test_words_for_every_outcome(make: Make, pixels: np.ndarray) -> None:
    model, other = make("a"), make("b", 1)
    clean = predict_pixels(model, [pixels])[0]
    worst = clean.top[-1][0]

    def words(deadline: float | None = None, **options: object) -> str:
        fields = {key: options.pop(key) for key in ("label", "target") if key in options}
        request = AttackRequest(options=options, **fields)  # type: ignore[arg-type]
        return describe(attack_models([model], pixels, request, deadline=deadline))[0]

    assert words(eps=0.0).startswith(f"a withstood the attack (linf, eps 0, 20 steps): still {clean.label}")
    assert words(eps="8/255").startswith(
        "a was fooled after 5 steps (linf, eps 8/255, 20 steps): ship became"
    )
    assert words(eps=0.5).startswith("a was fooled by the random start alone (linf")
    assert words(eps=0.0, label=worst).startswith("a was wrong before any attack")
    assert words(eps=0.0, target=worst).startswith(f"a was not led to {worst} (linf")
    assert words(eps=0.0, target=clean.label).startswith(f"a says {clean.label} (")
    assert words(0.0, eps=0.0).startswith("a was not fooled in the time given")
    both = describe(attack_models([model, other], pixels, AttackRequest(options={"eps": 0.0})))
    assert len(both) == 3
    assert both[-1] == "No image fools any of the models."
    square = AttackRequest(attack="square", options={"eps": 0.0, "queries": 3})
    assert "(linf, eps 0, 3 queries)" in describe(attack_models([model], pixels, square))[0]
