"""/v1/predict: what may be asked, and what is answered."""

from typing import Annotated

from pydantic import BaseModel, Field

from dra_serve.classifier import Prediction
from dra_serve.service.answers import TOP_K
from dra_serve.service.schemas.fields import Fields, Name, Resize, TopK


class PredictFields(Fields):
    """Fields of /v1/predict."""

    model: Annotated[Name | None, Field(description="Which model; default: the first one loaded.")] = None
    top_k: TopK = TOP_K
    resize: Resize = False


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
