"""Which public classifiers are attacked white-box: `benchmarks/coverage.py [--only REGEX]`.

Each network of torchvision and timm, as far as they are installed in the interpreter that runs this, gets
random weights, is exported to ONNX by torch's exporters, and its gradient graph is derived from the file
alone. Then, on fresh images and with the losses ce and margin, the gradient is compared with torch's
autograd in float64, and so is torch's own in float32: a ReLU whose input is nearly zero falls on either
side, and no float32 gradient is nearer than its rounding. Errors are L2, relative, of an image.

    pip install "dra-serve[onnx]" onnxscript torch torchvision timm
    python benchmarks/coverage.py --only 'torchvision/(resnet|vit)' --jsonl rows.jsonl
"""

import copy
import gc
import io
import json
import logging
import os
import re
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from statistics import median
from typing import Annotated, Any, cast

import numpy as np
import onnx
import onnxruntime
import torch
import typer
from torch import Tensor, nn

from benchmarks.peers.zoo import CLASSES, Entry, built, libraries, timm_entries, torchvision_entries
from dra_serve.errors import UserError
from dra_serve.gradient_graph import differentiate

IMAGES = 4
EXACT = 1e-5  # float32's own rounding over a deep network
EXPORTERS = ("dynamo", "legacy")
DRAWS = 4  # at most, of so many images: where ReLUs flip on each image of the first
Verdict = str  # "exact", "kinks", "as torch", "differs", "refused", "not exported", "not built"


@dataclass
class Row:
    """One file. errors: of each image; torch_errors: torch's in float32 on the same images."""

    name: str
    exporter: str
    opset: int
    size: int = 0
    batch: str = ""
    operators: list[str] = field(default_factory=list)
    verdict: Verdict = ""
    reason: str = ""
    errors: list[float] = field(default_factory=list)
    torch_errors: list[float] = field(default_factory=list)
    logits_error: float = 0.0
    slope_error: float = float("nan")
    seconds: float = 0.0


@dataclass
class Reference:
    """What torch says on the images `x`: logits and gradients in float64, gradients in float32, and how far
    finite differences of float64's values are from float64's gradients."""

    x: Tensor
    y: Tensor
    loss: Tensor
    logits: np.ndarray
    grad: np.ndarray
    grad32: np.ndarray
    slope_error: float


def losses(z: Tensor, y: Tensor) -> Tensor:
    """Return ce for the first half of the images, margin for the others."""
    own = z.gather(1, y[:, None])[:, 0]
    others = z.scatter(1, y[:, None], -torch.inf).amax(1)
    half = torch.arange(len(z)) < len(z) // 2
    return torch.where(half, torch.logsumexp(z, 1) - own, others - own)


