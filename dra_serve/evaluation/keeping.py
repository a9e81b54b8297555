"""Where a receipt goes: a file, or the model folder it is about."""

import json
import os
from pathlib import Path
from typing import Any

from dra_serve.errors import UserError


def write_receipt(file: Path, receipt: dict[str, Any]) -> None:
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    try:
        partial.write_text(json.dumps(receipt, indent=2) + "\n", encoding="utf-8")
        partial.replace(file)
    except OSError as error:
        raise UserError(f"receipt: {file}: {error.strerror}", field="receipt") from error


def keep_receipt(folder: Path, receipt: dict[str, Any]) -> None:
    """Add a receipt to the folder, in place of one of the same attacks, data, images and model."""
    from dra_serve.card import write_card
    from dra_serve.model_folder import read_folder, write_receipts
    from dra_serve.receipts import same_run
    from dra_serve.sums import write_sums

    def replaced(old: dict[str, Any]) -> bool:
        return old["model_sha256"] == receipt["model_sha256"] and same_run(old, receipt)

    others = [old for old in read_folder(folder).receipts if not replaced(old)]
    write_receipts(folder, [*others, receipt])
    write_sums(folder)
    write_card(folder)
