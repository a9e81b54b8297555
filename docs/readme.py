"""The README's commands, taken out of it so that CI and the tests run what a reader would type.

A block that is run carries a marker on the line above its fence:

    <!-- run: served -->      needs `make run` (or any server of ours) to be answering
    <!-- run: installed -->   needs the package alone
    <!-- run: checkout -->    needs the training extra and a checkout

    python -m docs.readme served --port 3100    # prints those commands, for `bash`

The example images are chosen anew with each bundled pair (`export/write_examples.py`), so their names
follow the files that are there: `make docs` writes them.
"""

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
EXAMPLES = ROOT / "dra_serve" / "bundled" / "examples"
PORT = 3000  # the port that the README's commands name

_EXAMPLE = re.compile(r"cifar10-test-\d{4}-(?P<shows>[a-z]+)\.png")
_FENCE = re.compile(
    r"(?:^<!-- run: (?P<needs>\w+) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Block:
    """One fenced block. needs: what must be there to run it, or None where nobody runs it."""

    needs: str | None
    language: str
    text: str

    def commands(self, *, port: int = PORT) -> tuple[str, ...]:
        """Return a console block's commands: its `$ ` lines, continued where they end in a backslash."""
        text = self.text.replace(f"localhost:{PORT}", f"localhost:{port}").replace("\\\n", " ")
        lines = (line.removeprefix("$ ") for line in text.splitlines() if line.startswith("$ "))
        return tuple(re.sub(r" +", " ", line).strip() for line in lines)


def blocks(needs: str | None = None, *, readme: Path = README) -> list[Block]:
    """Return the README's fenced blocks in order, all of them or those that need `needs`."""
    found = [
        Block(fence["needs"], fence["language"], fence["text"])
        for fence in _FENCE.finditer(readme.read_text(encoding="utf-8"))
    ]
    return found if needs is None else [block for block in found if block.needs == needs]


def name_examples(page: str, *, examples: Path = EXAMPLES) -> str:
    """Return `page` naming each bundled example as the file of its class is; KeyError if there is none."""
    there = {
        match["shows"]: path.name for path in examples.iterdir() if (match := _EXAMPLE.fullmatch(path.name))
    }
    return _EXAMPLE.sub(lambda match: there[match["shows"]], page)


def main() -> None:
    parser = argparse.ArgumentParser(description="Print the README's commands, one a line, for bash.")
    parser.add_argument("needs", choices=("served", "installed", "checkout"))
    parser.add_argument("--port", type=int, default=PORT, help="stands in for the README's 3000")
    arguments = parser.parse_args()
    for block in blocks(arguments.needs):
        if block.language == "console":
            print(*block.commands(port=arguments.port), sep="\n")


if __name__ == "__main__":
    main()
