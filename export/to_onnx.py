"""Write model.onnx and model.gradient.onnx into a model folder, checked against torch.

.venv/bin/python export/to_onnx.py FOLDER
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from dra_serve.errors import DraServeError
from dra_serve.gradient_graph import differentiate
from dra_serve.model_folder import ModelConfig, write_sums
from export.check_onnx import findings_table
from export.forward_graph import forward_graph
from export.parity import Finding, compare
from training.networks import HubClassifier


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

    folder: holds config.json and model.safetensors. Nothing is written unless both graphs agree with
    torch. Raises ParityError saying where they do not; NoDerivative if the network uses an operator
    without a rule.
    """
    config = ModelConfig.model_validate_json((folder / "config.json").read_bytes())
    network = HubClassifier.from_pretrained(folder)
    classes, input_shape = tuple(config.classes), tuple(config.input_shape)

    started = time.perf_counter()
    forward_model = forward_graph(network, input_shape)
    exported = time.perf_counter()
    gradient_model = differentiate(forward_model)
    differentiated = time.perf_counter()

    forward, gradient = (m.SerializeToString(deterministic=True) for m in (forward_model, gradient_model))
    findings = compare(network, forward, gradient, classes=classes, input_shape=input_shape)
    broken = [str(finding) for finding in findings if not finding.passed]
    if broken:
        raise ParityError(f"{folder}: {'; '.join(broken)}")
    (folder / "model.onnx").write_bytes(forward)
    (folder / "model.gradient.onnx").write_bytes(gradient)
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
        ("model.onnx", done.forward_bytes, done.forward_seconds),
        ("model.gradient.onnx", done.gradient_bytes, done.gradient_seconds),
    ):
        typer.echo(f"{folder / name}: {size:,} bytes in {seconds:.2f} s")


if __name__ == "__main__":
    typer.run(main)
