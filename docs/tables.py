"""Generated pages: figures go from receipts into Markdown, never through a person's hands.

    python -m docs.tables            # rewrite what lies between the markers, and the receipt's schema
    python -m docs.tables --check    # exit 1 where a page is stale

A page asks for a table with `<!-- table:bundled -->` and ends it with `<!-- /table:bundled -->`; for a few
words within a sentence with `<!-- words:headline -->` and `<!-- /words:headline -->`.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from docs.plots import line_chart
from docs.readme import name_examples
from dra_serve.attacks.norms import format_radius
from dra_serve.evaluation import paired_difference, wilson
from dra_serve.evaluation.bits import unpack
from dra_serve.evaluation.receipt import curve, robust, schema
from dra_serve.receipts import attack_name, same_run, title, upgraded

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "docs/results.md")
PLOT = "docs/accuracy-against-eps.svg"
SCHEMA = "docs/receipt.schema.json"
BUNDLED = ROOT / "dra_serve" / "bundled"
RECEIPTS = ROOT / "docs" / "receipts"
MODELS = {
    "`bundled:dra`": BUNDLED / "dra",
    "`bundled:at`": BUNDLED / "at",
    "control: DRA, untrained teacher": RECEIPTS / "untrained-teacher",
}

Receipt = dict[str, Any]
Model = tuple[dict[str, Any], list[Receipt]]  # config.json, and the receipts of results.json


def bundled(folders: dict[str, Path] = MODELS) -> str:
    """Return the models' receipts as Markdown: a row a receipt, DRA against its twin, how each was trained.

    folders: the table's name of a model -> its folder, of which `config.json` and `results.json` are
    read; a folder that is not there has no row.
    """
    models = {name: _read(folder) for name, folder in folders.items() if (folder / "results.json").is_file()}
    rows = [_row(name, receipt) for name, (_, receipts) in models.items() for receipt in receipts]
    if not rows:
        return "Not trained yet: `dra_serve/bundled/` holds no receipts."
    head = (
        "| model | attack | n | clean | robust (95 % interval) | robust, 8-bit image |\n"
        "|---|---|---|---|---|---|"
    )
    notes = [_training_note(name, config) for name, (config, _) in models.items()]
    return "\n".join([head, *rows, "", *_differences(models), *notes])


def _read(folder: Path) -> Model:
    """Return a model folder's config and receipts, with those on fewer images that lie in RECEIPTS."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    files = [folder / "results.json"]
    if folder.parent == BUNDLED:
        files.append(RECEIPTS / folder.name / "results.json")
    found = [json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()]
    return config, [upgraded(receipt) for results in found for receipt in results["receipts"]]


def _differences(models: dict[str, Model]) -> list[str]:
    """Return lines on the first model and each other: clean, and every run of the same attack and images."""
    (base, (_, ours)), *others = models.items()
    lines = []
    for other, (_, theirs) in others:
        shared = [(mine, its) for mine in ours for its in theirs if same_run(mine, its)]
        most = max(shared, key=lambda pair: pair[0]["n"], default=None)
        if most is not None:
            answers = [unpack(receipt["outcomes"]["clean"], receipt["n"]) for receipt in most]
            lines.append(_difference(base, other, "clean", *answers))
        lines += [
            _difference(base, other, f"robust under {attack_name(mine)}", robust(mine), robust(its))
            for mine, its in shared
        ]
    return lines


def _difference(base: str, other: str, what: str, ours: np.ndarray, theirs: np.ndarray) -> str:
    difference, (low, high) = paired_difference(ours, theirs)
    verdict = (
        "the interval excludes 0" if low > 0 or high < 0 else "the interval includes 0: no difference shown"
    )
    return (
        f"- {base} minus {other}, {what}: {100 * difference:+.1f} points "
        f"(paired 95 % interval {100 * low:+.1f} to {100 * high:+.1f}); {verdict}."
    )


def _row(model: str, receipt: Receipt) -> str:
    low, high = receipt["wilson_95"]
    accuracy = f"{_percent(receipt['robust_accuracy'])} ({_percent(low)} to {_percent(high)})"
    cells = (
        model,
        title(receipt),
        f"{receipt['n']:,}",
        _percent(receipt["clean_accuracy"]),
        accuracy,
        _percent(receipt["robust_accuracy_8bit"]),
    )
    return f"| {' | '.join(cells)} |"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _training_note(name: str, config: dict[str, Any]) -> str:
    training, data = config["training"], config["data"]
    return (
        f"- {name}: recipe `{config['name']}`, {training['epochs']} epochs over "
        f"{data['images']:,} images of {data['name']}, {training['cpu_minutes']:.0f} minutes of one CPU core."
    )


def headline(folder: Path = MODELS["`bundled:dra`"]) -> str:
    """Return the hardest measurement of a model within its threat model, with its conditions, in words.

    Hardest is the lowest robust accuracy among the receipts of the most images.
    """
    config, receipts = _read(folder)
    threat = f"{config['threat']['norm']} {config['threat']['eps']}"
    within = [receipt for receipt in receipts if title(receipt).endswith(f", {threat}")]
    if not within:
        return "not measured yet"
    hardest = max(within, key=lambda receipt: (receipt["n"], -receipt["robust_accuracy"]))
    data = {"cifar10": "CIFAR-10"}.get(hardest["data"]["name"], hardest["data"]["name"])
    return (
        f"{_percent(hardest['robust_accuracy'])} of {data}'s test images right under {title(hardest)} "
        f"(n = {hardest['n']:,})"
    )


