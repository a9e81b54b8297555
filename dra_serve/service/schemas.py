"""The fields of requests and the shapes of answers: what /openapi.json documents and nothing else decides."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from dra_serve.attacks import ATTACKS, get_attack
from dra_serve.attacks.norms import NORMS, get_norm, parse_radius
from dra_serve.classifier import Prediction
from dra_serve.images import data_uri, encode_png
from dra_serve.onnx_classifier import OnnxClassifier
from dra_serve.service.answers import TOP_K, AttackAnswer, Attacked, AttackRequest, Step
from dra_serve.service.registry import Registry

MAX_STEPS = 200
MAX_RESTARTS = 10
MAX_QUERIES = 5_000
MAX_TOTAL_STEPS = 2_000  # gradients of one request: steps x restarts x targets x models
MAX_TOTAL_QUERIES = 10_000  # the same of an attack without gradients, whose step costs a third
MAX_TOP_K = 1_000


def _checked_attack(name: str) -> str:
    return get_attack(name).name


def _checked_norm(name: str) -> str:
    return get_norm(name).name


def _radius(field: str) -> BeforeValidator:
    return BeforeValidator(lambda value: parse_radius(value, field=field))


_RADIUS = {"anyOf": [{"type": "number"}, {"type": "string"}], "examples": ["8/255", 0.03]}
Name = Annotated[str, Field(min_length=1, max_length=100)]


class _Fields(BaseModel):
    model_config = ConfigDict(extra="forbid")


class PredictFields(_Fields):
    """Fields of /v1/predict."""

    model: Annotated[Name | None, Field(description="Which model; default: the first one loaded.")] = None
    top_k: Annotated[int, Field(ge=1, le=MAX_TOP_K, description="How many classes in `top`, best first.")] = (
        TOP_K
    )
    resize: Annotated[
        bool, Field(description="Scale an image of another size; otherwise it is an error.")
    ] = False


class AttackFields(_Fields):
    """Fields of /v1/attack. Those left out take the attack's own defaults."""

    models: Annotated[
        list[Name] | None,
        Field(
            min_length=1,
            max_length=10,
            description="Which models, repeated once for each; default: the DRA model and its twin.",
        ),
    ] = None
    attack: Annotated[
        str,
        AfterValidator(_checked_attack),
        WithJsonSchema({"type": "string", "enum": list(ATTACKS)}),
        Field(description="Which attack."),
    ] = "pgd"
    norm: Annotated[
        str,
        AfterValidator(_checked_norm),
        WithJsonSchema({"type": "string", "enum": list(NORMS)}),
        Field(description="How the size of a perturbation is measured."),
    ] = "linf"
    eps: Annotated[
        float,
        _radius("eps"),
        WithJsonSchema(_RADIUS),
        Field(description="Radius, in units of x in [0, 1]: 8/255, not 8."),
    ] = 8 / 255
    alpha: Annotated[
        float | None,
        _radius("alpha"),
        WithJsonSchema(_RADIUS),
        Field(description="Size of a step; default: 2.5 eps / steps, at most eps."),
    ] = None
    steps: Annotated[int, Field(ge=1, le=MAX_STEPS, description="Steps of a restart.")] = 20
    restarts: Annotated[int, Field(ge=1, le=MAX_RESTARTS, description="Random starts.")] = 1
    queries: Annotated[
        int | None, Field(ge=1, le=MAX_QUERIES, description="Of square alone: answers it may ask for.")
    ] = None
    seed: Annotated[int, Field(ge=0, le=2**53, description="The same seed gives the same answer.")] = 0
    label: Annotated[
        Name | None,
        Field(description="The true class; default: each model's own prediction on the clean image."),
    ] = None
    target: Annotated[Name | None, Field(description="A class to be led to; default: any other.")] = None
    top_k: Annotated[int, Field(ge=1, le=MAX_TOP_K, description="How many classes in `top`, best first.")] = (
        TOP_K
    )
    resize: Annotated[
        bool, Field(description="Scale an image of another size; otherwise it is an error.")
    ] = False

    def request(self) -> AttackRequest:
        """Return the request with the options somebody chose and no others."""
        chosen = self.model_dump(include=self.model_fields_set & _OPTIONS)
        return AttackRequest(
            attack=self.attack, options=chosen, label=self.label, target=self.target, top_k=self.top_k
        )


class StreamFields(AttackFields):
    """Fields of /v1/attack/stream."""

    every: Annotated[
        int | None,
        Field(
            ge=1,
            le=MAX_QUERIES,
            description="A PNG of where it stands with each so many steps; default: none.",
        ),
    ] = None


_OPTIONS = {"norm", "eps", "alpha", "steps", "restarts", "queries", "seed"}


class Score(BaseModel):
    """A class and its softmax probability in [0, 1]."""

    label: str
    score: float


class PredictionOut(Score):
    """The best class, and the best few."""

    top: list[Score]

    @classmethod
    def of(cls, prediction: Prediction) -> "PredictionOut":
        top = [Score(label=label, score=score) for label, score in prediction.top]
        return cls(label=prediction.label, score=prediction.score, top=top)


class PredictOut(BaseModel):
    """One prediction an image, in the order sent."""

    model: str
    predictions: list[PredictionOut]


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


class ModelOut(BaseModel):
    """A loaded model. threat, data, recipe, training, twin: what its folder's config.json says, if any."""

    name: str
    classes: list[str]
    input_shape: tuple[int, int, int]
    has_gradient: bool
    twin: str | None = None
    threat: dict[str, Any] | None = None
    data: dict[str, Any] | None = None
    recipe: dict[str, Any] | None = None
    training: dict[str, Any] | None = None
    receipts: list[dict[str, Any]]

    @classmethod
    def of(cls, model: OnnxClassifier) -> "ModelOut":
        facts: dict[str, Any] = {}
        if model.config is not None:
            facts = model.config.model_dump(
                mode="json", include={"twin", "threat", "data", "recipe", "training"}
            )
        return cls(
            name=model.name,
            classes=list(model.classes),
            input_shape=model.input_shape,
            has_gradient=model.has_gradient,
            receipts=list(model.receipts),
            **facts,
        )


class ModelsOut(BaseModel):
    """default predicts when no model is named; pair is attacked when none is named."""

    default: str
    pair: list[str]
    models: list[ModelOut]

    @classmethod
    def of(cls, registry: Registry) -> "ModelsOut":
        models = [ModelOut.of(model) for model in registry]
        return cls(default=registry.default, pair=list(registry.pair), models=models)


class Health(BaseModel):
    """status: "alive" or "ready"."""

    status: str
