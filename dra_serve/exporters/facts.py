"""What every format asks of a receipt, which may be a stranger's JSON."""

from collections.abc import Iterable
from typing import Any

from dra_serve.errors import UserError
from dra_serve.receipts import Receipt, title


def fact(receipt: Receipt, *path: str) -> Any:
    """Return the value at a path into a receipt. Raises UserError naming the path where there is none."""
    value: Any = receipt
    for key in path:
        if not isinstance(value, dict) or value.get(key) is None:
            name = ".".join(path)
            raise UserError(f"a receipt without {name!r}", field=name)
        value = value[key]
    return value


def number(receipt: Receipt, *path: str) -> float:
    """Return the number at a path. Raises UserError naming the path where there is none."""
    value = fact(receipt, *path)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        name = ".".join(path)
        raise UserError(f"a receipt whose {name!r} is no number", field=name)
    return value


def percent(receipt: Receipt, name: str) -> float:
    """Return a share in percent, two digits, as tables print it."""
    return round(100 * number(receipt, name), 2)


def interval(receipt: Receipt) -> tuple[float, float]:
    """Return the ends of the 95 % interval of robust accuracy, in percent."""
    given = fact(receipt, "wilson_95")
    if not isinstance(given, (list, tuple)) or len(given) != 2:
        raise UserError("a receipt whose 'wilson_95' is no pair", field="wilson_95")
    low, high = (percent({"wilson_95": end}, "wilson_95") for end in given)
    return low, high


def attacks(receipt: Receipt) -> list[dict[str, Any]]:
    """Return the attacks of a receipt, each its name and arguments. Raises UserError where there are none."""
    runs = fact(receipt, "attacks")
    if not isinstance(runs, (list, tuple)) or not runs:
        raise UserError("a receipt whose 'attacks' is no list", field="attacks")
    return [{"name": _of_run(run, "name", str), "arguments": _of_run(run, "arguments", dict)} for run in runs]


def heading(receipt: Receipt) -> str:
    """Return attack and threat in words, as `receipts.title`. Raises UserError where they cannot be told."""
    attacks(receipt), fact(receipt, "norm"), fact(receipt, "eps")
    try:
        return title(receipt)
    except (TypeError, ValueError) as error:
        raise UserError("a receipt whose 'attacks.arguments' cannot be read", field="attacks") from error


def noise(receipt: Receipt) -> str:
    """Return in words what the attacks' noise was drawn from: `seed 0`."""
    seeds = dict.fromkeys(str(run["arguments"].get("seed", "none")) for run in attacks(receipt))
    return f"seed {', '.join(seeds)}"


def which_images(receipt: Receipt) -> str:
    """Return in words which images: `all 10,000`, or `500 of 10,000 (permutation seed 0)`."""
    n, images = number(receipt, "n"), fact(receipt, "images")
    if images == "all":
        return f"all {n:,}"
    total, seed = number(receipt, "images", "of"), fact(receipt, "images", "permutation_seed")
    return f"{n:,} of {total:,} (permutation seed {seed})"


def of_model(receipts: Iterable[Receipt], model_sha256: str) -> list[Receipt]:
    """Return the receipts of this very model; those of other weights say nothing of it."""
    return [receipt for receipt in receipts if fact(receipt, "model_sha256") == model_sha256]


def _of_run(run: Any, key: str, kind: type) -> Any:
    value = run.get(key) if isinstance(run, dict) else None
    if not isinstance(value, kind):
        raise UserError(f"a receipt without 'attacks.{key}'", field=f"attacks.{key}")
    return value
