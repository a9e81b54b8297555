"""How a receipt is read by those who only show it: its form brought up to date, its attack in words.

Receipts are checked in `evaluation.receipt`; here they are plain JSON objects, perhaps a stranger's.
"""

from typing import Any

from dra_serve.attacks.norms import format_radius, parse_radius

Receipt = dict[str, Any]


def upgraded(receipt: Receipt) -> Receipt:
    """Return a receipt of version 1, which held one attack, in the form of version 2; any other as it is.

    Nothing is checked: what a version 1 receipt lacks, its version 2 form lacks too.
    """
    if receipt.get("schema_version", 1) != 1 or not isinstance(receipt.get("attack"), dict):
        return receipt
    beside = {key: receipt[key] for key in ("norm", "eps", "seed") if receipt.get(key) is not None}
    run = {
        "name": receipt["attack"].get("name"),
        "arguments": {key: value for key, value in receipt["attack"].items() if key != "name"} | beside,
    }
    accuracy, n = receipt.get("robust_accuracy"), receipt.get("n")
    if isinstance(accuracy, (int, float)) and isinstance(n, int):
        run["robust"] = round(accuracy * n)
    new = {key: value for key, value in receipt.items() if key not in ("attack", "seed")}
    new |= {"schema_version": 2, "suite": None, "attacks": [run]}
    if isinstance(outcomes := receipt.get("outcomes"), dict) and "robust" in outcomes:
        rest = {key: value for key, value in outcomes.items() if key != "robust"}
        new["outcomes"] = rest | {"after": [outcomes["robust"]]}
    return new


def attack_name(receipt: Receipt) -> str:
    """Return what was run, as papers write it: `PGD-50 x 5`, or `fast (APGD-CE-100, APGD-T-100)`.

    `PGD-50 x 5` is 50 steps from each of 5 random starts. Of a curve over several radii: the attacks at
    the largest. Raises KeyError for a receipt without attacks.
    """
    last = receipt["attacks"][-1]["arguments"].get("eps")
    names = [_one(run) for run in receipt["attacks"] if run["arguments"].get("eps") == last]
    attacks = ", ".join(names)
    return f"{receipt['suite']} ({attacks})" if receipt.get("suite") else attacks


def title(receipt: Receipt) -> str:
    """Return what a receipt's robust accuracy is of: `PGD-50 x 5, linf 8/255`."""
    return f"{attack_name(receipt)}, {receipt['norm']} {format_radius(parse_radius(receipt['eps']))}"


def same_run(a: Receipt, b: Receipt) -> bool:
    """Return whether two receipts are of the same attacks on the same images, of whichever models."""
    images = all(a.get(key) == b.get(key) for key in ("n", "images", "data"))
    attacks = (
        [(run.get("name"), run.get("arguments")) for run in receipt.get("attacks", [])] for receipt in (a, b)
    )
    return images and next(attacks) == next(attacks)


def _one(run: Receipt) -> str:
    arguments = run["arguments"]
    text = str(run["name"]).upper()
    budget = arguments.get("queries", arguments.get("steps", 1))
    if budget > 1:
        text += f"-{budget}"
    if arguments.get("restarts", 1) > 1:
        text += f" x {arguments['restarts']}"
    return text
