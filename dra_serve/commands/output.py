"""What commands print on stdout: a table for people, or one JSON object."""

import json
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]


def new_table(title: str | None, *columns: str) -> Table:
    """Return an empty table; title and cells that come from a stranger have to be escaped, the title is."""
    table = Table(title=title and escape(title), box=SIMPLE_HEAD, title_justify="left")
    for column in columns:
        table.add_column(column)
    return table


def print_table(table: Table) -> None:
    """Print it as wide as the terminal, or as wide as it is."""
    console = Console()
    if not console.is_terminal:  # a file or a pipe has no width: nothing is wrapped or cut there
        console.width = 10_000
    console.print(table)


def print_json(value: dict[str, Any]) -> None:
    """Print one JSON object on one line."""
    print(json.dumps(value, ensure_ascii=False, allow_nan=False))
