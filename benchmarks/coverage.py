"""Which public classifiers are attacked white-box: `benchmarks/coverage.py [--only REGEX]`.

Each network of torchvision and timm, as far as they are installed in the interpreter that runs this, gets
random weights, is exported to ONNX by torch's exporters, and its gradient graph is derived from the file
alone. Then, on fresh images and with the losses ce and margin, the gradient is compared with torch's
autograd in float64, and so is torch's own in float32: a ReLU whose input is nearly zero falls on either
side, and no float32 gradient is nearer than its rounding. Errors are L2, relative, of an image.

With --jsonl the table goes on where it was interrupted, and is printed whole: rows that the file holds
are read from it. A network is left out, by a row that says so, where its weights do not fit into the 2 GiB
of one protobuf file, or what it needs does not fit into the memory that is free.

    pip install "dra-serve[onnx]" onnxscript torch torchvision timm
    python benchmarks/coverage.py --only 'torchvision/(resnet|vit)' --jsonl rows.jsonl
"""

import gc
import hashlib
import json
import logging
import re
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import product
from os import SEEK_END
from pathlib import Path
from typing import Annotated

import onnx
import onnxruntime
import torch
import typer

import dra_serve.gradient_graph.reverse as reverse  # all of it is loaded before it is hashed
from benchmarks.peers.gradients import EXACT, Row, examine, first_line, reference
from benchmarks.peers.zoo import Entry, built, libraries, timm_entries, torchvision_entries

EXPORTERS = ("dynamo", "legacy")
ONE_FILE = 536  # million float32 weights: protobuf writes no more than 2 GiB
BYTES_A_WEIGHT = 32  # at the peak, which the totals show: network, file, onnx's copies, the sessions' weights
SPARE = 2e9  # bytes that are left to others

Key = tuple[str, str, int]  # network, exporter, opset as asked for


def entries(only: str) -> Iterator[Entry]:
    installed = libraries()
    for name, every in (("torchvision", torchvision_entries), ("timm", timm_entries)):
        if name in installed:
            yield from (entry for entry in every() if re.search(only, entry.name))


def rows_of(entry: Entry, wanted: list[tuple[str, int]], largest: float, made_with: str) -> Iterator[Row]:
    """Yield a row for each exporter and opset that is wanted; one alone where there is no network."""
    started = time.process_time()
    try:
        network, size = built(entry)
        weights = sum(p.numel() for p in network.parameters())
        if reason := left_out(weights, largest, _free_memory()):
            yield Row(entry.name, verdict="left out", reason=reason, made_with=made_with)
            return
        references = [reference(network, size)]
    except Exception as error:  # a network that does not run in torch here is not ours to judge
        yield Row(entry.name, verdict="not built", reason=first_line(error), made_with=made_with)
        return
    for exporter, opset in wanted:
        row = Row(entry.name, exporter, opset, size=size, made_with=made_with)
        examine(network, references, row)
        row.seconds, started = time.process_time() - started, time.process_time()
        row.weights, row.peak = weights, 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        yield row
        gc.collect()


def left_out(weights: int, largest: float, free: float) -> str:
    """Return why a network of so many weights is left out; "" if it is not.

    largest: in millions of weights; free: memory, in bytes.
    """
    millions = weights / 1e6
    if millions > ONE_FILE:
        return f"{millions:.0f} million weights, more than the {ONE_FILE} of one protobuf file (2 GiB)"
    if millions > largest:
        return f"{millions:.0f} million weights, more than --max-weights {largest:g}"
    if (needed := weights * BYTES_A_WEIGHT + SPARE) > free:
        return f"{millions:.0f} million weights need {needed / 1e9:.1f} GB free, there are {free / 1e9:.1f}"
    return ""


def _free_memory() -> float:
    """Return how many bytes are available, as Linux counts them; infinity elsewhere."""
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:
        return float("inf")
    return 1024 * float(text.partition("MemAvailable:")[2].split()[0])


def main(
    only: Annotated[str, typer.Option(help="Regular expression: names such as torchvision/resnet18.")] = "",
    exporter: Annotated[list[str], typer.Option(help="dynamo, legacy.")] = list(EXPORTERS),  # noqa: B006
    opset: Annotated[list[int], typer.Option(help="One or more.")] = [18],  # noqa: B006
    max_weights: Annotated[float, typer.Option(help="In millions; larger networks are left out.")] = ONE_FILE,
    jsonl: Annotated[
        Path | None, typer.Option(help="Append each row here; rows it holds are printed, not redone.")
    ] = None,
) -> None:
    """Print a row a file, then totals."""
    installed = libraries()
    if not installed:
        print("coverage: neither torchvision nor timm is installed, nothing to do", file=sys.stderr)
        return
    torch.set_num_threads(1)
    torch.backends.mha.set_fastpath_enabled(False)  # an operator that no exporter knows
    logging.disable(logging.WARNING)
    print(HEAD)
    told = []
    for row in table(entries(only), list(product(exporter, opset)), max_weights, jsonl, versions(installed)):
        told.append(row)
        print(line_of(row), flush=True)
    print("\n".join(totals(told)))


