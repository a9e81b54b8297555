"""/v1/predict."""

import numpy as np
from fastapi import FastAPI, Request

from dra_serve.images import to_float
from dra_serve.service.inputs import read_inputs
from dra_serve.service.openapi import describe_body, problems
from dra_serve.service.predicting import to_prediction
from dra_serve.service.schemas.predict import PredictFields, PredictionOut, PredictOut
from dra_serve.service.shared import Service


def add(app: FastAPI, service: Service) -> None:
    """Add the route to `app`."""

    @app.post(
        "/v1/predict",
        tags=["predict"],
        openapi_extra=describe_body(PredictFields, many=True),
        responses=problems(400, 404, 413, 415, 422, 429, 503),
    )
    async def predict(request: Request) -> PredictOut:
        """Classify one image or several."""
        inputs = await read_inputs(request)
        fields = inputs.parse(PredictFields)
        model = service.registry.get(fields.model)

        def read() -> tuple[np.ndarray, None]:
            return to_float(np.stack(inputs.pixels(model.input_shape, resize=fields.resize))), None

        logits, _ = await service.logits(model, read, request)
        predictions = [to_prediction(row, model.classes, fields.top_k) for row in logits]
        return PredictOut(model=model.name, predictions=[PredictionOut.of(p) for p in predictions])
