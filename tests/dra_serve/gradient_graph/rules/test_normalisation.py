"""Normalisations in evaluation mode."""

from functools import partial

import numpy as np
import pytest
import torch.nn.functional as F  # noqa: N812 (the name torch itself gives it)

from tests.dra_serve.gradient_graph.rules.case import Case

CASES = [
    Case("LayerNormalization", "y = LayerNormalization(x, w, b)", (3, 6),
         lambda x, w, b: F.layer_norm(x, (6,), w, b), {"w": (6,), "b": (6,)}),
    Case("LayerNormalization over two axes", "y = LayerNormalization<axis=2, epsilon=0.01>(x, w)", (3, 4, 2),
         lambda x, w: F.layer_norm(x, (4, 2), w, eps=0.01), {"w": (4, 2)}),
    Case("BatchNormalization", "y = BatchNormalization<epsilon=0.01>(x, w, b, m, v)", (3, 4, 2),
         lambda x, w, b, m, v: F.batch_norm(x, m, v, w, b, eps=0.01),
         {"w": (3,), "b": (3,), "m": (3,), "v": np.float32([0.5, 1, 2])}),
    Case("BatchNormalization of (N, C)", "y = BatchNormalization(x, w, b, m, v)", (3,),
         lambda x, w, b, m, v: F.batch_norm(x, m, v, w, b),
         {"w": (3,), "b": (3,), "m": (3,), "v": np.float32([0.5, 1, 2])}),
    *(Case(f"LRN over {size}", f"y = LRN<size={size}, alpha=0.5, beta=0.6, bias=1.5>(x)", (5, 2, 3),
           partial(lambda x, size: F.local_response_norm(x, size, alpha=0.5, beta=0.6, k=1.5), size=size))
      for size in (3, 5)),
    Case("LpNormalization", "y = LpNormalization<axis=1>(x)", (3, 4), lambda x: F.normalize(x, dim=1)),
    Case("LpNormalization of order 1", "y = LpNormalization<p=1>(x)", (3, 4),
         lambda x: F.normalize(x, p=1, dim=-1)),
    Case("L2 norm of zeros", "m = Min(x, z) n = Neg(m) r = Relu(m) l = ReduceL2<keepdims=1>(r, a) "
         "y = Add(l, x)", (3, 4), lambda x, z, a: x, {"z": np.float32(0), "a": [1]}),
    Case("InstanceNormalization", "y = InstanceNormalization(x, w, b)", (3, 4, 2),
         lambda x, w, b: F.instance_norm(x, weight=w, bias=b), {"w": (3,), "b": (3,)}),
    Case("GroupNormalization", "y = GroupNormalization<num_groups=2>(x, w, b)", (4, 3, 2),
         lambda x, w, b: F.group_norm(x, 2, w, b), {"w": (4,), "b": (4,)}, opset=21),
    Case("GroupNormalization, a scale a group", "y = GroupNormalization<num_groups=2>(x, w, b)", (4, 3, 2),
         lambda x, w, b: F.group_norm(x, 2, w.repeat_interleave(2), b.repeat_interleave(2)), {"w": (2,),
         "b": (2,)}),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rule_agrees_with_autograd_and_with_central_differences(case, assert_exact):
    assert_exact(case)
