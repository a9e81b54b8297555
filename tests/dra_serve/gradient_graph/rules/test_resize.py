"""Resizing, as torch interpolates."""

import numpy as np
import pytest
import torch.nn.functional as F  # noqa: N812 (the name torch itself gives it)

from tests.dra_serve.gradient_graph.rules.case import Case


def resize(name: str, attributes: str, sizes: list[int] | None, scales: list | None, **options) -> Case:
    """options: as for torch's interpolate."""
    inputs, constants = ("x, , , s", {"s": sizes}) if sizes else ("x, , s", {"s": np.float32(scales)})
    return Case(f"Resize {name}", f"y = Resize<{attributes}>({inputs})", (2, 4, 6),
                lambda x, s: F.interpolate(x, **options), constants)  # fmt: skip


ASYMMETRIC = 'mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"'
HALF = 'axes=[2,3], coordinate_transformation_mode="half_pixel", mode='
CORNERS = 'axes=[2,3], mode="linear", coordinate_transformation_mode="align_corners"'
CASES = [
    resize("nearest", ASYMMETRIC, None, [1, 1, 2, 2], scale_factor=2),
    resize("nearest to sizes", "axes=[2,3], " + ASYMMETRIC, [7, 3], None, size=(7, 3)),
    resize("linear", HALF + '"linear"', [9, 4], None, size=(9, 4), mode="bilinear"),
    resize("linear by scale", HALF + '"linear"', None, [2.5, 1], mode="bilinear", scale_factor=(2.5, 1)),
    resize("linear, corners aligned", CORNERS, [7, 6], None, size=(7, 6), mode="bilinear",
           align_corners=True),
    resize("cubic", HALF + '"cubic", cubic_coeff_a=-0.75', [7, 9], None, size=(7, 9), mode="bicubic"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rule_agrees_with_autograd_and_with_central_differences(case, assert_exact):
    assert_exact(case)
