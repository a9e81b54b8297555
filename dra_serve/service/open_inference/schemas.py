"""The shapes of /v2's answers, as the Open Inference Protocol and its extensions name them."""

import json

from pydantic import BaseModel

from dra_serve.onnx_classifier import OnnxClassifier
from dra_serve.service.open_inference.names import DATATYPE, INPUT, OUTPUTS


class ServerMetadata(BaseModel):
    name: str
    version: str
    extensions: list[str]


class Live(BaseModel):
    live: bool


class Ready(BaseModel):
    ready: bool


class ModelReady(BaseModel):
    name: str
    ready: bool


class Indexed(BaseModel):
    """A model of the repository; reason: why it is not ready, empty."""

    name: str
    version: str
    state: str = "READY"
    reason: str = ""


class TensorMetadata(BaseModel):
    """shape: -1 where any size up to the largest batch may stand."""

    name: str
    datatype: str = DATATYPE
    shape: list[int]


class ModelMetadata(BaseModel):
    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]

    @classmethod
    def of(cls, model: OnnxClassifier, version: str) -> "ModelMetadata":
        return cls(
            name=model.name,
            versions=[version],
            platform="onnxruntime_onnx",
            inputs=[TensorMetadata(name=INPUT, shape=[-1, *model.input_shape])],
            outputs=[TensorMetadata(name=name, shape=[-1, len(model.classes)]) for name in OUTPUTS],
        )


class TensorConfig(BaseModel):
    name: str
    data_type: str = f"TYPE_{DATATYPE}"
    dims: list[int]


class TextValue(BaseModel):
    string_value: str


class ModelConfigOut(BaseModel):
    """parameters: `classes`, a JSON list in the order of the outputs, and `range`, that of x."""

    name: str
    platform: str
    backend: str
    max_batch_size: int
    input: list[TensorConfig]
    output: list[TensorConfig]
    parameters: dict[str, TextValue]

    @classmethod
    def of(cls, model: OnnxClassifier, max_images: int) -> "ModelConfigOut":
        facts = {"classes": json.dumps(model.classes), "range": "[0, 1]"}
        return cls(
            name=model.name,
            platform="onnxruntime_onnx",
            backend="onnxruntime",
            max_batch_size=max_images,
            input=[TensorConfig(name=INPUT, dims=list(model.input_shape))],
            output=[TensorConfig(name=name, dims=[len(model.classes)]) for name in OUTPUTS],
            parameters={name: TextValue(string_value=value) for name, value in facts.items()},
        )


class Duration(BaseModel):
    """How often, and how long in all, in nanoseconds."""

    count: int
    ns: int


class Compute(BaseModel):
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration


class InferenceStatistics(Compute):
    success: Duration
    fail: Duration
    queue: Duration


class BatchStatistics(Compute):
    """Of the calls of this many images."""

    batch_size: int


class ModelStatistics(BaseModel):
    """last_inference: milliseconds since 1970, or 0. Of /v1/predict and /v2 together."""

    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: InferenceStatistics
    batch_stats: list[BatchStatistics]


class StatisticsOut(BaseModel):
    model_stats: list[ModelStatistics]
