"""Tables come out of receipts: the figures that are in them, a marker's typo refused, staleness found."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from docs.tables import PAGES, ROOT, SCHEMA, bundled, fill, generated
from dra_serve.evaluation import LabelledImages, Outcomes, build_receipt, make_plan

N = 10_000


def receipt(robust: int, *, steps: int = 50, total: int = N) -> dict[str, Any]:
    """Return the receipt of N images out of `total`: 6,554 right when clean, the first `robust` attacked."""
    numbers = np.arange(N)
    images = LabelledImages(
        "cifar10", "0" * 64, np.zeros((N, 1, 1, 1), np.uint8), numbers % 10, numbers, total
    )
    attacked = numbers < robust
    return build_receipt(
        Outcomes(numbers < 6554, attacked[None], attacked, done=numbers >= 0),
        images,
        make_plan((3, 32, 32), eps="8/255", steps=steps, restarts=5),
        model="tiny",
        model_sha256="0" * 64,
        classes=10,
        subset_seed=0,
        seconds=1.0,
    )


def write_model(folder: Path, *receipts: dict[str, Any]) -> Path:
    config = {
        "name": f"cifar10-tiny-{folder.name}",
        "data": {"name": "cifar10", "images": 50_000},
        "training": {"epochs": 40, "cpu_minutes": 171.6},
    }
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "results.json").write_text(json.dumps({"receipts": receipts}))
    return folder


def test_a_row_holds_the_receipts_figures(tmp_path: Path) -> None:
    table = bundled({"dra": write_model(tmp_path / "dra", receipt(4126))})
    row = "| dra | PGD-50 x 5, linf 8/255 | 10,000 | 65.5 % | 41.3 % (40.3 % to 42.2 %) | 41.3 % |"
    assert row in table.splitlines()
    assert "40 epochs over 50,000 images of cifar10, 172 minutes of one CPU core" in table


def test_the_pair_is_compared_image_by_image(tmp_path: Path) -> None:
    dra = write_model(tmp_path / "dra", receipt(4200), receipt(4300, steps=20))
    at = write_model(tmp_path / "at", receipt(4100), receipt(4299, steps=20))
    table = bundled({"dra": dra, "at": at})
    assert "dra minus at, robust under PGD-50 x 5: +1.0 points (paired 95 % interval +0.8 to +1.2)" in table
    assert "PGD-50 x 5: +1.0 points (paired 95 % interval +0.8 to +1.2); the interval excludes 0" in table
    assert "PGD-20 x 5: +0.0 points (paired 95 % interval -0.0 to +0.0); the interval includes 0" in table


def test_runs_on_other_images_are_not_compared(tmp_path: Path) -> None:
    dra = write_model(tmp_path / "dra", receipt(4200))
    at = write_model(tmp_path / "at", receipt(4100, total=2 * N))
    assert "minus" not in bundled({"dra": dra, "at": at})


def test_no_receipts_is_said(tmp_path: Path) -> None:
    assert bundled({"dra": tmp_path / "none"}).startswith("Not trained yet")


def test_fill_replaces_what_lies_between_the_markers_alone() -> None:
    page = "above\n<!-- table:a -->\nold\n<!-- /table:a -->\nbelow\n"
    filled = fill(page, {"a": lambda: "new"})
    assert filled == "above\n<!-- table:a -->\nnew\n<!-- /table:a -->\nbelow\n"
    assert fill(filled, {"a": lambda: "new"}) == filled


def test_a_marker_without_a_table_is_refused() -> None:
    with pytest.raises(KeyError, match="typo"):
        fill("<!-- table:typo -->\n<!-- /table:typo -->\n")


@pytest.mark.parametrize("name", PAGES)
def test_pages_ask_for_the_table(name: str) -> None:
    assert "<!-- table:bundled -->" in (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [*PAGES, SCHEMA])
def test_page_is_up_to_date(name: str) -> None:
    assert (ROOT / name).read_text(encoding="utf-8") == generated()[name], f"{name} is stale: make docs"
