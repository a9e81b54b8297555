"""Compare a model folder's two ONNX graphs with its torch network, and time both.

    .venv/bin/python export/check_onnx.py FOLDER

Exit code 1 when a tolerance is broken.
"""

from pathlib import Path
from typing import Annotated

import onnx
import typer
from rich.console import Console
from rich.table import Table

from dra_serve.errors import DraServeError
from dra_serve.model_folder import FORWARD, read_folder
from export.parity import Finding, compare, is_smooth
from export.timing import Timing, time_both
from training.networks import HubClassifier


def findings_table(findings: list[Finding]) -> Table:
    """Return the comparisons as a table, failures marked."""
    table = Table("against torch in float64", "found", "allowed", "")
    for finding in findings:
        verdict = "ok" if finding.passed else "BROKEN"
        table.add_row(finding.what, f"{finding.measured:.2g}", f"{finding.allowed:.2g}", verdict)
    return table


def timings_table(timings: list[Timing]) -> Table:
    """Return the times as a table; the ratio is torch's time over ours."""
    table = Table("one thread each", "n", "ONNX, ms", "torch / ONNX", "quartiles")
    for t in timings:
        table.add_row(
            t.what, str(t.n), f"{t.milliseconds:.2f}", f"{t.ratio:.2f}", f"{t.low:.2f} - {t.high:.2f}"
        )
    return table


def main(
    folder: Annotated[Path, typer.Argument(help="Model folder with both graphs in it.")],
    rounds: Annotated[int, typer.Option(min=0, help="Alternating rounds of timing; 0 leaves it out.")] = 15,
) -> None:
    """Compare FOLDER's two ONNX graphs with its torch network, and time both."""
    console = Console()
    try:
        model = read_folder(folder).classifier()
        network = HubClassifier.from_pretrained(folder)
        findings = compare(network, model, smooth=is_smooth(onnx.load(folder / FORWARD)))
        console.print(findings_table(findings))
        if rounds:
            console.print(timings_table(time_both(network, model, rounds=rounds)))
    except DraServeError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from error
    if not all(finding.passed for finding in findings):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
