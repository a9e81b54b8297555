"""/v1/models: what is answered."""

from typing import Any

from pydantic import BaseModel

from dra_serve.onnx_classifier import OnnxClassifier
from dra_serve.service.registry import Registry


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
