"""The models a process has loaded, by name, and which of them answer when nobody names one."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from dra_serve.errors import BadRequest, ModelFolderError, UnknownModel
from dra_serve.loading import load
from dra_serve.onnx_classifier import OnnxClassifier
from dra_serve.service.logs import log

BUNDLED_PAIR = ("bundled:dra", "bundled:at")


class Registry:
    """Models by name, in the order given.

    default: the model that predicts if none is named, the first. pair: those attacked if none is named,
    the first model whose twin is loaded too and that twin; without twins the default alone.
    Raises BadRequest for no model, two of one name, or one of other than RGB or grey images.
    """

    def __init__(self, models: Iterable[OnnxClassifier]) -> None:
        self._models: dict[str, OnnxClassifier] = {}
        for model in models:
            if model.name in self._models:
                raise BadRequest("models", given=model.name, allowed="models with names of their own")
            if model.input_shape[0] not in (1, 3):
                raise ModelFolderError(
                    f"takes {model.input_shape[0]} channels; served are RGB (3) and grey (1)", file=model.name
                )
            self._models[model.name] = model
            if model.notes:
                log("assumed", model=model.name, notes=model.notes)
        if not self._models:
            raise BadRequest("models", given="none", allowed="at least one model")
        self.default = next(iter(self._models))
        self.pair = self._find_pair()
        self._golden = {model.name: _golden_logits(model) for model in self}

    @classmethod
    def load(cls, sources: Sequence[str]) -> "Registry":
        """Return the models at `sources` (see `dra_serve.load`), loaded."""
        return cls(load(source) for source in sources)

    def __iter__(self) -> Iterator[OnnxClassifier]:
        return iter(self._models.values())

    def __len__(self) -> int:
        return len(self._models)

    def get(self, name: str | None, *, field: str = "model") -> OnnxClassifier:
        """Return the model called `name`, the default for None; UnknownModel naming `field`."""
        if name is None:
            return self._models[self.default]
        if name not in self._models:
            raise UnknownModel(field, given=name, allowed=", ".join(self._models))
        return self._models[name]

    def select(self, names: Sequence[str] | None) -> list[OnnxClassifier]:
        """Return the models called `names`, each once; the pair for None."""
        chosen = self.pair if names is None else tuple(dict.fromkeys(names))
        return [self.get(name, field="models") for name in chosen]

    def is_right(self) -> bool:
        """Return whether every model still answers its golden image as it did when it was loaded."""
        return all(
            np.allclose(_golden_logits(model), self._golden[model.name], rtol=1e-4, atol=1e-4)
            for model in self
        )

    def _find_pair(self) -> tuple[str, ...]:
        for model in self:
            twin = model.config.twin if model.config else None
            if twin in self._models and twin != model.name:
                return (model.name, twin)
        return (self.default,)


def _golden_logits(model: OnnxClassifier) -> np.ndarray:
    """Return the logits of a fixed image: a smooth ramp, inside [0, 1] and like no noise."""
    channels, height, width = model.input_shape
    ramp = np.linspace(0, 1, channels * height * width, dtype=np.float32)
    logits: np.ndarray = model.logits(ramp.reshape(1, channels, height, width))
    return logits
