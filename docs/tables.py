"""Generated tables: figures go from receipts into Markdown, never through a person's hands.

    python -m docs.tables            # rewrite what lies between the markers
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

from dra_serve.attacks.norms import parse_radius
from dra_serve.service.words import format_radius

ROOT = Path(__file__).parent.parent
PAGES = ("README.md",)


def bundled(folder: Path = ROOT / "dra_serve" / "bundled") -> str:
    """Return the bundled models' receipts as a Markdown table, a line a receipt, and its conditions.

    folder: holds `dra/` and `at/`, each with `config.json` and `results.json`.
    """
    rows, notes = [], []
    for name in ("dra", "at"):
        if not (folder / name / "results.json").is_file():
            continue
        config = json.loads((folder / name / "config.json").read_text(encoding="utf-8"))
        receipts = json.loads((folder / name / "results.json").read_text(encoding="utf-8"))["receipts"]
        rows += [_row(f"`bundled:{name}`", receipt) for receipt in receipts]
        notes.append(_training_note(name, config))
    if not rows:
        return "Not trained yet: `dra_serve/bundled/` holds no receipts."
    head = (
        "| model | attack | n | clean | robust (95 % interval) | robust, 8-bit image |\n"
        "|---|---|---|---|---|---|"
    )
    return "\n".join([head, *rows, "", *notes])


def _row(model: str, receipt: dict[str, Any]) -> str:
    low, high = receipt["wilson_95"]
    attack = f"{_attack(receipt['attack'])}, {receipt['norm']} {format_radius(parse_radius(receipt['eps']))}"
    robust = f"{_percent(receipt['robust_accuracy'])} ({_percent(low)} to {_percent(high)})"
    cells = (
        model,
        attack,
        f"{receipt['n']:,}",
        _percent(receipt["clean_accuracy"]),
        robust,
        _percent(receipt["robust_accuracy_8bit"]),
    )
    return f"| {' | '.join(cells)} |"


def _attack(attack: dict[str, Any]) -> str:
    """Return an attack as papers write it: `PGD-50 x 5` is 50 steps from each of 5 random starts."""
    text = str(attack["name"]).upper()
    if "steps" in attack:
        text += f"-{attack['steps']}"
    if attack.get("restarts", 1) > 1:
        text += f" x {attack['restarts']}"
    return text


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _training_note(name: str, config: dict[str, Any]) -> str:
    training, data = config["training"], config["data"]
    return (
        f"- `bundled:{name}`: recipe `{config['name']}`, {training['epochs']} epochs over "
        f"{data['images']:,} images of {data['name']}, {training['cpu_minutes']:.0f} minutes of one CPU core."
    )


TABLES: dict[str, Callable[[], str]] = {"bundled": bundled}


def fill(page: str, tables: dict[str, Callable[[], str]] = TABLES) -> str:
    """Return `page` with the text between each pair of markers replaced by its table.

    Raises KeyError for a marker that names no table: a typo must not leave an old table standing.
    """
    pattern = re.compile(r"(<!-- table:(\w+) -->\n).*?(<!-- /table:\2 -->)", re.DOTALL)
    return pattern.sub(lambda match: f"{match[1]}{tables[match[2]]()}\n{match[3]}", page)


def main() -> int:
    parser = argparse.ArgumentParser(description="Rewrite the tables that are generated from receipts.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a page is stale")
    arguments = parser.parse_args()
    stale = []
    for name in PAGES:
        page = ROOT / name
        before = page.read_text(encoding="utf-8")
        after = fill(before)
        if after == before:
            continue
        stale.append(name)
        if not arguments.check:
            page.write_text(after, encoding="utf-8")
    if arguments.check and stale:
        print(f"stale, run `make docs`: {', '.join(stale)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
