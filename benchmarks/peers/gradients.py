"""A network's file, differentiated, against torch: what is measured, and what is said of it."""

import copy
import io
import math
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from statistics import median
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from benchmarks.peers.zoo import CLASSES
from dra_serve.errors import UserError
from dra_serve.gradient_graph import differentiate

IMAGES = 4  # ce on the first half, margin on the others
EXACT = 1e-5  # float32's own rounding over a deep network
LOGITS_DIFFER = 1e-4
DRAWS = 4  # at most, of so many images: where ReLUs flip on each image of the first
Verdict = str  # "exact", "kinks", "as torch", "differs", "refused", "no answer", "not exported",
# and of networks that came to no file: "not built", "left out"


@dataclass
class Row:
    """One file. errors: of each image; torch_errors: torch's in float32 on the same images; logits_errors:
    the worst image's, ours and torch's in float32. asked: the opset asked for, opset: the one the exporter
    wrote. peak: bytes, of the whole process so far. made_with: versions."""

    name: str
    exporter: str = ""
    asked: int = 0
    opset: int = 0
    size: int = 0
    batch: str = ""
    operators: list[str] = field(default_factory=list)
    verdict: Verdict = ""
    reason: str = ""
    errors: list[float] = field(default_factory=list)
    torch_errors: list[float] = field(default_factory=list)
    logits_errors: tuple[float, float] = (0.0, 0.0)
    slope_error: float = float("nan")
    seconds: float = 0.0
    weights: int = 0
    peak: int = 0
    made_with: str = ""


@dataclass
class Reference:
    """What torch says on the images `x`: logits and gradients in float64 and in float32, and how far finite
    differences of float64's values are from float64's gradients."""

    x: Tensor
    y: Tensor
    loss: Tensor
    logits: np.ndarray
    grad: np.ndarray
    logits32: np.ndarray
    grad32: np.ndarray
    slope_error: float


def losses(z: Tensor, y: Tensor) -> Tensor:
    """Return ce for the first half of the images, margin for the others."""
    own = z.gather(1, y[:, None])[:, 0]
    others = z.scatter(1, y[:, None], -torch.inf).amax(1)
    half = torch.arange(len(z)) < len(z) // 2
    return torch.where(half, torch.logsumexp(z, 1) - own, others - own)


