"""An ONNX file behind the Classifier protocol, on ONNX Runtime alone."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort

from dra_serve.checked import Checked
from dra_serve.classifier import LOSSES, Loss
from dra_serve.errors import ModelFolderError, NoGradient

if TYPE_CHECKING:
    from dra_serve.model_config import ModelConfig

_AGREEMENT = 1e-4  # of logits, relative to their size: float32 kernels differ by about 1e-6


class OnnxClassifier(Checked):
    """A classifier on [0, 1] images, with gradients if it has a gradient graph. Safe to share by threads.

    forward: graph x -> logits. gradient: graph (x, y, loss, target) -> (logits, value, grad), or None.
    Each a path, or the bytes of a file that holds its own weights.
    classes: K names; input_shape: (C, H, W). threads: of one session call; more seldom helps.
    config, receipts: what the model folder says, if the model comes from one.
    sha256, gradient_sha256: of the two graphs, in hexadecimal; None without a gradient graph.

    Both graphs are tried on two fixed images: ModelFolderError, naming the file, if one does not load,
    has other shapes, or if their logits differ.
    """

    def __init__(
        self,
        forward: Path | bytes,
        gradient: Path | bytes | None,
        *,
        classes: Sequence[str],
        input_shape: Sequence[int],
        threads: int = 1,
        name: str | None = None,
        config: "ModelConfig | None" = None,
        receipts: Sequence[dict[str, Any]] = (),
    ) -> None:
        channels, height, width = input_shape
        self.classes = tuple(classes)
        self.input_shape = (channels, height, width)
        self.name = name or (forward.stem if isinstance(forward, Path) else "model")
        self.config = config
        self.receipts = tuple(receipts)
        self.notes: tuple[str, ...] = ()  # what was assumed of someone else's file, by `load`
        self.has_gradient = gradient is not None
        self._forward = _Graph(forward, "model.onnx", threads)
        self._gradient = None if gradient is None else _Graph(gradient, "model.gradient.onnx", threads)
        self.straight_through: tuple[str, ...] = ()  # operators whose gradient is an estimate
        if self._gradient is not None:
            self.straight_through = self._gradient.straight_through
        self.sha256 = _sha256(forward)
        self.gradient_sha256 = None if gradient is None else _sha256(gradient)
        self._cross_check()

    def _logits(self, x: np.ndarray) -> np.ndarray:
        return self._forward(x)[0]

    def _loss_and_grad(
        self, x: np.ndarray, y: np.ndarray, loss: Loss = "ce", target: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if self._gradient is None:
            raise NoGradient(f"{self.name} has no gradient graph", field="model")
        codes = np.full(len(x), LOSSES.index(loss), dtype=np.int64)
        logits, value, grad = self._gradient(x, y, codes, y if target is None else target)
        return logits, value, grad

    def _cross_check(self) -> None:
        x = np.random.default_rng(0).random((2, *self.input_shape), dtype=np.float32)
        expected = (2, len(self.classes))
        logits = self._forward.first_try(x)[0]
        if logits.shape != expected:
            raise ModelFolderError(
                f"logits {logits.shape} for 2 images, not {expected}", file=self._forward.file
            )
        if self._gradient is None:
            return
        labels = np.zeros(2, np.int64)
        outputs = self._gradient.first_try(x, labels, labels, labels)
        if [out.shape for out in outputs] != [expected, (2,), x.shape]:
            raise ModelFolderError("is not (logits, value, grad) of this model", file=self._gradient.file)
        if not np.allclose(outputs[0], logits, rtol=_AGREEMENT, atol=_AGREEMENT):
            raise ModelFolderError(
                f"its logits are not those of {self._forward.file}", file=self._gradient.file
            )


class _Graph:
    """A session that takes a batch of any size, though the file may fix it at 1."""

    def __init__(self, source: Path | bytes, default_name: str, threads: int) -> None:
        self.file = source.name if isinstance(source, Path) else default_name
        try:
            self.session = ort.InferenceSession(
                str(source) if isinstance(source, Path) else source,
                _session_options(threads),
                providers=["CPUExecutionProvider"],
            )
        except Exception as error:  # ONNX Runtime's errors share no base class
            raise ModelFolderError("ONNX Runtime cannot load it", file=self.file) from error
        self._inputs = [value.name for value in self.session.get_inputs()]
        said = self.session.get_modelmeta().custom_metadata_map.get("dra_serve.straight_through", "")
        self.straight_through = tuple(filter(None, said.split(",")))
        self._one_by_one = self.session.get_inputs()[0].shape[:1] == [1]

    def __call__(self, *arrays: np.ndarray) -> list[np.ndarray]:
        if not self._one_by_one or len(arrays[0]) == 1:
            return self._run(*arrays)
        rows = [self._run(*(a[i : i + 1] for a in arrays)) for i in range(len(arrays[0]))]
        return [np.concatenate(parts) for parts in zip(*rows, strict=True)]

    def first_try(self, *arrays: np.ndarray) -> list[np.ndarray]:
        """Run, and blame the file for any failure."""
        try:
            return self(*arrays)
        except Exception as error:
            shapes = ", ".join(f"{a.dtype} {a.shape}" for a in arrays)
            raise ModelFolderError(f"does not accept {shapes}", file=self.file) from error

    def _run(self, *arrays: np.ndarray) -> list[np.ndarray]:
        outputs: list[np.ndarray] = self.session.run(None, dict(zip(self._inputs, arrays, strict=True)))
        return outputs


def _sha256(source: Path | bytes) -> str:
    content = source.read_bytes() if isinstance(source, Path) else source
    return hashlib.sha256(content).hexdigest()


def _session_options(threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # A spinning pool burns a core while it waits: 0.187 against 0.034 CPU s over 20 spaced calls.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