def reference(network: nn.Module, size: int, draw: int = 0) -> Reference:
    generator = torch.Generator().manual_seed(2 + draw)
    x = torch.rand((IMAGES, 3, size, size), generator=generator)
    y = torch.randint(CLASSES, (IMAGES,), generator=generator)
    double = copy.deepcopy(network).double()
    z, grad = _torch_gradient(double, x.double(), y)
    _, grad32 = _torch_gradient(network, x, y)
    step = 1e-6
    with torch.no_grad():
        up, down = (losses(double(x + s * grad.sign()), y) for s in (step, -step))
    measured, said = (up - down) / (2 * step), grad.abs().sum((1, 2, 3))
    loss = (torch.arange(IMAGES) >= IMAGES // 2).long()
    slope_error = float(((measured - said).abs() / said).median())
    return Reference(x, y, loss, z.numpy(), grad.numpy(), grad32.numpy(), slope_error)


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
        row.verdict, row.reason = "not exported", _first_line(error)
        return
    row.operators = sorted({node.op_type for node in model.graph.node})
    row.opset = max(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    try:
        gradient = differentiate(model)
    except UserError as error:
        row.verdict, row.reason = "refused", error.detail
        return
    session = _session(gradient)
    for draw in range(DRAWS):
        if draw == len(references):
            references.append(reference(network, row.size, draw))
        told = references[draw]
        logits, grad = _ask(session, told)
        row.errors += _errors(grad, told.grad).tolist()
        row.torch_errors += _errors(told.grad32, told.grad).tolist()
        row.logits_error = max(row.logits_error, float(_errors(logits, told.logits).max()))
        row.slope_error = told.slope_error
        row.verdict = verdict(row.errors, row.torch_errors)
        if row.verdict != "differs":
            return


def verdict(errors: list[float], torch_errors: list[float]) -> Verdict:
    """Return "exact" where every image is within 1e-5; "kinks" where some are and others are not, since a
    wrong rule errs on all; "as torch" where none is, and the typical image is no farther from float64 than
    three times torch's own float32 gradient; else "differs"."""
    if max(errors) <= EXACT:
        return "exact"
    if min(errors) <= EXACT:
        return "kinks"
    return "as torch" if median(errors) <= 3 * median(torch_errors) else "differs"


def _exported(network: nn.Module, row: Row) -> onnx.ModelProto:
    try:
        row.batch = "open"
        return export(network, row.size, row.exporter, row.opset, None)
    except Exception:  # a network that cannot be traced with an open batch is published with a fixed one
        row.batch = "1"
        return export(network, row.size, row.exporter, row.opset, 1)


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


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"


def entries(only: str) -> Iterator[Entry]:
    installed = libraries()
    for name, every in (("torchvision", torchvision_entries), ("timm", timm_entries)):
        if name in installed:
            yield from (entry for entry in every() if re.search(only, entry.name))


def rows_of(entry: Entry, exporters: list[str], opsets: list[int], largest: float) -> Iterator[Row]:
    started = time.process_time()
    empty = Row(name=entry.name, exporter="", opset=0)
    try:
        network, size = built(entry)
        millions = sum(p.numel() for p in network.parameters()) / 1e6
        if millions > largest:
            raise RuntimeError(f"{millions:.0f} million weights: left out by --max-weights {largest:g}")
        references = [reference(network, size)]
    except Exception as error:  # a network that does not run in torch here is not ours to judge
        empty.verdict, empty.reason = "not built", _first_line(error)
        yield empty
        return
    for exporter, opset in product(exporters, opsets):
        row = Row(name=entry.name, exporter=exporter, opset=opset, size=size)
        examine(network, references, row)
        row.seconds, started = time.process_time() - started, time.process_time()
        yield row
        gc.collect()


def main(
    only: Annotated[str, typer.Option(help="Regular expression: names such as torchvision/resnet18.")] = "",
    exporter: Annotated[list[str], typer.Option(help="dynamo, legacy.")] = list(EXPORTERS),  # noqa: B006
    opset: Annotated[list[int], typer.Option(help="One or more.")] = [18],  # noqa: B006
    max_weights: Annotated[float, typer.Option(help="In millions; larger networks are left out.")] = 100,
    jsonl: Annotated[
        Path | None, typer.Option(help="Append each row here; rows it holds are not redone.")
    ] = None,
) -> None:
    """Print a row a file, then totals."""
    installed = libraries()
    if not installed:
        print("coverage: neither torchvision nor timm is installed, nothing to do", file=sys.stderr)
        return
    torch.set_num_threads(1)
    torch.backends.mha.set_fastpath_enabled(False)  # an operator that no exporter knows
    logging.disable(logging.WARNING)
    done = _done(jsonl)
    used = {
        **installed,
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
    }
    print(", ".join(f"{name} {number}" for name, number in used.items()))
    print(HEAD)
    totals: Counter[str] = Counter()
    within, operators = [0, 0, 0], set[str]()
    for entry in entries(only):
        if entry.name in done:
            continue
        for row in rows_of(entry, exporter, opset, max_weights):
            totals[row.verdict] += 1
            for place, errors in enumerate((row.errors, row.torch_errors)):
                within[place] += sum(e <= EXACT for e in errors)
            within[2] += len(row.errors)
            operators.update(row.operators)
            print(line_of(row), flush=True)
            if jsonl:
                with jsonl.open("a") as file:
                    file.write(json.dumps(asdict(row)) + "\n")
    print(f"{sum(totals.values())} rows:", ", ".join(f"{n} {v}" for v, n in totals.most_common()))
    print(f"images within {EXACT:g}: ours {within[0]}, torch in float32 {within[1]}, of {within[2]}")
    print("operators:", " ".join(sorted(operators)))


def _done(jsonl: Path | None) -> set[str]:
    """Return the networks that the file has rows of, those aside that were left out."""
    if jsonl is None or not jsonl.exists():
        return set()
    rows = [json.loads(line) for line in jsonl.read_text().splitlines()]
    return {row["name"] for row in rows if row["verdict"] != "not built"}


def line_of(row: Row) -> str:
    told = row.reason
    if row.errors:
        near, torchs = (sum(e <= EXACT for e in errors) for errors in (row.errors, row.torch_errors))
        told = f"{max(row.errors):8.1e} {near:3}/{len(row.errors):<3} {max(row.torch_errors):8.1e} "
        told += f"{torchs:3}/{len(row.errors):<3} {row.slope_error:8.1e}"
    return (
        f"{row.name:46} {row.exporter:8} {row.opset:5} {row.size:4} {row.batch:5} {len(row.operators):4} "
        f"{row.verdict:12} {told}"
    )


HEAD = (
    f"{'network':46} {'exporter':8} opset size batch  ops {'':12}   worst within    worst within    slopes\n"
    f"{'':93}     ours  1e-5    torch32  1e-5   torch64"
)


if __name__ == "__main__":
    typer.run(main)
