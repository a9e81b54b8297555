"""`module:function`: a torch network of the user's own behind the Classifier protocol.

Nothing here imports torch. The user's function has done so, or its answer would be no torch module; what
is needed of torch is then asked of the module it already loaded (docs/decisions/0009).
"""

import hashlib
import importlib
import os
import re
import sys
from collections.abc import Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from dra_serve.attacks.losses import LOSS_FUNCTIONS
from dra_serve.checked import Checked
from dra_serve.classifier import Loss
from dra_serve.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

_FUNCTION = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)")
_ALLOWED = "module:function, importable from here, returning a torch module on [0, 1] images"


class TorchModule(Checked):
    """A torch network on [0, 1] images, NumPy in and NumPy out, in evaluation mode.

    network: maps (N, C, H, W) to logits (N, K); normalisation is inside. Its parameters need no gradients
    any more. classes, config, receipts, sha256 and notes: as an OnnxClassifier has them; sha256 is of the
    network's parts and weights, since there is no file.
    """

    has_gradient = True
    config: Any = None
    receipts: tuple[dict[str, Any], ...] = ()
    gradient_sha256: str | None = None

    def __init__(
        self,
        network: Any,
        *,
        input_shape: tuple[int, int, int],
        classes: Sequence[str] | None = None,
        name: str = "model",
    ) -> None:
        self.notes: tuple[str, ...] = ("takes RGB in [0, 1], as every module:function does",)
        if network.training:
            self.notes += ("put in evaluation mode",)
        self._torch = sys.modules["torch"]
        self._network = network.eval().requires_grad_(False)
        self._device = next((p.device for p in network.parameters()), self._torch.device("cpu"))
        self.input_shape, self.name = input_shape, name
        answer = self._probe()
        self.classes = tuple(classes or map(str, range(answer.shape[1])))
        if len(self.classes) != answer.shape[1]:
            raise BadRequest("classes", given=len(self.classes), allowed=f"{answer.shape[1]}, one a logit")
        self.sha256 = _sha256(network)

    def _logits(self, x: np.ndarray) -> np.ndarray:
        with self._torch.no_grad():
            return self._numpy(self._network(self._tensor(x)))

    def _loss_and_grad(
        self, x: np.ndarray, y: np.ndarray, loss: Loss = "ce", target: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        images = self._tensor(x).requires_grad_(True)
        with self._torch.enable_grad():
            scores = self._network(images)
        logits = self._numpy(scores)
        value, slope = LOSS_FUNCTIONS[loss](logits, y, target)
        (grad,) = self._torch.autograd.grad(scores, images, self._tensor(slope).to(scores.dtype))
        return logits, value, self._numpy(grad)

    def _probe(self) -> np.ndarray:
        try:
            with self._torch.no_grad():
                answer = self._network(self._tensor(np.zeros((2, *self.input_shape), np.float32)))
        except Exception as error:  # whatever the user's network raises on a size that it does not take
            size = "x".join(map(str, self.input_shape))
            raise BadRequest(
                "input-size", given=size, allowed=f"a size the network takes: {error}"
            ) from error
        shape = tuple(getattr(answer, "shape", ()))
        if len(shape) != 2 or shape[0] != 2 or shape[1] < 2:
            raise BadRequest("source", given=f"a network giving {shape}", allowed="logits (N, K), K >= 2")
        return self._numpy(answer)

    def _tensor(self, array: np.ndarray) -> Any:
        return self._torch.from_numpy(np.ascontiguousarray(array)).to(self._device)

    def _numpy(self, tensor: Any) -> np.ndarray:
        array: np.ndarray = tensor.detach().float().cpu().numpy()
        return array


def is_function(source: str) -> bool:
    """Return whether `source` has the form module:function ("bundled:NAME" is a model's name)."""
    return _FUNCTION.fullmatch(source) is not None and not source.startswith("bundled:")


def load_function(source: str, input_size: tuple[int, int] | None = None) -> TorchModule:
    """Call `function` of `module`, found from the working folder too, and return what it returns, wrapped.

    input_size: (H, W); without it the network's own `input_shape`. THIS RUNS CODE, as importing does: a
    source that comes from someone else is theirs to name only if their code may run. Raises BadRequest.
    """
    match = _FUNCTION.fullmatch(source)
    if match is None:
        raise BadRequest("source", given=source, allowed=_ALLOWED)
    module, function = match.groups()
    try:
        with _working_folder_importable():
            network = getattr(importlib.import_module(module), function)()
    except Exception as error:  # the user's code: any failure of it is theirs to read
        given = f"{source} ({type(error).__name__}: {error})"
        raise BadRequest("source", given=given, allowed=_ALLOWED) from error
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(network, torch.nn.Module):
        raise BadRequest("source", given=f"{source} -> {type(network).__name__}", allowed=_ALLOWED)
    own = tuple(getattr(network, "input_shape", ()))
    if input_size is None and len(own) != 3:
        raise BadRequest("input-size", given=None, allowed="HxW: a torch module does not say what it takes")
    shape = (own[0] if len(own) == 3 else 3, *(input_size or own[1:]))
    return TorchModule(network, input_shape=shape, classes=getattr(network, "classes", None), name=function)


@contextmanager
def _working_folder_importable() -> "Iterator[None]":
    """A console script does not look for modules in the folder it is called from; `python -m` does."""
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _sha256(network: Any) -> str:
    hashed = hashlib.sha256(str(network).encode())
    for name, tensor in sorted(network.state_dict().items()):
        hashed.update(name.encode())
        hashed.update(np.ascontiguousarray(tensor.detach().float().cpu().numpy()).tobytes())
    return hashed.hexdigest()
