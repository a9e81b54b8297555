"""Generated pages: figures go from receipts into Markdown, never through a person's hands.

    python -m docs.tables            # rewrite what lies between the markers, and the receipt's schema
    python -m docs.tables --check    # exit 1 where a page is stale

A page asks for a table with `<!-- table:bundled -->` and ends it with `<!-- /table:bundled -->`.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dra_serve.evaluation import paired_difference
from dra_serve.evaluation.receipt import robust, schema
from dra_serve.receipts import attack_name, same_run, title, upgraded

ROOT = Path(__file__).parent.parent
PAGES = ("README.md",)
SCHEMA = "docs/receipt.schema.json"
MODELS = {
    "`bundled:dra`": ROOT / "dra_serve" / "bundled" / "dra",
    "`bundled:at`": ROOT / "dra_serve" / "bundled" / "at",
    "control: DRA, untrained teacher": ROOT / "docs" / "receipts" / "untrained-teacher",
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
    """Return a model folder's config and receipts."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return config, [upgraded(receipt) for receipt in results["receipts"]]


def _differences(models: dict[str, Model]) -> list[str]:
    """Return a line for each run that the first model and another share: same attack, same images."""
    (base, (_, ours)), *others = models.items()
    return [
        _difference(base, mine, other, its)
        for other, (_, theirs) in others
        for mine in ours
        for its in theirs
        if same_run(mine, its)
    ]


def _difference(base: str, mine: Receipt, other: str, its: Receipt) -> str:
    difference, (low, high) = paired_difference(robust(mine), robust(its))
    verdict = (
        "the interval excludes 0" if low > 0 or high < 0 else "the interval includes 0: no difference shown"
    )
    return (
        f"- {base} minus {other}, robust under {attack_name(mine)}: {100 * difference:+.1f} points "
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


TABLES: dict[str, Callable[[], str]] = {"bundled": bundled}


def fill(page: str, tables: dict[str, Callable[[], str]] = TABLES) -> str:
    """Return `page` with the text between each pair of markers replaced by its table.

    Raises KeyError for a marker that names no table: a typo must not leave an old table standing.
    """
    pattern = re.compile(r"(<!-- table:(\w+) -->\n).*?(<!-- /table:\2 -->)", re.DOTALL)
    return pattern.sub(lambda match: f"{match[1]}{tables[match[2]]()}\n{match[3]}", page)


def generated() -> dict[str, str]:
    """Return the text that each generated file should have: pages with their tables, and the schema."""
    files = {name: fill((ROOT / name).read_text(encoding="utf-8")) for name in PAGES}
    return files | {SCHEMA: json.dumps(schema(), indent=2) + "\n"}


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