def table(
    networks: Iterable[Entry],
    wanted: list[tuple[str, int]],
    largest: float,
    jsonl: Path | None,
    made_with: str,
) -> Iterator[Row]:
    """Yield every row of the table, in order: from the file those that it holds, the others made and
    appended to it, each as soon as it is known."""
    held = read(jsonl)
    for entry in networks:
        missing = []
        for exporter, opset in wanted:
            row = held.get((entry.name, exporter, opset))
            if row is None:
                missing.append((exporter, opset))
            else:
                yield row
        for row in rows_of(entry, missing, largest, made_with) if missing else ():
            if jsonl:
                append(jsonl, row)
            yield row


def append(jsonl: Path, row: Row) -> None:
    """Write the row on a line of its own, whatever an interruption left of the last one."""
    with jsonl.open("ab+") as file:
        if file.tell():
            file.seek(-1, SEEK_END)
            file.write(b"" if file.read() == b"\n" else b"\n")
        file.write(json.dumps(asdict(row)).encode() + b"\n")


def read(jsonl: Path | None) -> dict[Key, Row]:
    """Return the rows that the file has, networks aside that came to no file: those are tried again."""
    held: dict[Key, Row] = {}
    for line in jsonl.read_text().splitlines() if jsonl and jsonl.exists() else ():
        try:
            fields = json.loads(line)
        except json.JSONDecodeError:  # the line that an interruption cut short
            continue
        row = Row(**{**fields, "logits_errors": tuple(fields["logits_errors"])})
        if row.exporter:
            held[row.name, row.exporter, row.asked] = row
    return held


def versions(installed: dict[str, str]) -> str:
    """Return what the rows are made with: the libraries, and a hash of our rules."""
    hashed = hashlib.sha256()
    for path in sorted(Path(reverse.__file__).parent.rglob("*.py")):
        hashed.update(path.read_bytes())
    used = {
        **installed,
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
        "gradient_graph": hashed.hexdigest()[:8],
    }
    return ", ".join(f"{name} {number}" for name, number in used.items())


def totals(rows: list[Row]) -> list[str]:
    """Return the lines below the table: verdicts, images, operators, what was left out, versions."""
    files = [row for row in rows if row.exporter]
    verdicts = Counter(row.verdict for row in files)
    within = [
        sum(e <= EXACT for row in files for e in errors(row))
        for errors in (lambda row: row.errors, lambda row: row.torch_errors)
    ]
    images = sum(len(row.errors) for row in files)
    networks = {row.name for row in rows}
    without = [row for row in rows if not row.exporter]
    lines = [
        f"{len(networks)} networks, {len(networks) - len(without)} of them in {len(files)} files: "
        + ", ".join(f"{n} {v}" for v, n in verdicts.most_common()),
        f"images within {EXACT:g}: ours {within[0]}, torch in float32 {within[1]}, of {images}",
    ]
    lines += [f"{row.verdict}: {row.name}: {row.reason}" for row in without]
    lines += [f"operators: {' '.join(sorted({name for row in files for name in row.operators}))}"]
    if most := max((row for row in files if row.peak), key=lambda row: row.peak, default=None):
        lines += [
            f"most memory: {most.peak / 1e9:.1f} GB, {most.name}, {most.weights / 1e6:.0f} million weights"
        ]
    lines += [f"{n} rows with {made_with}" for made_with, n in Counter(r.made_with for r in rows).items()]
    return lines


def line_of(row: Row) -> str:
    told = row.reason
    if row.errors:
        near, torchs = (sum(e <= EXACT for e in errors) for errors in (row.errors, row.torch_errors))
        told = f"{max(row.errors):8.1e} {near:3}/{len(row.errors):<3} {max(row.torch_errors):8.1e} "
        told += f"{torchs:3}/{len(row.errors):<3} {row.slope_error:8.1e}"
    return (
        f"{row.name:46} {row.exporter:8} {row.opset:5} {row.size:4} {row.batch:5} {len(row.operators):4} "
        f"{row.verdict:12} {told}"
    )


HEAD = (
    f"{'network':46} {'exporter':8} opset size batch  ops {'':12}   worst within    worst within    slopes\n"
    f"{'':93}     ours  1e-5    torch32  1e-5   torch64"
)


if __name__ == "__main__":
    typer.run(main)