def attacks(folders: dict[str, Path] = MODELS) -> str:
    """Return what each attack left, a row a receipt of more than one attack at its largest radius."""
    rows = []
    for name, receipt in _all(folders):
        n = receipt["n"]
        runs = [run for run in receipt["attacks"] if run["arguments"]["eps"] == receipt["eps"]]
        if len(runs) > 1:
            left = ", ".join(f"{run['name']} {_percent(run['robust'] / n)}" for run in runs)
            clean = _percent(receipt["clean_accuracy"])
            rows.append(f"| {name} | {title(receipt)} | {n:,} | {clean} | {left} |")
    head = "| model | suite | n | clean | left after |\n|---|---|---|---|---|"
    return "\n".join([head, *rows]) if rows else "No receipt of a suite of several attacks yet."


def curves(folders: dict[str, Path] = MODELS) -> str:
    """Return accuracy against eps, a row a radius of each receipt that has several, below the plot."""
    rows = []
    for name, receipt in _with_curve(folders):
        n = receipt["n"]
        for eps, right in curve(receipt):
            low, high = map(_percent, wilson(right, n))
            cells = (name, f"{attack_name(receipt)}, {receipt['norm']}", f"{n:,}", format_radius(eps))
            rows.append(f"| {' | '.join(cells)} | {_percent(right / n)} ({low} to {high}) |")
    if not rows:
        return "No receipt over several radii yet."
    image = f"![accuracy against eps]({Path(PLOT).name})\n"
    head = "| model | attacks | n | eps | robust (95 % interval) |\n|---|---|---|---|---|"
    return "\n".join([image, head, *rows])


def plot(folders: dict[str, Path] = MODELS) -> str:
    """Return the plot of every curve in linf as SVG; "" if there is none. Radius 0 is the clean accuracy."""
    series, ticks = {}, {0.0: "0"}
    for name, receipt in _with_curve(folders):
        if receipt["norm"] == "linf":
            points = [(eps, right / receipt["n"]) for eps, right in curve(receipt)]
            key = f"{name.strip('`')}, {receipt['suite'] or attack_name(receipt)}"
            series[key] = [(0.0, receipt["clean_accuracy"]), *points]
            ticks |= {eps: format_radius(eps) for eps, _ in points}
    label = "eps (linf, pixels in [0, 1])"
    return line_chart(series, x_label=label, y_label="accuracy", x_ticks=ticks) if series else ""


def classes(folders: dict[str, Path] = MODELS) -> str:
    """Return the robust accuracy of each class, a row a receipt that has it; all models have one data set."""
    found = [(name, receipt) for name, receipt in _all(folders) if receipt.get("by_class")]
    if not found:
        return "No receipt with classes yet."
    names = [count["name"] for count in found[0][1]["by_class"]]
    head = f"| model | attack | {' | '.join(names)} |\n|---|---|{'---|' * len(names)}"
    rows = [
        f"| {name} | {title(receipt)} | " + " | ".join(_share(count) for count in receipt["by_class"]) + " |"
        for name, receipt in found
        if [count["name"] for count in receipt["by_class"]] == names
    ]
    return "\n".join([head, *rows])


def _share(count: dict[str, Any]) -> str:
    return _percent(count["robust"] / count["n"]) if count["n"] else "none"


def _all(folders: dict[str, Path]) -> Iterator[tuple[str, Receipt]]:
    for name, folder in folders.items():
        if (folder / "results.json").is_file():
            yield from ((name, receipt) for receipt in _read(folder)[1])


def _with_curve(folders: dict[str, Path]) -> list[tuple[str, Receipt]]:
    return [(name, receipt) for name, receipt in _all(folders) if len(curve(receipt)) > 1]


TABLES: dict[str, Callable[[], str]] = {
    "bundled": bundled,
    "attacks": attacks,
    "curves": curves,
    "classes": classes,
}
WORDS: dict[str, Callable[[], str]] = {"headline": headline}


def fill(
    page: str, tables: dict[str, Callable[[], str]] = TABLES, words: dict[str, Callable[[], str]] = WORDS
) -> str:
    """Return `page` with what lies between each pair of markers replaced by its table or words.

    Raises KeyError for a marker that names none: a typo must not leave an old table standing.
    """
    table = re.compile(r"(<!-- table:(\w+) -->\n).*?(<!-- /table:\2 -->)", re.DOTALL)
    page = table.sub(lambda match: f"{match[1]}{tables[match[2]]()}\n{match[3]}", page)
    inline = re.compile(r"(<!-- words:(\w+) -->).*?(<!-- /words:\2 -->)", re.DOTALL)
    return inline.sub(lambda match: f"{match[1]}{words[match[2]]()}{match[3]}", page)


def generated() -> dict[str, str]:
    """Return the text that each generated file should have: pages with their figures, and the schema."""
    files = {name: name_examples(fill((ROOT / name).read_text(encoding="utf-8"))) for name in PAGES}
    drawn = {PLOT: svg} if (svg := plot()) else {}
    return files | drawn | {SCHEMA: json.dumps(schema(), indent=2) + "\n"}


def main() -> int:
    parser = argparse.ArgumentParser(description="Rewrite the pages that are generated.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a page is stale")
    arguments = parser.parse_args()
    stale = []
    for name, text in generated().items():
        file = ROOT / name
        if file.exists() and file.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if not arguments.check:
            file.write_text(text, encoding="utf-8")
    if arguments.check and stale:
        print(f"stale, run `make docs`: {', '.join(stale)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
