"""What happened, in a sentence: the same words on the page, in the terminal and in a log of a talk."""

from dra_serve.attacks.norms import format_radius
from dra_serve.attacks.parameters import Parameters
from dra_serve.classifier import Prediction
from dra_serve.service.answers import AttackAnswer, Attacked


def describe(answer: AttackAnswer) -> list[str]:
    """Return one sentence a model, then one on transfer if more than one model was attacked."""
    sentences = [verdict(attacked, answer) for attacked in answer.results]
    if len(answer.results) > 1:
        sentences.append(_transfer(answer))
    return sentences


def verdict(attacked: Attacked, answer: AttackAnswer) -> str:
    """Return what the attack did to this model.

    For example: "dra withstood the attack (linf, eps 8/255, 20 steps): still cat at 61 %, was 74 %."
    """
    before, after = attacked.clean, attacked.adversarial
    target = answer.request.target
    budget = _budget(answer.parameters)
    if before.label != attacked.label and target is None:
        return f"{attacked.model} was wrong before any attack: it takes the clean image for {_sure(before)}."
    if before.label == target:
        return f"{attacked.model} says {_sure(before)} before any attack."
    if attacked.success:
        return (
            f"{attacked.model} was fooled {_when(attacked)} ({budget}): {before.label} became {_sure(after)}."
        )
    if not attacked.complete:
        return f"{attacked.model} was not fooled in the time given ({budget}): it says {_sure(after)}."
    if target is not None:
        return f"{attacked.model} was not led to {target} ({budget}): it says {_sure(after)}."
    return (
        f"{attacked.model} withstood the attack ({budget}): still {after.label} at {percent(after.score)}, "
        f"was {percent(before.score)}."
    )


def percent(score: float) -> str:
    """Return a probability as "61 %", never rounded up to a certainty it is not."""
    if 0.995 <= score < 1:
        return "over 99 %"
    if 0 < score < 0.005:
        return "under 1 %"
    return f"{100 * score:.0f} %"


def _when(attacked: Attacked) -> str:
    if attacked.steps_done == 0:
        return "by the random start alone"
    return "after 1 step" if attacked.steps_done == 1 else f"after {attacked.steps_done} steps"


def _sure(prediction: Prediction) -> str:
    return f"{prediction.label} ({percent(prediction.score)})"


def _budget(p: Parameters) -> str:
    one, many = ("query", "queries") if "queries" in p.as_dict() else ("step", "steps")
    length = f"1 {one}" if p.total_steps == 1 else f"{p.total_steps:,} {many}"
    return f"{p.norm}, eps {format_radius(p.eps)}, {length}"


def _transfer(answer: AttackAnswer) -> str:
    crossings = [
        f"{source}'s image also fools {victim}"
        for source, row in answer.transfer.items()
        for victim, fooled in row.items()
        if source != victim and fooled
    ]
    if crossings:
        return f"{'; '.join(crossings)}."
    if not any(result.success for result in answer.results):
        return "No image fools any of the models."
    return "No image fools another model than its own."
