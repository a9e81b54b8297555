"""Whether images are a model's own kind."""

from dra_serve.classifier import Classifier
from dra_serve.errors import BadRequest
from dra_serve.evaluation.data import LabelledImages


def check_fit(model: Classifier, images: LabelledImages) -> None:
    """Raise BadRequest unless the images have the model's shape, its labels and, if named, its classes."""
    if tuple(images.x.shape[1:]) != tuple(model.input_shape):
        given = f"images of shape {tuple(images.x.shape[1:])}"
        raise BadRequest("data", given=given, allowed=f"{tuple(model.input_shape)}, the model's input")
    last = len(model.classes) - 1
    if images.y.min() < 0 or images.y.max() > last:
        given = f"labels from {images.y.min()} to {images.y.max()}"
        raise BadRequest("data", given=given, allowed=f"0 to {last}, the model's classes")
    unnamed = tuple(map(str, range(last + 1)))  # of a plain .onnx file
    if images.classes is not None and model.classes not in (images.classes, unnamed):
        given, allowed = (", ".join(names) for names in (images.classes, model.classes))
        raise BadRequest("data", given=f"classes {given}", allowed=f"the model's, in their order: {allowed}")
