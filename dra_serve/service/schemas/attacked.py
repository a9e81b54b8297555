"""/v1/attack and its stream: what is answered."""

from pydantic import BaseModel, ConfigDict

from dra_serve.images import data_uri, encode_png
from dra_serve.service.answers import AttackAnswer, Attacked, Step
from dra_serve.service.schemas.predict import PredictionOut


class AttackInForce(BaseModel):
    """Every value the attack ran with, defaults included: these, and the attack's own."""

    model_config = ConfigDict(extra="allow")

    name: str
    norm: str
    eps: float
    label: str | None
    target: str | None


class AdversarialOut(PredictionOut):
    """The model's answer to the adversarial image, rounded to 8 bits; image: that PNG as a data URI."""

    image: str


class AttackedOut(BaseModel):
    """One model under attack. linf, l2: distance of the PNG from the clean image, in units of x."""

    model: str
    label: str
    clean: PredictionOut
    adversarial: AdversarialOut
    success: bool
    linf: float
    l2: float
    steps_done: int
    complete: bool

    @classmethod
    def of(cls, attacked: Attacked) -> "AttackedOut":
        seen = PredictionOut.of(attacked.adversarial)
        image = data_uri(encode_png(attacked.pixels))
        return cls(
            model=attacked.model,
            label=attacked.label,
            clean=PredictionOut.of(attacked.clean),
            adversarial=AdversarialOut(label=seen.label, score=seen.score, top=seen.top, image=image),
            success=attacked.success,
            linf=attacked.linf,
            l2=attacked.l2,
            steps_done=attacked.steps_done,
            complete=attacked.complete,
        )


class AttackOut(BaseModel):
    """transfer[source][target]: whether the image found on source fools target."""

    attack: AttackInForce
    results: list[AttackedOut]
    transfer: dict[str, dict[str, bool]]

    @classmethod
    def of(cls, answer: AttackAnswer) -> "AttackOut":
        request = answer.request
        in_force = AttackInForce(
            name=request.attack, label=request.label, target=request.target, **answer.parameters.as_dict()
        )
        results = [AttackedOut.of(attacked) for attacked in answer.results]
        return cls(attack=in_force, results=results, transfer=answer.transfer)


class StepOut(BaseModel):
    """Where the attack on one model stands after a step; image: a PNG as a data URI, if asked for."""

    model: str
    step: int
    steps: int
    loss: float
    success: bool
    label: str
    score: float
    image: str | None = None

    @classmethod
    def of(cls, step: Step, *, every: int | None = None) -> "StepOut":
        shows = every is not None and step.step % every == 0
        return cls(
            model=step.model,
            step=step.step,
            steps=step.steps,
            loss=step.loss,
            success=step.success,
            label=step.prediction.label,
            score=step.prediction.score,
            image=data_uri(encode_png(step.pixels)) if shows else None,
        )
