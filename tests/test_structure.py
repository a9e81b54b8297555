"""Imports point one way, torch stays out of what serves, and every room the design names is there.

Read from the sources (`ast`), so an import inside a function counts like one at the top.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

ROOMS = {  # room -> the other rooms it may import; app -> dra_serve <- training <- export
    "dra_serve": set[str](),
    "training": {"dra_serve"},
    "export": {"dra_serve", "training"},
    "app": {"dra_serve"},
}

LAYERS = {  # inside dra_serve: a module imports its own layer and those before it
    "errors": 0,
    "attacks": 1,
    "cache": 1,
    "checked": 1,
    "checks": 1,
    "classifier": 1,
    "gradient_graph": 1,
    "images": 1,
    "receipts": 1,
    "exporters": 2,
    "bring_your_own": 2,
    "card": 2,
    "evaluation": 2,
    "hub": 2,
    "loading": 2,
    "model_config": 2,
    "model_folder": 2,
    "onnx_classifier": 2,
    "source_options": 2,
    "sums": 2,
    "cli": 3,
    "client": 3,
    "client_answers": 3,
    "commands": 3,
    "service": 3,
    "__init__": 4,
}

HEAVY = ("torch", "gradio", "bentoml", "onnx")

HOUSE = (
    "dra_serve/attacks",
    "dra_serve/bundled",
    "dra_serve/evaluation",
    "dra_serve/gradient_graph",
    "dra_serve/service",
    "dra_serve/classifier.py",
    "dra_serve/cli.py",
    "dra_serve/client.py",
    "dra_serve/errors.py",
    "dra_serve/hub.py",
    "dra_serve/images.py",
    "dra_serve/model_folder.py",
    "dra_serve/onnx_classifier.py",
    "training/data",
    "training/networks",
    "training/objectives",
    "training/pretrained",
    "training/recipes",
    "training/teachers",
    "training/checkpoint.py",
    "training/loop.py",
    "training/probe_teacher.py",
    "training/sweep.py",
    "training/torch_classifier.py",
    "training/train.py",
    "training/train_teacher.py",
    "export/check_onnx.py",
    "export/push_to_hub.py",
    "export/to_onnx.py",
    "app/service.py",
    "benchmarks",
)


@dataclass(frozen=True)
class Import:
    """`module` as written in line `line`; names: what is taken from it; runs: False under TYPE_CHECKING."""

    module: str
    names: tuple[str, ...]
    line: int
    runs: bool

    @property
    def room(self) -> str:
        return self.module.partition(".")[0]

    def members(self) -> Iterator[str]:
        """Yield the modules of dra_serve that are meant: `from dra_serve import hub` means `hub`."""
        parts = self.module.split(".")
        if parts[0] != "dra_serve":
            return
        if len(parts) > 1:
            yield parts[1]
            return
        for name in self.names:
            if name != "__version__":  # read from the metadata; it pulls in nothing
                yield name if name in LAYERS else "__init__"


def imports_of(file: Path) -> list[Import]:
    package = file.relative_to(ROOT).parent.parts
    tree = ast.parse(file.read_text(encoding="utf-8"))
    typing_only = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for statement in node.body
        for child in ast.walk(statement)
    }
    found = []
    for node in ast.walk(tree):
        runs = node not in typing_only
        if isinstance(node, ast.Import):
            found += [Import(alias.name, (), node.lineno, runs) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            found.append(Import(module, tuple(alias.name for alias in node.names), node.lineno, runs))
    return found


def sources(*rooms: str) -> list[Path]:
    return sorted(file for room in rooms for file in (ROOT / room).rglob("*.py"))


def member(file: Path) -> str:
    """Return the module of dra_serve that a file belongs to: `attacks` for `attacks/pgd.py`."""
    return file.relative_to(ROOT / "dra_serve").parts[0].removesuffix(".py")


def label(file: Path) -> str:
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize("file", sources(*ROOMS), ids=label)
def test_imports_between_rooms_point_one_way(file: Path) -> None:
    room = file.relative_to(ROOT).parts[0]
    allowed = ROOMS[room] | {room}
    others = {*ROOMS, "tests", "benchmarks", "docs"} - allowed
    wrong = [f"line {i.line}: {i.module}" for i in imports_of(file) if i.room in others]
    assert not wrong, f"{label(file)} may import only {sorted(allowed)} of this repository; {wrong}"


@pytest.mark.parametrize("file", sources("dra_serve"), ids=label)
def test_imports_inside_dra_serve_point_down(file: Path) -> None:
    assert member(file) in LAYERS, f"{label(file)}: give {member(file)} its layer in LAYERS"
    layer = LAYERS[member(file)]
    wrong = [
        f"line {i.line}: {target}"
        for i in imports_of(file)
        for target in i.members()
        if LAYERS.get(target, layer + 1) > layer
    ]
    assert not wrong, f"{label(file)} is in layer {layer} and imports from above it: {wrong}"


def test_modules_of_dra_serve_form_no_cycle() -> None:
    graph: dict[str, set[str]] = {}
    for file in sources("dra_serve"):
        targets = {target for i in imports_of(file) if i.runs for target in i.members()}
        graph.setdefault(member(file), set()).update(targets - {member(file)})
    assert list(TopologicalSorter(graph).static_order())  # a cycle raises and names its modules


@pytest.mark.parametrize("file", sources("dra_serve", "app"), ids=label)
def test_what_serves_never_imports_torch(file: Path) -> None:
    wrong = [f"line {i.line}: {i.module}" for i in imports_of(file) if i.room in ("torch", "diffusers")]
    assert not wrong, f"{label(file)} must run without torch; {wrong}"


def test_importing_the_package_pulls_in_nothing_heavy() -> None:
    code = "import sys, dra_serve; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "dra_serve" in loaded
    assert not {*HEAVY} & {*loaded}


def test_importing_the_package_takes_at_most_300_ms() -> None:
    code = (
        "import time; begin = time.process_time(); import dra_serve; "
        "print(time.process_time() - begin)"  # CPU time: the machine's other work does not count
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(3)
    ]
    assert min(float(run.stdout) for run in runs) <= 0.3


@pytest.mark.parametrize("path", HOUSE)
def test_the_house_has_the_room_that_the_design_names(path: str) -> None:
    assert (ROOT / path).exists(), f"docs/architecture.md promises {path}"
