"""Tables come out of receipts: the figures that are in them, a marker's typo refused, staleness found."""

import json
from pathlib import Path

import pytest

from docs.tables import PAGES, ROOT, bundled, fill

RECEIPT = {
    "attack": {"name": "pgd", "steps": 50, "restarts": 5},
    "norm": "linf",
    "eps": "8/255",
    "n": 10_000,
    "clean_accuracy": 0.6554,
    "robust_accuracy": 0.4126,
    "robust_accuracy_8bit": 0.4129,
    "wilson_95": [0.4030, 0.4223],
}


def write_model(folder: Path, name: str) -> None:
    config = {
        "name": f"cifar10-tiny-{name}",
        "data": {"name": "cifar10", "images": 50_000},
        "training": {"epochs": 40, "cpu_minutes": 171.6},
    }
    (folder / name).mkdir()
    (folder / name / "config.json").write_text(json.dumps(config))
    (folder / name / "results.json").write_text(json.dumps({"receipts": [RECEIPT]}))


def test_a_row_holds_the_receipts_figures(tmp_path: Path) -> None:
    write_model(tmp_path, "dra")
    row = "| `bundled:dra` | PGD-50 x 5, linf 8/255 | 10,000 | 65.5 % | 41.3 % (40.3 % to 42.2 %) | 41.3 % |"
    assert row in bundled(tmp_path).splitlines()


def test_both_models_stand_in_one_table_with_how_they_were_trained(tmp_path: Path) -> None:
    write_model(tmp_path, "at")
    write_model(tmp_path, "dra")
    table = bundled(tmp_path)
    assert table.index("| `bundled:dra`") < table.index("| `bundled:at`")
    assert "40 epochs over 50,000 images of cifar10, 172 minutes of one CPU core" in table


def test_no_receipts_is_said(tmp_path: Path) -> None:
    assert bundled(tmp_path).startswith("Not trained yet")


def test_fill_replaces_what_lies_between_the_markers_alone() -> None:
    page = "above\n<!-- table:a -->\nold\n<!-- /table:a -->\nbelow\n"
    filled = fill(page, {"a": lambda: "new"})
    assert filled == "above\n<!-- table:a -->\nnew\n<!-- /table:a -->\nbelow\n"
    assert fill(filled, {"a": lambda: "new"}) == filled


def test_a_marker_without_a_table_is_refused() -> None:
    with pytest.raises(KeyError, match="typo"):
        fill("<!-- table:typo -->\n<!-- /table:typo -->\n")


@pytest.mark.parametrize("name", PAGES)
def test_page_is_up_to_date(name: str) -> None:
    page = (ROOT / name).read_text(encoding="utf-8")
    assert "<!-- table:bundled -->" in page
    assert fill(page) == page, f"{name} is stale: make docs"
