"""The coverage table: what its verdicts say, what is left out, and that an interruption costs nothing."""

import math

import pytest
from torch import nn

from benchmarks.coverage import left_out, table, totals
from benchmarks.peers.gradients import IMAGES, verdict
from benchmarks.peers.zoo import CLASSES, Entry

NEAR, FAR = 1e-7, 1e-2


@pytest.mark.parametrize(
    ("errors", "torch_errors", "logits", "said"),
    [
        ([NEAR] * 4, [FAR] * 4, (0, 0), "exact"),
        ([NEAR, FAR, FAR, NEAR], [NEAR] * 4, (0, 0), "kinks"),
        ([NEAR, NEAR, FAR, FAR], [NEAR] * 4, (0, 0), "differs"),  # margin is wrong everywhere
        ([FAR] * 4, [FAR] * 4, (0, 0), "as torch"),
        ([FAR] * 4, [NEAR] * 4, (0, 0), "differs"),
        ([FAR] * 4, [math.inf] * 4, (0, 0), "differs"),  # torch has no number to be near to
        ([math.inf] * 4, [math.inf] * 4, (0, 0), "differs"),
        ([NEAR] * 4, [NEAR] * 4, (FAR, NEAR), "differs"),
        ([NEAR] * 4, [NEAR] * 4, (2 * FAR, FAR), "exact"),
        ([NEAR] * 4, [NEAR] * 4, (math.inf, math.inf), "differs"),
        ([FAR, FAR, FAR, FAR, NEAR, FAR, FAR, NEAR], [NEAR] * 8, (0, 0), "kinks"),  # of a second draw
    ],
)
def test_verdict(errors, torch_errors, logits, said):
    assert len(errors) % IMAGES == 0
    assert verdict(errors, torch_errors, logits) == said


def test_what_does_not_fit_is_left_out_and_says_why():
    assert left_out(100_000_000, 536, 30e9) == ""
    assert "more than --max-weights 50" in left_out(100_000_000, 50, 30e9)
    assert "2 GiB" in left_out(640_000_000, 536, 100e9)
    assert left_out(300_000_000, 536, 10e9) == "300 million weights need 11.6 GB free, there are 10.0"


class Tiny(nn.Module):
    def __init__(self, wrong=False):
        super().__init__()
        self.conv, self.end, self.wrong = nn.Conv2d(3, 4, 3), nn.Linear(4, CLASSES), wrong

    def forward(self, x):
        h = self.conv(x).tanh().mean((2, 3))
        if self.wrong:
            h = h * 0
        return self.end(h)


WANTED = [("legacy", 17), ("legacy", 18)]


def test_an_interrupted_table_goes_on_and_is_printed_whole(tmp_path):
    built = []

    def network(size):
        built.append(size)
        return Tiny()

    file, entry = tmp_path / "rows.jsonl", Entry("ours/tiny", network, (16,))
    first = next(table([entry], WANTED, 100, file, "these versions"))
    with file.open("a") as half:
        half.write('{"name": "ours/tiny", "expor')
    assert [row.asked for row in table([entry], WANTED, 100, file, "those versions")] == [17, 18]
    rows = list(table([entry], WANTED, 100, file, "unused"))
    assert len(built) == 2  # the third table made nothing
    assert rows[0] == first
    assert [row.verdict for row in rows] == ["exact", "exact"]
    assert totals(rows)[:2] == [
        "1 networks, 1 of them in 2 files: 2 exact",
        "images within 1e-05: ours 8, torch in float32 8, of 8",
    ]
    assert totals(rows)[-3].endswith("GB, ours/tiny, 0 million weights")
    assert totals(rows)[-2:] == ["1 rows with these versions", "1 rows with those versions"]


def test_a_network_left_out_or_without_a_gradient_is_said_and_tried_again(tmp_path):
    file = tmp_path / "rows.jsonl"
    entries = [
        Entry("ours/tiny", lambda size: Tiny(), (16,)),
        Entry("ours/flat", lambda _: Tiny(True), (16,)),
    ]
    rows = list(table(entries, WANTED[:1], 0, file, ""))
    assert [row.verdict for row in rows] == ["left out", "left out"]
    rows = list(table(entries, WANTED[:1], 100, file, ""))
    assert [row.verdict for row in rows] == ["exact", "not built"]
    assert "gradient in float64 is zero" in rows[1].reason
    assert totals(rows)[0] == "2 networks, 1 of them in 1 files: 1 exact"
