"""SHA256SUMS of a folder that comes from a stranger: written last, verified before anything is parsed.

Only data is let in, never code: pickles, links and files without a sum are refused.
"""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from dra_serve.errors import ModelFolderError

SUMS = "SHA256SUMS"

_UNSUMMED = {SUMS, ".gitattributes", ".cache"}  # the last two are huggingface_hub's own and never read
_PICKLES = {".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib", ".bin"}
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80")  # torch's zip, and pickle protocol 2 on
_MAX_TEXT = 32 * 2**20
_SUM_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


def write_sums(path: Path | str) -> None:
    """Write SHA256SUMS for every file in the folder at `path`: the last act of writing one.

    Raises ModelFolderError for what `read_folder` would refuse.
    """
    folder = Path(path)
    names = sorted(_files(folder))
    lines = [f"{sha256(folder / name)}  {name}\n" for name in names]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(folder: Path) -> None:
    """Raise ModelFolderError naming the first file that is missing, altered, unsafe or without a sum."""
    expected = _read_sums(folder)
    present = set(_files(folder))
    for name in sorted(expected.keys() - present):
        raise ModelFolderError(f"listed in {SUMS} but missing", file=name)
    for name in sorted(present - expected.keys()):
        raise ModelFolderError(f"not listed in {SUMS}", file=name)
    for name, digest in expected.items():
        if sha256(folder / name) != digest:
            raise ModelFolderError(f"altered or cut short: its sum is not the one in {SUMS}", file=name)


def _read_sums(folder: Path) -> dict[str, str]:
    path = folder / SUMS
    if path.is_symlink() or not path.is_file():
        raise ModelFolderError("missing", file=SUMS)
    sums = {}
    for line in text_of(path).splitlines():
        match = _SUM_LINE.fullmatch(line)
        if match is None:
            raise ModelFolderError(f"line {line[:40]!r} is not 'sha256  name'", file=SUMS)
        sums[match[2]] = match[1]
    return sums


def _files(folder: Path) -> Iterator[str]:
    """Yield the relative name of each file that needs a sum; refuse links and pickles."""
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if relative.parts[0] in _UNSUMMED:
            continue
        name = relative.as_posix()
        if path.is_symlink():
            raise ModelFolderError("a symbolic link; a model folder holds plain files", file=name)
        if path.is_dir():
            continue
        if path.suffix in _PICKLES and _looks_pickled(path):
            raise ModelFolderError("a pickle, which can run code; weights are safetensors", file=name)
        yield name


def _looks_pickled(path: Path) -> bool:
    """Return whether it may be one: .bin is also a common name for raw weights."""
    if path.suffix != ".bin":
        return True
    with path.open("rb") as file:
        return file.read(4).startswith(_PICKLE_STARTS)


def text_of(path: Path) -> str:
    """Return the text of one of the folder's small files, or raise ModelFolderError naming it."""
    if path.stat().st_size > _MAX_TEXT:
        raise ModelFolderError(f"larger than {_MAX_TEXT:,} bytes", file=path.name)
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ModelFolderError("not UTF-8 text", file=path.name) from error
