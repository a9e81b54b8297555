"""Tables come out of receipts: the figures that are in them, a marker's typo refused, staleness found."""

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from docs.plots import HEIGHT
from docs.readme import name_examples
from docs.tables import (
    PAGES,
    ROOT,
    SCHEMA,
    TABLES,
    attacks,
    bundled,
    classes,
    curves,
    fill,
    generated,
    headline,
    plot,
)
from dra_serve.evaluation import LabelledImages, Outcomes, build_receipt, make_plan

N = 10_000


def receipt(robust: int, *, steps: int = 50, total: int = N, eps: str = "8/255") -> dict[str, Any]:
    """Return the receipt of N images out of `total`: 6,554 right when clean, the first `robust` attacked."""
    numbers = np.arange(N)
    images = LabelledImages(
        "cifar10", "0" * 64, np.zeros((N, 1, 1, 1), np.uint8), numbers % 10, numbers, total
    )
    attacked = numbers < robust
    return build_receipt(
        Outcomes(numbers < 6554, attacked[None], attacked, done=numbers >= 0),
        images,
        make_plan((3, 32, 32), eps=eps, steps=steps, restarts=5),
        model="tiny",
        model_sha256="0" * 64,
        classes=tuple("0123456789"),
        subset_seed=0,
        seconds=1.0,
    )


def write_model(folder: Path, *receipts: dict[str, Any]) -> Path:
    config = {
        "name": f"cifar10-tiny-{folder.name}",
        "data": {"name": "cifar10", "images": 50_000},
        "threat": {"norm": "linf", "eps": "8/255"},
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


def test_the_headline_is_the_hardest_measurement_of_the_most_images(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "dra", receipt(4200, steps=20), receipt(4126), receipt(4300, steps=10))
    assert (
        headline(folder) == "41.3 % of CIFAR-10's test images right under PGD-50 x 5, linf 8/255 (n = 10,000)"
    )


def test_a_harder_threat_than_the_models_own_is_no_headline(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "dra", receipt(4126), receipt(1500, eps="16/255"))
    assert headline(folder).startswith("41.3 % of")
    assert headline(write_model(tmp_path / "none", receipt(1500, eps="16/255"))) == "not measured yet"


def test_words_are_filled_within_a_sentence() -> None:
    page = "It is <!-- words:a -->old\nwords<!-- /words:a -->, n = 3.\n"
    filled = fill(page, words={"a": lambda: "new"})
    assert filled == "It is <!-- words:a -->new<!-- /words:a -->, n = 3.\n"
    with pytest.raises(KeyError, match="typo"):
        fill("<!-- words:typo --><!-- /words:typo -->")


def test_examples_are_named_as_their_files_are(tmp_path: Path) -> None:
    for name in ("cifar10-test-0042-cat.png", "cifar10-test-7001-dog.png"):
        (tmp_path / name).touch()
    page = "predict a/cifar10-test-5003-cat.png and a/cifar10-test-7001-dog.png\n"
    named = "predict a/cifar10-test-0042-cat.png and a/cifar10-test-7001-dog.png\n"
    assert name_examples(page, examples=tmp_path) == named
    with pytest.raises(KeyError, match="ship"):
        name_examples("cifar10-test-0001-ship.png", examples=tmp_path)


def test_pages_ask_for_every_table() -> None:
    pages = "".join((ROOT / name).read_text(encoding="utf-8") for name in PAGES)
    assert sorted(re.findall("<!-- table:(.*) -->", pages)) == sorted(TABLES)


SUITE = {"suite": "fast", "eps": "2/255,8/255"}


def suite_receipt() -> dict[str, Any]:
    """Return a curve of `fast`: 4,000, then 3,900 images stand at one radius, then 2,000 and 1,000."""
    numbers = np.arange(N)
    images = LabelledImages("cifar10", "0" * 64, np.zeros((N, 1, 1, 1), np.uint8), numbers % 10, numbers, N)
    after = np.stack([numbers < count for count in (4000, 3900, 2000, 1000)])
    return build_receipt(
        Outcomes(numbers < 6554, after, after[-1], done=numbers >= 0),
        images,
        make_plan((3, 32, 32), **SUITE),
        model="tiny",
        model_sha256="0" * 64,
        classes=tuple("0123456789"),
        subset_seed=0,
    )


def test_each_attack_each_radius_and_each_class_has_its_figure(tmp_path: Path) -> None:
    folders = {"dra": write_model(tmp_path / "dra", receipt(4126), suite_receipt())}
    name = "fast (APGD-CE-100, APGD-T-100), linf"
    row = f"| dra | {name} 8/255 | 10,000 | 65.5 % | apgd-ce 20.0 %, apgd-t 10.0 % |"
    assert attacks(folders).splitlines()[2:] == [row]
    assert curves(folders).splitlines()[4:] == [
        f"| dra | {name} | 10,000 | 2/255 | 39.0 % (38.0 % to 40.0 %) |",
        f"| dra | {name} | 10,000 | 8/255 | 10.0 % (9.4 % to 10.6 %) |",
    ]
    assert f"| dra | {name} 8/255 | {' | '.join(['10.0 %'] * 10)} |" in classes(folders).splitlines()
    assert "| 0 | 1 | 2 |" in classes(folders)


def test_what_is_not_measured_has_no_table(tmp_path: Path) -> None:
    folders = {"dra": write_model(tmp_path / "dra", receipt(4126) | {"by_class": None})}
    assert [table(folders)[:10] for table in (attacks, curves, classes)] == ["No receipt"] * 3
    assert plot(folders) == ""


def test_the_plot_goes_through_the_curves_points(tmp_path: Path) -> None:
    text = plot({"dra": write_model(tmp_path / "dra", suite_receipt())})
    drawing = ElementTree.fromstring(text)  # noqa: S314 - our own text, not a stranger's
    lines = [path for path in drawing.findall(".//{*}path") if path.get("stroke-width") == "2"]
    assert len(lines) == 1
    points = [tuple(map(float, point.split())) for point in lines[0].attrib["d"][1:].split("L")]
    left, right, bottom = points[0][0], points[-1][0], HEIGHT - 44
    assert [(x - left) / (right - left) for x, _ in points] == pytest.approx([0, 0.25, 1], abs=1e-3)
    height = (bottom - points[0][1]) / 0.6554
    assert [(bottom - y) / height for _, y in points] == pytest.approx([0.6554, 0.39, 0.1], abs=1e-3)
    words = [text.text for text in drawing.findall(".//{*}text")]
    assert {"dra, fast", "2/255", "8/255", "0", "accuracy"} <= set(words)


@pytest.mark.parametrize("name", [*PAGES, SCHEMA])
def test_page_is_up_to_date(name: str) -> None:
    assert (ROOT / name).read_text(encoding="utf-8") == generated()[name], f"{name} is stale: make docs"
