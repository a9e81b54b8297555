"""A receipt's figures in words, for the command line."""

from typing import Any

from dra_serve.attacks.norms import format_radius
from dra_serve.evaluation.receipt import curve
from dra_serve.evaluation.statistics import wilson
from dra_serve.receipts import title


def summary(receipt: dict[str, Any]) -> str:
    """Return a receipt's figures: a line each for clean, every attack, every radius, robust and 8-bit."""
    n, attacks, radii = receipt["n"], receipt["attacks"], curve(receipt)
    low, high = receipt["wilson_95"]
    lines = [f"{receipt['model']}: {title(receipt)}, n {n:,}", f"clean   {receipt['clean_accuracy']:.2%}"]
    lines += [f"  after {_run(run, len(radii) > 1)}: {run['robust'] / n:.2%}" for run in attacks]
    if len(radii) > 1:
        lines += [_point(eps, robust, n) for eps, robust in radii]
    lines += [
        f"robust  {receipt['robust_accuracy']:.2%}  (95 %: {low:.2%} to {high:.2%})",
        f"8-bit   {receipt['robust_accuracy_8bit']:.2%}  on the adversarial images rounded to k/255",
        *(f"warning {text}" for text in receipt["warnings"]),
    ]
    return "\n".join(lines)


def _run(run: dict[str, Any], with_eps: bool) -> str:
    shown = {key: value for key, value in run["arguments"].items() if key not in ("norm", "eps")}
    if "alpha" in shown:
        shown["alpha"] = format_radius(shown["alpha"])
    arguments = ", ".join(f"{key} {value}" for key, value in shown.items())
    at = f" at eps {format_radius(run['arguments']['eps'])}" if with_eps else ""
    return f"{run['name']}{at} ({arguments})"


def _point(eps: float, robust: int, n: int) -> str:
    low, high = wilson(robust, n)
    return f"eps {format_radius(eps)}: {robust / n:.2%}  (95 %: {low:.2%} to {high:.2%})"
