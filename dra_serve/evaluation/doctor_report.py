"""What the doctor found: as JSON, and as a table with a last line for the reader."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dra_serve.evaluation.diagnosis import Finding

FEW = 64  # images: fewer can hide a fault


@dataclass(frozen=True, kw_only=True)
class Report:
    """What the doctor found. images: which they were, in words; eps in units of x."""

    model: str
    model_sha256: str | None
    images: str
    n: int
    norm: str
    eps: float
    seed: int
    seconds: float
    findings: tuple["Finding", ...]

    @property
    def warnings(self) -> list["Finding"]:
        return [finding for finding in self.findings if finding.verdict == "warning"]

    def as_dict(self) -> dict[str, Any]:
        """Return the report ready for JSON."""
        fields = {name: value for name, value in asdict(self).items() if name != "findings"}
        checks = [asdict(finding) | {"anchor": finding.anchor} for finding in self.findings]
        return fields | {"sound": not self.warnings, "checks": checks}


def print_report(report: Report) -> None:
    """Print the table, each warning's meaning, and the verdict."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from dra_serve.attacks.norms import format_radius

    console = Console(highlight=False)
    if not console.is_terminal:  # a file or a pipe has no width: nothing is wrapped or cut there
        console.width = 10_000
    title = (
        f"{report.model}: {report.norm} eps {format_radius(report.eps)}, {report.n} images ({report.images})"
    )
    table = Table("check", "measured", "verdict", title=escape(title), box=SIMPLE_HEAD, title_justify="left")
    styles = {"ok": "", "warning": "bold red", "not run": "yellow"}
    for finding in report.findings:
        verdict = finding.name if finding.verdict == "warning" else finding.verdict
        table.add_row(finding.question, escape(finding.measured), verdict, style=styles[finding.verdict])
    console.print(table)
    for finding in report.warnings:
        console.print(f"[bold red]{finding.name}[/]: {escape(finding.meaning)} See {finding.anchor}")
    console.print(_verdict(report))


def _verdict(report: Report) -> str:
    """Return the last line: what the reader may conclude."""
    count = len(report.warnings)
    left_out = sum(finding.verdict == "not run" for finding in report.findings)
    words = [f"{count} warning{'' if count == 1 else 's'}" if count else "sound, as far as these checks see"]
    if left_out:
        words.append(f"{left_out} not run")
    if report.n < FEW:
        words.append(f"{report.n} images are few: a fault that is rare can hide; more come with --data")
    return f"{'; '.join(words)} ({report.seconds:.1f} s)"
