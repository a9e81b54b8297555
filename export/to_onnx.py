"""Write model.onnx and model.gradient.onnx into a model folder, checked against torch.

.venv/bin/python export/to_onnx.py FOLDER
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from torch import nn

from dra_serve.errors import DraServeError, ModelFolderError
from dra_serve.gradient_graph import differentiate
from dra_serve.model_config import ModelConfig
from dra_serve.model_folder import CONFIG, FORWARD, GRADIENT
from dra_serve.onnx_classifier import OnnxClassifier
from dra_serve.sums import write_sums
from export.check_onnx import findings_table
from export.forward_graph import forward_graph
from export.parity import Finding, compare, is_smooth
from training.networks import HubClassifier

WEIGHTS = "model.safetensors"


class ParityError(DraServeError):
    """A graph does not compute what the network does: our mistake, or an exporter's."""

    title = "Export disagrees with torch"


@dataclass(frozen=True, kw_only=True)
class Export:
    """What was written: bytes of each file, seconds for each, and what the comparison found."""

    forward_bytes: int
    gradient_bytes: int
    forward_seconds: float
    gradient_seconds: float
    findings: list[Finding]


def export(folder: Path) -> Export:
    """Write both graphs of the network in `folder` and renew its SHA256SUMS.

    folder: holds config.json and model.safetensors. Raises as `write_graphs`, and ModelFolderError for
    a folder without config or weights.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise ModelFolderError("missing", file=name)
    try:
        config = ModelConfig.model_validate_json((folder / CONFIG).read_bytes())
    except ValidationError as error:
        raise ModelFolderError(str(error.errors(include_url=False)[0]["msg"]), file=CONFIG) from error
    return write_graphs(folder, HubClassifier.from_pretrained(folder), config)


def write_graphs(folder: Path, network: nn.Module, config: ModelConfig) -> Export:
    """Write both graphs of `network` into `folder` and renew its SHA256SUMS.

    Nothing is written unless both graphs agree with torch. Raises ParityError saying where they do not;
    NoDerivative if the network uses an operator without a rule.
    """
    started = time.perf_counter()
    forward_model = forward_graph(network, config.input_shape)
    exported = time.perf_counter()
    gradient_model = differentiate(forward_model)
    differentiated = time.perf_counter()

    forward, gradient = (m.SerializeToString(deterministic=True) for m in (forward_model, gradient_model))
    model = OnnxClassifier(forward, gradient, classes=config.classes, input_shape=config.input_shape)
    findings = compare(network, model, smooth=is_smooth(forward_model))
    broken = [str(finding) for finding in findings if not finding.passed]
    if broken:
        raise ParityError(f"{folder}: {'; '.join(broken)}")
    (folder / FORWARD).write_bytes(forward)
    (folder / GRADIENT).write_bytes(gradient)
    write_sums(folder)
    return Export(
        forward_bytes=len(forward),
        gradient_bytes=len(gradient),
        forward_seconds=exported - started,
        gradient_seconds=differentiated - exported,
        findings=findings,
    )


def main(
    folder: Annotated[Path, typer.Argument(help="Model folder with config.json and model.safetensors.")],
) -> None:
    """Write both ONNX graphs into FOLDER, checked against torch."""
    try:
        done = export(folder)
    except DraServeError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from error
    Console().print(findings_table(done.findings))
    for name, size, seconds in (
        (FORWARD, done.forward_bytes, done.forward_seconds),
        (GRADIENT, done.gradient_bytes, done.gradient_seconds),
    ):
        typer.echo(f"{folder / name}: {size:,} bytes in {seconds:.2f} s")


if __name__ == "__main__":
    typer.run(main)
