"""Attacks on pixels: the one home of what HTTP, the demo and the command line answer.

Pixels in, plain values out; no bytes, no JSON, no server. The verdict of an attack is the model's answer
to the image rounded to 8 bits, because that is the image a file or a camera would really deliver.
"""

import threading
from collections.abc import Sequence
from functools import partial

import numpy as np

from dra_serve.attacks import ATTACKS, AttackResult, StepReport, get_attack
from dra_serve.attacks.parameters import Parameters
from dra_serve.errors import BadRequest
from dra_serve.images import round_into_ball, to_float, to_pixels
from dra_serve.onnx_classifier import OnnxClassifier
from dra_serve.service.answers import AttackAnswer, Attacked, AttackRequest, OnStep, Step
from dra_serve.service.predicting import to_prediction
from dra_serve.service.turns import PassOn, take_turns


def attack_models(
    models: Sequence[OnnxClassifier],
    pixels: np.ndarray,
    request: AttackRequest,
    on_step: OnStep | None = None,
    deadline: float | None = None,
) -> AttackAnswer:
    """Return the attack on each model, and who else falls for the images found.

    The models take turns on one thread's time, so that their steps come side by side. pixels: uint8
    (H, W, C). on_step: never called by two at once. deadline: a `time.monotonic()` moment. Raises
    BadRequest naming the field before anything runs.
    """
    parameters = check_attack(models, request)
    x = to_float(pixels)
    stop = threading.Event()

    def attack(model: OnnxClassifier, pass_on: PassOn) -> Attacked:
        def watch(step: Step) -> bool | None:
            if not stop.is_set() and on_step is not None and on_step(step) is False:
                stop.set()
            pass_on()
            return False if stop.is_set() else None

        try:
            return _attack_one(model, x, request, parameters, watch, deadline)
        except BaseException:
            stop.set()  # the others need not go on
            raise

    results = take_turns([partial(attack, model) for model in models])
    return AttackAnswer(
        request=request,
        parameters=parameters,
        results=tuple(results),
        transfer=_transfer(models, results, request.target),
    )


def check_attack(models: Sequence[OnnxClassifier], request: AttackRequest) -> Parameters:
    """Return the parameters in force; raise BadRequest naming the field that cannot be."""
    if not models:
        raise BadRequest("models", given="none", allowed="at least one model")
    first, attack = models[0], get_attack(request.attack)
    for model in models:
        if attack.needs_gradient and not model.has_gradient:
            raise BadRequest("models", given=model.name, allowed="models with a gradient graph")
        if (model.classes, model.input_shape) != (first.classes, first.input_shape):
            allowed = f"models with the classes and the input of {first.name}, to attack them together"
            raise BadRequest("models", given=model.name, allowed=allowed)
    for name, value in (("label", request.label), ("target", request.target)):
        if value is not None and value not in first.classes:
            raise BadRequest(name, given=value, allowed=", ".join(first.classes))
    if request.target is not None and request.target == request.label:
        raise BadRequest("target", given=request.target, allowed="another class than label")
    if request.target is not None and not attack.takes_target:
        able = ", ".join(name for name, other in ATTACKS.items() if other.takes_target)
        raise BadRequest("target", given=request.target, allowed=f"none with {attack.name}; {able} take one")
    return attack.resolve(first.input_shape, **request.options)


def _attack_one(
    model: OnnxClassifier,
    x: np.ndarray,
    request: AttackRequest,
    parameters: Parameters,
    on_step: OnStep,
    deadline: float | None,
) -> Attacked:
    classes = model.classes
    clean = to_prediction(model.logits(x)[0], classes, request.top_k)
    label = request.label or clean.label

    def report(step: StepReport) -> bool | None:
        return on_step(
            Step(
                model=model.name,
                step=step.step,
                steps=step.steps,
                loss=float(step.loss[0]),
                success=bool(step.success[0]),
                prediction=to_prediction(step.logits[0], classes, request.top_k),
                pixels=to_pixels(step.x_adv)[0],
            )
        )

    led = {} if request.target is None else {"target": np.array([classes.index(request.target)])}
    result: AttackResult = get_attack(request.attack)(
        model,
        x,
        np.array([classes.index(label)]),
        deadline=deadline,
        on_step=report,
        **led,
        **request.options,
    )
    rounded = round_into_ball(result.x_adv, x, parameters.eps, parameters.norm)
    adversarial = to_prediction(model.logits(rounded)[0], classes, request.top_k)
    delta = np.rint(255 * (rounded - x).astype(np.float64)) / 255  # both on the 8-bit grid: exact
    return Attacked(
        model=model.name,
        label=label,
        clean=clean,
        adversarial=adversarial,
        pixels=to_pixels(rounded)[0],
        success=_fooled(adversarial.label, label, request.target),
        linf=float(np.abs(delta).max()),
        l2=float(np.linalg.norm(delta)),
        steps_done=int(result.steps_done[0]),
        complete=result.complete,
    )


def _fooled(predicted: str, label: str, target: str | None) -> bool:
    return predicted != label if target is None else predicted == target


def _transfer(
    models: Sequence[OnnxClassifier], results: Sequence[Attacked], target: str | None
) -> dict[str, dict[str, bool]]:
    """Return fooled[source][victim]: each victim judged by its own label on the source's 8-bit image."""
    images = to_float(np.stack([result.pixels for result in results]))
    fooled: dict[str, dict[str, bool]] = {result.model: {} for result in results}
    for model, victim in zip(models, results, strict=True):
        for source, row in zip(results, model.logits(images), strict=True):
            predicted = model.classes[int(row.argmax())]
            fooled[source.model][victim.model] = _fooled(predicted, victim.label, target)
    return fooled
