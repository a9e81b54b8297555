"""config.json of a model folder: what the model is."""

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    PositiveInt,
    model_validator,
)

from dra_serve.attacks.norms import get_norm, parse_radius


def _norm_name(value: str) -> str:
    get_norm(value)
    return value


def _radius_text(value: str) -> str:
    parse_radius(value)
    return value


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Normalisation(_Strict):
    """(x - mean) / std a channel, done inside the network; here for the record."""

    mean: tuple[FiniteFloat, ...]
    std: tuple[Annotated[FiniteFloat, Field(gt=0)], ...]


class Network(_Strict):
    """Which network of `training.networks`, built with which arguments."""

    name: str
    arguments: dict[str, Any]


class Data(_Strict):
    """What the model was trained on."""

    name: str
    sha256: str
    images: PositiveInt


class Threat(_Strict):
    """The perturbations the model was trained to withstand; eps as written, "8/255"."""

    norm: Annotated[str, AfterValidator(_norm_name)]
    eps: Annotated[str, AfterValidator(_radius_text)]

    @property
    def radius(self) -> float:
        """eps as a number, in units of x."""
        return parse_radius(self.eps)


class ModelConfig(_Strict):
    """config.json. Unknown keys are errors; so is a schema version of another release."""

    schema_version: Literal[1] = 1
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}$")]
    classes: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=2)]
    input_shape: tuple[PositiveInt, PositiveInt, PositiveInt]
    normalisation: Normalisation
    network: Network
    data: Data
    threat: Threat
    recipe: dict[str, Any] = {}
    twin: str | None = None
    training: dict[str, Any] = {}

    @model_validator(mode="after")
    def _consistent(self) -> "ModelConfig":
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("classes: each name once")
        channels = self.input_shape[0]
        if not len(self.normalisation.mean) == len(self.normalisation.std) == channels:
            raise ValueError(f"normalisation: one mean and one std for each of {channels} channels")
        return self
