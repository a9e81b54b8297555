"""/v1/attack and its stream: what may be asked."""

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from dra_serve.attacks import ATTACKS, get_attack
from dra_serve.attacks.norms import NORMS, get_norm, parse_radius
from dra_serve.service.answers import TOP_K, AttackRequest
from dra_serve.service.schemas.fields import Fields, Name, Resize, TopK

MAX_STEPS = 200
MAX_RESTARTS = 10
MAX_QUERIES = 5_000
MAX_TOTAL_STEPS = 2_000  # gradients of one request: steps x restarts x targets x models
MAX_TOTAL_QUERIES = 10_000  # the same of an attack without gradients, whose step costs a third


def _checked_attack(name: str) -> str:
    return get_attack(name).name


def _checked_norm(name: str) -> str:
    return get_norm(name).name


def _radius(field: str) -> BeforeValidator:
    return BeforeValidator(lambda value: parse_radius(value, field=field))


_RADIUS = {"anyOf": [{"type": "number"}, {"type": "string"}], "examples": ["8/255", 0.03]}


class AttackFields(Fields):
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
    top_k: TopK = TOP_K
    resize: Resize = False

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