def reference(network: nn.Module, size: int, draw: int = 0) -> Reference:
    """Return what torch says; ValueError where that is no gradient to compare with: zero, or no number."""
    generator = torch.Generator().manual_seed(2 + draw)
    x = torch.rand((IMAGES, 3, size, size), generator=generator)
    y = torch.randint(CLASSES, (IMAGES,), generator=generator)
    double = copy.deepcopy(network).double()
    z, grad = _torch_gradient(double, x.double(), y)
    said = grad.abs().sum((1, 2, 3))
    if not bool(((said > 0) & said.isfinite()).all()):
        raise ValueError(f"torch's own gradient in float64 is zero or no number: {said.tolist()}")
    step = 1e-6
    with torch.no_grad():
        up, down = (losses(double(x + s * grad.sign()), y) for s in (step, -step))
    del double
    z32, grad32 = _torch_gradient(network, x, y)
    measured = (up - down) / (2 * step)
    loss = (torch.arange(IMAGES) >= IMAGES // 2).long()
    slope_error = float(((measured - said).abs() / said).median())
    return Reference(x, y, loss, z.numpy(), grad.numpy(), z32.numpy(), grad32.numpy(), slope_error)


def _torch_gradient(network: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_(True)
    z = network(x)
    (grad,) = torch.autograd.grad(losses(z, y).sum(), x)
    return z.detach(), grad


def export(network: nn.Module, size: int, exporter: str, opset: int, batch: int | None) -> onnx.ModelProto:
    """Return the network's file, its batch open where `batch` is None."""
    x = torch.rand(batch or 2, 3, size, size)
    file = cast(Any, io.BytesIO())  # torch takes one, its annotations do not
    names: dict[str, Any] = {"input_names": ["x"], "output_names": ["logits"], "opset_version": opset}
    talk = io.StringIO()  # the old exporter prints a whole graph where it fails
    with warnings.catch_warnings(), redirect_stdout(talk), redirect_stderr(talk), _no_output():
        warnings.simplefilter("ignore")
        if exporter == "legacy":
            axes = {"x": {0: "n"}, "logits": {0: "n"}} if batch is None else None
            torch.onnx.export(network, (x,), file, dynamo=False, dynamic_axes=axes, **names)
            return onnx.load_from_string(file.getvalue())
        shapes = ({0: torch.export.Dim("n", min=1, max=4096)},) if batch is None else None
        program = torch.onnx.export(network, (x,), dynamo=True, dynamic_shapes=shapes, verbose=False, **names)
        assert program is not None
        return program.model_proto


@contextmanager
def _no_output() -> Iterator[None]:
    """Send what C++ prints nowhere."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def examine(network: nn.Module, references: list[Reference], row: Row) -> None:
    """Fill the row: export, derive, compare. references: of the draws made so far, to which more are added
    while the row says "differs"."""
    try:
        model = _exported(network, row)
    except Exception as error:  # whatever the exporters throw
        row.verdict, row.reason = "not exported", first_line(error)
        return
    row.operators = sorted({node.op_type for node in model.graph.node})
    row.opset = max(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    try:
        gradient = differentiate(model)
    except UserError as error:
        row.verdict, row.reason = "refused", error.detail
        return
    del model
    try:
        session = _session(gradient)
        del gradient
        for draw in range(DRAWS):
            if draw == len(references):
                references.append(reference(network, row.size, draw))
            _compare(session, references[draw], row)
            if row.verdict != "differs":
                return
    except Exception as error:  # ONNX Runtime has an own class for each reason
        row.verdict, row.reason = "no answer", first_line(error)


def _compare(session: onnxruntime.InferenceSession, told: Reference, row: Row) -> None:
    logits, grad = _ask(session, told)
    row.errors += _errors(grad, told.grad).tolist()
    row.torch_errors += _errors(told.grad32, told.grad).tolist()
    worst = [float(_errors(z, told.logits).max()) for z in (logits, told.logits32)]
    row.logits_errors = (max(row.logits_errors[0], worst[0]), max(row.logits_errors[1], worst[1]))
    row.slope_error = told.slope_error
    row.verdict = verdict(row.errors, row.torch_errors, row.logits_errors)


def verdict(
    errors: list[float], torch_errors: list[float], logits_errors: tuple[float, float] = (0.0, 0.0)
) -> Verdict:
    """Return "exact" where every image is within 1e-5; "kinks" where others are not, but some are, of ce and
    of margin both: a wrong rule, or loss, errs on all; "as torch" where none is, and the typical image is no
    farther from float64 than three times torch's own float32 gradient; else "differs".

    "differs" also where the logits are off by more than 1e-4, and three times as far as torch's in float32.
    """
    if not logits_errors[0] <= max(LOGITS_DIFFER, 3 * logits_errors[1]) < math.inf:
        return "differs"
    if max(errors) <= EXACT:
        return "exact"
    places = [i % IMAGES < IMAGES // 2 for i in range(len(errors))]
    if all(
        min(e for e, ce in zip(errors, places, strict=True) if ce == side) <= EXACT for side in (True, False)
    ):
        return "kinks"
    return "as torch" if median(errors) <= 3 * median(torch_errors) < math.inf else "differs"


def _exported(network: nn.Module, row: Row) -> onnx.ModelProto:
    try:
        row.batch = "open"
        return export(network, row.size, row.exporter, row.asked, None)
    except Exception:  # a network that cannot be traced with an open batch is published with a fixed one
        row.batch = "1"
        return export(network, row.size, row.exporter, row.asked, 1)


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])


def _ask(session: onnxruntime.InferenceSession, told: Reference) -> tuple[np.ndarray, np.ndarray]:
    feeds = {"x": told.x.numpy(), "y": told.y.numpy(), "loss": told.loss.numpy(), "target": told.y.numpy()}
    first = session.get_inputs()[0].shape[0]
    step = first if isinstance(first, int) else IMAGES
    parts = [
        session.run(["logits", "grad"], {k: v[i : i + step] for k, v in feeds.items()})
        for i in range(0, IMAGES, step)
    ]
    logits, grad = (np.concatenate(part) for part in zip(*parts, strict=True))
    return logits, grad


def _errors(ours: np.ndarray, truth: np.ndarray) -> np.ndarray:
    ours, truth = (a.reshape(len(a), -1).astype(np.float64) for a in (ours, truth))
    size = np.maximum(np.linalg.norm(truth, axis=1), 1e-30)
    found: np.ndarray = np.linalg.norm(ours - truth, axis=1) / size
    return np.nan_to_num(found, nan=np.inf)


def first_line(error: Exception) -> str:
    """Return the error's class and the first line of what it says."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"
