"""Sampling an image at places."""

import numpy as np
import pytest
import torch.nn.functional as F  # noqa: N812 (the name torch itself gives it)

from tests.dra_serve.gradient_graph.rules.case import Case

GRID = np.random.default_rng(5).uniform(-1.3, 1.3, (3, 4, 2)).astype(np.float32)


def grid_sample(attributes: str, **options) -> Case:
    """One grid for all, some of it outside the image. options: as for torch's grid_sample."""
    return Case(f"GridSample {attributes}",
                f"s = Shape<start=0, end=1>(x) t = Concat<axis=0>(s, r) m = Expand(q, t) "
                f"y = GridSample<{attributes}>(x, m)", (2, 5, 6),
                lambda x, r, q: F.grid_sample(x, q.expand(len(x), -1, -1, -1), **options),
                {"r": [3, 4, 2], "q": GRID[None]})  # fmt: skip


def grid_from_x(x, corners, padding):
    grid = (x[:, :, :3, :4].permute(0, 2, 3, 1) * 0.7).sin() * 1.1
    return F.grid_sample(x, grid, align_corners=corners, padding_mode=padding)


def moving_grid(attributes: str, corners: bool, padding: str = "zeros") -> Case:
    return Case(f"GridSample at places that depend on x, {attributes}",
                "c = Slice(x, b, e, a) p = Transpose<perm=[0,2,3,1]>(c) q = Mul(p, w) s = Sin(q) "
                f"g = Mul(s, v) y = GridSample<{attributes}>(x, g)", (2, 5, 6),
                lambda x, **_: grid_from_x(x, corners, padding),
                {"b": [0, 0], "e": [3, 4], "a": [2, 3], "w": np.float32(0.7),
                 "v": np.float32(1.1)})  # fmt: skip


CASES = [
    grid_sample("align_corners=0", align_corners=False),
    grid_sample("align_corners=1", align_corners=True),
    grid_sample('padding_mode="border"', align_corners=False, padding_mode="border"),
    grid_sample('mode="nearest"', align_corners=False, mode="nearest"),
    moving_grid("align_corners=0", False),
    moving_grid("align_corners=1", True),
    moving_grid('padding_mode="border"', False, "border"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rule_agrees_with_autograd_and_with_central_differences(case, assert_exact):
    assert_exact(case)
