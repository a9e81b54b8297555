"""Pooling over windows and over everything."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (the name torch itself gives it)

from tests.dra_serve.gradient_graph.rules.case import IMAGE, Case


def max_pool(attributes: str, function: Callable[..., torch.Tensor], shape=(3, 7, 8)) -> Case:
    return Case(f"MaxPool {attributes}", f"y = MaxPool<{attributes}>(x)", shape, function)


def average_pool(attributes: str, function: Callable[..., torch.Tensor], shape=(3, 7, 8)) -> Case:
    return Case(f"AveragePool {attributes}", f"y = AveragePool<{attributes}>(x)", shape, function)


POOLS = [
    max_pool("kernel_shape=[2,2], strides=[2,2]", lambda x: F.max_pool2d(x, 2)),
    max_pool("kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]", lambda x: F.max_pool2d(x, 3, 2, 1)),
    max_pool("kernel_shape=[3,3]", lambda x: F.max_pool2d(x, 3, 1)),
    max_pool("kernel_shape=[2,2], dilations=[2,3]", lambda x: F.max_pool2d(x, 2, 1, dilation=(2, 3))),
    max_pool("kernel_shape=[3,3], strides=[2,2], ceil_mode=1",
             lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True)),
    max_pool('kernel_shape=[2,2], strides=[2,2], auto_pad="SAME_UPPER"',
             lambda x: F.max_pool2d(F.pad(x, (0, 0, 0, 1), value=-9), 2)),
    max_pool("kernel_shape=[3], strides=[2]", lambda x: F.max_pool1d(x, 3, 2), (3, 9)),
    average_pool("kernel_shape=[2,2], strides=[2,2]", lambda x: F.avg_pool2d(x, 2)),
    average_pool("kernel_shape=[3,2], strides=[2,1]", lambda x: F.avg_pool2d(x, (3, 2), (2, 1))),
    average_pool("kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1], count_include_pad=1",
                 lambda x: F.avg_pool2d(x, 3, 2, 1)),
    average_pool("kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]",
                 lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)),
    average_pool("kernel_shape=[3,3], strides=[2,2], ceil_mode=1",
                 lambda x: F.avg_pool2d(x, 3, 2, ceil_mode=True)),
    average_pool("kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1], ceil_mode=1",
                 lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False)),
    average_pool('kernel_shape=[2,2], strides=[2,2], auto_pad="SAME_UPPER"',
                 lambda x: F.avg_pool2d(x, 2, ceil_mode=True)),
    Case("GlobalAveragePool 1d", "y = GlobalAveragePool(x)", (3, 5), lambda x: x.mean(2, keepdim=True)),
    Case("GlobalMaxPool", "y = GlobalMaxPool(x)", (3, 4, 5), lambda x: x.amax((2, 3), keepdim=True)),
    Case("GlobalMaxPool shares between equals", "r = Neg(x) c = Relu(r) m = GlobalMaxPool(c) y = Add(m, x)",
         (2, 3),
         lambda x: torch.relu(-x).amax(2, keepdim=True) + x, low=0.1),
    Case("GlobalAveragePool", "y = GlobalAveragePool(x)", (3, 4, 5), lambda x: x.mean((2, 3), keepdim=True)),
]  # fmt: skip


LP = [
    Case("LpPool", "y = LpPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(x)", IMAGE,
         lambda x: F.lp_pool2d(F.pad(x, (1, 1, 1, 1)), 2, 3, 2)),
    Case("LpPool of order 3", "y = LpPool<kernel_shape=[2,3], p=3>(x)", IMAGE,
         lambda x: F.avg_pool2d(x.abs() ** 3, (2, 3), 1, divisor_override=1) ** (1 / 3)),
    Case("GlobalLpPool", "y = GlobalLpPool<p=3>(x)", IMAGE,
         lambda x: (x.abs() ** 3).sum((2, 3), keepdim=True) ** (1 / 3)),
]  # fmt: skip

CASES = [*POOLS, *LP]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rule_agrees_with_autograd_and_with_central_differences(case, assert_exact):
    assert_exact(case)
